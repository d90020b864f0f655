"""The DRR Generator's live preview: from a slider that moves to the new pixels in the panel, and how the window fares.

The panel is the real one on the test host, and the backend a process of its own that renders on the CPU.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "Testing" / "support"))

from backend_environment import write_backend_environment  # noqa: E402
from slicer_host import host  # noqa: E402

from svdrr.ct import CTVolume  # noqa: E402
from svdrr.ct.phantoms import ThoraxOptions, thorax_phantom  # noqa: E402
from svdrr.files import whole_file  # noqa: E402
from svdrr.mrml.backend import choose_backend, stop_local_backends  # noqa: E402

MOVES, DRAG_S, FIRST_WITHIN_S, WITHIN_S = 40, 5.0, 600.0, 30.0
# Of a mouse that drags a slider.
MOVES_PER_S = 60.0
LARGE_TIMES = 3


@dataclass(frozen=True)
class Figure:
    """One line of the report."""

    ct: str
    what: str
    value: float
    unit: str


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the small CT only, and fewer moves")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        host.start([ROOT / "SlicerModules" / "DRRGenerator"])
        try:
            from svdrr.mrml.backend import BackendChoice

            choose_backend(BackendChoice(environment=write_backend_environment(Path(folder, "backend"))))
            small = thorax_phantom(5, ThoraxOptions(table=True)).ct
            cts = [small] if arguments.quick else [small, enlarged(small, LARGE_TIMES)]
            panel = host.select("DRRGenerator")
            figures = [figure for ct in cts for figure in measured(panel, ct, MOVES // (4 if arguments.quick else 1))]
        finally:
            host.stop()
            stop_local_backends()
    table = Table("CT", "what", "figure", "unit")
    for figure in figures:
        table.add_row(figure.ct, figure.what, f"{figure.value:,.4g}", figure.unit)
    Console().print(table)
    if arguments.json is not None:
        with whole_file(arguments.json) as file:
            file.write_text(json.dumps([vars(figure) for figure in figures], indent=1), encoding="utf-8")


def enlarged(ct: CTVolume, times: int) -> CTVolume:
    """The same body in smaller voxels, as many as a scan with thin slices has."""
    hu = ct.hu
    for axis in range(3):
        hu = np.repeat(hu, times, axis)
    ijk_to_ras = ct.ijk_to_ras.copy()
    ijk_to_ras[:3, :3] /= times
    return CTVolume(hu, ijk_to_ras)


def measured(panel: Any, ct: CTVolume, moves: int) -> list[Figure]:
    """Figures of one CT in the panel."""
    from svdrr.mrml import ct_to_node

    name = " x ".join(map(str, ct.hu.shape[::-1])) + " voxels"
    node = ct_to_node(ct, name)
    host.process_events(0.5)
    host.reset_stalls()
    began = time.monotonic()
    panel.ui.inputSelector.setCurrentNode(node)
    shown(panel, "PA", FIRST_WITHIN_S)
    figures = [
        Figure(name, "first preview, with table removal", time.monotonic() - began, "s"),
        Figure(name, "longest gap in the event loop until then", 1000.0 * host.stalls(), "ms"),
    ]

    host.reset_stalls()
    waits_ms = []
    for number in range(1, moves + 1):
        angle = float(number)
        began = time.monotonic()
        panel.ui.primaryDegSlider.value = angle
        shown(panel, f"LAO {angle:g}°", WITHIN_S)
        waits_ms.append(1000.0 * (time.monotonic() - began))
    figures += [
        Figure(name, f"move to pixels, {percent:.0f} % within", float(np.percentile(waits_ms, percent)), "ms")
        for percent in (50.0, 90.0, 100.0)
    ]

    seen: set[str] = set()
    began = time.monotonic()
    while (elapsed_s := time.monotonic() - began) < DRAG_S:
        panel.ui.primaryDegSlider.value = -90.0 + 170.0 * elapsed_s / DRAG_S
        host.process_events(1.0 / MOVES_PER_S)
        seen.add(panel.ui.previewStatusLabel.text)
    began = time.monotonic()
    panel.ui.primaryDegSlider.value = 90.0
    shown(panel, "left lateral", WITHIN_S)
    figures += [
        Figure(name, f"previews while dragged for {DRAG_S:g} s", len(seen) / DRAG_S, "1/s"),
        Figure(name, "end of the drag to its pixels", 1000.0 * (time.monotonic() - began), "ms"),
        Figure(name, "longest gap in the event loop", 1000.0 * host.stalls(), "ms"),
    ]
    panel.ui.primaryDegSlider.value = 0.0
    shown(panel, "PA", WITHIN_S)
    return figures


def shown(panel: Any, label: str, within_s: float) -> None:
    """Waits until the panel shows the preview of this view."""
    until = time.monotonic() + within_s
    while not panel.ui.previewStatusLabel.text.startswith(f"Preview: {label}. "):
        if time.monotonic() > until:
            raise TimeoutError(f"no preview of {label}: {panel.ui.previewStatusLabel.text}")
        host.process_events(0.002)


if __name__ == "__main__":
    main()
