"""Two figures of a data set: what is in it, and from where it was seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from svdrr.dataset.read import read_chosen, read_views_of
from svdrr.dataset.settings import read_manifest
from svdrr.errors import counted
from svdrr.files import whole_file

LABEL = "SYNTHETIC: DRRs, not for diagnosis"

_MOST_CTS = 6
_MOST_VIEWS = 8


def contact_sheet(out: Path, path: Path) -> None:
    """PNG of up to 8 views, evenly through the view set, of up to 6 CTs, in the smallest size."""
    manifest = read_manifest(out)
    size, count = min(manifest["settings"]["sizes"]), manifest["settings"]["views_per_ct"]
    cts = [manifest["cts"][index] for index in _evenly(len(manifest["cts"]), _MOST_CTS)]
    views = _evenly(count, _MOST_VIEWS)
    figure = _figure(1.6 * len(views), 1.75 * len(cts) + 0.6)
    for row, axes_of_ct in zip(cts, figure.subplots(len(cts), len(views), squeeze=False), strict=True):
        for sample, axes in zip(read_chosen(out, row, size, views), axes_of_ct, strict=True):
            axes.imshow(sample.pixels, cmap="gray", vmin=0.0, vmax=1.0)
            axes.set_title(sample.view.pose.label, fontsize=7)
            axes.set(xticks=[], yticks=[])
        axes_of_ct[0].set_ylabel(f"{row['ct'][:8]}… {row['split']}", fontsize=7)
    _save(figure, path)


def hemisphere_plot(out: Path, path: Path) -> None:
    """PNG of the detector's positions about the first CT: seen from the front of the patient, and by their angles."""
    manifest = read_manifest(out)
    size = min(manifest["settings"]["sizes"])
    views = read_views_of(out, manifest["cts"][0], size)
    directions = np.array([view.pose.detector_direction for view in views])
    angles = np.array([(view.pose.primary_deg, view.pose.secondary_deg) for view in views])
    figure = _figure(11.0, 5.4)
    from_front, by_angle = figure.subplots(1, 2)
    marks: dict[str, Any] = {"s": 9, "c": directions[:, 1], "cmap": "viridis", "vmin": -1.0, "vmax": 1.0}
    dots = from_front.scatter(-directions[:, 0], directions[:, 2], **marks)
    turn = np.linspace(0.0, 2.0 * np.pi, 200)
    from_front.plot(np.cos(turn), np.sin(turn), color="gray", linewidth=0.8)
    for x, y, letter in ((-1.12, 0, "R"), (1.12, 0, "L"), (0, 1.12, "S"), (0, -1.12, "I")):
        from_front.text(x, y, letter, ha="center", va="center", fontsize=12)
    from_front.set(aspect="equal", xlim=(-1.25, 1.25), ylim=(-1.25, 1.25), xticks=[], yticks=[])
    from_front.set_title("Detector positions seen from the front (PA in the middle)", fontsize=9)
    figure.colorbar(dots, ax=from_front, label="toward anterior", shrink=0.7)
    by_angle.scatter(angles[:, 0], angles[:, 1], **marks)
    by_angle.set(xlabel="Primary angle (°, LAO positive)", ylabel="Secondary angle (°, cranial positive)")
    by_angle.set_title(f"{counted(len(views), 'view')} per CT, {counted(len(manifest['cts']), 'CT')}", fontsize=9)
    by_angle.grid(alpha=0.3)
    _save(figure, path)


def _evenly(count: int, most: int) -> list[int]:
    return sorted({round(float(index)) for index in np.linspace(0, count - 1, min(count, most))})


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(LABEL, fontsize=10, color="firebrick")
    return figure


def _save(figure: Figure, path: Path) -> None:
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=120, metadata={"Comment": LABEL})
