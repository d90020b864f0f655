"""Renders views with another project's engine: `peer_worker.py {plastimatch,rtk} MU.mha FOLDER`.

Runs in the peers' environment and knows nothing of svdrr. MU.mha: μ in 1/mm, axes along LPS. Answers one JSON line
on stdout when it is ready, then one for every JSON line on stdin, a view in LPS millimeters. An answer holds the path
of the image (.npy in FOLDER, row 0 at the top), the seconds of rendering without loading the volume, and the peak
memory in MB above the volume so far.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

View = dict[str, Any]
Rendered = tuple[np.ndarray, float, float]


def peak_mb(who: int) -> float:
    return resource.getrusage(who).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def plastimatch(mu: Path, folder: Path) -> Callable[[View], Rendered]:
    """A process per view, since its wheel holds a program only; it reads the volume anew each time.

    The time is the program's own: `Total time`, which starts after the volume is read and ends after the image is
    written, less `I/O time`, the writing. The memory is that of the process less the volume's file.
    """
    import plastimatch as package

    program = Path(package.__file__).parent / "bin" / "plastimatch"
    if not program.exists():
        program = program.with_suffix(".exe")
    volume_mb = mu.stat().st_size / 2**20

    def render(view: View) -> Rendered:
        def numbers(values: list[float]) -> str:
            return " ".join(repr(value) for value in values)

        prefix = folder / "plastimatch"
        size_mm = [view["rows"] * view["spacing_mm"][0], view["columns"] * view["spacing_mm"][1]]
        options = {
            "--threading": "cpu",
            "--algorithm": "exact",
            "--hu-conversion": "none",
            "--output-format": "pfm",
            "--dim": f"{view['rows']} {view['columns']}",
            "--detector-size": numbers(size_mm),
            "--sad": repr(view["source_to_isocenter_mm"]),
            "--sid": repr(view["source_to_detector_mm"]),
            "--nrm": numbers(view["toward_source"]),
            "--vup": numbers([-value for value in view["down"]]),
            "--isocenter": numbers(view["isocenter"]),
            "--output": str(prefix),
            "--input": str(mu),
        }
        arguments = [part for option in options.items() for part in option]
        output = subprocess.run([program, "drr", *arguments], check=True, capture_output=True, text=True).stdout
        found = {what: re.search(rf"{what} time: ([0-9.e+-]+) sec", output) for what in ("Total", "I/O")}
        if found["Total"] is None or found["I/O"] is None:
            raise RuntimeError("the program printed no times")
        seconds = float(found["Total"][1]) - float(found["I/O"][1])
        (file,) = folder.glob("plastimatch*.pfm")
        header, pixels = file.read_bytes().split(b"-1\n", 1)
        if not header.startswith(b"Pf"):
            raise RuntimeError("the program wrote no gray PFM file")
        image = np.frombuffer(pixels, "<f4").reshape(view["rows"], view["columns"])
        file.unlink()
        # It integrates in cm, and its columns run the other way.
        return image[:, ::-1] * np.float32(10.0), seconds, peak_mb(resource.RUSAGE_CHILDREN) - volume_mb

    return render


def rtk(mu: Path, folder: Path) -> Callable[[View], Rendered]:
    """RTK's Joseph filter with the volume resident. The time is that of its update; geometry and zeros are given."""
    import itk
    from itk import RTK

    image_type = itk.Image[itk.F, 3]
    # itk loads its libraries when they are first asked for; they are not to count as memory of rendering.
    RTK.JosephForwardProjectionImageFilter[image_type, image_type].New()
    RTK.ThreeDCircularProjectionGeometry.New()
    volume = itk.imread(str(mu), itk.F)
    loaded_mb = resident_mb()

    def filled(kind: Any, values: list[float]) -> Any:
        result = kind[itk.D, 3]()
        for axis, value in enumerate(values):
            result.SetElement(axis, value)
        return result

    def render(view: View) -> Rendered:
        geometry = RTK.ThreeDCircularProjectionGeometry.New()
        source, center = (filled(itk.Point, view[name]) for name in ("source", "detector_center"))
        right, down = (filled(itk.Vector, view[name]) for name in ("right", "down"))
        if not geometry.AddProjection(source, center, right, down):
            raise RuntimeError("RTK refused the geometry")
        rows, columns = view["rows"], view["columns"]
        row_mm, column_mm = view["spacing_mm"]
        stack = itk.image_from_array(np.zeros((1, rows, columns), np.float32))
        stack.SetSpacing([column_mm, row_mm, 1.0])
        stack.SetOrigin([-(columns - 1) / 2.0 * column_mm, -(rows - 1) / 2.0 * row_mm, 0.0])
        projector = RTK.JosephForwardProjectionImageFilter[image_type, image_type].New()
        projector.SetGeometry(geometry)
        projector.SetInput(0, stack)
        projector.SetInput(1, volume)
        start = time.perf_counter()
        projector.Update()
        seconds = time.perf_counter() - start
        image = itk.array_from_image(projector.GetOutput())[0]
        return image, seconds, max(peak_mb(resource.RUSAGE_SELF) - loaded_mb, 0.0)

    return render


def main() -> None:
    name, mu, folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    # Answers have standard output to themselves: libraries that print go to standard error.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    try:
        render = {"plastimatch": plastimatch, "rtk": rtk}[name](mu, folder)
        print(json.dumps({"ready": True}), file=answers)
        for line in sys.stdin:
            image, seconds, above_volume_mb = render(json.loads(line))
            file = folder / f"{name}.npy"
            np.save(file, image)
            print(json.dumps({"image": str(file), "seconds": seconds, "peak_mb": above_volume_mb}), file=answers)
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), file=answers)


if __name__ == "__main__":
    main()
