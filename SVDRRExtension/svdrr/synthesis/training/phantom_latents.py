"""What the demo models learn from: latents of phantom views, and of their sources as different machines take them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from safetensors.numpy import load_file

from svdrr.drr import from_display, to_display
from svdrr.geometry import CArmPose, relative_view_encoding
from svdrr.synthesis.lifting import LiftingNetwork
from svdrr.synthesis.training.latents import LatentSet, cache_back_projections, cache_latents, weights_sha256
from svdrr.synthesis.training.phantom_views import SOURCES

TARGETS = 36
"""Per phantom; encoding all views would cost as much time as much of the training."""


def as_acquired(radiograph: NDArray[np.float32], generator: np.random.Generator) -> NDArray[np.float32]:
    """A radiograph in [0, 1) as another beam, detector and display curve would have given it.

    The line integrals are scaled as from 55 to 95 keV instead of 70 (water, NIST), get the noise of 10⁴ to 10⁶ quanta
    per pixel in air, and go through a power curve.
    """
    line_integrals = from_display(radiograph) * np.float32(generator.uniform(0.88, 1.15))
    quanta = 10.0 ** generator.uniform(4.0, 6.0)
    # The error of -log(counts / quanta) for counts that follow Poisson's law.
    error = np.minimum(np.exp(0.5 * line_integrals) / np.sqrt(quanta), 1.0)
    noisy = np.maximum(line_integrals + error * generator.standard_normal(error.shape, np.float32), 0.0)
    gray = to_display(noisy)
    brightest = gray.max()
    exponent, gain = generator.uniform(0.8, 1.25), generator.uniform(0.9, 1.1)
    return np.clip(gain * brightest * (gray / brightest) ** exponent, 0.0, 1.0).astype(np.float32)


def phantom_latents(
    vae: AutoencoderKL,
    views: Path,
    seeds: range,
    pixels: int,
    directory: Path,
    back_projection_mm: float | None = None,
    lifting: LiftingNetwork | None = None,
    on_volume: Callable[[int, int], None] | None = None,
) -> LatentSet:
    """Per phantom `TARGETS` views, PA the first, and `SOURCES` sources: PA, and three `as_acquired` from about there.

    The relative views are counted from PA: how far a patient stood from it is not known in practice. views: the folder
    of `build_phantom_views`. pixels: per side; views that have more are averaged. back_projection_mm: as of `VCDiT`;
    lifting: as of `cache_back_projections`. Latents are kept in `directory`.
    """
    files = [views / f"{seed:07d}.safetensors" for seed in seeds]

    def radiographs_of(volume: int) -> Iterator[NDArray[np.float32]]:
        stored = load_file(files[volume])["radiographs"]
        yield from (_reduced(stored[index], pixels) for index in _targets(seeds[volume], len(stored)))
        generator = np.random.default_rng([seeds[volume], 4])
        yield from (as_acquired(_reduced(radiograph, pixels), generator) for radiograph in stored[1 - SOURCES :])

    sources = [0, *range(TARGETS, TARGETS + SOURCES - 1)]
    directory.mkdir(parents=True, exist_ok=True)
    identity = {"phantoms": f"{seeds.start}:{seeds.stop}", "vae": weights_sha256(vae)}
    latents, radiographs = cache_latents(
        vae,
        (len(seeds), TARGETS + SOURCES - 1, pixels),
        radiographs_of,
        sources,
        directory / "views",
        identity,
        on_volume,
    )
    encodings = np.stack([_encodings(file, seed) for file, seed in zip(files, seeds, strict=True)])
    found = LatentSet(
        latents[:, :TARGETS], radiographs, latents[:, sources], np.repeat(encodings[:, None], SOURCES, axis=1)
    )
    if back_projection_mm is None:
        return found
    seen = directory / "back-projections"
    return cache_back_projections(vae, found, back_projection_mm, seen, identity, lifting, on_volume)


def _targets(seed: int, views: int) -> NDArray[np.int64]:
    """PA, which is view 0, and a seeded choice of the others."""
    others = np.random.default_rng(seed).choice(np.arange(1, views - SOURCES + 1), TARGETS - 1, replace=False)
    return np.concatenate([[0], np.sort(others)])


def _encodings(file: Path, seed: int) -> NDArray[np.float32]:
    """Relative views (TARGETS, 4) from PA to a phantom's targets."""
    angles = load_file(file)["angles"].astype(np.float64)
    poses = [CArmPose(*angles[index]) for index in _targets(seed, len(angles))]
    return np.array([relative_view_encoding(CArmPose(), pose) for pose in poses], np.float32)


def _reduced(radiograph: NDArray[np.uint16], pixels: int) -> NDArray[np.float32]:
    """In [0, 1], averaged over whole blocks of pixels down to `pixels` per side."""
    factor = len(radiograph) // pixels
    blocks = radiograph.reshape(pixels, factor, pixels, factor)
    return np.asarray(blocks.mean(axis=(1, 3)) / 65535.0, np.float32)
