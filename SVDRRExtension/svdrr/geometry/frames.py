"""The border between Slicer's world and ITK's: RAS inside, LPS (ITK, DICOM) outside."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

_FLIP_RIGHT_AND_ANTERIOR = np.diag([-1.0, -1.0, 1.0, 1.0])


def lps_to_ras(affine: ArrayLike) -> NDArray[np.float64]:
    """Turn a matrix (4, 4) that ends in LPS mm into one that ends in RAS mm, float64."""
    return _FLIP_RIGHT_AND_ANTERIOR @ _homogeneous(affine)


def ras_to_lps(affine: ArrayLike) -> NDArray[np.float64]:
    """Turn a matrix (4, 4) that ends in RAS mm into one that ends in LPS mm, float64."""
    return _FLIP_RIGHT_AND_ANTERIOR @ _homogeneous(affine)


def _homogeneous(affine: ArrayLike) -> NDArray[np.float64]:
    matrix = np.asarray(affine, dtype=np.float64)
    if matrix.shape != (4, 4):
        raise ValueError(f"expected a 4x4 matrix, not one of shape {matrix.shape}")
    return matrix
