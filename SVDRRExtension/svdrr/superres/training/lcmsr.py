"""Training LCMSR: the residual autoencoder, latent consistency [lcmsr, algorithm 1], and the decoder once more."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from svdrr.superres.networks import LCMSR
from svdrr.superres.training.crops import draw_pairs
from svdrr.synthesis.configuration import Schedule
from svdrr.synthesis.training.loop import share, train

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
_STD_SAMPLES = 64


def train_autoencoder(
    network: LCMSR,
    images: NDArray[np.uint16],
    schedule: Schedule,
    side: int,
    directory: Path,
    seed: int,
    mixed_precision: str = "no",
    on_step: Callable[[int, int], None] | None = None,
) -> None:
    """Trains encoder and decoder in place with L1 and KL, and sets `code_std`. Arguments as in `train_regression`.

    There is no adversarial loss: what it adds to a radiograph looks real and is not.
    """
    _train_only(network, (network.encoder, network.decoder))
    mine = np.arange(schedule.batch_size)[share(schedule.batch_size)]

    def loss_at(step: int) -> Tensor:
        generator = np.random.default_rng((seed, step))
        pairs = draw_pairs(images, network.config.scale, side, (seed, step), mine)
        posterior = network.posterior(pairs.truth, pairs.interpolated)
        noise = _noise_like(posterior.mean, generator, schedule.batch_size, mine)
        told = torch.from_numpy(generator.random(schedule.batch_size)[mine] >= WITHOUT_CODE).to(noise.device)
        code = told[:, None, None, None] * (posterior.mean + posterior.std * noise) / network.code_std[:, None, None]
        decoded = network.decode(pairs.reduced, pairs.interpolated, code)
        difference = functional.l1_loss(decoded, pairs.truth) / network.config.residual_scale
        weight = KL_WEIGHT * min(1.0, 2.0 * step / schedule.steps)
        return difference + weight * posterior.kl().sum() / posterior.mean.numel()

    train(network, loss_at, schedule, directory, mixed_precision=mixed_precision, on_step=on_step)
    with torch.no_grad():
        pairs = draw_pairs(images, network.config.scale, side, (seed,), range(_STD_SAMPLES))
        codes = network.posterior(pairs.truth, pairs.interpolated).mode()
        network.code_std.copy_(codes.std(dim=(0, 2, 3)))


def train_consistency(
    network: LCMSR,
    images: NDArray[np.uint16],
    schedule: Schedule,
    side: int,
    directory: Path,
    seed: int,
    mixed_precision: str = "no",
    on_step: Callable[[int, int], None] | None = None,
    consistency: bool = True,
    distillation: bool = True,
) -> None:
    """Trains the conditional network and the denoiser in place, on the codes of the autoencoder, which stays.

    The schedule's average of the weights is the target network's, μ of algorithm 1. The paper's ablations: without
    `consistency`, the prediction is compared with the code itself; without `distillation`, the condition with nothing.
    """
    _train_only(network, (network.conditional, network.unet))
    target = copy.deepcopy(network)
    mine = np.arange(schedule.batch_size)[share(schedule.batch_size)]
    scheduler = network.scheduler

    def loss_at(step: int) -> Tensor:
        generator = np.random.default_rng((seed, step))
        pairs = draw_pairs(images, network.config.scale, side, (seed, step), mine)
        segments = SEGMENTS[min(len(SEGMENTS) * step // schedule.steps, len(SEGMENTS) - 1)]
        length = scheduler.config.num_train_timesteps // segments
        with torch.no_grad():
            code = network.code(pairs.truth, pairs.interpolated)
        noise = _noise_like(code, generator, schedule.batch_size, mine)
        # Uniform, and spread evenly over the batch: what is known at t = 0 is in as many batches as can be.
        places = (np.arange(schedule.batch_size) + generator.random(schedule.batch_size)) / schedule.batch_size
        number = torch.from_numpy((segments * places[mine]).astype(np.int64) + 1).to(code.device)
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

    train(network, loss_at, schedule, directory, mixed_precision=mixed_precision, on_step=on_step, target=target)


def train_decoder(
    network: LCMSR,
    images: NDArray[np.uint16],
    schedule: Schedule,
    side: int,
    directory: Path,
    seed: int,
    mixed_precision: str = "no",
    on_step: Callable[[int, int], None] | None = None,
) -> None:
    """Trains the decoder in place on the codes that it will get: sampled, expected, and, so that it heeds them, true.

    Not in the paper, whose decoder has met true codes only, and takes for certain what a predicted one says.
    """
    _train_only(network, (network.decoder,))
    mine = np.arange(schedule.batch_size)[share(schedule.batch_size)]

    def loss_at(step: int) -> Tensor:
        generator = np.random.default_rng((seed, step))
        pairs = draw_pairs(images, network.config.scale, side, (seed, step), mine)
        with torch.no_grad():
            true, expected = network.code(pairs.truth, pairs.interpolated), network.condition(pairs.interpolated)
            noise = _noise_like(true, generator, schedule.batch_size, mine)
            last = torch.full((len(mine),), network.scheduler.config.num_train_timesteps - 1, device=noise.device)
            codes = torch.stack([network.consistent(noise, expected, last), true, expected])
        kinds = torch.from_numpy(generator.permuted(np.arange(schedule.batch_size) % len(codes))[mine])
        mixed = codes[kinds.to(noise.device), torch.arange(len(mine), device=noise.device)]
        decoded = network.decode(pairs.reduced, pairs.interpolated, mixed)
        return functional.l1_loss(decoded, pairs.truth) / network.config.residual_scale

    train(network, loss_at, schedule, directory, mixed_precision=mixed_precision, on_step=on_step)


def _noise_like(codes: Tensor, generator: np.random.Generator, batch_size: int, mine: NDArray[np.integer]) -> Tensor:
    """Standard normal; that of the whole batch, of which this process takes its share."""
    of_batch = generator.standard_normal((batch_size, *codes.shape[1:]), np.float32)
    return torch.from_numpy(of_batch[mine]).to(codes.device)


def _train_only(network: LCMSR, parts: tuple[nn.Module, ...]) -> None:
    network.requires_grad_(False)
    for part in parts:
        part.requires_grad_(True)
