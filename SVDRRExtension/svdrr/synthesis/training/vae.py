"""Training the demo model's VAE on phantom radiographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from svdrr.synthesis.configuration import ModelConfiguration, make_vae
from svdrr.synthesis.pipeline import to_vae_range
from svdrr.synthesis.training.loop import train

KL_WEIGHT = 1e-6
CROP_PIXELS = 64
"""Crops instead of whole images: four times as many steps for the same work, and steps are what is short."""


def train_vae(
    configuration: ModelConfiguration, radiographs: NDArray[np.uint16], directory: Path, seed: int
) -> AutoencoderKL:
    """The trained VAE with its scaling factor set, so that scaled latents have unit variance.

    radiographs: (phantoms, views, pixels, pixels), 16 bit.
    """
    torch.manual_seed(seed)
    vae = make_vae(configuration)
    schedule = configuration.training["vae"]
    flat = radiographs.reshape(-1, *radiographs.shape[2:])

    def loss_at(step: int) -> Tensor:
        generator = np.random.default_rng((seed, step))
        batch = _random_crops(flat, schedule.batch_size, generator)
        # Real radiographs differ from phantoms in contrast; the VAE must not depend on the phantoms' own.
        contrast = generator.uniform(0.7, 1.15, (len(batch), 1, 1)).astype(np.float32)
        pixels = to_vae_range(torch.from_numpy(np.clip(batch * contrast, 0.0, 1.0)), 1)
        posterior = vae.encode(pixels).latent_dist
        noise = torch.from_numpy(generator.standard_normal(posterior.mean.shape).astype(np.float32))
        decoded = vae.decode(posterior.mean + posterior.std * noise).sample
        return functional.l1_loss(decoded, pixels) + KL_WEIGHT * posterior.kl().mean()

    train(vae, loss_at, schedule, directory)
    sample = flat[np.random.default_rng(seed).integers(len(flat), size=256)].astype(np.float32) / 65535.0
    with torch.no_grad():
        latents = vae.encode(to_vae_range(torch.from_numpy(sample), 1)).latent_dist.mode()
    vae.register_to_config(scaling_factor=1.0 / latents.std().item())
    return vae


def _random_crops(radiographs: NDArray[np.uint16], count: int, generator: np.random.Generator) -> NDArray[np.float32]:
    """(count, CROP_PIXELS, CROP_PIXELS) in [0, 1], each from a random radiograph at a random place."""
    chosen = generator.integers(len(radiographs), size=count)
    corners = generator.integers(radiographs.shape[-1] - CROP_PIXELS + 1, size=(count, 2))
    crops = [
        radiographs[index, row : row + CROP_PIXELS, column : column + CROP_PIXELS]
        for index, (row, column) in zip(chosen, corners, strict=True)
    ]
    return np.stack(crops).astype(np.float32) / 65535.0


def sharpen_decoder(
    configuration: ModelConfiguration,
    vae: AutoencoderKL,
    radiographs: NDArray[np.uint16],
    latents: NDArray[np.float32],
    directory: Path,
    seed: int,
) -> None:
    """Trains only the decoder of `vae` further, in place, on edges as well; the latents keep their meaning.

    radiographs: (phantoms, views, pixels, pixels), 16 bit. latents: their scaled latents (phantoms, views,
    channels, h, w).
    """
    schedule = configuration.training["decoder"]
    flat_latents = latents.reshape(-1, *latents.shape[2:]) / vae.config.scaling_factor
    flat = radiographs.reshape(-1, *radiographs.shape[2:])
    factor = flat.shape[-1] // flat_latents.shape[-1]
    crop = CROP_PIXELS // factor

    def loss_at(step: int) -> Tensor:
        generator = np.random.default_rng((seed, step))
        chosen = generator.integers(len(flat), size=schedule.batch_size)
        corners = generator.integers(flat_latents.shape[-1] - crop + 1, size=(schedule.batch_size, 2))
        codes = [flat_latents[i, :, y : y + crop, x : x + crop] for i, (y, x) in zip(chosen, corners, strict=True)]
        pixels = [
            flat[i, y * factor : y * factor + CROP_PIXELS, x * factor : x * factor + CROP_PIXELS]
            for i, (y, x) in zip(chosen, corners, strict=True)
        ]
        truth = to_vae_range(torch.from_numpy(np.stack(pixels).astype(np.float32) / 65535.0), 1)
        decoded = vae.decode(torch.from_numpy(np.stack(codes))).sample
        edges = sum(functional.l1_loss(decoded.diff(dim=dim), truth.diff(dim=dim)) for dim in (-1, -2))
        return functional.l1_loss(decoded, truth) + edges

    decoder = nn.ModuleDict({"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv})
    train(decoder, loss_at, schedule, directory)
