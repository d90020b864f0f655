"""`peak_memory.py ENGINE MU.npz SIDE`: prints the MB that one view takes above the volume, in a process of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from svdrr.drr import AttenuationVolume, Renderer, make_renderer
from svdrr.geometry import CArmPose, Detector, View


def on_cpu(volume: AttenuationVolume, engine: str) -> Renderer:
    """The engine on the CPU, also where nanodrr would take a GPU."""
    if engine == "nanodrr":
        from svdrr.drr.nanodrr import NanoDRRRenderer

        return NanoDRRRenderer(volume, "cpu")
    return make_renderer(volume, engine)


def peak_bytes() -> int:
    """The largest resident size of this process since `clear_refs`; Linux only."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 2**10


def main() -> None:
    engine, file, side = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    # Libraries and compiled kernels are not what is measured.
    small = AttenuationVolume(np.ones((8, 8, 8), np.float32), np.eye(4))
    on_cpu(small, engine).render(View(CArmPose(), Detector.square(16, 10.0)))
    with np.load(file) as stored:
        volume, isocenter = AttenuationVolume(stored["mu"], stored["ijk_to_ras"]), tuple(stored["isocenter"].tolist())
    # Compiling and unpacking took more than rendering does: the kernel forgets that peak here (proc(5), clear_refs).
    Path("/proc/self/clear_refs").write_text("5")
    loaded = peak_bytes()
    on_cpu(volume, engine).render(View(CArmPose(45.0, 20.0, isocenter), Detector.square(side)))
    print((peak_bytes() - loaded) / 2**20)


if __name__ == "__main__":
    main()
