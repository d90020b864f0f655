"""Classical interpolation, the baseline of every learned method."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}
METHODS = tuple(_FILTERS)


def interpolate(pixels: NDArray[np.float32], scale: int, method: str) -> NDArray[np.float32]:
    """Pixels (rows·scale, columns·scale) in [0, 1]; pixel centers map by (x + ½)/scale − ½, the extent is kept."""
    rows, columns = pixels.shape
    enlarged = Image.fromarray(pixels).resize((columns * scale, rows * scale), _FILTERS[method])
    return np.clip(np.asarray(enlarged), 0.0, 1.0)
