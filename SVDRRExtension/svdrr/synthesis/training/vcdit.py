"""Training VCDiT and the demo model's image encoder on cached latents [sv-drr, eq. 2]."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from svdrr.synthesis.configuration import ModelConfiguration, make_image_encoder, make_scheduler
from svdrr.synthesis.pipeline import encode_latents, image_tokens
from svdrr.synthesis.training.loop import train
from svdrr.synthesis.vcdit import VCDiT

DROP_PROBABILITY = 0.05
"""Share of the samples without tokens, without source latent, and without both, each, as in zero123."""


def cache_latents(vae: AutoencoderKL, radiographs: NDArray[np.uint16], file: Path) -> NDArray[np.float32]:
    """Scaled latents (phantoms, views, channels, h, w), computed once and kept in `file` (.npy)."""
    if not file.exists():
        with torch.no_grad():
            latents = [
                encode_latents(vae, torch.from_numpy(views.astype(np.float32) / 65535.0)).numpy()
                for views in radiographs
            ]
        np.save(file, np.stack(latents))
    cached: NDArray[np.float32] = np.load(file)
    return cached


def train_vcdit(
    configuration: ModelConfiguration,
    sources: NDArray[np.uint16],
    latents: NDArray[np.float32],
    encodings: NDArray[np.float32],
    directory: Path,
    seed: int,
) -> tuple[VCDiT, nn.Module]:
    """The trained (vcdit, image_encoder).

    sources: PA radiographs (phantoms, pixels, pixels), 16 bit. latents: scaled latents (phantoms, views, channels,
    h, w), the PA view first. encodings: relative views (phantoms, views, 4).
    """
    torch.manual_seed(seed)
    vcdit = VCDiT(**configuration.vcdit)
    encoder = make_image_encoder(configuration)
    networks = nn.ModuleDict({"vcdit": vcdit, "image_encoder": encoder})
    noise_schedule = DDPMScheduler.from_config(make_scheduler(configuration).config)
    schedule = configuration.training["vcdit"]

    def loss_at(step: int) -> Tensor:
        generator = np.random.default_rng((seed, step))
        count = schedule.batch_size
        phantoms = generator.integers(len(latents), size=count)
        views = generator.integers(latents.shape[1], size=count)
        source = torch.from_numpy(sources[phantoms].astype(np.float32) / 65535.0)
        target = torch.from_numpy(latents[phantoms, views])
        source_latent = torch.from_numpy(latents[phantoms, 0])
        noise = torch.from_numpy(generator.standard_normal(target.shape).astype(np.float32))
        timestep = torch.from_numpy(generator.integers(noise_schedule.config.num_train_timesteps, size=count))
        dropped = generator.random(count)
        keep_tokens = torch.from_numpy((dropped > 2 * DROP_PROBABILITY).astype(np.float32))
        keep_latent = torch.from_numpy(
            ((dropped > 3 * DROP_PROBABILITY) | (dropped < DROP_PROBABILITY)).astype(np.float32)
        )

        tokens = image_tokens(encoder, source)
        condition = vcdit.condition(tokens, torch.from_numpy(encodings[phantoms, views]))
        predicted = vcdit(
            noise_schedule.add_noise(target, noise, timestep),
            timestep,
            source_latent * keep_latent[:, None, None, None],
            condition * keep_tokens[:, None, None],
        )
        if noise_schedule.config.prediction_type == "v_prediction":
            truth = noise_schedule.get_velocity(target, noise, timestep)
        else:
            truth = noise
        return functional.mse_loss(predicted, truth)

    train(networks, loss_at, schedule, directory)
    return vcdit, encoder
