"""``python -m svdrr.superres.training DIR``: the run that made the bundled super-resolution models.

It renders the images, then trains each method for x4, and for x2 from the weights for x4. Each stage keeps its states
in DIR and goes on from them when it is started again; finished models are DIR/METHOD/xSCALE. Several processes may
train different methods of one DIR at the same time, once the images are there.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import ModelMixin
from numpy.typing import NDArray
from torch import Tensor

from svdrr.files import whole_directory
from svdrr.superres.networks import LCMSR, DeltaDiff, RegressionNetwork
from svdrr.superres.training.deltadiff import train_deltadiff
from svdrr.superres.training.images import build_images, load_images
from svdrr.superres.training.lcmsr import train_autoencoder, train_consistency, train_decoder
from svdrr.superres.training.loop import Training
from svdrr.superres.training.regression import train_regression
from svdrr.synthesis.configuration import Schedule
from svdrr.synthesis.training.loop import averaged_weights, saved_states
from svdrr.synthesis.training.record import keep_record

PHANTOMS = 40
SIDE = {4: 40, 2: 48}
"""Of a crop, in reduced pixels."""
RESIDUAL_SCALE = {4: 0.005, 2: 0.002}
"""About the mean absolute difference between the truth and bicubic interpolation."""
SCHEDULES = {
    "regression": Schedule(steps=6000, batch_size=4, learning_rate=7e-4, warmup_steps=200, ema_decay=0.995),
    "autoencoder": Schedule(steps=3000, batch_size=4, learning_rate=7e-4, warmup_steps=200, ema_decay=0.995),
    "consistency": Schedule(steps=4000, batch_size=4, learning_rate=5e-4, warmup_steps=200, ema_decay=0.95),
    "decoder": Schedule(steps=1500, batch_size=4, learning_rate=5e-4, warmup_steps=100, ema_decay=0.995),
    "deltadiff": Schedule(steps=5000, batch_size=4, learning_rate=5e-4, warmup_steps=200, ema_decay=0.995),
}
FINE_TUNING = {"regression": 0.5, "autoencoder": 0.5, "consistency": 0.5, "decoder": 0.5, "deltadiff": 1.2}
"""Part of the steps that x2 takes, since it begins from x4; DeltaDiff's first and last layers differ most."""
METHODS: dict[str, tuple[type[ModelMixin], dict[str, Callable[[Any, Training], None]]]] = {
    "regression": (RegressionNetwork, {"regression": train_regression}),
    "lcmsr": (
        LCMSR,
        {"autoencoder": train_autoencoder, "consistency": train_consistency, "decoder": train_decoder},
    ),
    "deltadiff": (DeltaDiff, {"deltadiff": train_deltadiff}),
}
"""Network and stages of the training, in their order."""


def main() -> None:
    """Builds what is missing, and trains what is asked for."""
    parser = argparse.ArgumentParser(description="Train the super-resolution models on phantom radiographs.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--method", choices=METHODS, action="append", help="may be repeated; all by default")
    parser.add_argument("--scale", type=int, choices=SIDE, action="append", help="4, then 2, by default")
    parser.add_argument("--phantoms", type=int, default=PHANTOMS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mixed-precision", choices=("no", "bf16"), default="bf16")
    arguments = parser.parse_args()
    directory: Path = arguments.directory
    seeds = list(range(arguments.phantoms))
    build_images(directory / "images", seeds)
    images = load_images(directory / "images", seeds)
    for scale in arguments.scale or SIDE:
        for method in arguments.method or METHODS:
            torch.manual_seed(arguments.seed)
            _train(method, scale, images, directory, arguments.seed, arguments.mixed_precision)


def schedule_of(stage: str, scale: int) -> Schedule:
    """The stage's schedule; shorter where it begins from the weights of another scale."""
    schedule = SCHEDULES[stage]
    return schedule if scale == 4 else replace(schedule, steps=int(FINE_TUNING[stage] * schedule.steps))


def begin_from(network: ModelMixin, folder: Path) -> None:
    """Takes over the weights of the model in `folder` that are of the same shape, if there is such a model."""
    if not folder.exists():
        return
    _take_over(network, type(network).from_pretrained(folder).state_dict())


def begin_from_state(network: ModelMixin, work: Path) -> None:
    """Takes over the weights that a stage's training in `work` ended with, if there is such a training."""
    states = saved_states(work)
    if states:
        _take_over(network, averaged_weights(states[-1]))


def _take_over(network: ModelMixin, theirs: dict[str, Tensor]) -> None:
    ours = network.state_dict()
    network.load_state_dict(ours | {name: value for name, value in theirs.items() if value.shape == ours[name].shape})


def save(network: ModelMixin, folder: Path, stages: dict[str, Path]) -> None:
    """The model in half precision, whose rounding changes no gray level of 4,096, and the record of its training."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with whole_directory(folder) as temporary:
        network.half().save_pretrained(temporary, safe_serialization=True)
        keep_record(temporary, stages)


def _train(method: str, scale: int, images: NDArray[np.uint16], directory: Path, seed: int, precision: str) -> None:
    network_type, stages = METHODS[method]
    network = network_type(scale, RESIDUAL_SCALE[scale]).to(memory_format=torch.channels_last)
    if scale != 4:
        begin_from(network, directory / method / "x4")
        # Of what later stages have trained again, the first stage wants its own: LCMSR's last decoder has forgotten
        # what true codes say, and the encoder would collapse.
        begin_from_state(network, directory / f"train-{next(iter(stages))}-x4")
    works = {stage: directory / f"train-{stage}-x{scale}" for stage in stages}
    for stage, train in stages.items():
        train(network, Training(images, SIDE[scale], schedule_of(stage, scale), works[stage], seed, precision))
    save(network, directory / method / f"x{scale}", works)


if __name__ == "__main__":
    main()
