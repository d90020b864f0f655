"""Many views as a sequence of radiographs with a browser."""

from __future__ import annotations

from collections.abc import Sequence

import slicer

from svdrr.errors import SVDRRError
from svdrr.mrml.nodes import remove
from svdrr.mrml.radiograph import (
    VOLUME,
    check_radiograph,
    fill_with_radiograph,
    radiograph_from_node,
    radiograph_to_node,
    synthetic_suffix,
)
from svdrr.radiograph import Radiograph


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
    suffix = max((synthetic_suffix(radiograph.provenance) for radiograph in radiographs), key=len)

    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", f"{name}{suffix} sequence")
    sequence.SetIndexName("view")
    sequence.SetIndexUnit("")
    sequence.SetIndexType(slicer.vtkMRMLSequenceNode.TextIndex)
    for number, radiograph in enumerate(radiographs, start=1):
        # Outside the scene: the sequence keeps a copy in a scene of its own.
        item = slicer.vtkMRMLScalarVolumeNode()
        item.SetName(name + synthetic_suffix(radiograph.provenance))
        fill_with_radiograph(item, radiograph)
        angles = f": {radiograph.view.pose.label}" if radiograph.view else ""
        sequence.SetDataNodeAtValue(item, f"{number}{angles}")

    proxy = radiograph_to_node(radiographs[0], name)
    # The proxy keeps its name while its content changes, so it says what holds for any of them.
    proxy.SetName(name + suffix)
    browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", f"{name}{suffix} browser")
    browser.AddSynchronizedSequenceNode(sequence)
    browser.AddProxyNode(proxy, sequence, False)
    browser.SetSelectedItemNumber(0)
    return browser


def views_from_sequence(browser: slicer.vtkMRMLSequenceBrowserNode) -> list[Radiograph]:
    """The radiographs of a browser's master sequence, in order, each as `radiograph_from_node` gives it.

    Raises SVDRRError if there is no sequence of radiographs.
    """
    sequence = browser.GetMasterSequenceNode() if browser is not None else None
    if sequence is None or sequence.GetNumberOfDataNodes() == 0 or sequence.GetDataNodeClassName() != VOLUME:
        raise SVDRRError("There is no sequence of radiographs here; choose the browser of a view sequence.")
    return [radiograph_from_node(sequence.GetNthDataNode(index)) for index in range(sequence.GetNumberOfDataNodes())]


def remove_sequence(browser: slicer.vtkMRMLSequenceBrowserNode) -> None:
    """Take out of the scene what `views_to_sequence` has added."""
    sequence = browser.GetMasterSequenceNode()
    proxy = browser.GetProxyNode(sequence)
    # The browser first, so that nothing follows it while the others go.
    for node in (browser, proxy, sequence):
        if node is not None:
            remove(node)
