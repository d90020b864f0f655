"""Left and right, up and down are never swapped: an asymmetric thorax over the 36 `simple` views."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from svdrr.ct import CTVolume
from svdrr.ct.body import body_center_ras
from svdrr.ct.phantoms import ThoraxOptions, thorax_phantom
from svdrr.drr import attenuation, make_renderer, to_display
from svdrr.geometry import CArmPose, Detector, View, relative_view_encoding
from svdrr.geometry.viewsets import simple_views
from svdrr.synthesis.synthesize import Synthesizer
from svdrr.synthesis.training.phantom_views import FIRST_HELD_OUT_SEED

Images = NDArray[np.float32]
MARKER_RAS_MM = (-120.0, 90.0, 110.0)
MARKER_RADIUS_MM = 12.0


@dataclass(frozen=True, eq=False)
class Views:
    """angles_deg: primary (36,). truth, synthetic: (36, n, n). without_marker: synthetic, of the same person."""

    angles_deg: NDArray[np.float64]
    truth: Images
    synthetic: Images
    without_marker: Images


@pytest.fixture(scope="module")
def views() -> Views:
    """The heart and the stomach's gas bubble lie on the person's left; so does a metal ball, high and in front."""
    phantom = thorax_phantom(FIRST_HELD_OUT_SEED + 20, ThoraxOptions(spacing_mm=3.0)).ct
    center_ras = body_center_ras(phantom)
    synthesizer = Synthesizer("demo-256", "cpu")
    detector = Detector.square(synthesizer.model.resolution)
    frontal, poses = CArmPose(isocenter_ras=center_ras), simple_views(center_ras)
    encodings = [relative_view_encoding(CArmPose(), CArmPose(pose.primary_deg, pose.secondary_deg)) for pose in poses]

    def drrs(ct: CTVolume, poses: list[CArmPose]) -> list[Images]:
        renderer = make_renderer(attenuation(ct), "joseph")
        return [to_display(renderer.render(View(pose, detector))) for pose in poses]

    marked = CTVolume(with_marker(phantom, center_ras), phantom.ijk_to_ras)
    (plain_source,), (source, *truth) = drrs(phantom, [frontal]), drrs(marked, [frontal, *poses])
    synthetic, without_marker = (
        synthesizer.pipeline(image, encodings, num_inference_steps=2, guidance_scale=1.0)
        for image in (source, plain_source)
    )
    return Views(np.array([pose.primary_deg for pose in poses]), np.stack(truth), synthetic, without_marker)


def with_marker(ct: CTVolume, center_ras: tuple[float, float, float]) -> NDArray[Any]:
    k, j, i = np.indices(ct.hu.shape)
    ras = np.stack([i, j, k], axis=-1) @ ct.ijk_to_ras[:3, :3].T + ct.ijk_to_ras[:3, 3]
    distance = np.linalg.norm(ras - np.array(center_ras) - MARKER_RAS_MM, axis=-1)
    return np.where(distance <= MARKER_RADIUS_MM, 3000.0, ct.hu).astype(ct.hu.dtype)


def squared_error(one: Images, other: Images) -> NDArray[np.float64]:
    return np.asarray(np.mean((one - other) ** 2, axis=(1, 2), dtype=np.float64))


@pytest.mark.parametrize("flipped", [partial(np.flip, axis=2), partial(np.flip, axis=1)], ids=["left-right", "up-down"])
def test_every_view_is_far_nearer_to_the_truth_than_to_its_mirror_image(views: Views, flipped: Any) -> None:
    assert len(views.truth) == 36
    to_truth = squared_error(views.synthetic, views.truth)
    assert (to_truth < 0.7 * squared_error(views.synthetic, flipped(views.truth))).all()


def test_the_c_arm_turns_to_the_side_that_was_asked_for(views: Views) -> None:
    """Against the true view of the opposite angle, where the two differ: from 15°."""
    angles = views.angles_deg
    opposite = views.truth[[int(np.argmin(np.abs(angles + angle))) for angle in angles]]
    to_truth, to_opposite = squared_error(views.synthetic, views.truth), squared_error(views.synthetic, opposite)
    assert (to_truth < 0.7 * to_opposite)[np.abs(angles) >= 15.0].all()


def test_a_marker_on_the_left_appears_on_the_left_and_above(views: Views) -> None:
    """Seen from in front or behind, the person's left is on the image's right, as in the source."""
    size = views.synthetic.shape[1]
    for angle, added in zip(views.angles_deg, views.synthetic - views.without_marker, strict=True):
        if abs(angle) <= 30.0:
            row, column = np.unravel_index(np.argmax(gaussian_filter(added, 2.0)), added.shape)
            assert row < 0.4 * size, angle
            assert column > 0.6 * size, angle
