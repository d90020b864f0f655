"""The image that everything here takes or makes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from svdrr.errors import SVDRRError
from svdrr.geometry import CArmPose, View
from svdrr.provenance import Provenance


@dataclass(frozen=True, eq=False)
class Radiograph:
    """One projection image.

    pixels: float32 (rows, columns), row 0 at the top, in [0, 1], bright bone. pixel_spacing_mm: (row, column) at
    the detector, or None where it is unknown. view: pose and detector, where known. provenance: None for an image
    that was taken, not computed. view_position: what its DICOM file says, (0018,5101), such as LL, where that is
    neither PA nor AP.
    """

    pixels: NDArray[np.float32]
    pixel_spacing_mm: tuple[float, float] | None = None
    view: View | None = None
    provenance: Provenance | None = None
    view_position: str = ""

    @property
    def source_pose(self) -> CArmPose:
        """Where it was taken from: the pose of its view, or PA about the origin where nothing says otherwise.

        AP is taken like PA: people look at both with the patient's right on the left of the image, and only the
        magnification of what lies in front and behind differs. SVDRRError for another view position without a view.
        """
        if self.view is not None:
            return self.view.pose
        if self.view_position:
            raise SVDRRError(
                f"The radiograph says that its view position is {self.view_position}, and views can be made of PA "
                "and AP radiographs only; give one of those."
            )
        return CArmPose()

    def pixels_sha256(self) -> str:
        """Hash of the pixel values alone: names a source without naming a patient."""
        return hashlib.sha256(np.ascontiguousarray(self.pixels).tobytes()).hexdigest()

    @property
    def has_drr_gray_scale(self) -> bool:
        """Whether this software rendered it, and so with the gray scale of `svdrr.drr.to_display`."""
        return (
            self.provenance is not None
            and self.provenance.method.startswith("DRR")
            and self.provenance.settings.get("DisplayWindow", "full") == "full"
        )


def check_radiograph(radiograph: Radiograph) -> None:
    """Raises SVDRRError if the pixels are no image in [0, 1], or do not fit the view's detector."""
    shape = radiograph.pixels.shape
    if len(shape) != 2 or min(shape) < 1:
        raise SVDRRError(f"A radiograph needs rows and columns of pixels, not an array of shape {shape}.")
    if not np.isfinite(radiograph.pixels).all():
        raise SVDRRError("The radiograph holds NaN or infinite pixels; all must lie in 0 to 1, so replace these first.")
    low, high = float(radiograph.pixels.min()), float(radiograph.pixels.max())
    if low < 0.0 or high > 1.0:
        raise SVDRRError(f"A radiograph's pixels must lie in 0 to 1, not in {low:g} to {high:g}; scale or clip them.")
    if radiograph.view is not None:
        detector = radiograph.view.detector
        if shape != (detector.rows, detector.columns):
            raise SVDRRError(
                f"The radiograph has {shape[0]} x {shape[1]} pixels and its view's detector "
                f"{detector.rows} x {detector.columns}; they must be equal."
            )
