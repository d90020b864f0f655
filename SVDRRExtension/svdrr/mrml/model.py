"""A view as lines in the 3-D view: from the X-ray source to the detector's corners."""

from __future__ import annotations

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk

from svdrr.geometry import View
from svdrr.mrml.nodes import check_output, output_node

_MODEL = "vtkMRMLModelNode"
_LINES = ((0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (2, 3), (3, 4), (4, 1))


def view_to_model(view: View, name: str, node: slicer.vtkMRMLModelNode | None = None) -> slicer.vtkMRMLModelNode:
    """Show source and detector as a pyramid of lines, RAS mm.

    Points: the source, then the detector's corners in the order of `View.detector_corners_ras`.
    """
    check_output(_MODEL, node)

    points = vtk.vtkPoints()
    points.SetData(numpy_to_vtk(np.vstack([view.pose.source_ras, view.detector_corners_ras]), deep=True))
    lines = vtk.vtkCellArray()
    for line in _LINES:
        lines.InsertNextCell(2, line)
    pyramid = vtk.vtkPolyData()
    pyramid.SetPoints(points)
    pyramid.SetLines(lines)

    model = output_node(_MODEL, name, node)
    model.SetAndObservePolyData(pyramid)
    model.SetAndObserveTransformNodeID(None)
    model.CreateDefaultDisplayNodes()
    return model
