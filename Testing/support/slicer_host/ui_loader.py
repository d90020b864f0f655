"""`qt.QUiLoader` for .ui files in the shape of Slicer's template: unknown classes, properties or slots are errors."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PySide6.QtCore import QBuffer, QDir, QObject
from PySide6.QtUiTools import QUiLoader
from PySide6.QtWidgets import QWidget

from . import ctk_widgets, mrml_widgets
from .proxies import unwrap, wrap

CUSTOM_WIDGETS: dict[str, type[QWidget]] = {
    kind.__name__: kind for kind in (*ctk_widgets.WIDGETS, mrml_widgets.qMRMLWidget, mrml_widgets.qMRMLNodeComboBox)
}
_SCENE_CHANGED = "mrmlSceneChanged(vtkMRMLScene*)"
_QT_WIDGETS = {
    "QWidget", "QLabel", "QPushButton", "QToolButton", "QCheckBox", "QRadioButton", "QComboBox", "QLineEdit",
    "QSpinBox", "QDoubleSpinBox", "QSlider", "QProgressBar", "QPlainTextEdit", "QTableWidget", "QGroupBox",
    "QTabWidget", "QStackedWidget", "QFrame",
}  # fmt: skip


class UiLoader:
    """Loads what `slicer.util.loadUI` hands it. Raises RuntimeError with one sentence for anything unknown."""

    def load(self, file: Any) -> Any:
        path = Path(unwrap(file).fileName())
        root = ElementTree.parse(path).getroot()
        classes = {element.get("class", "") for element in root.iter("widget")}
        unknown = sorted(classes - _QT_WIDGETS - CUSTOM_WIDGETS.keys())
        if unknown:
            raise RuntimeError(
                f"{path.name} uses widget classes that the test host does not know: {', '.join(unknown)}"
            )
        declared = {element.findtext("class") for element in root.iter("customwidget")}
        undeclared = sorted((classes & CUSTOM_WIDGETS.keys()) - declared)
        if undeclared:
            raise RuntimeError(f"{path.name} has no <customwidget> for {', '.join(undeclared)}")

        loader = QUiLoader()
        for kind in CUSTOM_WIDGETS.values():
            loader.registerCustomWidget(kind)
        # QUiLoader cannot make these connections, because Qt knows no vtkMRMLScene.
        held = []
        for connections in root.iter("connections"):
            held += [one for one in connections if one.findtext("signal") == _SCENE_CHANGED]
            for one in held:
                connections.remove(one)
        # Nor the flags of a class that it knows from Python.
        flags = []
        for element in root.iter("widget"):
            for setting in element.findall("property"):
                if setting.findtext("set", "").startswith("ctk"):
                    flags.append((element.get("name", ""), setting.get("name", ""), setting.findtext("set", "")))
                    element.remove(setting)
        buffer = QBuffer()
        buffer.setData(ElementTree.tostring(root))
        buffer.open(QBuffer.OpenModeFlag.ReadOnly)
        loader.setWorkingDirectory(QDir(str(path.parent)))
        widget = loader.load(buffer)
        if widget is None:
            raise RuntimeError(f"{path.name} could not be loaded: {loader.errorString()}")
        _check_properties(path.name, root, widget)
        for name, flag, text in flags:
            setattr(_named(widget, name), flag, text)
        for connection in [*held, *root.iter("connection")]:
            _connect(path.name, widget, connection)
        return wrap(widget)


def _named(top: QWidget, name: str) -> QObject | None:
    return top if top.objectName() == name else top.findChild(QObject, name)


def _check_properties(file: str, root: ElementTree.Element, top: QWidget) -> None:
    for element in root.iter("widget"):
        name = element.get("name", "")
        target = _named(top, name)
        if target is None:
            raise RuntimeError(f"{file} has a widget '{name}' that was not made: are two widgets named so?")
        for setting in element.findall("property"):
            known = target.metaObject().indexOfProperty(setting.get("name", "")) >= 0
            if setting.get("stdset") != "0" and not known:
                raise RuntimeError(f"{file}: {element.get('class')} has no property '{setting.get('name')}' ({name})")


def _connect(file: str, top: QWidget, connection: ElementTree.Element) -> None:
    sender, receiver = (_named(top, connection.findtext(end, "")) for end in ("sender", "receiver"))
    signal, slot = (connection.findtext(end, "") for end in ("signal", "slot"))
    where = f"{file} connects {connection.findtext('sender')}.{signal} to {connection.findtext('receiver')}.{slot}"
    if sender is None or receiver is None:
        raise RuntimeError(f"{where}, and one of the two does not exist")
    if signal != _SCENE_CHANGED:
        # Signals and slots of Qt itself: QUiLoader has connected them, if they exist.
        if sender.metaObject().indexOfSignal(signal) < 0 or receiver.metaObject().indexOfMethod(slot) < 0:
            raise RuntimeError(f"{where}, and one of the two has no such signal or slot")
        return
    set_scene: Callable[[Any], None] | None = getattr(receiver, "setMRMLScene", None)
    if not isinstance(sender, mrml_widgets.qMRMLWidget) or slot != "setMRMLScene(vtkMRMLScene*)" or set_scene is None:
        raise RuntimeError(f"{where}, and one of the two has no such signal or slot")
    sender.mrmlSceneChanged.connect(set_scene)
