"""Training the regression network: L1 between its output and the truth."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from svdrr.superres.networks import RegressionNetwork
from svdrr.superres.training.loop import Batch, Training


def train_regression(network: RegressionNetwork, training: Training) -> None:
    """Trains in place."""

    def loss(batch: Batch) -> Tensor:
        enlarged = network(batch.pairs.reduced, batch.pairs.interpolated)
        return functional.l1_loss(enlarged, batch.pairs.truth) / network.config.residual_scale

    training.run(network, network.config.scale, loss)
