"""The panel of CT Table Removal, as a person uses and misuses it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from panels import LONGEST_STALL_S, MODULES, picture, status

from svdrr.ct.phantoms import ThoraxOptions, thorax_phantom

FOLDER = MODULES / "CTTableRemoval"
SAMPLE = FOLDER / "Resources" / "SampleData" / "SVDRRPhantomCT.nrrd"


@pytest.fixture
def panel(host: Any) -> Any:
    host.start([FOLDER])
    return host.select("CTTableRemoval")


@pytest.fixture
def ct(host: Any, panel: Any) -> Any:
    import slicer

    node = slicer.util.loadVolume(str(SAMPLE))
    panel.ui.inputSelector.setCurrentNode(node)
    host.process_events()
    return node


def node_ids() -> set[str]:
    import slicer

    return {slicer.mrmlScene.GetNthNode(index).GetID() for index in range(slicer.mrmlScene.GetNumberOfNodes())}


def begin(host: Any, panel: Any, stage: str = "Finding the body") -> None:
    """Presses Apply and waits for this stage; for none, where it is too short to be met for certain."""
    host.click(panel.ui.applyButton)
    host.wait_until(lambda: stage in status(panel))


def finish(host: Any, panel: Any) -> str:
    host.wait_until(lambda: not panel._controls.running, 60.0)
    assert panel.ui.applyButton.text == "Apply"
    return status(panel)


def test_click_by_click_as_in_the_tutorial(host: Any, panel: Any) -> None:
    import SampleData
    import slicer

    assert not panel.ui.applyButton.enabled
    assert panel.ui.applyButton.toolTip == "No volume is chosen; choose a CT volume."
    picture(host, "CTTableRemoval", "CTTableRemoval-empty")
    node = SampleData.SampleDataLogic().downloadSample("SVDRRPhantomCT")
    panel.ui.inputSelector.setCurrentNode(node)
    slicer.util.setSliceViewerLayers(background=node, fit=True)
    assert panel.ui.applyButton.enabled
    picture(host, "CTTableRemoval", "CTTableRemoval-ready")

    host.click(panel.ui.previewButton)
    assert "outside the body would become air" in finish(host, panel)
    picture(host, host.main_window, "CTTableRemoval-preview")
    assert host.main_window is not None
    host.click(panel.ui.hidePreviewButton)
    assert not slicer.util.getNodesByClass("vtkMRMLLabelMapVolumeNode")

    host.click(panel.ui.segmentationCheckBox)
    begin(host, panel)
    assert panel.ui.applyButton.text == "Cancel"
    picture(host, "CTTableRemoval", "CTTableRemoval-running")
    assert finish(host, panel).startswith("Removed ")
    picture(host, "CTTableRemoval", "CTTableRemoval-done")
    picture(host, host.main_window, "CTTableRemoval-result")
    output = panel.ui.outputSelector.currentNode()
    assert output.GetName() == "SVDRRPhantomCT without table"
    assert len(slicer.util.getNodesByClass("vtkMRMLSegmentationNode")) == 1
    assert slicer.util.arrayFromVolume(output).min() == -1000.0


def test_the_window_stays_alive(host: Any, panel: Any, ct: Any) -> None:
    host.reset_stalls()
    begin(host, panel, "")
    host.wait_until(lambda: "Filling" in status(panel), 60.0)
    assert host.stalls() <= LONGEST_STALL_S
    finish(host, panel)


@pytest.mark.parametrize("stage", ["", "Parting", "Finding", "Giving back"])
def test_cancel_at_every_stage(host: Any, panel: Any, ct: Any, stage: str) -> None:
    before = node_ids()
    begin(host, panel, stage)
    host.click(panel.ui.applyButton)
    assert finish(host, panel) == "Canceled."
    host.process_events(0.3)
    assert not workers()
    assert node_ids() == before


def workers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if "svdrr.ct.table_worker" in child.cmdline()]


def test_a_killed_process(host: Any, panel: Any, ct: Any) -> None:
    before = node_ids()
    begin(host, panel)
    os.kill(workers()[0].pid, signal.SIGKILL)
    assert finish(host, panel) == "Table removal ended early: its process was killed."
    assert node_ids() == before
    picture(host, "CTTableRemoval", "CTTableRemoval-error")
    host.click(panel._controls._ui.jobDetailsButton)
    assert "Finding the body" in host.messages[-1].details


def test_scene_closed_while_running(host: Any, panel: Any, ct: Any) -> None:
    begin(host, panel)
    host.close_scene()
    assert finish(host, panel) == "Canceled, because the scene was closed."
    assert not panel.ui.applyButton.enabled
    host.process_events(0.3)
    assert not workers()


def test_module_reloaded_while_running(host: Any, panel: Any, ct: Any) -> None:
    begin(host, panel)
    again = host.reload("CTTableRemoval")
    host.process_events(0.3)
    assert not workers()
    assert again is not panel
    assert again.ui.inputSelector.currentNode() is ct
    begin(host, again, "Parting")
    host.click(again.ui.applyButton)


def test_output_deleted_while_running(host: Any, panel: Any, ct: Any) -> None:
    import slicer

    output = panel.ui.outputSelector.addNode()
    assert panel._parameterNode.outputVolume is output
    begin(host, panel)
    slicer.mrmlScene.RemoveNode(output)
    sentence = f"'{output.GetName()}' was deleted while the work went on; nothing was written to it."
    assert finish(host, panel) == sentence


def test_input_deleted_while_running(host: Any, panel: Any, ct: Any) -> None:
    import slicer

    begin(host, panel)
    slicer.mrmlScene.RemoveNode(ct)
    assert finish(host, panel).startswith("Removed ")
    assert panel.ui.outputSelector.currentNode().GetName() == "SVDRRPhantomCT without table"


def test_wrong_volumes(host: Any, panel: Any) -> None:
    import slicer

    mr = slicer.util.addVolumeFromArray(np.full((10, 20, 20), 300, np.int16), name="MR")
    radiograph = slicer.util.addVolumeFromArray(np.zeros((1, 9, 9)), name="radiograph")
    labels = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    for node, reason in ((mr, "is not in Hounsfield units"), (radiograph, "is a single slice")):
        panel.ui.inputSelector.setCurrentNode(node)
        host.process_events()
        assert not panel.ui.applyButton.enabled
        assert reason in panel.ui.applyButton.toolTip
        assert not panel.ui.previewButton.enabled
    # A label map is not offered at all.
    panel.ui.inputSelector.setCurrentNode(labels)
    assert panel.ui.inputSelector.currentNode() is not labels


def test_no_body(host: Any, panel: Any) -> None:
    import slicer

    noise = np.linspace(-1000.0, 900.0, 20**3).reshape(20, 20, 20)
    panel.ui.inputSelector.setCurrentNode(slicer.util.addVolumeFromArray(noise, name="noise"))
    host.process_events()
    before = node_ids()
    host.click(panel.ui.applyButton)
    assert finish(host, panel).startswith("There is no body in this CT")
    assert node_ids() == before


def test_a_full_disk(host: Any, panel: Any, ct: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/dev/full")
    host.click(panel.ui.applyButton)
    assert "MiB in /dev/full" in finish(host, panel)


def test_choices_survive_saving_and_loading(host: Any, panel: Any, ct: Any, tmp_path: Path) -> None:
    import slicer

    panel.ui.airValueSlider.value = -1024.0
    panel.ui.segmentationCheckBox.checked = True
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    host.close_scene()
    assert panel.ui.airValueSlider.value == -1000.0
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    host.process_events()
    assert panel.ui.airValueSlider.value == -1024.0
    assert panel.ui.segmentationCheckBox.checked
    assert panel.ui.inputSelector.currentNode().GetName() == "SVDRRPhantomCT"


def test_several_scenes_leave_nothing_behind(host: Any, panel: Any) -> None:
    from svdrr.mrml import ct_to_node

    small = thorax_phantom(5, ThoraxOptions(table=True, spacing_mm=10.0)).ct
    host.close_scene()
    host.mark()
    for _ in range(3):
        panel.ui.inputSelector.setCurrentNode(ct_to_node(small, "CT"))
        host.process_events()
        host.click(panel.ui.previewButton)
        finish(host, panel)
        host.click(panel.ui.applyButton)
        finish(host, panel)
        host.close_scene()
    assert host.leaks() == {}


def test_the_self_test(host: Any, panel: Any) -> None:
    import slicer

    slicer.util.getModule("CTTableRemoval")
    from CTTableRemoval import CTTableRemovalTest

    CTTableRemovalTest().runTest()
