"""What the tests of the panels share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MODULES = ROOT / "SlicerModules"
PICTURES = ROOT / "build" / "panels"

LONGEST_STALL_S = 0.2


def picture(host: Any, widget: Any, name: str) -> None:
    """Leaves a picture of a panel, or of the main window, for the documentation and for whoever wants to look."""
    host.screenshot(widget, PICTURES / f"{name}.png")


def status(widget: Any) -> str:
    """The sentence that a panel shows below its Apply button."""
    return str(widget._controls._ui.jobStatusLabel.text)
