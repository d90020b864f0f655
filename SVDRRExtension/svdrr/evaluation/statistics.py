"""Confidence intervals over volumes: views of one patient are not independent of each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
RESAMPLES = 10_000
FEWEST = 5
"""Of fewer volumes, draws would say little more than which is the lowest and which the highest."""


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % confidence interval, which fewer than `FEWEST` volumes do not have."""

    mean: float
    low: float | None
    high: float | None


def over_volumes(values: NDArray[np.float64]) -> Estimate:
    """Mean of `values` (volumes, views), and its bootstrap interval.

    The volumes, each with all its views, are drawn anew 10,000 times with replacement, from one seed, and the 2.5 and
    97.5 % quantiles of the means are taken (Efron and Tibshirani, 1993, chapter 13). With few volumes that is somewhat
    too narrow: with 16, about 93 % instead of 95 %.
    """
    if len(values) < FEWEST:
        return Estimate(float(values.mean()), None, None)
    low, high = intervals(values.mean(axis=1, keepdims=True))
    return Estimate(float(values.mean()), float(low[0]), float(high[0]))


def intervals(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper limits, each (columns,), of the mean over the volumes of every column of (volumes, columns)."""
    count = len(values)
    # How often each volume is drawn.
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1.0 / count), RESAMPLES)
    means = drawn @ values / count
    low, high = np.quantile(means, ((1.0 - CONFIDENCE) / 2.0, (1.0 + CONFIDENCE) / 2.0), axis=0)
    return low, high
