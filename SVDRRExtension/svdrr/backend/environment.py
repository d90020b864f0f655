"""A backend's own Python environment, as `svdrr setup-backend` leaves it, and how programs are started in it.

It needs the standard library only, because it runs in Slicer's Python too, where nothing is installed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from svdrr import __version__
from svdrr.errors import SVDRRError
from svdrr.files import whole_file

Kind = Literal["venv", "target"]

ENVIRONMENT_FILE = "backend.json"
README_FILE = "README.txt"
README = "This folder was made by `svdrr setup-backend`. To uninstall the backend, delete the folder.\n"
_ALONE = Path(__file__).with_name("alone")

# What a parent's Python is told about its own packages; a child of another environment must not hear it.
_PYTHON_VARIABLES = (
    "PYTHONHOME",
    "PYTHONPATH",
    "PYTHONSTARTUP",
    "PYTHONUSERBASE",
    "PYTHONEXECUTABLE",
    "PYTHONPLATLIBDIR",
    "__PYVENV_LAUNCHER__",
    "VIRTUAL_ENV",
)
# What Slicer's launcher sets so that Slicer finds its libraries; the launcher keeps the values from before it, if there
# were any, as APPLAUNCHER_0_<name> (commontk/AppLauncher, ctkAppLauncherEnvironment).
_LAUNCHER_VARIABLES = (
    "PATH",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
    "DYLD_FRAMEWORK_PATH",
    "QT_PLUGIN_PATH",
    "QTWEBENGINEPROCESS_PATH",
    "ITK_AUTOLOAD_PATH",
    "SSL_CERT_FILE",
    "TCL_LIBRARY",
    "TK_LIBRARY",
    "PERLLIB",
)
_LAUNCHER_LEVEL = "APPLAUNCHER_LEVEL"
_LAUNCHER_SAVED = "APPLAUNCHER_0_"


@dataclass(frozen=True)
class BackendEnvironment:
    """A complete environment, in which ``python -m svdrr serve`` can run.

    kind: "venv", or "target" for packages in a folder beside an interpreter that can't make a venv. python: the
    interpreter to start. packages: the folder of a "target". torch: its version, such as "2.13.0+cu130".
    """

    folder: Path
    kind: Kind
    python: Path
    packages: Path | None
    torch: str
    torch_build: str
    requirements: tuple[str, ...]

    @staticmethod
    def read(folder: Path) -> BackendEnvironment:
        """The environment in `folder`; SVDRRError if there is none, or only a part of one."""
        folder = Path(folder).absolute()
        make = f"svdrr setup-backend {folder}"
        try:
            entries = json.loads((folder / ENVIRONMENT_FILE).read_text(encoding="utf-8"))
            packages = folder / entries["packages"] if entries["packages"] else None
            environment = BackendEnvironment(
                folder=folder,
                kind=entries["kind"],
                python=folder / entries["python"],
                packages=packages,
                torch=entries["torch"],
                torch_build=entries["torch_build"],
                requirements=tuple(entries["requirements"]),
            )
        except FileNotFoundError:
            if is_ours(folder):
                raise SVDRRError(f"The backend in {folder} is not complete; finish it with '{make}'.") from None
            raise SVDRRError(f"There is no backend in {folder}; make one with '{make}'.") from None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise SVDRRError(f"{folder / ENVIRONMENT_FILE} cannot be read ({error}); run '{make}' again.") from None
        if not environment.python.is_file() or (packages is not None and not packages.is_dir()):
            raise SVDRRError(f"The backend in {folder} has lost its Python or its packages; run '{make}' again.")
        return environment

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """`base` without what the parent's Python and Slicer's launcher put there, with this environment's packages."""
        return {
            **clean_environment(base),
            "PYTHONPATH": os.pathsep.join(map(str, self._search_path())),
            "PYTHONNOUSERSITE": "1",
            # A folder named numpy where the user happens to be must not come first (Python 3.11 and newer).
            "PYTHONSAFEPATH": "1",
        }

    def command(self, *arguments: str) -> list[str]:
        """The command line of ``svdrr`` with `arguments`, to be started with `environment`."""
        if self.kind == "venv":
            return [str(self.python), "-m", "svdrr", *arguments]
        return self.script("import runpy; runpy.run_module('svdrr', run_name='__main__', alter_sys=True)", *arguments)

    def script(self, code: str, *arguments: str) -> list[str]:
        """The command line that runs Python code with `arguments`, to be started with `environment`."""
        # Slicer's launcher puts Slicer's own packages before those of PYTHONPATH, so they are set right again here.
        first = [str(folder) for folder in self._search_path()]
        return [str(self.python), "-c", f"import sys; sys.path[:0] = {first!a}\n{code}", *arguments]

    def write(self) -> None:
        """Write it down, as the last step of a set-up."""
        inside = self.python.is_relative_to(self.folder)
        entries = {
            "kind": self.kind,
            "python": str(self.python.relative_to(self.folder) if inside else self.python),
            "packages": None if self.packages is None else str(self.packages.relative_to(self.folder)),
            "torch": self.torch,
            "torch_build": self.torch_build,
            "requirements": list(self.requirements),
            "made_by": f"svdrr {__version__}",
        }
        with whole_file(self.folder / ENVIRONMENT_FILE) as file:
            file.write_text(json.dumps(entries, indent=2), encoding="utf-8")

    def _search_path(self) -> list[Path]:
        return [_ALONE] if self.packages is None else [self.packages, _ALONE]


def clean_environment(base: Mapping[str, str]) -> dict[str, str]:
    """`base` as it was before a Python or Slicer's launcher changed it for its own libraries."""
    environment = {name: value for name, value in base.items() if name not in _PYTHON_VARIABLES}
    if _LAUNCHER_LEVEL not in environment:
        return environment
    for name in _LAUNCHER_VARIABLES:
        environment.pop(name, None)
        if _LAUNCHER_SAVED + name in base:
            environment[name] = base[_LAUNCHER_SAVED + name]
    return {name: value for name, value in environment.items() if not name.startswith("APPLAUNCHER_")}


def is_ours(folder: Path) -> bool:
    try:
        return (folder / README_FILE).read_text(encoding="utf-8") == README
    except (OSError, ValueError):
        return False
