"""Data fidelity: whether an enlarged image still says what its source says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from svdrr.errors import SVDRRError


@dataclass(frozen=True, eq=False)
class Fidelity:
    """How far an enlarged image, reduced again, is from its source.

    difference_percent: float32 (rows, columns) of the source, absolute, in percent of the gray range.
    """

    difference_percent: NDArray[np.float32]

    @property
    def mean_percent(self) -> float:
        """Mean absolute difference, percent of the gray range."""
        return float(self.difference_percent.mean(dtype=np.float64))

    @property
    def max_percent(self) -> float:
        """Largest absolute difference, percent of the gray range."""
        return float(self.difference_percent.max())


def data_fidelity(enlarged: NDArray[np.float32], source: NDArray[np.float32]) -> Fidelity:
    """Compares the source with what a detector with its larger pixels would have measured of the enlarged image.

    source: (rows, columns) in [0, 1], whose range is the gray range. enlarged: (rows·scale, columns·scale), any whole
    scale; it is reduced by area averaging, the mean of scale x scale pixels. SVDRRError for other shapes.
    """
    rows, columns = source.shape
    scale = max(1, enlarged.shape[0] // rows)
    if enlarged.shape != (rows * scale, columns * scale):
        raise SVDRRError(
            f"An image of {enlarged.shape[0]} x {enlarged.shape[1]} pixels is no enlargement of one of "
            f"{rows} x {columns} by a whole number."
        )
    reduced = enlarged.reshape(rows, scale, columns, scale).mean(axis=(1, 3), dtype=np.float64)
    return Fidelity((100.0 * np.abs(reduced - source)).astype(np.float32))
