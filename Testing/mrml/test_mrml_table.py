"""Table removal on volume nodes: single volumes, sequences, previews, and what is refused."""

from __future__ import annotations

import re
import time
from typing import Any

import numpy as np
import pytest
import slicer
import slicer.util

from svdrr.ct.phantoms import Label, Phantom, ThoraxOptions, thorax_phantom
from svdrr.errors import SVDRRError
from svdrr.mrml import ct_to_node
from svdrr.mrml.table import browser_of, preview_steps, remove_table_steps
from svdrr.mrml.task import Progress, wait


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return thorax_phantom(5, ThoraxOptions(table=True, spacing_mm=6.0))


@pytest.fixture
def ct(phantom: Phantom) -> Any:
    return ct_to_node(phantom.ct, "CT")


def voxels(node: Any) -> np.ndarray:
    return np.array(slicer.util.arrayFromVolume(node))


def table_of(phantom: Phantom) -> np.ndarray:
    return (phantom.labels == Label.TABLE) | (phantom.labels == Label.MATTRESS)


def test_the_table_goes_and_the_body_stays(phantom: Phantom, ct: Any) -> None:
    progress: list[Progress] = []
    nodes = wait(remove_table_steps(ct, segment=True), progress.append)
    result, table = voxels(nodes.volume), table_of(phantom)
    # At this spacing the skin's outermost voxels are mostly air.
    body = ~table & (phantom.labels != Label.AIR) & ((phantom.ct.hu > -500.0) | (phantom.labels != Label.BODY))
    np.testing.assert_array_equal(result[body], phantom.ct.hu[body])
    assert (result[table] <= -700.0).all()
    np.testing.assert_array_equal(voxels(ct), phantom.ct.hu)
    assert nodes.volume.GetName() == "CT without table"
    assert nodes.verdict.startswith("Removed ")
    segments = nodes.segmentation.GetSegmentation()
    assert [segments.GetNthSegment(index).GetName() for index in range(2)] == ["body", "table"]
    parts = [one.done / one.total for one in progress if one.total]
    assert parts == sorted(parts)
    assert len({one.stage for one in progress}) > 3
    assert any(one.eta_s is not None for one in progress)


def test_into_the_input_itself(phantom: Phantom, ct: Any, nodes: Any) -> None:
    ct.GetDisplayNode().SetAutoWindowLevel(False)
    ct.GetDisplayNode().SetWindowLevel(350.0, 40.0)
    before = nodes()
    result = wait(remove_table_steps(ct, ct, air_hu=-1024.0))
    assert result.volume is ct
    assert nodes() == before
    assert (ct.GetName(), ct.GetDisplayNode().GetWindow()) == ("CT", 350.0)
    assert voxels(ct).min() == -1024.0


def test_a_new_volume_looks_like_the_input(ct: Any) -> None:
    ct.GetDisplayNode().SetAutoWindowLevel(False)
    ct.GetDisplayNode().SetWindowLevel(350.0, 40.0)
    volume = wait(remove_table_steps(ct)).volume
    assert volume.GetDisplayNode() is not ct.GetDisplayNode()
    assert (volume.GetDisplayNode().GetWindow(), volume.GetDisplayNode().GetLevel()) == (350.0, 40.0)


def test_the_preview_changes_nothing_but_its_overlay(phantom: Phantom, ct: Any) -> None:
    overlay, sentence = wait(preview_steps(ct))
    assert overlay.GetClassName() == "vtkMRMLLabelMapVolumeNode"
    shown = voxels(overlay)
    assert (shown[table_of(phantom) & (phantom.ct.hu > -700.0)] == 1).all()
    thin = table_of(phantom) & (phantom.ct.hu > -950.0) & (phantom.ct.hu <= -700.0)
    assert thin.any()
    assert (shown[thin] == 2).all()
    assert not shown[phantom.ct.hu <= -950.0].any()
    assert re.match(
        r"\d+ ml of table and other objects outside the body would become air, and \d+ ml below -700 HU", sentence
    )
    np.testing.assert_array_equal(voxels(ct), phantom.ct.hu)
    again, _ = wait(preview_steps(ct, overlay))
    assert again is overlay


@pytest.fixture
def browser(scene: Any, phantom: Phantom) -> Any:
    """Two volumes in time, the second without the patient's table."""
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "4D")
    sequence.SetIndexName("time")
    sequence.SetIndexUnit("s")
    browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "browser")
    bare = phantom.ct.with_hu(np.where(table_of(phantom), np.float32(-1000.0), phantom.ct.hu))
    for time_s, one in (("0", phantom.ct), ("1.5", bare)):
        item = ct_to_node(one, "item")
        sequence.SetDataNodeAtValue(item, time_s)
        scene.RemoveNode(item)
    browser.AddSynchronizedSequenceNode(sequence)
    browser.SetSelectedItemNumber(1)
    return browser


def test_a_sequence_is_done_item_by_item(phantom: Phantom, browser: Any) -> None:
    proxy = browser.GetProxyNode(browser.GetMasterSequenceNode())
    assert browser_of(proxy) is browser
    stages: list[str] = []
    nodes = wait(remove_table_steps(proxy), lambda progress: stages.append(progress.stage))
    assert stages[0].startswith("Item 1 of 2")
    assert stages[-1].startswith("Item 2 of 2")
    results = browser.GetSequenceNode(nodes.volume)
    assert [results.GetNthIndexValue(index) for index in range(2)] == ["0", "1.5"]
    assert (results.GetIndexName(), results.GetIndexUnit()) == ("time", "s")
    for index in range(2):
        browser.SetSelectedItemNumber(index)
        shown = voxels(nodes.volume)
        np.testing.assert_array_equal(shown, voxels(results.GetNthDataNode(index)))
        assert (shown[table_of(phantom)] <= -700.0).all()
    assert "2 volumes" in nodes.verdict


def test_a_sequence_given_up_leaves_no_trace(browser: Any, nodes: Any) -> None:
    proxy = browser.GetProxyNode(browser.GetMasterSequenceNode())
    before = nodes()
    steps = remove_table_steps(proxy)
    while not next(steps).stage.startswith("Item 2 of 2"):
        time.sleep(0.01)
    steps.close()
    assert nodes() == before


def test_cancelling_takes_less_than_a_second(ct: Any, nodes: Any) -> None:
    before = nodes()
    steps = remove_table_steps(ct)
    first = next(steps).stage
    while next(steps).stage == first:
        time.sleep(0.01)
    started = time.monotonic()
    steps.close()
    assert time.monotonic() - started < 1.0
    assert nodes() == before


def test_an_output_that_was_deleted(scene: Any, ct: Any) -> None:
    output = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "mine")
    steps = remove_table_steps(ct, output)
    next(steps)
    scene.RemoveNode(output)
    with pytest.raises(SVDRRError, match="'mine' was deleted while the work went on; nothing was written to it"):
        wait(steps)
    assert output.GetImageData() is None


def other_volumes(scene: Any) -> dict[str, Any]:
    mr = slicer.util.addVolumeFromArray(np.full((10, 20, 20), 300, np.int16), name="MR")
    labels = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    slicer.util.updateVolumeFromArray(labels, np.zeros((4, 4, 4), np.uint8))
    air = slicer.util.addVolumeFromArray(np.linspace(-1000, 900, 20**3).reshape(20, 20, 20), name="noise")
    return {
        "is not in Hounsfield units": mr,
        "is a label map": labels,
        "is a single slice": slicer.util.addVolumeFromArray(np.zeros((1, 9, 9)), name="radiograph"),
        "There is no body": air,
        "No volume is chosen": None,
    }


def test_what_is_no_ct_gets_one_sentence(scene: Any, nodes: Any) -> None:
    volumes = other_volumes(scene)
    before = nodes()
    for sentence, node in volumes.items():
        for steps in (remove_table_steps(node), preview_steps(node)):
            with pytest.raises(SVDRRError, match=sentence):
                wait(steps)
    assert nodes() == before
