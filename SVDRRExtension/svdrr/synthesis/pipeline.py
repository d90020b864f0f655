"""From one radiograph to novel views: the SV-DRR sampler as a diffusers pipeline."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DiffusionPipeline, DPMSolverMultistepScheduler, LCMScheduler
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from transformers import CLIPVisionModel

from svdrr.drr import Renderer
from svdrr.errors import SVDRRError
from svdrr.synthesis.back_projection import pose_of, project, projector
from svdrr.synthesis.lifting import LiftingNetwork, likely_volume
from svdrr.synthesis.vcdit import RadiographEncoder, VCDiT

VAE: TypeAlias = AutoencoderKL | AutoencoderTiny

# The normalization that CLIP's vision tower was trained with (Radford et al., 2021).
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def to_vae_range(radiographs: Tensor, channels: int) -> Tensor:
    """(batch, height, width) in [0, 1] to (batch, channels, height, width) in [-1, 1]."""
    return (2.0 * radiographs - 1.0)[:, None].expand(-1, channels, -1, -1)


def encode_latents(vae: VAE, radiographs: Tensor) -> Tensor:
    """Scaled mean latents (batch, latent_channels, h, w) of radiographs (batch, height, width) in [0, 1]."""
    pixels = to_vae_range(radiographs, vae.config.in_channels).to(vae.dtype)
    encoded = vae.encode(pixels)
    mean: Tensor = encoded.latents if isinstance(vae, AutoencoderTiny) else encoded.latent_dist.mode()
    return mean.float() * vae.config.scaling_factor


def decode_latents(vae: VAE, latents: Tensor) -> Tensor:
    """Radiographs (batch, height, width) in [0, 1] of scaled latents."""
    pixels: Tensor = vae.decode((latents / vae.config.scaling_factor).to(vae.dtype)).sample
    return (pixels.float().mean(dim=1) / 2.0 + 0.5).clamp(0.0, 1.0)


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


def free_gpu_memory(device: torch.device) -> int:
    """Bytes that new tensors may take: free on the GPU, or kept by PyTorch from tensors that are gone."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


@dataclass(frozen=True, eq=False)
class EncodedSource:
    """latent: scaled (1, latent_channels, h, w). tokens: of the image encoder (1, tokens, dim).

    projector: of what it is likely the picture of, for a model that looks at that.
    """

    latent: Tensor
    tokens: Tensor
    projector: Renderer | None


class SVDRRPipeline(DiffusionPipeline):
    """Samples target views of one source radiograph, with classifier-free guidance where the scale is not 1.

    vae: `AutoencoderKL`, or `AutoencoderTiny`, which is faster and knows the same latents. vcdit: `VCDiT`.
    image_encoder: `CLIPVisionModel` or `RadiographEncoder`.
    scheduler: `DPMSolverMultistepScheduler` (the paper's 20 steps), or for a model distilled to a few steps
    `LCMScheduler`; its prediction type says what VCDiT predicts. lifting: beyond the paper, makes the volume that VCDiT
    sees from the target, in place of plain back-projection, where VCDiT looks at one.
    """

    model_cpu_offload_seq = "lifting->image_encoder->vcdit->vae"
    _optional_components: ClassVar[list[str]] = ["lifting"]

    def __init__(
        self,
        vae: VAE,
        vcdit: VCDiT,
        image_encoder: RadiographEncoder | CLIPVisionModel,
        scheduler: DPMSolverMultistepScheduler | LCMScheduler,
        lifting: LiftingNetwork | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(vae=vae, vcdit=vcdit, image_encoder=image_encoder, scheduler=scheduler, lifting=lifting)

    @property
    def resolution(self) -> int:
        """Side of the square radiographs that the model takes and makes, in pixels."""
        scale = 2 ** (len(self.vae.config.block_out_channels) - 1)
        return int(self.vcdit.config.sample_size * scale)

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
        """All that `views` yields, (views, resolution, resolution) in [0, 1], of a radiograph for `encode_source`."""
        source = self.encode_source(radiograph)
        batches = self.views(source, relative_views, num_inference_steps, guidance_scale, seed, batch_size, on_step)
        return np.concatenate(list(batches))

    @torch.no_grad()
    def encode_source(self, radiograph: NDArray[np.float32]) -> EncodedSource:
        """What `views` needs of a source radiograph (resolution, resolution) in [0, 1], bright bone."""
        if radiograph.shape != (self.resolution, self.resolution):
            raise ValueError(f"radiograph must be {self.resolution} x {self.resolution}, not {radiograph.shape}")
        source = torch.as_tensor(radiograph, dtype=torch.float32, device=self._execution_device)[None]
        latent = self._tiled_if_needed(encode_latents, source)
        tokens = _granted(self._attempt(image_tokens, self.image_encoder, source))
        side_mm = self.vcdit.config.back_projection_mm
        likely = None if side_mm is None else projector(likely_volume(radiograph, side_mm, self.lifting))
        return EncodedSource(latent, tokens, likely)

    @torch.no_grad()
    def views(
        self,
        source: EncodedSource,
        relative_views: NDArray[np.floating],
        num_inference_steps: int = 20,
        guidance_scale: float = 3.0,
        seed: int = 0,
        batch_size: int = 8,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Iterator[NDArray[np.float32]]:
        """Yields radiographs (batch, resolution, resolution) in [0, 1], batch by batch, in the order of the views.

        source: from `encode_source`. relative_views: (views, 4) from `svdrr.geometry.relative_view_encoding`. seed: all
        views start from the same noise, so that a view does not depend on which others are asked for with it.
        batch_size: views at once; halved, for the rest of the job, when the GPU's memory is not enough. on_step: called
        after each denoising step with the finished and the total number of steps, each view's counted; it may raise to
        cancel. SVDRRError if the memory is not enough for one view, or if the scheduler knows fewer steps.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        most_steps = getattr(self.scheduler.config, "original_inference_steps", num_inference_steps)
        if num_inference_steps > most_steps:
            raise SVDRRError(f"This model takes 1 to {most_steps} steps, not {num_inference_steps}.")
        tokens = source.tokens
        views = torch.as_tensor(np.asarray(relative_views), dtype=tokens.dtype, device=tokens.device)
        noise = torch.as_tensor(np.random.default_rng(seed).standard_normal(source.latent.shape)).to(source.latent)

        total = len(views) * num_inference_steps
        reported = 0

        def advance(start: int, size: int, step: int) -> None:
            nonlocal reported
            # A smaller batch repeats steps of the one that did not fit; progress waits for it.
            reported = max(reported, start * num_inference_steps + size * step)
            if on_step is not None:
                on_step(reported, total)

        start = 0
        while start < len(views):
            batch = views[start : start + batch_size]
            after_step = partial(advance, start, len(batch))
            given = self._given_latents(source, batch)
            latents = self._attempt(
                self._denoise,
                batch,
                tokens,
                given,
                noise,
                num_inference_steps,
                guidance_scale,
                seed,
                after_step,
            )
            if isinstance(latents, SVDRRError) and len(batch) > 1:
                batch_size = len(batch) // 2
                continue
            # One by one: per view, the decoder needs far more memory than the transformer, and gains less from batches.
            images = [self._tiled_if_needed(decode_latents, latent[None]) for latent in _granted(latents)]
            yield torch.cat(images).cpu().numpy()
            start += len(batch)

    def _given_latents(self, source: EncodedSource, views: Tensor) -> Tensor:
        """What VCDiT gets beside the noised latents: (views, channels, h, w)."""
        latents = source.latent.expand(len(views), -1, -1, -1)
        if source.projector is None:
            return latents
        poses = [pose_of(view) for view in views.double().cpu().numpy()]
        seen = project(source.projector, poses, self.resolution, self.vcdit.config.back_projection_mm)
        encoded = [
            self._tiled_if_needed(encode_latents, torch.from_numpy(radiograph[None]).to(latents.device))
            for radiograph in seen
        ]
        return torch.cat([latents, torch.cat(encoded)], dim=1)

    def _denoise(
        self,
        views: Tensor,
        tokens: Tensor,
        given_latents: Tensor,
        noise: Tensor,
        num_inference_steps: int,
        guidance_scale: float,
        seed: int,
        on_step: Callable[[int], None],
    ) -> Tensor:
        """Scaled latents (views, latent_channels, h, w), float32, of one batch; `on_step` gets the finished steps."""
        condition = self.vcdit.condition(tokens.expand(len(views), -1, -1), views)
        given = given_latents.to(condition.dtype)
        guided = guidance_scale != 1.0
        if guided:
            condition = torch.cat([torch.zeros_like(condition), condition])
            given = torch.cat([torch.zeros_like(given), given])
        # Each batch starts afresh: the multistep solver keeps earlier outputs between its steps.
        self.scheduler.set_timesteps(num_inference_steps, device=noise.device)
        # The solver's steps are small and add up, so they stay in float32 whatever the network computes in.
        latents = noise.expand(len(views), -1, -1, -1) * self.scheduler.init_noise_sigma
        # A consistency model takes new noise between its steps: for each view its own generator, all with one seed.
        generators = [torch.Generator().manual_seed(seed) for _ in views]
        for step, timestep in enumerate(self.scheduler.timesteps, start=1):
            noised = self.scheduler.scale_model_input(latents, timestep).to(condition.dtype)
            noised = torch.cat([noised, noised]) if guided else noised
            predicted = self.vcdit(noised, timestep.expand(len(noised)), given, condition).float()
            if guided:
                unconditional, conditional = predicted.chunk(2)
                predicted = unconditional + guidance_scale * (conditional - unconditional)
            latents = self.scheduler.step(predicted, timestep, latents, generator=generators).prev_sample
            on_step(step)
        return latents

    def _tiled_if_needed(self, work: Callable[[VAE, Tensor], Tensor], argument: Tensor) -> Tensor:
        """``work(vae, argument)``; from the first time that the memory is not enough, the VAE works in tiles."""
        result = self._attempt(work, self.vae, argument)
        if isinstance(result, SVDRRError):
            self._enable_tiling()
            result = self._attempt(work, self.vae, argument)
        return _granted(result)

    def _enable_tiling(self) -> None:
        """Tiles of half a side: diffusers' own are as large as the VAE's training images, so none of ours would be."""
        self.vae.enable_tiling()
        self.vae.tile_sample_min_size = self.resolution // 2
        self.vae.tile_latent_min_size = self.vcdit.config.sample_size // 2

    def _attempt(self, work: Callable[..., Tensor], *arguments: Any) -> Tensor | SVDRRError:
        """What `work` returns; if the GPU's memory is not enough, the error for the case that it was for one view."""
        try:
            return work(*arguments)
        except torch.OutOfMemoryError as error:
            refusal = self._does_not_fit(error)
        # Not before here is the traceback gone, and with it the tensors of the work that failed.
        torch.cuda.empty_cache()
        return refusal

    def _does_not_fit(self, error: torch.OutOfMemoryError) -> SVDRRError:
        """One view's need, as far as it was seen: what was allocated, and what was asked for in vain."""
        device = self._execution_device
        allocated = torch.cuda.memory_allocated(device)
        needed = allocated + _requested_bytes(str(error))
        available = allocated + free_gpu_memory(device)
        return SVDRRError(
            f"One view at {self.resolution} x {self.resolution} needs at least {needed / 1e9:.1f} GB of this GPU's "
            f"memory, the model included, and {available / 1e9:.1f} GB are free for it; "
            "close other programs that use the GPU, or take a model of lower resolution or the CPU."
        )


def _granted(result: Tensor | SVDRRError) -> Tensor:
    """A result of `SVDRRPipeline._attempt` for which there is no smaller way."""
    if isinstance(result, SVDRRError):
        raise result
    return result


def _requested_bytes(message: str) -> float:
    """The request that failed, from the message of a `torch.OutOfMemoryError`, which has no field for it."""
    found = re.search(r"allocate ([\d.]+) (bytes|[KMG]iB)", message)
    if not found:
        return 0.0
    return float(found[1]) * {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}[found[2]]
