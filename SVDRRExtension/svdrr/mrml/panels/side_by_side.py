"""Two images beside each other, face on, with one window and level: a source, and what was made from it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
import slicer.util
import vtk

from svdrr.errors import SVDRRError
from svdrr.mrml.observations import Observations
from svdrr.mrml.slice_views import fit_into, image_size_mm, is_faced, is_same_plane, of_view, slice_to_ras
from svdrr.provenance import PREFIX

LAYOUT = 8650
SOURCE_VIEW, RESULT_VIEW = "SVDRRSource", "SVDRRResult"

# Of their own, so that zooming here leaves the other slice views as they are.
_VIEW_GROUP = 8650
_EARLIER_LAYOUT = "SVDRR.EarlierLayout"


@dataclass(frozen=True)
class _Fit:
    """How an image was fitted into a slice view, all as (across, up)."""

    image_mm: tuple[float, float]
    view_pixels: tuple[int, int]
    field_of_view_mm: tuple[float, float]


class SideBySide:
    """The comparison layout with two slice views. It holds no node, and needs no Qt: an application makes the views."""

    def __init__(self) -> None:
        self._observations = Observations()
        self._fitted: dict[str, _Fit] = {}

    def show(
        self,
        source: slicer.vtkMRMLScalarVolumeNode,
        result: slicer.vtkMRMLScalarVolumeNode,
        overlay: slicer.vtkMRMLScalarVolumeNode | None = None,
        overlay_opacity: float = 0.5,
    ) -> None:
        """Show `source` on the left and `result`, below a colored `overlay`, on the right.

        Row 0 is at the top, column 0 at the left. Window and level are taken from the source, and what is changed of
        one is changed of the other, in parts of each image's range of gray levels. Where an image moves onto another
        plane, as a sequence's volume does, its view follows. Two images on one plane show the same part of it. The
        images fill their views, when those change their sizes, too, until the user zooms or moves them.
        """
        self._observations.remove_all()
        is_new = self._set_layout()
        _show_in(SOURCE_VIEW, source, None, 0.0)
        _show_in(RESULT_VIEW, result, overlay, overlay_opacity)
        if is_new and hasattr(slicer, "app"):
            # New views set their sliders, and by them their offsets, once they get to it: before they are turned.
            slicer.app.processEvents()
        for node in (source, result):
            if node.GetDisplayNode() is None:
                node.CreateDefaultDisplayNodes()
        _copy_window_level(source, result)
        self._face(SOURCE_VIEW, result if _on_one_plane(source, result) else source)
        self._face(RESULT_VIEW, result)
        for node in (source, result):
            self._observations.add(node.GetDisplayNode(), vtk.vtkCommand.ModifiedEvent, self._display_changed)
            self._observations.add(node, vtk.vtkCommand.ModifiedEvent, self._image_changed)
        for view in (SOURCE_VIEW, RESULT_VIEW):
            self._observations.add(_slice_node(view), vtk.vtkCommand.ModifiedEvent, self._view_changed)

    def restore(self) -> None:
        """Back to the layout from before, unless the user has chosen another one since."""
        self.cleanup()
        layout = _layout_node()
        earlier = layout.GetAttribute(_EARLIER_LAYOUT)
        if layout.GetViewArrangement() == LAYOUT:
            layout.SetViewArrangement(int(earlier) if earlier else layout.SlicerLayoutConventionalView)

    def cleanup(self) -> None:
        """Follow no changes any more, because the panel goes; the layout stays."""
        self._observations.remove_all()

    def _set_layout(self) -> bool:
        """Whether there was another layout before."""
        register_layout()
        layout = _layout_node()
        if layout.GetViewArrangement() == LAYOUT:
            return False
        # In the scene, because panels share the layout.
        layout.SetAttribute(_EARLIER_LAYOUT, str(layout.GetViewArrangement()))
        layout.SetViewArrangement(LAYOUT)
        return True

    def _display_changed(self, display: Any, event: str) -> None:
        shown = _shown_in(SOURCE_VIEW), _shown_in(RESULT_VIEW)
        for node, other in (shown, shown[::-1]):
            if node is not None and other is not None and node.GetDisplayNode() is display:
                _copy_window_level(node, other)
                return

    def _image_changed(self, image: Any, event: str) -> None:
        for view in (SOURCE_VIEW, RESULT_VIEW):
            if _shown_in(view) is image and not is_faced(_slice_node(view), image):
                self._face(view, image)

    def _view_changed(self, view: Any, event: str) -> None:
        # What was fitted while the view updated its matrices is not in them yet.
        view.UpdateMatrices()
        fitted = self._fitted[view.GetLayoutName()]
        columns, rows, _ = view.GetDimensions()
        _, height_mm, _ = view.GetFieldOfView()
        if (columns, rows) == fitted.view_pixels or view.GetXYZOrigin() != (0.0, 0.0, 0.0):
            return
        # Slicer keeps the height when a view's size changes.
        if math.isclose(height_mm, fitted.field_of_view_mm[1]):
            self._fit(view, fitted.image_mm)

    def _face(self, view: str, node: Any) -> None:
        """Turn a slice view so that it shows the whole image upright and neither mirrored nor tilted."""
        slice_node = _slice_node(view)
        with slicer.util.NodeModify(slice_node):
            slice_node.GetSliceToRAS().DeepCopy(slicer.util.vtkMatrixFromArray(slice_to_ras(node)))
            self._fit(slice_node, image_size_mm(node))
            slice_node.UpdateMatrices()

    def _fit(self, view: Any, image_mm: tuple[float, float]) -> None:
        columns, rows, _ = view.GetDimensions()
        self._fitted[view.GetLayoutName()] = _Fit(image_mm, (columns, rows), fit_into(view, image_mm))


def register_layout() -> None:
    """Make the comparison layout known to the application, where it has views at all; scenes may ask for it."""
    layout = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLLayoutNode")
    if layout is not None and not layout.IsLayoutDescription(LAYOUT):
        layout.AddLayoutDescription(LAYOUT, _LAYOUT_XML)


def _layout_node() -> Any:
    layout = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLLayoutNode")
    if layout is None:
        raise SVDRRError("There are no views to show images in.")
    return layout


def _slice_node(view: str) -> Any:
    node = of_view("vtkMRMLSliceNode", view)
    if node is None:
        raise SVDRRError(f"The slice view {view} is missing; choose another layout and try again.")
    return node


def _shown_in(view: str) -> Any | None:
    """The volume in a view's background; None, too, where it has no image, as while it gets a new one."""
    layers = of_view("vtkMRMLSliceCompositeNode", view)
    node = slicer.mrmlScene.GetNodeByID(layers.GetBackgroundVolumeID() or "") if layers is not None else None
    return node if node is not None and node.GetImageData() is not None else None


def _show_in(view: str, background: Any, foreground: Any | None, opacity: float) -> None:
    layers = of_view("vtkMRMLSliceCompositeNode", view)
    if layers is None:
        raise SVDRRError(f"The slice view {view} is missing; choose another layout and try again.")
    layers.SetLinkedControl(True)
    layers.SetBackgroundVolumeID(background.GetID())
    layers.SetForegroundVolumeID(foreground.GetID() if foreground is not None else None)
    layers.SetForegroundOpacity(opacity)
    layers.SetLabelVolumeID(None)


def _on_one_plane(node: Any, other: Any) -> bool:
    return is_same_plane(slice_to_ras(node), slice_to_ras(other))


def _copy_window_level(node: Any, other: Any) -> None:
    low, high = _gray_range(node)
    other_low, other_high = _gray_range(other)
    if high == low:
        return
    display, other_display = node.GetDisplayNode(), other.GetDisplayNode()
    window = np.array([display.GetWindowLevelMin(), display.GetWindowLevelMax()])
    wanted = other_low + (window - low) * (other_high - other_low) / (high - low)
    present = [other_display.GetWindowLevelMin(), other_display.GetWindowLevelMax()]
    # Only what differs: the other image answers with the same.
    if not np.allclose(present, wanted, rtol=0.0, atol=1e-6 * (abs(other_high - other_low) or 1.0)):
        other_display.SetAutoWindowLevel(False)
        other_display.SetWindowLevelMinMax(*wanted)


def _gray_range(node: Any) -> tuple[float, float]:
    """What `radiograph_from_node` maps to 0 and 1."""
    if node.GetAttribute(f"{PREFIX}PixelSpacing"):
        # Made by `radiograph_to_node`; looking at many pixels takes a while.
        return 0.0, 1.0
    low, high = node.GetImageData().GetScalarRange()
    return (0.0, 1.0) if low >= 0.0 and high <= 1.0 else (low, high)


def _view_xml(tag: str, label: str, color: str) -> str:
    return f"""
  <item><view class="vtkMRMLSliceNode" singletontag="{tag}">
    <property name="orientation" action="default">Coronal</property>
    <property name="viewlabel" action="default">{label}</property>
    <property name="viewcolor" action="default">{color}</property>
    <property name="viewgroup" action="default">{_VIEW_GROUP}</property>
  </view></item>"""


_LAYOUT_XML = (
    '<layout type="horizontal" split="true">'
    + _view_xml(SOURCE_VIEW, "Source", "#4A6FA5")
    + _view_xml(RESULT_VIEW, "Result", "#B5651D")
    + "\n</layout>"
)
