"""Training LCMSR: the residual autoencoder, latent consistency [lcmsr, algorithm 1], and the decoder once more."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from svdrr.errors import SVDRRError
from svdrr.superres.networks import LCMSR
from svdrr.superres.training.crops import draw_pairs
from svdrr.superres.training.loop import Batch, Training

KL_WEIGHT = 0.03
"""Reached in the middle of the training: from the beginning, it drives the encoder to say nothing at all."""
WITHOUT_CODE = 0.5
"""Part of the samples that the decoder gets without their code, as zeros.

Else it leaves all to the code, which tells it everything, and with any but the true one is no better than bicubic.
"""
SEGMENTS = (5, 10, 25, 50)
"""Into how many the 1,000 timesteps are divided, in four equal parts of the training; 50 of k = 20 at the end.

What is known at t = 0 reaches t = T in as many steps as there are segments. To begin with few of them, as Song and
Dhariwal (2023) do, takes a fraction of the training that 50 from the beginning would take.
"""
SPREAD = 0.5
"""λ, the weight of the distance between two samples of an image against their distances from the truth.

With 1, their score is the continuous ranked probability score (Gneiting and Raftery, 2007, eq. 21), least for samples
that spread about each other as they do about the truth; their mean squared error is then twice that of their mean, or
no better than bicubic interpolation's. For normal errors, λ makes their variance λ² / (2 − λ²) of that: 0.14.
"""
_STD_SAMPLES = 64
_COLLAPSED = 0.01
"""Deviation of codes that say nothing; of those that do, it is about 1."""


def train_autoencoder(network: LCMSR, training: Training) -> None:
    """Trains encoder and decoder in place with L1 and KL, and sets `code_std`. SVDRRError if they collapse.

    There is no adversarial loss: what it adds to a radiograph looks real and is not.
    """
    _train_only(network, (network.encoder, network.decoder))

    def loss(batch: Batch) -> Tensor:
        pairs = batch.pairs
        posterior = network.posterior(pairs.truth, pairs.interpolated)
        noise = batch.noise_like(posterior.mean)
        told = batch.share_of(batch.generator.random(batch.size) >= WITHOUT_CODE)
        code = told[:, None, None, None] * (posterior.mean + posterior.std * noise) / network.code_std[:, None, None]
        decoded = network.decode(pairs.reduced, pairs.interpolated, code)
        difference = functional.l1_loss(decoded, pairs.truth) / network.config.residual_scale
        weight = KL_WEIGHT * min(1.0, 2.0 * batch.step / training.schedule.steps)
        return difference + weight * posterior.kl().sum() / posterior.mean.numel()

    training.run(network, network.config.scale, loss)
    with torch.no_grad():
        pairs = draw_pairs(
            training.images,
            network.config.scale,
            training.side,
            (training.seed, training.schedule.steps),
            range(_STD_SAMPLES),
        )
        codes = network.posterior(pairs.truth, pairs.interpolated).mode()
        network.code_std.copy_(codes.std(dim=(0, 2, 3)))
    if network.code_std.max() < _COLLAPSED:
        raise SVDRRError(
            "The autoencoder has collapsed: its codes are the same for all images, and the decoder does without them; "
            "train it in a new folder, from other weights."
        )


def train_consistency(network: LCMSR, training: Training, consistency: bool = True, distillation: bool = True) -> None:
    """Trains the conditional network and the denoiser in place, on the codes of the autoencoder, which stays.

    The schedule's average of the weights is the target network's, μ of algorithm 1. The paper's ablations: without
    `consistency`, the prediction is compared with the code itself; without `distillation`, the condition with nothing.
    """
    _train_only(network, (network.conditional, network.unet))
    target = copy.deepcopy(network)
    scheduler, steps = network.scheduler, training.schedule.steps

    def loss(batch: Batch) -> Tensor:
        pairs = batch.pairs
        segments = SEGMENTS[min(len(SEGMENTS) * batch.step // steps, len(SEGMENTS) - 1)]
        length = scheduler.config.num_train_timesteps // segments
        with torch.no_grad():
            code = network.code(pairs.truth, pairs.interpolated)
        noise = batch.noise_like(code)
        # Uniform, and spread evenly over the batch: what is known at t = 0 is in as many batches as can be.
        places = (np.arange(batch.size) + batch.generator.random(batch.size)) / batch.size
        number = batch.share_of((segments * places).astype(np.int64) + 1)
        later, earlier = length * number - 1, length * (number - 1) - 1
        condition = network.condition(pairs.interpolated)
        predicted = network.consistent(scheduler.add_noise(code, noise, later), condition, later)
        aim = code
        if consistency:
            with torch.no_grad():
                less_noised = scheduler.add_noise(code, noise, earlier.clamp(min=0))
                aim = target.consistent(less_noised, target.condition(pairs.interpolated), earlier.clamp(min=0))
                # Before the first segment there is no noise, and f is what it is given [eq. 7].
                aim = torch.where((earlier < 0)[:, None, None, None], code, aim)
        distilled = functional.l1_loss(condition, code)
        # Where it is not learned from it still counts: a consistency loss alone may rise while much is learned.
        return functional.l1_loss(predicted, aim) + (distilled if distillation else distilled.detach())

    training.run(network, network.config.scale, loss, target)


def train_decoder(network: LCMSR, training: Training) -> None:
    """Trains the decoder in place on the codes that it will get, sampled and expected.

    Not in the paper, whose decoder has met true codes only, and takes for certain what a predicted one says. With the
    errors of samples alone it would learn to pay no heed to what differs between them; so two samples of an image are
    scored together, and to differ where the truth is uncertain counts for them, see `SPREAD`.
    """
    _train_only(network, (network.decoder,))

    def loss(batch: Batch) -> Tensor:
        pairs = batch.pairs
        with torch.no_grad():
            expected = network.condition(pairs.interpolated)
            sampled = [network.sampled(batch.noise_like(expected), expected) for _ in range(2)]
        deterministic, one, other = (
            network.decode(pairs.reduced, pairs.interpolated, code) for code in (expected, *sampled)
        )
        errors = functional.l1_loss(one, pairs.truth) + functional.l1_loss(other, pairs.truth)
        score = (errors - SPREAD * functional.l1_loss(one, other)) / 2.0
        return (score + functional.l1_loss(deterministic, pairs.truth)) / network.config.residual_scale

    training.run(network, network.config.scale, loss)


def _train_only(network: LCMSR, parts: tuple[nn.Module, ...]) -> None:
    network.requires_grad_(False)
    for part in parts:
        part.requires_grad_(True)
