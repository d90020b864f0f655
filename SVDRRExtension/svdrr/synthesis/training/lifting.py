"""Training the 3D-lifting regressor on phantom views."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from svdrr.drr import from_display
from svdrr.drr.display import GAMMA
from svdrr.files import whole_file
from svdrr.geometry import CArmPose, Detector, View
from svdrr.synthesis.configuration import Schedule
from svdrr.synthesis.lifting import LiftingNetwork, frustum_coordinates, lifted_attenuation
from svdrr.synthesis.training.loop import train
from svdrr.synthesis.training.phantom_views import SOURCES

SCHEDULE = Schedule(1300, 4, 1e-3, 50, 0.995)
"""A sample is one phantom."""
TARGETS = 4
STRIDE = 8
SAMPLES = 96
_REACH_MM = 290.0
"""Rays are sampled this far on both sides of the isocenter: beyond, no ray is in the source's frustum."""


def ray_points(pose: CArmPose, pixels: int, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.float32]:
    """Points (rows, columns, SAMPLES, 3), RAS mm, evenly spaced on the rays through some pixels."""
    view = View(pose, Detector.square(pixels))
    on_detector = view.detector_positions(np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2))
    ray = on_detector - pose.source_ras
    ray /= np.linalg.norm(ray, axis=1, keepdims=True)
    distance = pose.source_to_isocenter_mm + _REACH_MM * (2.0 * (np.arange(SAMPLES) + 0.5) / SAMPLES - 1.0)
    points = pose.source_ras.astype(np.float32) + ray[:, None].astype(np.float32) * distance[:, None].astype(np.float32)
    return np.asarray(points.reshape(len(rows), len(columns), SAMPLES, 3))


def rendered(line_integrals: Tensor, parts: Tensor, points: Tensor) -> Tensor:
    """Line integrals (batch, rows, columns) of the lifted volumes along rays, differentiable.

    points: frustum coordinates (batch, rows, columns, SAMPLES, 3) of `ray_points`.
    """
    mu = lifted_attenuation(line_integrals, parts, points.flatten(1, 3))
    return mu.unflatten(1, tuple(points.shape[1:4])).sum(dim=-1) * (2.0 * _REACH_MM / SAMPLES)


def _example(file: Path, generator: np.random.Generator) -> tuple[NDArray[np.float32], ...]:
    """(source, true rays of TARGETS views, frustum coordinates of their samples) of one phantom.

    Half of them are mirrored left to right; in each, all attenuation is scaled by one random factor.
    """
    with safe_open(file, "np") as stored:
        angles = stored.get_tensor("angles").astype(float)
        views = stored.get_slice("radiographs")
        source = 0 if generator.random() < 0.7 else len(angles) - int(generator.integers(1, SOURCES))
        targets = generator.choice(np.delete(np.arange(len(angles)), source), TARGETS, replace=False)
        images = np.concatenate([views[index : index + 1] for index in map(int, (source, *targets))])
    line_integrals = from_display(images.astype(np.float32) / np.float32(65535.0)) * generator.uniform(0.8, 1.2)
    if generator.random() < 0.5:
        line_integrals, angles = line_integrals[:, :, ::-1], angles * (-1.0, 1.0)
    pixels = images.shape[-1]
    rays, points = [], []
    for number, target in enumerate(targets, start=1):
        rows, columns = (np.arange(start, pixels, STRIDE) for start in generator.integers(0, STRIDE, 2))
        rays.append(line_integrals[number][np.ix_(rows, columns)])
        positions = ray_points(CArmPose(*angles[target]), pixels, rows, columns)
        points.append(frustum_coordinates(positions, CArmPose(*angles[source])))
    return line_integrals[0].astype(np.float32), np.stack(rays).astype(np.float32), np.stack(points)


def train_lifting(views: Path, seeds: range, directory: Path, schedule: Schedule = SCHEDULE) -> LiftingNetwork:
    """A trained network, whose weights are left as ``lifting.safetensors``, in half precision, in `directory` too.

    views: the folder of `build_phantom_views`. directory: also gets the log and the states; see `loop.train`.
    """
    torch.manual_seed(0)
    files = [views / f"{seed:07d}.safetensors" for seed in seeds]
    network = LiftingNetwork()
    # Twice as fast as the default layout on a CPU.
    network.to(memory_format=torch.channels_last)

    def loss_at(step: int) -> Tensor:
        generator = np.random.default_rng((0, step))
        chosen = generator.choice(len(files), schedule.batch_size, replace=False)
        examples = zip(*(_example(files[index], generator) for index in chosen), strict=True)
        source, truth, points = (torch.from_numpy(np.stack(column)) for column in examples)
        parts = network(to_gray(source)).repeat_interleave(TARGETS, dim=0)
        made = rendered(source.repeat_interleave(TARGETS, dim=0), parts, points.flatten(0, 1))
        error = to_gray(made) - to_gray(truth.flatten(0, 1))
        return error.abs().mean() + 4.0 * (error**2).mean()

    train(network, loss_at, schedule, directory)
    with whole_file(directory / "lifting.safetensors") as temporary:
        save_file({name: tensor.half().contiguous() for name, tensor in network.state_dict().items()}, temporary)
    return network


def to_gray(line_integrals: Tensor) -> Tensor:
    """`svdrr.drr.to_display`, differentiable."""
    return -torch.expm1(-GAMMA * line_integrals)
