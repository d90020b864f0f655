"""The package `svdrr` without whatever else lies in its folder, such as a whole site-packages: for a PYTHONPATH.

A backend environment runs the very svdrr that started it, so that client and server are of one version.
"""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[3]
__path__ = [str(_PACKAGE)]
exec(compile((_PACKAGE / "__init__.py").read_text(encoding="utf-8"), str(_PACKAGE / "__init__.py"), "exec"))
