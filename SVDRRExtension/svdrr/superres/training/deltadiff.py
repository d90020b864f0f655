"""Training DeltaDiff: the truth is predicted from every point of the way between it and the interpolated image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from svdrr.superres.networks import DeltaDiff
from svdrr.superres.training.crops import draw_pairs
from svdrr.synthesis.configuration import Schedule
from svdrr.synthesis.training.loop import share, train


def train_deltadiff(
    network: DeltaDiff,
    images: NDArray[np.uint16],
    schedule: Schedule,
    side: int,
    directory: Path,
    seed: int,
    mixed_precision: str = "no",
    on_step: Callable[[int, int], None] | None = None,
) -> None:
    """Trains in place on crops of `side` reduced pixels; images, directory and the rest as in `draw_pairs`, `train`.

    Every second sample begins at t = T, which sampling begins at too and where all is still to be found; at the
    others, t is any of the scheduler's.
    """
    mine = np.arange(schedule.batch_size)[share(schedule.batch_size)]
    last = network.scheduler.config.num_train_timesteps

    def loss_at(step: int) -> Tensor:
        generator = np.random.default_rng((seed, step))
        pairs = draw_pairs(images, network.config.scale, side, (seed, step), mine)
        truth, given = network.encode(pairs.truth), network.encode(pairs.interpolated)
        timesteps = generator.integers(1, last + 1, size=schedule.batch_size)
        timesteps[::2] = last
        timestep = torch.from_numpy(timesteps[mine]).to(truth.device)
        shifted = network.scheduler.add_residual(truth, given, timestep)
        predicted = network.predicted(shifted, pairs.reduced, given, timestep)
        return functional.l1_loss(predicted, truth) / network.config.residual_scale

    train(network, loss_at, schedule, directory, mixed_precision=mixed_precision, on_step=on_step)
