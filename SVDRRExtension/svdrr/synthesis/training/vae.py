"""Training the demo models' VAE on phantom radiographs, and a faster one that knows its latents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from svdrr.synthesis.configuration import ModelConfiguration
from svdrr.synthesis.pipeline import encode_latents, to_vae_range
from svdrr.synthesis.training.latents import on_device
from svdrr.synthesis.training.loop import train

KL_WEIGHT = 1e-6
TINY_CHANNELS = 16
CROP_PIXELS = 64
"""Crops instead of whole images: many times as many steps for the same work, and steps are what is short."""


def train_vae(
    configuration: ModelConfiguration,
    vae: AutoencoderKL,
    radiographs: NDArray[np.uint16],
    directory: Path,
    seed: int,
) -> None:
    """Trains `vae` in place and sets its scaling factor, so that scaled latents have unit variance.

    radiographs: (phantoms, views, pixels, pixels), 16 bit.
    """
    schedule = configuration.training["vae"]
    flat = radiographs.reshape(-1, *radiographs.shape[2:])
    # Twice as fast as the default layout for few channels on a CPU.
    vae.to(memory_format=torch.channels_last)

    def loss_at(step: int) -> Tensor:
        generator = np.random.default_rng((seed, step))
        pixels = _at_random_contrast(_random_crops(flat, schedule.batch_size, generator), generator)
        posterior = vae.encode(pixels).latent_dist
        noise = on_device(generator.standard_normal(posterior.mean.shape))
        decoded = vae.decode(posterior.mean + posterior.std * noise).sample
        return _difference(decoded, pixels) + KL_WEIGHT * posterior.kl().mean()

    train(vae, loss_at, schedule, directory)
    sample = flat[np.random.default_rng(seed).integers(len(flat), size=64)].astype(np.float32) / 65535.0
    with torch.no_grad():
        latents = [vae.encode(to_vae_range(on_device(image[None]), 1)).latent_dist.mode() for image in sample]
    vae.register_to_config(scaling_factor=1.0 / torch.cat(latents).std().item())


def train_tiny_vae(
    configuration: ModelConfiguration,
    vae: AutoencoderKL,
    radiographs: NDArray[np.uint16],
    directory: Path,
    seed: int,
) -> AutoencoderTiny:
    """A VAE several times as fast, which encodes to the scaled latents of `vae` and decodes them.

    radiographs: (phantoms, views, pixels, pixels), 16 bit. It learns from whole ones, not from crops: the attention of
    `vae` looks at all of an image, so that the latents of a crop are not those of the same place in the whole.
    """
    schedule = configuration.training["tiny_vae"]
    flat = radiographs.reshape(-1, *radiographs.shape[2:])
    levels = len(vae.config.block_out_channels)
    torch.manual_seed(seed)
    tiny = AutoencoderTiny(
        in_channels=1,
        out_channels=1,
        latent_channels=vae.config.latent_channels,
        encoder_block_out_channels=(TINY_CHANNELS,) * levels,
        decoder_block_out_channels=(TINY_CHANNELS,) * levels,
        num_encoder_blocks=(1, *(3,) * (levels - 1)),
        num_decoder_blocks=(*(3,) * (levels - 1), 1),
    )

    def loss_at(step: int) -> Tensor:
        generator = np.random.default_rng((seed, step))
        wholes = flat[generator.integers(len(flat), size=schedule.batch_size)] / np.float32(65535.0)
        pixels = _at_random_contrast(wholes, generator)
        with torch.no_grad():
            latents = encode_latents(vae, 0.5 * pixels[:, 0] + 0.5)
        encoded = functional.mse_loss(tiny.encode(pixels).latents, latents)
        return encoded + 10.0 * _difference(tiny.decode(latents).sample, pixels)

    train(tiny, loss_at, schedule, directory)
    return tiny


def _at_random_contrast(images: NDArray[np.float32], generator: np.random.Generator) -> Tensor:
    """Of images (count, n, n) in [0, 1] the input of the VAE (count, 1, n, n).

    Real radiographs differ from phantoms in contrast; the VAE must not depend on the phantoms' own.
    """
    contrast = generator.uniform(0.7, 1.15, (len(images), 1, 1)).astype(np.float32)
    return to_vae_range(on_device(np.clip(images * contrast, 0.0, 1.0)), 1)


def _difference(decoded: Tensor, pixels: Tensor) -> Tensor:
    """Of values and of edges, which L1 of the values alone would blur."""
    edges = sum(functional.l1_loss(decoded.diff(dim=dim), pixels.diff(dim=dim)) for dim in (-1, -2))
    return functional.l1_loss(decoded, pixels) + edges


def _random_crops(radiographs: NDArray[np.uint16], count: int, generator: np.random.Generator) -> NDArray[np.float32]:
    """(count, CROP_PIXELS, CROP_PIXELS) in [0, 1], each from a random radiograph at a random place.

    Half of them in half the resolution: one VAE serves the models of both, as SDXL's does in [sv-drr].
    """
    factors = 1 + np.arange(count) % 2
    chosen = generator.integers(len(radiographs), size=count)
    crops = []
    for factor, index in zip(factors, chosen, strict=True):
        side = CROP_PIXELS * factor
        row, column = generator.integers(radiographs.shape[-1] - side + 1, size=2)
        crop = radiographs[index, row : row + side, column : column + side]
        crops.append(crop.reshape(CROP_PIXELS, factor, CROP_PIXELS, factor).mean(axis=(1, 3)))
    return (np.stack(crops) / 65535.0).astype(np.float32)
