"""A CT volume in Hounsfield units, placed in RAS."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

AIR_HU = -1000.0


@dataclass(frozen=True, eq=False)
class CTVolume:
    """A CT scan in Slicer's world frame.

    hu: float32 (slices, rows, columns), Hounsfield units, in the axis order of SimpleITK and
        ``slicer.util.arrayFromVolume`` (k, j, i).
    ijk_to_ras: float64 (4, 4), takes homogeneous voxel indices (i, j, k, 1) of voxel *centers* to RAS mm.
    """

    hu: NDArray[np.float32]
    ijk_to_ras: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.hu.ndim != 3 or self.hu.dtype != np.float32:
            raise ValueError(f"hu must be a float32 array (slices, rows, columns), not {self.hu.dtype} {self.hu.shape}")
        if self.ijk_to_ras.shape != (4, 4) or abs(np.linalg.det(self.ijk_to_ras[:3, :3])) < 1e-12:
            raise ValueError("ijk_to_ras must be an invertible 4x4 matrix")

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

    def with_hu(self, hu: NDArray[np.float32]) -> CTVolume:
        """The same grid with other values."""
        return CTVolume(hu, self.ijk_to_ras)
