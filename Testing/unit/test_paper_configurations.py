"""The paper's configurations: full size on the meta device; in depth-cut copies, computing and learning."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import PixArtTransformer2DModel

from svdrr.models.import_pixart import vcdit_weights
from svdrr.synthesis.configuration import load_configuration, make_image_encoder, make_pipeline, make_vae
from svdrr.synthesis.pipeline import encode_latents
from svdrr.synthesis.training import vcdit as vcdit_module
from svdrr.synthesis.training.latents import LatentSet
from svdrr.synthesis.training.vcdit import begin_from, train_vcdit
from svdrr.synthesis.vcdit import VCDiT

RUNGS = ("paper-256", "paper-512", "paper-1024")


def on_meta(name: str) -> VCDiT:
    with torch.device("meta"):
        return VCDiT(**load_configuration(name).vcdit)


def pixart_on_meta(sample_size: int) -> PixArtTransformer2DModel:
    """As the published config.json files of PixArt-Sigma-XL-2 have it."""
    with torch.device("meta"):
        return PixArtTransformer2DModel(
            sample_size=sample_size,
            num_layers=28,
            num_attention_heads=16,
            attention_head_dim=72,
            in_channels=4,
            out_channels=8,
            cross_attention_dim=1152,
            caption_channels=4096,
            use_additional_conditions=False,
            interpolation_scale=sample_size / 64,
        )


@pytest.mark.parametrize("name", RUNGS)
def test_the_architecture_is_pixart_s_but_for_what_the_paper_changes(name: str) -> None:
    """Every weight by name and shape, from diffusers' own PixArt through the import's surgery."""
    vcdit = on_meta(name)
    pixart = pixart_on_meta(vcdit.config.sample_size)
    kept = {key: value for key, value in pixart.state_dict().items() if not key.startswith("caption_projection.")}
    expected = {f"transformer.{key}": value.shape for key, value in vcdit_weights(kept, 2).items()}
    expected |= {"view_projection.weight": (1152, 1024 + 4), "view_projection.bias": (1152,)}
    assert {key: value.shape for key, value in vcdit.state_dict().items()} == expected
    changed = {key for key, value in kept.items() if expected[f"transformer.{key}"] != value.shape}
    assert changed == {"pos_embed.proj.weight", "proj_out.weight", "proj_out.bias"}


def test_sizes() -> None:
    """Counted by hand for the blocks of 28 x (16 x 72), and close to the 0.6 billion of PixArt-Sigma."""
    width, layers = 1152, 28
    attention = 4 * (width * width + width)
    feed_forward = width * 4 * width + 4 * width + 4 * width * width + width
    blocks = layers * (2 * attention + feed_forward + 6 * width)
    time = (256 * width + width) + (width * width + width) + (width * 6 * width + 6 * width)
    patches = (8 * 4 * width + width) + (width * 16 + 16) + 2 * width
    view = (1024 + 4) * width + width
    counts = {name: sum(parameter.numel() for parameter in on_meta(name).parameters()) for name in RUNGS}
    assert set(counts.values()) == {blocks + time + patches + view}
    assert counts["paper-256"] == pytest.approx(605e6, rel=0.01)
    with torch.device("meta"):
        vae, clip = (make(load_configuration("paper-256")) for make in (make_vae, make_image_encoder))
    # The published sizes of the SDXL VAE and of CLIP ViT-L/14's image tower.
    assert sum(parameter.numel() for parameter in vae.parameters()) == pytest.approx(83.7e6, rel=0.002)
    assert sum(parameter.numel() for parameter in clip.parameters()) == pytest.approx(303e6, rel=0.002)


@pytest.mark.parametrize(
    ("name", "published"), list(zip(RUNGS, [(200_000, 64, 5e-6), (100_000, 32, 3e-6), (100_000, 8, 1e-6)], strict=True))
)
def test_the_schedules_are_the_published_ones(name: str, published: tuple[int, int, float]) -> None:
    """[sv-drr, 4.2]; of a falling rate it says nothing, so the rate stays after the warm-up."""
    schedule = load_configuration(name).training["vcdit"]
    assert (schedule.steps, schedule.batch_size, schedule.learning_rate) == published
    assert schedule.decay == "constant"
    assert schedule.gradient_checkpointing == (name != "paper-256")


@pytest.mark.parametrize("name", RUNGS)
def test_each_rung_can_be_distilled_to_few_steps(name: str) -> None:
    """With the learning rate of Luo et al., 2023, and on the memory that the rung's training takes."""
    training = load_configuration(name).training
    schedule, trained = training["consistency"], training["vcdit"]
    assert (schedule.steps, schedule.learning_rate, schedule.ema_decay) == (10_000, 8e-6, 0.95)
    assert schedule.batch_size == trained.batch_size
    assert schedule.gradient_checkpointing == trained.gradient_checkpointing


# From one rung to the next


def cut(name: str, **changed: object):
    """The configuration with two thin layers, which leaves the patch grid and the positions as they are."""
    configuration = load_configuration(name)
    thin = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 16, "image_embedding_dim": 24}
    small_vae = {**configuration.vae, "block_out_channels": [8, 8, 8, 8], "norm_num_groups": 4, "layers_per_block": 1}
    clip = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    return dataclasses.replace(
        configuration,
        vcdit={**configuration.vcdit, **thin},
        vae=small_vae,
        image_encoder={**configuration.image_encoder, **clip},
        **changed,
    )


@pytest.mark.parametrize(("lower", "upper"), [RUNGS[:2], RUNGS[1:]])
def test_the_next_rung_has_all_weights_bit_for_bit_and_only_more_positions(lower: str, upper: str) -> None:
    torch.manual_seed(0)
    before = make_pipeline(cut(lower))
    after = begin_from(cut(upper), before)
    old, new = before.vcdit.state_dict(), after.vcdit.state_dict()
    assert old.keys() == new.keys()
    assert all(torch.equal(old[name], new[name]) for name in old)
    assert after.vae is before.vae
    assert after.image_encoder is before.image_encoder
    buffers = [dict(pipeline.vcdit.named_buffers()) for pipeline in (before, after)]
    assert buffers[0].keys() == buffers[1].keys() == {"transformer.pos_embed.pos_embed"}
    coarse, fine = (
        buffer["transformer.pos_embed.pos_embed"].reshape(side, side, -1)
        for buffer, side in zip(buffers, (load_configuration(n).resolution // 16 for n in (lower, upper)), strict=True)
    )
    assert len(fine) == 2 * len(coarse)
    # Every second patch of the finer grid is a patch of the coarse one, bit for bit; the others lie between.
    assert torch.equal(fine[::2, ::2], coarse)
    assert not torch.equal(fine[1::2, ::2], coarse)
    assert after.resolution == 2 * before.resolution


@pytest.mark.parametrize("name", RUNGS)
def test_positions_are_sines_and_cosines_over_one_range_at_every_resolution(name: str) -> None:
    """Against the formula, in double precision: patch i of n lies at 32 i / n, whatever n is.

    So between two patches of a coarser grid stand the values of the same functions halfway between, an exact
    interpolation, and none of a learned table.
    """
    configuration = cut(name)
    side = configuration.resolution // 16
    table = VCDiT(**configuration.vcdit).transformer.pos_embed.pos_embed.reshape(side, side, -1).double().numpy()
    place = 32.0 * np.arange(side) / side
    quarter = table.shape[-1] // 4
    frequency = 10000.0 ** -(np.arange(quarter) / quarter)
    one_axis = np.concatenate([np.sin(np.outer(place, frequency)), np.cos(np.outer(place, frequency))], axis=1)
    columns = np.broadcast_to(one_axis[None, :, :], (side, side, 2 * quarter))
    rows = np.broadcast_to(one_axis[:, None, :], (side, side, 2 * quarter))
    np.testing.assert_allclose(table, np.concatenate([columns, rows], axis=2), atol=1e-6)


# Computing


def radiograph(side: int) -> np.ndarray:
    rows, columns = np.mgrid[:side, :side] / side
    disk = np.hypot(rows - 0.5, columns - 0.5) < 0.4
    return (0.6 * disk * (1.0 - columns)).astype(np.float32)


@pytest.mark.slow
def test_two_layers_of_the_paper_s_model_learn_and_sample_at_256(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full width, VAE and CLIP of full size, random weights: one encoding, one training step, one sampled view."""
    monkeypatch.setattr(vcdit_module, "PICTURE_ROWS", 1)
    full = load_configuration("paper-256")
    schedule = dataclasses.replace(full.training["vcdit"], steps=1, batch_size=2, warmup_steps=1)
    configuration = dataclasses.replace(
        full,
        vcdit={**full.vcdit, "num_layers": 2},
        sampling={"num_inference_steps": 2, "guidance_scale": 3.0},
        training={"vcdit": schedule},
    )
    torch.manual_seed(0)
    pipeline = make_pipeline(configuration)
    source = radiograph(256)
    with torch.no_grad():
        latent = encode_latents(pipeline.vae, torch.from_numpy(source)[None])
    assert latent.shape == (1, 4, 32, 32)
    latents = LatentSet(
        latents=np.repeat(latent.numpy()[None], 2, axis=1),
        sources=np.round(source * 65535.0).astype(np.uint16)[None, None],
        source_latents=latent.numpy()[None],
        encodings=np.array([[[[0, 0, 1, 0], [0, 1, 0, 0]]]], np.float32),
    )
    before = {name: value.clone() for name, value in pipeline.vcdit.state_dict().items()}
    clip_before = {name: value.clone() for name, value in pipeline.image_encoder.state_dict().items()}
    train_vcdit(configuration, pipeline, latents, tmp_path, seed=0)
    changed = {name for name, value in pipeline.vcdit.state_dict().items() if not torch.equal(value, before[name])}
    # Adam moves whatever has a gradient, so all of it has one.
    assert changed == before.keys()
    for name, value in pipeline.image_encoder.state_dict().items():
        assert torch.equal(value, clip_before[name])
    assert [file.name for file in (tmp_path / "samples").iterdir()] == ["step-0000001.png"]
    (view,) = pipeline(source, [[0.0, 0.5, math.sqrt(0.75), 0.0]], num_inference_steps=2)
    assert view.shape == (256, 256)
    assert np.isfinite(view).all()
