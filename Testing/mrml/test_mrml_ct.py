"""CT volumes and masks in the scene."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import slicer
import slicer.util
import vtk

from svdrr.ct import CTVolume
from svdrr.errors import SVDRRError
from svdrr.mrml import ct as ct_module
from svdrr.mrml import ct_from_node, ct_to_node, masks_to_segmentation


@pytest.fixture
def ct() -> CTVolume:
    rng = np.random.default_rng(1)
    axes, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    ijk_to_ras = np.eye(4)
    ijk_to_ras[:3, :3] = axes * (0.7, 0.8, 2.5)
    ijk_to_ras[:3, 3] = (10.0, -200.0, 55.5)
    return CTVolume(rng.uniform(-1000.0, 2000.0, (4, 5, 6)).astype(np.float32), ijk_to_ras)


def add_transform(matrix: np.ndarray) -> Any:
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "moved")
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    return transform


def test_ct_round_trip(ct: CTVolume) -> None:
    node = ct_to_node(ct, "chest")
    assert node.GetClassName() == "vtkMRMLScalarVolumeNode"
    assert node.GetName() == "chest"
    assert node.GetDisplayNode().GetColorNode() is not None
    back = ct_from_node(node)
    np.testing.assert_array_equal(back.hu, ct.hu)
    np.testing.assert_allclose(back.ijk_to_ras, ct.ijk_to_ras, atol=1e-12)


def test_ct_is_a_copy(ct: CTVolume) -> None:
    node = ct_to_node(ct, "chest")
    ct_from_node(node).hu[:] = 7.0
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(node), ct.hu)


def test_integer_voxels_become_float(ct: CTVolume) -> None:
    node = ct_to_node(ct, "chest")
    slicer.util.updateVolumeFromArray(node, ct.hu.astype(np.int16))
    np.testing.assert_array_equal(ct_from_node(node).hu, ct.hu.astype(np.int16).astype(np.float32))


def test_parent_transforms_are_in_the_matrix(ct: CTVolume) -> None:
    node = ct_to_node(ct, "chest")
    inner, outer = np.eye(4), np.diag([1.0, 2.0, 1.0, 1.0])
    inner[:3, 3] = (5.0, 6.0, 7.0)
    inner_node, outer_node = add_transform(inner), add_transform(outer)
    inner_node.SetAndObserveTransformNodeID(outer_node.GetID())
    node.SetAndObserveTransformNodeID(inner_node.GetID())
    np.testing.assert_allclose(ct_from_node(node).ijk_to_ras, outer @ inner @ ct.ijk_to_ras, atol=1e-9)
    assert node.GetParentTransformNode() is inner_node


def test_result_in_an_old_node_replaces_it(ct: CTVolume, nodes: Any) -> None:
    node = ct_to_node(ct, "first")
    node.SetAndObserveTransformNodeID(add_transform(np.diag([1.0, 1.0, 3.0, 1.0])).GetID())
    before = nodes()
    other = CTVolume(np.linspace(-1000.0, 1000.0, 24, dtype=np.float32).reshape(2, 3, 4), np.eye(4))
    assert ct_to_node(other, "second", node) is node
    assert nodes() == before
    assert node.GetName() == "second"
    np.testing.assert_array_equal(ct_from_node(node).hu, other.hu)
    np.testing.assert_array_equal(ct_from_node(node).ijk_to_ras, np.eye(4))


def scalar_volume(array: np.ndarray, name: str = "input", kind: str = "vtkMRMLScalarVolumeNode") -> Any:
    node = slicer.mrmlScene.AddNewNodeByClass(kind, name)
    slicer.util.updateVolumeFromArray(node, array)
    return node


def warped() -> Any:
    node = scalar_volume(np.zeros((3, 3, 3), np.float32))
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "bent")
    spline = vtk.vtkThinPlateSplineTransform()
    points = vtk.vtkPoints()
    for point in np.vstack([np.eye(3), np.zeros(3), np.ones(3)]):
        points.InsertNextPoint(point)
    bent = vtk.vtkPoints()
    for point in np.vstack([np.eye(3), np.zeros(3), 2 * np.ones(3)]):
        bent.InsertNextPoint(point)
    spline.SetSourceLandmarks(points)
    spline.SetTargetLandmarks(bent)
    spline.SetBasisToR()
    transform.SetAndObserveTransformToParent(spline)
    node.SetAndObserveTransformNodeID(transform.GetID())
    return node


def flattened() -> Any:
    node = scalar_volume(np.zeros((3, 3, 3), np.float32))
    node.SetAndObserveTransformNodeID(add_transform(np.diag([1.0, 1.0, 0.0, 1.0])).GetID())
    return node


BAD_INPUTS = {
    "No volume is chosen": lambda: None,
    "label map": lambda: scalar_volume(np.zeros((3, 3, 3), np.uint8), kind="vtkMRMLLabelMapVolumeNode"),
    "colors or vectors": lambda: scalar_volume(np.zeros((3, 3, 3, 3), np.uint8), kind="vtkMRMLVectorVolumeNode"),
    "not a scalar volume": lambda: slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", "skin"),
    "no voxels": lambda: slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty"),
    "single slice": lambda: scalar_volume(np.zeros((1, 30, 30), np.float32)),
    "not in Hounsfield units": lambda: scalar_volume(np.arange(27, dtype=np.float32).reshape(3, 3, 3)),
    "NaN or infinite": lambda: scalar_volume(np.full((3, 3, 3), np.nan, np.float32)),
    "non-linear transform 'bent'": warped,
    "without length": flattened,
}


@pytest.mark.parametrize("sentence", BAD_INPUTS)
def test_refused_inputs(sentence: str, nodes: Any) -> None:
    node = BAD_INPUTS[sentence]()
    before = nodes()
    with pytest.raises(SVDRRError, match=sentence) as error:
        ct_from_node(node)
    assert "\n" not in str(error.value)
    assert nodes() == before


def test_wrong_output_node_is_refused_and_kept(ct: CTVolume, nodes: Any) -> None:
    model = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", "skin")
    before = nodes()
    with pytest.raises(SVDRRError, match="cannot be written to 'skin'"):
        ct_to_node(ct, "chest", model)
    assert nodes() == before
    assert model.GetName() == "skin"


def test_masks_become_segments_in_place(ct: CTVolume, nodes: Any) -> None:
    reference = ct_to_node(ct, "chest")
    reference.SetAndObserveTransformNodeID(add_transform(np.diag([-1.0, -1.0, 1.0, 1.0])).GetID())
    body = ct.hu > 500.0
    masks = {"body": body, "table": ~body & (ct.hu > 0.0)}
    segmentation = masks_to_segmentation(masks, reference, "chest parts")
    segments = segmentation.GetSegmentation()
    assert [segments.GetNthSegment(index).GetName() for index in range(2)] == ["body", "table"]
    assert segments.GetNthSegment(0).GetColor() != segments.GetNthSegment(1).GetColor()
    assert segmentation.GetParentTransformNode() is reference.GetParentTransformNode()
    role = segmentation.GetReferenceImageGeometryReferenceRole()
    assert segmentation.GetNodeReference(role) is reference
    labels = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    logic.ExportAllSegmentsToLabelmapNode(segmentation, labels, slicer.vtkSegmentation.EXTENT_REFERENCE_GEOMETRY)
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(labels), masks["body"] + 2 * masks["table"])
    matrix = vtk.vtkMatrix4x4()
    labels.GetIJKToRASMatrix(matrix)
    np.testing.assert_allclose(slicer.util.arrayFromVTKMatrix(matrix), ct.ijk_to_ras, atol=1e-9)

    before = nodes()
    masks_to_segmentation({"body": body}, reference, "again", segmentation)
    assert segments.GetNumberOfSegments() == 1
    assert nodes() == before


def test_mask_of_another_shape_is_refused(ct: CTVolume, nodes: Any) -> None:
    reference = ct_to_node(ct, "chest")
    before = nodes()
    with pytest.raises(SVDRRError, match="mask 'body' has shape"):
        masks_to_segmentation({"body": np.zeros((2, 2, 2), bool)}, reference, "parts")
    assert nodes() == before


def test_a_large_volume_is_checked_where_it_does_not_delay_anyone(monkeypatch: pytest.MonkeyPatch) -> None:
    node = slicer.util.addVolumeFromArray(np.full((4, 5, 6), 300, np.int16), name="MR")
    with pytest.raises(SVDRRError, match="'MR' is not in Hounsfield units"):
        ct_module.check_ct_node(node)
    monkeypatch.setattr(ct_module, "_QUICK_VOXELS", 100)
    ct_module.check_ct_node(node)
    with pytest.raises(SVDRRError, match="'MR' is not in Hounsfield units"):
        ct_module.ct_from_node(node)
