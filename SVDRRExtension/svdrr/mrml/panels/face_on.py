"""One slice view that looks straight at a radiograph, wherever its detector stands."""

from __future__ import annotations

from typing import Any

import slicer
import slicer.util
import vtk

from svdrr.mrml.observations import Observations
from svdrr.mrml.slice_views import fit_into, image_size_mm, is_faced, of_view, slice_to_ras

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
        layers = of_view("vtkMRMLSliceCompositeNode", VIEW)
        if layers is None:
            return
        layers.SetBackgroundVolumeID(volume.GetID())
        layers.SetForegroundVolumeID(None)
        layers.SetLabelVolumeID(None)
        self._face(volume)
        self._observations.add(volume, vtk.vtkCommand.ModifiedEvent, self._moved)

    def cleanup(self) -> None:
        """Follow nothing any more; the slice view stays as it is."""
        self._observations.remove_all()

    def _moved(self, volume: Any, event: str) -> None:
        view = of_view("vtkMRMLSliceNode", VIEW)
        if view is not None and volume.GetImageData() is not None and not is_faced(view, volume):
            self._face(volume)

    def _face(self, volume: Any) -> None:
        layers, view = of_view("vtkMRMLSliceCompositeNode", VIEW), of_view("vtkMRMLSliceNode", VIEW)
        # The user may have chosen another image since.
        if layers is None or view is None or layers.GetBackgroundVolumeID() != volume.GetID():
            return
        with slicer.util.NodeModify(view):
            view.GetSliceToRAS().DeepCopy(slicer.util.vtkMatrixFromArray(slice_to_ras(volume)))
            fit_into(view, image_size_mm(volume))
            view.UpdateMatrices()
