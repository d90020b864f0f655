"""Modules as the application keeps them: compiled ones by their logic, scripted ones loaded from their folder."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import slicer
from PySide6.QtCore import Property, QObject, Signal
from PySide6.QtGui import QIcon
from PySide6.QtWidgets import QVBoxLayout

from .mrml_widgets import qMRMLWidget
from .proxies import wrap


class CoreModule(QObject):
    """A compiled module, of which the host has the logic."""

    def __init__(self, name: str, logic: Any) -> None:
        super().__init__()
        self._name, self._logic = name, logic

    def logic(self) -> Any:
        return self._logic

    name = Property(str, lambda self: self._name)


def _load_source(name: str, path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise RuntimeError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _stored(name: str, kind: Any) -> Any:
    return Property(kind, lambda self: self._values[name], lambda self, value: self._values.update({name: value}))


class qSlicerScriptedLoadableModule(QObject):
    """A scripted module: its Python class, and its panel once someone asks for it."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._values: dict[str, Any] = {
            "title": "", "helpText": "", "acknowledgementText": "", "hidden": False, "icon": QIcon(), "index": -1,
            "categories": [], "contributors": [], "dependencies": [], "associatedNodeTypes": [],
            "widgetRepresentationCreationEnabled": True,
        }  # fmt: skip
        self._path = folder / f"{folder.name}.py"
        self._panel: qSlicerScriptedLoadableModuleWidget | None = None
        self._instance: Any = None

    def _load(self) -> None:
        module = _load_source(self._path.stem, self._path)
        self._instance = getattr(module, self._path.stem)(wrap(self))
        setattr(slicer.modules, f"{self._path.stem}Instance", self._instance)
        setattr(slicer.modules, self._path.stem.lower(), wrap(self))
        if hasattr(self._instance, "setup"):
            self._instance.setup()

    def widgetRepresentation(self) -> Any:
        if self._panel is None:
            self._panel = self.createNewWidgetRepresentation()
        return self._panel

    def createNewWidgetRepresentation(self) -> Any:
        panel = qSlicerScriptedLoadableModuleWidget()
        panel._set_source(self._path)
        panel.setup()
        panel.setMRMLScene(slicer.mrmlScene)
        return panel

    name = Property(str, lambda self: self._path.stem)
    path = Property(str, lambda self: str(self._path))
    title = _stored("title", str)
    helpText = _stored("helpText", str)
    acknowledgementText = _stored("acknowledgementText", str)
    hidden = _stored("hidden", bool)
    index = _stored("index", int)
    icon = _stored("icon", QIcon)
    categories = _stored("categories", "QStringList")
    contributors = _stored("contributors", "QStringList")
    dependencies = _stored("dependencies", "QStringList")
    associatedNodeTypes = _stored("associatedNodeTypes", "QStringList")
    widgetRepresentationCreationEnabled = _stored("widgetRepresentationCreationEnabled", bool)


class qSlicerScriptedLoadableModuleWidget(qMRMLWidget):
    """The place of a scripted module's panel, and the Python object that fills it."""

    def __init__(self) -> None:
        super().__init__()
        QVBoxLayout(self)
        self._entered = False
        self._source = Path()
        self._self: Any = None

    def _set_source(self, path: Path) -> None:
        self._source = path
        module = sys.modules.get(path.stem) or _load_source(path.stem, path)
        self._self = getattr(module, f"{path.stem}Widget")(wrap(self))
        setattr(slicer.modules, f"{path.stem}Widget", self._self)

    def reload(self) -> None:
        self._set_source(self._source)
        self.setup()

    def self(self) -> Any:
        return self._self

    def setup(self) -> None:
        self._self.setup()

    def enter(self) -> None:
        self._entered = True
        if hasattr(self._self, "enter"):
            self._self.enter()

    def exit(self) -> None:
        self._entered = False
        if hasattr(self._self, "exit"):
            self._self.exit()

    isEntered = Property(bool, lambda self: self._entered)


class qSlicerModuleManager(QObject):
    """All modules by name."""

    moduleAboutToBeUnloaded = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self._modules: dict[str, QObject] = {}

    def module(self, name: str) -> Any:
        return self._modules.get(name)

    def factoryManager(self) -> Any:
        return SimpleNamespace(loadedModuleNames=lambda: tuple(self._modules))

    def _add_core(self, name: str, logic: Any) -> None:
        self._modules[name] = CoreModule(name, logic)
        setattr(slicer.modules, name.lower(), wrap(self._modules[name]))

    def _add_scripted(self, folders: list[Path]) -> None:
        """Load module folders as the factory does: each one and the folder above it on sys.path."""
        for folder in folders:
            for entry in (str(folder), str(folder.parent)):
                if entry not in sys.path:
                    sys.path.append(entry)
        for folder in folders:
            module = qSlicerScriptedLoadableModule(folder)
            self._modules[folder.name] = module
            module._load()
        for folder in folders:
            unknown = set(self._modules[folder.name].dependencies) - self._modules.keys()
            if unknown:
                raise RuntimeError(f"{folder.name} depends on modules that are not there: {', '.join(sorted(unknown))}")

    def _unload(self) -> None:
        scripted = [name for name, module in self._modules.items() if isinstance(module, qSlicerScriptedLoadableModule)]
        for name in scripted:
            self.moduleAboutToBeUnloaded.emit(name)
        self._modules.clear()
