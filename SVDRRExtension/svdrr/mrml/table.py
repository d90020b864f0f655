"""Table removal for volume nodes and sequences of them, as steps that a panel or a script takes."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import slicer
import slicer.util
from numpy.typing import NDArray

from svdrr.ct.table import VISIBLE_HU, TableRemoval, keep_body
from svdrr.ct.table_worker import body_mask_elsewhere
from svdrr.ct.volume import AIR_HU
from svdrr.errors import counted
from svdrr.mrml.ct import ct_snapshot, ct_to_node, masks_to_segmentation
from svdrr.mrml.nodes import check_output, fill, output_node
from svdrr.mrml.task import Progress, Say, Steps, in_background, require_in_scene

_VOLUME, _LABELS = "vtkMRMLScalarVolumeNode", "vtkMRMLLabelMapVolumeNode"
# Above it a voxel outside the body is more than air and its noise.
_THIN_HU = -950.0
_PARTS = 1000
# Before that much is done, the time left is a guess.
_TELLING_PART = 0.05


@dataclass(frozen=True)
class TableRemovalNodes:
    """What a removal has left in the scene. segmentation: None unless it was asked for. verdict: a sentence."""

    volume: slicer.vtkMRMLScalarVolumeNode
    segmentation: slicer.vtkMRMLSegmentationNode | None
    verdict: str


def remove_table_steps(
    node: slicer.vtkMRMLScalarVolumeNode,
    output: slicer.vtkMRMLScalarVolumeNode | None = None,
    air_hu: float = AIR_HU,
    segment: bool = False,
) -> Steps[TableRemovalNodes]:
    """Steps that set everything outside the patient to `air_hu`, see `svdrr.ct.table.remove_table`.

    node: a CT. Where it shows the items of a sequence, all of them are done: the results become a sequence of the same
    browser, which `output` then shows. output: a volume to write to, `node` itself too; by default a new one.
    segment: whether to add a segmentation with "body" and "table" (of a sequence: of the item that is shown).
    SVDRRError before anything is written for what is no CT, or holds no body.
    """
    check_output(_VOLUME, output)
    browser = browser_of(node)
    if browser is not None:
        return (yield from _sequence_steps(node, browser, output, air_hu, segment))
    removal = yield from _removal_steps(node, air_hu)
    volume = _written(removal, node, output)
    return TableRemovalNodes(volume, _segmented(removal, volume) if segment else None, removal.verdict)


def preview_steps(
    node: slicer.vtkMRMLScalarVolumeNode, overlay: slicer.vtkMRMLLabelMapVolumeNode | None = None
) -> Steps[tuple[slicer.vtkMRMLLabelMapVolumeNode, str]]:
    """Steps to a label map of what would be removed, and the sentence that says how much. overlay: to write to.

    1: what `svdrr.ct.table.TableRemoval` calls removed. 2: what is thinner than that, but not air: foam, cloth, the
    partial volume of the skin.
    """
    check_output(_LABELS, overlay)
    read = ct_snapshot(node)
    removal = yield from _removal_steps(node, AIR_HU)

    def look(say: Say) -> tuple[NDArray[np.uint8], float]:
        thin = ~removal.body & ~removal.removed & (read().hu > _THIN_HU)
        return removal.removed + 2 * thin.astype(np.uint8), replace(removal, removed=thin).removed_ml

    values, thin_ml = yield from in_background(look, "Looking at foam and cloth")
    labels = output_node(_LABELS, f"{node.GetName()} outside the body", overlay)
    fill(labels, values, removal.ct.ijk_to_ras)
    labels.CreateDefaultDisplayNodes()
    sentence = (
        f"{removal.removed_ml:.0f} ml of table and other objects outside the body would become air, and "
        f"{thin_ml:.0f} ml below {VISIBLE_HU:.0f} HU: foam, cloth, the skin's outermost blur. Both are shown in color."
    )
    return labels, sentence


def browser_of(node: Any) -> slicer.vtkMRMLSequenceBrowserNode | None:
    """The sequence browser whose items the node shows, or None."""
    if node is None:
        return None
    browsers = slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode")
    return next((browser for browser in browsers if browser.IsProxyNodeID(node.GetID())), None)


def _removal_steps(node: Any, air_hu: float, prefix: str = "") -> Steps[TableRemoval]:
    read = ct_snapshot(node)

    def work(say: Say) -> TableRemoval:
        ct = read()
        began = time.monotonic()

        def on_stage(stage: str, part: float) -> None:
            elapsed_s = time.monotonic() - began
            eta_s = elapsed_s * (1.0 - part) / part if part > _TELLING_PART else None
            say(Progress(prefix + stage, round(_PARTS * part), _PARTS, eta_s))

        return keep_body(ct, body_mask_elsewhere(ct, on_stage), air_hu)

    return (yield from in_background(work, f"{prefix}Reading the CT"))


def _sequence_steps(
    node: Any, browser: Any, output: Any | None, air_hu: float, segment: bool
) -> Steps[TableRemovalNodes]:
    sequence = browser.GetSequenceNode(node)
    count = sequence.GetNumberOfDataNodes()
    shown = max(0, browser.GetSelectedItemNumber())
    # Made outside the scene, which sees the results once all are there.
    results = slicer.vtkMRMLSequenceNode()
    results.SetIndexName(sequence.GetIndexName())
    results.SetIndexUnit(sequence.GetIndexUnit())
    results.SetIndexType(sequence.GetIndexType())
    removal_shown = None
    removed_ml = 0.0
    for index in range(count):
        removal = yield from _removal_steps(sequence.GetNthDataNode(index), air_hu, f"Item {index + 1} of {count}: ")
        item = slicer.vtkMRMLScalarVolumeNode()
        item.SetName(f"{node.GetName()} without table")
        fill(item, removal.ct.hu, removal.ct.ijk_to_ras)
        results.SetDataNodeAtValue(item, sequence.GetNthIndexValue(index))
        removed_ml += removal.removed_ml / count
        if index == shown:
            removal_shown = removal
    require_in_scene(browser, "The sequence's browser")
    assert removal_shown is not None
    volume = _written(removal_shown, node, None if output is node else output)
    volume.SetAndObserveTransformNodeID(node.GetTransformNodeID())
    results.SetName(f"{volume.GetName()} sequence")
    slicer.mrmlScene.AddNode(results)
    browser.AddSynchronizedSequenceNode(results)
    browser.AddProxyNode(volume, results, False)
    verdict = f"Removed {removed_ml:.0f} ml a volume from {counted(count, 'volume')} of the sequence."
    return TableRemovalNodes(volume, _segmented(removal_shown, volume) if segment else None, verdict)


def _written(removal: TableRemoval, node: Any, output: Any | None) -> Any:
    if output is not None:
        require_in_scene(output, output.GetName())
    name = output.GetName() if output is not None else f"{node.GetName()} without table"
    volume = ct_to_node(removal.ct, name, output)
    if volume is not node and node.GetDisplayNode() is not None:
        # Window and level that the user has set for the CT are those to look at the result with.
        volume.GetDisplayNode().CopyContent(node.GetDisplayNode())
    return volume


def _segmented(removal: TableRemoval, volume: Any) -> Any:
    masks = {"body": removal.body, "table": removal.removed}
    return masks_to_segmentation(masks, volume, f"{volume.GetName()} segmentation")
