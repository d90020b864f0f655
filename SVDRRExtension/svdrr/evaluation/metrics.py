"""Image metrics with their definitions, on what 3D Slicer ships: numpy and scipy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d

# The window and the constants of Wang et al., 2004, for a data range of 1.
_RADIUS, _SIGMA = 5, 1.5
_C1, _C2 = 0.01**2, 0.03**2
# Wang et al., 2003, section 4: the finest scale first.
_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def psnr_db(images: NDArray[np.float32], truth: NDArray[np.float32]) -> NDArray[np.float64]:
    """Peak signal-to-noise ratio in dB per image, peak 1; images (N, rows, columns) in [0, 1].

    Infinite for equal images.
    """
    error = images.astype(np.float64) - truth
    with np.errstate(divide="ignore"):
        return np.asarray(-10.0 * np.log10((error**2).mean(axis=(1, 2))))


def ssim(images: NDArray[np.float32], truth: NDArray[np.float32]) -> NDArray[np.float64]:
    """Structural similarity per image (Wang et al., 2004): Gaussian window of 11 pixels, σ 1.5, data range 1.

    images: (N, rows, columns), at least 11 x 11 pixels; the window stays inside.
    """
    pairs = zip(images.astype(np.float64), truth.astype(np.float64), strict=True)
    return np.array([_ssim(image, true) for image, true in pairs])


def ms_ssim(images: NDArray[np.float32], truth: NDArray[np.float32]) -> NDArray[np.float64]:
    """Multi-scale structural similarity per image (Wang, Simoncelli, Bovik, 2003, equation 7), data range 1.

    images: (N, rows, columns), at least 11 x 11 pixels. Five scales, each of half the size, weighted as in the paper;
    images below 176 pixels have only as many scales as hold the window, at 128 pixels four, whose weights are then
    scaled to add up to 1. Negative terms count as 0.
    """
    pairs = zip(images.astype(np.float64), truth.astype(np.float64), strict=True)
    return np.array([_ms_ssim(image, true) for image, true in pairs])


def _ms_ssim(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    scales = [number for number in range(len(_SCALE_WEIGHTS)) if min(x.shape) >> number >= 2 * _RADIUS + 1]
    weights = np.array(_SCALE_WEIGHTS[: len(scales)])
    product = 1.0
    for number, weight in zip(scales, weights / weights.sum(), strict=True):
        luminance, structure = _terms(x, y)
        term = (luminance * structure if number == scales[-1] else structure).mean()
        product *= max(float(term), 0.0) ** weight
        x, y = _halved(x), _halved(y)
    return product


def _ssim(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    luminance, structure = _terms(x, y)
    return float((luminance * structure).mean())


def _terms(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(luminance, contrast and structure) at every place of the window."""
    mean_x, mean_y = _local_mean(x), _local_mean(y)
    variances = _local_mean(x * x) - mean_x**2 + _local_mean(y * y) - mean_y**2
    covariance = _local_mean(x * y) - mean_x * mean_y
    luminance = (2.0 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    return luminance, (2.0 * covariance + _C2) / (variances + _C2)


def _halved(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of squares of 2 x 2 pixels; an odd last row or column is left out."""
    rows, columns = (side // 2 for side in image.shape)
    return np.asarray(image[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2).mean(axis=(1, 3)))


def _local_mean(image: NDArray[np.float64]) -> NDArray[np.float64]:
    window = np.exp(-0.5 * (np.arange(-_RADIUS, _RADIUS + 1) / _SIGMA) ** 2)
    window /= window.sum()
    for axis in (0, 1):
        image = correlate1d(image, window, axis)
    return np.asarray(image[_RADIUS:-_RADIUS, _RADIUS:-_RADIUS])
