"""``python -m svdrr.evaluation.training.feature_distance VIEWS``: trains the SVDRR feature distance.

VIEWS: the phantom views of the demo model's training, ``views`` in its folder. About 5 minutes on one core.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from safetensors.torch import save_file
from scipy.ndimage import map_coordinates
from torch import Tensor, nn

from svdrr.evaluation.feature_distance import HARM, WEIGHTS, FeatureDistance
from svdrr.evaluation.training.distortions import DISTORTIONS
from svdrr.files import whole_file
from svdrr.synthesis.training.phantom_views import SIMPLE

SEEDS = range(0, 221, 2)
VIEWS_PER_PHANTOM = 8
CROP = 48
_MARGIN = 8
_LEARNING_RATE = 3e-3
_OTHER_ANATOMY = list(HARM).index("other anatomy")


def load_radiographs(directory: Path) -> NDArray[np.float32]:
    """The same views of each phantom in `SEEDS` that is there, (phantoms, VIEWS_PER_PHANTOM, 256, 256) in [0, 1]."""
    chosen = np.random.default_rng(0).choice(SIMPLE.stop, VIEWS_PER_PHANTOM, replace=False)
    images = []
    for seed in SEEDS:
        if (directory / f"{seed:07d}.safetensors").exists():
            views = load_file(directory / f"{seed:07d}.safetensors")["radiographs"]
            images.append(views[chosen])
    return np.stack(images).astype(np.float32) / np.float32(65535.0)


def crop_pair(radiographs: NDArray[np.float32], generator: np.random.Generator) -> tuple[NDArray[np.float32], ...]:
    """(a crop, its distorted copy, strengths (kinds,)).

    The copy has none, one or two kinds of distortion, and in one of five pairs another phantom's anatomy; besides it is
    shifted by part of a pixel and has a little noise, both of which count as no distortion. Crops come enlarged by up
    to 1.3 and reduced by up to 2.3.
    """
    phantom, view = generator.integers(radiographs.shape[0]), generator.integers(radiographs.shape[1])
    image = radiographs[phantom, view]
    strengths = np.zeros(len(HARM), np.float32)
    if generator.random() < 0.2:
        strengths[_OTHER_ANATOMY] = generator.choice([1.0, generator.uniform(0.2, 1.0)])
    other = radiographs[(phantom + generator.integers(1, len(radiographs))) % len(radiographs), view]
    copy = image + strengths[_OTHER_ANATOMY] * (other - image)
    side = CROP + 2 * _MARGIN
    scale = 2.0 ** generator.uniform(-0.4, 1.2)
    reach = min(side * scale, image.shape[0] - 3.0)
    while True:
        corner = generator.uniform(1.0, image.shape[0] - 1.0 - reach, 2)
        grid = np.arange(side) * (reach / side)
        shift = generator.uniform(-0.5, 0.5, 2) * (reach / side)
        if generator.random() < 0.1 or image[int(corner[0] + reach / 2), int(corner[1] + reach / 2)] > 0.05:
            break
    crops = []
    for original, offset in ((image, np.zeros(2)), (copy, shift)):
        rows, columns = (start + grid + along for start, along in zip(corner, offset, strict=True))
        positions = np.meshgrid(rows, columns, indexing="ij")
        crops.append(map_coordinates(original, positions, order=3 if scale < 1.0 else 1, mode="nearest"))
    first, second = crops
    for kind in generator.choice(len(DISTORTIONS), generator.choice([0, 1, 2], p=[0.1, 0.6, 0.3]), replace=False):
        strengths[kind] = generator.uniform(0.05, 1.0)
        second = DISTORTIONS[list(DISTORTIONS)[kind]](second, float(strengths[kind]), generator)
    second = second + generator.uniform(0.0, 0.02) * generator.standard_normal(second.shape)
    inner = slice(_MARGIN, -_MARGIN)
    return first[inner, inner].astype(np.float32), np.clip(second, 0.0, 1.0)[inner, inner].astype(np.float32), strengths


def batch(radiographs: NDArray[np.float32], size: int, seed: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """`size` pairs of `crop_pair`, in three tensors."""
    generator = np.random.default_rng(seed)
    columns = zip(*(crop_pair(radiographs, generator) for _ in range(size)), strict=True)
    first, second, strengths = (torch.from_numpy(np.stack(column)) for column in columns)
    return first, second, strengths


class Teller(nn.Module):
    """Tells the kinds of distortion and their strengths (batch, kinds) from the differences; only for the training.

    Features that tell the kinds apart are richer than what the distance alone would ask for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.LazyLinear(64), nn.SiLU(), nn.Linear(64, len(HARM)))

    def forward(self, differences: list[Tensor]) -> Tensor:
        """Strengths (batch, kinds)."""
        told: Tensor = self.layers(torch.log(torch.cat(differences, dim=1) + 1e-4) / 4.0 + 1.0)
        return told


def main() -> None:
    """Trains on all phantoms in `SEEDS` but the last four, on which it then reports."""
    parser = argparse.ArgumentParser(description="Train the SVDRR feature distance on phantom radiographs.")
    parser.add_argument("views", type=Path)
    parser.add_argument("--steps", type=int, default=1500)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    radiographs = load_radiographs(arguments.views)
    training, kept = radiographs[:-4], radiographs[-4:]
    network = FeatureDistance()
    teller = Teller()
    teller(network.differences(*batch(training, 1, (0,))[:2]))  # Its first layer takes its size from them.
    parameters = [*network.parameters(), *teller.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=_LEARNING_RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, arguments.steps, pct_start=0.1)
    harm = torch.tensor(list(HARM.values()))
    started, recent = time.monotonic(), []
    for step in range(arguments.steps):
        first, second, strengths = batch(training, 16, (1, step))
        differences = network.differences(first, second)
        errors = network.distance(differences) - strengths @ harm
        losses = (errors**2).mean(), nn.functional.mse_loss(teller(differences), strengths)
        optimizer.zero_grad()
        (losses[0] + 2.0 * losses[1]).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        recent.append([loss.item() for loss in losses])
        if (step + 1) % 50 == 0:
            distance, kinds = np.mean(recent, axis=0)
            elapsed = time.monotonic() - started
            print(f"step {step + 1}: distance {distance:.4f}, kinds {kinds:.4f}, {elapsed:.0f} s", flush=True)
            recent.clear()
    with whole_file(WEIGHTS) as temporary:
        save_file({name: tensor.half().contiguous() for name, tensor in network.state_dict().items()}, temporary)
    with torch.no_grad():
        first, second, strengths = batch(kept, 512, (2,))
        told = network.half().float()(first, second)
    correlation = np.corrcoef(told, strengths @ harm)[0, 1]
    print(f"correlation of distance and harm on phantoms kept out: {correlation:.3f}")


if __name__ == "__main__":
    main()
