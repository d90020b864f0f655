"""`superres_worker.py peak|large SETTINGS SCALE SIDE`: what one image takes, in a process of its own, as JSON."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from bench_superres import cr_radiograph
from numpy.typing import NDArray
from peak_memory import peak_bytes

from svdrr.models.registry import super_resolution_folder
from svdrr.radiograph import Radiograph
from svdrr.superres import enhance

SEAM_SIDE = 800
"""Of the part that is also computed in one piece, which takes gigabytes; it is 16 tiles of `SEAM_CORE`."""
SEAM_CORE = 200


def source(side: int) -> Radiograph:
    """The real radiograph, mirrored at its edges where it is too small, in 16 bit."""
    pixels = cr_radiograph()
    missing = [(0, max(0, side - length)) for length in pixels.shape]
    mirrored = np.pad(pixels, missing, mode="symmetric")[:side, :side]
    return Radiograph(np.round(mirrored * 65535.0).astype(np.float32) / np.float32(65535.0))


def measured(radiograph: Radiograph, scale: int, settings: dict[str, Any]) -> dict[str, float]:
    """Weights and libraries are loaded before, and what they need is not counted."""
    enhance(Radiograph(radiograph.pixels[:16, :16]), scale=scale, device="cpu", **settings)
    # The kernel forgets the peak until now (proc(5), clear_refs).
    Path("/proc/self/clear_refs").write_text("5")
    before, began = peak_bytes(), time.perf_counter()
    enhance(radiograph, scale=scale, device="cpu", **settings)
    return {"seconds": time.perf_counter() - began, "peak_mb": (peak_bytes() - before) / 2**20}


def seam_levels(pixels: NDArray[np.float32], scale: int, method: str) -> float:
    """The largest difference of tiles from the whole, in gray levels of 4,096."""
    from svdrr.superres.learned import enlarge, load_network

    folder = super_resolution_folder(method, scale)
    assert folder is not None
    network = load_network(method, folder, "cpu")
    part = np.ascontiguousarray(pixels[600 : 600 + SEAM_SIDE, 600 : 600 + SEAM_SIDE])
    tiled, whole = (enlarge(part, network, core=core) for core in (SEAM_CORE, SEAM_SIDE))
    return 4096.0 * float(np.abs(tiled - whole).max())


def main() -> None:
    what, settings, scale, side = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    radiograph = source(side)
    result = measured(radiograph, scale, settings)
    if what == "large":
        result["seam_levels"] = seam_levels(radiograph.pixels, scale, settings["method"])
    print(json.dumps(result))


if __name__ == "__main__":
    main()
