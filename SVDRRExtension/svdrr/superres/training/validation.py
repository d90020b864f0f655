"""What settings are chosen by: images of phantoms that neither training nor the benchmark has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from svdrr.evaluation.feature_distance import feature_distance
from svdrr.evaluation.metrics import psnr_db
from svdrr.superres.degradation import Degradation
from svdrr.superres.fidelity import data_fidelity
from svdrr.superres.interpolation import interpolate
from svdrr.superres.training.images import VALIDATION_SEEDS, build_images, load_images

_PART = slice(256, 768)


@dataclass(frozen=True, eq=False)
class Case:
    """truth: (512, 512) in [0, 1]. reduced: by the detector of `Degradation(scale)`."""

    truth: NDArray[np.float32]
    reduced: NDArray[np.float32]


@dataclass(frozen=True)
class Scores:
    """Means over the cases; residual_percent of `data_fidelity`."""

    psnr_db: float
    feature_distance: float
    residual_percent: float

    def row(self, name: str) -> str:
        """A row of a Markdown table."""
        return f"| {name} | {self.psnr_db:.2f} | {self.feature_distance:.4f} | {self.residual_percent:.3f} |"


TABLE_HEAD = "| | PSNR (dB) | feature distance | residual (%) |\n|---|---|---|---|"


def validation_cases(directory: Path, scale: int) -> list[Case]:
    """The middles of the images of `VALIDATION_SEEDS`, which are rendered into `directory` if they are not there."""
    seeds = list(VALIDATION_SEEDS)
    build_images(directory, seeds)
    truths = load_images(directory, seeds)[:, _PART, _PART] / np.float32(65535.0)
    degradation = Degradation(scale)
    return [Case(truth, degradation.expose(truth, np.random.default_rng(i))) for i, truth in enumerate(truths)]


def score(cases: Sequence[Case], enlarge: Callable[[Case], NDArray[np.float32]]) -> Scores:
    """Of what `enlarge` makes of each case, (512, 512) in [0, 1]."""
    results = [enlarge(case) for case in cases]
    enlarged, truth = np.stack(results), np.stack([case.truth for case in cases])
    residuals = [data_fidelity(one, case.reduced, "drr").mean_percent for one, case in zip(results, cases, strict=True)]
    distance = feature_distance(enlarged, truth).mean()
    return Scores(float(psnr_db(enlarged, truth).mean()), float(distance), float(np.mean(residuals)))


def bicubic(case: Case) -> NDArray[np.float32]:
    """What all are compared with."""
    return interpolate(case.reduced, len(case.truth) // len(case.reduced), "bicubic")
