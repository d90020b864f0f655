"""Classical interpolation, the baseline of every learned method."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}
METHODS = tuple(_FILTERS)


def interpolate(pixels: NDArray[np.float32], scale: int, method: str, signed: bool = False) -> NDArray[np.float32]:
    """Pixels (rows·scale, columns·scale); pixel centers map by (x + ½)/scale − ½, the extent is kept.

    Clipped to [0, 1], unless the pixels are `signed` differences.
    """
    rows, columns = pixels.shape
    enlarged = np.asarray(Image.fromarray(pixels).resize((columns * scale, rows * scale), _FILTERS[method]))
    return enlarged if signed else np.clip(enlarged, 0.0, 1.0)
