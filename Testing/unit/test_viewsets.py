"""View sets: what each specification gives, what is refused and how, and files that keep every bit."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sentences import assert_one_sentence

from svdrr.errors import SVDRRError
from svdrr.geometry import CArmPose, Detector, View, parse_views, read_views, relative_view_encoding
from svdrr.geometry.viewsets import (
    FORMAT,
    MAX_VIEWS,
    pose_from_json,
    pose_to_json,
    view_from_json,
    view_to_json,
    views_document,
)

ISOCENTER = (12.5, -7.25, 1e-3)
ANTERIOR = np.array([0.0, 1.0, 0.0])

# No deadline: on a busy machine one slow example is no failure.
quick = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

turns = st.floats(-360.0, 360.0)
far = st.floats(-1e5, 1e5)
positive = st.floats(1e-6, 9e4)


@st.composite
def poses(draw: st.DrawFn) -> CArmPose:
    radius = draw(positive)
    isocenter = draw(st.tuples(far, far, far))
    return CArmPose(draw(turns), draw(st.floats(-90.0, 90.0)), isocenter, radius, radius + 1.0)


def directions(specification: str) -> NDArray[np.float64]:
    """Detector directions (N, 3) of a specification."""
    return np.array([pose.detector_direction for pose in parse_views(specification, ISOCENTER)])


def primaries(specification: str) -> list[float]:
    found = parse_views(specification, ISOCENTER)
    assert all(pose.secondary_deg == 0.0 for pose in found)
    return [pose.primary_deg for pose in found]


# --- Simple and sweep --------------------------------------------------------------------------------------


def test_simple_is_every_five_degrees_but_the_source_view() -> None:
    assert primaries("simple") == [*range(-90, 0, 5), *range(5, 91, 5)]
    assert len(primaries("simple")) == 36


@pytest.mark.parametrize("specification", ["simple", "hemisphere:7", "sweep:0:10:5"])
def test_views_turn_about_the_given_isocenter_at_the_default_distances(specification: str) -> None:
    for pose in parse_views(specification, ISOCENTER):
        assert pose.isocenter_ras == ISOCENTER
        assert (pose.source_to_isocenter_mm, pose.source_to_detector_mm) == (1800.0, 2000.0)


@pytest.mark.parametrize(
    ("specification", "expected"),
    [
        ("sweep:-10:10:5", [-10.0, -5.0, 0.0, 5.0, 10.0]),
        ("sweep:10:-10:5", [10.0, 5.0, 0.0, -5.0, -10.0]),
        ("sweep:0:10:4", [0.0, 4.0, 8.0]),
        ("sweep:0:-10:4", [0.0, -4.0, -8.0]),
        ("sweep:0:3:10", [0.0]),
        ("sweep:45:45:5", [45.0]),
        ("sweep:170:190:10", [170.0, 180.0, 190.0]),
    ],
)
def test_sweep_ends_and_direction(specification: str, expected: list[float]) -> None:
    assert primaries(specification) == expected


@pytest.mark.parametrize("step", [0.1, 0.3, 0.7, 1.1])
def test_sweep_reaches_its_stop_in_spite_of_rounding(step: float) -> None:
    # 0.1 has no exact binary form: naive division misses the last view of some of these sweeps.
    for steps in range(1, 60):
        found = primaries(f"sweep:0:{steps * step!r}:{step}")
        assert len(found) == steps + 1
        assert found[-1] == pytest.approx(steps * step, abs=1e-9)


def test_largest_sweep_is_allowed() -> None:
    assert len(parse_views(f"sweep:0:{(MAX_VIEWS - 1) / 1024}:{1 / 1024}", ISOCENTER)) == MAX_VIEWS


# --- Hemisphere --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 10, 300, 1500])
def test_hemisphere_is_anterior_and_starts_at_pa(count: int) -> None:
    found = parse_views(f"hemisphere:{count}", ISOCENTER)
    assert len(found) == count
    # As text, because -0.0 equals 0.0 but does not look like it in a file.
    assert (str(found[0].primary_deg), str(found[0].secondary_deg)) == ("0.0", "0.0")
    vectors = directions(f"hemisphere:{count}")
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-12)
    assert (vectors @ ANTERIOR > 0.0).all()


@pytest.mark.parametrize("count", [100, 300, 1500])
def test_hemisphere_neighbours_are_evenly_spaced(count: int) -> None:
    vectors = directions(f"hemisphere:{count}")
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -1.0)
    nearest = np.arccos(np.clip(cosines.max(axis=1), -1.0, 1.0))
    # Of `count` equal discs that cover the hemisphere's 2π steradians, each has the radius sqrt(2 / count).
    # The nearest neighbour in the densest lattice, the hexagonal, is at 1.905 radii, Fibonacci's near that.
    radius = math.sqrt(2.0 / count)
    assert nearest.max() < 1.95 * radius
    assert np.median(nearest) > 1.5 * radius
    assert nearest.min() > 0.9 * radius


@pytest.mark.parametrize("count", [300, 1500])
def test_hemisphere_caps_hold_views_in_proportion_to_their_area(count: int) -> None:
    vectors = directions(f"hemisphere:{count}")
    angle = math.radians(25.0)
    expected = count * (1.0 - math.cos(angle))  # area of the cap, 2π(1 - cos), over the hemisphere's 2π
    tilt = math.radians(60.0)
    for turn in np.linspace(0.0, 2.0 * np.pi, 12, endpoint=False):
        for lean in (0.0, tilt / 2.0, tilt):  # the whole cap stays in the hemisphere
            axis = [math.sin(lean) * math.sin(turn), math.cos(lean), math.sin(lean) * math.cos(turn)]
            inside = int((vectors @ axis > math.cos(angle)).sum())
            # A random set would stray by sqrt(expected): 5 of 28, 12 of 140.
            assert abs(inside - expected) < 0.75 * math.sqrt(expected)


def test_hemisphere_has_no_side_that_it_prefers() -> None:
    mean = directions("hemisphere:1500").mean(axis=0)
    # Archimedes: the height over a hemisphere's rim is uniform, with mean 1/2.
    np.testing.assert_allclose(mean, [0.0, 0.5, 0.0], atol=0.002)


# --- Bad specifications ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("specification", "reason"),
    [
        ("", "Unknown view set"),
        ("everything", "Unknown view set 'everything'"),
        ("Simple", "Unknown view set"),
        ("simple:3", "Unknown view set"),
        ("views.txt", "Unknown view set"),
        ("hemisphere", "Cannot read the view set 'hemisphere'"),
        ("hemisphere:", "Cannot read"),
        ("hemisphere:x", "Cannot read"),
        ("hemisphere:2.5", "Cannot read"),
        ("hemisphere:5:5", "Cannot read"),
        ("hemisphere:nan", "Cannot read"),
        ("hemisphere:0", "1 to 100,000 views, not 0"),
        ("hemisphere:-3", "1 to 100,000 views, not -3"),
        ("hemisphere:100001", "1 to 100,000 views, not 100001"),
        ("hemisphere:" + "9" * 5000, "Cannot read"),
        ("sweep", "Cannot read the view set 'sweep'"),
        ("sweep:0:90", "Cannot read"),
        ("sweep:0:90:5:1", "Cannot read"),
        ("sweep:a:b:c", "Cannot read"),
        ("sweep:0:90:0", "step above 0"),
        ("sweep:0:90:-5", "step above 0"),
        ("sweep:0:90:nan", "finite angles"),
        ("sweep:0:90:inf", "finite angles"),
        ("sweep:nan:90:5", "finite angles"),
        ("sweep:0:inf:5", "finite angles"),
        ("sweep:0:100000:1", "at most 100,000 views"),
        ("sweep:0:720:5", "-360 to 360 degrees, not 365"),
        ("sweep:0:180:1e-9", "at most 100,000 views"),
        ("sweep:0:180:1e-320", "at most 100,000 views"),  # the quotient overflows to infinity
        ("sweep:-1e308:1e308:1", "at most 100,000 views"),  # and here the difference
        ("missing.json", "Cannot read the view file 'missing.json'"),
    ],
)
def test_bad_specifications_are_refused_in_one_sentence(
    specification: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SVDRRError) as refusal:
        parse_views(specification, ISOCENTER)
    assert reason in str(refusal.value)
    assert_one_sentence(refusal.value)


def test_specification_errors_list_what_would_have_worked() -> None:
    with pytest.raises(SVDRRError, match=r"simple, hemisphere:N, sweep:FROM:TO:STEP.*JSON"):
        parse_views("orbit:5", ISOCENTER)


# --- Files -------------------------------------------------------------------------------------------------


def bits(pose: CArmPose) -> bytes:
    """Every number of a pose, so that -0.0 and 0.0 differ."""
    numbers = (pose.primary_deg, pose.secondary_deg, *pose.isocenter_ras)
    return np.array([*numbers, pose.source_to_isocenter_mm, pose.source_to_detector_mm]).tobytes()


@quick
@given(st.lists(poses(), min_size=1, max_size=4))
def test_poses_survive_a_file_bit_by_bit(tmp_path: Path, written: list[CArmPose]) -> None:
    path = tmp_path / "views.json"
    path.write_text(views_document([pose_to_json(pose) for pose in written]), encoding="utf-8")
    # The isocenter given here is for poses that state none; these state theirs.
    for read in (parse_views(str(path), ISOCENTER), read_views(path, ISOCENTER)):
        assert list(map(bits, read)) == list(map(bits, written))


@quick
@given(poses(), st.integers(1, 5000), st.integers(1, 5000), st.tuples(positive, positive))
def test_views_survive_json_bit_by_bit(pose: CArmPose, rows: int, columns: int, spacing: tuple[float, float]) -> None:
    view = View(pose, Detector(rows, columns, spacing))
    read = view_from_json(json.loads(json.dumps(view_to_json(view))))
    assert bits(read.pose) == bits(pose)
    assert read.detector == view.detector


def test_view_json_carries_matrices_and_positions_for_other_readers() -> None:
    view = View(CArmPose(20.0, 10.0, ISOCENTER), Detector(30, 40, (2.0, 3.0)))
    entry = json.loads(json.dumps(view_to_json(view)))
    np.testing.assert_array_equal(entry["pixel_to_ras"], view.pixel_to_ras)
    np.testing.assert_array_equal(entry["projection_matrix"], view.projection_matrix)
    np.testing.assert_array_equal(entry["source_ras_mm"], view.pose.source_ras)
    np.testing.assert_array_equal(entry["detector_corners_ras_mm"], view.detector_corners_ras)


@pytest.mark.parametrize("corners", [None, [[0.0, 0.0, 0.0]] * 4, "somewhere"])
def test_what_follows_from_pose_and_detector_is_derived_anew(corners: Any) -> None:
    view = View(CArmPose(20.0, 10.0, ISOCENTER), Detector(30, 40, (2.0, 3.0)))
    entry = view_to_json(view)
    derived = ("source_ras_mm", "detector_corners_ras_mm", "pixel_to_ras", "projection_matrix")
    assert view_from_json({**entry, **dict.fromkeys(derived, corners)}) == view
    assert view_from_json({key: value for key, value in entry.items() if key not in derived}) == view


def test_view_files_can_be_read_as_poses(tmp_path: Path) -> None:
    view = View(CArmPose(20.0, 10.0, (1.0, 2.0, 3.0), 900.0, 1100.0), Detector(30, 40, (2.0, 3.0)))
    path = tmp_path / "Views.JSON"
    path.write_text(views_document([view_to_json(view)]), encoding="utf-8")
    assert parse_views(str(path), ISOCENTER) == [view.pose]


def test_what_an_entry_leaves_out_takes_the_defaults() -> None:
    assert pose_from_json({"primary_deg": 5}, ISOCENTER) == CArmPose(5.0, 0.0, ISOCENTER)


PA_ENTRY = {"primary_deg": 0.0}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "is not valid JSON"),
        ("{", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ("[]", "is not a view file"),
        ("7", "is not a view file"),
        ("{}", "is not a view file"),
        (json.dumps({"views": [PA_ENTRY]}), "is not a view file"),
        (json.dumps({"format": "svdrr-views-2", "views": [PA_ENTRY]}), "is not a view file"),
        (json.dumps({"format": FORMAT}), "is not a view file"),
        (json.dumps({"format": FORMAT, "views": []}), 'its list "views" is empty'),
        (json.dumps({"format": FORMAT, "views": 5}), "is not a view file"),
        (json.dumps({"format": FORMAT, "views": PA_ENTRY}), "is not a view file"),
        (json.dumps({"format": FORMAT, "views": [PA_ENTRY], "isocenter_ras_mm": [1, 2, 3]}), "unknown key 'isocenter"),
    ],
)
def test_bad_files_are_refused_in_one_sentence(tmp_path: Path, content: str, reason: str) -> None:
    assert_refused(tmp_path, content, reason)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({}, "View 2"),
        ("PA", "View 2"),
        ([0.0, 0.0], "View 2"),
        (None, "View 2"),
        ({"secondary_deg": 5.0}, "View 2"),
        ({"primary_deg": None}, "View 2"),
        ({"primary_deg": "left"}, "View 2"),
        ({"primary_deg": [1.0]}, "View 2"),
        ({"primary_deg": 10**400}, "View 2"),  # more than a float holds
        ({"primary_deg": "30"}, "View 2"),
        ({"primary_deg": True}, "View 2"),
        ({**PA_ENTRY, "isocenter_ras_mm": ["1", "2", "3"]}, "View 2"),
        ({**PA_ENTRY, "source_to_isocenter_mm": True}, "View 2"),
        ({**PA_ENTRY, "isocenter_ras_mm": [1.0, 2.0]}, "View 2"),
        ({**PA_ENTRY, "isocenter_ras_mm": [1.0, 2.0, 3.0, 4.0]}, "View 2"),
        ({**PA_ENTRY, "isocenter_ras_mm": 5.0}, "View 2"),
        ({**PA_ENTRY, "isocenter_ras_mm": [1.0, 2.0, None]}, "View 2"),
        ({**PA_ENTRY, "source_to_isocenter_mm": "far"}, "View 2"),
        ({"primary_deg": math.nan}, "finite"),
        ({"primary_deg": math.nan}, "View 2 in "),
        ({"primary_deg": 1000.0}, "View 2 in "),
        ({"primary_deg": math.inf}, "finite"),
        ({**PA_ENTRY, "isocenter_ras_mm": [1.0, math.nan, 0.0]}, "finite"),
        ({**PA_ENTRY, "secondary_deg": 91.0}, "-90 to 90"),
        ({**PA_ENTRY, "source_to_isocenter_mm": -1.0}, "positive"),
        ({**PA_ENTRY, "source_to_detector_mm": 10.0}, "less than the source-to-detector distance"),
        ({**PA_ENTRY, "source_to_detector_mm": 1e12}, "must not exceed 100,000 mm"),
        ({"primary_deg": 1e9}, "-360 to 360"),
        ({**PA_ENTRY, "secondry_deg": 5.0}, "View 2 in "),
        ({**PA_ENTRY, "secondry_deg": 5.0}, "unknown key 'secondry_deg'; known are primary_deg, secondary_deg, iso"),
    ],
)
def test_bad_entries_are_refused_in_one_sentence(tmp_path: Path, entry: Any, reason: str) -> None:
    content = json.dumps({"format": FORMAT, "views": [PA_ENTRY, entry]})
    assert_refused(tmp_path, content, reason)


def test_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "views.json").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(SVDRRError, match="is not valid JSON"):
        parse_views(str(tmp_path / "views.json"), ISOCENTER)


def test_a_byte_order_mark_is_read_over(tmp_path: Path) -> None:
    path = tmp_path / "views.json"
    path.write_text(json.dumps({"format": FORMAT, "views": [PA_ENTRY]}), encoding="utf-8-sig")
    assert parse_views(str(path), ISOCENTER) == [CArmPose(isocenter_ras=ISOCENTER)]


def test_a_view_file_of_another_name_is_refused_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "views.txt"
    path.write_text(json.dumps({"format": FORMAT, "views": [PA_ENTRY]}))
    with pytest.raises(SVDRRError, match=r"must end in \.json") as refusal:
        parse_views(str(path), ISOCENTER)
    assert_one_sentence(refusal.value)


def test_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "views.json"
    folder.mkdir()
    with pytest.raises(SVDRRError, match="Cannot read the view file"):
        parse_views(str(folder), ISOCENTER)


def assert_refused(folder: Path, content: str, reason: str) -> None:
    path = folder / "views.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(SVDRRError) as refusal:
        parse_views(str(path), ISOCENTER)
    assert reason in str(refusal.value)
    assert_one_sentence(refusal.value)


# --- Relative view encoding --------------------------------------------------------------------------------

angles = st.floats(-180.0, 180.0)
elevations = st.floats(-90.0, 90.0)


@quick
@given(poses())
def test_encoding_of_the_same_view(pose: CArmPose) -> None:
    np.testing.assert_array_equal(relative_view_encoding(pose, pose), [0.0, 0.0, 1.0, 0.0])


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        (CArmPose(0.0, 0.0), CArmPose(90.0, 0.0), [0.0, 1.0, 0.0, 0.0]),
        (CArmPose(0.0, 0.0), CArmPose(-90.0, 0.0), [0.0, -1.0, 0.0, 0.0]),
        (CArmPose(0.0, 0.0), CArmPose(180.0, 0.0), [0.0, 0.0, -1.0, 0.0]),
        (CArmPose(30.0, 10.0), CArmPose(60.0, 40.0), [math.pi / 6.0, 0.5, math.sqrt(0.75), 0.0]),
        (CArmPose(0.0, 45.0), CArmPose(0.0, -45.0), [-math.pi / 2.0, 0.0, 1.0, 0.0]),
        (CArmPose(), CArmPose(source_to_isocenter_mm=900.0), [0.0, 0.0, 1.0, -0.5]),
        (CArmPose(source_to_isocenter_mm=900.0), CArmPose(), [0.0, 0.0, 1.0, 1.0]),
        # The isocenter and the detector's distance are no part of a relative view.
        (CArmPose(), CArmPose(0.0, 0.0, ISOCENTER, 1800.0, 2500.0), [0.0, 0.0, 1.0, 0.0]),
    ],
)
def test_encoding_in_numbers(source: CArmPose, target: CArmPose, expected: list[float]) -> None:
    np.testing.assert_allclose(relative_view_encoding(source, target), expected, atol=1e-12)


@quick
@given(angles, elevations, angles, elevations)
def test_way_back_is_the_negative_angle(p: float, s: float, q: float, t: float) -> None:
    there = relative_view_encoding(CArmPose(p, s), CArmPose(q, t))
    back = relative_view_encoding(CArmPose(q, t), CArmPose(p, s))
    np.testing.assert_allclose(back, there * [-1.0, -1.0, 1.0, 1.0], atol=1e-12)
    assert math.hypot(there[1], there[2]) == pytest.approx(1.0)


@quick
@given(angles, angles)
def test_encoding_forgets_whole_turns(p: float, q: float) -> None:
    once = relative_view_encoding(CArmPose(p), CArmPose(q))
    again = relative_view_encoding(CArmPose(p), CArmPose(q - math.copysign(360.0, q)))
    np.testing.assert_allclose(again, once, atol=1e-11)
