"""Data fidelity: whether an enlarged image still says what its source says, and making it do so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from svdrr.errors import SVDRRError
from svdrr.superres.degradation import Degradation
from svdrr.superres.interpolation import interpolate

_ROUNDS = 30
_NEARER = 0.95
_WORTH_A_ROUND = 1e-3
"""Where a round leaves more than `_NEARER` of the difference, the two cannot be made to agree; it is the last one where
less than this part of the pixels came nearer."""
_CONSISTENT = 1.0 / 8192.0
"""Half a gray level of 4,096: a result that is nearer to its source is left as it is."""


@dataclass(frozen=True, eq=False)
class Fidelity:
    """How far an enlarged image, reduced again, is from its source: the data-consistency residual.

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

    @property
    def is_consistent(self) -> bool:
        """Whether nothing differs by a gray level of 4,096."""
        return self.max_percent < 200.0 * _CONSISTENT

    @property
    def verdict(self) -> str:
        """A sentence with both."""
        return (
            f"Reduced again, the result differs from the input by {self.mean_percent:.3f} % of the gray range "
            f"on average, by {self.max_percent:.2f} % at most."
        )


def data_fidelity(
    enlarged: NDArray[np.float32], source: NDArray[np.float32], gray_scale: str = "logarithmic"
) -> Fidelity:
    """Compares the source with what a detector with its larger pixels would have measured of the enlarged image.

    source: (rows, columns) in [0, 1], whose range is the gray range. enlarged: (rows·scale, columns·scale), any whole
    scale; it is reduced by the detector of `Degradation(scale)`, without noise: blur and area, of intensities. What
    gray_scale says of these: `svdrr.superres.degradation.gray_scale_of`. SVDRRError for other shapes.
    """
    return Fidelity((100.0 * np.abs(_missing(enlarged, source, gray_scale))).astype(np.float32))


def consistent_with(
    enlarged: NDArray[np.float32],
    source: NDArray[np.float32],
    gray_scale: str = "logarithmic",
    on_round: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """The enlarged image with what it lacks of the source, and without what it contradicts, at the source's resolution.

    Iterative back-projection (Irani and Peleg, 1991): what the source has more than the image, reduced again, is
    interpolated and added, until they agree to half a gray level of 4,096, or come no nearer anywhere, as where an edge
    of the source is sharper than such a detector's. No round makes the mean difference larger. Detail that is finer
    than the source's pixels stays. Arguments as in `data_fidelity`; the result is in [0, 1]. on_round: called before
    each round with its number and the most that there are; an exception from it ends the work.
    """
    missing = _missing(enlarged, source, gray_scale)
    for number in range(_ROUNDS):
        distance = np.abs(missing)
        if distance.max() < _CONSISTENT:
            break
        if on_round is not None:
            on_round(number, _ROUNDS)
        correction = interpolate(missing, len(enlarged) // len(source), "bicubic", signed=True)
        corrected = np.clip(enlarged + correction, np.float32(0.0), np.float32(1.0))
        missing = _missing(corrected, source, gray_scale)
        left = np.abs(missing)
        if left.mean() >= distance.mean():
            break
        enlarged = corrected
        if np.mean((distance > _CONSISTENT) & (left < _NEARER * distance)) < _WORTH_A_ROUND:
            break
    return enlarged


def _missing(enlarged: NDArray[np.float32], source: NDArray[np.float32], gray_scale: str) -> NDArray[np.float32]:
    rows, columns = source.shape
    scale = max(1, enlarged.shape[0] // rows)
    if enlarged.shape != (rows * scale, columns * scale):
        raise SVDRRError(
            f"An image of {enlarged.shape[0]} x {enlarged.shape[1]} pixels is no enlargement of one of "
            f"{rows} x {columns} by a whole number."
        )
    return source - Degradation(scale, gray_scale=gray_scale).mean(enlarged)
