"""Radiograph Super-Resolution: a radiograph with more pixels in the same place, and how faithful they are."""

import sys
from pathlib import Path
from typing import Annotated

import slicer
import vtk
from slicer import vtkMRMLMarkupsROINode, vtkMRMLScalarVolumeNode
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


class RadiographSuperResolution(ScriptedLoadableModule):
    """The module as Slicer lists it."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        find_library()
        self.parent.title = _("Radiograph Super-Resolution")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Image Synthesis")]
        self.parent.dependencies = []
        self.parent.contributors = ["The SVDRR contributors"]
        self.parent.helpText = _(
            "Gives a radiograph more rows and columns in the same place, by interpolation or by networks that have "
            "learned on procedural phantoms, and shows how far the result, reduced again, is from the input, and how "
            "much a sampled one varies. What is added is computed, not measured: for research, not for diagnosis. "
            '<a href="https://github.com/SVDRR/SVDRR/blob/main/Docs/RadiographSuperResolution.md">Tutorial</a>'
        )
        self.parent.acknowledgementText = _("Part of SVDRR.")
        slicer.app.connect("startupCompleted()", prepare_views)


def find_library() -> None:
    """An installed extension has `svdrr` beside its modules; in the source tree it lies in another folder."""
    library = Path(__file__).resolve().parents[2] / "SVDRRExtension"
    if library.is_dir() and str(library) not in sys.path:
        sys.path.append(str(library))


def prepare_views() -> None:
    """Have every slice view that shows a computed image say so, and scenes that were saved in a comparison open."""
    from svdrr.mrml.panels.side_by_side import register_layout
    from svdrr.mrml.panels.synthetic_label import install_synthetic_labels

    install_synthetic_labels()
    register_layout()


_LCMSR = "lcmsr"
_OF_LCMSR = ("seedSpinBox", "deterministicCheckBox", "uncertaintyCheckBox")


@parameterNodeWrapper
class RadiographSuperResolutionParameterNode:
    """What the panel's user has chosen.

    inputVolume: the radiograph. region: the part to enlarge, or None for all. method, scale: of those that the backend
    offers. consistent: whether to remove what the result contradicts in the input. seed, deterministic: of LCMSR's
    noise, or to do without it. outputVolume: where the result goes, or None for a new volume. mapFidelity: whether to
    show how far the result, reduced again, is from the input. mapUncertainty: whether to show how much LCMSR's results
    vary. fidelityMap, uncertaintyMap: the last ones.
    """

    inputVolume: vtkMRMLScalarVolumeNode
    region: vtkMRMLMarkupsROINode
    method: str = "lanczos"
    scale: int = 2
    consistent: bool = False
    seed: Annotated[int, WithinRange(0, 2147483647)] = 0
    deterministic: bool = False
    outputVolume: vtkMRMLScalarVolumeNode
    mapFidelity: bool = True
    mapUncertainty: bool = False
    fidelityMap: vtkMRMLScalarVolumeNode
    uncertaintyMap: vtkMRMLScalarVolumeNode


class RadiographSuperResolutionWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel."""

    def __init__(self, parent=None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self._controls = None
        self._backend = None
        self._comparison = None
        self._regionObservations = None
        self._toolTips = None
        self._parameterNode = None
        self._parameterNodeGuiTag = None

    def setup(self) -> None:
        """Build the panel, when it is opened for the first time."""
        # All that a click will need is imported now, since importing takes longer than a click may.
        import svdrr.mrml.enhancement  # noqa: F401
        from svdrr.mrml.observations import Observations
        from svdrr.mrml.panels.backend_line import BackendLine
        from svdrr.mrml.panels.job_controls import JobControls
        from svdrr.mrml.panels.side_by_side import SideBySide

        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/RadiographSuperResolution.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = RadiographSuperResolutionLogic()
        self._comparison = SideBySide()
        self._regionObservations = Observations()
        self._toolTips = {name: getattr(self.ui, name).toolTip for name in _OF_LCMSR}
        self._backend = BackendLine(self.ui.advancedCollapsibleButton.layout(), self.onCapabilities)
        self._controls = JobControls(uiWidget.layout(), self.ui.applyButton, self.onApply, self._showState)
        self.layout.addStretch(1)

        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, self.onSceneEndClose)
        self.ui.drawRegionButton.connect("clicked(bool)", self.onDrawRegion)
        self.ui.methodComboBox.connect("currentIndexChanged(int)", self.onMethodChosen)
        self.ui.scaleComboBox.connect("currentIndexChanged(int)", self.onScaleChosen)
        self.ui.compareButton.connect("clicked(bool)", self.onCompare)
        self.ui.restoreButton.connect("clicked(bool)", self.onRestoreLayout)
        self.initializeParameterNode()
        self.onCapabilities(None)
        # A panel that is reloaded is not entered again.
        if self.parent.isEntered:
            self._backend.ask_first()

    def cleanup(self) -> None:
        """End what runs, because the panel goes."""
        for part in (self._controls, self._backend, self._comparison):
            if part is not None:
                part.cleanup()
        self.setParameterNode(None)
        self.removeObservers()

    def enter(self) -> None:
        """The panel is shown. Its methods are those of the backend, which is asked without being sent anything."""
        self._backend.enter()
        self.initializeParameterNode()
        self._backend.ask_first()

    def exit(self) -> None:
        """Another panel is shown. What runs goes on."""
        self.setParameterNode(None)

    def onSceneStartClose(self, caller, event) -> None:
        """The scene is about to be closed."""
        self._controls.cancel(_("Canceled, because the scene was closed."))
        self._comparison.cleanup()
        self.setParameterNode(None)

    def onSceneEndClose(self, caller, event) -> None:
        """The scene has been closed, or another one has been read into it."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    def initializeParameterNode(self) -> None:
        """Connect the panel with the scene's parameter node, and choose the first radiograph where none is chosen."""
        self.setParameterNode(self.logic.getParameterNode())
        if not self._parameterNode.inputVolume:
            self._parameterNode.inputVolume = self.logic.firstRadiograph()

    def setParameterNode(self, parameterNode: RadiographSuperResolutionParameterNode | None) -> None:
        """Show and change this parameter node from now on, or none."""
        if self._parameterNode is not None:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self._parametersChanged)
            self._regionObservations.remove_all()
        self._parameterNode = parameterNode
        if parameterNode is not None:
            self._parameterNodeGuiTag = parameterNode.connectGui(self.ui)
            self.addObserver(parameterNode, vtk.vtkCommand.ModifiedEvent, self._parametersChanged)
            self._parametersChanged()

    def onCapabilities(self, capabilities) -> None:
        """List what the backend offers; until it has answered, what there is."""
        if capabilities is None:
            from svdrr.superres import METHODS, SCALES

            methods, scales = METHODS, SCALES
        else:
            methods, scales = (capabilities["super_resolution"][name] for name in ("methods", "scales"))
        names = {
            "bicubic": _("Bicubic"),
            "lanczos": _("Lanczos"),
            "regression": _("Regression network"),
            "lcmsr": _("LCMSR (one step)"),
            "deltadiff": _("DeltaDiff (four steps)"),
        }
        _fill(self.ui.methodComboBox, [(names.get(method, method), method) for method in methods])
        _fill(self.ui.scaleComboBox, [(_("{scale} times").format(scale=scale), scale) for scale in scales])
        self._showState()

    def onMethodChosen(self, index: int) -> None:
        """Remember the method by its key."""
        if self._parameterNode is not None and index >= 0:
            self._parameterNode.method = self.ui.methodComboBox.itemData(index)

    def onScaleChosen(self, index: int) -> None:
        """Remember the scale by its number."""
        if self._parameterNode is not None and index >= 0:
            self._parameterNode.scale = int(self.ui.scaleComboBox.itemData(index))

    def onDrawRegion(self, checked: bool = False) -> None:
        """Put a region of interest on the image, face on, for the user to drag."""
        chosen = self._parameterNode
        chosen.region = self.logic.addRegion(chosen.inputVolume)
        self._comparison.show(chosen.inputVolume, chosen.outputVolume or chosen.inputVolume)

    def onApply(self) -> None:
        """Enlarge the radiograph."""
        self._backend.require_agreement()
        chosen = self._parameterNode
        steps = self.logic.steps(
            chosen.inputVolume,
            chosen.outputVolume,
            chosen.method,
            chosen.scale,
            chosen.region,
            chosen.mapFidelity,
            chosen.fidelityMap,
            None if chosen.deterministic else chosen.seed,
            chosen.consistent,
            chosen.mapUncertainty and chosen.method == _LCMSR,
            chosen.uncertaintyMap,
        )
        self._controls.run(_("Super-resolution of the radiograph"), steps, self._onEnlarged)

    def onCompare(self, checked: bool = False) -> None:
        """Show input and result side by side, below one of the maps that are checked."""
        chosen = self._parameterNode
        overlay = chosen.uncertaintyMap if chosen.mapUncertainty else None
        if overlay is None and chosen.mapFidelity:
            overlay = chosen.fidelityMap
        self._comparison.show(chosen.inputVolume, chosen.outputVolume, overlay)

    def onRestoreLayout(self, checked: bool = False) -> None:
        """Back to the views from before."""
        self._comparison.restore()

    def _onEnlarged(self, nodes) -> str:
        if self._parameterNode is not None:
            self._parameterNode.outputVolume = nodes.volume
            self._parameterNode.fidelityMap = nodes.fidelity_map
            self._parameterNode.uncertaintyMap = nodes.uncertainty_map
            if self._parameterNode.inputVolume is not None:
                self.onCompare()
        return nodes.verdict

    def _parametersChanged(self, caller=None, event=None) -> None:
        self._regionObservations.remove_all()
        region = self._parameterNode.region
        if region is not None:
            for change in (vtk.vtkCommand.ModifiedEvent, region.PointModifiedEvent):
                self._regionObservations.add(region, change, self._showState)
        self._showState()

    def _showState(self, caller=None, event=None) -> None:
        """Which buttons can be pressed, and if not, why."""
        if self._parameterNode is None or self._controls is None:
            return
        chosen, ui = self._parameterNode, self.ui
        _choose(ui.methodComboBox, chosen.method)
        _choose(ui.scaleComboBox, chosen.scale)
        reasons = self.logic.reasons(chosen.inputVolume, chosen.outputVolume, chosen.region)
        if ui.methodComboBox.currentIndex < 0 or ui.scaleComboBox.currentIndex < 0:
            reasons.append(_("Choose a method and a scale that the backend offers."))
        reasons += self._backend.reasons()
        self._controls.set_reasons(reasons, _("Enlarge the radiograph"))
        self._showLcmsr()
        ui.regionLabel.text = self.logic.regionText(chosen.inputVolume, chosen.region)
        running = self._controls.running
        ui.drawRegionButton.enabled = not self.logic.reasons(chosen.inputVolume)
        ui.compareButton.enabled = chosen.inputVolume is not None and chosen.outputVolume is not None and not running
        ui.inputsCollapsibleButton.enabled = ui.outputsCollapsibleButton.enabled = not running

    def _showLcmsr(self) -> None:
        """What the other methods have no use for is off, and says why."""
        other = self._parameterNode.method != _LCMSR
        reason = _("Only LCMSR is sampled; the other methods have one result.") if other else ""
        reasons = dict.fromkeys(_OF_LCMSR, reason)
        if self._parameterNode.deterministic:
            reasons["seedSpinBox"] = reason or _("Without noise there is no seed.")
        for name, why in reasons.items():
            widget = getattr(self.ui, name)
            widget.enabled = not why
            widget.toolTip = why or self._toolTips[name]


def _fill(combo, items) -> None:
    """Replace a combo box's items, (text, data) each."""
    combo.blockSignals(True)
    combo.clear()
    for text, data in items:
        combo.addItem(text, data)
    combo.blockSignals(False)


def _choose(combo, data) -> None:
    """Show the item with this data, or none."""
    combo.blockSignals(True)
    combo.currentIndex = combo.findData(data)
    combo.blockSignals(False)


class RadiographSuperResolutionLogic(ScriptedLoadableModuleLogic):
    """Super-resolution for scripts: ``RadiographSuperResolutionLogic().process(getNode("Radiograph"), scale=2)``."""

    def getParameterNode(self) -> RadiographSuperResolutionParameterNode:
        """The scene's parameter node of this module."""
        return RadiographSuperResolutionParameterNode(super().getParameterNode())

    def process(
        self,
        inputVolume: vtkMRMLScalarVolumeNode,
        outputVolume: vtkMRMLScalarVolumeNode | None = None,
        method: str = "lanczos",
        scale: int = 2,
        region: vtkMRMLMarkupsROINode | None = None,
        seed: int | None = 0,
        consistent: bool = False,
    ) -> vtkMRMLScalarVolumeNode:
        """The enlarged radiograph; waits for it, while Slicer's window stays alive. Arguments: see `steps`."""
        from svdrr.mrml.task import wait

        steps = self.steps(inputVolume, outputVolume, method, scale, region, seed=seed, consistent=consistent)
        return wait(steps).volume

    def steps(
        self,
        inputVolume,
        outputVolume=None,
        method="lanczos",
        scale=2,
        region=None,
        mapFidelity=False,
        fidelityMap=None,
        seed=0,
        consistent=False,
        mapUncertainty=False,
        uncertaintyMap=None,
    ):
        """Steps to an `EnhancementNodes` (volume, fidelity_map, uncertainty_map, fidelity, verdict).

        inputVolume: a radiograph, a volume of one slice. outputVolume: a volume to write to, or None for a new one.
        method, scale: of those that the backend offers. region: a region of interest, or None for the whole image.
        mapFidelity: whether to add a volume of the differences from the input, or write it to fidelityMap. seed: of
        LCMSR's noise, or None to do without. consistent: whether to remove what the result contradicts in the input.
        mapUncertainty: whether to add a volume of how much LCMSR's results vary, or write it to uncertaintyMap. Raises
        SVDRRError, with one sentence, for a volume that is no radiograph, a region beside it, and whatever the backend
        refuses. See `svdrr.mrml.enhancement.enhance_steps`.
        """
        from svdrr.mrml.enhancement import enhance_steps, region_of_roi

        pixels = region_of_roi(region, inputVolume) if region is not None else None
        return enhance_steps(
            inputVolume,
            outputVolume,
            method,
            scale,
            pixels,
            mapFidelity,
            fidelityMap,
            seed=seed,
            consistent=consistent,
            uncertainty=mapUncertainty,
            uncertainty_map=uncertaintyMap,
        )

    def reasons(self, inputVolume, outputVolume=None, region=None) -> list[str]:
        """Why these nodes cannot be worked on, a sentence each, as far as can be told at once."""
        from svdrr.errors import SVDRRError
        from svdrr.mrml.enhancement import region_of_roi
        from svdrr.mrml.radiograph import check_radiograph_node

        try:
            check_radiograph_node(inputVolume)
            if region is not None:
                region_of_roi(region, inputVolume)
        except SVDRRError as error:
            return [str(error)]
        if outputVolume is inputVolume:
            return [_("Choose another output volume; the input is kept.")]
        return []

    def regionText(self, inputVolume, region) -> str:
        """The pixels that are enlarged, for people; empty where there are none."""
        from svdrr.errors import SVDRRError
        from svdrr.mrml.enhancement import region_of_roi

        try:
            return str(region_of_roi(region, inputVolume)).capitalize() if region is not None else ""
        except SVDRRError:
            return ""

    def addRegion(self, inputVolume) -> vtkMRMLMarkupsROINode:
        """A region of interest on the radiograph's plane, about its center."""
        from svdrr.mrml.enhancement import add_roi

        return add_roi(inputVolume)

    def firstRadiograph(self) -> vtkMRMLScalarVolumeNode | None:
        """The scene's first volume of one slice."""
        volumes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
        return next((volume for volume in volumes if not self.reasons(volume)), None)


class RadiographSuperResolutionTest(ScriptedLoadableModuleTest):
    """Runs in Slicer's self-tests, with the backend that the user has chosen."""

    def setUp(self) -> None:
        """An empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        """All tests."""
        self.setUp()
        self.test_same_place()
        self.setUp()
        self.test_learned_methods()
        self.setUp()
        self.test_what_is_no_radiograph()

    def addRadiograph(self) -> vtkMRMLScalarVolumeNode:
        """A radiograph of 48 x 64 pixels, 0.4 mm high and 0.3 mm wide."""
        import numpy as np

        from svdrr.mrml import radiograph_to_node
        from svdrr.radiograph import Radiograph

        rows, columns = np.indices((48, 64))
        pixels = (0.5 + 0.4 * np.sin(rows / 6.0) * np.cos(columns / 8.0)).astype(np.float32)
        return radiograph_to_node(Radiograph(pixels, (0.4, 0.3)), "Radiograph")

    def test_same_place(self) -> None:
        """Twice the pixels between the same edges, and reduced again they are the input."""
        import numpy as np

        from svdrr.mrml.task import wait

        self.delayDisplay("Enlarging a radiograph")
        node = self.addRadiograph()
        logic = RadiographSuperResolutionLogic()
        nodes = wait(logic.steps(node, method="bicubic", mapFidelity=True))
        self.assertEqual(slicer.util.arrayFromVolume(nodes.volume).shape, (1, 96, 128))
        for volume, spacing in ((nodes.volume, (0.15, 0.2)), (nodes.fidelity_map, (0.3, 0.4))):
            np.testing.assert_allclose(volume.GetSpacing()[:2], spacing, rtol=1e-9)
            before, after = np.zeros(6), np.zeros(6)
            node.GetRASBounds(before)
            volume.GetRASBounds(after)
            np.testing.assert_allclose(after, before, atol=1e-6)
        self.assertLess(nodes.fidelity.mean_percent, 0.5)
        self.assertIn("(synthetic)", nodes.volume.GetName())

        self.delayDisplay("Enlarging a region of it")
        part = logic.process(node, region=logic.addRegion(node), scale=4)
        self.assertEqual(slicer.util.arrayFromVolume(part).shape, (1, 96, 128))
        self.delayDisplay(nodes.verdict)

    def test_learned_methods(self) -> None:
        """Those that the backend offers, held to the input; and how much the sampled one varies."""
        import numpy as np

        from svdrr.mrml.backend import chosen_backend, client_of
        from svdrr.mrml.task import wait

        self.delayDisplay("Asking the backend for its methods")
        client = wait(client_of(chosen_backend(), sends_images=False))
        offered = client.capabilities()["super_resolution"]["methods"]
        node = self.addRadiograph()
        logic = RadiographSuperResolutionLogic()
        for method in (one for one in offered if one not in ("bicubic", "lanczos")):
            self.delayDisplay(f"Enlarging a radiograph by {method}")
            plain = wait(logic.steps(node, method=method))
            nodes = wait(logic.steps(node, method=method, consistent=True, mapUncertainty=method == _LCMSR))
            self.assertEqual(slicer.util.arrayFromVolume(nodes.volume).shape, (1, 96, 128))
            self.assertLessEqual(nodes.fidelity.mean_percent, plain.fidelity.mean_percent)
            self.assertIn("not measured", nodes.verdict)
            self.assertEqual(nodes.uncertainty_map is not None, method == _LCMSR)
        if _LCMSR in offered:
            one, same, other = (
                slicer.util.arrayFromVolume(logic.process(node, method=_LCMSR, seed=seed)) for seed in (1, 1, 2)
            )
            np.testing.assert_array_equal(same, one)
            self.assertGreater(np.abs(other - one).max(), 0.0)

    def test_what_is_no_radiograph(self) -> None:
        """A volume gets one sentence, and nothing is added."""
        import numpy as np

        from svdrr.errors import SVDRRError

        self.delayDisplay("Refusing a volume that is no radiograph")
        volume = slicer.util.addVolumeFromArray(np.zeros((10, 20, 20), np.int16), name="CT")
        before = slicer.mrmlScene.GetNumberOfNodes()
        with self.assertRaises(SVDRRError):
            RadiographSuperResolutionLogic().process(volume)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodes(), before)
