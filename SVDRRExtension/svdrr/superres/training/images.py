"""High-resolution training images: DRRs of fine phantoms, rendered natively, with fine structure drawn over them."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
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
from svdrr.geometry.viewsets import hemisphere_views
from svdrr.superres.training.overlays import add_overlays

PIXELS = 1024
VIEWS = 4
SPACING_MM = 1.2
VALIDATION_SEEDS = range(900_000, 900_002)
"""Phantoms that training never sees, and that settings are chosen on; the benchmark has others."""
_HEMISPHERE_LATTICE = 1500


def training_image_set(seed: int) -> NDArray[np.uint16]:
    """16-bit radiographs (VIEWS, PIXELS, PIXELS) of the phantom of a seed, fine structure and all.

    Views are PA and others of the hemisphere; detectors of 200 to 480 mm make the phantom's own edges fine or coarse.
    """
    generator = np.random.default_rng([seed, 7])
    ct = _scanned(thorax_phantom(seed, ThoraxOptions(spacing_mm=SPACING_MM)).ct, generator)
    renderer = make_renderer(attenuation(ct), "joseph")
    isocenter = body_center_ras(ct)
    poses = [CArmPose(isocenter_ras=isocenter)]
    hemisphere = hemisphere_views(_HEMISPHERE_LATTICE, isocenter)
    poses += [hemisphere[index] for index in generator.choice(len(hemisphere), VIEWS - 1, replace=False)]
    images = []
    for pose in poses:
        detector = Detector.square(PIXELS, float(generator.uniform(200.0, 480.0)))
        images.append(to_display(add_overlays(renderer.render(View(pose, detector)), generator)))
    return np.round(np.stack(images) * 65535.0).astype(np.uint16)


def _scanned(ct: CTVolume, generator: np.random.Generator) -> CTVolume:
    """With the noise of a CT scan, and slices of one to three times the voxels' height."""
    noise = generator.standard_normal(ct.hu.shape, np.float32) * np.float32(generator.uniform(0.0, 60.0))
    hu = ct.hu + np.where(ct.hu > -1000.0, noise, np.float32(0.0))
    together = int(generator.integers(1, 4))
    slices = len(hu) // together
    hu = hu[: slices * together].reshape(slices, together, *hu.shape[1:]).mean(axis=1)
    stacked = np.diag([1.0, 1.0, together, 1.0])
    stacked[2, 3] = 0.5 * (together - 1)
    return CTVolume(hu, ct.ijk_to_ras @ stacked)


def _write(seed: int, directory: Path) -> None:
    with whole_file(_file(directory, seed)) as temporary:
        save_file({"radiographs": training_image_set(seed)}, temporary)


def _file(directory: Path, seed: int) -> Path:
    return directory / f"{seed:07d}.safetensors"


def build_images(directory: Path, seeds: list[int], processes: int = 2) -> None:
    """Writes the images of each phantom to a file; phantoms that are there already are kept."""
    missing = [seed for seed in seeds if not _file(directory, seed).exists()]
    if not missing:
        return
    directory.mkdir(parents=True, exist_ok=True)
    # Spawned: a process forked after torch has started its threads hangs in numba's.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for done, _ in enumerate(pool.map(partial(_write, directory=directory), missing), 1):
            if done % 10 == 0:
                print(f"phantoms: {done} of {len(missing)}", flush=True)


def load_images(directory: Path, seeds: list[int]) -> NDArray[np.uint16]:
    """The images of `build_images`, (phantoms · VIEWS, PIXELS, PIXELS), in the order of the seeds."""
    return np.concatenate([load_file(_file(directory, seed))["radiographs"] for seed in seeds])
