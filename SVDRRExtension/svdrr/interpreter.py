"""Python's interpreter, to start other processes with."""

from __future__ import annotations

import shutil
import sys


def python_executable() -> str:
    """The path of this Python's interpreter; inside Slicer, where `sys.executable` is the application, PythonSlicer."""
    return shutil.which("PythonSlicer") or sys.executable
