"""LPIPS with weights that the user supplies: they are others' work, and this software downloads nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from svdrr.errors import SVDRRError

# AlexNet's convolutions: names in the package lpips, shapes, strides, paddings, and whether a pooling precedes.
_LAYERS = (
    ("net.slice1.0", (64, 3, 11, 11), 4, 2, False),
    ("net.slice2.3", (192, 64, 5, 5), 1, 2, True),
    ("net.slice3.6", (384, 192, 3, 3), 1, 1, True),
    ("net.slice4.8", (256, 384, 3, 3), 1, 1, False),
    ("net.slice5.10", (256, 256, 3, 3), 1, 1, False),
)
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


def load_lpips(path: Path) -> Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float64]]:
    """LPIPS 0.1 on AlexNet (Zhang et al., CVPR 2018, equation 1), as a metric of pairs of images.

    path: safetensors with the weights of ``lpips.LPIPS(net="alex")`` of the package lpips, under its names:
    ``save_file({name: tensor.clone() for name, tensor in lpips.LPIPS(net="alex").state_dict().items()}, path)``.
    Images (N, rows, columns) in [0, 1] become three equal channels in [-1, 1]. SVDRRError if the file is no such one.
    """
    try:
        weights = load_file(path)
        kernels = [(weights[f"{name}.weight"], weights[f"{name}.bias"]) for name, *_ in _LAYERS]
        linear = [weights[f"lin{number}.model.1.weight"] for number in range(len(_LAYERS))]
    except (OSError, SafetensorError, KeyError):
        kernels, linear = [], []
    fits = [tuple(weight.shape) == shape for (weight, _), (_, shape, *_) in zip(kernels, _LAYERS, strict=False)]
    fits += [tuple(part.shape) == (1, shape[0], 1, 1) for part, (_, shape, *_) in zip(linear, _LAYERS, strict=False)]
    if not fits or not all(fits):
        raise SVDRRError(f"{path} is no safetensors file with the weights of lpips.LPIPS(net='alex').")

    def features(images: NDArray[np.float32]) -> list[Tensor]:
        values = 2.0 * torch.from_numpy(np.array(images, np.float32))[:, None].expand(-1, 3, -1, -1) - 1.0
        values = (values - torch.tensor(_SHIFT)[:, None, None]) / torch.tensor(_SCALE)[:, None, None]
        normalized = []
        for (weight, bias), (_, _, stride, padding, pooled) in zip(kernels, _LAYERS, strict=True):
            values = functional.max_pool2d(values, 3, 2) if pooled else values
            values = functional.conv2d(values, weight, bias, stride, padding).relu()
            normalized.append(values / (values.norm(dim=1, keepdim=True) + 1e-10))
        return normalized

    @torch.no_grad()
    def distance(images: NDArray[np.float32], truth: NDArray[np.float32]) -> NDArray[np.float64]:
        pairs = zip(features(images), features(truth), linear, strict=True)
        parts = [functional.conv2d((one - other) ** 2, weight).mean(dim=(1, 2, 3)) for one, other, weight in pairs]
        return np.asarray(torch.stack(parts).sum(dim=0).numpy(), np.float64)

    return distance
