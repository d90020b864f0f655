"""Training DeltaDiff: the truth is predicted from every point of the way between it and the interpolated image."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from svdrr.superres.networks import DeltaDiff
from svdrr.superres.training.loop import Batch, Training


def train_deltadiff(network: DeltaDiff, training: Training) -> None:
    """Trains in place.

    Every second sample begins at t = T, which sampling begins at too and where all is still to be found; at the
    others, t is any of the scheduler's.
    """
    last = network.scheduler.config.num_train_timesteps

    def loss(batch: Batch) -> Tensor:
        truth, given = network.encode(batch.pairs.truth), network.encode(batch.pairs.interpolated)
        timesteps = batch.generator.integers(1, last + 1, size=batch.size)
        timesteps[::2] = last
        timestep = batch.share_of(timesteps)
        shifted = network.scheduler.add_residual(truth, given, timestep)
        predicted = network.predicted(shifted, batch.pairs.reduced, given, timestep)
        return functional.l1_loss(predicted, truth) / network.config.residual_scale

    training.run(network, network.config.scale, loss)
