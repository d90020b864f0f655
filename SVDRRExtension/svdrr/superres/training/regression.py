"""Training the regression network: L1 between its output and the truth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from svdrr.superres.networks import RegressionNetwork
from svdrr.superres.training.crops import draw_pairs
from svdrr.synthesis.configuration import Schedule
from svdrr.synthesis.training.loop import share, train


def train_regression(
    network: RegressionNetwork,
    images: NDArray[np.uint16],
    schedule: Schedule,
    side: int,
    directory: Path,
    seed: int,
    mixed_precision: str = "no",
    on_step: Callable[[int, int], None] | None = None,
) -> None:
    """Trains in place on crops of `side` reduced pixels; images, directory and the rest as in `draw_pairs`, `train`."""
    mine = np.arange(schedule.batch_size)[share(schedule.batch_size)]

    def loss_at(step: int) -> Tensor:
        pairs = draw_pairs(images, network.config.scale, side, (seed, step), mine)
        enlarged = network(pairs.reduced, pairs.interpolated)
        return functional.l1_loss(enlarged, pairs.truth) / network.config.residual_scale

    train(network, loss_at, schedule, directory, mixed_precision=mixed_precision, on_step=on_step)
