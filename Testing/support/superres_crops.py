"""Draws the pictures of Docs/super-resolution.md: what each method makes of the same small crops."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
from bench_superres import cr_radiograph, detector_of

from svdrr.evaluation.metrics import psnr_db
from svdrr.radiograph import Radiograph
from svdrr.superres import enhance, uncertainty
from svdrr.superres.training.images import build_images, load_images
from svdrr.synthesis.training.phantom_views import FIRST_HELD_OUT_SEED

SCALE = 4
SIDE = 160
SURROUNDINGS = 120
"""True pixels about a crop that are enlarged with it."""
METHODS = ("bicubic", "regression", "lcmsr", "deltadiff")


@dataclass(frozen=True)
class Crop:
    """row, column: of its first pixel in the true image; a multiple of `SCALE`."""

    title: str
    images: str
    number: int
    row: int
    column: int


CROPS = (
    Crop("ribs", "CR radiograph", 0, 220, 400),
    Crop("vertebrae", "CR radiograph", 0, 160, 820),
    Crop("marker", "phantoms", 0, 340, 544),
    Crop("fails: small letters", "phantoms", 0, 864, 24),
)


def main(path: Path) -> None:
    cache = Path("build/bench-superres")
    build_images(cache, [FIRST_HELD_OUT_SEED])
    phantoms = load_images(cache, [FIRST_HELD_OUT_SEED]) / np.float32(65535.0)
    truths = {"CR radiograph": [cr_radiograph()], "phantoms": list(phantoms)}
    columns = ("input", *METHODS, "truth", "uncertainty")
    figure, axes = plt.subplots(
        len(CROPS),
        len(columns),
        figsize=(2.1 * len(columns), 2.35 * len(CROPS)),
        facecolor="black",
        layout="constrained",
    )
    for crop, row in zip(CROPS, axes, strict=True):
        whole = truths[crop.images][crop.number]
        first = np.maximum((crop.row - SURROUNDINGS, crop.column - SURROUNDINGS), 0)
        last = np.minimum((crop.row + SIDE + SURROUNDINGS, crop.column + SIDE + SURROUNDINGS), whole.shape)
        truth = np.ascontiguousarray(whole[first[0] : last[0], first[1] : last[1]])
        source = Radiograph(detector_of(crop.images, SCALE).expose(truth, np.random.default_rng(crop.number)))
        images = {"input": np.kron(source.pixels, np.ones((SCALE, SCALE), np.float32)), "truth": truth}
        images |= {method: enhance(source, method, SCALE).pixels for method in METHODS}
        images["uncertainty"] = uncertainty(source, SCALE).pixels
        row_in, column_in = crop.row - first[0], crop.column - first[1]
        part = np.s_[row_in : row_in + SIDE, column_in : column_in + SIDE]
        low, high = np.percentile(truth[part], (0.5, 99.5))
        for name, axis in zip(columns, row, strict=True):
            shown = images[name][part]
            is_map = name == "uncertainty"
            axis.imshow(
                100.0 * shown if is_map else shown,
                cmap="inferno" if is_map else "gray",
                vmin=0.0 if is_map else low,
                vmax=1.0 if is_map else high,
            )
            axis.set_title(caption(name, shown, truth[part]), color="white", fontsize=8)
            axis.set_xticks([])
            axis.set_yticks([])
        row[0].set_ylabel(crop.title, color="white", fontsize=10)
    figure.suptitle(
        f"x{SCALE} super-resolution, {SIDE} x {SIDE} pixels each: computed images, not for diagnosis. "
        "Uncertainty of lcmsr: standard deviation over 8 seeds, 0 (black) to 1 % of the gray range.",
        color="white",
        fontsize=10,
    )
    figure.savefig(path, dpi=100)


def caption(name: str, shown: NDArray[np.float32], truth: NDArray[np.float32]) -> str:
    """With the PSNR of the crop where there is one."""
    if name in METHODS:
        return f"{name}, {psnr_db(shown[None], truth[None])[0]:.1f} dB"
    return name


if __name__ == "__main__":
    main(Path(sys.argv[1]))
