"""Many views as a sequence of radiographs with a browser."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import slicer
import slicer.util
import vtk

from svdrr.backend.client import ArrivedView
from svdrr.errors import SVDRRError
from svdrr.mrml.nodes import remove
from svdrr.mrml.radiograph import (
    VOLUME,
    fill_with_radiograph,
    radiograph_from_node,
    radiograph_to_node,
    synthetic_suffix,
)
from svdrr.mrml.task import require_in_scene
from svdrr.radiograph import Radiograph, check_radiograph


class GrowingSequence:
    """Views that come into the scene one by one, as one sequence with a browser that can be used meanwhile.

    name: of the nodes, which also say how the views were made. beside: the browser of other views; each of these is
    then shown together with the one of the same number. Nothing is added to the scene before the first view: until
    then, browser, proxy (the volume that the browser shows views in) and sequence are None.
    """

    def __init__(self, name: str, beside: slicer.vtkMRMLSequenceBrowserNode | None = None) -> None:
        self.browser: Any = beside
        self.proxy: Any = None
        self.sequence: Any = None
        self._name, self._suffix = name, ""
        self._owns_browser = beside is None

    def append(self, radiograph: Radiograph) -> None:
        """Add a view at the end; the browser stays where it is.

        SVDRRError if the pixels do not fit the view, or where a node of the sequence was deleted meanwhile.
        """
        check_radiograph(radiograph)
        if self.sequence is None:
            self._begin(radiograph)
        self._require_in_scene()
        suffix = synthetic_suffix(radiograph.provenance)
        # Outside the scene: the sequence keeps a copy in a scene of its own.
        item = slicer.vtkMRMLScalarVolumeNode()
        item.SetName(self._name + suffix)
        fill_with_radiograph(item, radiograph)
        angles = f": {radiograph.view.pose.label}" if radiograph.view else ""
        self.sequence.SetDataNodeAtValue(item, f"{self.sequence.GetNumberOfDataNodes() + 1}{angles}")
        if self.sequence.GetNumberOfDataNodes() == 1:
            self._show(radiograph)
        if len(suffix) > len(self._suffix):
            self._suffix = suffix
            self._say_how_they_were_made()

    def _begin(self, first: Radiograph) -> None:
        self._suffix = synthetic_suffix(first.provenance)
        self._name = _unused(self._name, self._suffix)
        self.sequence = slicer.mrmlScene.AddNewNodeByClass(
            "vtkMRMLSequenceNode", f"{self._name}{self._suffix} sequence"
        )
        self.sequence.SetIndexName("view")
        self.sequence.SetIndexUnit("")
        self.sequence.SetIndexType(slicer.vtkMRMLSequenceNode.TextIndex)

    def _show(self, first: Radiograph) -> None:
        self.proxy = radiograph_to_node(first, self._name)
        if self._owns_browser:
            self.browser = slicer.mrmlScene.AddNewNodeByClass(
                "vtkMRMLSequenceBrowserNode", f"{self._name}{self._suffix} browser"
            )
        # As one change, since for a sequence without a proxy the browser makes one itself.
        with slicer.util.NodeModify(self.browser):
            self.browser.AddSynchronizedSequenceNode(self.sequence)
            self.browser.AddProxyNode(self.proxy, self.sequence, False)
        if self._owns_browser:
            self.browser.SetSelectedItemNumber(0)

    def _say_how_they_were_made(self) -> None:
        """The proxy keeps its name while its content changes, so it says what holds for any of them."""
        self.proxy.SetName(f"{self._name}{self._suffix}")
        self.sequence.SetName(f"{self._name}{self._suffix} sequence")
        if self._owns_browser:
            self.browser.SetName(f"{self._name}{self._suffix} browser")

    def _require_in_scene(self) -> None:
        for node in (self.sequence, self.browser):
            if node is not None:
                require_in_scene(node, self._name)


def _unused(name: str, suffix: str) -> str:
    """The name, or with a number that no sequence in the scene has yet."""
    number, found = 1, name
    while slicer.mrmlScene.GetFirstNodeByName(f"{found}{suffix} sequence") is not None:
        number += 1
        found = f"{name} {number}"
    return found


def views_to_sequence(radiographs: Sequence[Radiograph], name: str) -> slicer.vtkMRMLSequenceBrowserNode:
    """Add radiographs to the scene as one sequence and return its browser, which shows the first.

    The items are indexed by "view": their number, from 1, and where known their angles, as in
    "12: LAO 30° CRAN 10°". A proxy volume node follows the browser, onto each view's own detector plane.
    Raises SVDRRError for no radiographs, or where one does not fit its view.
    """
    if not radiographs:
        raise SVDRRError("There are no views to show; choose at least one.")
    for radiograph in radiographs:
        check_radiograph(radiograph)
    views = GrowingSequence(name)
    for radiograph in radiographs:
        views.append(radiograph)
    return views.browser


def views_from_sequence(browser: slicer.vtkMRMLSequenceBrowserNode) -> list[Radiograph]:
    """The radiographs of a browser's master sequence, in order, each as `radiograph_from_node` gives it.

    Raises SVDRRError if there is no sequence of radiographs.
    """
    sequence = require_view_sequence(browser)
    return [radiograph_from_node(sequence.GetNthDataNode(index)) for index in range(sequence.GetNumberOfDataNodes())]


def require_view_sequence(browser: slicer.vtkMRMLSequenceBrowserNode | None) -> slicer.vtkMRMLSequenceNode:
    """A browser's master sequence; SVDRRError if it is none of volumes."""
    sequence = browser.GetMasterSequenceNode() if browser is not None else None
    if sequence is None or sequence.GetNumberOfDataNodes() == 0 or sequence.GetDataNodeClassName() != VOLUME:
        raise SVDRRError("There is no sequence of radiographs here; choose the browser of a view sequence.")
    return sequence


def in_order(take: Callable[[Radiograph], None]) -> Callable[[ArrivedView], None]:
    """Passes views on in the order of their poses; one that comes too early waits for those before it."""
    waiting: dict[int, Radiograph] = {}
    taken = 0

    def on_view(arrived: ArrivedView) -> None:
        nonlocal taken
        waiting[arrived.index] = arrived.radiograph
        while taken in waiting:
            take(waiting.pop(taken))
            taken += 1

    return on_view


def remove_sequence(browser: slicer.vtkMRMLSequenceBrowserNode) -> None:
    """Take out of the scene what `views_to_sequence` and `GrowingSequence` have added to the browser, and itself."""
    sequences = vtk.vtkCollection()
    browser.GetSynchronizedSequenceNodes(sequences, True)
    followers = []
    for index in range(sequences.GetNumberOfItems()):
        sequence = sequences.GetItemAsObject(index)
        followers += [browser.GetProxyNode(sequence), sequence]
    # The browser first, so that nothing follows it while the others go.
    for node in (browser, *followers):
        if node is not None:
            remove(node)
