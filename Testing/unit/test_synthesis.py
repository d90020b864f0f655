"""VCDiT, its pipeline and its configurations, on small random networks and on the paper's on the meta device."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from transformers import CLIPVisionConfig, CLIPVisionModel

from svdrr.errors import SVDRRError
from svdrr.geometry import CArmPose, relative_view_encoding
from svdrr.models.write import write_model
from svdrr.synthesis.configuration import (
    configuration_names,
    load_configuration,
    make_image_encoder,
    make_pipeline,
    make_vae,
)
from svdrr.synthesis.pipeline import SVDRRPipeline, decode_latents, encode_latents, image_tokens
from svdrr.synthesis.vcdit import VCDiT

VIEWS = [relative_view_encoding(CArmPose(), CArmPose(angle)) for angle in (-60.0, 30.0, 90.0)]


@pytest.fixture(scope="module")
def pipeline() -> SVDRRPipeline:
    torch.manual_seed(3)
    demo = load_configuration("demo-128")
    small = dataclasses.replace(demo, vcdit={**demo.vcdit, "num_layers": 2, "back_projection_mm": None})
    pipeline = make_pipeline(small)
    pipeline.set_progress_bar_config(disable=True)
    # Zero-initialized outputs would hide differences between conditions.
    torch.nn.init.normal_(pipeline.vcdit.transformer.proj_out.weight, std=0.2)
    return pipeline


@pytest.fixture(scope="module")
def radiograph() -> np.ndarray:
    return np.random.default_rng(0).random((128, 128), np.float32)


def test_a_saved_pipeline_loads_to_the_same_views(pipeline, radiograph, tmp_path) -> None:
    before = pipeline(radiograph, VIEWS, num_inference_steps=3)
    pipeline.save_pretrained(tmp_path / "saved", safe_serialization=True)
    assert not list((tmp_path / "saved").rglob("*.bin"))
    loaded = SVDRRPipeline.from_pretrained(tmp_path / "saved", local_files_only=True, use_safetensors=True)
    assert loaded.scheduler.config.prediction_type == "v_prediction"
    np.testing.assert_allclose(loaded(radiograph, VIEWS, num_inference_steps=3), before, atol=1e-4)


def test_a_written_model_does_not_tell_its_authors_folders(pipeline: SVDRRPipeline, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path / "authors", safe_serialization=True)
    write_model(tmp_path / "model", SVDRRPipeline.from_pretrained(tmp_path / "authors"), {"name": "mine"})
    told = [file.read_text(encoding="utf-8") for file in (tmp_path / "model").rglob("*.json")]
    assert len(told) >= 5
    assert not any(str(tmp_path) in text for text in told)
    SVDRRPipeline.from_pretrained(tmp_path / "model")


def test_views_have_the_model_s_size_and_range(pipeline, radiograph) -> None:
    views = pipeline(radiograph, VIEWS, num_inference_steps=2)
    assert views.shape == (3, 128, 128)
    assert views.dtype == np.float32
    assert 0.0 <= views.min() <= views.max() <= 1.0


def test_a_view_does_not_depend_on_its_batch(pipeline, radiograph) -> None:
    together = pipeline(radiograph, VIEWS, num_inference_steps=3, batch_size=3)
    one_by_one = pipeline(radiograph, VIEWS, num_inference_steps=3, batch_size=1)
    alone = pipeline(radiograph, VIEWS[1:2], num_inference_steps=3)
    np.testing.assert_allclose(together, one_by_one, atol=1e-4)
    np.testing.assert_allclose(alone[0], together[1], atol=1e-4)


def test_seed_source_and_view_each_change_the_result(pipeline, radiograph) -> None:
    base = pipeline(radiograph, VIEWS[:1], num_inference_steps=3)
    np.testing.assert_array_equal(base, pipeline(radiograph, VIEWS[:1], num_inference_steps=3))
    for other in (
        pipeline(radiograph, VIEWS[:1], num_inference_steps=3, seed=1),
        pipeline(radiograph[::-1].copy(), VIEWS[:1], num_inference_steps=3),
        pipeline(radiograph, VIEWS[1:2], num_inference_steps=3),
        pipeline(radiograph, VIEWS[:1], num_inference_steps=3, guidance_scale=1.0),
    ):
        assert np.abs(other - base).max() > 1e-4


def test_guidance_of_one_is_the_conditional_model(pipeline, radiograph) -> None:
    """Against the sampler written out: diffusers' scheduler and one conditional call per step."""
    source = torch.from_numpy(radiograph)[None]
    with torch.no_grad():
        source_latent = encode_latents(pipeline.vae, source)
        view = torch.tensor(np.array(VIEWS[:1]), dtype=torch.float32)
        condition = pipeline.vcdit.condition(image_tokens(pipeline.image_encoder, source), view)
        scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
        scheduler.set_timesteps(4)
        latent = torch.from_numpy(np.random.default_rng(7).standard_normal((1, 4, 16, 16))).float()
        for timestep in scheduler.timesteps:
            velocity = pipeline.vcdit(latent, timestep[None], source_latent, condition)
            latent = scheduler.step(velocity, timestep, latent).prev_sample
        expected = decode_latents(pipeline.vae, latent).numpy()
    sampled = pipeline(radiograph, VIEWS[:1], num_inference_steps=4, guidance_scale=1.0, seed=7)
    np.testing.assert_allclose(sampled, expected, atol=1e-5)


def test_the_null_condition_carries_nothing(pipeline) -> None:
    """A guided prediction starts from a null condition in which neither image nor view remains."""
    latent = torch.randn(1, 4, 16, 16)
    null = torch.zeros(1, 64, 192)
    with torch.no_grad():
        first = pipeline.vcdit(latent, torch.tensor([500]), torch.zeros_like(latent), null)
        second = pipeline.vcdit(latent, torch.tensor([500]), torch.ones_like(latent), null)
    assert torch.isfinite(first).all()
    assert (first - second).abs().max() > 1e-4, "the source latent must reach the network"


def test_progress_counts_every_step_and_can_cancel(pipeline, radiograph) -> None:
    seen: list[tuple[int, int]] = []
    pipeline(radiograph, VIEWS, num_inference_steps=2, batch_size=2, on_step=lambda *step: seen.append(step))
    assert seen == [(2, 6), (4, 6), (5, 6), (6, 6)]

    class CancelledError(Exception):
        pass

    def cancel(finished: int, total: int) -> None:
        raise CancelledError

    with pytest.raises(CancelledError):
        pipeline(radiograph, VIEWS, num_inference_steps=2, on_step=cancel)


def test_a_radiograph_of_another_size_is_refused(pipeline) -> None:
    with pytest.raises(ValueError, match="128 x 128"):
        pipeline(np.zeros((64, 64), np.float32), VIEWS)


def test_the_image_part_of_the_projection_starts_as_the_identity() -> None:
    vcdit = VCDiT(sample_size=4, num_layers=1, num_attention_heads=2, attention_head_dim=16, image_embedding_dim=32)
    tokens = torch.randn(2, 5, 32)
    torch.testing.assert_close(vcdit.condition(tokens, torch.zeros(2, 4)), tokens)


def test_clip_tokens_take_the_place_of_the_demo_encoder() -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    clip = CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=28, patch_size=14))
    tokens = image_tokens(clip, torch.rand(2, 64, 64))
    assert tokens.shape == (2, 1 + 4, 32)


@pytest.mark.parametrize(("name", "side"), [("paper-256", 256), ("paper-512", 512), ("paper-1024", 1024)])
def test_paper_configurations_have_the_paper_s_size(name: str, side: int) -> None:
    """PixArt-Sigma-XL/2 has 28 layers of 16 x 72 and about 0.6 billion parameters [sv-drr, 3.2 and 4.2]."""
    configuration = load_configuration(name)
    with torch.device("meta"):
        vcdit = VCDiT(**configuration.vcdit)
        vae = make_vae(configuration)
        encoder = make_image_encoder(configuration)
    assert sum(parameter.numel() for parameter in vcdit.parameters()) == pytest.approx(0.605e9, rel=0.02)
    assert vcdit.transformer.config.sample_size * 8 == side == configuration.resolution
    assert vcdit.transformer.pos_embed.proj.in_channels == 8
    assert vae.config.scaling_factor == 0.13025
    assert encoder.config.hidden_size == configuration.vcdit["image_embedding_dim"]
    assert configuration.sampling == {"num_inference_steps": 20, "guidance_scale": 3.0}
    schedule = configuration.training["vcdit"]
    published = {256: (200_000, 64, 5e-6), 512: (100_000, 32, 3e-6), 1024: (100_000, 8, 1e-6)}[side]
    assert (schedule.steps, schedule.batch_size, schedule.learning_rate) == published


def test_configurations_are_listed_and_unknown_ones_refused() -> None:
    assert configuration_names() == ["demo-128", "demo-256", "paper-256", "paper-512", "paper-1024"]
    with pytest.raises(SVDRRError, match="paper-512"):
        load_configuration("paper-2048")
