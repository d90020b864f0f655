"""Distortions of known kind and strength, for training the feature distance and for testing it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn, idctn
from scipy.ndimage import gaussian_filter, map_coordinates

Image = NDArray[np.float32]
"""Square radiograph in [0, 1]; its side a multiple of 8."""


def blur(image: Image, strength: float, generator: np.random.Generator) -> Image:
    """Gaussian of σ 4 pixels at full strength, of 1 at half: the finest detail is what goes first."""
    return np.asarray(gaussian_filter(image, 4.0 * strength**2, mode="nearest"))


def pixels(image: Image, strength: float, generator: np.random.Generator) -> Image:
    """Averaged over squares of up to 7 pixels, which then show; where the squares lie is random."""
    size = 1 + max(1, round(6.0 * strength))
    offset = generator.integers(0, size, 2)
    groups = [(np.arange(side) + shift) // size for side, shift in zip(image.shape, offset, strict=True)]
    starts = [np.flatnonzero(np.diff(group, prepend=-1)) for group in groups]
    sums = np.add.reduceat(np.add.reduceat(image, starts[0], axis=0), starts[1], axis=1)
    counts = np.outer(*(np.diff([*start, side]) for start, side in zip(starts, image.shape, strict=True)))
    means = (sums / counts).astype(np.float32)
    return means[np.ix_(*(group - group[0] for group in groups))]


def warp(image: Image, strength: float, generator: np.random.Generator) -> Image:
    """Smooth displacements, 3 pixels (root mean square of each component) at full strength."""
    reach = generator.uniform(6.0, 16.0)
    field = gaussian_filter(generator.standard_normal((2, *image.shape)), (0.0, reach, reach), mode="wrap")
    field *= 3.0 * strength / field.std()
    positions = np.indices(image.shape) + field
    return np.asarray(map_coordinates(image, positions, order=1, mode="nearest"))


def lose_structure(image: Image, strength: float, generator: np.random.Generator) -> Image:
    """Detail fades in round patches, all of it in four of five parts of the image at full strength."""
    pattern = gaussian_filter(generator.standard_normal(image.shape), generator.uniform(4.0, 10.0), mode="wrap")
    level = np.quantile(pattern, 1.0 - 0.8 * strength)
    inside = gaussian_filter((pattern > level).astype(np.float32), 1.5)
    return image + inside * (gaussian_filter(image, 6.0, mode="nearest") - image)


def blocks(image: Image, strength: float, generator: np.random.Generator) -> Image:
    """The cosine transform of blocks of 8 x 8 pixels, coarsely quantized, as JPEG does at low quality."""
    side = image.shape[0] // 8
    tiles = image.reshape(side, 8, side, 8).transpose(0, 2, 1, 3)
    step = 0.05 * strength * (1.0 + 0.5 * np.add.outer(np.arange(8), np.arange(8)))
    coarse = idctn(np.round(dctn(tiles, axes=(2, 3), norm="ortho") / step) * step, axes=(2, 3), norm="ortho")
    return coarse.transpose(0, 2, 1, 3).reshape(image.shape).astype(np.float32)


def gray_curve(image: Image, strength: float, generator: np.random.Generator) -> Image:
    """A power of the gray values: 1.5, or 1 / 1.5, at full strength."""
    return np.asarray(np.clip(image, 0.0, 1.0) ** (1.5 ** (strength * generator.choice([-1.0, 1.0]))), np.float32)


def noise(image: Image, strength: float, generator: np.random.Generator) -> Image:
    """Gaussian noise of standard deviation 0.05 at full strength, white or with a grain of up to 1 pixel."""
    grain = gaussian_filter(
        generator.standard_normal(image.shape), generator.choice([0.0, generator.uniform(0.3, 1.0)])
    )
    return np.asarray(image + 0.05 * strength * grain / grain.std(), np.float32)


DISTORTIONS: dict[str, Callable[[Image, float, np.random.Generator], Image]] = {
    "blur": blur,
    "pixels": pixels,
    "warp": warp,
    "lost structure": lose_structure,
    "blocks": blocks,
    "gray curve": gray_curve,
    "noise": noise,
}
"""Of one image; by the names of `svdrr.evaluation.feature_distance.HARM`. Strengths in 0 to 1, above 0."""
