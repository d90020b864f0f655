"""Slice views that look straight at an image of one slice, wherever its detector stands."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import slicer.util
from numpy.typing import NDArray

from svdrr.mrml.nodes import ijk_to_world

_SAME_DIRECTION = 1e-4
_SAME_PLANE_MM = 0.5


def of_view(kind: str, view: str) -> Any | None:
    """The node of class `kind`, such as vtkMRMLSliceNode, that belongs to a slice view by its layout name, or None."""
    return next((node for node in slicer.util.getNodesByClass(kind) if node.GetLayoutName() == view), None)


def slice_to_ras(node: slicer.vtkMRMLScalarVolumeNode) -> NDArray[np.float64]:
    """Float64 (4, 4), as of a slice node that shows the whole image upright and neither mirrored nor tilted.

    Its columns are right, up and towards the viewer, unit vectors, and the image's center, RAS mm.
    """
    matrix = ijk_to_world(node)
    dimensions = np.array(node.GetImageData().GetDimensions())
    right, down = (matrix[:3, :2] / np.linalg.norm(matrix[:3, :2], axis=0)).T
    placed = np.eye(4)
    placed[:3, :3] = np.column_stack([right, -down, np.cross(right, -down)])
    placed[:3, 3] = (matrix @ [*((dimensions - 1) / 2.0), 1.0])[:3]
    return placed


def image_size_mm(node: slicer.vtkMRMLScalarVolumeNode) -> tuple[float, float]:
    """Width and height of an image between the outer edges of its outer pixels, mm."""
    column_mm, row_mm = np.linalg.norm(ijk_to_world(node)[:3, :2], axis=0)
    columns, rows, _ = node.GetImageData().GetDimensions()
    return float(columns * column_mm), float(rows * row_mm)


def is_same_plane(one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    """Whether two matrices of `slice_to_ras` have the same directions and lie on one plane."""
    off_plane_mm = abs((other[:3, 3] - one[:3, 3]) @ one[:3, 2])
    return bool(np.abs(other[:3, :3] - one[:3, :3]).max() < _SAME_DIRECTION and off_plane_mm < _SAME_PLANE_MM)


def is_faced(view: slicer.vtkMRMLSliceNode, node: slicer.vtkMRMLScalarVolumeNode) -> bool:
    """Whether the slice view looks straight at the image."""
    return is_same_plane(slice_to_ras(node), slicer.util.arrayFromVTKMatrix(view.GetSliceToRAS()))


def fit_into(view: slicer.vtkMRMLSliceNode, image_mm: tuple[float, float]) -> tuple[float, float]:
    """Have the image (width, height, mm) fill the slice view about its center; returns the field of view, mm."""
    columns, rows, _ = view.GetDimensions()
    mm_per_pixel = max(image_mm[0] / columns, image_mm[1] / rows)
    field_of_view_mm = mm_per_pixel * columns, mm_per_pixel * rows
    view.SetXYZOrigin(0.0, 0.0, 0.0)
    view.SetFieldOfView(*field_of_view_mm, 1.0)
    return field_of_view_mm
