"""Image metrics with their definitions."""

from __future__ import annotations

import numpy as np
import torch
from monai.metrics import PSNRMetric, SSIMMetric
from numpy.typing import NDArray


def psnr_db(images: NDArray[np.float32], truth: NDArray[np.float32]) -> NDArray[np.float64]:
    """Peak signal-to-noise ratio in dB per image, peak 1; images (N, rows, columns) in [0, 1]."""
    return _per_image(PSNRMetric(max_val=1.0), images, truth)


def ssim(images: NDArray[np.float32], truth: NDArray[np.float32]) -> NDArray[np.float64]:
    """Structural similarity per image (Wang et al., 2004): Gaussian window of 11 pixels, σ 1.5, data range 1."""
    return _per_image(SSIMMetric(spatial_dims=2, data_range=1.0), images, truth)


def _per_image(
    metric: PSNRMetric | SSIMMetric, images: NDArray[np.float32], truth: NDArray[np.float32]
) -> NDArray[np.float64]:
    first, second = (torch.from_numpy(np.ascontiguousarray(array))[:, None] for array in (images, truth))
    return np.asarray(metric(first, second).reshape(len(images)).double().numpy())
