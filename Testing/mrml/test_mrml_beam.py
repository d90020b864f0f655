"""The beam and the positions of a set in the 3D views."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import slicer
import slicer.util

from svdrr.geometry import CArmPose, View
from svdrr.mrml import save_scene
from svdrr.mrml.beam import BeamDisplay

POSES = [CArmPose(30.0), CArmPose(-90.0, 10.0), CArmPose(0.0, -20.0)]


def of_class(name: str) -> Any:
    (node,) = slicer.util.getNodesByClass(name)
    return node


def test_lines_follow_the_view_and_points_the_set(views: list[View], nodes: Any) -> None:
    before = nodes()
    beam = BeamDisplay(lambda index: None)
    for view in views:
        beam.show(view, POSES)
        source = of_class("vtkMRMLModelNode").GetPolyData().GetPoint(0)
        np.testing.assert_allclose(source, view.pose.source_ras, atol=1e-6)
    points = of_class("vtkMRMLMarkupsFiducialNode")
    for index, pose in enumerate(POSES):
        np.testing.assert_allclose(points.GetNthControlPointPositionWorld(index), pose.source_ras, atol=1e-6)
        assert points.GetNthControlPointLocked(index)
        assert points.GetNthControlPointLabel(index) == pose.label
    beam.show(views[0], POSES[:1])
    assert of_class("vtkMRMLMarkupsFiducialNode").GetNumberOfControlPoints() == 1
    beam.show(views[0])
    assert slicer.util.getNodesByClass("vtkMRMLMarkupsFiducialNode") == []
    beam.show(views[0], POSES)
    beam.remove()
    assert nodes() == before


def test_a_click_tells_which_view_and_leaves_the_slices_where_they_are(views: list[View]) -> None:
    clicked: list[int] = []
    beam = BeamDisplay(clicked.append)
    beam.show(views[0], POSES)
    display = of_class("vtkMRMLMarkupsFiducialNode").GetDisplayNode()
    display.AddObserver(display.JumpToPointEvent, lambda caller, event: clicked.append(-1))
    display.SetActiveControlPoint(2)
    display.InvokeEvent(display.JumpToPointEvent)
    assert clicked == [2]


def test_it_is_neither_listed_nor_saved(views: list[View], tmp_path: Path, scene: Any) -> None:
    BeamDisplay(lambda index: None).show(views[0], POSES)
    assert of_class("vtkMRMLModelNode").GetHideFromEditors()
    assert of_class("vtkMRMLMarkupsFiducialNode").GetHideFromEditors()
    save_scene(tmp_path / "scene.mrb")
    scene.Clear(True)
    assert scene.ReadFromMRB(str(tmp_path / "scene.mrb"))
    for name in ("vtkMRMLModelNode", "vtkMRMLMarkupsFiducialNode", "vtkMRMLModelDisplayNode"):
        assert slicer.util.getNodesByClass(name) == []


def test_it_comes_back_in_another_scene(views: list[View], scene: Any) -> None:
    beam = BeamDisplay(lambda index: None)
    beam.show(views[0], POSES)
    scene.Clear()
    beam.show(views[1], POSES)
    assert of_class("vtkMRMLMarkupsFiducialNode").GetNumberOfControlPoints() == 3
    scene.Clear()
    beam.remove()
