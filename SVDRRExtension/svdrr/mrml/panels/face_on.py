"""One slice view that looks straight at a radiograph, wherever its detector stands."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import slicer.util
import vtk

from svdrr.mrml.nodes import ijk_to_world
from svdrr.mrml.observations import Observations

VIEW = "Red"


class FaceOn:
    """Keeps the slice view `VIEW` on one volume of one slice, upright and not mirrored.

    Where the volume moves, as that of a sequence's browser does from view to view, the slice view follows.
    """

    def __init__(self) -> None:
        self._observations = Observations()

    def show(self, volume: slicer.vtkMRMLScalarVolumeNode) -> None:
        """Show the whole of this volume from now on."""
        self._observations.remove_all()
        layers = _of_view("vtkMRMLSliceCompositeNode")
        if layers is None:
            return
        layers.SetBackgroundVolumeID(volume.GetID())
        layers.SetForegroundVolumeID(None)
        layers.SetLabelVolumeID(None)
        self._face(volume)
        self._observations.add(volume, vtk.vtkCommand.ModifiedEvent, lambda moved, event: self._face(moved))

    def cleanup(self) -> None:
        """Follow nothing any more; the slice view stays as it is."""
        self._observations.remove_all()

    def _face(self, volume: Any) -> None:
        layers, view = _of_view("vtkMRMLSliceCompositeNode"), _of_view("vtkMRMLSliceNode")
        # The user may have chosen another image since.
        if layers is None or view is None or layers.GetBackgroundVolumeID() != volume.GetID():
            return
        matrix = ijk_to_world(volume)
        columns, rows, _ = volume.GetImageData().GetDimensions()
        width_mm, height_mm = np.linalg.norm(matrix[:3, :2], axis=0) * [columns, rows]
        right, up = matrix[:3, 0] / width_mm * columns, -matrix[:3, 1] / height_mm * rows
        slice_to_ras = np.eye(4)
        slice_to_ras[:3, :3] = np.column_stack([right, up, np.cross(right, up)])
        slice_to_ras[:3, 3] = (matrix @ [(columns - 1) / 2.0, (rows - 1) / 2.0, 0.0, 1.0])[:3]
        if np.allclose(slicer.util.arrayFromVTKMatrix(view.GetSliceToRAS()), slice_to_ras, atol=1e-4):
            return
        view_columns, view_rows, _ = view.GetDimensions()
        mm_per_pixel = max(width_mm / view_columns, height_mm / view_rows)
        with slicer.util.NodeModify(view):
            view.GetSliceToRAS().DeepCopy(slicer.util.vtkMatrixFromArray(slice_to_ras))
            view.SetXYZOrigin(0.0, 0.0, 0.0)
            view.SetFieldOfView(mm_per_pixel * view_columns, mm_per_pixel * view_rows, 1.0)
            view.UpdateMatrices()


def _of_view(kind: str) -> Any:
    nodes = slicer.util.getNodesByClass(kind)
    return next((node for node in nodes if node.GetLayoutName() == VIEW), None)
