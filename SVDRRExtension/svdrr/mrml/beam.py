"""Where a view and a set of views are taken from, drawn in the 3D views without a trace in the user's scene."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import slicer
import slicer.util

from svdrr.geometry import CArmPose, View
from svdrr.mrml.model import view_to_model
from svdrr.mrml.nodes import remove

_COLOR, _POINT_COLOR = (1.0, 0.75, 0.0), (0.3, 0.7, 1.0)
# Above Slicer's own observer, which moves the slice views to a point that is clicked.
_FIRST = 1.0


class BeamDisplay:
    """Source, rays and detector of one view as lines, and the sources of a set of views as points.

    Its nodes are neither listed nor saved, and go with `remove`. on_point: called with the index of a view whose point
    is clicked in a 3D view.
    """

    def __init__(self, on_point: Callable[[int], None]) -> None:
        self._on_point = on_point
        self._model: Any = None
        self._points: Any = None
        self._poses: tuple[CArmPose, ...] = ()
        self._click_tag = 0

    def show(self, view: View, poses: Sequence[CArmPose] = ()) -> None:
        """Draw this view, and these poses of a set."""
        self._model = _present(self._model)
        self._model = view_to_model(view, "C-arm beam", self._model)
        _keep_to_ourselves(self._model)
        display = self._model.GetDisplayNode()
        display.SetColor(*_COLOR)
        display.SetLineWidth(2.0)
        self._show_points(tuple(poses))

    def remove(self) -> None:
        """Take everything out of the scene."""
        self._remove_points()
        model, self._model = _present(self._model), None
        if model is not None:
            remove(model)

    def _show_points(self, poses: tuple[CArmPose, ...]) -> None:
        if poses == self._poses and (not poses or _present(self._points) is not None):
            return
        self._remove_points()
        self._poses = poses
        if not poses:
            return
        points = self._points = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "C-arm views")
        points.CreateDefaultDisplayNodes()
        _keep_to_ourselves(points)
        display = points.GetDisplayNode()
        display.SetSelectedColor(*_POINT_COLOR)
        display.SetPointLabelsVisibility(False)
        display.SetPropertiesLabelVisibility(False)
        display.SetVisibility2D(False)
        with slicer.util.NodeModify(points):
            for pose in poses:
                index = points.AddControlPointWorld(pose.source_ras, pose.label)
                # Each by itself: in a list that is locked as a whole, points cannot even be clicked.
                points.SetNthControlPointLocked(index, True)
        self._click_tag = display.AddObserver(display.JumpToPointEvent, self._clicked, _FIRST)

    def _clicked(self, display: Any, event: str) -> None:
        display.GetCommand(self._click_tag).AbortFlagOn()
        self._on_point(display.GetActiveComponentIndex())

    def _remove_points(self) -> None:
        self._poses = ()
        points, self._points = _present(self._points), None
        if points is not None:
            points.GetDisplayNode().RemoveObserver(self._click_tag)
            remove(points)


def _present(node: Any) -> Any:
    """The node, unless it has left the scene, as with a scene that was closed."""
    return node if node is not None and slicer.mrmlScene.IsNodePresent(node) else None


def _keep_to_ourselves(node: Any) -> None:
    node.SetHideFromEditors(True)
    node.SetSelectable(node.IsA("vtkMRMLMarkupsNode"))
    for one in (node, node.GetDisplayNode()):
        one.SetSaveWithScene(False)
