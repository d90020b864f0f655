"""Types of fixtures that are functions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

WriteDX = Callable[..., Path]
