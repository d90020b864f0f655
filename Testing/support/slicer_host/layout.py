"""`slicer.app.layoutManager()`."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import QObject
from PySide6.QtWidgets import QWidget


class LayoutManager(QObject):
    """The views."""

    def __init__(self, logic: Any) -> None:
        super().__init__()
        self._viewport = QWidget()

    def _finalize(self) -> None:
        pass
