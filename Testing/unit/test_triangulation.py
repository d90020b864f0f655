"""From pixels in several views to a point: exact where the pixels are, honest about the rest where they are not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sentences import assert_one_sentence

from svdrr.errors import SVDRRError
from svdrr.geometry import CArmPose, Detector, View
from svdrr.geometry.triangulation import MIN_ANGLE_DEG, triangulate

# No deadline: on a busy machine one slow example is no failure.
quick = settings(max_examples=60, deadline=None)

coordinates = st.floats(-150.0, 150.0)
central = st.floats(-50.0, 50.0)
points = st.tuples(coordinates, coordinates, coordinates)
DETECTOR = Detector.square(256)
PA, LATERAL = View(CArmPose(), DETECTOR), View(CArmPose(90.0), DETECTOR)


@st.composite
def views(draw: st.DrawFn) -> View:
    """Any pose with any detector, the isocenter up to a meter from the origin."""
    far = st.floats(-1000.0, 1000.0)
    radius = draw(st.floats(600.0, 3000.0))
    pose = CArmPose(
        primary_deg=draw(st.floats(-360.0, 360.0)),
        # Next to the poles the image axes themselves are exact to 1e-6 only.
        secondary_deg=draw(st.floats(-89.9, 89.9) | st.sampled_from((-90.0, 90.0))),
        isocenter_ras=draw(st.tuples(far, far, far)),
        source_to_isocenter_mm=radius,
        source_to_detector_mm=radius + draw(st.floats(10.0, 2000.0)),
    )
    spacing = st.floats(0.1, 5.0)
    detector = Detector(draw(st.integers(1, 2000)), draw(st.integers(1, 2000)), (draw(spacing), draw(spacing)))
    return View(pose, detector)


def pixels_of(point: NDArray[np.float64], seen_by: list[View]) -> NDArray[np.float64]:
    return np.array([view.project(point)[0] for view in seen_by])


def largest_angle_deg(point: NDArray[np.float64], seen_by: list[View]) -> float:
    """Between the rays through the point, as lines: 0 to 90 degrees."""
    rays = np.array([point - view.pose.source_ras for view in seen_by])
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    sines = [np.linalg.norm(np.cross(one, other)) for one in rays for other in rays]
    return math.degrees(math.asin(min(max(sines), 1.0)))


@quick
@given(st.lists(views(), min_size=2, max_size=5), points)
def test_project_then_triangulate_is_the_identity(seen_by: list[View], offset: tuple[float, float, float]) -> None:
    point = np.array(seen_by[0].pose.isocenter_ras) + offset
    pixels = pixels_of(point, seen_by)
    assume(np.isfinite(pixels).all() and np.abs(pixels).max() < 1e5)
    assume(largest_angle_deg(point, seen_by) > 1.0)
    found = triangulate(seen_by, pixels)
    np.testing.assert_allclose(found.point_ras, point, atol=1e-5)
    assert found.pixel_distances.shape == found.ray_distances_mm.shape == (len(seen_by),)
    np.testing.assert_allclose(found.ray_distances_mm, 0.0, atol=1e-6)
    np.testing.assert_allclose(found.pixel_distances, 0.0, atol=1e-2)


@quick
@given(
    st.floats(60.0, 120.0),
    st.floats(-80.0, 80.0),
    st.tuples(central, central, central),
    st.lists(st.tuples(st.floats(-3.0, 3.0), st.floats(-3.0, 3.0)), min_size=2, max_size=2),
)
def test_noise_in_pixels_leads_to_a_residual_of_that_size(
    turn: float, primary: float, point: tuple[float, float, float], noise: list[tuple[float, float]]
) -> None:
    seen_by = [View(CArmPose(primary), DETECTOR), View(CArmPose(primary + turn), DETECTOR)]
    found = triangulate(seen_by, pixels_of(np.array(point), seen_by) + noise)
    # Two such views cannot explain the difference of their rows, of which each gets half; the rest of the noise
    # goes into the point, but for what the cone beam tilts.
    rows = abs(noise[0][1] - noise[1][1])
    np.testing.assert_allclose(found.pixel_distances, rows / 2.0, atol=0.1 * np.abs(noise).sum() + 1e-6)


def test_the_gap_between_two_rays_in_numbers() -> None:
    seen_by = [PA, LATERAL]
    pixels = pixels_of(np.zeros(3), seen_by)
    pixels[1, 1] -= 2.0
    found = triangulate(seen_by, pixels)
    # 2 pixels of 1.875 mm at the detector are 3.375 mm at the isocenter, which the two views share.
    np.testing.assert_allclose(found.ray_distances_mm, 3.375 / 2.0, rtol=1e-5)
    np.testing.assert_allclose(found.pixel_distances, 1.0, rtol=1e-2)
    np.testing.assert_allclose(found.point_ras, [0.0, 0.0, 3.375 / 2.0], atol=0.01)


@quick
@given(st.lists(views(), min_size=2, max_size=4), points, st.integers(0, 2**32 - 1))
def test_no_other_point_is_nearer_to_the_rays(
    seen_by: list[View], offset: tuple[float, float, float], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    point = np.array(seen_by[0].pose.isocenter_ras) + offset
    pixels = pixels_of(point, seen_by)
    assume(np.isfinite(pixels).all() and largest_angle_deg(point, seen_by) > 10.0)
    pixels += rng.uniform(-1.0, 1.0, pixels.shape)
    try:
        found = triangulate(seen_by, pixels)
    except SVDRRError:
        # Noise on a ray close to its source can put the point behind it.
        assume(False)
    sources = np.array([view.pose.source_ras for view in seen_by])
    ends = np.array([view.detector_positions(pixel)[0] for view, pixel in zip(seen_by, pixels, strict=True)])

    def cost(candidate: NDArray[np.float64]) -> float:
        areas = np.cross(candidate - sources, ends - sources)
        return float(np.sum(areas**2 / np.sum((ends - sources) ** 2, axis=1, keepdims=True)))

    least = cost(found.point_ras)
    assert least == pytest.approx(float(np.sum(found.ray_distances_mm**2)), rel=1e-6, abs=1e-9)
    for step in rng.standard_normal((20, 3)):
        assert cost(found.point_ras + step) >= least - 1e-9


def test_more_views_average_their_noise() -> None:
    rng = np.random.default_rng(3)
    point = np.array([30.0, -20.0, 55.0])
    many = [View(CArmPose(angle), DETECTOR) for angle in np.linspace(-80.0, 80.0, 24)]
    pixels = pixels_of(point, many) + rng.normal(0.0, 0.5, (24, 2))
    found = triangulate(many, pixels)
    # 0.5 pixels of 1.875 mm, over 24 views, in each direction.
    assert np.linalg.norm(found.point_ras - point) < 0.8
    assert float(np.sqrt(np.mean(found.pixel_distances**2))) == pytest.approx(0.5 * math.sqrt(2.0), rel=0.25)


def test_pixels_as_project_gives_them_are_taken() -> None:
    seen_by, point = [PA, LATERAL], np.array([5.0, 6.0, 7.0])
    found = triangulate(seen_by, [view.project(point) for view in seen_by])
    np.testing.assert_allclose(found.point_ras, point, atol=1e-9)
    np.testing.assert_array_equal(found.point_ras, triangulate(seen_by, pixels_of(point, seen_by)).point_ras)


PARALLEL = {
    "the same view twice": [PA, PA],
    "another detector": [PA, View(CArmPose(), Detector(100, 90, (1.0, 3.0)))],
    "a whole turn": [PA, View(CArmPose(360.0), DETECTOR)],
    "from opposite sides": [PA, View(CArmPose(180.0), DETECTOR)],
    "nearly the same angle": [PA, View(CArmPose(0.9 * MIN_ANGLE_DEG), DETECTOR)],
    "side by side": [PA, View(CArmPose(isocenter_ras=(100.0, 0.0, 0.0)), DETECTOR)],
}


@pytest.mark.parametrize("seen_by", PARALLEL.values(), ids=PARALLEL)
def test_parallel_rays_are_refused(seen_by: list[View]) -> None:
    pixels = [view.project(view.pose.isocenter_ras)[0] for view in seen_by]
    with pytest.raises(SVDRRError, match="nearly parallel rays") as refusal:
        triangulate(seen_by, pixels)
    assert_one_sentence(refusal.value)


def test_angles_above_the_smallest_are_taken() -> None:
    seen_by = [PA, View(CArmPose(1.1 * MIN_ANGLE_DEG), DETECTOR)]
    point = np.array([5.0, 6.0, 7.0])
    np.testing.assert_allclose(triangulate(seen_by, pixels_of(point, seen_by)).point_ras, point, atol=1e-5)


def test_parallel_views_with_a_third_are_taken() -> None:
    seen_by = [PA, PA, LATERAL]
    point = np.array([5.0, 6.0, 7.0])
    np.testing.assert_allclose(triangulate(seen_by, pixels_of(point, seen_by)).point_ras, point, atol=1e-9)


@pytest.mark.parametrize(
    ("seen_by", "pixels", "reason"),
    [
        ([], np.zeros((0, 2)), "at least two views, not in 0"),
        ([PA], [[1.0, 2.0]], "at least two views, not in 1"),
        ([PA, LATERAL], [[1.0, 2.0]], "shape"),
        ([PA, LATERAL], [1.0, 2.0], "shape"),
        ([PA, LATERAL], [[1.0, 2.0, 1.0], [1.0, 2.0, 1.0]], "shape"),
        ([PA, LATERAL], [[[1.0, 2.0], [1.0, 2.0]]], "shape"),
        ([PA, LATERAL], [[1.0, 2.0], [math.nan, 2.0]], "finite"),
        ([PA, LATERAL], [[1.0, math.inf], [1.0, 2.0]], "finite"),
        ([PA, LATERAL], [[1.0, 2.0], [1.0]], "two numbers"),
        ([PA, LATERAL], [[1.0, 2.0], None], "two numbers"),
        ([PA, LATERAL], [["1", "2"], ["1", "2"]], "two numbers"),
        ([PA, LATERAL], "pixels", "two numbers"),
        ([PA, LATERAL], np.zeros((2, 2, 2)), "shape"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(seen_by: list[View], pixels: object, reason: str) -> None:
    with pytest.raises(SVDRRError, match=reason) as refusal:
        triangulate(seen_by, pixels)  # type: ignore[arg-type]
    assert_one_sentence(refusal.value)


def test_rays_that_part_from_one_another_are_refused() -> None:
    # Two sources side by side: the left one's pixel far left, the right one's far right.
    left, right = (View(CArmPose(isocenter_ras=(x, 0.0, 0.0)), DETECTOR) for x in (-100.0, 100.0))
    with pytest.raises(SVDRRError, match="behind a source") as refusal:
        triangulate([right, left], [[0.0, 127.5], [255.0, 127.5]])
    assert_one_sentence(refusal.value)
