"""C-arm poses: which side of the patient is where in the image, and that the matrices are true."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rays import rays
from sentences import assert_one_sentence

from svdrr.errors import SVDRRError
from svdrr.geometry import CArmPose, Detector, View, lps_to_ras, ras_to_lps

RIGHT, LEFT = np.array([1.0, 0.0, 0.0]), np.array([-1.0, 0.0, 0.0])
ANTERIOR, POSTERIOR = np.array([0.0, 1.0, 0.0]), np.array([0.0, -1.0, 0.0])
SUPERIOR, INFERIOR = np.array([0.0, 0.0, 1.0]), np.array([0.0, 0.0, -1.0])

PA, AP, LEFT_LATERAL, RIGHT_LATERAL = 0.0, 180.0, 90.0, -90.0

# No deadline: on a busy machine one slow example is no failure.
quick = settings(max_examples=50, deadline=None)

coordinates = st.floats(-500.0, 500.0)


@st.composite
def poses(draw: st.DrawFn) -> CArmPose:
    """Any C-arm pose, the poles and a whole turn both ways included."""
    radius = draw(st.floats(100.0, 3000.0))
    return CArmPose(
        primary_deg=draw(st.floats(-360.0, 360.0)),
        secondary_deg=draw(st.floats(-90.0, 90.0) | st.sampled_from((-90.0, 90.0))),
        isocenter_ras=draw(st.tuples(coordinates, coordinates, coordinates)),
        source_to_isocenter_mm=radius,
        source_to_detector_mm=radius + draw(st.floats(10.0, 2000.0)),
    )


@st.composite
def views(draw: st.DrawFn) -> View:
    """Any pose with any detector: not square, its pixels not square either."""
    spacing = st.floats(0.1, 5.0)
    detector = Detector(draw(st.integers(1, 2000)), draw(st.integers(1, 2000)), (draw(spacing), draw(spacing)))
    return View(draw(poses()), detector)


def seen(point: NDArray[np.float64], primary: float, secondary: float = 0.0) -> NDArray[np.float64]:
    """Where a marker appears: (columns right of the image center, rows below it)."""
    view = View(CArmPose(primary, secondary), Detector(101, 201, (1.0, 1.0)))
    return view.project(point)[0] - [100.0, 50.0]


# --- Frames ------------------------------------------------------------------------------------------------


@quick
@given(poses())
def test_image_axes_and_detector_direction_are_orthonormal(pose: CArmPose) -> None:
    right, down = pose.image_axes
    frame = np.stack([right, down, pose.detector_direction])
    # Next to the poles, up is the small difference of two unit vectors: a few of its digits are gone.
    np.testing.assert_allclose(frame @ frame.T, np.eye(3), atol=1e-6)


@quick
@given(poses())
def test_image_is_seen_from_the_detector_towards_the_source(pose: CArmPose) -> None:
    right, down = pose.image_axes
    np.testing.assert_allclose(np.cross(right, -down), pose.detector_direction, atol=1e-6)


@quick
@given(poses())
def test_superior_is_never_below(pose: CArmPose) -> None:
    right, down = pose.image_axes
    assert SUPERIOR @ -down > -1e-12
    assert abs(SUPERIOR @ right) < 1e-6


@quick
@given(st.floats(-360.0, 360.0))
@pytest.mark.parametrize("secondary", [-90.0, 90.0])
def test_anterior_is_up_at_the_poles(secondary: float, primary: float) -> None:
    _, down = CArmPose(primary, secondary).image_axes
    np.testing.assert_allclose(-down, ANTERIOR, atol=1e-12)


@quick
@given(poses())
def test_source_isocenter_and_detector_lie_on_the_central_ray(pose: CArmPose) -> None:
    direction, isocenter = pose.detector_direction, np.array(pose.isocenter_ras)
    np.testing.assert_allclose(isocenter - pose.source_ras, pose.source_to_isocenter_mm * direction, atol=1e-9)
    np.testing.assert_allclose(
        pose.detector_center_ras - pose.source_ras, pose.source_to_detector_mm * direction, atol=1e-9
    )


@quick
@given(views())
def test_pixel_to_ras_is_right_angled_and_scaled_by_the_pixel_spacing(view: View) -> None:
    axes = view.pixel_to_ras[:3, :3]
    row_mm, column_mm = view.detector.pixel_spacing_mm
    lengths = np.array([column_mm, row_mm, 1.0])
    np.testing.assert_allclose(axes.T @ axes / np.outer(lengths, lengths), np.eye(3), atol=1e-6)
    assert np.linalg.det(axes) > 0.0
    np.testing.assert_array_equal(view.pixel_to_ras[3], [0.0, 0.0, 0.0, 1.0])


# --- Anatomy -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("primary", "direction"),
    [(PA, ANTERIOR), (AP, POSTERIOR), (LEFT_LATERAL, LEFT), (RIGHT_LATERAL, RIGHT), (-180.0, POSTERIOR)],
)
def test_detector_stands_where_the_view_is_named_after(primary: float, direction: NDArray[np.float64]) -> None:
    pose = CArmPose(primary, 0.0, (10.0, -20.0, 30.0), 1000.0, 1500.0)
    np.testing.assert_allclose(pose.detector_direction, direction, atol=1e-12)
    np.testing.assert_allclose(pose.detector_center_ras, [10.0, -20.0, 30.0] + 500.0 * direction, atol=1e-9)
    np.testing.assert_allclose(pose.source_ras, [10.0, -20.0, 30.0] - 1000.0 * direction, atol=1e-9)


@pytest.mark.parametrize(
    ("primary", "secondary", "direction"),
    [
        # DICOM PS3.3 C.8.7.5.1.2: zero is perpendicular to the patient's chest, +90 at the patient's left
        # hand side (LAO), -90 at the right hand side (RAO); a secondary angle of +90 is cranial.
        (45.0, 0.0, ANTERIOR + LEFT),
        (-45.0, 0.0, ANTERIOR + RIGHT),
        (0.0, 45.0, ANTERIOR + SUPERIOR),
        (0.0, -45.0, ANTERIOR + INFERIOR),
        (0.0, 90.0, SUPERIOR),
        (0.0, -90.0, INFERIOR),
        (135.0, 0.0, POSTERIOR + LEFT),
        (-135.0, 0.0, POSTERIOR + RIGHT),
        # Tilted by 45 degrees out of the left-anterior direction: as far up as it is far out.
        (45.0, 45.0, (ANTERIOR + LEFT) / math.sqrt(2.0) + SUPERIOR),
    ],
)
def test_oblique_angles_have_the_signs_of_dicom(
    primary: float, secondary: float, direction: NDArray[np.float64]
) -> None:
    expected = direction / np.linalg.norm(direction)
    np.testing.assert_allclose(CArmPose(primary, secondary).detector_direction, expected, atol=1e-12)


def test_lao_30_cranial_20_in_numbers() -> None:
    pose = CArmPose(30.0, 20.0, (0.0, 0.0, 0.0), 1000.0, 1200.0)
    # R = -cos 20° sin 30°, A = cos 20° cos 30°, S = sin 20°, of which the detector is 200 mm away.
    expected = 200.0 * np.array([-0.469846310, 0.813797681, 0.342020143])
    np.testing.assert_allclose(pose.detector_center_ras, expected, atol=1e-6)
    np.testing.assert_allclose(pose.source_ras, -5.0 * expected, atol=1e-5)


@pytest.mark.parametrize(
    ("primary", "marker", "side"),
    [
        (PA, RIGHT, -1),
        (PA, LEFT, 1),
        (AP, RIGHT, 1),
        (AP, LEFT, -1),
        (LEFT_LATERAL, ANTERIOR, -1),
        (LEFT_LATERAL, POSTERIOR, 1),
        (RIGHT_LATERAL, ANTERIOR, 1),
        (RIGHT_LATERAL, POSTERIOR, -1),
    ],
)
def test_side_of_a_marker(primary: float, marker: NDArray[np.float64], side: int) -> None:
    column, row = seen(40.0 * marker, primary)
    # 2000 mm to the detector over 1800 mm to the isocenter.
    assert column == pytest.approx(side * 40.0 * 2000.0 / 1800.0)
    assert row == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("primary", [PA, AP, LEFT_LATERAL, RIGHT_LATERAL, 30.0, -150.0])
@pytest.mark.parametrize("secondary", [0.0, 30.0, -60.0])
def test_superior_marker_is_above_and_in_the_middle(primary: float, secondary: float) -> None:
    column, row = seen(30.0 * SUPERIOR, primary, secondary)
    assert column == pytest.approx(0.0, abs=1e-9)
    assert row < -10.0
    assert seen(30.0 * INFERIOR, primary, secondary)[1] > 10.0


@pytest.mark.parametrize(
    ("primary", "secondary", "column_sign", "row_sign"),
    # What lies nearer to the detector shifts against the detector's own movement.
    [(20.0, 0.0, -1, 0), (-20.0, 0.0, 1, 0), (0.0, 20.0, 0, 1), (0.0, -20.0, 0, -1)],
)
def test_parallax_of_an_anterior_marker(primary: float, secondary: float, column_sign: int, row_sign: int) -> None:
    column, row = seen(50.0 * ANTERIOR, primary, secondary)
    assert np.sign(np.round([column, row], 6)).tolist() == [column_sign, row_sign]


def test_nearer_to_the_source_is_larger() -> None:
    near, far = (seen(40.0 * RIGHT + 100.0 * side, PA)[0] for side in (POSTERIOR, ANTERIOR))
    assert near == pytest.approx(-40.0 * 2000.0 / 1700.0)
    assert far == pytest.approx(-40.0 * 2000.0 / 1900.0)


# --- Projection --------------------------------------------------------------------------------------------


@quick
@given(views())
def test_isocenter_lands_on_the_principal_point(view: View) -> None:
    center = [(view.detector.columns - 1) / 2.0, (view.detector.rows - 1) / 2.0]
    np.testing.assert_allclose(view.project(view.pose.isocenter_ras)[0], center, atol=1e-6)


@quick
@given(views(), st.tuples(coordinates, coordinates, coordinates))
def test_projection_matrix_is_the_meeting_of_ray_and_detector_plane(
    view: View, offset: tuple[float, float, float]
) -> None:
    """A textbook ray-plane intersection, in which no projection matrix occurs."""
    source, normal = view.pose.source_ras, view.pose.detector_direction
    point = np.array(view.pose.isocenter_ras) + offset
    depth = (point - source) @ normal
    assume(depth > 10.0)
    on_plane = source + (point - source) * (((view.pose.detector_center_ras - source) @ normal) / depth)

    column, row = view.project(point)[0]
    pixel_ras = (view.pixel_to_ras @ [column, row, 0.0, 1.0])[:3]
    # A micrometer; a meter away from the center the digits that the poles cost come through.
    tolerance = 1e-3 + 1e-6 * float(np.linalg.norm(on_plane - view.pose.detector_center_ras))
    np.testing.assert_allclose(pixel_ras, on_plane, atol=tolerance)

    w = view.projection_matrix[2] @ np.append(point, 1.0)
    assert w == pytest.approx(depth, abs=1e-6)


@quick
@given(views(), st.tuples(coordinates, coordinates, coordinates))
def test_pixel_of_a_point_lies_on_the_line_from_the_source(view: View, offset: tuple[float, float, float]) -> None:
    source, point = view.pose.source_ras, np.array(view.pose.isocenter_ras) + offset
    assume((point - source) @ view.pose.detector_direction > 10.0)
    pixel = (view.pixel_to_ras @ [*view.project(point)[0], 0.0, 1.0])[:3]
    toward_point, toward_pixel = (p - source for p in (point, pixel))
    sine = np.linalg.norm(np.cross(toward_point, toward_pixel)) / (
        np.linalg.norm(toward_point) * np.linalg.norm(toward_pixel)
    )
    assert sine < 1e-6
    assert toward_point @ toward_pixel > 0.0


@quick
@given(views())
def test_project_inverts_pixel_to_ras(view: View) -> None:
    pixels = np.array([[0.0, 0.0], [view.detector.columns - 1.0, 0.0], [0.0, view.detector.rows - 1.0]])
    on_detector = np.column_stack([pixels, np.zeros(3), np.ones(3)]) @ view.pixel_to_ras.T
    np.testing.assert_allclose(view.project(on_detector[:, :3]), pixels, atol=0.01)


def test_square_detector_covers_its_side_in_whole_pixels() -> None:
    view = View(CArmPose(), Detector.square(256, side_mm=480.0))
    first, last = ((view.pixel_to_ras @ [c, 0.0, 0.0, 1.0])[:3] for c in (-0.5, 255.5))
    np.testing.assert_allclose(last - first, 480.0 * LEFT, atol=1e-9)


@quick
@given(views())
def test_detector_corners_are_half_a_pixel_outside(view: View) -> None:
    corners = view.detector_corners_ras
    rows, columns = view.detector.rows, view.detector.columns
    row_mm, column_mm = view.detector.pixel_spacing_mm
    right, down = view.pose.image_axes
    # From the center, top left first, then clockwise as displayed.
    expected = [
        view.pose.detector_center_ras + x * right * columns * column_mm / 2.0 + y * down * rows * row_mm / 2.0
        for x, y in [(-1, -1), (1, -1), (1, 1), (-1, 1)]
    ]
    assert corners.shape == (4, 3)
    np.testing.assert_allclose(corners, expected, atol=1e-6)


def test_detector_corners_of_a_pa_view_in_numbers() -> None:
    corners = View(CArmPose(), Detector(4, 10, (3.0, 2.0))).detector_corners_ras
    # The patient's right is on the left of the image, the head is up, the detector 200 mm anterior.
    expected = [[10.0, 200.0, 6.0], [-10.0, 200.0, 6.0], [-10.0, 200.0, -6.0], [10.0, 200.0, -6.0]]
    np.testing.assert_allclose(corners, expected, atol=1e-9)


@quick
@given(views(), st.lists(st.tuples(st.floats(-100.0, 2100.0), st.floats(-100.0, 2100.0)), min_size=1, max_size=5))
def test_detector_positions_are_the_pixels_under_pixel_to_ras(view: View, pixels: list[tuple[float, float]]) -> None:
    positions = view.detector_positions(pixels)
    assert positions.shape == (len(pixels), 3)
    for position, (column, row) in zip(positions, pixels, strict=True):
        np.testing.assert_allclose(position, (view.pixel_to_ras @ [column, row, 0.0, 1.0])[:3], atol=1e-9)


@quick
@given(views(), st.tuples(coordinates, coordinates), st.floats(0.0, 5000.0) | st.just(0.0))
def test_points_beside_and_behind_the_source_have_no_pixel(
    view: View, offset: tuple[float, float], behind: float
) -> None:
    right, down = view.pose.image_axes
    source, n = view.pose.source_ras, view.pose.detector_direction
    # Next to the poles the axes are right-angled to 1e-6 only: in the plane is meant on the central ray.
    beside = offset[0] * right + offset[1] * down if behind > 0.01 else 0.0
    point = source - behind * n + beside
    mirrored = source + 10.0 * n + beside
    pixels = view.project([point, mirrored])
    assert np.isnan(pixels[0]).all()
    assert np.isfinite(pixels[1]).all()


@pytest.mark.parametrize("offset", [(0.0, 0.0), (300.0, 0.0), (0.0, -300.0), (70.0, 20.0)])
@pytest.mark.parametrize("angles", [(0.0, 0.0), (90.0, 0.0), (33.0, 21.0), (-120.0, -64.0)])
def test_points_in_the_plane_of_the_source_have_no_pixel(
    angles: tuple[float, float], offset: tuple[float, float]
) -> None:
    view = View(CArmPose(*angles, isocenter_ras=(120.0, -340.0, 977.0)), Detector.square(64))
    right, down = view.pose.image_axes
    assert np.isnan(view.project(view.pose.source_ras + offset[0] * right + offset[1] * down)).all()


# --- Inverse, names, borders -------------------------------------------------------------------------------


@quick
@given(st.floats(-179.0, 180.0), st.floats(-89.0, 89.0), st.floats(1e-3, 1e3))
def test_from_direction_inverts_detector_direction(primary: float, secondary: float, length: float) -> None:
    direction = length * CArmPose(primary, secondary).detector_direction
    pose = CArmPose.from_direction(direction, (1.0, 2.0, 3.0))
    assert pose.isocenter_ras == (1.0, 2.0, 3.0)
    assert pose.primary_deg == pytest.approx(primary, abs=1e-6)
    assert pose.secondary_deg == pytest.approx(secondary, abs=1e-6)


@pytest.mark.parametrize(
    ("direction", "angles"),
    [
        (ANTERIOR, ("0.0", "0.0")),
        (POSTERIOR, ("180.0", "0.0")),
        (LEFT, ("90.0", "0.0")),
        (RIGHT, ("-90.0", "0.0")),
        (SUPERIOR, ("0.0", "90.0")),
        (INFERIOR, ("0.0", "-90.0")),
    ],
)
def test_from_direction_on_the_axes(direction: NDArray[np.float64], angles: tuple[str, str]) -> None:
    pose = CArmPose.from_direction(direction, (0.0, 0.0, 0.0))
    # As text, because -0.0 equals 0.0 but does not look like it in a file or a label.
    assert (str(float(pose.primary_deg)), str(float(pose.secondary_deg))) == angles


@pytest.mark.parametrize(
    ("primary", "secondary", "label"),
    [
        (0.0, 0.0, "PA"),
        (360.0, 0.0, "PA"),
        (180.0, 0.0, "AP"),
        (-180.0, 0.0, "AP"),
        (90.0, 0.0, "left lateral"),
        (-90.0, 0.0, "right lateral"),
        (270.0, 0.0, "right lateral"),
        (30.0, 10.0, "LAO 30° CRAN 10°"),
        (-30.25, -10.0, "RAO 30.2° CAUD 10°"),
        (0.0, 15.0, "CRAN 15°"),
        (-1e-9, 1e-9, "PA"),
    ],
)
def test_labels(primary: float, secondary: float, label: str) -> None:
    assert CArmPose(primary, secondary).label == label


@quick
@given(poses())
def test_every_pose_has_a_label(pose: CArmPose) -> None:
    assert pose.label.strip()
    assert "-" not in pose.label


def test_lps_and_ras_differ_in_the_signs_of_the_first_two_rows() -> None:
    affine = np.arange(16.0).reshape(4, 4)
    expected = affine * np.array([[-1.0], [-1.0], [1.0], [1.0]])
    np.testing.assert_array_equal(lps_to_ras(affine), expected)
    np.testing.assert_array_equal(ras_to_lps(lps_to_ras(affine)), affine)
    with pytest.raises(ValueError, match="4x4"):
        lps_to_ras(np.eye(3))


# --- Refusals ----------------------------------------------------------------------------------------------

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"primary_deg": NAN}, "finite"),
        ({"primary_deg": INF}, "finite"),
        ({"secondary_deg": NAN}, "finite"),
        ({"isocenter_ras": (0.0, NAN, 0.0)}, "finite"),
        ({"isocenter_ras": (0.0, 0.0)}, "three numbers"),
        ({"source_to_isocenter_mm": NAN}, "finite"),
        ({"source_to_detector_mm": INF}, "finite"),
        ({"secondary_deg": 90.001}, "-90 to 90"),
        ({"secondary_deg": -91.0}, "-90 to 90"),
        ({"source_to_isocenter_mm": 0.0}, "positive"),
        ({"source_to_isocenter_mm": -1800.0}, "positive"),
        ({"source_to_isocenter_mm": 2000.0}, "less than the source-to-detector"),
        ({"source_to_detector_mm": 1000.0}, "less than the source-to-detector"),
        ({"source_to_detector_mm": 1e12}, "must not exceed 100,000 mm"),
        ({"isocenter_ras": (0.0, -1e6, 0.0)}, "must not exceed 100,000 mm"),
        ({"primary_deg": 360.001}, "-360 to 360"),
        ({"primary_deg": -1e9}, "-360 to 360"),
        ({"primary_deg": "3"}, "finite"),
        ({"primary_deg": True}, "finite"),
        ({"primary_deg": None}, "finite"),
        ({"primary_deg": 10**400}, "finite"),  # more than a float holds
        ({"source_to_isocenter_mm": "far"}, "finite"),
        ({"isocenter_ras": 5.0}, "three numbers"),
        ({"isocenter_ras": "RAS"}, "three numbers"),
        ({"isocenter_ras": (0.0, None, 0.0)}, "finite"),
    ],
)
def test_bad_poses_are_refused_in_one_sentence(arguments: dict[str, object], reason: str) -> None:
    with pytest.raises(SVDRRError, match=reason) as refusal:
        CArmPose(**arguments)  # type: ignore[arg-type]
    assert_one_sentence(refusal.value)


@pytest.mark.parametrize(
    ("rows", "columns", "spacing"),
    [
        (0, 10, (1.0, 1.0)),
        (10, -1, (1.0, 1.0)),
        (10, 10, (0.0, 1.0)),
        (10, 10, (1.0, -1.0)),
        (10, 10, (NAN, 1.0)),
        (10, 10, (1.0, INF)),
        (32.5, 32, (1.0, 1.0)),
        (32.0, 32, (1.0, 1.0)),
        (True, 32, (1.0, 1.0)),
        ("32", 32, (1.0, 1.0)),
        (10**6, 10**6, (1.0, 1.0)),
        (32, 65_537, (1.0, 1.0)),
        (32, 32, 1.0),
        (32, 32, (1.0,)),
        (32, 32, np.array(1.0)),
        (32, 32, (1.0, 1.0, 1.0)),
        (32, 32, ("1", "1")),
        (32, 32, None),
    ],
)
def test_bad_detectors_are_refused_in_one_sentence(rows: Any, columns: Any, spacing: Any) -> None:
    with pytest.raises(SVDRRError, match="detector") as refusal:
        Detector(rows, columns, spacing)
    assert_one_sentence(refusal.value)


def test_numbers_of_numpy_are_numbers() -> None:
    pose = CArmPose(np.float32(30.0), np.int64(10), tuple(np.zeros(3)))  # type: ignore[arg-type]
    view = View(pose, Detector(np.int64(8), np.int32(9), (np.float32(1.0), 2)))  # type: ignore[arg-type]
    np.testing.assert_allclose(view.project(np.zeros(3)), [[4.0, 3.5]], atol=1e-9)


# --- Views that miss ---------------------------------------------------------------------------------------


def meets(view: View, corners_ras: NDArray[np.float64]) -> bool:
    """Whether any ray through a fine grid over the detector's pixels meets the box, whose corners come in order."""
    origin, edges = corners_ras[0], corners_ras[[4, 2, 1]] - corners_ras[0]
    to_box = np.linalg.inv(edges.T)
    source = to_box @ (view.pose.source_ras - origin)
    directions = (rays(view) @ to_box.T).reshape(-1, 3)
    directions[directions == 0.0] = 1e-300
    near, far = -source / directions, (1.0 - source) / directions
    enter, leave = np.minimum(near, far).max(axis=1), np.maximum(near, far).min(axis=1)
    return bool((leave >= np.maximum(enter, 0.0)).any())


def box(center: tuple[float, float, float], edge: float = 100.0) -> NDArray[np.float64]:
    return np.array([np.add(center, offset) for offset in product((-edge / 2.0, edge / 2.0), repeat=3)])


@quick
@given(st.tuples(coordinates, coordinates, coordinates), st.floats(-360.0, 360.0), st.floats(-89.0, 89.0))
def test_a_view_that_sees_a_box_does_not_miss_it(
    center: tuple[float, float, float], primary: float, secondary: float
) -> None:
    view = View(CArmPose(primary, secondary, source_to_isocenter_mm=300.0, source_to_detector_mm=500.0), FILM)
    corners = box(center)
    if meets(view, corners):
        assert not view.misses(corners)


FILM = Detector.square(40, 400.0)


@pytest.mark.parametrize(
    ("center", "missed"),
    [
        ((0.0, 0.0, 0.0), False),
        # At PA, 1800 mm from the source, the film of ±200 mm sees ±180 mm, and 185 mm behind the box's far face.
        ((229.0, 0.0, 0.0), False),
        ((236.0, 0.0, 0.0), True),
        ((-236.0, 0.0, 0.0), True),
        ((0.0, 0.0, 236.0), True),
        ((0.0, 0.0, -236.0), True),
        ((0.0, 1e4, 0.0), False),  # beyond the detector, where rays still go
        ((0.0, -1849.0, 0.0), False),  # one millimeter of it in front of the source
        ((0.0, -1851.0, 0.0), True),  # all of it behind
        ((0.0, -9000.0, 9000.0), True),
    ],
)
def test_which_boxes_a_pa_view_misses(center: tuple[float, float, float], missed: bool) -> None:
    view, corners = View(CArmPose(), FILM), box(center)
    assert view.misses(corners) == missed
    assert meets(view, corners) != missed
