"""The label that every slice view carries while it shows an image that was computed."""

from __future__ import annotations

from typing import Any

import slicer
import slicer.util
import vtk

from svdrr.mrml.observations import Observations
from svdrr.mrml.radiograph import is_computed, pose_label
from svdrr.provenance import PREFIX, SYNTHETIC_LABEL

_COLOR = (1.0, 0.75, 0.0)
_FONT_SIZES = (10, 18)
# Slicer itself writes into the left and the upper right corners.
_CORNER = vtk.vtkCornerAnnotation.LowerRight

_labels: SyntheticLabels | None = None


def install_synthetic_labels() -> None:
    """Label the application's slice views from now on, those of later layouts too; once is enough for all modules."""
    global _labels
    manager = slicer.app.layoutManager()
    # There is none where Slicer runs without its window.
    if _labels is None and manager is not None:
        _labels = SyntheticLabels()
        _label_views()
        manager.connect("layoutChanged(int)", _label_views)
        slicer.app.connect("aboutToQuit()", remove_synthetic_labels)


def remove_synthetic_labels() -> None:
    """Take the labels out of the views, because the application ends."""
    global _labels
    if _labels is not None:
        slicer.app.layoutManager().disconnect("layoutChanged(int)", _label_views)
        slicer.app.disconnect("aboutToQuit()", remove_synthetic_labels)
        _labels.remove()
        _labels = None


def _label_views(layout: int = 0) -> None:
    manager = slicer.app.layoutManager()
    for name in manager.sliceViewNames():
        view = manager.sliceWidget(name).sliceView()
        if _labels is not None:
            _labels.add(name, view.renderWindow())
            view.scheduleRender()


def label_of(view: str) -> str:
    """What a slice view must say about the images in its background and foreground; empty for images that were taken.

    A DRR is labeled, too: no detector has taken it. The second line tells how an image was made, and from where.
    """
    lines: list[str] = []
    for layers in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
        if layers.GetLayoutName() != view:
            continue
        shown = [layers.GetBackgroundVolumeID()]
        if layers.GetForegroundOpacity() > 0.0:
            shown.append(layers.GetForegroundVolumeID())
        for volume in (slicer.mrmlScene.GetNodeByID(one or "") for one in shown):
            if volume is None or not is_computed(volume):
                continue
            made = [volume.GetAttribute(f"{PREFIX}{name}") for name in ("Method", "Enhancement")]
            lines += [SYNTHETIC_LABEL, ", ".join(part for part in (*made, pose_label(volume)) if part)]
    return "\n".join(line for line in dict.fromkeys(lines) if line)


class SyntheticLabels:
    """Text of our own in slice views, renewed before each of their frames, so that it is never behind the image."""

    def __init__(self) -> None:
        self._texts: list[tuple[Any, vtk.vtkCornerAnnotation]] = []
        self._observations = Observations()

    def add(self, view: str, window: Any) -> None:
        """Label the slice view of this name, drawn in this render window, if it is not labeled yet."""
        if any(reference.Get() is window for reference, _ in self._texts):
            return
        text = vtk.vtkCornerAnnotation()
        text.SetMinimumFontSize(_FONT_SIZES[0])
        text.SetMaximumFontSize(_FONT_SIZES[1])
        text.GetTextProperty().SetColor(*_COLOR)
        text.GetTextProperty().ShadowOn()
        text.PickableOff()
        reference = vtk.vtkWeakReference()
        reference.Set(window)
        self._texts.append((reference, text))
        self._observations.add(window, vtk.vtkCommand.StartEvent, lambda drawn, event: _renew(drawn, view, text))

    def remove(self) -> None:
        """Take every text and every observer away."""
        self._observations.remove_all()
        while self._texts:
            reference, text = self._texts.pop()
            for renderer in reference.Get().GetRenderers() if reference.Get() is not None else ():
                renderer.RemoveViewProp(text)


def _renew(window: Any, view: str, text: vtk.vtkCornerAnnotation) -> None:
    renderer = window.GetRenderers().GetFirstRenderer()
    if renderer is None:
        return
    # Each time, because a view makes new renderers when its grid of images changes.
    if not renderer.HasViewProp(text):
        renderer.AddViewProp(text)
    text.SetText(_CORNER, label_of(view))
