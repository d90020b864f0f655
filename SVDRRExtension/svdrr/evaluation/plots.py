"""Figures of a benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from svdrr.evaluation.benchmark import Benchmark, Images
from svdrr.evaluation.statistics import FEWEST, intervals
from svdrr.provenance import PREFIX, SYNTHETIC_LABEL, Provenance

AXES = ("primary", "secondary")
_LABELS = (
    "Azimuth: positioner primary angle (°, LAO positive)",
    "Elevation: positioner secondary angle (°, cranial positive)",
)
_BIN_DEG = 15.0
_SAME_ANGLE_DEG = 1e-3
_WHITE = 0.85


def plot_over_angle(result: Benchmark, axis: str, title: str, path: Path) -> None:
    """Each metric over the primary or the secondary angle, as PNG.

    Lines are means over the volumes and over the views with that angle, or, where both angles vary, in bins of 15°,
    each at its mean angle; bands are 95 % confidence intervals over the volumes.
    """
    number = AXES.index(axis)
    angles, groups = _groups(result.angles_deg(), number)
    columns = min(len(result.metrics), 2)
    rows = -(-len(result.metrics) // columns)
    figure = Figure(figsize=(5.5 * columns, 3.6 * rows + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, metric in zip(panels, result.metrics, strict=False):
        for method in result.methods:
            values = result.values[metric][method]
            of_groups = np.stack([values[:, group].mean(axis=1) for group in groups], axis=1)
            (line,) = axes.plot(angles, of_groups.mean(axis=0), marker=".", label=method)
            if len(values) >= FEWEST:
                axes.fill_between(angles, *intervals(of_groups), color=line.get_color(), alpha=0.2, linewidth=0)
        axes.set_xlabel(_LABELS[number], fontsize=9)
        axes.set_ylabel(metric)
        axes.set_xticks(np.arange(-90, 91, 30))
        axes.grid(alpha=0.3)
    for axes in panels[len(result.metrics) :]:
        axes.set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    figure.suptitle(title, fontsize=11, wrap=True)
    figure.savefig(path, dpi=110, metadata={f"{PREFIX}Synthetic": SYNTHETIC_LABEL})


def _groups(angles_deg: NDArray[np.float64], number: int) -> tuple[NDArray[np.float64], list[NDArray[np.bool_]]]:
    """(mean angle of each group along one of the axes, which views belong to it)."""
    alone = np.ptp(angles_deg[:, 1 - number]) == 0.0
    width = _SAME_ANGLE_DEG if alone else _BIN_DEG
    steps = np.round(angles_deg[:, number] / width)
    groups = [steps == place for place in np.unique(steps)]
    return np.array([angles_deg[group, number].mean() for group in groups]), groups


def plot_examples(
    images: dict[str, Images], captions: Sequence[str], title: str, path: Path, provenance: Provenance
) -> None:
    """Rows of radiographs, the true DRRs first, as PNG; all others are labeled as synthetic in the picture.

    images: by row, (views, rows, columns) in [0, 1]. provenance: for the file's text.
    """
    figure = Figure(figsize=(1.9 * len(captions) + 0.4, 1.98 * len(images) + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(images), len(captions), squeeze=False)
    for number, (row, (name, views)) in enumerate(zip(grid, images.items(), strict=True)):
        for axes, view, caption in zip(row, views, captions, strict=True):
            axes.imshow(view, cmap="gray", vmin=0.0, vmax=_WHITE)
            axes.set_xticks([])
            axes.set_yticks([])
            if number == 0:
                axes.set_title(caption, fontsize=9)
            else:
                axes.text(0.02, 0.02, SYNTHETIC_LABEL, color="white", fontsize=5, transform=axes.transAxes)
        row[0].set_ylabel(name, fontsize=9)
    figure.suptitle(title, fontsize=10, wrap=True)
    figure.savefig(path, dpi=110, metadata=provenance.attributes())
