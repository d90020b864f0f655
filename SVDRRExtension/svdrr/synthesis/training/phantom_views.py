"""Training and benchmark views: DRRs of procedural phantoms, one file per phantom."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from svdrr.ct.phantoms import ThoraxOptions, thorax_phantom
from svdrr.drr import attenuation, make_renderer, to_display
from svdrr.files import whole_file
from svdrr.geometry import CArmPose, Detector, View, relative_view_encoding
from svdrr.geometry.viewsets import Isocenter, hemisphere_views, simple_views

PHANTOM_SPACING_MM = 3.0
HEMISPHERE_LATTICE = 1500
HEMISPHERE_SAMPLES = 23
FIRST_HELD_OUT_SEED = 1_000_000
"""Phantoms for training have seeds from 0; phantoms for the benchmark start here."""


def training_poses(seed: int, isocenter_ras: Isocenter) -> list[CArmPose]:
    """PA, the 36 simple views, then a seeded sample of the paper's 1,500 hemisphere views: 60 poses."""
    lattice = hemisphere_views(HEMISPHERE_LATTICE, isocenter_ras)
    chosen = np.random.default_rng(seed).choice(np.arange(1, HEMISPHERE_LATTICE), HEMISPHERE_SAMPLES, replace=False)
    pa = CArmPose(isocenter_ras=isocenter_ras)
    return [pa, *simple_views(isocenter_ras), *(lattice[index] for index in sorted(chosen))]


def render_phantom(
    seed: int, poses_about: Callable[[Isocenter], Sequence[CArmPose]], pixels: int
) -> NDArray[np.float32]:
    """Radiographs (views, pixels, pixels) in [0, 1) of one phantom from poses about its center."""
    ct = thorax_phantom(seed, ThoraxOptions(spacing_mm=PHANTOM_SPACING_MM)).ct
    renderer = make_renderer(attenuation(ct), "siddon")
    detector = Detector.square(pixels)
    views = [View(pose, detector) for pose in poses_about(ct.isocenter_ras)]
    return np.stack([to_display(renderer.render(view)) for view in views])


def view_encodings(seed: int) -> NDArray[np.float32]:
    """Relative view encodings (60, 4) from PA to each training pose of a phantom."""
    poses = training_poses(seed, (0.0, 0.0, 0.0))
    return np.stack([relative_view_encoding(poses[0], pose) for pose in poses]).astype(np.float32)


def _write_phantom(seed: int, directory: Path, pixels: int) -> None:
    path = directory / f"{seed:07d}.safetensors"
    if path.exists():
        return
    radiographs = render_phantom(seed, partial(training_poses, seed), pixels)
    with whole_file(path) as temporary:
        save_file({"radiographs": np.round(radiographs * 65535.0).astype(np.uint16)}, temporary)


def build_phantom_views(directory: Path, seeds: range, pixels: int, processes: int = 2) -> None:
    """Writes one file of 16-bit radiographs per phantom; phantoms that are there already are kept."""
    directory.mkdir(parents=True, exist_ok=True)
    # Spawned: a process forked after torch has started its threads hangs in numba's.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for done, _ in enumerate(pool.map(partial(_write_phantom, directory=directory, pixels=pixels), seeds), 1):
            if done % 50 == 0:
                print(f"phantoms: {done} of {len(seeds)}", flush=True)


def load_phantom_views(directory: Path, seeds: range) -> NDArray[np.uint16]:
    """16-bit radiographs (phantoms, views, pixels, pixels) in the order of the seeds."""
    files = (directory / f"{seed:07d}.safetensors" for seed in seeds)
    return np.stack([load_file(file)["radiographs"] for file in files])
