"""A CT volume in Hounsfield units, placed in RAS."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from svdrr.errors import SVDRRError

AIR_HU = -1000.0


@dataclass(frozen=True, eq=False)
class CTVolume:
    """A CT scan in Slicer's world frame.

    hu: float32 (slices, rows, columns), Hounsfield units, finite, in the axis order of SimpleITK and
        ``slicer.util.arrayFromVolume`` (k, j, i).
    ijk_to_ras: float64 (4, 4), takes homogeneous voxel indices (i, j, k, 1) of voxel *centers* to RAS mm.
    Raises SVDRRError for anything else.
    """

    hu: NDArray[np.float32]
    ijk_to_ras: NDArray[np.float64]

    def __post_init__(self) -> None:
        hu, affine = self.hu, self.ijk_to_ras
        if not isinstance(hu, np.ndarray) or hu.ndim != 3 or hu.dtype != np.float32 or hu.size == 0:
            what = f"{hu.dtype} {hu.shape}" if isinstance(hu, np.ndarray) else type(hu).__name__
            raise SVDRRError(f"A CT's hu must be a float32 array (slices, rows, columns) with voxels, not {what}.")
        # NaN is its own minimum and maximum; unlike `np.isfinite` of all voxels this takes no memory.
        if not np.isfinite([hu.min(), hu.max()]).all():
            raise SVDRRError("A CT's hu must be finite; set voxels that are NaN or infinite to -1000 (air) first.")
        if (
            not isinstance(affine, np.ndarray)
            or affine.shape != (4, 4)
            or affine.dtype.kind not in "iuf"
            or not np.isfinite(affine).all()
            or (affine[3] != (0.0, 0.0, 0.0, 1.0)).any()
            or abs(np.linalg.det(affine[:3, :3])) < 1e-12
        ):
            raise SVDRRError(
                "A CT's ijk_to_ras must be an invertible 4 x 4 array of finite numbers with the last row 0, 0, 0, 1."
            )

    @property
    def spacing_mm(self) -> NDArray[np.float64]:
        """Voxel edge lengths (i, j, k) in mm, shape (3,)."""
        return np.asarray(np.linalg.norm(self.ijk_to_ras[:3, :3], axis=0))

    @property
    def isocenter_ras(self) -> tuple[float, float, float]:
        """Center of the volume's bounds, RAS mm: the default isocenter of a C-arm [sv-drr, 4.1]."""
        last = np.array(self.hu.shape[::-1]) - 1.0
        x, y, z = (self.ijk_to_ras[:3, :3] @ (last / 2.0) + self.ijk_to_ras[:3, 3]).tolist()
        return x, y, z

    @property
    def corners_ras(self) -> NDArray[np.float64]:
        """The eight corners (8, 3) of the volume's bounds, half a voxel outside of the outer centers, RAS mm."""
        outside = [(-0.5, count - 0.5) for count in self.hu.shape[::-1]]
        corners_ijk = np.array(list(product(*outside)))
        return np.asarray(corners_ijk @ self.ijk_to_ras[:3, :3].T + self.ijk_to_ras[:3, 3])

    def with_hu(self, hu: NDArray[np.float32]) -> CTVolume:
        """The same grid with other values."""
        return CTVolume(hu, self.ijk_to_ras)
