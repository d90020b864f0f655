"""What geometry alone says of other views: bodies that are as it takes them to be, and VCDiT's third input."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from svdrr.ct import CTVolume
from svdrr.drr import attenuation, from_display
from svdrr.evaluation.metrics import psnr_db
from svdrr.geometry import CArmPose, relative_view_encoding
from svdrr.synthesis.back_projection import DEPTH_TO_BREADTH, back_project, pose_of, project, projector
from svdrr.synthesis.configuration import ModelConfiguration, load_configuration, make_pipeline
from svdrr.synthesis.lifting import LiftingNetwork, lift
from svdrr.synthesis.pipeline import SVDRRPipeline
from svdrr.synthesis.training.phantom_views import FIRST_HELD_OUT_SEED, render_phantom
from svdrr.synthesis.training.vcdit import begin_from

SIDE_MM = 480.0
HALF_BREADTH_MM = 150.0
POSES = [CArmPose(angle) for angle in (-60.0, 30.0, 90.0)]
VIEWS = np.array([relative_view_encoding(CArmPose(), pose) for pose in POSES])


@pytest.fixture(scope="module")
def cylinder() -> CTVolume:
    """Water, elliptic, as deep as a chest is taken to be, 300 mm high, about the origin."""
    x, y, z = np.meshgrid(*[np.arange(-200.0, 201.0, 4.0)] * 3, indexing="ij")
    inside = (x / HALF_BREADTH_MM) ** 2 + (y / (DEPTH_TO_BREADTH * HALF_BREADTH_MM)) ** 2 < 1.0
    hu = np.where(inside & (np.abs(z) < 150.0), 0.0, -1000.0).astype(np.float32).transpose(2, 1, 0)
    ijk_to_ras = np.diag([4.0, 4.0, 4.0, 1.0])
    ijk_to_ras[:3, 3] = -200.0
    return CTVolume(np.ascontiguousarray(hu), ijk_to_ras)


def test_a_body_as_it_is_taken_to_be_comes_back(cylinder: CTVolume) -> None:
    mu = attenuation(cylinder)
    truth = project(projector(mu), [CArmPose(), *POSES], 128, SIDE_MM)
    found = back_project(truth[0], SIDE_MM)
    across = found.mu[found.mu.shape[0] // 2, found.mu.shape[1] // 2]
    interior = across[len(across) // 2 - 40 : len(across) // 2 + 40]
    np.testing.assert_allclose(interior, mu.mu.max(), rtol=0.06)
    views = project(projector(found), POSES, 128, SIDE_MM)
    middle = slice(50, 78)
    for view, true in zip(views, truth[1:], strict=True):
        np.testing.assert_allclose(from_display(view)[64, middle], from_display(true)[64, middle], rtol=0.06, atol=0.05)
    assert psnr_db(views, truth[1:]).min() > 27.0


def test_it_gives_the_radiograph_back() -> None:
    (source,) = render_phantom(FIRST_HELD_OUT_SEED, lambda center: [CArmPose(isocenter_ras=center)], 128)
    again = project(projector(back_project(source, SIDE_MM)), [CArmPose()], 128, SIDE_MM)
    assert psnr_db(again, source[None])[0] > 42.0
    assert psnr_db(again[:, :, ::-1], source[None])[0] < 30.0


def test_nothing_is_seen_of_nothing() -> None:
    volume = back_project(np.zeros((64, 64), np.float32), SIDE_MM)
    assert volume.mu.max() == 0.0
    assert project(projector(volume), POSES, 64, SIDE_MM).max() == 0.0


@given(st.floats(-179.0, 179.0), st.floats(-80.0, 80.0), st.floats(900.0, 2500.0))
def test_a_relative_view_from_pa_says_the_pose(primary: float, secondary: float, radius_mm: float) -> None:
    pose = CArmPose(primary, secondary, source_to_isocenter_mm=radius_mm, source_to_detector_mm=radius_mm + 200.0)
    found = pose_of(relative_view_encoding(CArmPose(), pose))
    np.testing.assert_allclose(found.source_ras, pose.source_ras, atol=1e-6)
    np.testing.assert_allclose(found.detector_center_ras, pose.detector_center_ras, atol=1e-6)


# As an input of VCDiT


@pytest.fixture(scope="module")
def small() -> ModelConfiguration:
    demo = load_configuration("demo-128")
    return dataclasses.replace(
        demo,
        name="small",
        resolution=32,
        vae={**demo.vae, "block_out_channels": [16, 16, 16, 16], "sample_size": 32},
        vcdit={**demo.vcdit, "sample_size": 4, "num_layers": 2, "num_attention_heads": 2, "image_embedding_dim": 64},
        image_encoder={**demo.image_encoder, "image_size": 32, "hidden_size": 64},
    )


@pytest.fixture(scope="module")
def source() -> np.ndarray:
    (source,) = render_phantom(FIRST_HELD_OUT_SEED, lambda center: [CArmPose(isocenter_ras=center)], 32)
    return source


def random_pipeline(configuration: ModelConfiguration) -> SVDRRPipeline:
    torch.manual_seed(3)
    pipeline = make_pipeline(configuration)
    # Zero-initialized outputs would hide differences between conditions.
    torch.nn.init.normal_(pipeline.vcdit.transformer.proj_out.weight, std=0.3)
    return pipeline


def test_a_model_that_gets_it_begins_as_the_one_that_did_not(small: ModelConfiguration, source: np.ndarray) -> None:
    plain = random_pipeline(dataclasses.replace(small, vcdit={**small.vcdit, "back_projection_mm": None}))
    wider = begin_from(small, plain)
    assert wider.vcdit.config.back_projection_mm == SIDE_MM
    patches = "transformer.pos_embed.proj.weight"
    before, after = plain.vcdit.state_dict(), wider.vcdit.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before if name != patches)
    assert after[patches].shape[1] == before[patches].shape[1] + 4
    np.testing.assert_allclose(wider(source, VIEWS, 2), plain(source, VIEWS, 2), atol=1e-5)


def test_what_it_shows_changes_the_view(
    small: ModelConfiguration, source: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = random_pipeline(small)
    views = pipeline(source, VIEWS, 2)
    for index in range(len(VIEWS)):
        np.testing.assert_allclose(pipeline(source, VIEWS[index : index + 1], 2)[0], views[index], atol=1e-4)
    encoded = pipeline.encode_source(source)
    assert encoded.projector is not None
    nothing = projector(back_project(np.zeros_like(source), SIDE_MM))
    (without,) = pipeline.views(dataclasses.replace(encoded, projector=nothing), VIEWS, 2)
    assert np.abs(without - views).max() > 1e-3


def test_a_lifting_network_takes_the_place_of_back_projection_and_is_kept_with_the_model(
    small: ModelConfiguration, source: np.ndarray, tmp_path: Path
) -> None:
    plain = random_pipeline(small)
    assert plain.lifting is None
    torch.manual_seed(5)
    network = LiftingNetwork().eval()
    plain.register_modules(lifting=network)
    lifted = plain.encode_source(source).projector
    assert lifted is not None
    expected = project(projector(lift(network, source)), POSES, 32, SIDE_MM)
    np.testing.assert_allclose(project(lifted, POSES, 32, SIDE_MM), expected, atol=1e-6)
    views = plain(source, VIEWS, 2)
    plain.register_modules(lifting=None)
    assert np.abs(plain(source, VIEWS, 2) - views).max() > 1e-3

    plain.register_modules(lifting=network)
    begun = begin_from(small, plain)
    begun.save_pretrained(tmp_path / "saved", safe_serialization=True)
    loaded = SVDRRPipeline.from_pretrained(tmp_path / "saved", local_files_only=True, use_safetensors=True)
    np.testing.assert_allclose(loaded(source, VIEWS, 2), views, atol=1e-4)
