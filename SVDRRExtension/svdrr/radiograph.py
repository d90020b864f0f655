"""The image that everything here takes or makes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from svdrr.geometry import View
from svdrr.provenance import Provenance


@dataclass(frozen=True, eq=False)
class Radiograph:
    """One projection image.

    pixels: float32 (rows, columns), row 0 at the top, in [0, 1], bright bone. pixel_spacing_mm: (row, column) at
    the detector, or None where it is unknown. view: pose and detector, where known. provenance: None for an image
    that was taken, not computed.
    """

    pixels: NDArray[np.float32]
    pixel_spacing_mm: tuple[float, float] | None = None
    view: View | None = None
    provenance: Provenance | None = None

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
