"""The panel of the DRR Generator, as a person uses and misuses it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from backend_environment import write_backend_environment
from fake_backends import free_port
from panels import LONGEST_STALL_S, MODULES, picture, status
from server_process import TOKEN, server_process
from slicer_host.proxies import unwrap

FOLDER = MODULES / "DRRGenerator"
SAMPLE = MODULES / "CTTableRemoval" / "Resources" / "SampleData" / "SVDRRPhantomCT.nrrd"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One for all tests, since a backend takes seconds to start."""
    from svdrr.mrml.backend import stop_local_backends

    yield write_backend_environment(tmp_path_factory.mktemp("backend"))
    stop_local_backends()


@pytest.fixture
def panel(host: Any, environment: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("SVDRR_BACKEND", str(environment))
    # The sample data are those of the other module.
    host.start([MODULES / "CTTableRemoval", FOLDER])
    return host.select("DRRGenerator")


@pytest.fixture
def ct(host: Any, panel: Any) -> Any:
    """The sample, small images of it, and no table to be removed: quick."""
    import slicer

    panel.ui.livePreviewCheckBox.checked = False
    panel.ui.removeTableCheckBox.checked = False
    panel.ui.detectorPixelsSpinBox.value = 64
    node = slicer.util.loadVolume(str(SAMPLE))
    panel.ui.inputSelector.setCurrentNode(node)
    host.process_events()
    return node


def node_ids() -> set[str]:
    import slicer

    return {slicer.mrmlScene.GetNthNode(index).GetID() for index in range(slicer.mrmlScene.GetNumberOfNodes())}


def finish(host: Any, panel: Any, within_s: float = 90.0) -> str:
    host.wait_until(lambda: not panel._controls.running, within_s)
    assert panel.ui.applyButton.text == "Apply"
    return status(panel)


def begin(host: Any, panel: Any, stage: str = "Rendering") -> None:
    """Presses Apply and waits for this stage."""
    host.click(panel.ui.applyButton)
    host.wait_until(lambda: stage in status(panel), 60.0)


def choose(host: Any, box: Any, key: str) -> None:
    """As a person does, by the item."""
    box.currentIndex = box.findData(key)
    host.process_events()


def hidden(widget: Any) -> bool:
    return bool(unwrap(widget).isHidden())


def many_views(host: Any, panel: Any, count: int = 500) -> None:
    choose(host, panel.ui.viewModeComboBox, "set")
    choose(host, panel.ui.viewSetComboBox, "hemisphere")
    panel.ui.hemisphereCountSpinBox.value = count
    host.process_events()


def browsers() -> list[Any]:
    import slicer

    return list(slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode"))


def previewed(host: Any, panel: Any, label: str) -> None:
    host.wait_until(lambda: panel.ui.previewStatusLabel.text.startswith(f"Preview: {label}. "), 90.0)
    assert not panel.ui.previewPictureLabel.pixmap.isNull()


def use_server(host: Any, panel: Any, url: str, token: str = "") -> None:
    line = panel._backend._ui
    line.backendWhereComboBox.currentIndex = 1
    line.backendUrlLineEdit.text = url
    line.backendUrlLineEdit.editingFinished.emit()
    line.backendTokenLineEdit.text = token
    line.backendTokenLineEdit.editingFinished.emit()
    host.process_events()


def test_click_by_click_as_in_the_tutorial(host: Any, panel: Any, tmp_path: Path) -> None:
    import SampleData
    import slicer

    assert slicer.util.getModule("DRRGenerator").title == "DRR Generator (SVDRR)"
    assert not panel.ui.applyButton.enabled
    assert panel.ui.applyButton.toolTip == "No volume is chosen; choose a CT volume."
    # It would show a folder of this computer.
    panel._backend._ui.backendCollapsibleButton.collapsed = True
    picture(host, "DRRGenerator", "DRRGenerator-empty")

    node = SampleData.SampleDataLogic().downloadSample("SVDRRPhantomCT")
    panel.ui.inputSelector.setCurrentNode(node)
    previewed(host, panel, "PA")
    panel.ui.primaryDegSlider.value = 30.0
    panel.ui.secondaryDegSlider.value = 10.0
    previewed(host, panel, "LAO 30° CRAN 10°")
    slicer.util.resetThreeDViews()
    picture(host, "DRRGenerator", "DRRGenerator-ready")
    picture(host, host.main_window, "DRRGenerator-beam")

    begin(host, panel)
    assert panel.ui.applyButton.text == "Cancel"
    assert finish(host, panel) == "Rendered 'SVDRRPhantomCT LAO 30° CRAN 10° (DRR)'."
    picture(host, "DRRGenerator", "DRRGenerator-done")
    picture(host, host.main_window, "DRRGenerator-result")

    many_views(host, panel, 60)
    slicer.util.resetThreeDViews()
    begin(host, panel)
    host.wait_until(lambda: browsers() and browsers()[0].GetNumberOfItems() > 5, 60.0)
    picture(host, "DRRGenerator", "DRRGenerator-running")
    assert finish(host, panel) == "Rendered 60 view(s) into 'SVDRRPhantomCT (DRR) browser'."
    panel.onPoint(41)
    host.process_events()
    assert browsers()[0].GetSelectedItemNumber() == 41
    previewed(host, panel, panel.ui.viewNameLabel.text)
    picture(host, host.main_window, "DRRGenerator-set")

    folder = tmp_path / "views"
    folder.mkdir()
    host.desk.paths.append(folder)
    host.click(panel.ui.exportButton)
    assert finish(host, panel) == f"Views written to {folder}: 60."
    assert len(list(folder.glob("drr_*.png"))) == 60
    assert (folder / "views.json").is_file()


def test_one_view(host: Any, panel: Any, ct: Any) -> None:
    import slicer

    host.click(panel.ui.applyButton)
    assert finish(host, panel) == "Rendered 'SVDRRPhantomCT PA (DRR)'."
    assert panel.ui.resultSelector.currentNode().GetName() == "SVDRRPhantomCT PA (DRR)"
    shown = slicer.util.getNode("vtkMRMLSliceCompositeNodeRed").GetBackgroundVolumeID()
    assert shown == panel.ui.resultSelector.currentNode().GetID()
    # Into a volume of the user's.
    output = panel.ui.outputSelector.addNode()
    host.process_events()
    host.click(panel.ui.applyButton)
    finish(host, panel)
    assert panel.ui.resultSelector.currentNode() is output
    assert slicer.util.arrayFromVolume(output).shape == (1, 64, 64)


def test_presets_and_sliders_agree(host: Any, panel: Any, ct: Any) -> None:
    ui = panel.ui
    for row, angles, name in (
        (2, 180.0, "AP"),
        (3, 90.0, "left lateral"),
        (4, -90.0, "right lateral"),
        (8, -45.0, "RAO"),
    ):
        ui.viewPresetComboBox.currentIndex = row
        host.process_events()
        assert (ui.primaryDegSlider.value, ui.secondaryDegSlider.value) == (angles, 0.0)
        assert ui.viewNameLabel.text.startswith(name)
    ui.secondaryDegSlider.value = 12.0
    host.process_events()
    assert ui.viewPresetComboBox.currentIndex == 0
    assert ui.viewNameLabel.text == "RAO 45° CRAN 12°"
    ui.primaryDegSlider.value = 0.0
    ui.secondaryDegSlider.value = 0.0
    host.process_events()
    assert ui.viewPresetComboBox.currentText == "PA"


def test_the_camera_is_followed(host: Any, panel: Any, ct: Any) -> None:
    import slicer

    choose(host, panel.ui.viewModeComboBox, "camera")
    view = slicer.app.layoutManager().threeDWidget(0).threeDView().mrmlViewNode()
    camera = slicer.modules.cameras.logic().GetViewActiveCameraNode(view)
    camera.SetFocalPoint(0.0, 0.0, 0.0)
    camera.SetPosition(300.0, -300.0, 0.0)
    host.process_events()
    assert panel.ui.viewNameLabel.text == "LAO 45°"
    assert not panel.ui.primaryDegSlider.enabled
    camera.SetPosition(0.0, 900.0, 0.0)
    host.process_events()
    assert panel.ui.viewNameLabel.text == "AP"
    host.click(panel.ui.applyButton)
    assert finish(host, panel) == "Rendered 'SVDRRPhantomCT AP (DRR)'."
    choose(host, panel.ui.viewModeComboBox, "angles")
    camera.SetPosition(300.0, 0.0, 0.0)
    host.process_events()
    assert panel.ui.viewNameLabel.text == "AP"


def test_views_of_a_sweep_and_of_a_file(host: Any, panel: Any, ct: Any, tmp_path: Path) -> None:
    ui = panel.ui
    choose(host, ui.viewModeComboBox, "set")
    choose(host, ui.viewSetComboBox, "sweep")
    assert not hidden(ui.sweepStepDegSpinBox)
    assert hidden(ui.primaryDegSlider)
    ui.sweepFromDegSpinBox.value, ui.sweepToDegSpinBox.value, ui.sweepStepDegSpinBox.value = 0.0, 20.0, 10.0
    host.click(ui.applyButton)
    assert "Rendered 3 view(s)" in finish(host, panel)

    choose(host, ui.viewSetComboBox, "file")
    assert ui.applyButton.toolTip == "Choose the file of the view set."
    file = tmp_path / "views.json"
    ui.viewFilePathLineEdit.currentPath = str(file)
    host.process_events()
    assert "Cannot read the view file" in ui.applyButton.toolTip
    view = '{"primary_deg": 5.0, "source_to_isocenter_mm": 900.0, "source_to_detector_mm": 1200.0}'
    file.write_text(f'{{"format": "svdrr-views-1", "views": [{view}]}}', encoding="utf-8")
    panel.enter()
    host.process_events()
    host.click(ui.applyButton)
    assert "Rendered 1 view(s)" in finish(host, panel)
    assert '"source_to_isocenter_mm": 900.0' in ui.resultSelector.currentNode().GetAttribute("SVDRR.View")


def test_preview_follows_the_sliders_and_leaves_the_scene(host: Any, panel: Any, ct: Any) -> None:
    import slicer

    panel.ui.showBeamCheckBox.checked = False
    host.process_events()
    before = node_ids()
    panel.ui.livePreviewCheckBox.checked = True
    previewed(host, panel, "PA")
    for angle in range(1, 41):
        panel.ui.primaryDegSlider.value = float(angle)
        host.process_events(0.01)
    previewed(host, panel, "LAO 40°")
    assert node_ids() == before
    slicer.util.selectModule("Data") if hasattr(slicer.modules, "data") else panel.exit()
    assert panel.ui.previewPictureLabel.pixmap is None or panel.ui.previewPictureLabel.pixmap.isNull()


def test_what_is_drawn_in_the_3d_view(host: Any, panel: Any, ct: Any) -> None:
    import slicer

    def drawn(kind: str) -> list[Any]:
        return [node for node in slicer.util.getNodesByClass(kind) if node.GetName().startswith("C-arm")]

    before = node_ids() - {node.GetID() for node in drawn("vtkMRMLModelNode")}
    (model,) = drawn("vtkMRMLModelNode")
    source = model.GetPolyData().GetPoint(0)
    panel.ui.primaryDegSlider.value = 90.0
    host.process_events()
    assert model.GetPolyData().GetPoint(0) != source

    isocenter = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Isocenter")
    panel.ui.isocenterSelector.setCurrentNode(isocenter)
    host.process_events()
    assert "has no point for the isocenter" in panel.ui.applyButton.toolTip
    assert drawn("vtkMRMLModelNode") == []
    isocenter.AddControlPointWorld(0.0, 0.0, 0.0)
    host.process_events()
    assert panel.ui.applyButton.enabled
    (model,) = drawn("vtkMRMLModelNode")
    assert model.GetPolyData().GetPoint(0) == pytest.approx((1800.0, 0.0, 0.0))
    isocenter.SetNthControlPointPositionWorld(0, 0.0, 10.0, 0.0)
    host.process_events()
    assert model.GetPolyData().GetPoint(0) == pytest.approx((1800.0, 10.0, 0.0))

    many_views(host, panel, 7)
    (points,) = drawn("vtkMRMLMarkupsFiducialNode")
    assert points.GetNumberOfControlPoints() == 7
    display = points.GetDisplayNode()
    display.SetActiveControlPoint(3)
    display.InvokeEvent(display.JumpToPointEvent)
    host.process_events()
    assert model.GetPolyData().GetPoint(0) == pytest.approx(points.GetNthControlPointPositionWorld(3), abs=1e-3)
    panel.ui.showBeamCheckBox.checked = False
    host.process_events()
    assert drawn("vtkMRMLModelNode") == drawn("vtkMRMLMarkupsFiducialNode") == []
    panel.ui.showBeamCheckBox.checked = True
    host.process_events()
    panel.exit()
    assert node_ids() - {isocenter.GetID()} - before == {isocenter.GetDisplayNode().GetID()}


def test_points_are_projected(host: Any, panel: Any, ct: Any) -> None:
    import slicer

    points = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Landmarks")
    panel.ui.markupsSelector.setCurrentNode(points)
    host.process_events()
    assert "no control points that are placed" in panel.ui.applyButton.toolTip
    points.AddControlPointWorld(10.0, 20.0, 30.0)
    panel.enter()
    many_views(host, panel, 3)
    host.click(panel.ui.applyButton)
    finish(host, panel)
    projected = slicer.util.getNode("Landmarks on SVDRRPhantomCT (DRR)")
    first = projected.GetNthControlPointPositionWorld(0)
    browsers()[0].SetSelectedItemNumber(2)
    assert projected.GetNthControlPointPositionWorld(0) != first


def test_the_window_stays_alive(host: Any, panel: Any, ct: Any) -> None:
    host.click(panel.ui.applyButton)
    finish(host, panel)
    many_views(host, panel, 200)
    host.reset_stalls()
    host.click(panel.ui.applyButton)
    assert "Rendered 200 view(s)" in finish(host, panel)
    assert host.stalls() <= LONGEST_STALL_S


# Reading and sending are too short to be met for certain: "" is right after the click.
@pytest.mark.parametrize("stage", ["Starting", "", "Rendering"])
def test_cancel_at_every_stage(host: Any, panel: Any, ct: Any, stage: str) -> None:
    from svdrr.mrml.backend import stop_local_backends

    if stage == "Starting":
        stop_local_backends()
    many_views(host, panel)
    before = node_ids()
    begin(host, panel, stage)
    host.click(panel.ui.applyButton)
    assert finish(host, panel) == "Canceled."
    host.process_events(0.3)
    added = node_ids() - before
    assert not added or stage == "Rendering"
    panel.ui.hemisphereCountSpinBox.value = 2
    host.click(panel.ui.applyButton)
    assert "Rendered 2 view(s)" in finish(host, panel)


def test_a_killed_backend(host: Any, panel: Any, ct: Any) -> None:
    from svdrr.mrml.backend import stop_local_backends

    stop_local_backends()
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    many_views(host, panel, 2000)
    begin(host, panel)
    for process in psutil.Process().children(recursive=True):
        if process.pid not in before:
            process.kill()
    assert finish(host, panel) == "The backend on this computer has ended; the next job starts it again."
    picture(host, "DRRGenerator", "DRRGenerator-error")
    panel.ui.hemisphereCountSpinBox.value = 2
    host.click(panel.ui.applyButton)
    assert "Rendered 2 view(s)" in finish(host, panel)


def test_no_backend(host: Any, panel: Any, ct: Any, tmp_path: Path) -> None:
    panel._backend._ui.backendEnvironmentPathLineEdit.currentPath = str(tmp_path)
    host.process_events()
    assert "Set up the backend on this computer" in panel.ui.applyButton.toolTip
    assert not panel.ui.applyButton.enabled
    panel.ui.livePreviewCheckBox.checked = True
    host.process_events()
    assert "Set up the backend on this computer" in panel.ui.previewStatusLabel.text


def test_a_backend_that_refuses(host: Any, panel: Any, ct: Any, tmp_path: Path) -> None:
    before = node_ids()
    use_server(host, panel, f"http://127.0.0.1:{free_port()}")
    host.click(panel.ui.applyButton)
    assert "No server runs at" in finish(host, panel)
    with server_process(tmp_path / "spool") as server:
        use_server(host, panel, server.url, "another-token-0123456789")
        host.click(panel.ui.applyButton)
        assert "token" in finish(host, panel)
        assert node_ids() == before
        use_server(host, panel, server.url, TOKEN)
        host.click(panel.ui.applyButton)
        assert "Rendered" in finish(host, panel)


def test_consent_before_anything_goes_to_another_computer(host: Any, panel: Any, ct: Any) -> None:
    use_server(host, panel, "https://gpu.example.org:8650")
    panel.ui.livePreviewCheckBox.checked = True
    host.process_events()
    assert "before you agree" in panel.ui.previewStatusLabel.text
    host.desk.answers.append("No")
    host.click(panel.ui.applyButton)
    assert "gpu.example.org" in host.messages[-1].text
    assert not panel._controls.running


def test_scene_closed_while_running(host: Any, panel: Any, ct: Any) -> None:
    many_views(host, panel)
    begin(host, panel)
    host.close_scene()
    assert finish(host, panel) == "Canceled, because the scene was closed."
    host.process_events(0.3)
    assert not browsers()
    assert not panel.ui.applyButton.enabled


def test_module_reloaded_while_running(host: Any, panel: Any, ct: Any) -> None:
    many_views(host, panel)
    begin(host, panel)
    again = host.reload("DRRGenerator")
    stayed = browsers()[0].GetNumberOfItems() if browsers() else 0
    host.process_events(0.5)
    assert again is not panel
    assert (browsers()[0].GetNumberOfItems() if browsers() else 0) == stayed
    assert again.ui.hemisphereCountSpinBox.value == 500
    assert again.ui.inputSelector.currentNode() is ct


def test_nodes_deleted_while_running(host: Any, panel: Any, ct: Any) -> None:
    import slicer

    many_views(host, panel)
    begin(host, panel)
    host.wait_until(lambda: browsers() and browsers()[0].GetNumberOfItems() > 1)
    slicer.mrmlScene.RemoveNode(browsers()[0])
    assert "was deleted while the work went on" in finish(host, panel)
    panel.ui.hemisphereCountSpinBox.value = 300
    begin(host, panel)
    slicer.mrmlScene.RemoveNode(ct)
    assert "Rendered 300 view(s)" in finish(host, panel)
    assert not panel.ui.applyButton.enabled


def test_output_deleted_while_running(host: Any, panel: Any, ct: Any) -> None:
    import slicer

    output = panel.ui.outputSelector.addNode()
    host.process_events()
    begin(host, panel, "")
    slicer.mrmlScene.RemoveNode(output)
    sentence = f"'{output.GetName()}' was deleted while the work went on; nothing was written to it."
    assert finish(host, panel) == sentence


def test_wrong_volumes(host: Any, panel: Any, ct: Any) -> None:
    import slicer

    mr = slicer.util.addVolumeFromArray(np.full((10, 20, 20), 300, np.int16), name="MR")
    radiograph = slicer.util.addVolumeFromArray(np.zeros((1, 9, 9)), name="radiograph")
    labels = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    for node, reason in ((mr, "is not in Hounsfield units"), (radiograph, "is a single slice")):
        panel.ui.inputSelector.setCurrentNode(node)
        host.process_events()
        assert not panel.ui.applyButton.enabled
        assert reason in panel.ui.applyButton.toolTip
    # A label map is not offered at all.
    panel.ui.inputSelector.setCurrentNode(labels)
    assert panel.ui.inputSelector.currentNode() is not labels
    panel.ui.inputSelector.setCurrentNode(ct)
    panel.ui.outputSelector.setCurrentNode(ct)
    host.process_events()
    assert "would replace the CT" in panel.ui.applyButton.toolTip


def test_distances_that_do_not_fit(host: Any, panel: Any, ct: Any) -> None:
    panel.ui.sourceToIsocenterSlider.value = 2500.0
    host.process_events()
    assert "less than the source-to-detector distance" in panel.ui.applyButton.toolTip
    panel.ui.sourceToDetectorSlider.value = 2600.0
    host.process_events()
    assert panel.ui.applyButton.enabled


def test_the_beams_and_detectors_choices_arrive(host: Any, panel: Any, ct: Any) -> None:
    ui = panel.ui
    choose(host, ui.beamComboBox, "voltage")
    assert hidden(ui.energySlider)
    ui.kvpSlider.value = 80
    ui.noiseCheckBox.checked = True
    ui.blurSlider.value = 0.5
    choose(host, ui.windowComboBox, "bone")
    ui.detectorSideSlider.value = 300.0
    host.process_events()
    host.click(ui.applyButton)
    finish(host, panel)
    node = ui.resultSelector.currentNode()
    attributes = {name: node.GetAttribute(name) for name in node.GetAttributeNames()}
    assert "80" in str(attributes)
    assert "bone" in str(attributes)
    assert node.GetSpacing()[:2] == (300.0 / 64, 300.0 / 64)


def test_a_full_disk_at_export(host: Any, panel: Any, ct: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert panel.ui.exportButton.toolTip == "Render something first, or choose a DRR as the result."
    host.click(panel.ui.applyButton)
    finish(host, panel)

    def full(file: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("svdrr.files._flush_to_disk", full)
    host.desk.paths.append(tmp_path)
    host.click(panel.ui.exportButton)
    assert "No space left on device; nothing was written" in finish(host, panel)
    assert list(tmp_path.iterdir()) == []
    # Nothing happens where no folder is chosen.
    host.click(panel.ui.exportButton)
    assert not panel._controls.running


def test_choices_survive_saving_and_loading(host: Any, panel: Any, ct: Any, tmp_path: Path) -> None:
    import slicer

    many_views(host, panel, 5)
    panel.ui.sourceToIsocenterSlider.value = 700.0
    choose(host, panel.ui.windowComboBox, "chest")
    host.click(panel.ui.applyButton)
    finish(host, panel)
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    host.close_scene()
    assert panel.ui.sourceToIsocenterSlider.value == 1800.0
    panel.ui.livePreviewCheckBox.checked = False
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    host.process_events()
    assert panel.ui.viewModeComboBox.currentText == "Set of views"
    assert panel.ui.hemisphereCountSpinBox.value == 5
    assert panel.ui.sourceToIsocenterSlider.value == 700.0
    assert panel._parameterNode.window == "chest"
    assert panel.ui.inputSelector.currentNode().GetName() == "SVDRRPhantomCT"
    panel.onPoint(3)
    assert browsers()[0].GetSelectedItemNumber() == 3
    assert panel.ui.exportButton.enabled


def test_several_scenes_leave_nothing_behind(host: Any, panel: Any) -> None:
    import slicer

    host.close_scene()
    host.mark()
    for _ in range(3):
        node = slicer.util.loadVolume(str(SAMPLE))
        panel.ui.removeTableCheckBox.checked = False
        panel.ui.detectorPixelsSpinBox.value = 64
        panel.ui.inputSelector.setCurrentNode(node)
        previewed(host, panel, "PA")
        many_views(host, panel, 3)
        host.click(panel.ui.applyButton)
        finish(host, panel)
        host.close_scene()
    assert host.leaks() == {}


def test_the_self_test(host: Any, panel: Any) -> None:
    from DRRGenerator import DRRGeneratorTest

    DRRGeneratorTest().runTest()
