"""What a backend's environment holds. Standard library only, as in `svdrr.backend.environment`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from svdrr.backend.driver import TorchBuild

_REQUIREMENTS_FILE = Path(__file__).with_name("requirements.json")


@dataclass(frozen=True)
class Requirements:
    """What a backend needs: a version of torch, and groups of requirements as in ``pyproject.toml``."""

    torch: str
    groups: Mapping[str, tuple[str, ...]]

    @staticmethod
    def of_backend() -> Requirements:
        """The requirements that belong to this version of svdrr."""
        entries = json.loads(_REQUIREMENTS_FILE.read_text(encoding="utf-8"))
        return Requirements(entries["torch"], {name: tuple(lines) for name, lines in entries["groups"].items()})

    def beside_torch(self, build: TorchBuild) -> tuple[str, ...]:
        """What `build` needs beside torch; the engine nanodrr is worth its packages only on a GPU."""
        return tuple(
            line for name, lines in self.groups.items() if name != "nanodrr" or build.uses_gpu for line in lines
        )


def requirement_name(line: str) -> str:
    """The package that a requirement such as "diffusers>=0.35,<0.43" names."""
    return re.split(r"[^\w.-]", line, maxsplit=1)[0]
