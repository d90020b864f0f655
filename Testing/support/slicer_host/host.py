"""The test host: an application with modules in it, in this process, and what a test does to it."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import shiboken6
import slicer
import slicer.util
import vtk
from PySide6.QtCore import QCoreApplication, QEvent, QEventLoop, QSettings, Qt, QTimer, qInstallMessageHandler
from PySide6.QtGui import QImage
from PySide6.QtWidgets import QAbstractButton, QApplication, QScrollArea, QWidget

from . import faults
from .application import PANEL_WIDTH, qSlicerApplication, qSlicerMainWindow
from .ctk_widgets import make_ctk
from .desk import Desk, Message, desk
from .i18n import make_i18n
from .layout import LayoutManager
from .modules import qSlicerModuleManager, qSlicerScriptedLoadableModule, qSlicerScriptedLoadableModuleWidget
from .mrml_widgets import Observers, qMRMLNodeComboBox, qMRMLWidget
from .parameter_node_wrapper import make_parameter_node_wrapper
from .proxies import disconnect_all, proxy_class, unwrap, wrap
from .qt_module import make_qt
from .sample_data import make_sample_data
from .scripted_module import make_scripted_loadable_module

_CORE_MODULES = {
    "Cameras": "vtkSlicerCamerasModuleLogic",
    "Markups": "vtkSlicerMarkupsLogic",
    "Plots": "vtkSlicerPlotsLogic",
    "Segmentations": "vtkSlicerSegmentationsModuleLogic",
    "Sequences": "vtkSlicerSequencesLogic",
    "Volumes": "vtkSlicerVolumesLogic",
}
_LENT_TO_SLICER = (
    "app", "modules", "mrmlScene", "selfTests", "ScriptedLoadableModule", "parameterNodeWrapper", "i18n",
    "qMRMLWidget", "qMRMLNodeComboBox", "qSlicerScriptedLoadableModule", "qSlicerScriptedLoadableModuleWidget",
)  # fmt: skip
_LENT_MODULES = (
    "qt", "ctk", "SampleData", "slicer.ScriptedLoadableModule", "slicer.parameterNodeWrapper", "slicer.i18n",
)  # fmt: skip


class SlicerHost:
    """One application. `start` makes it, `stop` takes away all of it, so that slicer-core is alone again."""

    def __init__(self) -> None:
        self.desk: Desk = desk
        self._running = False
        self._folders: list[Path] = []
        self._marked: dict[str, int] = {}

    # Life.

    def start(self, module_folders: Iterable[Path | str] = ()) -> None:
        """Start with a fresh scene and these modules; an application that runs is stopped first."""
        self.stop()
        _application()
        faults.displayed.clear()
        desk.clear()
        before = len(faults.uncaught)
        self._folders = [Path(folder).resolve() for folder in module_folders]
        self._paths_before = list(sys.path)
        self._hook_before = sys.excepthook
        sys.excepthook = faults.record
        self._temporary = tempfile.TemporaryDirectory(prefix="slicer-host-")
        QSettings.setDefaultFormat(QSettings.Format.IniFormat)
        QSettings.setPath(QSettings.Format.IniFormat, QSettings.Scope.UserScope, self._temporary.name)
        self._running = True

        sys.modules.update(
            {
                "qt": make_qt(),
                "ctk": make_ctk(),
                "SampleData": make_sample_data(),
                "slicer.ScriptedLoadableModule": make_scripted_loadable_module(),
                "slicer.parameterNodeWrapper": make_parameter_node_wrapper(),
                "slicer.i18n": make_i18n(),
            }
        )
        for name in ("ScriptedLoadableModule", "parameterNodeWrapper", "i18n"):
            setattr(slicer, name, sys.modules[f"slicer.{name}"])
        for kind in (
            qMRMLWidget,
            qMRMLNodeComboBox,
            qSlicerScriptedLoadableModule,
            qSlicerScriptedLoadableModuleWidget,
        ):
            setattr(slicer, kind.__name__, proxy_class(kind))
        slicer.selfTests = {}
        slicer.modules = SimpleNamespace(sampleDataSources={}, sampleDataSourceCategories={})

        self._manager = qSlicerModuleManager()
        logic = self._make_scene()
        self._app = qSlicerApplication(logic, self._manager, self._temporary.name)
        slicer.app = wrap(self._app)
        self._layout_manager = LayoutManager(logic)
        self._app._layout_manager = self._layout_manager
        self._window = qSlicerMainWindow(self._manager, self._layout_manager._viewport)
        self._app._main_window = self._window
        self._layout_manager._settle()
        self._stalls = _StallMeter()
        self._manager._add_scripted(self._folders)
        self._app.startupCompleted.emit()
        self.process_events()
        if len(faults.uncaught) > before:
            raise RuntimeError(f"the application did not start:\n{faults.uncaught[before]}")
        self.mark()

    def _make_scene(self) -> Any:
        scene = slicer.vtkMRMLScene()
        logic = slicer.vtkSlicerApplicationLogic()
        logic.SetMRMLScene(scene)
        logic.SetTemporaryPath(self._temporary.name)
        logic.GetColorLogic().SetMRMLScene(scene)
        logic.SetModuleLogic("Colors", logic.GetColorLogic())
        crosshair = slicer.vtkMRMLCrosshairNode()
        crosshair.SetCrosshairName("default")
        scene.AddNode(crosshair)
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)
        remote = slicer.vtkMRMLRemoteIOLogic()
        remote.SetMRMLScene(scene)
        remote.AddDataIOToScene()
        remote.GetCacheManager().SetRemoteCacheDirectory(self._temporary.name)
        slicer.mrmlScene = scene
        self._logics = [logic, remote]
        for name, kind in _CORE_MODULES.items():
            module_logic = getattr(slicer, kind)()
            module_logic.SetMRMLApplicationLogic(logic)
            module_logic.SetMRMLScene(scene)
            logic.SetModuleLogic(name, module_logic)
            self._logics.append(module_logic)
            self._manager._add_core(name, module_logic)
        return logic

    def stop(self) -> None:
        """Unload the modules, delete every widget and take the host's names out of `slicer`."""
        if not self._running:
            return
        self._running = False
        self._app.aboutToQuit.emit()
        self._manager._unload()
        self._stalls.stop()
        disconnect_all()
        self._layout_manager._finalize()
        shiboken6.delete(self._window)
        for name in _LENT_MODULES:
            sys.modules.pop(name, None)
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__file__", None)
            if file and any(folder in Path(file).parents for folder in self._folders):
                del sys.modules[name]
        for name in _LENT_TO_SLICER:
            if hasattr(slicer, name):
                delattr(slicer, name)
        sys.path[:] = self._paths_before
        sys.excepthook = self._hook_before
        self._logics.clear()
        del self._app, self._manager, self._layout_manager, self._window
        QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
        gc.collect()
        self._temporary.cleanup()

    # What a person does.

    def select(self, name: str) -> Any:
        """Show a module's panel, and return its Python widget."""
        slicer.util.selectModule(name)
        self.process_events()
        return self.widget(name)

    def widget(self, name: str) -> Any:
        """A module's Python widget, such as CTTableRemovalWidget."""
        return slicer.util.getModuleWidget(name)

    def click(self, widget: Any) -> None:
        """Click a button as a person can: it must be enabled and not hidden."""
        button = unwrap(widget)
        if not isinstance(button, QAbstractButton):
            raise TypeError(f"{widget!r} is not a button")
        if not button.isEnabled():
            raise RuntimeError(f"'{button.objectName()}' is off: {button.toolTip()}")
        if button.isHidden():
            raise RuntimeError(f"'{button.objectName()}' is hidden")
        with self._stalls.measure():
            button.click()

    def reload(self, name: str) -> Any:
        """Press Reload: returns the new Python widget."""
        self.widget(name).onReload()
        self.process_events()
        return self.widget(name)

    def close_scene(self) -> None:
        slicer.mrmlScene.Clear(False)
        self.process_events()

    def process_events(self, seconds: float = 0.0) -> None:
        """Run the event loop for so long; without a time, until nothing is due."""
        with self._stalls.measure():
            if seconds <= 0:
                QApplication.processEvents()
                QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
                return
            loop = QEventLoop()
            QTimer.singleShot(round(seconds * 1000), loop.quit)
            loop.exec()

    def wait_until(self, condition: Callable[[], Any], timeout_s: float = 30.0) -> Any:
        """Run the event loop until the condition is true and return it. Raises TimeoutError."""
        end = time.monotonic() + timeout_s
        while True:
            value = condition()
            if value:
                return value
            if faults.uncaught:
                raise RuntimeError(f"an exception reached the event loop:\n{faults.uncaught[0]}")
            if time.monotonic() > end:
                raise TimeoutError(f"not true within {timeout_s} s; messages: {self.messages}")
            self.process_events(0.01)

    # What there is to see.

    @property
    def messages(self) -> list[Message]:
        """The message boxes that were shown."""
        return desk.messages

    @property
    def uncaught(self) -> list[str]:
        """The exceptions that reached Qt or VTK and were not shown in a message box."""
        return faults.uncaught

    @property
    def main_window(self) -> Any:
        return wrap(self._window)

    def screenshot(self, widget: Any, path: Path | str) -> Path:
        """Write a PNG of a panel (by module name), a view, or any widget.

        A panel is drawn 520 pixels wide and as tall as it needs.
        """
        target = unwrap(self.widget(widget).parent if isinstance(widget, str) else widget)
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.process_events()
        image = self._panel_image(target) if isinstance(target, qMRMLWidget) else target.grab().toImage()
        if not image.save(str(path)):
            raise RuntimeError(f"{path} could not be written")
        return path

    def _panel_image(self, panel: QWidget) -> QImage:
        area = panel.parentWidget().parentWidget() if panel.parentWidget() else None
        if isinstance(area, QScrollArea):
            area.takeWidget()
        panel.setAttribute(Qt.WidgetAttribute.WA_DontShowOnScreen)
        panel.setFixedWidth(PANEL_WIDTH)
        panel.show()
        for _ in range(3):
            self.process_events()
            height = panel.layout().totalHeightForWidth(PANEL_WIDTH) if panel.layout().hasHeightForWidth() else -1
            panel.resize(PANEL_WIDTH, max(height, panel.sizeHint().height()))
        image = panel.grab().toImage()
        panel.setMinimumWidth(0)
        panel.setMaximumWidth(16777215)
        panel.setAttribute(Qt.WidgetAttribute.WA_DontShowOnScreen, False)
        if isinstance(area, QScrollArea):
            area.setWidget(panel)
        else:
            panel.hide()
        return image

    # Measures.

    def reset_stalls(self) -> None:
        self._stalls.reset()

    def stalls(self) -> float:
        """The longest time in seconds that the event loop stood still since `reset_stalls`.

        A 10 ms timer notes the gaps between its ticks while `process_events`, `wait_until` or `click` run; what the
        test does between them does not count, and neither does waiting for a processor that other programs use.
        """
        return self._stalls.longest_s

    def census(self) -> dict[str, int]:
        """The nodes of the scene by ID, each with its number of observers, and the scene itself as ""."""
        gc.collect()
        scene = slicer.mrmlScene
        nodes = [scene.GetNthNode(index) for index in range(scene.GetNumberOfNodes())]
        return {"": _observer_count(scene), **{node.GetID(): _observer_count(node) for node in nodes}}

    def mark(self) -> None:
        """Take the census that `leaks` compares with."""
        self._marked = self.census()

    def leaks(self) -> dict[str, int]:
        """What the census has more of than at `mark` (or at the start): nodes by ID, and surplus observers."""
        now = self.census()
        return {
            name: count - self._marked.get(name, 0) for name, count in now.items() if count > self._marked.get(name, -1)
        }


def _observer_count(target: vtk.vtkObject) -> int:
    # Panels that Slicer's reload has hidden keep their combo boxes, there as here.
    return str(target).count("vtkObserver (") - Observers.count(target)


# Linux: time on a processor, time in the queue for one (ns), number of time slices.
_SCHEDULER = Path("/proc/thread-self/schedstat")


class _StallMeter:
    def __init__(self) -> None:
        self._timer = QTimer()
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.timeout.connect(self._tick)
        self.reset()
        self._timer.start(10)

    def reset(self) -> None:
        self.longest_s = 0.0
        self._last = self._now()

    @contextmanager
    def measure(self) -> Iterator[None]:
        self._last = self._now()
        yield
        self._tick()

    @staticmethod
    def _now() -> float:
        """Seconds, but for those in which this thread could have run and other programs had the processors."""
        waited_s = 0.0
        if _SCHEDULER.exists():
            waited_s = 1e-9 * int(_SCHEDULER.read_text().split()[1])
        return time.perf_counter() - waited_s

    def _tick(self) -> None:
        now = self._now()
        self.longest_s = max(self.longest_s, now - self._last)
        self._last = now

    def stop(self) -> None:
        self._timer.stop()


def _application() -> QApplication:
    existing = QApplication.instance()
    if isinstance(existing, QApplication):
        return existing
    _keep_none()
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    qInstallMessageHandler(_print_message)
    application = QApplication(["Slicer"])
    application.setOrganizationName("NA-MIC")
    application.setApplicationName("Slicer")
    # Widgets of the module panel outlive any window that is closed.
    application.setQuitOnLastWindowClosed(False)
    application.setStyle("Fusion")
    return application


def _keep_none() -> None:
    """Give None more references than are ever taken.

    PySide6 6.12 takes one with every call that returns nothing. Before Python 3.12, where None became immortal, a long
    run would end with "deallocating None".
    """
    if sys.version_info < (3, 12):
        ctypes.c_ssize_t.from_address(id(None)).value += 2**40


def _print_message(kind: Any, context: Any, text: str) -> None:
    # Said of every window that is shown off screen.
    if "propagateSizeHints" not in text:
        print(f"Qt: {text}", file=sys.stderr)


host = SlicerHost()
