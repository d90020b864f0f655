"""Training VCDiT on cached latents [sv-drr, eq. 2], and beginning from the weights of another model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from diffusers import DDPMScheduler
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from svdrr.errors import SVDRRError
from svdrr.provenance import Provenance
from svdrr.radiograph import Radiograph
from svdrr.synthesis.configuration import ModelConfiguration, make_scheduler
from svdrr.synthesis.pipeline import SVDRRPipeline, decode_latents, image_tokens
from svdrr.synthesis.training.latents import LatentSet, on_device
from svdrr.synthesis.training.loop import share, train
from svdrr.synthesis.vcdit import RadiographEncoder, VCDiT

DROP_PROBABILITY = 0.05
"""Share of the samples without tokens, without source latent, and without both, each, as in zero123."""
_PATCHES = "transformer.pos_embed.proj.weight"
PICTURE_ROWS, PICTURE_PIXELS = 4, 256


def begin_from(configuration: ModelConfiguration, start: SVDRRPipeline) -> SVDRRPipeline:
    """A pipeline of `configuration` that has the weights of `start`, bit for bit, and its other networks.

    This is the paper's weak-to-strong step: PixArt's positions are no weights but the sines and cosines of patch
    coordinates, which the configuration's interpolation scale spreads over the same range at every resolution. Where
    `configuration` has a back-projection and `start` has none, its weights begin as zeros, so that nothing changes.
    SVDRRError, which names a weight, if `start` is of another architecture.
    """
    vcdit = VCDiT(**configuration.vcdit)
    given, wanted = start.vcdit.state_dict(), vcdit.state_dict()
    if vcdit.config.back_projection_mm is not None and start.vcdit.config.back_projection_mm is None:
        seen = given[_PATCHES]
        given[_PATCHES] = torch.cat([seen, torch.zeros_like(seen[:, : vcdit.config.latent_channels])], dim=1)
    differing = [name for name in {**wanted, **given} if _shape(given, name) != _shape(wanted, name)]
    if differing:
        name = differing[0]
        raise SVDRRError(
            f"The weights do not fit the configuration '{configuration.name}': '{name}' has shape "
            f"{_shape(given, name)} and not {_shape(wanted, name)} ({len(differing)} such weights in all); "
            "choose the configuration of the same family."
        )
    vcdit.load_state_dict(given)
    pipeline = SVDRRPipeline(
        vae=start.vae,
        vcdit=vcdit,
        image_encoder=start.image_encoder,
        scheduler=make_scheduler(configuration),
        lifting=start.lifting,
    )
    if pipeline.resolution != configuration.resolution:
        raise SVDRRError(
            f"With this VAE the configuration '{configuration.name}' makes images of {pipeline.resolution} pixels, "
            f"not {configuration.resolution}; choose the configuration that the VAE belongs to."
        )
    return pipeline


def _shape(weights: dict[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(weights[name].shape) if name in weights else None


def train_vcdit(
    configuration: ModelConfiguration,
    pipeline: SVDRRPipeline,
    latents: LatentSet,
    directory: Path,
    seed: int,
    save_every: int = 200,
    mixed_precision: str = "no",
    on_step: Callable[[int, int], None] | None = None,
) -> None:
    """Trains the pipeline's VCDiT in place, and its image encoder where that is the demo's `RadiographEncoder`.

    VAE and CLIP stay as they are. Each sample has a random source and a random view of one volume. The other arguments
    are those of `loop.train`; ``samples/`` gets pictures of what the model makes.
    """
    schedule = configuration.training["vcdit"]
    vcdit, encoder = pipeline.vcdit, pipeline.image_encoder
    noise_schedule = DDPMScheduler.from_config(pipeline.scheduler.config)
    mine = share(schedule.batch_size)
    pipeline.vae.requires_grad_(False)
    learns_encoder = isinstance(encoder, RadiographEncoder)
    networks = nn.ModuleDict({"vcdit": vcdit, "image_encoder": encoder} if learns_encoder else {"vcdit": vcdit})
    frozen_tokens = None if learns_encoder else _tokens_of(encoder, latents.sources)
    if schedule.gradient_checkpointing:
        vcdit.transformer.enable_gradient_checkpointing()

    def loss_at(step: int) -> Tensor:
        # All is drawn for the whole batch, so that it does not depend on how many processes share it.
        generator = np.random.default_rng((seed, step))
        count = schedule.batch_size
        batch = latents.draw(count, generator)
        noise = on_device(generator.standard_normal((count, *batch.target.shape[1:]), np.float32)[mine])
        timestep = on_device(generator.integers(noise_schedule.config.num_train_timesteps, size=count)[mine]).long()
        dropped = generator.random(count)[mine]
        keeps_tokens = on_device(dropped > 2 * DROP_PROBABILITY)
        keeps_latent = on_device((dropped > 3 * DROP_PROBABILITY) | (dropped < DROP_PROBABILITY))
        if frozen_tokens is None:
            tokens = image_tokens(encoder, batch.source)
        else:
            tokens = on_device(frozen_tokens[batch.volumes, batch.source_numbers])

        predicted = vcdit(
            noise_schedule.add_noise(batch.target, noise, timestep),
            timestep,
            batch.given_latents * keeps_latent[:, None, None, None],
            vcdit.condition(tokens, batch.encoding) * keeps_tokens[:, None, None],
        )
        if noise_schedule.config.prediction_type == "v_prediction":
            truth = noise_schedule.get_velocity(batch.target, noise, timestep)
        else:
            truth = noise
        return functional.mse_loss(predicted.float(), truth)

    train(
        networks,
        loss_at,
        schedule,
        directory,
        save_every,
        mixed_precision,
        picture=lambda: sample_picture(configuration, pipeline, latents, seed),
        on_step=on_step,
    )
    vcdit.transformer.disable_gradient_checkpointing()


def _tokens_of(encoder: nn.Module, sources: NDArray[np.uint16]) -> NDArray[np.float16]:
    """What a frozen encoder says of every source: (volumes, n_sources, tokens, dim), half precision."""
    encoder.to(PartialState().device)
    with torch.no_grad():
        tokens = [image_tokens(encoder, on_device(of_volume) / 65535.0).half().cpu().numpy() for of_volume in sources]
    return np.stack(tokens)


def sample_picture(
    configuration: ModelConfiguration, pipeline: SVDRRPipeline, latents: LatentSet, seed: int
) -> Radiograph:
    """A row per volume: the source, a random view as the VAE gives it back, and the same view as it is synthesized."""
    pipeline.to(pipeline.vcdit.device)
    pipeline.set_progress_bar_config(disable=True)
    generator = np.random.default_rng(seed)
    rows = []
    for volume in generator.integers(len(latents.latents), size=PICTURE_ROWS):
        view = generator.integers(latents.latents.shape[1])
        source = latents.sources[volume, 0] / np.float32(65535.0)
        synthetic = pipeline(source, latents.encodings[volume, 0, view][None], **configuration.sampling, seed=seed)[0]
        with torch.no_grad():
            true = decode_latents(pipeline.vae, on_device(latents.latents[volume, view][None]))[0].cpu().numpy()
        rows.append(np.concatenate([source, true, synthetic], axis=1))
    factor = max(1, configuration.resolution // PICTURE_PIXELS)
    grid = torch.from_numpy(np.concatenate(rows))
    provenance = Provenance(
        "VCDiT in training", "training set; columns: source, DRR through the VAE, synthetic view", configuration.name
    )
    return Radiograph(functional.avg_pool2d(grid[None], factor)[0].numpy(), provenance=provenance)
