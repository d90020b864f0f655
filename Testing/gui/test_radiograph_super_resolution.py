"""The panel of Radiograph Super-Resolution, as a person uses and misuses it."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from backend_environment import write_backend_environment
from fake_backends import CAPABILITIES, capable, site
from panels import LONGEST_STALL_S, MODULES, ROOT, picture, status
from untrained_networks import write_untrained_networks

MODULE = "RadiographSuperResolution"
SAMPLE = MODULES / "SingleViewSynthesis" / "Resources" / "SampleData" / "SVDRRPhantomRadiograph.mrb"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One for all tests, since a backend takes seconds to start. Its networks are small, whatever they have learned."""
    from svdrr.mrml.backend import stop_local_backends

    folder = tmp_path_factory.mktemp("super-resolution")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SVDRR_MODELS", str(write_untrained_networks(folder / "networks")))
        yield write_backend_environment(folder / "backend")
        stop_local_backends()


@pytest.fixture
def panel(host: Any, environment: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("SVDRR_BACKEND", str(environment))
    host.start([MODULES / MODULE])
    return host.select(MODULE)


def chosen(host: Any, panel: Any, pixels: int = 64) -> Any:
    """A radiograph that was taken, chosen in the panel."""
    from svdrr.mrml import radiograph_to_node
    from svdrr.radiograph import Radiograph

    rows, columns = np.indices((pixels, pixels))
    image = (0.5 + 0.4 * np.sin(rows / 6.0) * np.cos(columns / 8.0)).astype(np.float32)
    node = radiograph_to_node(Radiograph(image, (0.4, 0.3)), "chest")
    panel.ui.inputSelector.setCurrentNode(node)
    host.process_events()
    return node


def node_ids() -> set[str]:
    import slicer

    return {slicer.mrmlScene.GetNthNode(index).GetID() for index in range(slicer.mrmlScene.GetNumberOfNodes())}


def begin(host: Any, panel: Any, stage: str) -> None:
    """Presses Apply, once it can be, and waits for this stage."""
    host.wait_until(lambda: panel.ui.applyButton.enabled, 60.0)
    host.click(panel.ui.applyButton)
    host.wait_until(lambda: f" {stage}" in panel._controls._ui.jobLogTextEdit.plainText)
    assert panel._controls.running


def finish(host: Any, panel: Any) -> str:
    host.wait_until(lambda: not panel._controls.running, 60.0)
    assert panel.ui.applyButton.text == "Apply"
    return status(panel)


def choose(box: Any, key: Any) -> None:
    box.currentIndex = box.findData(key)


def listed(box: Any) -> list[Any]:
    return [box.itemData(index) for index in range(box.count)]


def composite(view: str) -> Any:
    import slicer

    nodes = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    return next(node for node in nodes if node.GetLayoutName() == view)


def test_click_by_click_as_in_the_tutorial(host: Any, panel: Any) -> None:
    import slicer

    # Its folder is another one in every run.
    panel._backend._ui.backendCollapsibleButton.collapsed = True
    assert not panel.ui.applyButton.enabled
    assert "No volume is chosen; choose a radiograph." in panel.ui.applyButton.toolTip
    picture(host, MODULE, f"{MODULE}-empty")
    slicer.util.loadScene(str(SAMPLE))
    panel.enter()
    host.process_events()
    node = panel.ui.inputSelector.currentNode()
    assert node.GetName() == "SVDRRPhantomRadiograph (DRR)"
    assert panel.ui.applyButton.enabled
    picture(host, MODULE, f"{MODULE}-ready")

    layout = slicer.app.layoutManager().layout
    host.click(panel.ui.drawRegionButton)
    host.process_events(0.2)
    assert panel.ui.regionLabel.text == "Rows 128 to 383, columns 128 to 383"
    panel.ui.regionSelector.currentNode().SetSize(100.0, 150.0, 20.0)
    assert panel.ui.regionLabel.text == "Rows 176 to 335, columns 203 to 308"
    picture(host, host.main_window, f"{MODULE}-region")

    panel.ui.scaleComboBox.currentIndex = 1
    begin(host, panel, "Waiting")
    assert panel.ui.applyButton.text == "Cancel"
    picture(host, MODULE, f"{MODULE}-running")
    assert finish(host, panel).startswith("Reduced again, the result differs from the input by 0.")
    picture(host, MODULE, f"{MODULE}-done")
    host.process_events(0.2)
    picture(host, host.main_window, f"{MODULE}-result")
    output = panel.ui.outputSelector.currentNode()
    assert output.GetName() == "SVDRRPhantomRadiograph x4 (DRR)"
    assert slicer.util.arrayFromVolume(output).shape == (1, 640, 424)
    assert composite("SVDRRSource").GetBackgroundVolumeID() == node.GetID()
    assert composite("SVDRRResult").GetBackgroundVolumeID() == output.GetID()
    assert composite("SVDRRResult").GetForegroundVolumeID() == panel._parameterNode.fidelityMap.GetID()
    from svdrr.mrml.panels.synthetic_label import label_of

    assert label_of("SVDRRResult").startswith("SYNTHETIC, not for diagnosis")

    host.click(panel.ui.restoreButton)
    assert slicer.app.layoutManager().layout == layout
    host.click(panel.ui.compareButton)
    assert slicer.app.layoutManager().layout != layout


@pytest.mark.parametrize("method", ["lanczos", "lcmsr"])
def test_the_window_stays_alive(host: Any, panel: Any, method: str) -> None:
    # The application makes the views of a layout once, which is no part of the job.
    chosen(host, panel)
    host.click(panel.ui.drawRegionButton)
    host.click(panel.ui.restoreButton)
    panel.ui.regionSelector.setCurrentNode(None)
    chosen(host, panel, 512)
    choose(panel.ui.methodComboBox, method)
    panel.ui.uncertaintyCheckBox.checked = True
    host.reset_stalls()
    begin(host, panel, "Reading")
    finish(host, panel)
    host.process_events(0.2)
    assert host.stalls() <= LONGEST_STALL_S


def test_methods_and_scales_are_those_of_the_backend(host: Any, panel: Any) -> None:
    """One that lands there is on offer here, and what is not on offer cannot be asked for."""
    chosen(host, panel)
    ui, line = panel.ui, panel._backend._ui
    # It is asked when the panel opens, and until then all that there is is listed.
    assert listed(ui.methodComboBox) == ["bicubic", "lanczos", "regression", "lcmsr", "deltadiff"]
    host.wait_until(lambda: line.backendStateLabel.text.startswith("Ready"), 60.0)
    assert listed(ui.methodComboBox) == ["bicubic", "lanczos", "regression", "lcmsr", "deltadiff"]
    assert [ui.methodComboBox.itemText(index) for index in range(ui.methodComboBox.count)] == [
        "Bicubic",
        "Lanczos",
        "Regression network",
        "LCMSR (one step)",
        "DeltaDiff (four steps)",
    ]
    panel._parameterNode.method = "lcmsr"
    offered = {**CAPABILITIES, "super_resolution": {"methods": ["learned", "lanczos"], "scales": [2, 3]}}
    with site(capable(offered)) as server:
        line.backendWhereComboBox.currentIndex = 1
        line.backendUrlLineEdit.text = server.url
        line.backendUrlLineEdit.editingFinished.emit()
        host.click(line.backendTestButton)
        host.wait_until(lambda: ui.methodComboBox.itemData(0) == "learned")
    assert listed(ui.scaleComboBox) == [2, 3]
    assert not ui.applyButton.enabled
    assert ui.applyButton.toolTip == "Choose a method and a scale that the backend offers."
    ui.methodComboBox.currentIndex = 0
    assert panel._parameterNode.method == "learned"
    assert ui.applyButton.enabled


def test_what_only_lcmsr_has(host: Any, panel: Any) -> None:
    """Is off for the other methods, and says why; the choices stay."""
    chosen(host, panel)
    ui = panel.ui
    of_lcmsr = (ui.seedSpinBox, ui.deterministicCheckBox, ui.uncertaintyCheckBox)
    choose(ui.methodComboBox, "lcmsr")
    assert all(widget.enabled for widget in of_lcmsr)
    tips = [widget.toolTip for widget in of_lcmsr]
    ui.uncertaintyCheckBox.checked = True
    ui.seedSpinBox.value = 7
    for method in ("bicubic", "lanczos", "regression", "deltadiff"):
        choose(ui.methodComboBox, method)
        assert not any(widget.enabled for widget in of_lcmsr)
        for widget in of_lcmsr:
            assert widget.toolTip == "Only LCMSR is sampled; the other methods have one result."
        assert ui.consistentCheckBox.enabled
        assert ui.applyButton.enabled
    choose(ui.methodComboBox, "lcmsr")
    assert [widget.toolTip for widget in of_lcmsr] == tips
    assert (ui.seedSpinBox.value, ui.uncertaintyCheckBox.checked) == (7, True)
    ui.deterministicCheckBox.checked = True
    assert not ui.seedSpinBox.enabled
    assert ui.seedSpinBox.toolTip == "Without noise there is no seed."
    assert ui.uncertaintyCheckBox.enabled
    ui.deterministicCheckBox.checked = False
    assert ui.seedSpinBox.enabled


def test_a_sampled_result_and_its_uncertainty(host: Any, panel: Any) -> None:
    import slicer

    chosen(host, panel)
    ui = panel.ui
    choose(ui.methodComboBox, "lcmsr")
    ui.seedSpinBox.value = 7
    ui.consistentCheckBox.checked = True
    ui.uncertaintyCheckBox.checked = True
    host.click(ui.applyButton)
    sentences = finish(host, panel)
    assert "was sampled with seed 7 from what the network has learned, not measured." in sentences
    assert "Over 8 seeds, sampled results vary by " in sentences
    output, parameters = ui.outputSelector.currentNode(), panel._parameterNode
    assert (output.GetAttribute("SVDRR.Seed"), output.GetAttribute("SVDRR.Code")) == ("7", "sampled")
    assert output.GetAttribute("SVDRR.Projection") == "iterative back-projection"
    fidelity, uncertainty = parameters.fidelityMap, parameters.uncertaintyMap
    assert uncertainty.GetName() == "chest x2 uncertainty (synthetic)"
    assert uncertainty.GetAttribute("SVDRR.Seed") == "7"
    assert slicer.util.arrayFromVolume(uncertainty).shape == slicer.util.arrayFromVolume(output).shape
    assert composite("SVDRRResult").GetForegroundVolumeID() == uncertainty.GetID()
    picture(host, MODULE, f"{MODULE}-uncertainty-done")
    from svdrr.mrml.panels.synthetic_label import label_of

    assert "uncertainty of lcmsr x2" in label_of("SVDRRResult")
    # Which map is shown is up to the boxes.
    for checked, shown in ((False, fidelity.GetID()), (True, uncertainty.GetID())):
        ui.uncertaintyCheckBox.checked = checked
        host.click(ui.compareButton)
        assert composite("SVDRRResult").GetForegroundVolumeID() == shown
    ui.uncertaintyCheckBox.checked = ui.fidelityCheckBox.checked = False
    host.click(ui.compareButton)
    assert composite("SVDRRResult").GetForegroundVolumeID() is None

    # The same nodes are written again, and no map is left that is not of this result.
    ui.uncertaintyCheckBox.checked = True
    before = node_ids()
    ui.deterministicCheckBox.checked = True
    host.click(ui.applyButton)
    assert "was computed from what the network has learned, not measured. Over 8 seeds" in finish(host, panel)
    assert output.GetAttribute("SVDRR.Code") == "deterministic"
    assert parameters.uncertaintyMap is uncertainty
    assert node_ids() == before
    choose(ui.methodComboBox, "regression")
    host.click(ui.applyButton)
    sentences = finish(host, panel)
    assert sentences.endswith("was computed from what the network has learned, not measured.")
    assert parameters.uncertaintyMap is None
    assert composite("SVDRRResult").GetForegroundVolumeID() is None


def test_cancel_while_the_uncertainty_is_measured(host: Any, panel: Any) -> None:
    chosen(host, panel, 1500)
    choose(panel.ui.methodComboBox, "lcmsr")
    panel.ui.uncertaintyCheckBox.checked = True
    before = node_ids()
    begin(host, panel, "Measuring the uncertainty")
    host.click(panel.ui.applyButton)
    assert finish(host, panel) == "Canceled."
    host.process_events(0.3)
    assert node_ids() == before


@pytest.mark.parametrize("stage", ["Reading the radiograph", "Sending", "Waiting", "Enlarging", "Comparing"])
def test_cancel_at_every_stage(host: Any, panel: Any, stage: str) -> None:
    chosen(host, panel, 1500)
    panel.ui.scaleComboBox.currentIndex = 1
    before = node_ids()
    begin(host, panel, stage)
    host.click(panel.ui.applyButton)
    assert finish(host, panel) == "Canceled."
    host.process_events(0.3)
    assert node_ids() == before


def test_a_killed_backend(host: Any, panel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from svdrr.backend.client import BackendClient
    from svdrr.mrml.backend import stop_local_backends

    stop_local_backends()
    others = psutil.Process().children(recursive=True)
    # Else it is looked for, for a minute.
    monkeypatch.setattr("svdrr.backend.local.BackendClient", partial(BackendClient, patience_s=1.0))
    chosen(host, panel, 1500)
    panel.ui.scaleComboBox.currentIndex = 1
    before = node_ids()
    begin(host, panel, "Enlarging")
    for process in psutil.Process().children(recursive=True):
        if process not in others:
            process.kill()
    assert finish(host, panel) == "The backend on this computer has ended; the next job starts it again."
    assert node_ids() == before
    panel._backend._ui.backendCollapsibleButton.collapsed = True
    picture(host, MODULE, f"{MODULE}-error")
    # It starts again with the next job.
    chosen(host, panel)
    host.click(panel.ui.applyButton)
    assert finish(host, panel).startswith("Reduced again")
    stop_local_backends()


def test_no_backend(host: Any, panel: Any, tmp_path: Path) -> None:
    chosen(host, panel)
    line = panel._backend._ui
    line.backendEnvironmentPathLineEdit.currentPath = str(tmp_path)
    host.process_events()
    assert not panel.ui.applyButton.enabled
    assert panel.ui.applyButton.toolTip == "Set up the backend on this computer, or choose one on another computer."


@pytest.mark.parametrize(("answers", "sentence"), [(True, "token"), (False, "127.0.0.1:9")])
def test_a_backend_that_does_not_let_in(host: Any, panel: Any, answers: bool, sentence: str) -> None:
    chosen(host, panel)
    line = panel._backend._ui
    before = node_ids()
    with site(capable(CAPABILITIES, token="right")) as server:
        line.backendWhereComboBox.currentIndex = 1
        line.backendUrlLineEdit.text = server.url if answers else "http://127.0.0.1:9"
        line.backendTokenLineEdit.text = "wrong"
        line.backendUrlLineEdit.editingFinished.emit()
        host.click(panel.ui.applyButton)
        assert sentence in finish(host, panel)
    assert node_ids() == before
    assert panel.ui.applyButton.enabled


def test_consent_comes_first(host: Any, panel: Any) -> None:
    chosen(host, panel)
    line = panel._backend._ui
    line.backendWhereComboBox.currentIndex = 1
    line.backendUrlLineEdit.text = "https://gpu.invalid"
    line.backendUrlLineEdit.editingFinished.emit()
    host.desk.answers.append("No")
    host.click(panel.ui.applyButton)
    assert not panel._controls.running
    assert "will be sent to gpu.invalid" in host.messages[-1].text


def test_scene_closed_while_running(host: Any, panel: Any) -> None:
    chosen(host, panel, 1500)
    begin(host, panel, "Sending")
    host.close_scene()
    assert finish(host, panel) == "Canceled, because the scene was closed."
    assert not panel.ui.applyButton.enabled


def test_module_reloaded_while_running(host: Any, panel: Any) -> None:
    node = chosen(host, panel, 1500)
    before = node_ids()
    begin(host, panel, "Sending")
    again = host.reload(MODULE)
    host.process_events(0.5)
    assert again is not panel
    assert node_ids() == before
    assert again.ui.inputSelector.currentNode() is node
    host.click(again.ui.applyButton)
    assert finish(host, again).startswith("Reduced again")


def test_nodes_deleted_while_running(host: Any, panel: Any) -> None:
    import slicer

    node = chosen(host, panel, 1500)
    output = panel.ui.outputSelector.addNode()
    before = node_ids()
    begin(host, panel, "Sending")
    slicer.mrmlScene.RemoveNode(output)
    sentence = f"'{output.GetName()}' was deleted while the work went on; nothing was written to it."
    assert finish(host, panel) == sentence
    assert node_ids() < before
    panel.ui.outputSelector.setCurrentNode(None)
    begin(host, panel, "Sending")
    slicer.mrmlScene.RemoveNode(node)
    assert finish(host, panel).startswith("Reduced again")
    assert panel.ui.outputSelector.currentNode().GetName() == "chest x2 (synthetic)"


def test_wrong_volumes(host: Any, panel: Any) -> None:
    import slicer

    volume = slicer.util.addVolumeFromArray(np.zeros((10, 20, 20), np.int16), name="MR")
    labels = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    panel.ui.inputSelector.setCurrentNode(volume)
    host.process_events()
    assert not panel.ui.applyButton.enabled
    assert panel.ui.applyButton.toolTip == "'MR' has 10 slices; choose a radiograph, which has one."
    assert not panel.ui.drawRegionButton.enabled
    panel.ui.inputSelector.setCurrentNode(labels)
    assert panel.ui.inputSelector.currentNode() is not labels

    node = chosen(host, panel)
    panel.ui.outputSelector.setCurrentNode(node)
    host.process_events()
    assert panel.ui.applyButton.toolTip == "Choose another output volume; the input is kept."
    panel.ui.outputSelector.setCurrentNode(None)
    host.click(panel.ui.drawRegionButton)
    assert panel.ui.applyButton.enabled
    panel.ui.regionSelector.currentNode().SetCenter(1000.0, 0.0, 0.0)
    assert "holds too little of 'chest'" in panel.ui.applyButton.toolTip
    assert panel.ui.regionLabel.text == ""


def test_pixels_that_are_not_numbers(host: Any, panel: Any) -> None:
    import slicer

    node = slicer.util.addVolumeFromArray(np.full((1, 20, 20), np.nan, np.float32), name="bad")
    panel.ui.inputSelector.setCurrentNode(node)
    host.process_events()
    before = node_ids()
    host.click(panel.ui.applyButton)
    assert finish(host, panel) == "'bad' holds NaN or infinite values; replace them first."
    assert node_ids() == before


def test_choices_survive_saving_and_loading(host: Any, panel: Any, tmp_path: Path) -> None:
    import slicer

    chosen(host, panel)
    host.click(panel.ui.drawRegionButton)
    panel.ui.methodComboBox.currentIndex = 0
    panel.ui.scaleComboBox.currentIndex = 1
    panel.ui.fidelityCheckBox.checked = False
    panel.ui.consistentCheckBox.checked = True
    panel.ui.seedSpinBox.value = 12
    panel.ui.deterministicCheckBox.checked = True
    panel.ui.uncertaintyCheckBox.checked = True
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    host.close_scene()
    assert panel.ui.methodComboBox.currentIndex == 1
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    host.process_events()
    assert panel._parameterNode.method == "bicubic"
    assert (panel.ui.methodComboBox.currentIndex, panel.ui.scaleComboBox.currentIndex) == (0, 1)
    assert not panel.ui.fidelityCheckBox.checked
    assert panel.ui.consistentCheckBox.checked
    assert panel.ui.seedSpinBox.value == 12
    assert panel.ui.deterministicCheckBox.checked
    assert panel.ui.uncertaintyCheckBox.checked
    assert panel.ui.inputSelector.currentNode().GetName() == "chest"
    assert panel.ui.regionSelector.currentNode().GetName() == "chest region"


def test_several_scenes_leave_nothing_behind(host: Any, panel: Any) -> None:
    # The comparison's views stay, as every layout's do.
    chosen(host, panel)
    host.click(panel.ui.drawRegionButton)
    host.process_events(0.1)
    host.close_scene()
    host.mark()
    for _ in range(3):
        chosen(host, panel)
        host.click(panel.ui.drawRegionButton)
        host.click(panel.ui.applyButton)
        assert finish(host, panel).startswith("Reduced again")
        host.process_events(0.1)
        host.close_scene()
    gc.collect()
    assert host.leaks() == {}


def test_the_tutorial_s_console(host: Any, panel: Any) -> None:
    import slicer

    slicer.util.loadScene(str(SAMPLE))
    console: dict[str, Any] = {"getNode": slicer.util.getNode, "slicer": slicer}
    text = (ROOT / "Docs" / f"{MODULE}.md").read_text(encoding="utf-8")
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block, console)
    assert slicer.util.arrayFromVolume(console["larger"]).shape == (1, 1024, 1024)
    assert slicer.util.arrayFromVolume(console["nodes"].volume).shape == (1, 800, 640)
    assert console["percent"].shape == (1, 400, 320)


def test_the_self_test(host: Any, panel: Any) -> None:
    from RadiographSuperResolution import RadiographSuperResolutionTest

    RadiographSuperResolutionTest().runTest()
