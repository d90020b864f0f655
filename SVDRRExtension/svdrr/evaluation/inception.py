"""Inception v3 as the FID takes it, with weights that the user supplies; this software downloads nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from svdrr.errors import SVDRRError

FEATURES = 2048
PIXELS = 299
_CLASSES = 1008
"""Of the TensorFlow graph of 2015; by them its weights are told from later ones, which give other distances."""

Layer = tuple[int, int, int]
"""Channels, and height and width of the kernel."""

Stage = tuple[Layer, ...]
"""Layers with the same input: one, or two whose outputs are joined."""

_EACH_SIDE: Stage = ((384, 1, 3), (384, 3, 1))

# The graph's mean leaves the padding out, and its last block takes the maximum; neither is so in the paper.
_mean = partial(functional.avg_pool2d, kernel_size=3, stride=1, padding=1, count_include_pad=False)
_maximum = partial(functional.max_pool2d, kernel_size=3, stride=1, padding=1)
_half = partial(functional.max_pool2d, kernel_size=3, stride=2)


def _convolution(
    inside: int, outside: int, kernel: tuple[int, int], stride: int, padding: tuple[int, int]
) -> nn.Module:
    block = nn.Sequential()
    block.add_module("conv", nn.Conv2d(inside, outside, kernel, stride, padding, bias=False))
    block.add_module("bn", nn.BatchNorm2d(outside, eps=1e-3))
    block.add_module("relu", nn.ReLU())
    return block


class _Mixed(nn.Module):
    """Branches side by side, by name; the last one starts with `pool`. If that is `_half`, all end with stride 2."""

    def __init__(self, inside: int, branches: Mapping[str, Sequence[Stage]], pool: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.pool = pool
        self.outside = 0 if branches["branch_pool"] else inside
        self._names: list[list[list[str]]] = []
        for branch, stages in branches.items():
            channels, of_branch = inside, []
            for number, stage in enumerate(stages, start=1):
                stem = f"{branch}_{number}" if len(stages) > 1 else branch
                names = [stem + letter for letter in ("ab" if len(stage) > 1 else [""])]
                halved = pool is _half and number == len(stages)
                for name, (outside, height, width) in zip(names, stage, strict=True):
                    padding = (0, 0) if halved else (height // 2, width // 2)
                    layer = _convolution(channels, outside, (height, width), 2 if halved else 1, padding)
                    self.add_module(name, layer)
                channels = sum(outside for outside, _, _ in stage)
                of_branch.append(names)
            self.outside += channels if stages else 0
            self._names.append(of_branch)

    def forward(self, values: Tensor) -> Tensor:
        """The branches' outputs, joined."""
        inputs = [values] * (len(self._names) - 1) + [self.pool(values)]
        outputs = []
        for value, stages in zip(inputs, self._names, strict=True):
            parts = [value]
            for names in stages:
                parts = [getattr(self, name)(part) for part in parts for name in names]
            outputs += parts
        return torch.cat(outputs, dim=1)


def _line(*layers: Layer) -> list[Stage]:
    return [(layer,) for layer in layers]


def _fine(pooled: int) -> dict[str, list[Stage]]:
    return {
        "branch1x1": _line((64, 1, 1)),
        "branch5x5": _line((48, 1, 1), (64, 5, 5)),
        "branch3x3dbl": _line((64, 1, 1), (96, 3, 3), (96, 3, 3)),
        "branch_pool": _line((pooled, 1, 1)),
    }


def _middle(inner: int) -> dict[str, list[Stage]]:
    flat, high = (inner, 1, 7), (inner, 7, 1)
    return {
        "branch1x1": _line((192, 1, 1)),
        "branch7x7": _line((inner, 1, 1), flat, (192, 7, 1)),
        "branch7x7dbl": _line((inner, 1, 1), high, flat, high, (192, 1, 7)),
        "branch_pool": _line((192, 1, 1)),
    }


_TO_MIDDLE = {
    "branch3x3": _line((384, 3, 3)),
    "branch3x3dbl": _line((64, 1, 1), (96, 3, 3), (96, 3, 3)),
    "branch_pool": _line(),
}
_TO_COARSE = {
    "branch3x3": _line((192, 1, 1), (320, 3, 3)),
    "branch7x7x3": _line((192, 1, 1), (192, 1, 7), (192, 7, 1), (192, 3, 3)),
    "branch_pool": _line(),
}
_COARSE = {
    "branch1x1": _line((320, 1, 1)),
    "branch3x3": [*_line((384, 1, 1)), _EACH_SIDE],
    "branch3x3dbl": [*_line((448, 1, 1), (384, 3, 3)), _EACH_SIDE],
    "branch_pool": _line((192, 1, 1)),
}

_STEM = {
    "Conv2d_1a_3x3": (32, 3, 2, 0),
    "Conv2d_2a_3x3": (32, 3, 1, 0),
    "Conv2d_2b_3x3": (64, 3, 1, 1),
    "maxpool1": None,
    "Conv2d_3b_1x1": (80, 1, 1, 0),
    "Conv2d_4a_3x3": (192, 3, 1, 0),
    "maxpool2": None,
}
"""Channels, kernel, stride and padding; None: the maximum of 3 x 3 pixels, with stride 2."""

_MIXED = {
    "Mixed_5b": (_fine(32), _mean),
    "Mixed_5c": (_fine(64), _mean),
    "Mixed_5d": (_fine(64), _mean),
    "Mixed_6a": (_TO_MIDDLE, _half),
    "Mixed_6b": (_middle(128), _mean),
    "Mixed_6c": (_middle(160), _mean),
    "Mixed_6d": (_middle(160), _mean),
    "Mixed_6e": (_middle(192), _mean),
    "Mixed_7a": (_TO_COARSE, _half),
    "Mixed_7b": (_COARSE, _mean),
    "Mixed_7c": (_COARSE, _maximum),
}


def inception_v3() -> nn.Sequential:
    """The network (Szegedy et al., 2015, "Rethinking the Inception architecture", section 6) without its classifier.

    Takes (batch, 3, height, width) in [-1, 1], at least 75 pixels; returns its last features, averaged over the image,
    (batch, 2048). Names are those of torchvision and of the package pytorch-fid, poolings those of the graph that the
    FID was published with: means leave the padding out, and the last block takes the maximum.
    """
    network, channels = nn.Sequential(), 3
    for name, layer in _STEM.items():
        if layer is None:
            network.add_module(name, nn.MaxPool2d(3, 2))
        else:
            outside, kernel, stride, padding = layer
            network.add_module(name, _convolution(channels, outside, (kernel,) * 2, stride, (padding,) * 2))
            channels = outside
    for name, (branches, pool) in _MIXED.items():
        mixed = _Mixed(channels, branches, pool)
        network.add_module(name, mixed)
        channels = mixed.outside
    network.add_module("avgpool", nn.AdaptiveAvgPool2d(1))
    network.add_module("flatten", nn.Flatten())
    return network.eval().requires_grad_(False)


def load_inception(path: Path) -> nn.Module:
    """`inception_v3` with the weights of the FID.

    path: safetensors with the weights of ``fid_inception_v3()`` of the package pytorch-fid, under its names:
    ``save_file({name: tensor.clone() for name, tensor in fid_inception_v3().state_dict().items()}, path)``. They are
    those of TensorFlow's graph of 5 December 2015. SVDRRError if the file is no such one.
    """
    try:
        weights = load_file(path)
    except (OSError, SafetensorError):
        weights = {}
    with torch.device("meta"):
        network = inception_v3()
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items() if tensor.ndim}
    shapes_in_file = {name: tuple(weights[name].shape) for name in shapes if name in weights}
    classifier = weights.get("fc.weight")
    if shapes_in_file != shapes or classifier is None or tuple(classifier.shape) != (_CLASSES, FEATURES):
        raise SVDRRError(f"{path} is no safetensors file with the weights of pytorch_fid's fid_inception_v3().")
    network.load_state_dict({name: weights[name].float() for name in shapes}, assign=True)
    return network.requires_grad_(False)
