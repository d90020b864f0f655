"""From one radiograph to novel views: the SV-DRR sampler as a diffusers pipeline."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, DPMSolverMultistepScheduler
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from transformers import CLIPVisionModel

from svdrr.synthesis.vcdit import RadiographEncoder, VCDiT

# The normalization that CLIP's vision tower was trained with (Radford et al., 2021).
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def to_vae_range(radiographs: Tensor, channels: int) -> Tensor:
    """(batch, height, width) in [0, 1] to (batch, channels, height, width) in [-1, 1]."""
    return (2.0 * radiographs - 1.0)[:, None].expand(-1, channels, -1, -1)


def encode_latents(vae: AutoencoderKL, radiographs: Tensor) -> Tensor:
    """Scaled mean latents (batch, latent_channels, h, w) of radiographs (batch, height, width) in [0, 1]."""
    mean: Tensor = vae.encode(to_vae_range(radiographs, vae.config.in_channels)).latent_dist.mode()
    return mean * vae.config.scaling_factor


def decode_latents(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Radiographs (batch, height, width) in [0, 1] of scaled latents."""
    pixels: Tensor = vae.decode(latents / vae.config.scaling_factor).sample
    return (pixels.mean(dim=1) / 2.0 + 0.5).clamp(0.0, 1.0)


def image_tokens(encoder: RadiographEncoder | CLIPVisionModel, radiographs: Tensor) -> Tensor:
    """Tokens (batch, tokens, dim) of radiographs (batch, height, width) in [0, 1], at the encoder's own size."""
    size, channels = encoder.config.image_size, encoder.config.num_channels
    pixels = radiographs[:, None]
    if pixels.shape[-1] != size:
        pixels = functional.interpolate(pixels, (size, size), mode="bicubic", antialias=True).clamp(0.0, 1.0)
    if isinstance(encoder, RadiographEncoder):
        pixels = 2.0 * pixels - 1.0
    else:
        mean, std = (pixels.new_tensor(values)[:, None, None] for values in (_CLIP_MEAN, _CLIP_STD))
        pixels = (pixels.expand(-1, channels, -1, -1) - mean) / std
    tokens: Tensor = encoder(pixels.to(encoder.dtype)).last_hidden_state
    return tokens


class SVDRRPipeline(DiffusionPipeline):
    """Samples target views of one source radiograph by DPM-Solver++ with classifier-free guidance.

    vae: `AutoencoderKL`. vcdit: `VCDiT`. image_encoder: `CLIPVisionModel` or `RadiographEncoder`.
    scheduler: `DPMSolverMultistepScheduler`; its prediction type says what VCDiT predicts.
    """

    model_cpu_offload_seq = "image_encoder->vcdit->vae"

    def __init__(
        self,
        vae: AutoencoderKL,
        vcdit: VCDiT,
        image_encoder: RadiographEncoder | CLIPVisionModel,
        scheduler: DPMSolverMultistepScheduler,
    ) -> None:
        super().__init__()
        self.register_modules(vae=vae, vcdit=vcdit, image_encoder=image_encoder, scheduler=scheduler)

    @property
    def resolution(self) -> int:
        """Side of the square radiographs that the model takes and makes, in pixels."""
        scale = 2 ** (len(self.vae.config.block_out_channels) - 1)
        return int(self.vcdit.config.sample_size * scale)

    @torch.no_grad()
    def __call__(
        self,
        radiograph: NDArray[np.float32],
        relative_views: NDArray[np.floating],
        num_inference_steps: int = 20,
        guidance_scale: float = 3.0,
        seed: int = 0,
        batch_size: int = 8,
        on_step: Callable[[int, int], None] | None = None,
    ) -> NDArray[np.float32]:
        """Radiographs (views, resolution, resolution) in [0, 1].

        radiograph: (resolution, resolution) in [0, 1], bright bone. relative_views: (views, 4) from
        `svdrr.geometry.relative_view_encoding`. seed: all views start from the same
        noise, so that a view does not depend on which others are asked for with it. on_step: called with the finished
        and the total number of denoising steps; it may raise to cancel.
        """
        if radiograph.shape != (self.resolution, self.resolution):
            raise ValueError(f"radiograph must be {self.resolution} x {self.resolution}, not {radiograph.shape}")
        source = torch.as_tensor(radiograph, dtype=self.vae.dtype, device=self._execution_device)[None]
        source_latent = encode_latents(self.vae, source)
        tokens = image_tokens(self.image_encoder, source)
        views = torch.as_tensor(np.asarray(relative_views), dtype=tokens.dtype, device=tokens.device)

        noise = torch.as_tensor(np.random.default_rng(seed).standard_normal(source_latent.shape)).to(source_latent)
        total = -(-len(views) // batch_size) * num_inference_steps
        finished = 0
        images = []
        for start in range(0, len(views), batch_size):
            batch = views[start : start + batch_size]
            condition = self.vcdit.condition(tokens.expand(len(batch), -1, -1), batch)
            sources = source_latent.expand(len(batch), -1, -1, -1)
            guided = guidance_scale != 1.0
            if guided:
                condition = torch.cat([torch.zeros_like(condition), condition])
                sources = torch.cat([torch.zeros_like(sources), sources])
            latents = noise.expand(len(batch), -1, -1, -1)
            # Each batch starts afresh: the multistep solver keeps earlier outputs between its steps.
            self.scheduler.set_timesteps(num_inference_steps, device=latents.device)
            latents = latents * self.scheduler.init_noise_sigma
            for timestep in self.scheduler.timesteps:
                noised = self.scheduler.scale_model_input(latents, timestep)
                noised = torch.cat([noised, noised]) if guided else noised
                predicted = self.vcdit(noised, timestep.expand(len(noised)), sources, condition)
                if guided:
                    unconditional, conditional = predicted.chunk(2)
                    predicted = unconditional + guidance_scale * (conditional - unconditional)
                latents = self.scheduler.step(predicted, timestep, latents).prev_sample
                finished += 1
                if on_step is not None:
                    on_step(finished, total)
            images.append(decode_latents(self.vae, latents).float().cpu().numpy())
        return np.concatenate(images)
