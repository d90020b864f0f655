"""The command ``svdrr`` in the tests' own process, where its libraries are loaded already."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from svdrr import cli


def run_svdrr(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    capfd.readouterr()
    code: Any = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["svdrr", *map(str, arguments)])
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
    return code, *capfd.readouterr()
