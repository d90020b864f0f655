"""Training pairs: crops of high-resolution images, and what a detector with larger pixels makes of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import PartialState
from numpy.typing import NDArray
from torch import Tensor

from svdrr.superres.degradation import Degradation
from svdrr.superres.interpolation import interpolate

_LEAST_GRAY = 0.03
_MARGIN = 6


@dataclass(frozen=True, eq=False)
class Pairs:
    """reduced: (batch, 1, h, w). interpolated: its bicubic enlargement, and truth, (batch, 1, h·scale, w·scale)."""

    reduced: Tensor
    interpolated: Tensor
    truth: Tensor


def draw_pairs(
    images: NDArray[np.uint16], scale: int, side: int, seed: tuple[int, ...], numbers: Iterable[int]
) -> Pairs:
    """Crops of `side` reduced pixels, from random images at random places, turned and flipped, one for each number.

    images: (n, rows, columns), 16 bit. numbers: which samples of a batch; each depends on `seed` and its own number
    alone, whichever others are drawn. Each has its own blur (FWHM 0.2 to 1 pixel), exposure (10^4.5 to 10^7 photons)
    and digitizer (12 to 16 bits), and its own display mapping afterwards: a gamma and a window.
    """
    samples = [_pair(images, scale, side, np.random.default_rng((*seed, number))) for number in numbers]
    device = PartialState().device
    return Pairs(*(torch.from_numpy(np.stack(part))[:, None].to(device) for part in zip(*samples, strict=True)))


def _pair(
    images: NDArray[np.uint16], scale: int, side: int, generator: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    fine = _oriented(_crop(images, scale * (side + 2 * _MARGIN), generator), generator)
    degradation = Degradation(
        scale,
        float(generator.uniform(0.2, 1.0)),
        float(10.0 ** generator.uniform(4.5, 7.0)),
        int(generator.integers(12, 17)),
    )
    gamma, low, high = generator.uniform((0.7, 0.0, 0.7), (1.4, 0.2, 1.1)).astype(np.float32)

    def displayed(gray: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(np.clip((gray**gamma - low) / (high - low), 0.0, 1.0), np.float32)

    reduced = displayed(degradation.expose(fine, generator))
    inner, margin = slice(_MARGIN, -_MARGIN), _MARGIN * scale
    finer = slice(margin, -margin)
    interpolated = interpolate(reduced, scale, "bicubic")
    return reduced[inner, inner], interpolated[finer, finer], displayed(fine)[finer, finer]


def _crop(images: NDArray[np.uint16], side: int, generator: np.random.Generator) -> NDArray[np.float32]:
    while True:
        index = generator.integers(len(images))
        row, column = generator.integers(0, np.array(images.shape[1:]) - side + 1)
        crop = images[index, row : row + side, column : column + side] / np.float32(65535.0)
        if crop.mean() > _LEAST_GRAY:
            return crop


def _oriented(crop: NDArray[np.float32], generator: np.random.Generator) -> NDArray[np.float32]:
    turned = np.rot90(crop, int(generator.integers(4)))
    return np.ascontiguousarray(turned[:, ::-1] if generator.random() < 0.5 else turned)
