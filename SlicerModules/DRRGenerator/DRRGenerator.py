"""DRR Generator of SVDRR: digitally reconstructed radiographs of a CT, one view or a whole set of views."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import qt
import slicer
import vtk
from slicer import vtkMRMLMarkupsFiducialNode, vtkMRMLScalarVolumeNode
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


class DRRGenerator(ScriptedLoadableModule):
    """The module as Slicer lists it."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        find_library()
        # Another extension is called DRRGenerator, whose module is DRR Generator, too.
        self.parent.title = _("DRR Generator (SVDRR)")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Image Synthesis")]
        self.parent.dependencies = ["Cameras", "Markups", "Sequences"]
        self.parent.contributors = ["The SVDRR contributors"]
        self.parent.helpText = _(
            "Renders digitally reconstructed radiographs (DRRs) of a CT: one view of a C-arm, a sweep, or a whole "
            "hemisphere of views. Only primary radiation is simulated. For research, not for diagnosis. This module is "
            "part of the SVDRR extension; the extension called DRRGenerator, whose module is DRRGeneratorModule, is "
            "another one. "
            '<a href="https://github.com/SVDRR/SVDRR/blob/main/Docs/DRRGenerator.md">Tutorial</a>'
        )
        self.parent.acknowledgementText = _(
            "Part of SVDRR. The sets of views are those of the paper SV-DRR, whose novel views SVDRR synthesizes from "
            "one radiograph."
        )


def find_library() -> None:
    """An installed extension has `svdrr` beside its modules; in the source tree it lies in another folder."""
    library = Path(__file__).resolve().parents[2] / "SVDRRExtension"
    if library.is_dir() and str(library) not in sys.path:
        sys.path.append(str(library))


@parameterNodeWrapper
class DRRGeneratorParameterNode:
    """What the panel's user has chosen.

    inputVolume: the CT. isocenter: a point list whose first point it is, or None for the center of the CT. viewMode to
    viewFile: see `svdrr.mrml.panels.view_controls`. beamMode: "energy" or "voltage". outputVolume: where a single view
    goes, or None for a new volume. projectedMarkups: what is also shown on the detector. resultVolume: the last result.
    """

    inputVolume: vtkMRMLScalarVolumeNode
    isocenter: vtkMRMLMarkupsFiducialNode
    viewMode: str = "angles"
    primaryDeg: Annotated[float, WithinRange(-180, 180)] = 0.0
    secondaryDeg: Annotated[float, WithinRange(-90, 90)] = 0.0
    viewSet: str = "simple"
    hemisphereCount: Annotated[int, WithinRange(1, 2000)] = 12
    sweepFromDeg: Annotated[float, WithinRange(-360, 360)] = -90.0
    sweepToDeg: Annotated[float, WithinRange(-360, 360)] = 90.0
    sweepStepDeg: Annotated[float, WithinRange(0.1, 180)] = 10.0
    viewFile: str = ""
    livePreview: bool = True
    showBeam: bool = True
    sourceToIsocenterMm: Annotated[float, WithinRange(100, 5000)] = 1800.0
    sourceToDetectorMm: Annotated[float, WithinRange(150, 6000)] = 2000.0
    detectorSideMm: Annotated[float, WithinRange(10, 2000)] = 480.0
    detectorPixels: Annotated[int, WithinRange(16, 4096)] = 512
    beamMode: str = "energy"
    energyKev: Annotated[float, WithinRange(10, 150)] = 73.0
    kvp: Annotated[int, WithinRange(40, 150)] = 120
    noise: bool = False
    photonsPerPixel: Annotated[float, WithinRange(1, 1e9)] = 10000.0
    blurMm: Annotated[float, WithinRange(0, 10)] = 0.0
    window: str = "full"
    removeTable: bool = True
    outputVolume: vtkMRMLScalarVolumeNode
    projectedMarkups: vtkMRMLMarkupsFiducialNode
    resultVolume: vtkMRMLScalarVolumeNode


class DRRGeneratorWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
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
        from svdrr.mrml.beam import BeamDisplay
        from svdrr.mrml.drr import CTSource
        from svdrr.mrml.observations import Observations
        from svdrr.mrml.panels.backend_line import BackendLine
        from svdrr.mrml.panels.face_on import FaceOn
        from svdrr.mrml.panels.job_controls import JobControls
        from svdrr.mrml.panels.preview_picture import PreviewPicture, drr_sentence
        from svdrr.mrml.panels.synthetic_label import install_synthetic_labels
        from svdrr.mrml.panels.view_controls import ViewControls

        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/DRRGenerator.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        self._views = ViewControls(self.ui.viewsCollapsibleButton.layout())
        # Again, with the widgets that choose the views.
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = DRRGeneratorLogic()
        self._source = CTSource()
        labels = self.ui.previewPictureLabel, self.ui.previewStatusLabel
        self._preview = PreviewPicture(*labels, self._source.preview_steps, drr_sentence)
        self._beam = BeamDisplay(self.onPoint)
        self._pointIndex = 0
        # Drawing adds and removes nodes, which it must not while Slicer's own widgets deal with others: a node selector
        # that changes within a scene's import, say. So it waits for the event loop, and is done once for many changes.
        self._drawing = qt.QTimer()
        self._drawing.setSingleShot(True)
        self._drawing.connect("timeout()", self._showView)
        self._isocenterObservations = Observations()
        self._faceOn = FaceOn()
        self._backend = BackendLine(self.ui.backendWidget.layout(), lambda capabilities: self._showState())
        self._controls = JobControls(uiWidget.layout(), self.ui.applyButton, self.onApply, self._showState)
        self.layout.addStretch(1)
        install_synthetic_labels()
        fillComboBox(self.ui.beamComboBox, beamModes())
        fillComboBox(self.ui.windowComboBox, windows())

        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, self.onSceneEndClose)
        self.ui.beamComboBox.connect("currentIndexChanged(int)", self.onBeamMode)
        self.ui.windowComboBox.connect("currentIndexChanged(int)", self.onWindow)
        self.ui.exportButton.connect("clicked(bool)", self.onExport)
        self.ui.fitViewsButton.connect("clicked(bool)", lambda checked=False: slicer.util.resetThreeDViews())
        self.initializeParameterNode()

    def cleanup(self) -> None:
        """End what runs, because the panel goes."""
        if self._controls is not None:
            self._controls.cleanup()
            self._backend.cleanup()
            self._faceOn.cleanup()
            self._leave()
            self._source.forget()
        self.removeObservers()

    def enter(self) -> None:
        """The panel is shown."""
        self._backend.enter()
        self.initializeParameterNode()

    def exit(self) -> None:
        """Another panel is shown: the preview ends, and what is drawn goes. A rendering that runs goes on."""
        self._leave()

    def onSceneStartClose(self, caller, event) -> None:
        """The scene is about to be closed."""
        self._controls.cancel(_("Canceled, because the scene was closed."))
        self._faceOn.cleanup()
        self._leave()
        self._source.forget()

    def onSceneEndClose(self, caller, event) -> None:
        """The scene has been closed, or another one has been read into it."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    def initializeParameterNode(self) -> None:
        """Connect the panel with the scene's parameter node, and choose the first CT where none is chosen."""
        self.setParameterNode(self.logic.getParameterNode())
        if not self._parameterNode.inputVolume:
            self._parameterNode.inputVolume = self.logic.firstCT()

    def setParameterNode(self, parameterNode: DRRGeneratorParameterNode | None) -> None:
        """Show and change this parameter node from now on, or none."""
        if self._parameterNode is not None:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self._showState)
        self._parameterNode = parameterNode
        self._views.set_parameter_node(parameterNode)
        if parameterNode is not None:
            self._parameterNodeGuiTag = parameterNode.connectGui(self.ui)
            self.addObserver(parameterNode, vtk.vtkCommand.ModifiedEvent, self._showState)
            self._showState()

    def onApply(self) -> None:
        """Render."""
        self._backend.require_agreement()
        chosen = self._parameterNode
        steps = self.logic.steps(
            chosen.inputVolume,
            self.logic.poses(chosen),
            self.logic.settings(chosen),
            chosen.outputVolume,
            chosen.viewMode == "set",
            chosen.projectedMarkups,
            self._source,
        )
        self._preview.pause()
        self._controls.run(_("Rendering DRRs"), steps, self._onRendered)

    def onExport(self, checked: bool = False) -> None:
        """Write the result into a folder that the user chooses."""
        folder = qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), _("Folder for the views"))
        if folder:
            steps = self.logic.exportSteps(self._parameterNode.resultVolume, folder)
            self._controls.run(
                _("Exporting the views"),
                steps,
                lambda count: _("Views written to {folder}: {count}.").format(folder=folder, count=count),
            )

    def onPoint(self, index: int) -> None:
        """A position of the set was clicked in a 3D view: show its view."""
        chosen = self._parameterNode
        if chosen is None:
            return
        poses = self.logic.poses(chosen)
        self._pointIndex = index
        with slicer.util.NodeModify(chosen):
            chosen.primaryDeg, chosen.secondaryDeg = self.logic.angles(poses[index])
        self._showState()
        browser = self.logic.browserOf(chosen.resultVolume, poses)
        if browser is not None:
            browser.SetSelectedItemNumber(index)

    def onBeamMode(self, index: int) -> None:
        """One energy, or a tube voltage."""
        if self._parameterNode is not None:
            self._parameterNode.beamMode = self.ui.beamComboBox.itemData(index)

    def onWindow(self, index: int) -> None:
        """Which gray levels."""
        if self._parameterNode is not None:
            self._parameterNode.window = self.ui.windowComboBox.itemData(index)

    def _onRendered(self, nodes) -> str:
        if self._parameterNode is not None:
            self._parameterNode.resultVolume = nodes.volume
            self._faceOn.show(nodes.volume)
        if nodes.browser is None:
            return _("Rendered '{name}'.").format(name=nodes.volume.GetName())
        count = nodes.browser.GetNumberOfItems()
        return _("Rendered {count} view(s) into '{name}'.").format(count=count, name=nodes.browser.GetName())

    def _leave(self) -> None:
        self.setParameterNode(None)
        self._drawing.stop()
        self._isocenterObservations.remove_all()
        self._preview.cleanup()
        self._beam.remove()

    def _showState(self, caller=None, event=None) -> None:
        """What the widgets, the preview and the 3D views show, and why Apply cannot be pressed, if so."""
        chosen = self._parameterNode
        if chosen is None:
            return
        self._views.update()
        running = self._controls.running
        reasons = [*self.logic.reasons(chosen), *self._views.reasons()]
        # Once each: a set that there is not keeps the logic from poses, too.
        self._controls.set_reasons([*dict.fromkeys(reasons), *self._backend.reasons()], _("Render the DRRs"))
        for name in ("inputs", "views", "geometry", "outputs", "advanced"):
            getattr(self.ui, f"{name}CollapsibleButton").enabled = not running
        exportable = self.logic.isExportable(chosen.resultVolume)
        self.ui.exportButton.enabled = exportable and not running
        self.ui.exportButton.toolTip = (
            _("Write the result into a folder: 16-bit PNG files and views.json, as 'svdrr render' does")
            if exportable
            else _("Render something first, or choose a DRR as the result.")
        )
        chooseInComboBox(self.ui.beamComboBox, chosen.beamMode)
        chooseInComboBox(self.ui.windowComboBox, chosen.window)
        for name, shown in (("energySlider", chosen.beamMode == "energy"), ("kvpSlider", chosen.beamMode == "voltage")):
            getattr(self.ui, name).visible = getattr(self.ui, f"{name}Label").visible = shown
        self.ui.photonsSpinBox.enabled = self.ui.photonsSpinBoxLabel.enabled = chosen.noise
        self._observeIsocenter()
        self._viewReasons = reasons
        self._drawing.start(0)

    def _showView(self) -> None:
        """The one view that the preview and the beam are about."""
        chosen, reasons = self._parameterNode, self._viewReasons
        if chosen is None:
            return
        if reasons:
            self._beam.remove()
            self._preview.clear(reasons[0])
            return
        from svdrr.geometry import View

        poses, settings = self.logic.poses(chosen), self.logic.settings(chosen)
        self._pointIndex = self._pointIndex if self._pointIndex < len(poses) else 0
        pose = poses[self._pointIndex] if chosen.viewMode == "set" else poses[0]
        if chosen.showBeam:
            self._beam.show(View(pose, settings.detector), poses if chosen.viewMode == "set" else ())
        else:
            self._beam.remove()
        if not chosen.livePreview:
            self._preview.clear()
        elif not self._controls.running:
            self._preview.show(chosen.inputVolume, pose, settings, self._backend.choice, self._backend.reasons())

    def _observeIsocenter(self) -> None:
        self._isocenterObservations.remove_all()
        isocenter = self._parameterNode.isocenter
        if isocenter is not None:
            for event in (
                isocenter.PointModifiedEvent,
                isocenter.PointPositionDefinedEvent,
                isocenter.PointRemovedEvent,
            ):
                self._isocenterObservations.add(isocenter, event, self._showState)


class DRRGeneratorLogic(ScriptedLoadableModuleLogic):
    """DRRs for scripts: ``DRRGeneratorLogic().process(getNode("CT"), primaryDeg=30, secondaryDeg=10)``."""

    def getParameterNode(self) -> DRRGeneratorParameterNode:
        """The scene's parameter node of this module."""
        return DRRGeneratorParameterNode(super().getParameterNode())

    def process(self, inputVolume, primaryDeg=0.0, secondaryDeg=0.0, settings=None, outputVolume=None, isocenter=None):
        """Render one view and wait for it; Slicer's window stays alive. Returns the volume node.

        inputVolume: a CT in HU. primaryDeg, secondaryDeg: DICOM positioner angles in degrees, LAO and cranial positive.
        settings: a `svdrr.mrml.drr.DRRSettings`. outputVolume: to write to, or None for a new volume. isocenter: a
        point list whose first point it is, or None for the center of the CT. Raises SVDRRError with one sentence.
        """
        from svdrr.mrml.drr import DRRSettings
        from svdrr.mrml.targets import TargetViews
        from svdrr.mrml.task import wait

        settings = settings or DRRSettings()
        views = TargetViews(primary_deg=primaryDeg, secondary_deg=secondaryDeg)
        poses = self._posesOf(views, inputVolume, settings, isocenter)
        return wait(self.steps(inputVolume, poses, settings, outputVolume)).volume

    def processSet(self, inputVolume, views="simple", settings=None, isocenter=None, markups=None):
        """Render a set of views and wait for it; Slicer's window stays alive. Returns the sequence browser node.

        views: ``simple``, ``hemisphere:N``, ``sweep:FROM:TO:STEP`` (degrees), or the path of a views JSON file, whose
        poses keep their own distances. markups: whose projections are shown on each view. The rest as in `process`.
        """
        from svdrr.geometry import parse_views
        from svdrr.mrml.ct import check_ct_node
        from svdrr.mrml.drr import DRRSettings, isocenter_of
        from svdrr.mrml.task import wait

        check_ct_node(inputVolume)
        settings = settings or DRRSettings()
        poses = parse_views(views, isocenter_of(inputVolume, isocenter))
        if not views.lower().endswith(".json"):
            poses = [
                replace(
                    pose,
                    source_to_isocenter_mm=settings.source_to_isocenter_mm,
                    source_to_detector_mm=settings.source_to_detector_mm,
                )
                for pose in poses
            ]
        return wait(self.steps(inputVolume, poses, settings, sequence=True, markups=markups)).browser

    def steps(self, inputVolume, poses, settings=None, outputVolume=None, sequence=False, markups=None, source=None):
        """Steps to a `DRRNodes` (volume, browser, projection); see `svdrr.mrml.drr.render_steps`."""
        from svdrr.mrml.drr import render_steps

        return render_steps(inputVolume, poses, settings, outputVolume, sequence, markups, source=source)

    def export(self, volume, folder) -> int:
        """Write a DRR, or all views of the sequence that it shows, into a folder, and wait; returns how many."""
        from svdrr.mrml.task import wait

        return wait(self.exportSteps(volume, folder))

    def exportSteps(self, volume, folder):
        """Steps to the number of views written; see `svdrr.mrml.drr.export_steps`."""
        from svdrr.mrml.drr import export_steps
        from svdrr.mrml.table import browser_of

        return export_steps(volume, browser_of(volume), Path(folder))

    def firstCT(self) -> vtkMRMLScalarVolumeNode | None:
        """The first volume of the scene that can be a CT."""
        from svdrr.errors import SVDRRError
        from svdrr.mrml.ct import check_ct_node

        for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"):
            try:
                check_ct_node(node)
            except SVDRRError:
                continue
            return node
        return None

    def settings(self, chosen: DRRGeneratorParameterNode):
        """The `DRRSettings` that a parameter node means."""
        from svdrr.mrml.drr import DRRSettings

        return DRRSettings(
            source_to_isocenter_mm=chosen.sourceToIsocenterMm,
            source_to_detector_mm=chosen.sourceToDetectorMm,
            detector_side_mm=chosen.detectorSideMm,
            detector_pixels=chosen.detectorPixels,
            energy_kev=chosen.energyKev if chosen.beamMode == "energy" else None,
            kvp=chosen.kvp if chosen.beamMode == "voltage" else None,
            air_photons_per_pixel=chosen.photonsPerPixel if chosen.noise else None,
            blur_mm=chosen.blurMm,
            window=chosen.window,
            remove_table=chosen.removeTable,
        )

    def poses(self, chosen: DRRGeneratorParameterNode):
        """The poses that a parameter node means. Raises SVDRRError where there are none."""
        from svdrr.mrml.targets import TargetViews

        return self._posesOf(TargetViews.of(chosen), chosen.inputVolume, self.settings(chosen), chosen.isocenter)

    def angles(self, pose) -> tuple[float, float]:
        """The pose's primary and secondary angle, degrees, with the primary angle from -180 to 180."""
        return (pose.primary_deg + 180.0) % 360.0 - 180.0, pose.secondary_deg

    def browserOf(self, volume, poses):
        """The browser of the sequence that the volume shows, if that has the views of these poses, else None."""
        from svdrr.mrml.table import browser_of

        browser = browser_of(volume)
        if browser is None or browser.GetNumberOfItems() != len(poses):
            return None
        items = browser.GetSequenceNode(volume)
        labels = (f"{number}: {pose.label}" for number, pose in enumerate(poses, start=1))
        return browser if all(items.GetNthIndexValue(index) == one for index, one in enumerate(labels)) else None

    def isExportable(self, volume) -> bool:
        """Whether the volume is a view that was computed."""
        return volume is not None and bool(volume.GetAttribute("SVDRR.View") and volume.GetAttribute("SVDRR.Method"))

    def reasons(self, chosen: DRRGeneratorParameterNode) -> list[str]:
        """Why nothing can be rendered, a sentence each, as far as can be told at once."""
        from svdrr.errors import SVDRRError
        from svdrr.mrml.drr import check_rendering

        try:
            check_rendering(chosen.inputVolume, chosen.outputVolume, chosen.projectedMarkups)
            self.poses(chosen)
        except SVDRRError as error:
            return [str(error)]
        return []

    def _posesOf(self, views, inputVolume, settings, isocenter):
        from svdrr.mrml.ct import check_ct_node
        from svdrr.mrml.drr import isocenter_of

        check_ct_node(inputVolume)
        return views.poses(
            isocenter_of(inputVolume, isocenter), settings.source_to_isocenter_mm, settings.source_to_detector_mm
        )


def fillComboBox(box, items: list[tuple[str, str]]) -> None:
    """Texts for people, with the keys that the parameter node holds."""
    for text, key in items:
        box.addItem(text, key)


def chooseInComboBox(box, key: str) -> None:
    """Show the item of this key, without telling that it was chosen."""
    blocked = box.blockSignals(True)
    box.currentIndex = box.findData(key)
    box.blockSignals(blocked)


def beamModes() -> list[tuple[str, str]]:
    """What the photons may be."""
    return [(_("Photons of one energy"), "energy"), (_("Tube voltage"), "voltage")]


def windows() -> list[tuple[str, str]]:
    """The ranges of gray levels, see `svdrr.drr.display.WINDOWS`."""
    return [
        (_("Full range, as models know it"), "full"),
        (_("Chest"), "chest"),
        (_("Soft tissue"), "soft-tissue"),
        (_("Bone"), "bone"),
    ]


class DRRGeneratorTest(ScriptedLoadableModuleTest):
    """Runs in Slicer's self-tests: a phantom, through the backend on this computer."""

    def setUp(self) -> None:
        """An empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        """All tests."""
        self.setUp()
        self.test_views()
        self.setUp()
        self.test_what_is_no_ct()

    def test_views(self) -> None:
        """One view and a small hemisphere, each on its detector's plane."""
        import numpy as np

        from svdrr.ct.phantoms import ThoraxOptions, thorax_phantom
        from svdrr.mrml import ct_to_node, radiograph_from_node
        from svdrr.mrml.drr import DRRSettings

        self.delayDisplay("Rendering one view of a phantom")
        ct = ct_to_node(thorax_phantom(5, ThoraxOptions(spacing_mm=5.0)).ct, "Phantom")
        settings = DRRSettings(detector_pixels=64, remove_table=False)
        logic = DRRGeneratorLogic()
        volume = logic.process(ct, 30.0, 10.0, settings)
        view = radiograph_from_node(volume)
        self.assertEqual(view.view.pose.label, "LAO 30° CRAN 10°")
        self.assertGreater(view.pixels.max(), 0.5)
        self.assertEqual(volume.GetName(), "Phantom LAO 30° CRAN 10° (DRR)")

        self.delayDisplay("Rendering a hemisphere of views")
        browser = logic.processSet(ct, "hemisphere:4", settings)
        self.assertEqual(browser.GetNumberOfItems(), 4)
        proxy = browser.GetProxyNode(browser.GetMasterSequenceNode())
        first = radiograph_from_node(proxy).pixels
        browser.SetSelectedItemNumber(3)
        self.assertFalse(np.array_equal(radiograph_from_node(proxy).pixels, first))
        self.delayDisplay("4 views rendered")

    def test_what_is_no_ct(self) -> None:
        """A volume that is not in HU gets one sentence, and nothing is added."""
        import numpy as np

        from svdrr.errors import SVDRRError

        self.delayDisplay("Refusing a volume that is no CT")
        mr = slicer.util.addVolumeFromArray(np.full((10, 20, 20), 300, np.int16), name="MR")
        before = slicer.mrmlScene.GetNumberOfNodes()
        with self.assertRaises(SVDRRError):
            DRRGeneratorLogic().process(mr)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodes(), before)
