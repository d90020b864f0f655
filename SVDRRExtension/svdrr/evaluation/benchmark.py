"""View-set benchmark of a model against the trivial baselines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from svdrr.evaluation.metrics import psnr_db, ssim
from svdrr.geometry import CArmPose

METHODS = ("model", "copy source", "mean DRR")
OBLIQUE_DEG = 30.0

Synthesize = Callable[[NDArray[np.float32], Sequence[CArmPose]], NDArray[np.float32]]
"""Takes a source radiograph (rows, columns) and poses; returns views (poses, rows, columns)."""


@dataclass(frozen=True, eq=False)
class BenchmarkResult:
    """PSNR (dB) and SSIM of each method: arrays (volumes, views) by the names in `METHODS`."""

    primary_deg: NDArray[np.float64]
    psnr: dict[str, NDArray[np.float64]]
    ssim: dict[str, NDArray[np.float64]]

    def oblique_mean(self, values: dict[str, NDArray[np.float64]], method: str) -> float:
        """Mean over volumes and views with |primary| ≥ 30°, where copying the source is no longer good enough."""
        return float(values[method][:, np.abs(self.primary_deg) >= OBLIQUE_DEG].mean())

    def summary(self) -> dict[str, float]:
        """Means over |primary| ≥ 30° and the model's gains over the baselines in dB."""
        psnr = {method: self.oblique_mean(self.psnr, method) for method in METHODS}
        similarity = {method: self.oblique_mean(self.ssim, method) for method in METHODS}
        return {
            "psnr": psnr["model"],
            "psnr_copy": psnr["copy source"],
            "psnr_mean": psnr["mean DRR"],
            "psnr_gain_over_copy_db": psnr["model"] - psnr["copy source"],
            "psnr_gain_over_mean_db": psnr["model"] - psnr["mean DRR"],
            "ssim": similarity["model"],
            "ssim_copy": similarity["copy source"],
            "ssim_mean": similarity["mean DRR"],
        }


def benchmark(
    volumes: Iterable[tuple[NDArray[np.float32], NDArray[np.float32]]],
    poses: Sequence[CArmPose],
    mean_views: NDArray[np.float32],
    synthesize: Synthesize,
) -> BenchmarkResult:
    """Compares synthesized with true views.

    volumes: per volume its source radiograph (rows, columns) and its true views (poses, rows, columns).
    mean_views: the mean training DRR of each pose (poses, rows, columns).
    """
    psnr: dict[str, list[NDArray[np.float64]]] = {method: [] for method in METHODS}
    similarity: dict[str, list[NDArray[np.float64]]] = {method: [] for method in METHODS}
    for source, truth in volumes:
        candidates = (synthesize(source, poses), np.broadcast_to(source, truth.shape), mean_views)
        for method, images in zip(METHODS, candidates, strict=True):
            psnr[method].append(psnr_db(images, truth))
            similarity[method].append(ssim(images, truth))
    return BenchmarkResult(
        primary_deg=np.array([pose.primary_deg for pose in poses]),
        psnr={method: np.stack(values) for method, values in psnr.items()},
        ssim={method: np.stack(values) for method, values in similarity.items()},
    )
