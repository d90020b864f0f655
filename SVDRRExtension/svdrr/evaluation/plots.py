"""Figures of a benchmark."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from svdrr.evaluation.benchmark import METHODS, BenchmarkResult
from svdrr.files import whole_file


def plot_over_angle(result: BenchmarkResult, title: str, path: Path) -> None:
    """PSNR and SSIM over the primary angle as PNG: mean over the volumes, with the range of their middle half."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, values, label in zip(
        figure.subplots(1, 2), (result.psnr, result.ssim), ("PSNR (dB)", "SSIM"), strict=True
    ):
        for method in METHODS:
            (line,) = axes.plot(result.primary_deg, values[method].mean(axis=0), marker=".", label=method)
            low, high = np.quantile(values[method], (0.25, 0.75), axis=0)
            axes.fill_between(result.primary_deg, low, high, color=line.get_color(), alpha=0.15)
        axes.set_xlabel("Positioner primary angle (°, LAO positive)")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    figure.axes[0].legend()
    figure.suptitle(title)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=110)
