"""The views that a panel's choices mean."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import slicer

from svdrr.errors import SVDRRError
from svdrr.geometry import CArmPose
from svdrr.mrml.targets import TargetViews, camera_angles

ISOCENTER = (10.0, -20.0, 30.0)
DISTANCES = (700.0, 1100.0)


def test_one_view() -> None:
    for mode in ("angles", "camera"):
        (pose,) = TargetViews(mode, 30.0, -10.0).poses(ISOCENTER, *DISTANCES)
        assert pose == CArmPose(30.0, -10.0, ISOCENTER, *DISTANCES)


@pytest.mark.parametrize(
    ("views", "count"),
    [
        (TargetViews("set"), 36),
        (TargetViews("set", view_set="hemisphere", hemisphere_count=7), 7),
        (TargetViews("set", view_set="sweep", sweep_from_deg=-45.5, sweep_to_deg=45.0, sweep_step_deg=0.5), 182),
    ],
)
def test_sets_stand_about_the_isocenter_at_the_chosen_distances(views: TargetViews, count: int) -> None:
    poses = views.poses(ISOCENTER, *DISTANCES)
    assert len(poses) == count
    for pose in poses:
        assert pose.isocenter_ras == ISOCENTER
        assert (pose.source_to_isocenter_mm, pose.source_to_detector_mm) == DISTANCES
    assert views.reasons() == []


def test_poses_of_a_file_stand_where_it_says(tmp_path: Path) -> None:
    entries = [
        {"primary_deg": 5.0, "source_to_isocenter_mm": 900.0},
        {"primary_deg": 6.0, "isocenter_ras_mm": [1, 2, 3]},
    ]
    path = tmp_path / "views.json"
    path.write_text(json.dumps({"format": "svdrr-views-1", "views": entries}))
    first, second = TargetViews("set", view_set="file", file=str(path)).poses(ISOCENTER, *DISTANCES)
    assert first == CArmPose(5.0, 0.0, ISOCENTER, 900.0, 2000.0)
    assert second == CArmPose(6.0, 0.0, (1.0, 2.0, 3.0))


@pytest.mark.parametrize(
    ("views", "sentence"),
    [
        (TargetViews("set", view_set="file"), "Choose the file of the view set."),
        (TargetViews("set", view_set="file", file="nowhere.json"), "Cannot read the view file"),
        (TargetViews("set", view_set="sweep", sweep_step_deg=0.01), "up to 2,000 views here, not 18,001"),
        (TargetViews("set", view_set="sweep", sweep_step_deg=0.0), "a step above 0 degrees"),
    ],
)
def test_sets_that_there_are_not(views: TargetViews, sentence: str) -> None:
    (reason,) = views.reasons()
    assert sentence in reason
    with pytest.raises(SVDRRError, match=sentence):
        views.poses(ISOCENTER, *DISTANCES)


def test_a_parameter_node_says_it_all() -> None:
    fields = SimpleNamespace(
        viewMode="set",
        primaryDeg=1.0,
        secondaryDeg=2.0,
        viewSet="sweep",
        hemisphereCount=3,
        sweepFromDeg=4.0,
        sweepToDeg=5.0,
        sweepStepDeg=6.0,
        viewFile="a.json",
    )
    assert TargetViews.of(fields) == TargetViews("set", 1.0, 2.0, "sweep", 3, 4.0, 5.0, 6.0, "a.json")


@pytest.mark.parametrize(
    ("primary", "secondary"), [(0.0, 0.0), (30.0, 10.0), (-90.0, 0.0), (171.0, -77.0), (0.0, 90.0)]
)
def test_the_source_is_on_the_cameras_side(primary: float, secondary: float) -> None:
    pose = CArmPose(primary, secondary, (5.0, 6.0, 7.0))
    camera = slicer.vtkMRMLCameraNode()
    camera.SetPosition(*pose.source_ras)
    camera.SetFocalPoint(5.0, 6.0, 7.0)
    np.testing.assert_allclose(camera_angles(camera), (primary, secondary), atol=1e-6)


@pytest.mark.parametrize("specification", ["simple", "hemisphere:7", "sweep:-30:60:15"])
def test_specifications_are_read_back(specification: str) -> None:
    targets = TargetViews.parse(specification)
    assert targets.mode == "set"
    assert targets.specification == specification
    with pytest.raises(SVDRRError, match="Unknown view set"):
        TargetViews.parse("circle:3")
