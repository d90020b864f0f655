"""Which views are wanted: one by C-arm angles, one from where the 3D view's camera is, or a set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import slicer
import slicer.util
import vtk
from slicer.i18n import tr as _

from svdrr.geometry import CArmPose
from svdrr.geometry.viewsets import Isocenter
from svdrr.mrml.targets import TargetViews, camera_angles

_SET_WIDGETS = {
    "simple": (),
    "hemisphere": ("hemisphereCountSpinBox",),
    "sweep": ("sweepFromDegSpinBox", "sweepToDegSpinBox", "sweepStepDegSpinBox"),
    "file": ("viewFilePathLineEdit",),
}
_ANGLE_WIDGETS = ("primaryDegSlider", "secondaryDegSlider", "viewNameLabel")
# Nearer than a slider shows.
_SAME_ANGLE_DEG = 0.05


class ViewControls:
    """The part of a panel that chooses views, put into `layout` before the panel's widgets are looked up.

    The panel's parameter node has the fields, whose names and ranges are fixed because the widgets are bound to them::

        viewMode: str = "angles"  # or "camera", "set"
        primaryDeg: Annotated[float, WithinRange(-180, 180)] = 0.0
        secondaryDeg: Annotated[float, WithinRange(-90, 90)] = 0.0
        viewSet: str = "simple"  # or "hemisphere", "sweep", "file"
        hemisphereCount: Annotated[int, WithinRange(1, 2000)] = 12
        sweepFromDeg: Annotated[float, WithinRange(-360, 360)] = -90.0
        sweepToDeg: Annotated[float, WithinRange(-360, 360)] = 90.0
        sweepStepDeg: Annotated[float, WithinRange(0.1, 180)] = 10.0
        viewFile: str = ""

    The panel calls `set_parameter_node` before it connects the node with its widgets, and `update` whenever the node
    has changed. While the mode is "camera", the two angles follow the camera of the first 3D view.
    """

    def __init__(self, layout: Any) -> None:
        widget = slicer.util.loadUI(str(Path(__file__).with_name("ViewControls.ui")))
        layout.addWidget(widget)
        self._ui = ui = slicer.util.childWidgetVariables(widget)
        self._parameters: Any = None
        self._camera: Any = None
        self._camera_tag = 0
        _fill(ui.viewModeComboBox, _modes())
        _fill(ui.viewSetComboBox, _sets())
        _fill(ui.viewPresetComboBox, [(name, "") for name, angles in _presets()])
        ui.viewModeComboBox.connect("currentIndexChanged(int)", self._mode_chosen)
        ui.viewSetComboBox.connect("currentIndexChanged(int)", self._set_chosen)
        ui.viewPresetComboBox.connect("currentIndexChanged(int)", self._preset_chosen)
        ui.viewFilePathLineEdit.connect("currentPathChanged(QString)", self._file_chosen)

    def set_parameter_node(self, parameters: Any) -> None:
        """Show and change this parameter node from now on; None: none."""
        self._parameters = parameters
        if parameters is None:
            self._follow(None)
        else:
            self.update()

    def cleanup(self) -> None:
        """Let go of the scene, because the panel goes."""
        self.set_parameter_node(None)

    def update(self) -> None:
        """Show what the parameter node says."""
        chosen = self._parameters
        if chosen is None:
            return
        ui = self._ui
        self._follow(_camera() if chosen.viewMode == "camera" else None)
        _choose(ui.viewModeComboBox, chosen.viewMode)
        _choose(ui.viewSetComboBox, chosen.viewSet)
        if ui.viewFilePathLineEdit.currentPath != chosen.viewFile:
            ui.viewFilePathLineEdit.currentPath = chosen.viewFile
        ui.viewNameLabel.text = CArmPose(chosen.primaryDeg, chosen.secondaryDeg).label
        self._show_preset()

        is_set = chosen.viewMode == "set"
        for name in _ANGLE_WIDGETS:
            self._show(name, not is_set)
            getattr(ui, name).enabled = chosen.viewMode == "angles"
        self._show("viewPresetComboBox", chosen.viewMode == "angles")
        self._show("viewSetComboBox", is_set)
        for view_set, names in _SET_WIDGETS.items():
            for name in names:
                self._show(name, is_set and view_set == chosen.viewSet)

    def poses(
        self, isocenter_ras: Isocenter, source_to_isocenter_mm: float, source_to_detector_mm: float
    ) -> list[CArmPose]:
        """See `TargetViews.poses`."""
        return TargetViews.of(self._parameters).poses(isocenter_ras, source_to_isocenter_mm, source_to_detector_mm)

    def reasons(self) -> list[str]:
        """Why there are no such views, a sentence each."""
        if self._parameters.viewMode == "camera" and self._camera is None:
            return [_("Show a 3D view, whose camera can be followed, or choose the views by angles.")]
        return TargetViews.of(self._parameters).reasons()

    def _show(self, name: str, shown: bool) -> None:
        getattr(self._ui, name).visible = shown
        getattr(self._ui, f"{name}Label").visible = shown

    def _show_preset(self) -> None:
        angles = self._parameters.primaryDeg, self._parameters.secondaryDeg
        matching = (index for index, (_name, preset) in enumerate(_presets()) if preset and _same(preset, angles))
        box = self._ui.viewPresetComboBox
        blocked = box.blockSignals(True)
        box.currentIndex = next(matching, 0)
        box.blockSignals(blocked)

    def _mode_chosen(self, index: int) -> None:
        if self._parameters is not None:
            self._parameters.viewMode = self._ui.viewModeComboBox.itemData(index)

    def _set_chosen(self, index: int) -> None:
        if self._parameters is not None:
            self._parameters.viewSet = self._ui.viewSetComboBox.itemData(index)

    def _preset_chosen(self, index: int) -> None:
        angles = _presets()[index][1]
        if self._parameters is not None and angles is not None:
            _set_angles(self._parameters, angles)

    def _file_chosen(self, path: str) -> None:
        if self._parameters is not None:
            self._parameters.viewFile = path

    def _follow(self, camera: Any) -> None:
        if camera is self._camera:
            return
        if self._camera is not None:
            self._camera.RemoveObserver(self._camera_tag)
        self._camera = camera
        if camera is not None:
            self._camera_tag = camera.AddObserver(vtk.vtkCommand.ModifiedEvent, self._camera_moved)
            self._camera_moved()

    def _camera_moved(self, caller: Any = None, event: str = "") -> None:
        angles = camera_angles(self._camera)
        if not _same(angles, (self._parameters.primaryDeg, self._parameters.secondaryDeg)):
            _set_angles(self._parameters, angles)


def _set_angles(parameters: Any, angles: tuple[float, float]) -> None:
    # One change, so that nobody sees the one angle without the other.
    with slicer.util.NodeModify(parameters):
        parameters.primaryDeg, parameters.secondaryDeg = angles


def _same(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return all(abs(a - b) < _SAME_ANGLE_DEG for a, b in zip(one, other, strict=True))


def _camera() -> Any:
    """The camera of the first 3D view, or None."""
    layout = slicer.app.layoutManager()
    if not layout.threeDViewCount:
        return None
    view = layout.threeDWidget(0).threeDView().mrmlViewNode()
    return slicer.modules.cameras.logic().GetViewActiveCameraNode(view)


def _fill(box: Any, items: list[tuple[str, str]]) -> None:
    for text, key in items:
        box.addItem(text, key)


def _choose(box: Any, key: str) -> None:
    blocked = box.blockSignals(True)
    box.currentIndex = box.findData(key)
    box.blockSignals(blocked)


def _modes() -> list[tuple[str, str]]:
    return [
        (_("One view, by angles"), "angles"),
        (_("One view, from the 3D view's camera"), "camera"),
        (_("Set of views"), "set"),
    ]


def _sets() -> list[tuple[str, str]]:
    return [
        (_("Simple: RAO 90° to LAO 90° in steps of 5°, without PA"), "simple"),
        (_("Hemisphere about PA"), "hemisphere"),
        (_("Sweep"), "sweep"),
        (_("File"), "file"),
    ]


def _presets() -> list[tuple[str, tuple[float, float] | None]]:
    """Names and angles; the first stands for all other angles."""
    obliques = [(f"{side} {angle:.0f}°", (sign * angle, 0.0)) for angle in (30.0, 45.0, 60.0) for side, sign in _SIDES]
    return [
        (_("Other angles"), None),
        (_("PA"), (0.0, 0.0)),
        (_("AP"), (180.0, 0.0)),
        (_("Left lateral"), (90.0, 0.0)),
        (_("Right lateral"), (-90.0, 0.0)),
        *obliques,
    ]


_SIDES = (("LAO", 1.0), ("RAO", -1.0))
