"""Training on crops: what all methods of super-resolution have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import ModelMixin
from numpy.typing import NDArray
from torch import Tensor

from svdrr.superres.training.crops import Pairs, draw_pairs
from svdrr.synthesis.configuration import Schedule
from svdrr.synthesis.training.loop import share, train


@dataclass(frozen=True, eq=False)
class Batch:
    """This process's share of a training step: its pairs, and what is drawn for them beside.

    step: from 0. size: of the whole batch, of which `mine` are this process's samples. Whatever is drawn from
    `generator` must be drawn for the whole batch, so that it does not depend on the number of processes.
    """

    pairs: Pairs
    step: int
    generator: np.random.Generator
    size: int
    mine: NDArray[np.integer]

    def share_of(self, drawn: NDArray[np.generic]) -> Tensor:
        """This process's part of what was drawn for the whole batch."""
        return torch.from_numpy(drawn[self.mine]).to(self.pairs.truth.device)

    def noise_like(self, codes: Tensor) -> Tensor:
        """Standard normal."""
        return self.share_of(self.generator.standard_normal((self.size, *codes.shape[1:]), np.float32))


@dataclass(frozen=True, eq=False)
class Training:
    """How a network is trained on crops, of `side` reduced pixels, of images as in `draw_pairs`.

    directory, mixed_precision, on_step: as in `svdrr.synthesis.training.loop.train`.
    """

    images: NDArray[np.uint16]
    side: int
    schedule: Schedule
    directory: Path
    seed: int
    mixed_precision: str = "no"
    on_step: Callable[[int, int], None] | None = None

    def draw(self, scale: int, step: int) -> Batch:
        """The batch of a step, by the seed and its number alone."""
        size = self.schedule.batch_size
        mine = np.arange(size)[share(size)]
        pairs = draw_pairs(self.images, scale, self.side, (self.seed, step), mine)
        # Another stream than those of the samples, which have the numbers below it.
        generator = np.random.default_rng((self.seed, step, size))
        return Batch(pairs, step, generator, size, mine)

    def run(
        self, network: ModelMixin, scale: int, loss: Callable[[Batch], Tensor], target: ModelMixin | None = None
    ) -> None:
        """Trains in place what of the network requires gradients. target: as in `train`."""
        train(
            network,
            lambda step: loss(self.draw(scale, step)),
            self.schedule,
            self.directory,
            mixed_precision=self.mixed_precision,
            on_step=self.on_step,
            target=target,
        )
