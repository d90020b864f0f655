"""The SVDRR feature distance: how different two radiographs look, without weights that have to be downloaded.

It is not LPIPS, though it has its form (Zhang et al., CVPR 2018, equation 1): unit-normalized features of a frozen
network, their squared differences weighted by channel, averaged over the image, and summed over the layers. The
network is ours, 0.1 M parameters, trained on phantom radiographs alone, and without any synthesis model: the distance
between a radiograph and a distorted copy is to be the known strength of the distortions, weighted by `HARM`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

WEIGHTS = Path(__file__).with_name("data") / "feature_distance.safetensors"

HARM = {
    "blur": 1.0,
    "pixels": 1.0,
    "warp": 1.0,
    "lost structure": 1.0,
    "blocks": 0.7,
    "gray curve": 0.3,
    "noise": 0.05,
    "other anatomy": 1.5,
}
"""How much each kind of distortion adds to the distance at full strength.

Other anatomy is another phantom's view from the same side, mixed in; for the others see
`svdrr.evaluation.training.distortions`.
"""

_CHANNELS = (16, 32, 48, 64)
# Flat regions, where a unit vector would be noise, count little.
_FLAT = 0.5


class FeatureDistance(nn.Module):
    """The network and its weights of features. Radiographs (batch, height, width) in [0, 1], at least 16 pixels."""

    def __init__(self) -> None:
        super().__init__()
        stages, previous = [_convolution(1, _CHANNELS[0])], _CHANNELS[0]
        for channels in _CHANNELS[1:]:
            stages.append(_convolution(previous, channels, stride=2) + _convolution(channels, channels))
            previous = channels
        self.stages = nn.ModuleList(stages)
        self.log_weights = nn.ParameterList([torch.zeros(channels) for channels in _CHANNELS])

    def features(self, radiographs: Tensor) -> list[Tensor]:
        """Of each stage, features of unit length (batch, channels, h, w); shorter where the image is flat."""
        values = 4.0 * radiographs[:, None] - 2.0
        normalized = []
        for stage in self.stages:
            values = stage(values)
            normalized.append(values / torch.sqrt((values**2).sum(dim=1, keepdim=True) + _FLAT**2))
        return normalized

    def differences(self, first: Tensor, second: Tensor) -> list[Tensor]:
        """Of each stage, the squared difference of the features, averaged over the image (batch, channels)."""
        pairs = zip(self.features(first), self.features(second), strict=True)
        return [((one - other) ** 2).mean(dim=(2, 3)) for one, other in pairs]

    def distance(self, differences: Sequence[Tensor]) -> Tensor:
        """Distance of each pair (batch,) from `differences`."""
        weighted = [part @ weights.exp() for part, weights in zip(differences, self.log_weights, strict=True)]
        return torch.stack(weighted).sum(dim=0)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Distance of each pair (batch,)."""
        return self.distance(self.differences(first, second))


def _convolution(inside: int, outside: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inside, outside, 3, stride=stride, padding=1, padding_mode="reflect")
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    return nn.Sequential(convolution, nn.ReLU())


@cache
def _trained() -> FeatureDistance:
    network = FeatureDistance()
    network.load_state_dict({name: tensor.float() for name, tensor in load_file(WEIGHTS).items()})
    # Half as fast again as the default layout on a CPU.
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.eval().requires_grad_(False)


def feature_distance(images: NDArray[np.float32], truth: NDArray[np.float32]) -> NDArray[np.float64]:
    """The SVDRR feature distance of each pair; images (N, rows, columns) in [0, 1], of any size from 16 pixels.

    Exactly 0 for equal images; 1 is about a Gaussian blur of σ 4 pixels. It sees lost detail, warps and missing
    structure more than noise, a change of the gray curve or a shift by part of a pixel. All of these are in pixels:
    compare distances at one resolution only.
    """
    pairs = zip(images, truth, strict=True)
    network = _trained()
    return np.array(
        [network(*(torch.from_numpy(np.array(image, np.float32))[None] for image in pair)).item() for pair in pairs]
    )
