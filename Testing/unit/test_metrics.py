"""PSNR, SSIM and MS-SSIM agree with MONAI's, and load nothing that 3D Slicer does not ship."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from monai.metrics import MultiScaleSSIMMetric, PSNRMetric, SSIMMetric

from svdrr.evaluation.metrics import ms_ssim, psnr_db, ssim


def image_pairs(height: int = 40, width: int = 33) -> tuple[np.ndarray, np.ndarray]:
    """Smooth images, from nearly equal to very different, float32 (4, height, width) in [0, 1]."""
    rng = np.random.default_rng(3)
    rows, columns = np.mgrid[:height, :width] / 40.0
    truth = np.stack([0.5 + 0.4 * np.sin(4.0 * rows + shift) * np.cos(6.0 * columns) for shift in range(4)])
    noise = rng.normal(0.0, 1.0, truth.shape) * np.array([0.01, 0.05, 0.2, 0.6])[:, None, None]
    return np.clip(truth + noise, 0.0, 1.0).astype(np.float32), truth.astype(np.float32)


def test_they_agree_with_monai() -> None:
    images, truth = image_pairs()
    first, second = (torch.from_numpy(array)[:, None] for array in (images, truth))
    expected_psnr = PSNRMetric(max_val=1.0)(first, second).reshape(-1).numpy()
    expected_ssim = SSIMMetric(spatial_dims=2, data_range=1.0)(first, second).reshape(-1).numpy()
    np.testing.assert_allclose(psnr_db(images, truth), expected_psnr, atol=1e-4)
    np.testing.assert_allclose(ssim(images, truth), expected_ssim, atol=1e-4)


@pytest.mark.parametrize(
    ("height", "width", "weights"),
    [
        (187, 176, (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)),
        (128, 175, tuple(np.array([0.0448, 0.2856, 0.3001, 0.2363]) / 0.8668)),
    ],
)
def test_multiple_scales_agree_with_monai(height: int, width: int, weights: tuple[float, ...]) -> None:
    images, truth = image_pairs(height, width)
    first, second = (torch.from_numpy(array)[:, None] for array in (images, truth))
    expected = MultiScaleSSIMMetric(spatial_dims=2, data_range=1.0, weights=weights)(first, second)
    values = ms_ssim(images, truth)
    np.testing.assert_allclose(values, expected.reshape(-1).numpy(), atol=1e-4)
    assert np.ptp(values) > 0.2


def test_equal_images_are_perfect() -> None:
    _, truth = image_pairs()
    assert np.isposinf(psnr_db(truth, truth)).all()
    np.testing.assert_allclose(ssim(truth, truth), 1.0)
    np.testing.assert_allclose(ms_ssim(truth, truth), 1.0)


def test_they_need_no_torch() -> None:
    program = "import sys, svdrr.evaluation.metrics; sys.exit('torch' in sys.modules or 'monai' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
