"""Distilling a trained VCDiT to a few steps: latent consistency distillation [lcmsr, eq. 5-9; Luo et al., 2023]."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from diffusers import DPMSolverMultistepScheduler, LCMScheduler
from torch import Tensor
from torch.nn import functional

from svdrr.synthesis.configuration import ModelConfiguration
from svdrr.synthesis.pipeline import SVDRRPipeline, image_tokens
from svdrr.synthesis.training.latents import LatentSet, on_device
from svdrr.synthesis.training.loop import share, train
from svdrr.synthesis.training.vcdit import sample_picture

SKIPPED_TIMESTEPS = 20
"""k of [lcmsr]: how far apart on the noise schedule the two points lie whose predictions are made equal."""
HUBER_DELTA = 0.03


def few_step_configuration(configuration: ModelConfiguration) -> ModelConfiguration:
    """What the distilled model is called, and that it samples in one step without guidance."""
    sampling = {"num_inference_steps": 1, "guidance_scale": 1.0}
    return replace(configuration, name=f"{configuration.name}-fast", sampling=sampling)


def few_step_scheduler(scheduler: DPMSolverMultistepScheduler) -> LCMScheduler:
    """The consistency sampler on the noise schedule of `scheduler`."""
    config = scheduler.config
    return LCMScheduler(
        num_train_timesteps=config.num_train_timesteps,
        beta_start=config.beta_start,
        beta_end=config.beta_end,
        beta_schedule=config.beta_schedule,
        prediction_type=config.prediction_type,
        original_inference_steps=config.num_train_timesteps // SKIPPED_TIMESTEPS,
    )


def distill(
    teacher: SVDRRPipeline,
    configuration: ModelConfiguration,
    latents: LatentSet,
    directory: Path,
    seed: int,
    save_every: int = 200,
    mixed_precision: str = "no",
    on_step: Callable[[int, int], None] | None = None,
) -> SVDRRPipeline:
    """A pipeline that needs 1 to 4 steps and no guidance, with the VAE and the image encoder of `teacher`.

    A step of DDIM with the teacher's guidance leads from a noised latent to one with less noise; the student learns to
    predict the same latent from both. What it predicts from the latter is the aim, without gradient and without an
    average over earlier weights (Song and Dhariwal, 2023). The other arguments are those of `loop.train`; ``samples/``
    gets pictures of what the student makes in one step.
    """
    scheduler = few_step_scheduler(teacher.scheduler)
    noise_schedule = _NoiseSchedule.of(scheduler)
    guidance_scale = float(configuration.sampling["guidance_scale"])
    schedule = configuration.training["consistency"]
    mine = share(schedule.batch_size)
    student = copy.deepcopy(teacher.vcdit).requires_grad_(True)
    pipeline = SVDRRPipeline(
        vae=teacher.vae,
        vcdit=student,
        image_encoder=teacher.image_encoder,
        scheduler=scheduler,
        lifting=teacher.lifting,
    )
    if schedule.gradient_checkpointing:
        student.transformer.enable_gradient_checkpointing()
    for part in (teacher.vcdit, teacher.image_encoder):
        part.requires_grad_(False).to(PartialState().device)

    def loss_at(step: int) -> Tensor:
        generator = np.random.default_rng((seed, step))
        batch = latents.draw(schedule.batch_size, generator)
        noise = generator.standard_normal((schedule.batch_size, *batch.target.shape[1:]), np.float32)
        segments = generator.integers(1, scheduler.config.original_inference_steps + 1, size=schedule.batch_size)
        later = on_device(SKIPPED_TIMESTEPS * segments[mine] - 1).long()
        earlier = (later - SKIPPED_TIMESTEPS).clamp(min=0)

        noised = noise_schedule.add_noise(batch.target, on_device(noise[mine]), later)
        given = batch.given_latents
        with torch.no_grad():
            tokens = image_tokens(teacher.image_encoder, batch.source)
            condition = teacher.vcdit.condition(tokens, batch.encoding)
            conditional = teacher.vcdit(noised, later, given, condition)
            unconditional = teacher.vcdit(noised, later, 0.0 * given, 0.0 * condition)
            guided = unconditional + guidance_scale * (conditional - unconditional)
            less_noised = noise_schedule.add_noise(*noise_schedule.split(noised, guided, later), earlier)
            condition = student.condition(tokens, batch.encoding)
            aim = noise_schedule.consistent(less_noised, student(less_noised, earlier, given, condition), earlier)
        condition = student.condition(tokens, batch.encoding)
        predicted = noise_schedule.consistent(noised, student(noised, later, given, condition), later)
        return functional.huber_loss(predicted, aim, delta=HUBER_DELTA) / HUBER_DELTA

    train(
        student,
        loss_at,
        schedule,
        directory,
        save_every,
        mixed_precision,
        picture=lambda: sample_picture(few_step_configuration(configuration), pipeline, latents, seed),
        on_step=on_step,
    )
    student.transformer.disable_gradient_checkpointing()
    return pipeline


@dataclass(frozen=True, eq=False)
class _NoiseSchedule:
    """noised = signal · latent + sigma · noise, both (timesteps,); c_skip and c_out: LCM's boundary scalings."""

    prediction_type: str
    signal: Tensor
    sigma: Tensor
    c_skip: Tensor
    c_out: Tensor

    @classmethod
    def of(cls, scheduler: LCMScheduler) -> _NoiseSchedule:
        timesteps = torch.arange(scheduler.config.num_train_timesteps, dtype=torch.float64)
        c_skip, c_out = scheduler.get_scalings_for_boundary_condition_discrete(timesteps)
        kept = scheduler.alphas_cumprod
        values = (kept.sqrt(), (1 - kept).sqrt(), c_skip, c_out)
        return cls(scheduler.config.prediction_type, *(on_device(value.numpy()) for value in values))

    def add_noise(self, latent: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        return _at(self.signal, timestep) * latent + _at(self.sigma, timestep) * noise

    def split(self, noised: Tensor, predicted: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """The latent and the noise that a prediction (the velocity or the noise) says `noised` is made of."""
        signal, sigma = _at(self.signal, timestep), _at(self.sigma, timestep)
        if self.prediction_type == "v_prediction":
            return signal * noised - sigma * predicted, sigma * noised + signal * predicted
        return (noised - sigma * predicted) / signal, predicted

    def consistent(self, noised: Tensor, predicted: Tensor, timestep: Tensor) -> Tensor:
        """The consistency function: at timestep 0 nearly `noised` itself."""
        latent, _ = self.split(noised, predicted, timestep)
        return _at(self.c_skip, timestep) * noised + _at(self.c_out, timestep) * latent


def _at(values: Tensor, timestep: Tensor) -> Tensor:
    return values[timestep][:, None, None, None]
