"""What every conversion needs of a node: its voxels, its place in the world, and a node to write to."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import slicer.util
import vtk
from numpy.typing import NDArray
from vtk.util.numpy_support import get_vtk_array_type, vtk_to_numpy

from svdrr.errors import SVDRRError


def voxels(node: slicer.vtkMRMLScalarVolumeNode, wanted: str) -> NDArray[Any]:
    """The node's own array (k, j, i), not a copy, whose values may be anything. wanted: "a CT volume", for the error.

    Raises SVDRRError if it is no scalar volume with voxels: nothing, a label map, colors or vectors.
    """
    if node is None:
        raise SVDRRError(f"No volume is chosen; choose {wanted}.")
    # By name, because MRML derives label maps and vector volumes from scalar volumes.
    kind = node.GetClassName()
    if kind == "vtkMRMLLabelMapVolumeNode":
        raise SVDRRError(f"'{node.GetName()}' is a label map; choose {wanted}.")
    if kind == "vtkMRMLVectorVolumeNode":
        raise SVDRRError(
            f"'{node.GetName()}' holds colors or vectors; convert it with the Vector to Scalar Volume module first."
        )
    if kind != "vtkMRMLScalarVolumeNode":
        raise SVDRRError(f"'{node.GetName()}' is not a scalar volume; choose {wanted}.")
    image = node.GetImageData()
    if image is None or image.GetPointData().GetScalars() is None or image.GetNumberOfPoints() == 0:
        raise SVDRRError(f"'{node.GetName()}' holds no voxels; choose {wanted} that does.")
    return np.asarray(slicer.util.arrayFromVolume(node))


def require_finite(array: NDArray[Any], name: str) -> None:
    """SVDRRError, with the node's name, if there are NaN or infinite values."""
    # A float is finite where its sum is, and the sum needs no second array of the volume's size.
    if not np.isfinite(array.sum(dtype=np.float64)):
        raise SVDRRError(f"'{name}' holds NaN or infinite values; replace them first.")


def ijk_to_world(node: slicer.vtkMRMLVolumeNode) -> NDArray[np.float64]:
    """Float64 (4, 4): voxel indices (i, j, k, 1) to RAS mm, with the node's parent transforms in it.

    Raises SVDRRError if a parent transform is not linear, or leaves the volume without extent.
    """
    ijk_to_ras = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(ijk_to_ras)
    matrix = np.asarray(slicer.util.arrayFromVTKMatrix(ijk_to_ras))
    parent = node.GetParentTransformNode()
    if parent is not None:
        if not parent.IsTransformToWorldLinear():
            raise SVDRRError(
                f"'{node.GetName()}' is under the non-linear transform '{parent.GetName()}'; harden or remove it first."
            )
        to_world = vtk.vtkMatrix4x4()
        parent.GetMatrixTransformToWorld(to_world)
        matrix = np.asarray(slicer.util.arrayFromVTKMatrix(to_world)) @ matrix
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:3, :3])) < 1e-12:
        raise SVDRRError(
            f"'{node.GetName()}' has axes without length or on one plane; correct its spacing or transform."
        )
    return matrix


def output_node(kind: str, name: str, node: Any | None) -> Any:
    """`node` under its new name, or a new node of class `kind` in the scene."""
    if node is None:
        return slicer.mrmlScene.AddNewNodeByClass(kind, name)
    node.SetName(name)
    return node


def check_output(kind: str, node: Any | None) -> None:
    """Raise SVDRRError if a node that is to be written to is of another class than `kind`."""
    if node is not None and node.GetClassName() != kind:
        raise SVDRRError(
            f"The result cannot be written to '{node.GetName()}', a {node.GetClassName()}; choose a {kind}."
        )


def image_of(array: NDArray[Any]) -> vtk.vtkImageData:
    """A copy of an array of scalars (k, j, i) as an image; in any thread, and others run while it is copied."""
    image = vtk.vtkImageData()
    image.SetDimensions(*array.shape[::-1])
    image.AllocateScalars(get_vtk_array_type(array.dtype), 1)
    np.copyto(vtk_to_numpy(image.GetPointData().GetScalars()).reshape(array.shape), array)
    return image


def fill(
    node: slicer.vtkMRMLVolumeNode, content: NDArray[Any] | vtk.vtkImageData, ijk_to_ras: NDArray[np.float64]
) -> None:
    """Give a volume node a copy of an array (k, j, i), or an image of its own, and its place in the world, free of
    parent transforms."""
    # Always a new image: the old one may be shared with another node.
    node.SetAndObserveImageData(content if isinstance(content, vtk.vtkImageData) else image_of(content))
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(ijk_to_ras))
    node.SetAndObserveTransformNodeID(None)


def remove(node: Any) -> None:
    """Take a node out of the scene with its display and storage nodes, which MRML would leave behind."""
    helpers = []
    if node.IsA("vtkMRMLDisplayableNode"):
        helpers += [node.GetNthDisplayNode(index) for index in range(node.GetNumberOfDisplayNodes())]
    if node.IsA("vtkMRMLStorableNode"):
        helpers += [node.GetNthStorageNode(index) for index in range(node.GetNumberOfStorageNodes())]
    for one in (node, *helpers):
        if one is not None:
            slicer.mrmlScene.RemoveNode(one)
