"""The module `qt`: the classes that the modules may use, and dialogs that a test answers."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

from .desk import desk
from .proxies import proxy_class
from .ui_loader import UiLoader

_CLASSES = (
    "QTimer", "QSettings", "QWidget", "QVBoxLayout", "QHBoxLayout", "QFormLayout", "QGridLayout", "QLabel",
    "QPushButton", "QToolButton", "QCheckBox", "QRadioButton", "QComboBox", "QLineEdit", "QSpinBox",
    "QDoubleSpinBox", "QSlider", "QProgressBar", "QPlainTextEdit", "QTableWidget", "QTableWidgetItem",
    "QGroupBox", "QTabWidget", "QStackedWidget", "QPixmap", "QImage", "QIcon", "QColor", "QSize", "Qt", "QUrl",
    "QPainter", "QFont",
)  # fmt: skip
# slicer.util needs these for its own work; the modules have no use for them.
_CLASSES_OF_SLICER_UTIL = ("QFile", "QCursor")


class FileDialog:
    """`qt.QFileDialog`, static functions only: a path from the test's answers, or "" as if cancelled."""

    @staticmethod
    def getSaveFileName(parent: Any = None, caption: str = "", folder: str = "", filters: str = "") -> str:
        return desk.answer_path("save", caption)

    @staticmethod
    def getOpenFileName(parent: Any = None, caption: str = "", folder: str = "", filters: str = "") -> str:
        return desk.answer_path("open", caption)

    @staticmethod
    def getExistingDirectory(parent: Any = None, caption: str = "", folder: str = "") -> str:
        return desk.answer_path("folder", caption)


class DesktopServices:
    """`qt.QDesktopServices`: notes what would be opened."""

    @staticmethod
    def openUrl(url: Any) -> bool:
        desk.opened_urls.append(url.toString())
        return True


class Application:
    """`qt.QApplication`, static functions only."""

    def __getattr__(self, name: str) -> Any:
        allowed = ("clipboard", "overrideCursor", "setOverrideCursor", "restoreOverrideCursor", "processEvents")
        if name not in allowed:
            raise AttributeError(
                f"qt.QApplication.{name} is not known to the test host, which has: {', '.join(allowed)}"
            )
        return getattr(proxy_class(QtWidgets.QApplication), name)


class MessageBoxValues:
    """`qt.QMessageBox`, its enum values only: boxes are shown through slicer.util."""

    def __getattr__(self, name: str) -> Any:
        return getattr(proxy_class(QtWidgets.QMessageBox), name)

    def __call__(self, *arguments: Any) -> Any:
        raise RuntimeError("the modules show message boxes through slicer.util.errorDisplay and its like")


def make_qt() -> ModuleType:
    """Make the module. Names that it does not have raise AttributeError with a sentence."""
    module = ModuleType("qt", __doc__)
    for name in (*_CLASSES, *_CLASSES_OF_SLICER_UTIL):
        owner = next(package for package in (QtCore, QtGui, QtWidgets, QtUiTools) if hasattr(package, name))
        setattr(module, name, proxy_class(getattr(owner, name)))
    module.__dict__.update(
        QFileDialog=FileDialog,
        QDesktopServices=DesktopServices,
        QApplication=Application(),
        QMessageBox=MessageBoxValues(),
        QUiLoader=UiLoader,
    )

    def unknown(name: str) -> Any:
        raise AttributeError(
            f"qt.{name} is not known to the test host; see its README for what it has and how to add to it"
        )

    module.__dict__["__getattr__"] = unknown
    return module
