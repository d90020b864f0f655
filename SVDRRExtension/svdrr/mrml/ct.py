"""CT volumes and their masks as MRML nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import slicer
import slicer.util
import vtk
from numpy.typing import NDArray
from vtk.util.numpy_support import numpy_to_vtk

from svdrr.ct import CTVolume
from svdrr.ct.io import check_hounsfield_range, check_hounsfield_units
from svdrr.errors import SVDRRError
from svdrr.mrml.nodes import check_output, fill, ijk_to_world, output_node, require_finite, voxels

_VOLUME = "vtkMRMLScalarVolumeNode"
_SEGMENTATION = "vtkMRMLSegmentationNode"
_QUICK_VOXELS = 2**23


def ct_from_node(node: slicer.vtkMRMLScalarVolumeNode) -> CTVolume:
    """A copy of a volume node's voxels in HU, in the place where Slicer shows them.

    Linear parent transforms go into ijk_to_ras. Raises SVDRRError for what is no 3-D scalar volume, for values
    that cannot be HU, and under a non-linear transform.
    """
    return ct_snapshot(node)()


def ct_snapshot(node: slicer.vtkMRMLScalarVolumeNode) -> Callable[[], CTVolume]:
    """`ct_from_node` in two parts: this one, which is short, copies the voxels in the scene's thread; the function that
    it returns checks and converts them in any thread. Each raises its share of the errors.
    """
    array, ijk_to_ras = _placed_voxels(node)
    name = node.GetName()
    copied = array.copy()

    def checked() -> CTVolume:
        require_finite(copied, name)
        hu = copied.astype(np.float32, copy=False)
        check_hounsfield_units(hu, f"'{name}'")
        return CTVolume(hu, ijk_to_ras)

    return checked


def check_ct_node(node: slicer.vtkMRMLScalarVolumeNode) -> None:
    """Raise what `ct_from_node` would raise, as far as that can be told at once."""
    array, _ = _placed_voxels(node)
    # Of more voxels, finding the range takes longer than a panel may stand still.
    if array.size <= _QUICK_VOXELS:
        low, high = node.GetImageData().GetScalarRange()
        check_hounsfield_range(low, high, f"'{node.GetName()}'")


def _placed_voxels(node: slicer.vtkMRMLScalarVolumeNode) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """The node's own array (k, j, i), and its ijk_to_ras in the world."""
    array = voxels(node, "a CT volume")
    if min(array.shape) < 2:
        size = " x ".join(map(str, array.shape[::-1]))
        raise SVDRRError(f"'{node.GetName()}' is a single slice ({size} voxels); choose a CT volume.")
    return array, ijk_to_world(node)


def ct_to_node(
    ct: CTVolume, name: str, node: slicer.vtkMRMLScalarVolumeNode | None = None
) -> slicer.vtkMRMLScalarVolumeNode:
    """Show a CT in the scene: in `node` if given (its voxels and parent transform go), else in a new node."""
    check_output(_VOLUME, node)
    volume = output_node(_VOLUME, name, node)
    fill(volume, ct.hu, ct.ijk_to_ras)
    volume.CreateDefaultDisplayNodes()
    return volume


def masks_to_segmentation(
    masks: Mapping[str, NDArray[np.bool_]],
    reference: slicer.vtkMRMLScalarVolumeNode,
    name: str,
    node: slicer.vtkMRMLSegmentationNode | None = None,
) -> slicer.vtkMRMLSegmentationNode:
    """One segment for each mask, such as {"body": ..., "table": ...}, in this order.

    masks: bool (k, j, i), on the voxels of `reference`, whose place and parent transform the segmentation
    shares and which Segment Editor takes as its source. node: a segmentation whose segments are replaced.
    Raises SVDRRError if a mask has another shape than `reference`.
    """
    shape = voxels(reference, "the masks' CT volume").shape
    for segment, mask in masks.items():
        if mask.shape != shape:
            raise SVDRRError(
                f"The mask '{segment}' has shape {mask.shape} and '{reference.GetName()}' {shape}; they must be equal."
            )
    check_output(_SEGMENTATION, node)

    segmentation = output_node(_SEGMENTATION, name, node)
    segmentation.GetSegmentation().RemoveAllSegments()
    # The transform first: MRML takes the reference's geometry relative to the segmentation's own transform.
    segmentation.SetAndObserveTransformNodeID(reference.GetTransformNodeID())
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(reference)
    segmentation.CreateDefaultDisplayNodes()
    ijk_to_ras = vtk.vtkMatrix4x4()
    reference.GetIJKToRASMatrix(ijk_to_ras)
    for segment, mask in masks.items():
        image = slicer.vtkOrientedImageData()
        image.SetDimensions(*shape[::-1])
        image.GetPointData().SetScalars(numpy_to_vtk(mask.astype(np.uint8).ravel(), deep=True))
        image.SetGeometryFromImageToWorldMatrix(ijk_to_ras)
        segmentation.AddSegmentFromBinaryLabelmapRepresentation(image, segment)
    return segmentation
