"""Two images beside each other: upright, neither mirrored nor tilted, with one window and level."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
import slicer
import slicer.util
import vtk

from svdrr.errors import SVDRRError
from svdrr.mrml import radiograph_to_node
from svdrr.mrml.panels.side_by_side import LAYOUT, RESULT_VIEW, SOURCE_VIEW, SideBySide
from svdrr.radiograph import Radiograph


@pytest.fixture
def views_of_the_application(scene: Any) -> Any:
    """What an application's layout manager adds: the view nodes of the layout, and a logic for each slice view."""
    layout_logic = slicer.vtkMRMLLayoutLogic()
    layout_logic.SetMRMLScene(scene)
    layout_logic.GetLayoutNode().SetViewArrangement(slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalView)
    held = [layout_logic]
    for tag, (columns, rows) in {SOURCE_VIEW: (400, 300), RESULT_VIEW: (350, 300)}.items():
        logic = slicer.vtkMRMLSliceLogic()
        logic.SetMRMLScene(scene)
        logic.AddSliceNode(tag).SetDimensions(columns, rows, 1)
        held.append(logic)
    return held


def node_of(kind: str, view: str) -> Any:
    return next(node for node in slicer.util.getNodesByClass(kind) if node.GetLayoutName() == view)


def pixel_in_view(view: str, volume: Any, column: float, row: float) -> np.ndarray:
    """Where a pixel's center appears in a slice view: pixels from the left, from the bottom, off the plane."""
    ijk_to_ras = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(ijk_to_ras)
    xy_to_ras = slicer.util.arrayFromVTKMatrix(node_of("vtkMRMLSliceNode", view).GetXYToRAS())
    ras = slicer.util.arrayFromVTKMatrix(ijk_to_ras) @ [column, row, 0.0, 1.0]
    return (np.linalg.inv(xy_to_ras) @ ras)[:3]


def test_every_view_is_upright_and_fits(radiographs: list[Radiograph], views_of_the_application: Any) -> None:
    """Column 0 at the left, row 0 at the top, the plane in the view's, all corners inside, at any C-arm angle."""
    source = radiograph_to_node(radiographs[0], "source")
    comparison = SideBySide()
    for radiograph in radiographs:
        result = radiograph_to_node(radiograph, "result")
        comparison.show(source, result)
        for view, volume, width in ((SOURCE_VIEW, source, 400), (RESULT_VIEW, result, 350)):
            first = pixel_in_view(view, volume, -0.5, -0.5)
            last = pixel_in_view(view, volume, 8.5, 5.5)
            assert first[0] < last[0]
            assert first[1] > last[1]
            np.testing.assert_allclose([first[2], last[2]], 0.0, atol=1e-6)
            np.testing.assert_allclose(first[0] + last[0], width, atol=1e-6)
            np.testing.assert_allclose(first[1] + last[1], 300, atol=1e-6)
            # 6 rows of 0.7 mm are higher than 9 columns of 0.31 mm are wide.
            np.testing.assert_allclose(first[1] - last[1], 300, atol=1e-6)


def test_layout_and_layers(radiographs: list[Radiograph], views_of_the_application: Any) -> None:
    source = radiograph_to_node(radiographs[0], "source")
    result = radiograph_to_node(radiographs[1], "result")
    overlay = radiograph_to_node(radiographs[1], "overlay")
    layout = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLLayoutNode")
    before = layout.GetViewArrangement()
    comparison = SideBySide()
    comparison.show(source, result, overlay, 0.4)
    assert layout.GetViewArrangement() == LAYOUT
    left = node_of("vtkMRMLSliceCompositeNode", SOURCE_VIEW)
    right = node_of("vtkMRMLSliceCompositeNode", RESULT_VIEW)
    assert (left.GetBackgroundVolumeID(), left.GetForegroundVolumeID()) == (source.GetID(), None)
    assert (right.GetBackgroundVolumeID(), right.GetForegroundVolumeID()) == (result.GetID(), overlay.GetID())
    assert right.GetForegroundOpacity() == pytest.approx(0.4)
    comparison.show(source, result)
    assert right.GetForegroundVolumeID() is None
    # A second panel's comparison knows the way back, too.
    SideBySide().restore()
    assert layout.GetViewArrangement() == before
    layout.SetViewArrangement(layout.SlicerLayoutFourUpView)
    comparison.restore()
    assert layout.GetViewArrangement() == layout.SlicerLayoutFourUpView


def test_window_and_level_are_linked(radiographs: list[Radiograph], views_of_the_application: Any) -> None:
    """Also where the source has a DICOM file's gray levels, in parts of each image's range."""
    source = slicer.util.addVolumeFromArray(np.linspace(100.0, 4100.0, 54, dtype=np.float32).reshape(1, 6, 9))
    result = radiograph_to_node(radiographs[0], "result")
    source.GetDisplayNode().SetAutoWindowLevel(False)
    source.GetDisplayNode().SetWindowLevelMinMax(100.0, 2100.0)
    comparison = SideBySide()
    comparison.show(source, result)
    shown = result.GetDisplayNode()
    assert (shown.GetWindowLevelMin(), shown.GetWindowLevelMax()) == pytest.approx((0.0, 0.5))
    shown.SetWindowLevelMinMax(0.25, 0.75)
    window = source.GetDisplayNode()
    assert (window.GetWindowLevelMin(), window.GetWindowLevelMax()) == pytest.approx((1100.0, 3100.0))
    comparison.cleanup()
    shown.SetWindowLevelMinMax(0.0, 1.0)
    assert window.GetWindowLevelMin() == pytest.approx(1100.0)


def test_the_view_follows_a_result_that_moves(radiographs: list[Radiograph], views_of_the_application: Any) -> None:
    source = radiograph_to_node(radiographs[0], "source")
    result = radiograph_to_node(radiographs[0], "result")
    comparison = SideBySide()
    comparison.show(source, result)
    # What the user has zoomed into stays while the image does.
    view = node_of("vtkMRMLSliceNode", RESULT_VIEW)
    view.SetFieldOfView(1.0, 1.0, 1.0)
    result.SetAttribute("any", "change")
    assert view.GetFieldOfView()[0] == 1.0
    radiograph_to_node(radiographs[1], "result", result)
    np.testing.assert_allclose(pixel_in_view(RESULT_VIEW, result, 4.0, 2.5), [175.0, 150.0, 0.0], atol=1e-6)


def test_the_views_follow_two_images_that_move(radiographs: list[Radiograph], views_of_the_application: Any) -> None:
    """As the volumes of two sequences do that are browsed together."""
    source, result = (radiograph_to_node(radiographs[0], name) for name in ("source", "result"))
    comparison = SideBySide()
    comparison.show(source, result)
    for node in (source, result):
        radiograph_to_node(radiographs[1], node.GetName(), node)
    for view, width in ((SOURCE_VIEW, 400), (RESULT_VIEW, 350)):
        np.testing.assert_allclose(pixel_in_view(view, source, 4.0, 2.5), [width / 2.0, 150.0, 0.0], atol=1e-6)


def test_views_that_change_their_sizes(radiographs: list[Radiograph], views_of_the_application: Any) -> None:
    """As the application's do after the layout was chosen. What the user has zoomed into stays."""
    source, result = (radiograph_to_node(radiographs[0], name) for name in ("source", "result"))
    comparison = SideBySide()
    comparison.show(source, result)
    logic = views_of_the_application[2]
    view = node_of("vtkMRMLSliceNode", RESULT_VIEW)
    logic.ResizeSliceNode(30, 600)
    first, last = pixel_in_view(RESULT_VIEW, result, -0.5, -0.5), pixel_in_view(RESULT_VIEW, result, 8.5, 5.5)
    np.testing.assert_allclose([first[0], last[0]], [0.0, 30.0], atol=1e-6)
    np.testing.assert_allclose(first[1] + last[1], 600.0, atol=1e-6)
    width_mm, height_mm, _ = view.GetFieldOfView()
    view.SetFieldOfView(width_mm / 2.0, height_mm / 2.0, 1.0)
    logic.ResizeSliceNode(300, 600)
    assert view.GetFieldOfView()[1] == pytest.approx(height_mm / 2.0)
    comparison.show(source, result)
    view.SetXYZOrigin(1.0, 0.0, 0.0)
    height_mm = view.GetFieldOfView()[1]
    logic.ResizeSliceNode(30, 600)
    assert view.GetFieldOfView()[1] == pytest.approx(height_mm)


def test_images_on_one_plane_show_the_same_part(radiographs: list[Radiograph], views_of_the_application: Any) -> None:
    source = radiograph_to_node(Radiograph(np.random.default_rng(0).random((60, 90), dtype=np.float32)), "source")
    result = radiograph_to_node(Radiograph(np.random.default_rng(1).random((20, 20), dtype=np.float32)), "result")
    SideBySide().show(source, result)
    centers = [node_of("vtkMRMLSliceNode", view).GetSliceToRAS() for view in (SOURCE_VIEW, RESULT_VIEW)]
    np.testing.assert_allclose(*(slicer.util.arrayFromVTKMatrix(one) for one in centers))
    assert node_of("vtkMRMLSliceNode", SOURCE_VIEW).GetFieldOfView()[1] == pytest.approx(20.0)


def test_nothing_stays_behind(radiographs: list[Radiograph], views_of_the_application: Any) -> None:
    """Nodes that leave the scene are freed, observers are removed, and a view without its image is no error."""
    comparison = SideBySide()
    source = radiograph_to_node(radiographs[0], "source")
    result = radiograph_to_node(radiographs[1], "result")
    comparison.show(source, result)
    slicer.mrmlScene.RemoveNode(result)
    source.GetDisplayNode().SetWindowLevelMinMax(0.1, 0.2)
    left = []
    for node in (source, source.GetDisplayNode(), result, result.GetDisplayNode()):
        left.append(vtk.vtkWeakReference())
        left[-1].Set(node)
    slicer.mrmlScene.Clear(False)
    del source, result, node
    gc.collect()
    assert [one.Get() for one in left] == [None] * 4
    comparison.cleanup()


def test_without_views_one_sentence(radiographs: list[Radiograph]) -> None:
    node = radiograph_to_node(radiographs[0], "source")
    with pytest.raises(SVDRRError, match="no views"):
        SideBySide().show(node, node)
