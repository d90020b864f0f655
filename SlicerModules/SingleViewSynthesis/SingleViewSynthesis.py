"""Single View Synthesis: the views of one radiograph that were never taken, by a model on a backend."""

import sys
from pathlib import Path
from typing import Annotated

import qt
import slicer
import vtk
from slicer import (
    vtkMRMLPlotChartNode,
    vtkMRMLScalarVolumeNode,
    vtkMRMLSequenceBrowserNode,
    vtkMRMLTableNode,
)
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


class SingleViewSynthesis(ScriptedLoadableModule):
    """The module as Slicer lists it."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        find_library()
        self.parent.title = _("Single View Synthesis")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Image Synthesis")]
        self.parent.dependencies = []
        self.parent.contributors = ["The SVDRR contributors"]
        self.parent.helpText = _(
            "Makes the views of a radiograph that were never taken, by a view-conditioned diffusion transformer on a "
            "backend. Every view is synthetic: for research, not for diagnosis. "
            '<a href="https://github.com/SVDRR/SVDRR/blob/main/Docs/SingleViewSynthesis.md">Tutorial</a>'
        )
        self.parent.acknowledgementText = _(
            "Part of SVDRR, after SV-DRR: High-Fidelity Novel View X-Ray Synthesis Using Diffusion Model."
        )
        slicer.app.connect("startupCompleted()", register_sample_data)
        slicer.app.connect("startupCompleted()", label_synthetic_images)


def find_library() -> None:
    """An installed extension has `svdrr` beside its modules; in the source tree it lies in another folder."""
    library = Path(__file__).resolve().parents[2] / "SVDRRExtension"
    if library.is_dir() and str(library) not in sys.path:
        sys.path.append(str(library))


def register_sample_data() -> None:
    """Offer the phantom's radiograph in the Sample Data module."""
    from svdrr.mrml.samples import register_sample

    resources = Path(__file__).resolve().parent / "Resources"
    register_sample(
        resources / "SampleData" / "SVDRRPhantomRadiograph.mrb",
        "58ffdff6994866450f89b7adc260a667ed67eda8746206a78a22ab4c6e025bb1",
        resources / "Icons" / "SingleViewSynthesis.png",
    )


def label_synthetic_images() -> None:
    """Have every slice view say so that shows a computed image, also of a scene that is opened later."""
    from svdrr.mrml.panels.synthetic_label import install_synthetic_labels

    install_synthetic_labels()


@parameterNodeWrapper
class SingleViewSynthesisParameterNode:
    """What the panel's user has chosen, and what the last run has left in the scene.

    inputVolume: the radiograph. quarterTurns ... sourceSecondaryDeg: its preparation, see
    `svdrr.mrml.synthesis.preparation_of`. truthVolume, centerOfCt: a CT to compare with, and whether the radiograph is
    about the middle of its body. viewMode ... viewFile: see `svdrr.mrml.panels.view_controls`. model: by name. steps,
    guidance: 0 for what the model recommends. liveView ... liveSecondaryDeg: whether a view follows the sliders, and
    their angles.
    beside: what stands on the left, "source" or "truth".
    """

    inputVolume: vtkMRMLScalarVolumeNode
    quarterTurns: Annotated[int, WithinRange(0, 3)] = 0
    flip: bool = False
    invert: bool = False
    linear: bool = False
    cropTop: Annotated[int, WithinRange(0, 65536)] = 0
    cropBottom: Annotated[int, WithinRange(0, 65536)] = 0
    cropLeft: Annotated[int, WithinRange(0, 65536)] = 0
    cropRight: Annotated[int, WithinRange(0, 65536)] = 0
    rowSpacingMm: Annotated[float, WithinRange(0, 10)] = 0.0
    columnSpacingMm: Annotated[float, WithinRange(0, 10)] = 0.0
    sourceView: str = "own"
    sourcePrimaryDeg: Annotated[float, WithinRange(-180, 180)] = 0.0
    sourceSecondaryDeg: Annotated[float, WithinRange(-90, 90)] = 0.0
    truthVolume: vtkMRMLScalarVolumeNode
    centerOfCt: bool = False

    viewMode: str = "angles"
    primaryDeg: Annotated[float, WithinRange(-180, 180)] = 0.0
    secondaryDeg: Annotated[float, WithinRange(-90, 90)] = 0.0
    viewSet: str = "simple"
    hemisphereCount: Annotated[int, WithinRange(1, 2000)] = 12
    sweepFromDeg: Annotated[float, WithinRange(-360, 360)] = -90.0
    sweepToDeg: Annotated[float, WithinRange(-360, 360)] = 90.0
    sweepStepDeg: Annotated[float, WithinRange(0.1, 180)] = 10.0
    viewFile: str = ""

    model: str = ""
    steps: Annotated[int, WithinRange(0, 1000)] = 0
    guidance: Annotated[float, WithinRange(0, 30)] = 0.0
    seed: Annotated[int, WithinRange(0, 2147483647)] = 0

    liveView: bool = False
    livePrimaryDeg: Annotated[float, WithinRange(-90, 90)] = 0.0
    liveSecondaryDeg: Annotated[float, WithinRange(-45, 45)] = 0.0

    beside: str = "source"
    preparedVolume: vtkMRMLScalarVolumeNode
    views: vtkMRMLSequenceBrowserNode
    viewVolume: vtkMRMLScalarVolumeNode
    truthView: vtkMRMLScalarVolumeNode
    scores: vtkMRMLTableNode
    psnrChart: vtkMRMLPlotChartNode
    ssimChart: vtkMRMLPlotChartNode


class SingleViewSynthesisWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel."""

    def __init__(self, parent=None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self._controls = None
        self._backend = None
        self._views = None
        self._comparison = None
        self._inspector = None
        self._source = None
        self._live = None
        self._models = None
        self._facts = None
        self._inspected = None
        self._shown = None
        self._parameterNode = None
        self._parameterNodeGuiTag = None

    def setup(self) -> None:
        """Build the panel, when it is opened for the first time."""
        from svdrr.mrml.panels.backend_line import BackendLine
        from svdrr.mrml.panels.job_controls import JobControls
        from svdrr.mrml.panels.live_view import LiveView
        from svdrr.mrml.panels.side_by_side import SideBySide
        from svdrr.mrml.panels.source_preview import SourcePreview
        from svdrr.mrml.panels.stepper import Stepper
        from svdrr.mrml.panels.view_controls import ViewControls

        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/SingleViewSynthesis.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        self._views = ViewControls(self.ui.viewsCollapsibleButton.layout())
        # Once more, because those of the views are bound to the parameter node as well.
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = SingleViewSynthesisLogic()
        self._comparison = SideBySide()
        self._inspector = Stepper(lambda progress: None, self._onNotInspected)
        self._source = SourcePreview(self.ui.sourcePictureLabel, self.ui.sourceStatusLabel)
        self._live = LiveView(self.ui.livePictureLabel, self.ui.liveStatusLabel)
        self._backend = BackendLine(self.ui.backendWidget.layout(), self.onCapabilities)
        self._controls = JobControls(uiWidget.layout(), self.ui.applyButton, self.onApply, self._showState)
        self.layout.addStretch(1)
        self._fillChoices()

        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, self.onSceneEndImport)
        for name, parameter in _COMBO_BOXES.items():
            getattr(self.ui, name).connect("currentIndexChanged(int)", self._remember(name, parameter))
        self.ui.proposeCropButton.connect("clicked(bool)", self.onProposeCrop)
        self.ui.prepareButton.connect("clicked(bool)", self.onPrepare)
        self.ui.liveViewCheckBox.connect("clicked(bool)", self.onLiveView)
        self.ui.addLiveViewButton.connect("clicked(bool)", self.onAddLiveView)
        self.ui.compareButton.connect("clicked(bool)", self.onCompare)
        self.ui.restoreButton.connect("clicked(bool)", self.onRestoreLayout)
        self.ui.psnrPlotButton.connect("clicked(bool)", self.onPlotPsnr)
        self.ui.ssimPlotButton.connect("clicked(bool)", self.onPlotSsim)
        self.initializeParameterNode()
        # A panel that is reloaded is not entered again.
        if self.parent.isEntered:
            self._backend.ask_first()

    def cleanup(self) -> None:
        """End what runs, because the panel goes."""
        for part in (self._controls, self._backend, self._views, self._comparison, self._live):
            if part is not None:
                part.cleanup()
        if self._inspector is not None:
            self._inspector.cancel()
        if self._source is not None:
            self._source.clear()
        self.setParameterNode(None)
        self.removeObservers()

    def enter(self) -> None:
        """The panel is shown. Its models are those of the backend, which is asked without being sent anything."""
        self._backend.enter()
        self.initializeParameterNode()
        self._backend.ask_first()

    def exit(self) -> None:
        """Another panel is shown: the live view ends. What else runs goes on."""
        self.setParameterNode(None)
        self._live.cleanup()

    def onSceneStartClose(self, caller, event) -> None:
        """The scene is about to be closed."""
        self._controls.cancel(_("Canceled, because the scene was closed."))
        self._inspector.cancel()
        self._source.clear()
        self._comparison.cleanup()
        self._facts = self._inspected = None
        _tell(self.ui.arrivedLabel, "")
        self.setParameterNode(None)
        self._live.cleanup()

    def onSceneEndClose(self, caller, event) -> None:
        """The scene has been closed."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    def onSceneEndImport(self, caller, event) -> None:
        """A scene has been read: its nodes are there only now."""
        self._facts = self._inspected = None
        if self.parent.isEntered:
            self.initializeParameterNode()

    def initializeParameterNode(self) -> None:
        """Connect the panel with the scene's parameter node, and choose the first radiograph where none is chosen."""
        self.setParameterNode(self.logic.getParameterNode())
        if not self._parameterNode.inputVolume:
            self._parameterNode.inputVolume = self.logic.firstRadiograph()

    def setParameterNode(self, parameterNode: SingleViewSynthesisParameterNode | None) -> None:
        """Show and change this parameter node from now on, or none."""
        if self._parameterNode is not None:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self._parametersChanged)
        self._parameterNode = parameterNode
        if self._views is not None:
            self._views.set_parameter_node(parameterNode)
        if parameterNode is not None:
            self._parameterNodeGuiTag = parameterNode.connectGui(self.ui)
            self.addObserver(parameterNode, vtk.vtkCommand.ModifiedEvent, self._parametersChanged)
            self._parametersChanged()

    def onCapabilities(self, capabilities) -> None:
        """List the backend's models; None: it has not been asked."""
        self._models = None if capabilities is None else {model["name"]: model for model in capabilities["models"]}
        _fill(self.ui.modelComboBox, [(name, name) for name in self._models or {}])
        if self._parameterNode is not None and self._models and self._parameterNode.model not in self._models:
            self._parameterNode.model = next(iter(self._models))
        self._showState()

    def onProposeCrop(self, checked: bool = False) -> None:
        """Fill in what the shutters seem to cover."""
        chosen = self._parameterNode
        with slicer.util.NodeModify(chosen.parameterNode):
            chosen.cropTop, chosen.cropBottom, chosen.cropLeft, chosen.cropRight = self._facts.margins

    def onPrepare(self, checked: bool = False) -> None:
        """Show the image as it would go to the model."""
        chosen = self._parameterNode
        steps = self.logic.preparationSteps(chosen.inputVolume, self.logic.preparation(chosen), chosen.preparedVolume)
        self._controls.run(_("Preparing the radiograph"), steps, self._onPrepared)

    def onApply(self) -> None:
        """Make the views."""
        from svdrr.mrml.targets import TargetViews

        self._make(TargetViews.of(self._parameterNode))

    def onLiveView(self, checked: bool) -> None:
        """Follow the sliders, once the user has agreed to what a job needs agreement for."""
        from svdrr.errors import SVDRRError

        if not checked:
            return
        try:
            self._backend.require_agreement()
        except SVDRRError as error:
            self._parameterNode.liveView = False
            self._controls.show_error(str(error))
        else:
            self._showState()

    def onAddLiveView(self, checked: bool = False) -> None:
        """Make the view at the angles of the live view for the scene."""
        from svdrr.errors import SVDRRError

        try:
            self._make(self.logic.liveTargets(self._parameterNode))
        except SVDRRError as error:
            self._controls.show_error(str(error))

    def _make(self, targets) -> None:
        self._backend.require_agreement()
        _tell(self.ui.arrivedLabel, "")
        self._controls.run(_("Making the views"), self.logic.chosenSteps(targets, self._onNodes), self._onDone)

    def onCompare(self, checked: bool = False) -> None:
        """Show the synthetic view beside the source, or beside its truth."""
        chosen = self._parameterNode
        self._show(chosen.truthView if chosen.beside == "truth" else chosen.preparedVolume, chosen.viewVolume)

    def onRestoreLayout(self, checked: bool = False) -> None:
        """Back to the views from before."""
        self._comparison.restore()

    def onPlotPsnr(self, checked: bool = False) -> None:
        """Show the plot of the PSNR."""
        slicer.modules.plots.logic().ShowChartInLayout(self._parameterNode.psnrChart)

    def onPlotSsim(self, checked: bool = False) -> None:
        """Show the plot of the SSIM."""
        slicer.modules.plots.logic().ShowChartInLayout(self._parameterNode.ssimChart)

    def _onPrepared(self, prepared) -> str:
        self.logic.getParameterNode().preparedVolume = prepared
        if self._parameterNode is not None:
            self._show(self._parameterNode.inputVolume, prepared)
        return _("The prepared image is '{name}'.").format(name=prepared.GetName())

    def _onNodes(self, nodes) -> None:
        """Called before anything is sent, and after each view."""
        from svdrr.mrml.synthesis import arrival

        # Also while another panel is shown.
        chosen = self.logic.getParameterNode()
        chosen.preparedVolume = nodes.prepared
        if nodes.arrived == 0:
            self._show(chosen.inputVolume, nodes.prepared)
            return
        _tell(self.ui.arrivedLabel, arrival(nodes))
        if nodes.arrived == 1:
            chosen.views, chosen.viewVolume = nodes.browser, nodes.volume
            chosen.truthView = chosen.scores = chosen.psnrChart = chosen.ssimChart = None
            chosen.beside = "source"
            self._show(nodes.prepared, nodes.volume)

    def _onDone(self, nodes) -> str:
        from svdrr.mrml.synthesis import arrival

        comparison = nodes.comparison
        if comparison is None:
            return arrival(nodes)
        chosen = self.logic.getParameterNode()
        with slicer.util.NodeModify(chosen.parameterNode):
            chosen.truthView, chosen.scores = comparison.truth, comparison.table
            chosen.psnrChart, chosen.ssimChart = comparison.psnr_chart, comparison.ssim_chart
        return f"{arrival(nodes)} {comparison.sentence}"

    def _show(self, source, result) -> None:
        """Side by side, where both are there still. What cannot be shown ends no work."""
        from svdrr.errors import SVDRRError

        if source is None or result is None or source.GetScene() is None or result.GetScene() is None:
            return
        try:
            self._comparison.show(source, result)
        except SVDRRError as error:
            self._controls.show_error(str(error))

    def _remember(self, name, parameter):
        """What a choice in a combo box does: its key goes to the parameter node."""

        def chosen(index: int) -> None:
            if self._parameterNode is not None and index >= 0:
                setattr(self._parameterNode, parameter, getattr(self.ui, name).itemData(index))
                if parameter == "beside":
                    self.onCompare()

        return chosen

    def _fillChoices(self) -> None:
        ui = self.ui
        turns = [_("no turn"), _("90° clockwise"), _("180°"), _("90° counterclockwise")]
        _fill(ui.quarterTurnsComboBox, [(text, number) for number, text in enumerate(turns)])
        _fill(
            ui.sourceViewComboBox,
            [
                (_("Its own, else PA"), "own"),
                (_("PA"), "pa"),
                (_("AP"), "ap"),
                (_("Left lateral"), "left"),
                (_("Right lateral"), "right"),
                (_("By angles"), "angles"),
            ],
        )
        _fill(ui.besideComboBox, [(_("Source radiograph"), "source"), (_("True DRR of the CT"), "truth")])
        _fill(ui.samplerComboBox, [(_("The model's own"), "")])

    def _parametersChanged(self, caller=None, event=None) -> None:
        self._inspect()
        self._views.update()
        self._showScores()
        self._showState()

    def _inspect(self) -> None:
        """Look at the radiograph, whenever another one is chosen, or another way to turn it."""
        chosen = self._parameterNode
        node, preparation = chosen.inputVolume, self.logic.preparation(chosen)
        wanted = (node.GetID() if node is not None else "", preparation.quarter_turns, preparation.flip)
        if wanted == self._inspected:
            return
        self._inspected, self._facts = wanted, None
        self._inspector.cancel()
        if not self.logic.reasons(node):
            self._inspector.start(self.logic.inspectionSteps(node, preparation), self._onInspected)

    def _onInspected(self, facts) -> None:
        self._facts = facts
        self._showState()

    def _onNotInspected(self, sentence, details) -> None:
        self._controls.show_error(sentence, details)

    def _showState(self, caller=None, event=None) -> None:
        """Which buttons can be pressed, and if not, why."""
        if self._parameterNode is None or self._controls is None:
            return
        chosen, ui, running = self._parameterNode, self.ui, self._controls.running
        for name, parameter in _COMBO_BOXES.items():
            _choose(getattr(ui, name), getattr(chosen, parameter))
        reasons = self.logic.reasons(chosen.inputVolume)
        preparationReasons = reasons or self._preparationReasons()
        truthReasons = self._truthReasons()
        backendReasons = [*self._modelReasons(), *self._backend.reasons()]
        self._controls.set_reasons(
            [*preparationReasons, *truthReasons, *self._views.reasons(), *backendReasons], _("Make the views")
        )
        self._showFacts()
        self._showModel()
        self._showSource(preparationReasons)
        self._showLive([*preparationReasons, *backendReasons])
        ui.addLiveViewButton.enabled = not (preparationReasons or truthReasons or backendReasons or running)
        ui.prepareButton.enabled = not preparationReasons and not running
        ui.proposeCropButton.enabled = self._facts is not None and not running
        ui.compareButton.enabled = chosen.viewVolume is not None and (
            chosen.preparedVolume is not None if chosen.beside == "source" else chosen.truthView is not None
        )
        ui.besideComboBox.enabled = chosen.truthView is not None
        ui.psnrPlotButton.enabled = chosen.psnrChart is not None
        ui.ssimPlotButton.enabled = chosen.ssimChart is not None
        ui.centerOfCtCheckBox.enabled = chosen.truthVolume is not None
        for name in ("inputs", "views", "model", "live", "advanced"):
            getattr(ui, f"{name}CollapsibleButton").enabled = not running

    def _preparationReasons(self) -> list[str]:
        chosen, facts = self._parameterNode, self._facts
        if facts is None:
            return [_("The radiograph is being looked at.")] if self._inspector.running else []
        reasons = []
        if facts.pixel_spacing_mm is None and (chosen.rowSpacingMm > 0.0) != (chosen.columnSpacingMm > 0.0):
            reasons.append(_("Enter the pixel spacing of both rows and columns, or of neither."))
        rows = facts.rows - chosen.cropTop - chosen.cropBottom
        columns = facts.columns - chosen.cropLeft - chosen.cropRight
        if min(rows, columns) < _LEAST_PIXELS:
            reasons.append(_("The crop leaves too little of the image; cut off less."))
        return reasons

    def _truthReasons(self) -> list[str]:
        chosen = self._parameterNode
        if chosen.truthVolume is None:
            return []
        reasons = self.logic.truthReasons(chosen.truthVolume)
        if self._facts is not None and self._facts.own_pose is None and not chosen.centerOfCt:
            reasons.append(
                _(
                    "The radiograph has no place in the frame of the CT; let it be about the middle of the body in "
                    "the CT, or compare with none."
                )
            )
        return reasons

    def _modelReasons(self) -> list[str]:
        if self._models is None:
            return [_("Click 'Test connection' to ask the backend for its models.")]
        if not self._models:
            return [_("The backend has no models; put one into a folder that it knows (SVDRR_MODELS).")]
        if self._parameterNode.model not in self._models:
            return [_("Choose a model that the backend has.")]
        return []

    def _showFacts(self) -> None:
        """What is known of the radiograph; what is not known is asked for."""
        from svdrr.synthesis.preparation import ASSUMED_FILM_MM

        chosen, facts, ui = self._parameterNode, self._facts, self.ui
        self._showRows(("sourcePrimarySpinBox", "sourceSecondarySpinBox"), chosen.sourceView == "angles")
        unknown = facts is not None and facts.pixel_spacing_mm is None
        self._showRows(("rowSpacingSpinBox", "columnSpacingSpinBox"), unknown)
        size = invertAdvice = linearAdvice = spacingAdvice = ""
        if facts is not None:
            size = _("{rows} x {columns} pixels, {spacing}, {own}").format(
                rows=facts.rows,
                columns=facts.columns,
                spacing=_("pixel spacing unknown")
                if unknown
                else _("pixels of {0:.3g} mm x {1:.3g} mm").format(*facts.pixel_spacing_mm),
                own=_("own view {name}").format(name=facts.own_pose.label)
                if facts.own_pose
                else _("no view of its own: taken for PA"),
            )
            if facts.looks_inverted and not chosen.invert:
                invertAdvice = _("Bone seems to be dark here: invert?")
            elif chosen.invert and not facts.looks_inverted:
                invertAdvice = _("Bone seems to be bright already.")
            if facts.states_linear and not chosen.linear:
                linearAdvice = _("The DICOM file calls its values linear in the exposure: take the logarithm?")
        if unknown and chosen.rowSpacingMm == 0.0:
            spacingAdvice = _("While it is unknown, the longer side is taken to measure {mm:.0f} mm.").format(
                mm=ASSUMED_FILM_MM
            )
        _tell(ui.factsLabel, size)
        _tell(ui.invertAdviceLabel, invertAdvice)
        _tell(ui.linearAdviceLabel, linearAdvice)
        _tell(ui.spacingAdviceLabel, spacingAdvice)

    def _showRows(self, names, shown: bool) -> None:
        """Show widgets of forms with their labels, or hide them."""
        for name in names:
            getattr(self.ui, name).visible = getattr(self.ui, f"{name}Label").visible = shown

    def _showModel(self) -> None:
        model = (self._models or {}).get(self._parameterNode.model)
        _tell(self.ui.modelLabel, "" if model is None else self.logic.modelText(model))

    def _showSource(self, reasons) -> None:
        """The radiograph beside what the chosen model gets of it, before anything is sent."""
        from svdrr.synthesis.preparation import OfferedModel

        chosen = self._parameterNode
        model = (self._models or {}).get(chosen.model)
        offered = None if model is None else OfferedModel.of(model)
        if reasons or self._facts is None or offered is None:
            tooOld = model is not None and offered is None
            self._source.clear(_("This backend is too old to say what its models get.") if tooOld else "")
        else:
            self._source.show(chosen.inputVolume, self.logic.preparation(chosen), offered)

    def _showLive(self, reasons) -> None:
        """The view at the angles of its sliders; while a job runs, it waits."""
        chosen, ui = self._parameterNode, self.ui
        self._showRows(("livePrimarySlider", "liveSecondarySlider"), chosen.liveView)
        for name in ("livePictureLabel", "liveStatusLabel", "addLiveViewButton"):
            getattr(ui, name).visible = chosen.liveView
        if not chosen.liveView:
            self._live.clear()
        elif self._controls.running:
            self._live.pause()
        else:
            order = self.logic.order(chosen, self.logic.liveTargets(chosen))
            self._live.show(chosen.inputVolume, order, self._backend.choice, reasons)

    def _showScores(self) -> None:
        """The table node's rows."""
        table, widget = self._parameterNode.scores, self.ui.scoresTable
        if table is self._shown:
            return
        self._shown = table
        rows = 0 if table is None else table.GetNumberOfRows()
        columns = 0 if table is None else table.GetNumberOfColumns()
        widget.setRowCount(rows)
        widget.setColumnCount(columns)
        widget.setHorizontalHeaderLabels([table.GetColumnName(column) for column in range(columns)])
        for row in range(rows):
            for column in range(columns):
                value = table.GetTable().GetValue(row, column)
                text = value.ToString() if value.IsString() else f"{value.ToDouble():.4g}"
                widget.setItem(row, column, qt.QTableWidgetItem(text))
        widget.resizeColumnsToContents()


_COMBO_BOXES = {
    "quarterTurnsComboBox": "quarterTurns",
    "sourceViewComboBox": "sourceView",
    "modelComboBox": "model",
    "besideComboBox": "beside",
}
_LEAST_PIXELS = 16


def _fill(combo, items) -> None:
    """Replace a combo box's items, (text, data) each."""
    combo.blockSignals(True)
    combo.clear()
    for text, data in items:
        combo.addItem(text, data)
    combo.blockSignals(False)


def _tell(label, text) -> None:
    """Show a sentence, or no label where there is none."""
    label.text = text
    label.visible = bool(text)


def _choose(combo, data) -> None:
    """Show the item with this data, or none."""
    combo.blockSignals(True)
    combo.currentIndex = combo.findData(data)
    combo.blockSignals(False)


class SingleViewSynthesisLogic(ScriptedLoadableModuleLogic):
    """For scripts: ``SingleViewSynthesisLogic().process(getNode("Radiograph"), "demo-256", primaryDeg=90)``."""

    def getParameterNode(self) -> SingleViewSynthesisParameterNode:
        """The scene's parameter node of this module."""
        return SingleViewSynthesisParameterNode(super().getParameterNode())

    def process(
        self,
        inputVolume: vtkMRMLScalarVolumeNode,
        model: str,
        primaryDeg: float = 0.0,
        secondaryDeg: float = 0.0,
        **settings,
    ) -> vtkMRMLScalarVolumeNode:
        """The volume of one view, by its C-arm angles in degrees; waits for it, while Slicer's window stays alive.

        settings: see `steps`.
        """
        from svdrr.mrml.targets import TargetViews
        from svdrr.mrml.task import wait

        targets = TargetViews(primary_deg=float(primaryDeg), secondary_deg=float(secondaryDeg))
        return wait(self.steps(inputVolume, model, targets, **settings)).volume

    def processSet(
        self, inputVolume: vtkMRMLScalarVolumeNode, model: str, views: str = "simple", **settings
    ) -> vtkMRMLSequenceBrowserNode:
        """The browser of a set of views: "simple", "hemisphere:N", "sweep:FROM:TO:STEP" or a views JSON file's path.

        settings: see `steps`. Waits for all of them, while Slicer's window stays alive.
        """
        from svdrr.mrml.targets import TargetViews
        from svdrr.mrml.task import wait

        return wait(self.steps(inputVolume, model, TargetViews.parse(views), **settings)).browser

    def steps(
        self,
        inputVolume,
        model,
        targets,
        preparation=None,
        steps=None,
        guidance=None,
        seed=0,
        truthVolume=None,
        centerOfCt=False,
        onNodes=lambda nodes: None,
        preparedVolume=None,
    ):
        """Steps to a `SynthesisNodes` (prepared, browser, volume, comparison, ...); see `svdrr.mrml.synthesis`.

        inputVolume: a radiograph, a volume of one slice. model: its name on the backend. targets: a `TargetViews`.
        preparation: a `svdrr.preparation.Preparation`, by default none. steps, guidance: by default what the model
        recommends. truthVolume: a CT to compare with; centerOfCt: whether the radiograph is about the
        middle of its body. onNodes: called after each view. preparedVolume: where the prepared radiograph goes. Raises
        SVDRRError with one sentence.
        """
        from svdrr.mrml.synthesis import SynthesisOrder, Truth, synthesis_steps
        from svdrr.preparation import Preparation

        order = SynthesisOrder(model, targets, preparation or Preparation(), steps, guidance, seed)
        truth = None if truthVolume is None else Truth(truthVolume, centerOfCt)
        return synthesis_steps(inputVolume, order, truth=truth, on_nodes=onNodes, prepared=preparedVolume)

    def chosenSteps(self, targets, onNodes):
        """The steps to these `TargetViews` that the parameter node describes."""
        from svdrr.mrml.synthesis import Truth, synthesis_steps

        chosen = self.getParameterNode()
        truth = None if chosen.truthVolume is None else Truth(chosen.truthVolume, chosen.centerOfCt)
        order, prepared = self.order(chosen, targets), chosen.preparedVolume
        return synthesis_steps(chosen.inputVolume, order, truth=truth, on_nodes=onNodes, prepared=prepared)

    def order(self, chosen: SingleViewSynthesisParameterNode, targets):
        """The `SynthesisOrder` of these `TargetViews` that a parameter node describes."""
        from svdrr.mrml.synthesis import SynthesisOrder

        preparation = self.preparation(chosen)
        steps, guidance = chosen.steps or None, chosen.guidance or None
        return SynthesisOrder(chosen.model, targets, preparation, steps, guidance, chosen.seed)

    def liveTargets(self, chosen: SingleViewSynthesisParameterNode):
        """The `TargetViews` that the sliders of the live view mean."""
        from svdrr.mrml.targets import TargetViews

        return TargetViews(primary_deg=chosen.livePrimaryDeg, secondary_deg=chosen.liveSecondaryDeg)

    def preparation(self, chosen: SingleViewSynthesisParameterNode):
        """The preparation that a parameter node describes."""
        from svdrr.mrml.synthesis import preparation_of

        return preparation_of(chosen)

    def preparationSteps(self, inputVolume, preparation, preparedVolume=None):
        """Steps to a volume with the prepared radiograph."""
        from svdrr.mrml.synthesis import preparation_steps

        return preparation_steps(inputVolume, preparation, preparedVolume)

    def inspectionSteps(self, inputVolume, preparation):
        """Steps to what shows of the radiograph, see `svdrr.mrml.synthesis.RadiographFacts`."""
        from svdrr.mrml.synthesis import inspection_steps

        return inspection_steps(inputVolume, preparation)

    def compare(self, views: vtkMRMLSequenceBrowserNode, truthVolume: vtkMRMLScalarVolumeNode):
        """Compare views that are in the scene already with the DRRs of a CT; waits for it. See `ComparisonNodes`."""
        from svdrr.mrml.comparison import comparison_steps
        from svdrr.mrml.task import wait

        return wait(comparison_steps(views, truthVolume))

    def reasons(self, inputVolume) -> list[str]:
        """Why this volume cannot be worked on, a sentence each, as far as can be told at once."""
        from svdrr.mrml.radiograph import check_radiograph_node

        return _refusals(check_radiograph_node, inputVolume)

    def truthReasons(self, truthVolume) -> list[str]:
        """Why this volume cannot be a truth, a sentence each, as far as can be told at once."""
        from svdrr.mrml.ct import check_ct_node

        return _refusals(check_ct_node, truthVolume)

    def modelText(self, model) -> str:
        """What a model of the backend's capabilities is, for people."""
        return _(
            "{resolution} x {resolution} pixels over {mm:g} mm; {steps} steps and guidance {guidance:g} recommended. "
            "Trained on: {trained}. Intended use: {use}. License: {license}."
        ).format(
            resolution=model["resolution"],
            mm=model["field_of_view_mm"],
            steps=model["num_inference_steps"],
            guidance=model["guidance_scale"],
            trained=model["trained_on"].rstrip("."),
            use=model["intended_use"].rstrip("."),
            license=model["license"],
        )

    def firstRadiograph(self) -> vtkMRMLScalarVolumeNode | None:
        """The scene's first volume of one slice."""
        volumes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
        return next((volume for volume in volumes if not self.reasons(volume)), None)


def _refusals(check, node) -> list[str]:
    from svdrr.errors import SVDRRError

    try:
        check(node)
    except SVDRRError as error:
        return [str(error)]
    return []


class SingleViewSynthesisTest(ScriptedLoadableModuleTest):
    """Runs in Slicer's self-tests, with the backend that the user has chosen."""

    def setUp(self) -> None:
        """An empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        """All tests."""
        self.setUp()
        self.test_two_views_and_their_truth()
        self.setUp()
        self.test_what_is_no_radiograph()

    def test_two_views_and_their_truth(self) -> None:
        """Two labeled views of a phantom, beside the DRRs of its CT."""
        import numpy as np

        from svdrr.ct.phantoms import ThoraxOptions, thorax_phantom
        from svdrr.geometry import CArmPose, Detector, View
        from svdrr.mrml import ct_to_node, radiograph_to_node
        from svdrr.mrml.backend import chosen_backend, client_of
        from svdrr.mrml.task import wait
        from svdrr.radiograph import Radiograph

        self.delayDisplay("Making a phantom")
        ct = thorax_phantom(5, ThoraxOptions(spacing_mm=8.0)).ct
        # A stand-in for its PA view: what counts here is the way there and back, not the image.
        sums = np.maximum(ct.hu + 1000.0, 0.0).sum(axis=1)[::-1]
        pixels = (sums / sums.max()).astype(np.float32)
        view = View(CArmPose(isocenter_ras=ct.isocenter_ras), Detector(*pixels.shape, (8.0, 8.0)))
        radiograph = radiograph_to_node(Radiograph(pixels, view.detector.pixel_spacing_mm, view), "Radiograph")
        ctNode = ct_to_node(ct, "CT")

        self.delayDisplay("Starting the backend")
        model = wait(client_of(chosen_backend())).capabilities()["models"][0]["name"]

        self.delayDisplay(f"Making two views with {model}")
        logic = SingleViewSynthesisLogic()
        browser = logic.processSet(radiograph, model, "sweep:-20:20:40", truthVolume=ctNode)
        self.assertEqual(browser.GetNumberOfItems(), 2)
        volume = browser.GetProxyNode(browser.GetMasterSequenceNode())
        self.assertEqual(volume.GetAttribute("SVDRR.Synthetic"), "SYNTHETIC, not for diagnosis")
        self.assertIn("(synthetic)", volume.GetName())
        (table,) = slicer.util.getNodesByClass("vtkMRMLTableNode")
        self.assertEqual(table.GetNumberOfRows(), 2)
        self.delayDisplay("Two views and their truth are in the scene")

    def test_what_is_no_radiograph(self) -> None:
        """A volume gets one sentence, and nothing is added."""
        import numpy as np

        from svdrr.errors import SVDRRError

        self.delayDisplay("Refusing a volume that is no radiograph")
        volume = slicer.util.addVolumeFromArray(np.zeros((10, 20, 20), np.int16), name="CT")
        before = slicer.mrmlScene.GetNumberOfNodes()
        with self.assertRaises(SVDRRError):
            SingleViewSynthesisLogic().process(volume, "demo-256")
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodes(), before)
