"""A backend's environment for tests: the Python that runs the tests, as `svdrr setup-backend` would leave one."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

from svdrr.backend.environment import BackendEnvironment


def write_backend_environment(folder: Path, python: Path = Path(sys.executable)) -> Path:
    """Makes `folder` an environment that a panel can start a backend from, and returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    torch = version("torch")
    BackendEnvironment(
        folder=folder,
        kind="venv",
        python=python,
        packages=None,
        torch=torch,
        torch_build="cpu",
        requirements=(f"torch=={torch}",),
    ).write()
    return folder
