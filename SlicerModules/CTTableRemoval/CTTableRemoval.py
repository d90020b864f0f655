"""CT Table Removal: keeps the patient in a CT and sets table, mattress and clutter around to air."""

import sys
from pathlib import Path
from typing import Annotated

import slicer
import vtk
from slicer import vtkMRMLLabelMapVolumeNode, vtkMRMLScalarVolumeNode
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin


class CTTableRemoval(ScriptedLoadableModule):
    """The module as Slicer lists it."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        find_library()
        self.parent.title = _("CT Table Removal")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Image Synthesis")]
        self.parent.dependencies = []
        self.parent.contributors = ["The SVDRR contributors"]
        self.parent.helpText = _(
            "Keeps the patient in a CT and sets everything around to air: table, mattress, blankets, head-holder. "
            "Values inside the body are not touched. For research, not for diagnosis. "
            '<a href="https://github.com/SVDRR/SVDRR/blob/main/Docs/CTTableRemoval.md">Tutorial</a>'
        )
        self.parent.acknowledgementText = _(
            "Part of SVDRR. Removing CT supports by iterated thresholds and connected components is the subject of "
            "patent publication US20160247278."
        )
        slicer.app.connect("startupCompleted()", register_sample_data)


def find_library() -> None:
    """An installed extension has `svdrr` beside its modules; in the source tree it lies in another folder."""
    library = Path(__file__).resolve().parents[2] / "SVDRRExtension"
    if library.is_dir() and str(library) not in sys.path:
        sys.path.append(str(library))


def register_sample_data() -> None:
    """Offer a phantom's CT with its table in the Sample Data module."""
    from svdrr.mrml.samples import register_sample

    resources = Path(__file__).resolve().parent / "Resources"
    register_sample(
        resources / "SampleData" / "SVDRRPhantomCT.nrrd",
        "f1ab37149014cbe7b7e71bba56589968ae842f3a6486344048c0c58737ab8562",
        resources / "Icons" / "CTTableRemoval.png",
    )


@parameterNodeWrapper
class CTTableRemovalParameterNode:
    """What the panel's user has chosen.

    inputVolume: the CT. outputVolume: where the result goes, or None for a new volume. airValueHu: of everything
    outside the body. makeSegmentation: of body and table. overlay: the label map of the preview.
    """

    inputVolume: vtkMRMLScalarVolumeNode
    outputVolume: vtkMRMLScalarVolumeNode
    airValueHu: Annotated[float, WithinRange(-2048, -500)] = -1000.0
    makeSegmentation: bool = False
    overlay: vtkMRMLLabelMapVolumeNode


class CTTableRemovalWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel."""

    def __init__(self, parent=None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self._controls = None
        self._parameterNode = None
        self._parameterNodeGuiTag = None

    def setup(self) -> None:
        """Build the panel, when it is opened for the first time."""
        # All that a click will need is imported now, since importing takes longer than a click may.
        import svdrr.mrml.table  # noqa: F401
        from svdrr.mrml.panels.job_controls import JobControls

        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/CTTableRemoval.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = CTTableRemovalLogic()
        self._controls = JobControls(uiWidget.layout(), self.ui.applyButton, self.onApply, self._showState)
        self.layout.addStretch(1)

        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, self.onSceneEndClose)
        self.ui.previewButton.connect("clicked(bool)", self.onPreview)
        self.ui.hidePreviewButton.connect("clicked(bool)", self.onHidePreview)
        self.initializeParameterNode()

    def cleanup(self) -> None:
        """End what runs, because the panel goes."""
        if self._controls is not None:
            self._controls.cleanup()
        self.setParameterNode(None)
        self.removeObservers()

    def enter(self) -> None:
        """The panel is shown."""
        self.initializeParameterNode()

    def onSceneStartClose(self, caller, event) -> None:
        """The scene is about to be closed."""
        self._controls.cancel(_("Canceled, because the scene was closed."))
        self.setParameterNode(None)

    def onSceneEndClose(self, caller, event) -> None:
        """The scene has been closed, or another one has been read into it."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    def initializeParameterNode(self) -> None:
        """Connect the panel with the scene's parameter node, and choose the first CT where none is chosen."""
        self.setParameterNode(self.logic.getParameterNode())
        if not self._parameterNode.inputVolume:
            self._parameterNode.inputVolume = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode")

    def setParameterNode(self, parameterNode: CTTableRemovalParameterNode | None) -> None:
        """Show and change this parameter node from now on, or none."""
        if self._parameterNode is not None:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self._showState)
        self._parameterNode = parameterNode
        if parameterNode is not None:
            self._parameterNodeGuiTag = parameterNode.connectGui(self.ui)
            self.addObserver(parameterNode, vtk.vtkCommand.ModifiedEvent, self._showState)
            self._showState()

    def onApply(self) -> None:
        """Remove the table."""
        chosen = self._parameterNode
        steps = self.logic.steps(
            chosen.inputVolume, chosen.outputVolume, chosen.airValueHu, segment=chosen.makeSegmentation
        )
        self._controls.run(_("Removing the table"), steps, self._onRemoved)

    def onPreview(self, checked: bool = False) -> None:
        """Show what would be removed."""
        steps = self.logic.previewSteps(self._parameterNode.inputVolume, self._parameterNode.overlay)
        self._controls.run(_("Previewing what would be removed"), steps, self._onPreviewed)

    def onHidePreview(self, checked: bool = False) -> None:
        """Take the overlay out of the scene."""
        slicer.mrmlScene.RemoveNode(self._parameterNode.overlay)
        self._showState()

    def _onRemoved(self, nodes) -> str:
        if self._parameterNode is not None:
            self._parameterNode.outputVolume = nodes.volume
            slicer.util.setSliceViewerLayers(background=nodes.volume)
        return nodes.verdict

    def _onPreviewed(self, preview) -> str:
        overlay, sentence = preview
        if self._parameterNode is not None:
            self._parameterNode.overlay = overlay
            slicer.util.setSliceViewerLayers(
                background=self._parameterNode.inputVolume, label=overlay, labelOpacity=0.9
            )
        return sentence

    def _showState(self, caller=None, event=None) -> None:
        """Which buttons can be pressed, and if not, why."""
        if self._parameterNode is None:
            return
        reasons = self.logic.reasons(self._parameterNode.inputVolume)
        self._controls.set_reasons(reasons, _("Remove the table"))
        self.ui.previewButton.enabled = not reasons and not self._controls.running
        self.ui.hidePreviewButton.enabled = self._parameterNode.overlay is not None and not self._controls.running
        self.ui.inputsCollapsibleButton.enabled = self.ui.outputsCollapsibleButton.enabled = not self._controls.running


class CTTableRemovalLogic(ScriptedLoadableModuleLogic):
    """Table removal for scripts: ``CTTableRemovalLogic().process(getNode("CT"))``."""

    def getParameterNode(self) -> CTTableRemovalParameterNode:
        """The scene's parameter node of this module."""
        return CTTableRemovalParameterNode(super().getParameterNode())

    def process(
        self,
        inputVolume: vtkMRMLScalarVolumeNode,
        outputVolume: vtkMRMLScalarVolumeNode | None = None,
        airValueHu: float = -1000.0,
        segment: bool = False,
    ):
        """Remove the table and wait for it; Slicer's window stays alive. Arguments and result: see `steps`."""
        from svdrr.mrml.task import wait

        return wait(self.steps(inputVolume, outputVolume, airValueHu, segment))

    def steps(self, inputVolume, outputVolume=None, airValueHu=-1000.0, segment=False):
        """Steps to a `TableRemovalNodes` (volume, segmentation, verdict); see `svdrr.mrml.table.remove_table_steps`.

        inputVolume: a CT in HU. outputVolume: a volume to write to, the input too, or None for a new one. airValueHu:
        of everything outside the body. segment: whether to add a segmentation of body and table. Raises SVDRRError,
        with one sentence, for a volume that is no CT.
        """
        from svdrr.mrml.table import remove_table_steps

        return remove_table_steps(inputVolume, outputVolume, airValueHu, segment)

    def previewSteps(self, inputVolume, overlay=None):
        """Steps to the label map of what would be removed and a sentence about it."""
        from svdrr.mrml.table import preview_steps

        return preview_steps(inputVolume, overlay)

    def reasons(self, inputVolume) -> list[str]:
        """Why this volume cannot be worked on, a sentence each, as far as can be told at once."""
        from svdrr.errors import SVDRRError
        from svdrr.mrml.ct import check_ct_node

        try:
            check_ct_node(inputVolume)
        except SVDRRError as error:
            return [str(error)]
        return []


class CTTableRemovalTest(ScriptedLoadableModuleTest):
    """Runs in Slicer's self-tests: a phantom whose body is known."""

    def setUp(self) -> None:
        """An empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        """All tests."""
        self.setUp()
        self.test_phantom()
        self.setUp()
        self.test_what_is_no_ct()

    def test_phantom(self) -> None:
        """The table goes, the body stays bit for bit."""
        import numpy as np

        from svdrr.ct.phantoms import Label, ThoraxOptions, thorax_phantom
        from svdrr.mrml import ct_to_node

        self.delayDisplay("Removing the table of a phantom")
        phantom = thorax_phantom(5, ThoraxOptions(table=True, spacing_mm=5.0))
        ct = ct_to_node(phantom.ct, "Phantom")
        nodes = CTTableRemovalLogic().process(ct, segment=True)
        before, after = slicer.util.arrayFromVolume(ct), slicer.util.arrayFromVolume(nodes.volume)
        table = (phantom.labels == Label.TABLE) | (phantom.labels == Label.MATTRESS)
        # Below that, voxels of the skin are mostly air at this spacing.
        organs = ~table & (phantom.labels != Label.AIR) & (phantom.ct.hu > -350.0)
        self.assertTrue(np.array_equal(after[organs], before[organs]))
        self.assertEqual(np.count_nonzero(after[table] > -700.0), 0)
        self.assertEqual(nodes.segmentation.GetSegmentation().GetNumberOfSegments(), 2)
        self.delayDisplay(nodes.verdict)

    def test_what_is_no_ct(self) -> None:
        """A volume that is not in HU gets one sentence, and nothing is added."""
        import numpy as np

        from svdrr.errors import SVDRRError

        self.delayDisplay("Refusing a volume that is no CT")
        mr = slicer.util.addVolumeFromArray(np.full((10, 20, 20), 300, np.int16), name="MR")
        before = slicer.mrmlScene.GetNumberOfNodes()
        with self.assertRaises(SVDRRError):
            CTTableRemovalLogic().process(mr)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodes(), before)
