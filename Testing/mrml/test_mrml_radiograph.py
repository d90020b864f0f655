"""Radiographs in the scene: where they lie, what they say about themselves, and back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import slicer
import slicer.util
import vtk
from same_radiograph import assert_same

from svdrr.errors import SVDRRError
from svdrr.geometry import Detector, View
from svdrr.mrml import radiograph_from_node, radiograph_to_node, view_to_model
from svdrr.provenance import Provenance
from svdrr.radiograph import Radiograph


def ijk_to_ras(node: Any) -> np.ndarray:
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return np.array(slicer.util.arrayFromVTKMatrix(matrix))


def loaded(array: np.ndarray, name: str = "CR") -> Any:
    """A volume node as Slicer makes it from a file."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    slicer.util.updateVolumeFromArray(node, array)
    return node


def test_round_trip_is_exact(radiographs: list[Radiograph]) -> None:
    for radiograph in radiographs:
        node = radiograph_to_node(radiograph, "chest")
        assert slicer.util.arrayFromVolume(node).shape == (1, 6, 9)
        assert_same(radiograph_from_node(node), radiograph)


def test_markers_are_where_the_projection_puts_them(radiographs: list[Radiograph]) -> None:
    marker = np.array([[40.0, -55.0, 760.0]])
    for radiograph in radiographs:
        view = radiograph.view
        assert view is not None
        matrix = ijk_to_ras(radiograph_to_node(radiograph, "chest"))
        assert np.linalg.det(matrix[:3, :3]) > 0.0
        column, row = view.project(marker)[0]
        pixel = (matrix @ [column, row, 0.0, 1.0])[:3]
        source = view.pose.source_ras
        np.testing.assert_allclose(np.cross(pixel - source, marker[0] - source), 0.0, atol=1e-6)
        assert (pixel - source) @ view.pose.detector_direction == pytest.approx(view.pose.source_to_detector_mm)


def test_left_and_right_are_not_mirrored(radiographs: list[Radiograph]) -> None:
    """At PA the patient's right is on the left of the image and the head is up."""
    matrix = ijk_to_ras(radiograph_to_node(radiographs[0], "PA"))
    np.testing.assert_allclose(matrix[:3, :3] / [0.31, 0.7, 1.0], [[-1, 0, 0], [0, 0, -1], [0, -1, 0]], atol=1e-12)


@pytest.mark.parametrize("spacing", [None, (0.4, 0.3), (1.0, 1.0)])
def test_without_a_view_it_lies_as_a_pa_radiograph(spacing: tuple[float, float] | None) -> None:
    radiograph = Radiograph(np.linspace(0, 1, 15, dtype=np.float32).reshape(3, 5), spacing)
    node = radiograph_to_node(radiograph, "film")
    row_mm, column_mm = spacing or (1.0, 1.0)
    matrix = ijk_to_ras(node)
    np.testing.assert_allclose(matrix @ [2.0, 1.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0], atol=1e-12)
    np.testing.assert_allclose(matrix[:3, 0], [-column_mm, 0.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(matrix[:3, 1], [0.0, 0.0, -row_mm], atol=1e-12)
    assert (node.GetAttribute("SVDRR.PixelSpacing") == "unknown") == (spacing is None)
    assert_same(radiograph_from_node(node), radiograph)


def test_it_looks_like_a_radiograph(radiographs: list[Radiograph]) -> None:
    display = radiograph_to_node(radiographs[0], "chest").GetDisplayNode()
    assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == (0.0, 1.0)
    assert not display.GetAutoWindowLevel()
    assert display.GetColorNode().GetName() == "Grey"
    assert display.GetInterpolate()


def test_computed_images_say_so(radiographs: list[Radiograph], provenance: Provenance) -> None:
    film = replace(radiographs[0], provenance=None)
    drr = replace(film, provenance=Provenance(method="DRR (siddon)", source="phantom"))
    upscaled = replace(film, provenance=Provenance(method="bicubic x2", source="phantom"))
    names = [radiograph_to_node(one, "chest").GetName() for one in (film, drr, upscaled, radiographs[0])]
    assert names == ["chest", "chest (DRR)", "chest (synthetic)", "chest (synthetic)"]
    node = radiograph_to_node(radiographs[0], "chest")
    assert node.GetAttribute("SVDRR.Synthetic") == "SYNTHETIC, not for diagnosis"
    assert {key: node.GetAttribute(key) for key in provenance.attributes()} == provenance.attributes()


def test_a_reused_node_keeps_nothing_of_the_old_image(radiographs: list[Radiograph], nodes: Any) -> None:
    node = radiograph_to_node(radiographs[0], "synthesized")
    before = nodes()
    film = Radiograph(np.full((2, 2), 0.5, np.float32))
    assert radiograph_to_node(film, "film", node) is node
    assert nodes() == before
    assert node.GetName() == "film"
    assert_same(radiograph_from_node(node), film)
    assert [key for key in node.GetAttributeNames() if key.startswith("SVDRR.")] == ["SVDRR.PixelSpacing"]


def test_a_moved_or_cropped_image_has_no_view(radiographs: list[Radiograph]) -> None:
    node = radiograph_to_node(radiographs[1], "chest")
    node.SetOrigin(np.array(node.GetOrigin()) + 0.01)
    assert radiograph_from_node(node).view is None
    assert radiograph_from_node(node).provenance == radiographs[1].provenance

    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "moved")
    node = radiograph_to_node(radiographs[1], "chest")
    node.SetAndObserveTransformNodeID(transform.GetID())
    assert radiograph_from_node(node).view == radiographs[1].view
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(np.diag([-1.0, 1.0, 1.0, 1.0])))
    assert radiograph_from_node(node).view is None

    node = radiograph_to_node(radiographs[1], "chest")
    slicer.util.updateVolumeFromArray(node, radiographs[1].pixels[np.newaxis, :, 1:].copy())
    assert radiograph_from_node(node).view is None
    assert radiograph_from_node(node).pixel_spacing_mm == pytest.approx((0.7, 0.31))


def test_a_spacing_that_the_user_enters_counts() -> None:
    node = radiograph_to_node(Radiograph(np.full((2, 2), 0.5, np.float32)), "film")
    node.SetSpacing(0.2, 0.1, 1.0)
    assert radiograph_from_node(node).pixel_spacing_mm == (0.1, 0.2)


def test_a_dicom_radiograph_is_scaled_by_its_range() -> None:
    stored = np.array([[[100, 200, 300], [400, 500, 32767]]], np.uint16)
    film = radiograph_from_node(loaded(stored))
    np.testing.assert_allclose(film.pixels, (stored[0] - 100.0) / 32667.0, rtol=1e-6)
    assert film.pixel_spacing_mm is None
    assert film.view is None
    assert film.provenance is None


@pytest.mark.parametrize(
    ("sentence", "array"),
    [
        ("has 3 slices", np.zeros((3, 4, 4), np.float32)),
        ("NaN", np.full((1, 4, 4), np.nan, np.float32)),
        ("blank: every pixel is 2048", np.full((1, 4, 4), 2048, np.int16)),
    ],
)
def test_refused_inputs(sentence: str, array: np.ndarray) -> None:
    with pytest.raises(SVDRRError, match=sentence):
        radiograph_from_node(loaded(array))


def test_refused_images_leave_the_scene_alone(radiographs: list[Radiograph], views: list[View], nodes: Any) -> None:
    model = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", "skin")
    old = radiograph_to_node(radiographs[0], "old")
    before = nodes()
    good = radiographs[0]
    wrong = View(views[0].pose, Detector(9, 6, (0.7, 0.31)))
    for bad, node, sentence in [
        (replace(good, view=wrong), old, "6 x 9 pixels"),
        (replace(good, pixels=np.zeros((1, 6, 9), np.float32)), old, "rows and columns"),
        (replace(good, pixels=good.pixels * 3.0), old, "lie in 0 to 1"),
        (replace(good, pixels=np.full((6, 9), np.nan, np.float32)), None, "lie in 0 to 1"),
        (good, model, "cannot be written to 'skin'"),
    ]:
        with pytest.raises(SVDRRError, match=sentence):
            radiograph_to_node(bad, "new", node)
    assert nodes() == before
    assert old.GetName() == "old (synthetic)"
    assert_same(radiograph_from_node(old), good)


def test_view_model_joins_source_and_detector(views: list[View], nodes: Any) -> None:
    view = views[1]
    model = view_to_model(view, "C-arm")
    points = np.array(slicer.util.arrayFromModelPoints(model))
    np.testing.assert_allclose(points[0], view.pose.source_ras, atol=1e-4)
    np.testing.assert_allclose(points[1:].mean(axis=0), view.pose.detector_center_ras, atol=1e-4)
    assert np.linalg.norm(points[2] - points[1]) == pytest.approx(9 * 0.31)
    assert np.linalg.norm(points[3] - points[2]) == pytest.approx(6 * 0.7)
    before = nodes()
    assert view_to_model(views[2], "C-arm", model) is model
    assert nodes() == before


def test_a_place_of_its_own(radiographs: list[Radiograph]) -> None:
    """Without a view it goes where it is put, and pixels whose size is unknown stay so, however they are shown."""
    place = np.array([[0.0, 0.5, 0.0, 3.0], [-0.25, 0.0, 0.0, 4.0], [0.0, 0.0, 2.0, 5.0], [0.0, 0.0, 0.0, 1.0]])
    unknown = replace(radiographs[0], view=None, pixel_spacing_mm=None)
    node = radiograph_to_node(unknown, "film", ijk_to_ras=place)
    np.testing.assert_array_equal(ijk_to_ras(node), place)
    assert_same(radiograph_from_node(node), unknown)
    # Corrected by the user, it counts.
    node.SetSpacing(0.3, 0.2, 2.0)
    assert radiograph_from_node(node).pixel_spacing_mm == (0.2, 0.3)
    known = replace(unknown, pixel_spacing_mm=(0.5, 0.25))
    assert_same(radiograph_from_node(radiograph_to_node(known, "film", node, place)), known)
    # A view knows better.
    view = radiographs[1].view
    assert view is not None
    np.testing.assert_allclose(
        ijk_to_ras(radiograph_to_node(radiographs[1], "film", ijk_to_ras=place)), view.pixel_to_ras, atol=1e-9
    )
