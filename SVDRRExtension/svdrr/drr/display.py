"""The one mapping between line integrals and displayed radiographs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from svdrr.errors import SVDRRError

GAMMA = 1.0 / 5.0

WINDOWS = {
    "full": (0.0, float("inf")),
    "chest": (0.5, 7.0),
    "soft-tissue": (2.0, 6.0),
    "bone": (3.0, 10.0),
}
"""Presets: the line integrals of μ (dimensionless) that are shown black and white.

For the default beam, in which 1 is 53 mm of water: chest from lung to mediastinum and spine, soft tissue from 10 to
30 cm of water, bone behind at least 15 cm. "full" is `to_display` alone, the scale that models were trained with.
"""

# The last gray value below 1 that float32 has: no finite line integral maps to 1 itself.
_BRIGHTEST = np.float32(1.0 - 2.0**-24)


def to_display(line_integrals: NDArray[np.floating]) -> NDArray[np.float32]:
    """Radiograph in [0, 1), bright bone, from line integrals A ≥ 0 of μ (dimensionless), any shape.

    1 − T^γ, where T = exp(−A) is the transmission (Beer-Lambert) and γ = 1/5 spreads a chest, A from about 1
    in the lungs to 8 in a lateral view through the shoulders, over the gray scale. Air is exactly 0.
    """
    return -np.expm1(np.float32(-GAMMA) * line_integrals.astype(np.float32, copy=False))


def from_display(radiograph: NDArray[np.floating]) -> NDArray[np.float32]:
    """Line integrals of μ from a radiograph in [0, 1]: the inverse of `to_display`.

    1, which only rounding makes, comes back as the last value before it, 83.2, instead of infinity.
    """
    gray = np.minimum(radiograph.astype(np.float32, copy=False), _BRIGHTEST)
    return np.log1p(-gray) / np.float32(-GAMMA)


def check_window(window: str) -> None:
    """SVDRRError unless `window` is one of `WINDOWS`."""
    if window not in WINDOWS:
        raise SVDRRError(f"Unknown display window '{window}'; choose one of: {', '.join(WINDOWS)}.")


def _gray_limits(window: str) -> tuple[np.float32, np.float32]:
    check_window(window)
    lower, upper = to_display(np.array(WINDOWS[window]))
    return lower, upper


def apply_window(radiograph: NDArray[np.floating], window: str) -> NDArray[np.float32]:
    """Gray values of `to_display` stretched linearly, so that the window fills [0, 1]; clipped outside it."""
    lower, upper = _gray_limits(window)
    gray = radiograph.astype(np.float32, copy=False)
    return np.clip((gray - lower) / (upper - lower), np.float32(0.0), np.float32(1.0))


def remove_window(windowed: NDArray[np.floating], window: str) -> NDArray[np.float32]:
    """Gray values of `to_display` from windowed ones: the inverse of `apply_window` inside the window.

    What the window has clipped comes back as the window's limits.
    """
    lower, upper = _gray_limits(window)
    return lower + windowed.astype(np.float32, copy=False) * (upper - lower)
