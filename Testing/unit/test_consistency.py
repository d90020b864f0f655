"""Few steps: the arithmetic against diffusers' own schedulers, and a distilled model in the pipeline."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, LCMScheduler

from svdrr.errors import SVDRRError
from svdrr.geometry import CArmPose, relative_view_encoding
from svdrr.synthesis.configuration import ModelConfiguration, Schedule, load_configuration, make_pipeline
from svdrr.synthesis.pipeline import SVDRRPipeline, encode_latents
from svdrr.synthesis.training.consistency import _NoiseSchedule, distill, few_step_scheduler
from svdrr.synthesis.training.latents import LatentSet

PREDICTIONS = ("epsilon", "v_prediction")
VIEWS = np.array([relative_view_encoding(CArmPose(), CArmPose(angle)) for angle in (-60.0, 30.0, 90.0)])


def schedules(prediction_type: str) -> tuple[LCMScheduler, _NoiseSchedule]:
    scheduler = few_step_scheduler(DPMSolverMultistepScheduler(prediction_type=prediction_type))
    return scheduler, _NoiseSchedule.of(scheduler)


def normal(*seeds: int) -> list[torch.Tensor]:
    return [torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in seeds]


def test_the_noise_is_that_of_the_model_s_own_sampler() -> None:
    own = DPMSolverMultistepScheduler(prediction_type="v_prediction")
    scheduler, schedule = schedules("v_prediction")
    torch.testing.assert_close(scheduler.alphas_cumprod, own.alphas_cumprod)
    latent, noise = normal(0, 1)
    timestep = torch.tensor([19, 499, 999])
    # The solver knows timesteps only after they are set.
    own.set_timesteps(1000)
    torch.testing.assert_close(schedule.add_noise(latent, noise, timestep), own.add_noise(latent, noise, timestep))


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_a_right_prediction_gives_back_latent_and_noise(prediction_type: str) -> None:
    _, schedule = schedules(prediction_type)
    latent, noise = (values.double() for values in normal(0, 1))
    schedule = dataclasses.replace(schedule, signal=schedule.signal.double(), sigma=schedule.sigma.double())
    timestep = torch.tensor([0, 499, 999])
    signal, sigma = (values[timestep][:, None, None, None] for values in (schedule.signal, schedule.sigma))
    right = noise if prediction_type == "epsilon" else signal * noise - sigma * latent
    found = schedule.split(schedule.add_noise(latent, noise, timestep), right, timestep)
    # alphas_cumprod have single precision, and noise is divided by their root, which ends at 0.006.
    torch.testing.assert_close(found, (latent, noise), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_a_step_to_less_noise_is_that_of_ddim(prediction_type: str) -> None:
    scheduler, schedule = schedules(prediction_type)
    peer = DDIMScheduler.from_config(scheduler.config, timestep_spacing="trailing", clip_sample=False)
    peer.set_timesteps(50)
    noised, predicted = normal(2, 3)
    later, earlier = torch.full((3,), 599), torch.full((3,), 579)
    less_noised = schedule.add_noise(*schedule.split(noised, predicted, later), earlier)
    torch.testing.assert_close(less_noised, peer.step(predicted, 599, noised).prev_sample, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_what_is_trained_is_what_the_sampler_takes(prediction_type: str) -> None:
    scheduler, schedule = schedules(prediction_type)
    scheduler.set_timesteps(1)
    noised, predicted = normal(2, 3)
    timestep = scheduler.timesteps[0]
    assert timestep == 999
    sampled = scheduler.step(predicted, timestep, noised).denoised
    torch.testing.assert_close(schedule.consistent(noised, predicted, timestep.expand(3)), sampled)


def test_without_noise_the_consistency_function_changes_nothing() -> None:
    """The boundary condition of [lcmsr, eq. 6], without which a constant would be the best student."""
    _, schedule = schedules("v_prediction")
    noised, predicted = normal(2, 3)
    torch.testing.assert_close(schedule.consistent(noised, predicted, torch.zeros(3, dtype=torch.long)), noised)


# A small model


@pytest.fixture(scope="module")
def small() -> ModelConfiguration:
    demo = load_configuration("demo-128")
    return dataclasses.replace(
        demo,
        name="small",
        resolution=32,
        vae={**demo.vae, "block_out_channels": [16, 16, 16, 16], "sample_size": 32},
        vcdit={
            **demo.vcdit,
            "sample_size": 4,
            "num_layers": 2,
            "num_attention_heads": 2,
            "image_embedding_dim": 64,
            "back_projection_mm": None,
        },
        image_encoder={**demo.image_encoder, "image_size": 32, "hidden_size": 64},
        training={"consistency": Schedule(60, 8, 2e-3, 5, 0.9)},
    )


@pytest.fixture(scope="module")
def teacher(small: ModelConfiguration) -> SVDRRPipeline:
    torch.manual_seed(3)
    pipeline = make_pipeline(small)
    # Zero-initialized outputs would hide differences between conditions.
    torch.nn.init.normal_(pipeline.vcdit.transformer.proj_out.weight, std=0.3)
    return pipeline


@pytest.fixture(scope="module")
def source() -> np.ndarray:
    return np.random.default_rng(0).random((32, 32), np.float32)


@pytest.fixture(scope="module")
def latents(teacher: SVDRRPipeline, source: np.ndarray) -> LatentSet:
    with torch.no_grad():
        source_latent = encode_latents(teacher.vae, torch.from_numpy(source[None])).numpy()
    targets = np.random.default_rng(1).standard_normal((1, 3, *source_latent.shape[1:]), np.float32)
    sources = np.round(source * 65535.0).astype(np.uint16)[None, None]
    return LatentSet(targets, sources, source_latent[None], VIEWS[None, None].astype(np.float32))


@pytest.fixture(scope="module")
def student(
    teacher: SVDRRPipeline,
    small: ModelConfiguration,
    latents: LatentSet,
    tmp_path_factory: pytest.TempPathFactory,
) -> SVDRRPipeline:
    return distill(teacher, small, latents, tmp_path_factory.mktemp("run"), seed=0)


def test_the_student_s_one_step_comes_nearer_to_all_steps_of_the_teacher(
    teacher: SVDRRPipeline, student: SVDRRPipeline, source: np.ndarray
) -> None:
    many = teacher(source, VIEWS, num_inference_steps=50, guidance_scale=1.5)
    one = student(source, VIEWS, num_inference_steps=1, guidance_scale=1.0)
    untrained = SVDRRPipeline(
        vae=teacher.vae, vcdit=teacher.vcdit, image_encoder=teacher.image_encoder, scheduler=student.scheduler
    )(source, VIEWS, num_inference_steps=1, guidance_scale=1.0)
    assert np.abs(one - many).mean() < 0.9 * np.abs(untrained - many).mean()


def test_the_teacher_stays_as_it_was(teacher: SVDRRPipeline, student: SVDRRPipeline) -> None:
    assert isinstance(teacher.scheduler, DPMSolverMultistepScheduler)
    pairs = zip(teacher.vcdit.parameters(), student.vcdit.parameters(), strict=True)
    assert any(not torch.equal(before, after) for before, after in pairs)
    assert student.vae is teacher.vae


def test_activations_computed_twice_and_bfloat16_change_little(
    teacher: SVDRRPipeline, small: ModelConfiguration, latents: LatentSet, tmp_path: Path
) -> None:
    def weights(folder: str, mixed_precision: str, checkpointing: bool) -> torch.Tensor:
        schedule = Schedule(3, 8, 2e-3, 1, 0.0, gradient_checkpointing=checkpointing)
        configuration = dataclasses.replace(small, training={"consistency": schedule})
        distilled = distill(teacher, configuration, latents, tmp_path / folder, 0, mixed_precision=mixed_precision)
        return torch.cat([parameter.detach().flatten() for parameter in distilled.vcdit.parameters()])

    plain = weights("plain", "no", False)
    torch.testing.assert_close(weights("twice", "no", True), plain)
    half = weights("half", "bf16", False)
    assert half.dtype == torch.float32
    before = torch.cat([parameter.detach().flatten() for parameter in teacher.vcdit.parameters()])
    assert 0.0 < (half - plain).norm() < 0.5 * (plain - before).norm()


def test_a_saved_student_keeps_its_sampler(student: SVDRRPipeline, source: np.ndarray, tmp_path: Path) -> None:
    student.save_pretrained(tmp_path / "saved", safe_serialization=True)
    loaded = SVDRRPipeline.from_pretrained(tmp_path / "saved", local_files_only=True, use_safetensors=True)
    assert isinstance(loaded.scheduler, LCMScheduler)
    np.testing.assert_allclose(loaded(source, VIEWS, 4, 1.0), student(source, VIEWS, 4, 1.0), atol=1e-4)


def test_a_view_of_several_steps_does_not_depend_on_the_others(student: SVDRRPipeline, source: np.ndarray) -> None:
    together = student(source, VIEWS, 4, 1.0, seed=5)
    for index in range(3):
        alone = student(source, VIEWS[index : index + 1], 4, 1.0, seed=5)
        np.testing.assert_allclose(alone[0], together[index], atol=1e-4)
    assert np.abs(student(source, VIEWS, 4, 1.0, seed=6) - together).max() > 1e-3


def test_more_steps_than_it_has_are_refused(student: SVDRRPipeline, source: np.ndarray) -> None:
    with pytest.raises(SVDRRError, match="takes 1 to 50 steps, not 51"):
        student(source, VIEWS, 51, 1.0)
