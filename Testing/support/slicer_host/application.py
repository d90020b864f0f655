"""`slicer.app`, and the main window with the module panel and the views."""

from __future__ import annotations

from typing import Any

import slicer
from PySide6.QtCore import Property, QObject, QSettings, Qt, Signal
from PySide6.QtWidgets import QApplication, QDockWidget, QMainWindow, QScrollArea, QWidget

from .io_manager import CoreIOManager
from .modules import qSlicerModuleManager
from .proxies import unwrap

PANEL_WIDTH = 520


class ModuleSelector(QObject):
    """`slicer.util.moduleSelector()`: the module whose panel is shown."""

    moduleSelected = Signal(str)

    def __init__(self, manager: qSlicerModuleManager, area: QScrollArea) -> None:
        super().__init__()
        self._manager, self._area = manager, area
        self._selected = ""

    def selectModule(self, name: str) -> None:
        if name == self._selected:
            return
        module = self._manager.module(name)
        if module is None:
            raise RuntimeError(f"there is no module '{name}'")
        if not hasattr(module, "widgetRepresentation"):
            raise RuntimeError(f"the test host has no panel for '{name}'")
        panel = module.widgetRepresentation()
        self._leave()
        self._area.setWidget(panel)
        panel.show()
        self._selected = name
        panel.enter()
        self.moduleSelected.emit(name)

    def _leave(self) -> None:
        if not self._selected:
            return
        panel = self._manager.module(self._selected).widgetRepresentation()
        if self._area.widget() is panel:
            self._area.takeWidget()
        self._selected = ""
        panel.exit()

    selectedModule = Property(str, lambda self: self._selected)


class qSlicerMainWindow(QMainWindow):
    """The panel of the selected module on the left, the views on the right."""

    def __init__(self, manager: qSlicerModuleManager, viewport: QWidget) -> None:
        super().__init__()
        self.setObjectName("qSlicerMainWindow")
        area = QScrollArea()
        area.setWidgetResizable(True)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        area.setFixedWidth(PANEL_WIDTH)
        dock = QDockWidget()
        dock.setObjectName("PanelDockWidget")
        dock.setTitleBarWidget(QWidget())
        dock.setWidget(area)
        self.addDockWidget(Qt.DockWidgetArea.LeftDockWidgetArea, dock)
        self.setCentralWidget(viewport)
        self.statusBar()
        self.resize(1400, 900)
        self._selector = ModuleSelector(manager, area)

    def moduleSelector(self) -> ModuleSelector:
        return self._selector


class qSlicerApplication(QObject):
    """The application object."""

    startupCompleted = Signal()
    aboutToQuit = Signal()

    def __init__(self, logic: Any, manager: qSlicerModuleManager, temporary_folder: str) -> None:
        super().__init__()
        self._logic, self._manager = logic, manager
        self._temporary_folder = temporary_folder
        self._layout_manager: Any = None
        self._main_window: QMainWindow | None = None
        self._io = CoreIOManager()
        self._settings = QSettings()

    def applicationLogic(self) -> Any:
        return self._logic

    def moduleManager(self) -> Any:
        return self._manager

    def layoutManager(self) -> Any:
        return self._layout_manager

    def coreIOManager(self) -> Any:
        return self._io

    def mrmlScene(self) -> Any:
        return slicer.mrmlScene

    def userSettings(self) -> QSettings:
        return self._settings

    def processEvents(self) -> None:
        QApplication.processEvents()

    def topLevelWidgets(self) -> list[QWidget]:
        return [self._main_window] if self._main_window is not None else []

    def pauseRender(self) -> None:
        self._layout_manager.pauseRender()

    def resumeRender(self) -> None:
        self._layout_manager.resumeRender()

    def testingEnabled(self) -> bool:
        return False

    def setOverrideCursor(self, cursor: Any) -> None:
        QApplication.setOverrideCursor(unwrap(cursor))

    def restoreOverrideCursor(self) -> None:
        QApplication.restoreOverrideCursor()

    applicationName = Property(str, lambda self: "Slicer")
    majorVersion = Property(int, lambda self: 5)
    minorVersion = Property(int, lambda self: 13)
    slicerHome = Property(str, lambda self: self._temporary_folder)
    temporaryPath = Property(str, lambda self: self._temporary_folder)
