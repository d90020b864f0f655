"""The test host itself, by a small module in the shape of Slicer's template."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SAMPLE = Path(__file__).parent / "sample_module" / "HostSample"


@pytest.fixture
def panel(host: Any) -> Any:
    """The sample module's widget, shown."""
    host.start([SAMPLE])
    return host.select("HostSample")


def add_volume(name: str = "ct", kind: str | None = None) -> Any:
    import slicer

    return slicer.util.addVolumeFromArray(np.arange(27.0).reshape(3, 3, 3) * 40, name=name, nodeClassName=kind)


# The module and its life.


def test_a_module_is_loaded_as_the_factory_does(host: Any) -> None:
    host.start([SAMPLE])
    import sys

    import HostSample
    import slicer

    module = slicer.modules.hostsample
    assert (module.title, module.name, module.path) == ("Host Sample", "HostSample", str(SAMPLE / "HostSample.py"))
    assert module.categories == ("Examples",)
    assert [str(SAMPLE), str(SAMPLE.parent)] == [path for path in sys.path if "sample_module" in path]
    assert isinstance(slicer.modules.HostSampleInstance, HostSample.HostSample)
    assert not hasattr(slicer.modules, "HostSampleWidget"), "the panel is made when it is first asked for"
    assert [source.sampleName for source in slicer.modules.sampleDataSources["HostSample"]] == ["HostSample1"]
    assert isinstance(host.select("HostSample"), HostSample.HostSampleWidget)
    assert slicer.util.selectedModule() == "HostSample"
    assert slicer.util.getModuleLogic("HostSample") is slicer.modules.HostSampleWidget.logic


def test_stop_leaves_slicer_core_alone(host: Any) -> None:
    host.start([SAMPLE])
    host.select("HostSample")
    host.stop()
    import sys

    import slicer

    from svdrr.mrml import new_scene

    assert not hasattr(slicer, "app")
    assert not {"qt", "ctk", "SampleData", "HostSample", "slicer.parameterNodeWrapper"} & sys.modules.keys()
    new_scene()
    del slicer.mrmlScene


def test_enter_exit_and_reload(host: Any, panel: Any) -> None:
    import slicer

    assert panel.parent.isEntered
    panel.parent.exit()
    assert not panel.parent.isEntered
    assert panel._parameterNode is None
    panel.parent.enter()
    panel.ui.thresholdSlider.value = 123
    reloaded = host.reload("HostSample")
    assert reloaded is not panel
    assert slicer.modules.HostSampleWidget is reloaded
    assert panel.Observations == []
    assert reloaded.ui.thresholdSlider.value == 123
    panel.ui.thresholdSlider.value = 5
    assert reloaded._parameterNode.threshold == 123


def test_self_test_runs(host: Any, panel: Any) -> None:
    import slicer

    slicer.selfTests["HostSample"](msec=0)
    host.process_events()


def test_scenes_in_a_row_leak_nothing(host: Any, panel: Any) -> None:
    import slicer

    host.mark()
    for _ in range(3):
        panel.ui.inputSelector.setCurrentNode(add_volume())
        host.click(panel.ui.applyButton)
        output = host.wait_until(lambda: panel._parameterNode.outputVolume)
        assert slicer.util.arrayFromVolume(output).sum() > 0
        assert any(name.startswith("vtkMRMLScalarVolumeNode") for name in host.leaks())
        host.close_scene()
        assert host.leaks() == {}
        assert panel._parameterNode is not None, "the panel is shown and takes the new scene's parameter node"
        assert panel._parameterNode.outputVolume is None
    tag = slicer.mrmlScene.AddObserver(slicer.mrmlScene.NodeAddedEvent, lambda *_: None)
    assert host.leaks() == {"": 1}
    slicer.mrmlScene.RemoveObserver(tag)


# Parameter node.


def test_parameter_node_and_panel_follow_each_other(host: Any, panel: Any) -> None:
    volume = add_volume()
    node = panel._parameterNode
    node.threshold, node.count, node.invert, node.method, node.note = 7.5, 4, True, "cubic", "hello"
    node.inputVolume = volume
    ui = panel.ui
    assert (ui.thresholdSlider.value, ui.countSpinBox.value, ui.invertCheckBox.checked) == (7.5, 4, True)
    assert (ui.methodComboBox.currentText, ui.noteLineEdit.text) == ("cubic", "hello")
    assert ui.inputSelector.currentNodeID == volume.GetID()
    ui.thresholdSlider.value, ui.countSpinBox.value, ui.invertCheckBox.checked = -3.25, 11, False
    ui.methodComboBox.currentIndex, ui.noteLineEdit.text = 0, "bye"
    ui.inputSelector.setCurrentNode(None)
    assert (node.threshold, node.count, node.invert, node.method, node.note) == (-3.25, 11, False, "linear", "bye")
    assert node.inputVolume is None
    assert (ui.countSpinBox.minimum, ui.countSpinBox.maximum) == (1, 20), "WithinRange is the spin box's range"


def test_parameter_node_refuses_wrong_values(host: Any, panel: Any) -> None:
    node = panel._parameterNode
    with pytest.raises(ValueError, match="within range"):
        node.threshold = 501.0
    with pytest.raises(TypeError):
        node.count = 2.5
    with pytest.raises(ValueError, match="following"):
        node.method = "nearest"
    with pytest.raises(TypeError):
        node.inputVolume = "vtkMRMLScalarVolumeNode1"
    with pytest.raises(ValueError, match="Cannot find a param"):
        node.treshold = 1.0


@pytest.mark.parametrize("extension", ["mrb", "mrml"])
def test_state_survives_save_and_load(host: Any, panel: Any, tmp_path: Path, extension: str) -> None:
    import slicer

    node = panel._parameterNode
    node.inputVolume = add_volume()
    node.outputVolume = add_volume("second")
    node.threshold, node.note = 12.5, 'ä "quoted"; a|b'
    path = tmp_path / f"scene.{extension}"
    assert slicer.util.saveScene(str(path))
    host.close_scene()
    assert panel._parameterNode.threshold == 100
    assert panel.ui.noteLineEdit.text == ""
    slicer.util.loadScene(str(path))
    host.process_events()
    if extension == "mrml":
        # Volumes that were never written have no file; their nodes and the references to them are in the scene.
        assert panel._parameterNode.threshold == 12.5
        return
    assert panel._parameterNode.inputVolume.GetName() == "ct"
    assert panel.ui.outputSelector.currentNode().GetName() == "second"
    assert panel.ui.noteLineEdit.text == 'ä "quoted"; a|b'


def test_parameter_node_values_wait_for_the_node_to_be_modified(host: Any, panel: Any, tmp_path: Path) -> None:
    import slicer

    panel._parameterNode.inputVolume = add_volume()
    slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    host.close_scene()
    kept = panel._parameterNode
    panel.removeObservers(panel.onSceneReady)
    panel.ui.inputSelector.setMRMLScene(None)
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    assert kept.parameterNode.GetNodeReference("inputVolume").GetName() == "ct"
    assert kept.inputVolume is None, "the trap that modules avoid by looking again at the end of an import"
    panel.initializeParameterNode()
    assert panel._parameterNode.inputVolume.GetName() == "ct"


# Qt in Slicer's shape.


def test_unknown_names_are_errors(host: Any, panel: Any) -> None:
    import ctk
    import qt
    import slicer

    button = panel.ui.applyButton
    with pytest.raises(AttributeError, match="does not exist on QPushButton"):
        button.tooltip = "lower case t"
    with pytest.raises(AttributeError, match="can not be overwritten"):
        button.click = None
    with pytest.raises(AttributeError, match="no attribute named"):
        _ = button.colour
    with pytest.raises(TypeError):
        button.text()
    with pytest.raises(AttributeError, match="does not accept"):
        button.enabled = panel._parameterNode
    with pytest.raises(AttributeError, match="not writable"):
        button.width = 5
    with pytest.raises(RuntimeError, match="signal 'clicked\\(int\\)' does not exist"):
        button.connect("clicked(int)", print)
    for module, name in ((qt, "QWizard"), (ctk, "ctkDICOMBrowser")):
        with pytest.raises(AttributeError, match="not known to the test host"):
            getattr(module, name)
    for holder, name in ((slicer.app, "layoutManger"), (slicer.modules, "thresholdscalarvolume")):
        with pytest.raises(AttributeError):
            getattr(holder, name)
    with pytest.raises(AttributeError, match=r"write Qt.VALUE"):
        _ = qt.Qt.AlignmentFlag.AlignLeft
    with pytest.raises(AttributeError):
        panel.ui.inputSelector.setNodeTypes(["vtkMRMLNode"])
    with pytest.raises(TypeError, match="do not derive"):
        type("Mine", (qt.QLabel,), {})
    with pytest.raises(ImportError):
        from slicer.parameterNodeWrapper import FloatRange  # noqa: F401


def test_properties_are_attributes(host: Any, panel: Any) -> None:
    import qt

    label = qt.QLabel("text")
    assert (label.text, label.visible, label.enabled, label.className()) == ("text", False, True, "QLabel")
    label.alignment = qt.Qt.AlignRight | qt.Qt.AlignTop
    label.setToolTip("tip")
    assert label.toolTip == "tip"
    assert isinstance(label, qt.QWidget)
    assert type(panel.ui.applyButton) is qt.QPushButton
    assert panel.ui.applyButton == panel.ui.applyButton.parent().findChild(qt.QPushButton, "applyButton")
    assert panel.ui.inputSelector.nodeTypes == ("vtkMRMLScalarVolumeNode",)
    table = qt.QTableWidget(2, 3)
    table.setItem(1, 2, qt.QTableWidgetItem("cell"))
    assert (table.rowCount, table.columnCount, table.item(1, 2).text()) == (2, 3, "cell")
    box = qt.QComboBox()
    box.addItems(["a", "b"])
    assert (box.count, box.findText("b"), box.currentText) == (2, 1, "a")
    label.setProperty("Dynamic", 5)
    assert label.property("Dynamic") == 5


def test_signals_both_ways_and_with_fewer_arguments(host: Any, panel: Any) -> None:
    import qt

    heard: list[Any] = []
    box = qt.QCheckBox()

    def none() -> None:
        heard.append("none")

    def one(checked: bool) -> None:
        heard.append(checked)

    box.connect("toggled(bool)", none)
    box.toggled.connect(one)
    box.checked = True
    assert heard == ["none", True]
    assert box.disconnect("toggled(bool)", none)
    assert box.toggled.disconnect(one)
    assert not box.disconnect("toggled(bool)", one)
    box.blockSignals(True)
    box.checked = False
    assert heard == ["none", True]

    selector = panel.ui.inputSelector
    nodes: list[Any] = []
    selector.connect("currentNodeChanged(vtkMRMLNode*)", nodes.append)
    selector.connect("currentNodeChanged(bool)", lambda valid: nodes.append(valid))
    selector.currentNodeChanged.connect(lambda: nodes.append("none"))
    volume = add_volume()
    assert nodes == [volume, "none", True] or set(map(str, nodes)) == {str(volume), "none", "True"}


def test_exceptions_in_slots_and_observers_are_kept(host: Any, panel: Any) -> None:
    import qt
    import slicer

    def fails(*_: Any) -> None:
        raise ValueError("from a slot")

    qt.QTimer.singleShot(0, fails)
    host.process_events(0.05)
    assert "from a slot" in host.uncaught.pop()
    tag = slicer.mrmlScene.AddObserver("ModifiedEvent", fails)
    slicer.mrmlScene.Modified()
    slicer.mrmlScene.RemoveObserver(tag)
    assert "from a slot" in host.uncaught.pop()
    button = qt.QPushButton()
    button.clicked.connect(fails)
    button.click()
    with pytest.raises(RuntimeError, match="from a slot"):
        host.wait_until(lambda: False)
    host.uncaught.clear()


def test_click_is_refused_by_a_button_that_is_off(host: Any, panel: Any) -> None:
    with pytest.raises(RuntimeError, match="Choose an input volume"):
        host.click(panel.ui.applyButton)


# Messages.


def test_messages_are_kept_and_answered(host: Any, panel: Any) -> None:
    import slicer

    assert slicer.util.confirmOkCancelDisplay("Go on?")
    host.desk.answers.extend(["Cancel", "No"])
    assert not slicer.util.confirmOkCancelDisplay("Go on?")
    assert not slicer.util.confirmYesNoDisplay("Sure?")
    slicer.util.infoDisplay("Done")
    assert [message.kind for message in host.messages] == ["question"] * 3 + ["information"]

    panel.ui.inputSelector.setCurrentNode(add_volume())
    panel.ui.thresholdSlider.value = 500
    panel._parameterNode.inputVolume.GetImageData().GetPointData().GetScalars().Fill(0)
    host.click(panel.ui.applyButton)
    host.wait_until(lambda: len(host.messages) == 5)
    message = host.messages[-1]
    assert message.kind == "error"
    assert message.text == "Failed to compute results.\n\nnothing is above the threshold"
    assert "Traceback" in message.details


def test_file_dialogs_are_answered(host: Any, panel: Any, tmp_path: Path) -> None:
    import qt

    assert qt.QFileDialog.getSaveFileName(None, "Save") == ""
    host.desk.paths.append(tmp_path / "x.png")
    assert qt.QFileDialog.getSaveFileName(None, "Save as", "", "*.png") == str(tmp_path / "x.png")
    host.desk.paths.append(tmp_path)
    panel.ui.folderPathLineEdit.browse()
    assert panel.ui.folderPathLineEdit.currentPath == str(tmp_path)
    assert [kind for kind, _ in host.desk.asked_paths] == ["save", "save", "folder"]


def test_settings_are_fresh_for_every_start(host: Any) -> None:
    import slicer

    for _ in range(2):
        host.start()
        settings = slicer.app.userSettings()
        assert settings.value("SVDRR/Url") is None
        settings.setValue("SVDRR/Url", "http://localhost")
        assert slicer.util.settingsValue("SVDRR/Url", "") == "http://localhost"


# CTK widgets.


def test_slider_widget_keeps_its_range_and_tells_of_changes(host: Any) -> None:
    host.start()
    import ctk

    slider = ctk.ctkSliderWidget()
    heard: list[Any] = []
    slider.connect("valueChanged(double)", lambda value: heard.append(("changed", value)))
    slider.connect("valueIsChanging(double)", lambda value: heard.append(("changing", value)))
    slider.minimum, slider.maximum, slider.singleStep, slider.decimals, slider.suffix = -180, 180, 5, 1, "°"
    slider.value = 12.5
    slider.value = 12.5
    slider.value = 500
    assert heard == [("changed", 12.5), ("changed", 180.0)]
    slider.tracking = False
    heard.clear()
    slider.value = 7
    assert heard == [("changing", 7.0), ("changed", 7.0)]
    slider.maximum = 5
    assert slider.value == 5


def test_other_ctk_widgets(host: Any) -> None:
    host.start()
    import ctk
    import qt

    heard: list[Any] = []
    span = ctk.ctkRangeWidget()
    span.connect("valuesChanged(double,double)", lambda low, high: heard.append((low, high)))
    span.setRange(0, 10)
    span.setValues(2, 8)
    span.minimumValue = 9
    assert heard == [(0, 10), (2, 8), (9, 9)]
    point = ctk.ctkCoordinatesWidget()
    point.connect("coordinatesChanged(double,double,double,double)", lambda x, y, z: heard.append((x, y, z)))
    point.coordinates = "1,2.5,-3"
    assert (point.coordinates, heard[-1], point.getCoordinate(1)) == ("1,2.5,-3", (1, 2.5, -3), 2.5)
    for kind in (ctk.ctkCollapsibleButton, ctk.ctkCollapsibleGroupBox):
        holder = kind()
        layout = qt.QVBoxLayout(holder)
        shown, hidden = qt.QLabel("a"), qt.QLabel("b")
        for label in (shown, hidden):
            layout.addWidget(label)
        hidden.hide()
        holder.show()
        holder.collapsed = True
        assert (shown.visible, hidden.visible) == (False, False)
        holder.collapsed = False
        assert (shown.visible, hidden.visible) == (True, False), "what was hidden on purpose stays so"
        holder.hide()


# Node combo box.


def test_node_combo_box_follows_the_scene(host: Any, panel: Any) -> None:
    import slicer

    selector = panel.ui.inputSelector
    first = add_volume("first")
    assert selector.currentNode() is first, "the only row of a box without None and without actions is chosen by Qt"
    add_volume("labels", "vtkMRMLLabelMapVolumeNode")
    second = add_volume("second")
    assert selector.nodeCount() == 2, "showChildNodeTypes is off, and a label map derives from a scalar volume"
    first.SetHideFromEditors(True)
    assert selector.nodeCount() == 1
    first.SetHideFromEditors(False)
    selector.setCurrentNode(second)
    second.SetName("renamed")
    assert selector.parent().findChild(type(panel.ui.methodComboBox)) is not None
    slicer.mrmlScene.RemoveNode(second)
    assert selector.currentNode() is first
    slicer.mrmlScene.RemoveNode(first)
    assert selector.currentNode() is None
    assert panel._parameterNode.inputVolume is None


def test_node_combo_box_makes_nodes(host: Any, panel: Any) -> None:
    selector = panel.ui.outputSelector
    heard: list[Any] = []
    selector.connect("nodeAddedByUser(vtkMRMLNode*)", heard.append)
    selector.baseName = "Output"
    selector.addAttribute("vtkMRMLScalarVolumeNode", "Kind", "mask")
    add_volume("of another kind")
    assert selector.nodeCount() == 0
    node = selector.addNode()
    assert heard == [node]
    assert (node.GetName(), node.GetAttribute("Kind"), selector.currentNodeID) == ("Output", "mask", node.GetID())
    assert panel._parameterNode.outputVolume is node
    selector.setCurrentNode(None)
    assert selector.currentNode() is None


def test_widget_without_the_scene_connection_gets_no_scene(host: Any, tmp_path: Path) -> None:
    host.start()
    import slicer

    text = (SAMPLE / "Resources/UI/HostSample.ui").read_text()
    start = text.index("<connection>", text.index("<connections>"))
    path = tmp_path / "Other.ui"
    path.write_text(text[:start] + text[text.index("</connection>") + len("</connection>") :])
    widget = slicer.util.loadUI(str(path))
    widget.setMRMLScene(slicer.mrmlScene)
    ui = slicer.util.childWidgetVariables(widget)
    assert ui.inputSelector.mrmlScene() is None
    assert ui.outputSelector.mrmlScene() is slicer.mrmlScene
    assert (ui.inputSelector.enabled, ui.outputSelector.enabled) == (False, True)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('class="QSpinBox"', 'class="QDial"', "does not know: QDial"),
        ('name="suffix"', 'name="sufix"', "no property 'sufix'"),
        ("<receiver>inputSelector", "<receiver>nobody", "does not exist"),
        ("<slot>setMRMLScene(", "<slot>setScene(", "no such signal or slot"),
    ],
)
def test_mistakes_in_a_ui_file_are_errors(host: Any, tmp_path: Path, old: str, new: str, message: str) -> None:
    host.start()
    import slicer

    path = tmp_path / "Other.ui"
    path.write_text((SAMPLE / "Resources/UI/HostSample.ui").read_text().replace(old, new))
    with pytest.raises(RuntimeError, match=message):
        slicer.util.loadUI(str(path))


# Views.


def rendered(widget: Any) -> np.ndarray:
    """A view's picture as (rows, columns, 3)."""
    import vtk
    from vtkmodules.util.numpy_support import vtk_to_numpy

    widget.forceRender()
    window = widget.renderWindow()
    pixels = vtk.vtkUnsignedCharArray()
    columns, rows = window.GetSize()
    window.GetPixelData(0, 0, columns - 1, rows - 1, 0, pixels, 0)
    return vtk_to_numpy(pixels).reshape(rows, columns, 3)[::-1]


def test_slice_view_shows_the_volume_and_overlays(host: Any) -> None:
    host.start()
    import slicer
    import vtk

    manager = slicer.app.layoutManager()
    assert manager.layout == slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView
    assert sorted(manager.sliceViewNames()) == ["Green", "Red", "Yellow"]
    volume = slicer.util.addVolumeFromArray(np.full((20, 20, 20), 50.0))
    volume.CreateDefaultDisplayNodes()
    volume.GetDisplayNode().SetAutoWindowLevel(False)
    volume.GetDisplayNode().SetWindowLevel(100, 0)
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    view = manager.sliceWidget("Red").sliceView()
    assert view.mrmlSliceNode().GetDimensions()[0] > 300
    before = rendered(view)
    assert before[before.shape[0] // 2, before.shape[1] // 2].min() > 200
    note = vtk.vtkCornerAnnotation()
    note.SetText(0, "SYNTHETIC")
    view.renderWindow().GetRenderers().GetFirstRenderer().AddViewProp(note)
    after = rendered(view)
    changed = np.argwhere((before != after).any(axis=2))
    assert len(changed) > 20
    assert changed[:, 0].min() > before.shape[0] / 2, "in the lower left corner"


def test_three_d_view_shows_models(host: Any, tmp_path: Path) -> None:
    host.start()
    import slicer
    import vtk

    widget = slicer.app.layoutManager().threeDWidget(0)
    view = widget.threeDView()
    view.mrmlViewNode().SetBoxVisible(False)
    view.mrmlViewNode().SetAxisLabelsVisible(False)
    before = rendered(view)
    sphere = vtk.vtkSphereSource()
    sphere.SetRadius(40)
    sphere.Update()
    model = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", "ball")
    model.SetAndObservePolyData(sphere.GetOutput())
    model.CreateDefaultDisplayNodes()
    model.GetDisplayNode().SetColor(1, 0, 0)
    slicer.util.resetThreeDViews()
    middle = tuple(size // 2 for size in before.shape[:2])
    red, green, _ = rendered(view)[middle]
    assert red > 100 > green
    assert slicer.modules.cameras.logic().GetViewActiveCameraNode(view.mrmlViewNode()) is not None
    assert host.screenshot(widget, tmp_path / "view.png").stat().st_size > 1000


def test_own_layout_with_slices_plot_and_table(host: Any, tmp_path: Path) -> None:
    host.start()
    import slicer

    manager = slicer.app.layoutManager()
    heard: list[int] = []
    manager.connect("layoutChanged(int)", heard.append)
    description = """<layout type="vertical"><item><layout type="horizontal">
      <item><view class="vtkMRMLSliceNode" singletontag="HostA">
      <property name="orientation" action="default">Coronal</property></view></item>
      <item><view class="vtkMRMLSliceNode" singletontag="HostB"/></item></layout></item>
      <item><layout type="horizontal"><item><view class="vtkMRMLPlotViewNode" singletontag="HostPlot"/></item>
      <item><view class="vtkMRMLTableViewNode" singletontag="HostTable"/></item></layout></item></layout>"""
    layouts = manager.layoutLogic().GetLayoutNode()
    layouts.AddLayoutDescription(5123, description)
    manager.setLayout(5123)
    assert heard == [5123]
    assert manager.sliceWidget("HostA").mrmlSliceNode().GetOrientation() == "Coronal"
    assert {"HostA", "HostB", "Red"} <= set(manager.sliceViewNames())
    assert (manager.plotViewCount, manager.tableViewCount) == (1, 1)

    table = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", "PSNR")
    slicer.util.updateTableFromArray(table, [np.arange(5.0), np.arange(5.0) ** 2], ["angle", "PSNR"])
    series = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", "PSNR")
    series.SetAndObserveTableNodeID(table.GetID())
    series.SetXColumnName("angle")
    series.SetYColumnName("PSNR")
    series.SetPlotType(series.PlotTypeScatter)
    series.SetColor(1, 0, 0)
    chart = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotChartNode", "Chart")
    chart.AddAndObservePlotSeriesNodeID(series.GetID())
    plot = manager.plotWidget(0)
    empty = rendered(plot.plotView())
    plot.mrmlPlotViewNode().SetPlotChartNodeID(chart.GetID())
    assert ((rendered(plot.plotView()) != empty).any(axis=2)).sum() > 200
    shown = manager.tableWidget(0)
    shown.mrmlTableViewNode().SetTableNodeID(table.GetID())
    assert (shown.tableView().rowCount, shown.tableView().item(2, 1).text()) == (5, "4")
    host.screenshot(host.main_window, tmp_path / "application.png")
    manager.layout = slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView
    assert heard == [5123, slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView]
    host.close_scene()
    assert manager.sliceWidget("Red").sliceView().mrmlSliceNode().GetScene() is slicer.mrmlScene


def test_slicer_util_on_the_views(host: Any, panel: Any) -> None:
    import qt
    import slicer

    volume = add_volume()
    slicer.util.setSliceViewerLayers(background=volume, label=None, fit=True)
    slicer.util.resetSliceViews()
    slicer.util.resetThreeDViews()
    slicer.util.forceRenderAllViews()
    with slicer.util.RenderBlocker():
        volume.SetSpacing(2, 2, 2)
    assert slicer.util.showStatusMessage("Working", 1000)
    assert slicer.util.mainWindow().statusBar().currentMessage() == "Working"
    slicer.util.delayDisplay("A moment", 100)
    slicer.util.selectModule("HostSample")
    assert slicer.util.getModule("HostSample") == slicer.modules.hostsample
    assert slicer.util.getModuleLogic("Markups") is slicer.modules.markups.logic()
    qt.QApplication.clipboard().setText("log")
    assert qt.QApplication.clipboard().text() == "log"
    with slicer.util.tryWithErrorDisplay("Failed", waitCursor=True):
        assert qt.QApplication.overrideCursor()
    assert not qt.QApplication.overrideCursor()
    qt.QDesktopServices.openUrl(qt.QUrl("http://localhost/"))
    assert host.desk.opened_urls == ["http://localhost/"]


# Pictures and time.


def test_panel_screenshot_has_text_and_its_full_height(host: Any, panel: Any, tmp_path: Path) -> None:
    from PIL import Image

    panel.ui.advancedCollapsibleButton.collapsed = True
    small = np.asarray(Image.open(host.screenshot("HostSample", tmp_path / "collapsed.png")).convert("L"))
    panel.ui.advancedCollapsibleButton.collapsed = False
    large = np.asarray(Image.open(host.screenshot("HostSample", tmp_path / "open.png")).convert("L"))
    assert small.shape[1] == large.shape[1] == 520
    assert large.shape[0] > small.shape[0] + 50
    assert (small < 80).sum() > 300, "letters are dark"


def test_stalls_are_measured(host: Any) -> None:
    host.start()
    import qt

    host.process_events(0.1)
    host.reset_stalls()
    host.process_events(0.2)
    time.sleep(0.3)
    assert host.stalls() < 0.15, "what the test does itself is no stall"
    qt.QTimer.singleShot(20, lambda: time.sleep(0.3))
    host.process_events(0.1)
    assert 0.25 < host.stalls() < 0.6


def test_volume_files(host: Any, tmp_path: Path) -> None:
    host.start()
    import slicer

    volume = add_volume()
    path = tmp_path / "ct.nrrd"
    assert slicer.util.saveNode(volume, str(path))
    loaded = slicer.util.loadVolume(str(path), {"name": "again"})
    assert loaded.GetName() == "again"
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(loaded), slicer.util.arrayFromVolume(volume))
    composite = slicer.app.layoutManager().sliceWidget("Red").sliceLogic().GetSliceCompositeNode()
    assert composite.GetBackgroundVolumeID() == loaded.GetID()
    labels = slicer.util.loadVolume(str(path), {"labelmap": True, "show": False})
    assert labels.GetClassName() == "vtkMRMLLabelMapVolumeNode"
    with pytest.raises(RuntimeError, match="Failed to load"):
        slicer.util.loadVolume(str(tmp_path / "none.nrrd"))


def test_properties_of_qt_on_widgets_of_the_host(host: Any) -> None:
    host.start()
    import ctk

    for kind in (ctk.ctkPathLineEdit, ctk.ctkSliderWidget):
        widget = kind()
        widget.enabled = False
        widget.show()
        assert (widget.visible, widget.enabled) == (True, False)
        widget.visible = False
        assert not widget.visible
