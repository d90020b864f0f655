"""How a model was trained, beside its weights: the logs of its stages, and their curves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from svdrr.synthesis.training.loop import LOG_FILE


def keep_record(folder: Path, stages: Mapping[str, Path]) -> None:
    """Copies the log of each stage to ``training-STAGE.jsonl`` in `folder`, and draws them as ``training.png``.

    stages: the directory that `loop.train` was given, by the stage's name.
    """
    columns = min(len(stages), 3)
    rows = -(-len(stages) // columns)
    figure = Figure(figsize=(4.0 * columns, 2.6 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, (stage, directory) in zip(panels, stages.items(), strict=False):
        log = folder / f"training-{stage}.jsonl"
        shutil.copyfile(directory / LOG_FILE, log)
        lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        axes.semilogy([line["step"] for line in lines], [line["loss"] for line in lines])
        axes.set(title=stage, xlabel="step", ylabel="loss")
        axes.grid(which="both", alpha=0.3)
    for axes in panels[len(stages) :]:
        axes.set_visible(False)
    figure.savefig(folder / "training.png", dpi=90)
