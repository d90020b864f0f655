"""The one mapping between line integrals and displayed radiographs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

GAMMA = 1.0 / 5.0


def to_display(line_integrals: NDArray[np.floating]) -> NDArray[np.float32]:
    """Radiograph in [0, 1), bright bone, from line integrals A ≥ 0 of μ (dimensionless), any shape.

    1 − T^γ, where T = exp(−A) is the transmission (Beer-Lambert) and γ = 1/5 spreads a chest, A from about 1
    in the lungs to 8 in a lateral view through the shoulders, over the gray scale. Air is exactly 0.
    """
    return -np.expm1(np.float32(-GAMMA) * line_integrals.astype(np.float32, copy=False))


def from_display(radiograph: NDArray[np.floating]) -> NDArray[np.float32]:
    """Line integrals of μ from a radiograph in [0, 1): the inverse of `to_display`."""
    return np.log1p(-radiograph.astype(np.float32, copy=False)) / np.float32(-GAMMA)
