"""Training VCDiT: what it learns from, what it learns, and what stays as it is."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from svdrr.errors import SVDRRError
from svdrr.synthesis.configuration import ModelConfiguration, Schedule, load_configuration, make_pipeline
from svdrr.synthesis.pipeline import SVDRRPipeline, encode_latents, image_tokens
from svdrr.synthesis.training import latents as latents_module
from svdrr.synthesis.training.latents import LatentSet, cache_latents, weights_sha256
from svdrr.synthesis.training.vcdit import begin_from, train_vcdit

SCHEDULE = Schedule(steps=100, batch_size=16, learning_rate=3e-3, warmup_steps=10, ema_decay=0.9)
CLIP = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}


def small(**schedule: object) -> ModelConfiguration:
    demo = load_configuration("demo-128")
    return dataclasses.replace(
        demo,
        resolution=32,
        vae={**demo.vae, "block_out_channels": [16, 16, 16, 16]},
        vcdit={
            **demo.vcdit,
            "sample_size": 4,
            "num_layers": 2,
            "num_attention_heads": 2,
            "image_embedding_dim": 64,
            "back_projection_mm": None,
        },
        image_encoder={**demo.image_encoder, "image_size": 32, "hidden_size": 64},
        sampling={"num_inference_steps": 2, "guidance_scale": 1.5},
        training={"vcdit": dataclasses.replace(SCHEDULE, **schedule)},
    )


def pipeline_of(configuration: ModelConfiguration) -> SVDRRPipeline:
    torch.manual_seed(0)
    return make_pipeline(configuration)


def two_views() -> LatentSet:
    """Two views with opposite latents: in pure noise nothing but the condition says which one is wanted."""
    latents = np.ones((4, 2, 4, 4, 4), np.float32)
    latents[:, 1] = -1.0
    encodings = np.tile(np.array([[0, 0, 1, 0], [0, 1, 0, 0]], np.float32), (4, 1, 1, 1))
    return LatentSet(latents, np.full((4, 1, 32, 32), 20000, np.uint16), latents[:, :1], encodings)


def test_vcdit_learns_which_latent_belongs_to_which_view(tmp_path: Path) -> None:
    configuration, data = small(), two_views()
    pipeline = pipeline_of(configuration)
    train_vcdit(configuration, pipeline, data, tmp_path, seed=0)
    with torch.no_grad():
        source = torch.from_numpy(data.sources[:2, 0].astype(np.float32) / 65535.0)
        tokens = image_tokens(pipeline.image_encoder, source)
        condition = pipeline.vcdit.condition(tokens, torch.from_numpy(data.encodings[0, 0]))
        noise = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0)).expand(2, -1, -1, -1)
        # At the last timestep the velocity is minus the clean latent, but for 0.6 % of noise.
        last = torch.tensor([999, 999])
        velocity = pipeline.vcdit(noise, last, torch.from_numpy(data.source_latents[:2, 0]), condition)
    assert velocity[0].mean() < -0.5
    assert velocity[1].mean() > 0.5


def test_a_sample_s_parts_belong_together() -> None:
    """Each number of the set says where it comes from: 100 x volume + 10 x source + view."""
    volumes, n_sources, views = 5, 3, 7
    volume, source, view = np.ogrid[:volumes, :n_sources, :views]
    data = LatentSet(
        latents=np.broadcast_to((100 * volume[:, 0] + view[:, 0])[..., None, None, None], (volumes, views, 4, 2, 2)),
        sources=np.broadcast_to(
            (100 * volume + 10 * source)[..., 0][..., None, None], (volumes, n_sources, 8, 8)
        ).astype(np.uint16),
        source_latents=np.broadcast_to(
            (100 * volume + 10 * source)[..., 0][..., None, None, None], (volumes, n_sources, 4, 2, 2)
        ),
        encodings=np.broadcast_to(
            (100 * volume + 10 * source + view)[..., None], (volumes, n_sources, views, 4)
        ).astype(np.float32),
    )
    batch = data.draw(400, np.random.default_rng(0))
    number = batch.encoding[:, 0].numpy().astype(int)
    drawn_volume, drawn_source, drawn_view = number // 100, number // 10 % 10, number % 10
    for drawn, count in ((drawn_volume, volumes), (drawn_source, n_sources), (drawn_view, views)):
        assert set(drawn) == set(range(count))
    np.testing.assert_array_equal(batch.target[:, 0, 0, 0], 100 * drawn_volume + drawn_view)
    np.testing.assert_array_equal(batch.given_latents[:, 0, 0, 0], 100 * drawn_volume + 10 * drawn_source)
    np.testing.assert_allclose(batch.source[:, 0, 0] * 65535.0, 100 * drawn_volume + 10 * drawn_source, rtol=1e-5)
    np.testing.assert_array_equal(batch.volumes, drawn_volume)
    np.testing.assert_array_equal(batch.source_numbers, drawn_source)


def test_the_demo_s_encoder_learns_and_clip_does_not(tmp_path: Path) -> None:
    for name, encoder, learns in (
        ("demo", small().image_encoder, True),
        ("clip", {"class": "CLIPVisionModel", **CLIP, "image_size": 28, "patch_size": 14}, False),
    ):
        configuration = small(steps=3)
        dim = encoder["hidden_size"]
        configuration = dataclasses.replace(
            configuration, image_encoder=encoder, vcdit={**configuration.vcdit, "image_embedding_dim": dim}
        )
        pipeline = pipeline_of(configuration)
        parts = {part: weights_sha256(getattr(pipeline, part)) for part in ("vae", "vcdit", "image_encoder")}
        train_vcdit(configuration, pipeline, two_views(), tmp_path / name, seed=0)
        assert weights_sha256(pipeline.vae) == parts["vae"]
        assert weights_sha256(pipeline.vcdit) != parts["vcdit"]
        assert (weights_sha256(pipeline.image_encoder) != parts["image_encoder"]) == learns


def test_gradient_checkpointing_changes_no_weight(tmp_path: Path) -> None:
    trained = []
    for switched_on in (False, True):
        configuration = small(steps=4, gradient_checkpointing=switched_on)
        pipeline = pipeline_of(configuration)
        computed: list[bool] = []
        block = pipeline.vcdit.transformer.transformer_blocks[0]
        block.register_forward_pre_hook(lambda *_, seen=computed: seen.append(torch.is_grad_enabled()))
        train_vcdit(configuration, pipeline, two_views(), tmp_path / str(switched_on), seed=0)
        # Four steps; with checkpoints, every block computes twice in each.
        assert sum(computed) == (8 if switched_on else 4)
        trained.append(pipeline.vcdit.state_dict())
    for name, value in trained[0].items():
        torch.testing.assert_close(trained[1][name], value, rtol=1e-5, atol=1e-7)


def test_beginning_from_another_architecture_names_a_weight() -> None:
    start = pipeline_of(small())
    narrow = dataclasses.replace(small(), vcdit={**small().vcdit, "image_embedding_dim": 32})
    with pytest.raises(
        SVDRRError, match=r"'view_projection\.weight' has shape \(64, 68\) and not \(64, 36\) \(1 such weights in all\)"
    ):
        begin_from(narrow, start)
    with pytest.raises(SVDRRError, match="makes images of 32 pixels, not 64"):
        begin_from(dataclasses.replace(small(), resolution=64), start)


# Latents


@pytest.fixture
def images() -> np.ndarray:
    """Radiographs of 3 volumes, 6 views each."""
    return np.random.default_rng(1).random((3, 6, 32, 32), np.float32)


def cached(pipeline: SVDRRPipeline, images: np.ndarray, folder: Path, identity: str = "one"):
    return cache_latents(
        pipeline.vae, (3, 6, 32), lambda volume: iter(images[volume]), [0, 4], folder, {"images": identity}
    )


def test_latents_are_those_of_the_vae_in_half_precision(images: np.ndarray, tmp_path: Path) -> None:
    pipeline = pipeline_of(small())
    latents, sources = cached(pipeline, images, tmp_path / "latents")
    with torch.no_grad():
        expected = encode_latents(pipeline.vae, torch.from_numpy(images.reshape(-1, 32, 32))).reshape(3, 6, 4, 4, 4)
    assert latents.dtype == np.float16
    np.testing.assert_allclose(latents, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(sources / 65535.0, images[:, [0, 4]], atol=1e-5)


def test_what_was_encoded_before_a_stop_is_not_encoded_again(
    images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = pipeline_of(small())
    expected, _ = cached(pipeline, images, tmp_path / "whole")
    encoded: list[int] = []

    def recording(vae, radiographs):
        encoded.append(len(radiographs))
        return encode_latents(vae, radiographs)

    def stopping(vae, radiographs):
        if sum(encoded) == 10:
            raise KeyboardInterrupt
        return recording(vae, radiographs)

    monkeypatch.setattr(latents_module, "encode_latents", stopping)
    with pytest.raises(KeyboardInterrupt):
        cached(pipeline, images, tmp_path / "stopped")
    # One volume of 6 and 4 views of the second are done; the second starts anew.
    encoded.clear()
    monkeypatch.setattr(latents_module, "encode_latents", recording)
    latents, sources = cached(pipeline, images, tmp_path / "stopped")
    assert sum(encoded) == 12
    np.testing.assert_array_equal(latents, expected)
    np.testing.assert_allclose(sources / 65535.0, images[:, [0, 4]], atol=1e-5)


def test_latents_of_other_images_or_of_another_size_are_refused(images: np.ndarray, tmp_path: Path) -> None:
    pipeline = pipeline_of(small())
    cached(pipeline, images, tmp_path / "latents")
    with pytest.raises(SVDRRError, match="holds latents of other images or of another VAE"):
        cached(pipeline, images, tmp_path / "latents", identity="two")
    (tmp_path / "latents" / "finished.npy").write_bytes(b"")
    with pytest.raises(SVDRRError, match=r"finished\.npy' is missing or damaged"):
        cached(pipeline, images, tmp_path / "latents")


def test_a_volume_with_too_few_views_is_refused(images: np.ndarray, tmp_path: Path) -> None:
    pipeline = pipeline_of(small())
    with pytest.raises(SVDRRError, match="has 5 views instead of 6"):
        cached(pipeline, images[:, :5], tmp_path / "latents")
