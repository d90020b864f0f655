"""The Fréchet inception distance: how far a set of images is from the true ones, as sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from svdrr.errors import SVDRRError
from svdrr.evaluation.benchmark import Case, Images, SetDistance
from svdrr.evaluation.inception import PIXELS

_AT_ONCE = 12
_TRUTH = "true DRR"

Parts = Mapping[str, Mapping[str, NDArray[np.bool_]]]
"""By view set and part of it, which of all the views belong to it."""


@dataclass(frozen=True, eq=False)
class Gaussian:
    """mean (features,); factor (features, rank), which times its transpose is the covariance."""

    mean: NDArray[np.float64]
    factor: NDArray[np.float64]


class Moments:
    """Those of features, of which only sums are kept: 34 MB for 2,048, however many the images."""

    def __init__(self, features: int) -> None:
        self.count = 0
        self._sum = np.zeros(features)
        self._products = np.zeros((features, features))

    def add(self, features: NDArray[np.float64]) -> None:
        """Features (images, features)."""
        self.count += len(features)
        self._sum += features.sum(axis=0)
        self._products += features.T @ features

    def gaussian(self) -> Gaussian:
        """The Gaussian with their mean and covariance, the latter with n - 1; of at least two images."""
        mean = self._sum / self.count
        covariance = (self._products - self.count * np.outer(mean, mean)) / (self.count - 1)
        rank = min(len(mean), self.count - 1)
        variances, axes = np.linalg.eigh(covariance)
        return Gaussian(mean, axes[:, -rank:] * np.sqrt(np.maximum(variances[-rank:], 0.0)))


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """The squared distance of two Gaussians (Dowson and Landau, 1982), |μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2(Σ₁Σ₂)^½).

    With Σ = FFᵀ, the trace of the root is the sum of the singular values of F₁ᵀF₂: it needs no root of a matrix,
    which covariances of fewer images than features, being singular, do not reliably have.
    """
    means = ((first.mean - second.mean) ** 2).sum()
    traces = (first.factor**2).sum() + (second.factor**2).sum()
    return float(means + traces - 2.0 * np.linalg.svd(first.factor.T @ second.factor, compute_uv=False).sum())


def inception_features(network: nn.Module, images: Images) -> NDArray[np.float64]:
    """Features (images, 2048) of radiographs (images, rows, columns) in [0, 1], by `load_inception`.

    Each becomes three equal channels of 299 x 299 pixels, bilinear without smoothing, in [-1, 1], as in pytorch-fid.
    """
    device = next(network.parameters()).device
    features = []
    with torch.inference_mode():
        for start in range(0, len(images), _AT_ONCE):
            values = torch.from_numpy(np.array(images[start : start + _AT_ONCE], np.float32))[:, None].to(device)
            values = functional.interpolate(values, (PIXELS, PIXELS), mode="bilinear", align_corners=False)
            features.append(network(2.0 * values.expand(-1, 3, -1, -1) - 1.0).double().cpu().numpy())
    return np.concatenate(features)


def check_sets(parts: Parts, volumes: int) -> None:
    """SVDRRError if there is a set of one image, which has no covariance."""
    for name, of_set in parts.items():
        for part, members in of_set.items():
            if volumes * np.count_nonzero(members) == 1:
                raise SVDRRError(f"The FID compares sets of images, and '{name}' has one ({part}); give more views.")


class FidOfSets:
    """The FID (Heusel et al., 2017) of each method, view set and part of it, from images as they are made."""

    def __init__(self, network: nn.Module, parts: Parts) -> None:
        self._network, self._parts = network, parts
        self._moments: dict[str, dict[tuple[str, str], Moments]] = {}
        self._first = ""

    def add(self, method: str, case: Case, chosen: slice, images: Images) -> None:
        """Images of some of the views of a case; every method must come with the same ones."""
        self._first = self._first or method
        if method == self._first:
            self._add(_TRUTH, chosen, case.truth[chosen])
        self._add(method, chosen, images)

    def _add(self, name: str, chosen: slice, images: Images) -> None:
        features = inception_features(self._network, images)
        if name not in self._moments:
            self._moments[name] = {
                (views, part): Moments(features.shape[1]) for views, of_set in self._parts.items() for part in of_set
            }
        for (views, part), moments in self._moments[name].items():
            moments.add(features[self._parts[views][part][chosen]])

    def distances(self) -> dict[str, dict[str, SetDistance]]:
        """By view set and part."""
        found: dict[str, dict[str, SetDistance]] = {views: {} for views in self._parts}
        for (views, part), moments in self._moments[_TRUTH].items():
            truth = moments.gaussian()
            found[views][part] = SetDistance(
                moments.count,
                {
                    method: frechet_distance(by_part[views, part].gaussian(), truth)
                    for method, by_part in self._moments.items()
                    if method != _TRUTH
                },
            )
        return found
