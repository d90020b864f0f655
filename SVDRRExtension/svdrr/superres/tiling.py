"""Images of any size by overlapping tiles, of whose results only the middle is used: there is nothing to blend.

Each pixel is computed from the same surroundings as in the whole image, so there are no seams, as long as the margin is
as wide as a network looks. (Blending, as monai's sliding windows do, would mix in what networks make of tiles' edges.)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 4
"""Tiles begin at multiples of this, since networks with a second, coarser resolution see even and odd pixels apart."""

Enlarge = Callable[[NDArray[np.float32], tuple[int, int]], NDArray[np.float32]]
"""Of a tile (h, w) and the row and column where it begins in the padded image, the enlarged tile (h·scale, w·scale)."""


def enlarge_in_tiles(
    enlarge: Enlarge,
    pixels: NDArray[np.float32],
    scale: int,
    core: int,
    margin: int,
    on_tile: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """The enlarged image, (rows·scale, columns·scale).

    core: side of what is used of a tile, and margin: what surrounds it, in pixels of the image, multiples of
    `ALIGNMENT`. Beyond the image's edges it is mirrored. on_tile: called with the finished and the total number of
    tiles, also before the first; an exception from it ends the work.
    """
    rows, columns = pixels.shape
    padded = np.pad(pixels, [(margin, margin + _to_multiple(length)) for length in (rows, columns)], mode="symmetric")
    enlarged = np.empty((rows * scale, columns * scale), np.float32)
    corners = [(row, column) for row in range(0, rows, core) for column in range(0, columns, core)]
    for number, (row, column) in enumerate(corners):
        if on_tile is not None:
            on_tile(number, len(corners))
        tile = padded[row : row + core + 2 * margin, column : column + core + 2 * margin]
        height, width = min(core, rows - row) * scale, min(core, columns - column) * scale
        middle = enlarge(tile, (row, column))[margin * scale :, margin * scale :][:height, :width]
        enlarged[row * scale : row * scale + height, column * scale : column * scale + width] = middle
    if on_tile is not None:
        on_tile(len(corners), len(corners))
    return enlarged


def padded_shape(rows: int, columns: int, margin: int) -> tuple[int, int]:
    """Rows and columns of the image that tiles are taken from."""
    return rows + 2 * margin + _to_multiple(rows), columns + 2 * margin + _to_multiple(columns)


def _to_multiple(length: int) -> int:
    return -length % ALIGNMENT
