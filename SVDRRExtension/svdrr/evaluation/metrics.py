"""Image metrics with their definitions, on what 3D Slicer ships: numpy and scipy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d

# The window and the constants of Wang et al., 2004, for a data range of 1.
_RADIUS, _SIGMA = 5, 1.5
_C1, _C2 = 0.01**2, 0.03**2


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


def _ssim(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    mean_x, mean_y = _local_mean(x), _local_mean(y)
    variances = _local_mean(x * x) - mean_x**2 + _local_mean(y * y) - mean_y**2
    covariance = _local_mean(x * y) - mean_x * mean_y
    luminance = (2.0 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    return float((luminance * (2.0 * covariance + _C2) / (variances + _C2)).mean())


def _local_mean(image: NDArray[np.float64]) -> NDArray[np.float64]:
    window = np.exp(-0.5 * (np.arange(-_RADIUS, _RADIUS + 1) / _SIGMA) ** 2)
    window /= window.sum()
    for axis in (0, 1):
        image = correlate1d(image, window, axis)
    return np.asarray(image[_RADIUS:-_RADIUS, _RADIUS:-_RADIUS])
