"""Few-step sampling against the paper's 20 steps, in one run: image quality on held-out phantoms, and time per view.

Time is that of one view alone, as a slider asks for it: sampling and decoding, the source having been encoded before.
The two are measured in turns, so that another program that slows the computer down slows both.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from svdrr.evaluation.feature_distance import feature_distance
from svdrr.evaluation.metrics import psnr_db, ssim
from svdrr.files import whole_file
from svdrr.geometry import CArmPose, relative_view_encoding
from svdrr.geometry.viewsets import Isocenter
from svdrr.synthesis.sampling import Sampling
from svdrr.synthesis.synthesize import Synthesizer
from svdrr.synthesis.training.phantom_views import FIRST_HELD_OUT_SEED, render_phantom

ANGLES_DEG = (-90.0, -75.0, -60.0, -45.0, -30.0, 30.0, 45.0, 60.0, 75.0, 90.0)
PAPER_STEPS, GUIDANCE = 20, 1.5
"""The paper's number of steps, with guidance as the paper has it, but of the strength that suits the demo model."""
STEPS = (1, 2, 4)


@dataclass(frozen=True)
class Figures:
    """psnr_db, ssim, feature_distance: means over phantoms and views. seconds: median of one view."""

    model: str
    steps: int
    psnr_db: float
    ssim: float
    feature_distance: float
    seconds: float


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo-256", help="the model of many steps")
    parser.add_argument("--few", default="demo-256", help="the model of few steps, such as one distilled")
    parser.add_argument("--phantoms", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=15, help="views that are timed, of each kind of sampling")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    many, few = Synthesizer(arguments.model, "cpu"), Synthesizer(arguments.few, "cpu")
    runs = [
        (many, Sampling.of(many.model, PAPER_STEPS, GUIDANCE)),
        *((few, Sampling.of(few.model, steps)) for steps in STEPS),
    ]
    figures = measured(runs, arguments.phantoms, arguments.repeats)

    table = Table("model", "steps", "PSNR (dB)", "SSIM", "SVDRR feature distance", "s per view", "times as fast")
    for run in figures:
        quality = f"{run.psnr_db:.2f}", f"{run.ssim:.3f}", f"{run.feature_distance:.3f}"
        table.add_row(
            run.model, str(run.steps), *quality, f"{run.seconds:.3f}", f"{figures[0].seconds / run.seconds:.1f}"
        )
    console = Console()
    console.print(table)
    console.print(
        f"{arguments.phantoms} held-out phantoms, {len(ANGLES_DEG)} views, {torch.get_num_threads()} threads."
    )
    if arguments.json is not None:
        with whole_file(arguments.json) as file:
            file.write_text(json.dumps([asdict(run) for run in figures], indent=1), encoding="utf-8")


def measured(runs: Sequence[tuple[Synthesizer, Sampling]], phantoms: int, repeats: int) -> list[Figures]:
    """In the order of the runs."""
    encodings = [relative_view_encoding(CArmPose(), CArmPose(angle)) for angle in ANGLES_DEG]
    scores: list[list[tuple[float, float, float]]] = [[] for _ in runs]
    for number in track(range(phantoms), "Phantoms"):
        source, *truth = render_phantom(FIRST_HELD_OUT_SEED + number, _poses, runs[0][0].model.resolution)
        for of_run, (synthesizer, sampling) in zip(scores, runs, strict=True):
            views = synthesizer.pipeline(source, encodings, *_arguments(sampling), batch_size=4)
            metrics = (psnr_db, ssim, feature_distance)
            of_run.append(tuple(float(metric(views, np.stack(truth)).mean()) for metric in metrics))

    seconds: list[list[float]] = [[] for _ in runs]
    sources = [synthesizer.pipeline.encode_source(source) for synthesizer, _ in runs]
    for index in track(range(repeats), "Time"):
        view = np.stack([encodings[index % len(encodings)]])
        for of_run, encoded, (synthesizer, sampling) in zip(seconds, sources, runs, strict=True):
            began = time.perf_counter()
            list(synthesizer.pipeline.views(encoded, view, *_arguments(sampling)))
            of_run.append(time.perf_counter() - began)
    return [
        Figures(synthesizer.model.name, sampling.num_inference_steps, *np.mean(of_run, axis=0), float(np.median(times)))
        for (synthesizer, sampling), of_run, times in zip(runs, scores, seconds, strict=True)
    ]


def _poses(isocenter_ras: Isocenter) -> list[CArmPose]:
    return [CArmPose(angle, 0.0, isocenter_ras) for angle in (0.0, *ANGLES_DEG)]


def _arguments(sampling: Sampling) -> tuple[int, float, int]:
    return sampling.num_inference_steps, sampling.guidance_scale, sampling.seed


if __name__ == "__main__":
    main()
