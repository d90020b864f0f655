"""Training and benchmark views: DRRs of procedural phantoms, one file per phantom."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from svdrr.ct import CTVolume
from svdrr.ct.body import body_center_ras
from svdrr.ct.phantoms import ThoraxOptions, thorax_phantom
from svdrr.drr import attenuation, make_renderer, to_display
from svdrr.files import whole_file
from svdrr.geometry import CArmPose, Detector, View
from svdrr.geometry.viewsets import Isocenter, hemisphere_views, simple_views

HEMISPHERE_LATTICE = 1500
HEMISPHERE_SAMPLES = 32
SIMPLE = slice(1, 37)
"""Which of a phantom's views are the 36 `simple` ones; view 0 is PA."""
SOURCES = 4
"""From how many views of a phantom others are made: PA, and as the last views of its file, PA as it is taken."""
POSITIONING_ERROR_DEG = 4.0
POSITIONING_ERROR_MM = 12.0
"""In the plane of the PA view, where the source shows it; along its rays no model could know it."""
FIRST_HELD_OUT_SEED = 1_000_000
"""Phantoms for training have seeds from 0; phantoms for the benchmark start here."""


def training_poses(seed: int, isocenter_ras: Isocenter) -> list[CArmPose]:
    """The 72 views of a training phantom.

    PA, the 36 simple views, a seeded sample of 32 of the paper's 1,500 hemisphere views, and PA three times with an
    error of positioning.
    """
    generator = np.random.default_rng(seed)
    lattice = hemisphere_views(HEMISPHERE_LATTICE, isocenter_ras)
    chosen = np.sort(generator.choice(np.arange(1, HEMISPHERE_LATTICE), HEMISPHERE_SAMPLES, replace=False))
    errors = generator.uniform(-POSITIONING_ERROR_DEG, POSITIONING_ERROR_DEG, (SOURCES - 1, 2))
    return [
        CArmPose(isocenter_ras=isocenter_ras),
        *simple_views(isocenter_ras),
        *(lattice[index] for index in chosen),
        *(CArmPose(float(primary), float(secondary), isocenter_ras) for primary, secondary in errors),
    ]


def training_isocenter(seed: int, ct: CTVolume) -> Isocenter:
    """The middle of the body, missed a little to a side and up or down."""
    across, along = np.random.default_rng([seed, 3]).uniform(-POSITIONING_ERROR_MM, POSITIONING_ERROR_MM, 2).tolist()
    right, anterior, superior = body_center_ras(ct)
    return right + across, anterior, superior + along


def training_ct(seed: int) -> CTVolume:
    """The phantom of a seed; every second one of other proportions, and scanned with other limits."""
    ct = _phantom_ct(seed, 256)
    return _scanned_otherwise(ct, np.random.default_rng([seed, 2])) if seed % 2 else ct


def _scanned_otherwise(ct: CTVolume, generator: np.random.Generator) -> CTVolume:
    """The scan stretched along each axis, cut shorter above and below, and by a narrower field of view."""
    below, above = generator.uniform(0.0, (60.0, 40.0)) / ct.spacing_mm[2]
    hu = ct.hu[round(below) : len(ct.hu) - round(above)].copy()
    rows, columns = hu.shape[1:]
    spacing_mm = ct.spacing_mm[0]
    center = np.array([rows, columns]) / 2.0 + generator.uniform(-15.0, 15.0, 2) / spacing_mm
    distance = np.hypot(np.arange(rows)[:, None] - center[0], np.arange(columns) - center[1])
    hu[:, distance > 0.5 * generator.uniform(330.0, 520.0) / spacing_mm] = -1000.0

    ijk_to_ras = ct.ijk_to_ras.copy()
    ijk_to_ras[:3, 3] += ijk_to_ras[:3, 2] * round(below)
    stretch = 1.0 + np.array([0.07, 0.1, 0.06]) * np.clip(generator.standard_normal(3), -2.0, 2.0)
    return CTVolume(hu, np.diag([*stretch, 1.0]) @ ijk_to_ras)


def _phantom_ct(seed: int, pixels: int) -> CTVolume:
    return thorax_phantom(seed, ThoraxOptions(spacing_mm=3.0 if pixels <= 128 else 2.25)).ct


def _render(ct: CTVolume, poses: Sequence[CArmPose], pixels: int) -> NDArray[np.float32]:
    renderer = make_renderer(attenuation(ct), "joseph")
    detector = Detector.square(pixels)
    return np.stack([to_display(renderer.render(View(pose, detector))) for pose in poses])


def render_phantom(
    seed: int, poses_about: Callable[[Isocenter], Sequence[CArmPose]], pixels: int
) -> NDArray[np.float32]:
    """Radiographs (views, pixels, pixels) in [0, 1) of one phantom from poses about the middle of its body."""
    ct = _phantom_ct(seed, pixels)
    return _render(ct, poses_about(body_center_ras(ct)), pixels)


def _write_phantom(seed: int, directory: Path, pixels: int) -> None:
    path = directory / f"{seed:07d}.safetensors"
    if path.exists():
        return
    ct = training_ct(seed)
    poses = training_poses(seed, training_isocenter(seed, ct))
    radiographs = _render(ct, poses, pixels)
    angles = np.array([[pose.primary_deg, pose.secondary_deg] for pose in poses], np.float32)
    with whole_file(path) as temporary:
        save_file({"radiographs": np.round(radiographs * 65535.0).astype(np.uint16), "angles": angles}, temporary)


def build_phantom_views(directory: Path, seeds: range, pixels: int, processes: int = 2) -> None:
    """Writes one file of 16-bit radiographs per phantom; phantoms that are there already are kept."""
    directory.mkdir(parents=True, exist_ok=True)
    # Spawned: a process forked after torch has started its threads hangs in numba's.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for done, _ in enumerate(pool.map(partial(_write_phantom, directory=directory, pixels=pixels), seeds), 1):
            if done % 50 == 0:
                print(f"phantoms: {done} of {len(seeds)}", flush=True)


@dataclass(frozen=True, eq=False)
class PhantomViews:
    """radiographs: uint16 (phantoms, views, pixels, pixels). angles_deg: primary and secondary (phantoms, views, 2)."""

    radiographs: NDArray[np.uint16]
    angles_deg: NDArray[np.float32]


def load_phantom_views(directory: Path, seeds: range) -> PhantomViews:
    """The views of `build_phantom_views` in the order of the seeds."""
    files = [load_file(directory / f"{seed:07d}.safetensors") for seed in seeds]
    return PhantomViews(np.stack([file["radiographs"] for file in files]), np.stack([file["angles"] for file in files]))
