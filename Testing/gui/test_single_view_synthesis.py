"""The panel of Single View Synthesis, as a person uses and misuses it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from backend_environment import write_backend_environment
from fake_backends import capable, site
from panels import LONGEST_STALL_S, MODULES, picture, status

FOLDER = MODULES / "SingleViewSynthesis"
FOLDERS = [FOLDER, MODULES / "CTTableRemoval"]
MODULE = "SingleViewSynthesis"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, models_folder: Path) -> Iterator[Path]:
    """What the panel starts a backend with the tiny model from; it runs on from test to test."""
    from svdrr.mrml.backend import stop_local_backends

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SVDRR_MODELS", str(models_folder))
        folder = write_backend_environment(tmp_path_factory.mktemp("synthesis") / "backend")
        patch.setenv("SVDRR_BACKEND", str(folder))
        yield folder
        stop_local_backends()


@pytest.fixture
def panel(host: Any, environment: Path) -> Any:
    host.start(FOLDERS)
    return host.select(MODULE)


@pytest.fixture
def ready(host: Any, panel: Any) -> Any:
    """The panel with the phantom's radiograph and the backend's models, before Apply."""
    radiograph = sample("SVDRRPhantomRadiograph")
    panel.ui.inputSelector.setCurrentNode(radiograph)
    host.click(panel._backend._ui.backendTestButton)
    host.wait_until(lambda: panel.ui.modelComboBox.count > 0, 120.0)
    choose(panel.ui.modelComboBox, "tiny")
    host.wait_until(lambda: panel._facts is not None, 10.0)
    assert panel.ui.applyButton.enabled, panel.ui.applyButton.toolTip
    return panel


def sample(name: str) -> Any:
    """Loads sample data; returns its volume."""
    import SampleData
    import slicer

    SampleData.SampleDataLogic().downloadSample(name)
    volumes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    return next(volume for volume in reversed(volumes) if volume.GetName().startswith(name))


def choose(box: Any, key: Any) -> None:
    box.currentIndex = box.findData(key)


def hidden(widget: Any) -> bool:
    """Whether the panel hides a widget, also while the panel itself is not shown."""
    from slicer_host.proxies import unwrap

    return bool(unwrap(widget).isHidden())


def hemisphere(panel: Any, count: int) -> None:
    choose(panel.ui.viewModeComboBox, "set")
    choose(panel.ui.viewSetComboBox, "hemisphere")
    panel.ui.hemisphereCountSpinBox.value = count


def browsers() -> list[Any]:
    import slicer

    return list(slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode"))


def arrived(panel: Any) -> int:
    views = panel.logic.getParameterNode().views
    return 0 if views is None else int(views.GetNumberOfItems())


def begin(host: Any, panel: Any, until: Callable[[], bool] | None = None) -> None:
    """Presses Apply and waits for the first view, or for something else."""
    host.wait_until(lambda: panel.ui.applyButton.enabled, 10.0)
    host.click(panel.ui.applyButton)
    host.wait_until(until or (lambda: arrived(panel) > 0), 180.0)


def finish(host: Any, panel: Any) -> str:
    host.wait_until(lambda: not panel._controls.running, 300.0)
    assert panel.ui.applyButton.text == "Apply"
    return status(panel)


def test_click_by_click_as_in_the_tutorial(host: Any, panel: Any) -> None:
    import slicer

    assert not panel.ui.applyButton.enabled
    assert panel.ui.applyButton.toolTip.splitlines() == [
        "No volume is chosen; choose a radiograph.",
        "Click 'Test connection' to ask the backend for its models.",
    ]
    picture(host, MODULE, f"{MODULE}-empty")
    radiograph = sample("SVDRRPhantomRadiograph")
    panel.ui.inputSelector.setCurrentNode(radiograph)
    host.wait_until(lambda: panel._facts is not None, 10.0)
    assert panel.ui.factsLabel.text == "512 x 512 pixels, pixels of 0.938 mm x 0.938 mm, own view PA"
    assert hidden(panel.ui.rowSpacingSpinBox)
    host.click(panel.ui.prepareButton)
    assert "prepared" in finish(host, panel)
    host.click(panel._backend._ui.backendTestButton)
    host.wait_until(lambda: panel.ui.modelComboBox.count > 0, 120.0)
    choose(panel.ui.modelComboBox, "demo-256")
    assert panel.ui.modelLabel.text.startswith("256 x 256 pixels over 480 mm")
    assert "Intended use" in panel.ui.modelLabel.text
    panel._backend._ui.backendCollapsibleButton.collapsed = True

    choose(panel.ui.viewModeComboBox, "set")
    choose(panel.ui.viewSetComboBox, "sweep")
    panel.ui.sweepStepDegSpinBox.value = 30.0
    panel.ui.truthSelector.setCurrentNode(sample("SVDRRPhantomCT"))
    host.process_events()
    assert panel.ui.applyButton.enabled, panel.ui.applyButton.toolTip
    picture(host, MODULE, f"{MODULE}-ready")

    begin(host, panel, lambda: panel._controls.running)
    assert panel.ui.applyButton.text == "Cancel"
    host.wait_until(lambda: arrived(panel) > 0, 180.0)
    picture(host, MODULE, f"{MODULE}-running")
    sentence = finish(host, panel)
    assert sentence.startswith("7 of 7 views are in the scene. Against the CT, the mean PSNR is ")
    picture(host, MODULE, f"{MODULE}-done")
    (browser,) = browsers()
    assert browser.GetNumberOfItems() == 7
    browser.SetSelectedItemNumber(4)
    host.process_events()
    picture(host, host.main_window, f"{MODULE}-result")
    assert panel.ui.arrivedLabel.text == "7 of 7 views are in the scene."

    table = panel.ui.scoresTable
    assert (table.rowCount, table.columnCount) == (7, 5)
    assert table.item(6, 0).text() == "left lateral"
    choose(panel.ui.besideComboBox, "truth")
    browser.SetSelectedItemNumber(5)
    host.process_events()
    picture(host, host.main_window, f"{MODULE}-truth")
    host.click(panel.ui.psnrPlotButton)
    picture(host, host.main_window, f"{MODULE}-plot")
    assert panel._parameterNode.viewVolume.GetAttribute("SVDRR.Synthetic") == "SYNTHETIC, not for diagnosis"
    assert len(slicer.util.getNodesByClass("vtkMRMLTableNode")) == 1

    live(host, panel)
    panel.ui.livePrimarySlider.value = 30.0
    panel.ui.liveSecondarySlider.value = 10.0
    followed(host, panel, "LAO 30° CRAN 10°", "demo-256")
    assert "steps" not in panel.ui.liveStatusLabel.text
    picture(host, MODULE, f"{MODULE}-live")


def test_the_synthetic_view_stands_labeled_beside_the_source(host: Any, ready: Any) -> None:
    from svdrr.mrml.panels.side_by_side import RESULT_VIEW, SOURCE_VIEW
    from svdrr.mrml.panels.synthetic_label import label_of

    begin(host, ready)
    finish(host, ready)
    assert label_of(RESULT_VIEW) == "SYNTHETIC, not for diagnosis\nVCDiT, PA"
    assert label_of(SOURCE_VIEW).startswith("SYNTHETIC, not for diagnosis\nDRR")
    source, view = ready._parameterNode.preparedVolume, ready._parameterNode.viewVolume
    source.GetDisplayNode().SetWindowLevelMinMax(0.2, 0.6)
    host.process_events()
    display = view.GetDisplayNode()
    assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == pytest.approx((0.2, 0.6))


def test_a_film_is_prepared(host: Any, ready: Any) -> None:
    import slicer

    rows, columns = np.mgrid[:120, :90] / 90.0
    image = 0.5 + 0.35 * np.sin(5.0 * rows + 2.0) * np.cos(7.0 * columns)
    image[:15] = image[:, :8] = 0.0
    film = slicer.util.addVolumeFromArray(np.round(1000 * image).astype(np.int16)[None], name="CR")
    ready.ui.inputSelector.setCurrentNode(film)
    host.wait_until(lambda: ready._facts is not None, 10.0)
    assert ready.ui.factsLabel.text == "120 x 90 pixels, pixel spacing unknown, no view of its own: taken for PA"
    assert not hidden(ready.ui.rowSpacingSpinBox)
    assert "430 mm" in ready.ui.spacingAdviceLabel.text
    host.click(ready.ui.proposeCropButton)
    assert (ready.ui.cropTopSpinBox.value, ready.ui.cropLeftSpinBox.value) == (15, 8)

    ready.ui.rowSpacingSpinBox.value = 1.5
    host.process_events()
    assert "of both rows and columns" in ready.ui.applyButton.toolTip
    ready.ui.columnSpacingSpinBox.value = 1.5
    choose(ready.ui.sourceViewComboBox, "left")
    ready.ui.invertCheckBox.checked = True
    host.process_events()
    host.click(ready.ui.prepareButton)
    finish(host, ready)
    prepared = ready._parameterNode.preparedVolume
    assert slicer.util.arrayFromVolume(prepared).shape == (1, 105, 82)
    assert "left lateral" not in prepared.GetName()
    picture(host, host.main_window, f"{MODULE}-prepared")

    choose(ready.ui.quarterTurnsComboBox, 1)
    host.wait_until(lambda: ready._facts is not None, 10.0)
    assert ready.ui.factsLabel.text.startswith("90 x 120 pixels")
    ready.ui.cropTopSpinBox.value = 80
    host.process_events()
    assert "cut off less" in ready.ui.applyButton.toolTip
    assert not ready.ui.prepareButton.enabled

    ready.ui.cropTopSpinBox.value = 0
    ready.ui.truthSelector.setCurrentNode(sample("SVDRRPhantomCT"))
    host.process_events()
    assert "no place in the frame of the CT" in ready.ui.applyButton.toolTip
    ready.ui.centerOfCtCheckBox.checked = True
    host.process_events()
    assert ready.ui.applyButton.enabled, ready.ui.applyButton.toolTip


def shown_source(host: Any, panel: Any) -> bytes:
    """The picture of what the model gets, once it is up to date."""
    from PySide6.QtCore import QBuffer, QByteArray
    from slicer_host.proxies import unwrap

    host.wait_until(lambda: not panel._source._stepper.running, 30.0)
    data = QByteArray()
    unwrap(panel.ui.sourcePictureLabel).pixmap().toImage().save(QBuffer(data), "BMP")
    return bytes(data.data())


def test_what_the_model_will_get_is_shown_before_the_job(host: Any, ready: Any) -> None:
    import slicer

    host.wait_until(lambda: not hidden(ready.ui.sourcePictureLabel), 30.0)
    assert "32 x 32 pixels over 480 mm" in ready.ui.sourceStatusLabel.text
    assert "SYNTHETIC, not for diagnosis" in ready.ui.sourceStatusLabel.text, "the sample is a DRR"
    assert "Gray values as they are" in ready.ui.sourceStatusLabel.text
    nodes = slicer.mrmlScene.GetNumberOfNodes()

    rows, columns = np.mgrid[:120, :90] / 90.0
    image = 0.5 + 0.35 * np.sin(5.0 * rows + 2.0) * np.cos(7.0 * columns)
    film = slicer.util.addVolumeFromArray(np.round(1000 * image).astype(np.int16)[None], name="CR")
    added = slicer.mrmlScene.GetNumberOfNodes() - nodes
    ready.ui.inputSelector.setCurrentNode(film)
    host.wait_until(lambda: ready._facts is not None and "matched" in ready.ui.sourceStatusLabel.text, 30.0)
    assert "SYNTHETIC" not in ready.ui.sourceStatusLabel.text
    seen = [shown_source(host, ready)]
    for change in (
        lambda: setattr(ready.ui.invertCheckBox, "checked", True),
        lambda: setattr(ready.ui.linearCheckBox, "checked", True),
        lambda: setattr(ready.ui.cropTopSpinBox, "value", 40),
        lambda: choose(ready.ui.quarterTurnsComboBox, 1),
    ):
        host.reset_stalls()
        change()
        host.process_events()
        host.wait_until(lambda: ready._facts is not None, 10.0)
        seen.append(shown_source(host, ready))
        assert host.stalls() <= LONGEST_STALL_S
    assert len(set(seen)) == len(seen), "each step of the preparation shows"
    picture(host, MODULE, f"{MODULE}-source")
    ready.ui.cropTopSpinBox.value = 1000
    host.process_events()
    assert hidden(ready.ui.sourcePictureLabel)
    assert slicer.mrmlScene.GetNumberOfNodes() == nodes + added, "nothing comes into the scene"


def live(host: Any, panel: Any) -> None:
    """Turns the live view on, as a person does."""
    panel.ui.liveCollapsibleButton.collapsed = False
    panel._backend._ui.backendCollapsibleButton.collapsed = True
    host.process_events()
    host.click(panel.ui.liveViewCheckBox)


def followed(host: Any, panel: Any, label: str, model: str = "tiny") -> np.ndarray:
    """Waits for the live view of this name; returns its picture, (256, 256, 3)."""
    from PySide6.QtGui import QImage
    from slicer_host.proxies import unwrap

    host.wait_until(lambda: panel.ui.liveStatusLabel.text.startswith(f"{label}, by {model} in "), 120.0)
    assert "SYNTHETIC, not for diagnosis" in panel.ui.liveStatusLabel.text
    image = unwrap(panel.ui.livePictureLabel).pixmap().toImage().convertToFormat(QImage.Format.Format_RGB888)
    rows = np.frombuffer(image.constBits(), np.uint8).reshape(image.height(), image.bytesPerLine())
    return rows[:, : 3 * image.width()].reshape(image.height(), image.width(), 3).copy()


def node_ids() -> set[str]:
    import slicer

    return {slicer.mrmlScene.GetNthNode(index).GetID() for index in range(slicer.mrmlScene.GetNumberOfNodes())}


def test_the_live_view_is_what_the_model_makes_of_the_sliders_angles(host: Any, ready: Any) -> None:
    from svdrr.geometry import CArmPose
    from svdrr.mrml import radiograph_from_node
    from svdrr.synthesis.synthesize import Synthesizer

    before = node_ids()
    live(host, ready)
    followed(host, ready, "PA")
    ready.ui.livePrimarySlider.value = 30.0
    ready.ui.liveSecondarySlider.value = -10.0
    shown = followed(host, ready, "LAO 30° CAUD 10°")
    radiograph = radiograph_from_node(ready.ui.inputSelector.currentNode())
    (view,) = Synthesizer("tiny", "cpu").synthesize(radiograph, [CArmPose(30.0, -10.0)])
    # Each pixel shows as 8 x 8, down to where the label begins.
    expected = np.repeat(np.repeat(view.pixels, 8, axis=0), 8, axis=1)[:232]
    assert np.ptp(expected) > 0.05
    assert np.abs(shown[:232] / 255.0 - expected[..., None]).max() < 0.01
    assert (np.ptp(shown[232:].astype(int), axis=2) > 100).sum() > 100, "the label is the only color"
    assert "few-step" not in ready.ui.liveStatusLabel.text

    # A fast drag: none of those between is made.
    host.reset_stalls()
    seen = set()
    for angle in range(1, 41):
        ready.ui.livePrimarySlider.value = float(-angle)
    host.wait_until(
        lambda: seen.add(ready.ui.liveStatusLabel.text.partition(",")[0]) or "RAO 40° CAUD 10°" in seen, 120.0
    )
    assert seen <= {"LAO 30° CAUD 10°", "RAO 40° CAUD 10°"}
    assert host.stalls() <= LONGEST_STALL_S
    assert node_ids() == before, "nothing comes into the scene"

    ready.ui.stepsSpinBox.value = 5
    assert ready.ui.livePictureLabel.pixmap.isNull(), "what other steps have made does not stay"
    followed(host, ready, "RAO 40° CAUD 10°")
    assert ready.ui.liveStatusLabel.text.endswith(
        "This model takes 5 steps; a few-step model follows the slider faster."
    )


def test_a_live_view_goes_into_the_scene(host: Any, ready: Any) -> None:
    import slicer

    live(host, ready)
    ready.ui.livePrimarySlider.value = 45.0
    shown = followed(host, ready, "LAO 45°")
    host.click(ready.ui.addLiveViewButton)
    assert ready._controls.running
    assert not ready.ui.liveCollapsibleButton.enabled, "while a job runs, the live view waits"
    assert finish(host, ready) == "1 of 1 view is in the scene."
    added = slicer.util.arrayFromVolume(ready._parameterNode.viewVolume)[0]
    assert np.abs(shown[4:232:8, 4::8, 0] / 255.0 - added[:29]).max() < 0.01
    assert "LAO 45°" in browsers()[0].GetMasterSequenceNode().GetNthIndexValue(0)
    assert ready.ui.liveCollapsibleButton.enabled
    ready.ui.livePrimarySlider.value = 50.0
    followed(host, ready, "LAO 50°")


def test_the_live_view_ends_and_comes_back(host: Any, ready: Any) -> None:
    from svdrr.mrml.backend import stop_local_backends

    def shows_nothing() -> bool:
        pixmap = ready.ui.livePictureLabel.pixmap
        return pixmap is None or pixmap.isNull()

    live(host, ready)
    followed(host, ready, "PA")
    host.select("CTTableRemoval")
    assert shows_nothing()
    host.select(MODULE)
    followed(host, ready, "PA")

    stop_local_backends()
    ready.ui.livePrimarySlider.value = 20.0
    host.wait_until(lambda: "has ended; the next job starts it again" in ready.ui.liveStatusLabel.text, 120.0)
    assert shows_nothing()
    ready.ui.livePrimarySlider.value = 25.0
    followed(host, ready, "LAO 25°")

    host.click(ready.ui.liveViewCheckBox)
    assert shows_nothing()
    host.click(ready.ui.liveViewCheckBox)
    ready.ui.livePrimarySlider.value = -25.0
    host.close_scene()
    host.process_events(0.5)
    assert shows_nothing()
    assert not ready.ui.liveViewCheckBox.checked


def test_the_window_stays_alive(host: Any, ready: Any) -> None:
    hemisphere(ready, 40)
    ready.ui.truthSelector.setCurrentNode(sample("SVDRRPhantomCT"))
    # The layout and its views are made once.
    begin(host, ready)
    host.reset_stalls()
    assert finish(host, ready).startswith("40 of 40")
    assert host.stalls() <= LONGEST_STALL_S


@pytest.mark.parametrize("views", [0, 1, 5])
def test_cancel_at_every_stage(host: Any, ready: Any, views: int) -> None:
    hemisphere(ready, 300)
    begin(host, ready, lambda: ready._controls.running and arrived(ready) >= views)
    host.click(ready.ui.applyButton)
    assert finish(host, ready) == "Canceled."
    host.process_events(0.3)
    if views:
        stayed = arrived(ready)
        assert views <= stayed < 300
        assert ready.ui.arrivedLabel.text.startswith(f"{stayed} of 300 views")
    else:
        assert not browsers()


def test_a_killed_backend(host: Any, panel: Any, environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from functools import partial

    from svdrr.backend.client import BackendClient
    from svdrr.mrml.backend import stop_local_backends

    stop_local_backends()
    monkeypatch.setattr("svdrr.backend.local.BackendClient", partial(BackendClient, patience_s=1.0))
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    panel.ui.inputSelector.setCurrentNode(sample("SVDRRPhantomRadiograph"))
    host.click(panel._backend._ui.backendTestButton)
    host.wait_until(lambda: panel.ui.modelComboBox.count > 0, 120.0)
    choose(panel.ui.modelComboBox, "tiny")
    hemisphere(panel, 400)
    begin(host, panel)
    for process in psutil.Process().children(recursive=True):
        if process.pid not in before:
            process.kill()
    sentence = finish(host, panel)
    stop_local_backends()
    assert f"{arrived(panel)} of 400 views" in sentence
    assert arrived(panel) >= 1
    assert panel.ui.applyButton.enabled
    picture(host, MODULE, f"{MODULE}-error")


def test_no_backend(host: Any, panel: Any, tmp_path: Path) -> None:
    panel.ui.inputSelector.setCurrentNode(sample("SVDRRPhantomRadiograph"))
    panel._backend._ui.backendEnvironmentPathLineEdit.currentPath = str(tmp_path)
    host.process_events()
    assert "Set up the backend on this computer" in panel.ui.applyButton.toolTip
    assert not panel.ui.applyButton.enabled


@pytest.mark.parametrize(("answers", "sentence"), [(True, "token"), (False, "127.0.0.1:9")])
def test_a_backend_that_does_not_let_in(host: Any, ready: Any, answers: bool, sentence: str) -> None:
    line = ready._backend._ui
    with site(capable({"models": [MODEL]}, token="right")) as server:
        line.backendWhereComboBox.currentIndex = 1
        line.backendUrlLineEdit.text = server.url if answers else "http://127.0.0.1:9"
        line.backendTokenLineEdit.text = "wrong"
        line.backendUrlLineEdit.editingFinished.emit()
        host.click(line.backendTestButton)
        host.wait_until(lambda: sentence in line.backendStateLabel.text, 60.0)
        assert "Click 'Test connection'" in ready.ui.applyButton.toolTip
        # As if it had let in before.
        ready.onCapabilities({"models": [MODEL]})
        host.click(ready.ui.applyButton)
        assert sentence in finish(host, ready)
    assert not browsers()
    assert ready.ui.applyButton.enabled


def test_consent_before_anything_goes_to_another_computer(
    host: Any, ready: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = ready._backend._ui
    backend.backendWhereComboBox.currentIndex = 1
    backend.backendUrlLineEdit.text = "https://gpu.example.org:8650"
    backend.backendUrlLineEdit.editingFinished.emit()
    host.process_events()
    assert "Test connection" in ready.ui.applyButton.toolTip
    # As if it had been asked.
    ready.onCapabilities({"models": [MODEL]})
    host.desk.answers.append("No")
    host.click(ready.ui.applyButton)
    assert "gpu.example.org" in host.messages[-1].text
    assert not ready._controls.running
    assert not browsers()

    asked = len(host.messages)
    host.desk.answers.append("No")
    live(host, ready)
    assert len(host.messages) == asked + 1
    assert not ready.ui.liveViewCheckBox.checked
    assert status(ready) == "Nothing was sent to gpu.example.org."
    # As a scene says that was saved by somebody who agreed.
    ready._parameterNode.liveView = True
    assert "before you agree that images are sent to gpu.example.org" in ready.ui.liveStatusLabel.text
    assert len(host.messages) == asked + 1
    assert not ready._live._picture._stepper.running


MODEL = {
    "name": "paper-256",
    "resolution": 256,
    "field_of_view_mm": 480.0,
    "num_inference_steps": 20,
    "guidance_scale": 2.0,
    "size_bytes": 1,
    "trained_on": "CTs.",
    "intended_use": "research",
    "license": "none",
}


def test_a_backend_without_models(host: Any, ready: Any) -> None:
    ready.onCapabilities({"models": []})
    assert "The backend has no models" in ready.ui.applyButton.toolTip
    assert ready.ui.modelLabel.text == ""


def test_scene_closed_while_running(host: Any, ready: Any) -> None:
    hemisphere(ready, 300)
    begin(host, ready)
    host.close_scene()
    assert finish(host, ready) == "Canceled, because the scene was closed."
    host.process_events(0.3)
    assert not browsers()
    assert not ready.ui.applyButton.enabled


def test_module_reloaded_while_running(host: Any, ready: Any) -> None:
    hemisphere(ready, 300)
    begin(host, ready)
    again = host.reload(MODULE)
    stayed = arrived(again)
    host.process_events(0.5)
    assert again is not ready
    assert arrived(again) == stayed
    assert again.ui.inputSelector.currentNode() is not None
    assert again._parameterNode.hemisphereCount == 300


@pytest.mark.parametrize("what", ["views", "preparedVolume", "viewVolume", "inputVolume"])
def test_nodes_deleted_while_running(host: Any, ready: Any, what: str) -> None:
    import slicer

    hemisphere(ready, 60)
    begin(host, ready)
    slicer.mrmlScene.RemoveNode(getattr(ready.logic.getParameterNode(), what))
    sentence = finish(host, ready)
    if what == "views":
        assert "was deleted while the work went on" in sentence
    else:
        assert sentence == "60 of 60 views are in the scene."


def test_wrong_volumes(host: Any, ready: Any) -> None:
    import slicer

    ct = sample("SVDRRPhantomCT")
    mr = slicer.util.addVolumeFromArray(np.full((10, 20, 20), 300, np.int16), name="MR")
    radiograph = ready.ui.inputSelector.currentNode()
    labels = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    ready.ui.inputSelector.setCurrentNode(ct)
    host.process_events()
    assert "slices; choose a radiograph" in ready.ui.applyButton.toolTip
    assert not ready.ui.prepareButton.enabled
    ready.ui.inputSelector.setCurrentNode(labels)
    assert ready.ui.inputSelector.currentNode() is not labels
    ready.ui.inputSelector.setCurrentNode(radiograph)
    for node, reason in ((mr, "not in Hounsfield units"), (radiograph, "single slice")):
        ready.ui.truthSelector.setCurrentNode(node)
        host.process_events()
        assert reason in ready.ui.applyButton.toolTip
        assert not ready.ui.applyButton.enabled


def test_choices_survive_saving_and_loading(host: Any, ready: Any, tmp_path: Path) -> None:
    import slicer

    ready.ui.seedSpinBox.value = 7
    ready.ui.flipCheckBox.checked = True
    choose(ready.ui.sourceViewComboBox, "angles")
    ready.ui.sourcePrimarySpinBox.value = -35.0
    begin(host, ready)
    finish(host, ready)
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    host.close_scene()
    assert ready.ui.seedSpinBox.value == 0
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    host.process_events(0.5)
    assert ready.ui.seedSpinBox.value == 7
    assert ready.ui.flipCheckBox.checked
    assert ready.ui.sourcePrimarySpinBox.value == -35.0
    assert ready._parameterNode.model == "tiny"
    assert ready._parameterNode.viewVolume.GetAttribute("SVDRR.Synthetic")
    assert ready.ui.compareButton.enabled
    host.click(ready.ui.compareButton)


def test_several_scenes_leave_nothing_behind(host: Any, ready: Any) -> None:
    def one_scene() -> None:
        ready.ui.inputSelector.setCurrentNode(sample("SVDRRPhantomRadiograph"))
        ready._parameterNode.model = "tiny"
        ready.ui.truthSelector.setCurrentNode(sample("SVDRRPhantomCT"))
        begin(host, ready, lambda: ready._controls.running)
        assert "PSNR" in finish(host, ready)
        host.process_events(0.1)
        host.close_scene()
        gc.collect()

    # The comparison's views stay, as every layout's do.
    host.close_scene()
    one_scene()
    host.mark()
    for _ in range(3):
        one_scene()
    assert host.leaks() == {}


def test_the_self_test(host: Any, panel: Any) -> None:
    from SingleViewSynthesis import SingleViewSynthesisTest

    SingleViewSynthesisTest().runTest()
