"""A module in the shape of Slicer's template, for the tests of the test host."""

import logging
from typing import Annotated

import qt
import slicer
import vtk
from slicer import vtkMRMLScalarVolumeNode
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import Choice, Default, WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import *
from slicer.util import VTKObservationMixin


class HostSample(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("Host Sample")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Examples")]
        self.parent.dependencies = ["Volumes"]
        self.parent.contributors = ["SVDRR"]
        self.parent.helpText = _("A sample.")
        self.parent.acknowledgementText = ""
        slicer.app.connect("startupCompleted()", registerSampleData)


def registerSampleData():
    import SampleData

    SampleData.SampleDataLogic.registerCustomSampleDataCategory("HostSample", title=_("Host Sample"))
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="HostSample", sampleName="HostSample1", uris="file:///nowhere", fileNames="a.nrrd", nodeNames="A"
    )


@parameterNodeWrapper
class HostSampleParameterNode:
    inputVolume: vtkMRMLScalarVolumeNode
    outputVolume: vtkMRMLScalarVolumeNode | None
    threshold: Annotated[float, WithinRange(-100, 500)] = 100
    count: Annotated[int, WithinRange(1, 20), Default(3)]
    invert: bool = False
    method: Annotated[str, Choice(["linear", "cubic"])] = "linear"
    note: str


class HostSampleWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    def __init__(self, parent=None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self._parameterNode = None
        self._parameterNodeGuiTag = None

    def setup(self) -> None:
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/HostSample.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = HostSampleLogic()
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneReady)
        # A scene that is loaded names nodes before it has them: look again when all are there.
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, self.onSceneReady)
        self.ui.applyButton.connect("clicked(bool)", self.onApplyButton)
        self.timer = qt.QTimer()
        self.timer.setInterval(20)
        self.timer.timeout.connect(self.onTimer)
        self.initializeParameterNode()

    def cleanup(self) -> None:
        self.timer.stop()
        self.setParameterNode(None)
        self.removeObservers()

    def enter(self) -> None:
        self.initializeParameterNode()

    def exit(self) -> None:
        self.setParameterNode(None)

    def onSceneStartClose(self, caller, event) -> None:
        self.setParameterNode(None)

    def onSceneReady(self, caller, event) -> None:
        if self.parent.isEntered:
            self.initializeParameterNode()

    def initializeParameterNode(self) -> None:
        self.setParameterNode(self.logic.getParameterNode())

    def setParameterNode(self, inputParameterNode) -> None:
        if self._parameterNode:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self._checkCanApply)
        self._parameterNode = inputParameterNode
        if self._parameterNode:
            self._parameterNodeGuiTag = self._parameterNode.connectGui(self.ui)
            self.addObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self._checkCanApply)
            self._checkCanApply()

    def _checkCanApply(self, caller=None, event=None) -> None:
        ready = self._parameterNode is not None and self._parameterNode.inputVolume is not None
        self.ui.applyButton.enabled = ready
        self.ui.applyButton.toolTip = _("Threshold the volume") if ready else _("Choose an input volume")

    def onApplyButton(self) -> None:
        self.ui.progressBar.value = 0
        self.ui.applyButton.enabled = False
        self.timer.start()

    def onTimer(self) -> None:
        self.ui.progressBar.value = self.ui.progressBar.value + 50
        if self.ui.progressBar.value < 100:
            return
        self.timer.stop()
        self._checkCanApply()
        with slicer.util.tryWithErrorDisplay(_("Failed to compute results."), waitCursor=True):
            output = self.logic.process(self._parameterNode.inputVolume, self._parameterNode.threshold)
            self._parameterNode.outputVolume = output
            self.ui.logTextEdit.appendPlainText(_("Made {name}").format(name=output.GetName()))


class HostSampleLogic(ScriptedLoadableModuleLogic):
    def getParameterNode(self):
        return HostSampleParameterNode(super().getParameterNode())

    def process(self, inputVolume, threshold):
        logging.info("Processing started")
        array = slicer.util.arrayFromVolume(inputVolume)
        if array.max() < threshold:
            raise ValueError("nothing is above the threshold")
        return slicer.util.addVolumeFromArray((array > threshold).astype("uint8"), name=inputVolume.GetName() + " mask")


class HostSampleTest(ScriptedLoadableModuleTest):
    def setUp(self):
        slicer.mrmlScene.Clear()

    def test_HostSample1(self):
        import numpy as np

        self.delayDisplay("Starting the test")
        volume = slicer.util.addVolumeFromArray(np.arange(8.0).reshape(2, 2, 2))
        output = HostSampleLogic().process(volume, 3)
        self.assertEqual(slicer.util.arrayFromVolume(output).sum(), 4)
