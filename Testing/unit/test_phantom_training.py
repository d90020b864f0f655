"""What the demo models are trained on: phantoms, their views, and their sources as other machines take them."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from numpy.typing import NDArray
from safetensors.numpy import save_file

from svdrr.ct.phantoms import ThoraxOptions, thorax_phantom
from svdrr.drr import from_display, to_display
from svdrr.geometry import CArmPose, relative_view_encoding
from svdrr.synthesis.back_projection import back_project, pose_of, project, projector
from svdrr.synthesis.configuration import ModelConfiguration, Schedule, load_configuration
from svdrr.synthesis.pipeline import decode_latents, encode_latents
from svdrr.synthesis.training.phantom_latents import TARGETS, as_acquired, phantom_latents
from svdrr.synthesis.training.phantom_views import (
    POSITIONING_ERROR_DEG,
    SIMPLE,
    SOURCES,
    _scanned_otherwise,
    training_poses,
)
from svdrr.synthesis.training.vae import train_tiny_vae, train_vae

VIEWS = 72


# Phantoms and poses


def test_training_poses_are_pa_all_simple_views_others_and_pa_with_errors() -> None:
    isocenter = (1.0, 2.0, 3.0)
    poses = training_poses(5, isocenter)
    assert poses == training_poses(5, isocenter) != training_poses(6, isocenter)
    assert len(poses) == VIEWS
    assert poses[0] == CArmPose(isocenter_ras=isocenter)
    simple = [(float(angle), 0.0) for angle in range(-90, 91, 5) if angle]
    assert [(pose.primary_deg, pose.secondary_deg) for pose in poses[SIMPLE]] == simple
    errors = np.array([(pose.primary_deg, pose.secondary_deg) for pose in poses[1 - SOURCES :]])
    assert 0.0 < np.abs(errors).max() <= POSITIONING_ERROR_DEG


def test_another_scan_is_cut_and_stretched() -> None:
    ct = thorax_phantom(3, ThoraxOptions(spacing_mm=6.0)).ct
    scans = [_scanned_otherwise(ct, np.random.default_rng(seed)) for seed in range(20)]
    heights = np.array([len(scan.hu) for scan in scans]) / len(ct.hu)
    assert heights.max() <= 1.0
    assert heights.min() < 0.9
    stretch = np.array([scan.spacing_mm / ct.spacing_mm for scan in scans])
    assert (np.abs(stretch - 1.0) <= [0.14, 0.2, 0.12]).all()
    assert (stretch.std(axis=0) > 0.02).all()
    # The narrow field of view takes away tissue at the corners, and never adds any.
    tissue = np.array([(scan.hu > -500).mean() for scan in scans])
    assert tissue.min() < 0.98 * (ct.hu > -500).mean()
    assert ct.hu[0, 0, 0] == -1000.0


def test_a_stretched_scan_keeps_its_voxels_where_they_were_relative_to_each_other() -> None:
    ct = thorax_phantom(3, ThoraxOptions(spacing_mm=6.0)).ct
    scan = _scanned_otherwise(ct, np.random.default_rng(1))
    kept = [k for k in range(len(ct.hu) - len(scan.hu) + 1) if np.isin(scan.hu[0], [*ct.hu[k].ravel(), -1000.0]).all()]
    assert kept
    stretch = scan.spacing_mm / ct.spacing_mm
    below = ct.ijk_to_ras @ [0, 0, kept[0], 1]
    np.testing.assert_allclose(scan.ijk_to_ras[:3, 3], stretch * below[:3], rtol=1e-9)


# Sources as they are taken


def test_another_machine_keeps_air_black_and_the_order_of_what_is_behind() -> None:
    thickness = np.repeat(np.linspace(0.0, 8.0, 40, dtype=np.float32)[:, None], 400, axis=1)
    for seed in range(10):
        taken = as_acquired(to_display(thickness), np.random.default_rng(seed))
        assert taken.dtype == np.float32
        assert 0.0 <= taken.min() <= taken.max() <= 1.0
        rows = taken.mean(axis=1)
        assert rows[0] < 0.03
        assert (np.diff(rows[::4]) > 0.0).all()


def test_other_machines_differ_and_a_seed_repeats_one() -> None:
    radiograph = to_display(np.full((64, 64), 4.0, np.float32))
    levels = [as_acquired(radiograph, np.random.default_rng(seed)).mean() for seed in range(20)]
    assert np.std(levels) > 0.02
    np.testing.assert_array_equal(*(as_acquired(radiograph, np.random.default_rng(4)) for _ in range(2)))


def test_noise_grows_with_what_the_rays_went_through() -> None:
    thickness = np.repeat(np.array([[1.0], [6.0]], np.float32), 20_000, axis=1)
    noise = np.array(
        [
            from_display(np.clip(as_acquired(to_display(thickness), np.random.default_rng(seed)), 0.0, 0.99)).std(
                axis=1
            )
            for seed in range(8)
        ]
    )
    assert (noise[:, 1] > 2.0 * noise[:, 0]).all()


# Latents


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two phantoms of 32 pixels whose views differ in brightness, from the angles of `training_poses`."""
    folder = tmp_path_factory.mktemp("views")
    for seed in range(2):
        poses = training_poses(seed, (0.0, 0.0, 0.0))
        levels = (300 * np.arange(1, VIEWS + 1) + 20_000 * seed)[:, None, None]
        save_file(
            {
                "radiographs": np.broadcast_to(levels, (VIEWS, 32, 32)).astype(np.uint16),
                "angles": np.array([[pose.primary_deg, pose.secondary_deg] for pose in poses], np.float32),
            },
            folder / f"{seed:07d}.safetensors",
        )
    return folder


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(
        in_channels=1,
        out_channels=1,
        block_out_channels=[16, 16],
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        norm_num_groups=16,
    ).eval()


def test_latents_belong_to_their_views_and_sources(vae: AutoencoderKL, views: Path, tmp_path: Path) -> None:
    found = phantom_latents(vae, views, range(2), 16, tmp_path / "latents")
    assert found.latents.shape == (2, TARGETS, 4, 8, 8)
    assert found.sources.shape == (2, SOURCES, 16, 16)
    assert found.source_latents.shape == (2, SOURCES, 4, 8, 8)
    assert found.encodings.shape == (2, SOURCES, TARGETS, 4)
    for seed in range(2):
        poses = training_poses(seed, (0.0, 0.0, 0.0))[: VIEWS - SOURCES + 1]
        encodings = np.array([relative_view_encoding(CArmPose(), pose) for pose in poses])
        for target in range(TARGETS):
            difference = np.abs(encodings - found.encodings[seed, 0, target]).max(axis=1)
            view = int(difference.argmin())
            assert difference[view] < 1e-5
            level = np.float32((300 * (view + 1) + 20_000 * seed) / 65535.0)
            with torch.no_grad():
                expected = encode_latents(vae, torch.full((1, 16, 16), float(level)))[0].numpy()
            np.testing.assert_allclose(found.latents[seed, target], expected, atol=5e-3)
        np.testing.assert_array_equal(found.encodings[seed, 0], found.encodings[seed, -1])
        np.testing.assert_array_equal(found.encodings[seed, 0, 0], [0.0, 0.0, 1.0, 0.0])
        np.testing.assert_array_equal(found.source_latents[seed, 0], found.latents[seed, 0])
        assert (found.sources[seed, 0] == 300 + 20_000 * seed).all()


def test_latents_are_computed_once(vae: AutoencoderKL, views: Path, tmp_path: Path) -> None:
    first = phantom_latents(vae, views, range(2), 16, tmp_path / "latents")
    written = (tmp_path / "latents" / "views" / "latents.npy").stat().st_mtime_ns
    again = phantom_latents(vae, views, range(2), 16, tmp_path / "latents")
    assert (tmp_path / "latents" / "views" / "latents.npy").stat().st_mtime_ns == written
    np.testing.assert_array_equal(again.latents, first.latents)
    np.testing.assert_array_equal(again.sources, first.sources)


# The VAE


@pytest.fixture
def blocks() -> NDArray[np.uint16]:
    """Radiographs (1, 6, 128, 128) of even squares."""
    coarse = np.random.default_rng(0).random((6, 8, 8))
    return np.round(65535.0 * np.kron(coarse, np.ones((16, 16))))[None].astype(np.uint16)


def quick(part: str) -> ModelConfiguration:
    return dataclasses.replace(load_configuration("demo-256"), training={part: Schedule(40, 2, 5e-3, 2, 0.8)})


def losses_in(directory: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (directory / "log.jsonl").read_text().splitlines()]


def latents_of(vae: AutoencoderKL | AutoencoderTiny, radiographs: NDArray[np.uint16]) -> torch.Tensor:
    with torch.no_grad():
        return encode_latents(vae, torch.from_numpy((radiographs[0] / 65535.0).astype(np.float32)))


def test_the_vae_learns_and_its_scaled_latents_have_unit_variance(
    vae: AutoencoderKL, blocks: NDArray[np.uint16], tmp_path: Path
) -> None:
    trained = copy.deepcopy(vae)
    train_vae(quick("vae"), trained, blocks, tmp_path, seed=0)
    losses = losses_in(tmp_path)
    assert losses[-1] < 0.9 * losses[0]
    assert 0.8 < latents_of(trained, blocks).std() < 1.25


def test_the_tiny_vae_learns_the_latents_and_the_pictures(
    vae: AutoencoderKL, blocks: NDArray[np.uint16], tmp_path: Path
) -> None:
    longer = dataclasses.replace(load_configuration("demo-256"), training={"tiny_vae": Schedule(200, 4, 5e-3, 5, 0.9)})
    tiny = train_tiny_vae(longer, vae, blocks, tmp_path, seed=0)
    losses = losses_in(tmp_path)
    assert losses[-1] < 0.5 * losses[0]
    latents = latents_of(vae, blocks)
    assert (latents_of(tiny, blocks) - latents).square().mean() < 0.5 * latents.var()
    truth = torch.from_numpy((blocks[0] / 65535.0).astype(np.float32))
    with torch.no_grad():
        decoded = decode_latents(tiny, latents)
    assert decoded.shape == truth.shape
    assert (decoded - truth).square().mean() < 0.5 * truth.var()


def test_back_projections_are_of_the_source_that_goes_with_the_view(
    vae: AutoencoderKL, views: Path, tmp_path: Path
) -> None:
    found = phantom_latents(vae, views, range(2), 16, tmp_path / "latents", 480.0)
    assert found.back_projections is not None
    assert found.back_projections.shape == found.latents.shape
    for view in (0, 1, 5):
        body = back_project(found.sources[1, view % SOURCES] / np.float32(65535.0), 480.0)
        seen = project(projector(body), [pose_of(found.encodings[1, 0, view])], 16, 480.0)
        with torch.no_grad():
            expected = encode_latents(vae, torch.from_numpy(seen))[0].numpy()
        np.testing.assert_allclose(found.back_projections[1, view], expected, atol=5e-3)
    batch = found.draw(8, np.random.default_rng(0))
    assert batch.given_latents.shape == (8, 8, 8, 8)
    numbers = np.random.default_rng(0)
    volumes, _, drawn = (numbers.integers(size, size=8) for size in (2, SOURCES, TARGETS))
    np.testing.assert_array_equal(batch.source_numbers, drawn % SOURCES)
    np.testing.assert_array_equal(batch.given_latents[:, :4], found.source_latents[volumes, drawn % SOURCES])
    np.testing.assert_array_equal(batch.given_latents[:, 4:], found.back_projections[volumes, drawn])
