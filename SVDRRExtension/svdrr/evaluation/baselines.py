"""What a model has to beat: methods of other views that are no diffusion model.

All take the PA view about the origin, on a square detector; see `svdrr.evaluation.benchmark.Method`.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch_file

from svdrr.drr import AttenuationVolume
from svdrr.errors import SVDRRError
from svdrr.evaluation.benchmark import Render
from svdrr.models import ModelDescription
from svdrr.models.registry import baseline_file
from svdrr.synthesis.back_projection import back_project, project, projector
from svdrr.synthesis.lifting import FIELD_OF_VIEW_MM, LiftingNetwork, lift

LIFTING_FILE = "lifting.safetensors"
MEAN_VOLUME_FILE = "mean_thorax.safetensors"


def copy_source(source: NDArray[np.float32]) -> Render:
    """The source view itself, whatever the pose."""
    return lambda poses: np.broadcast_to(source, (len(poses), *source.shape))


def mean_drr(source: NDArray[np.float32]) -> Render:
    """The DRR of the mean phantom, whatever the source: μ averaged over training phantoms about their middles."""
    return _projections(_mean_thorax(), len(source))


def back_projection(source: NDArray[np.float32]) -> Render:
    """The source spread over a body of likely depth, projected again; see `svdrr.synthesis.back_projection`."""
    return _projections(back_project(source, FIELD_OF_VIEW_MM), len(source))


def lifting(source: NDArray[np.float32]) -> Render:
    """The volume that a small network makes of the source, projected; see `svdrr.synthesis.lifting`."""
    return _projections(lift(_lifting_network(), source), len(source))


def check_baselines(model: ModelDescription) -> None:
    """SVDRRError where the baselines have no weights or cannot see what the model sees."""
    for name in (LIFTING_FILE, MEAN_VOLUME_FILE):
        baseline_file(name)
    if model.field_of_view_mm != FIELD_OF_VIEW_MM:
        raise SVDRRError(
            f"The baselines know detectors of {FIELD_OF_VIEW_MM:g} mm only, and '{model.name}' was trained on one of "
            f"{model.field_of_view_mm:g} mm."
        )


def _projections(volume: AttenuationVolume, pixels: int) -> Render:
    renderer = projector(volume)
    return lambda poses: project(renderer, poses, pixels, FIELD_OF_VIEW_MM)


@cache
def _lifting_network() -> LiftingNetwork:
    network = LiftingNetwork()
    stored = load_torch_file(baseline_file(LIFTING_FILE))
    network.load_state_dict({name: tensor.float() for name, tensor in stored.items()})
    return network.eval()


@cache
def _mean_thorax() -> AttenuationVolume:
    stored = load_file(baseline_file(MEAN_VOLUME_FILE))
    mu = stored["mu"].astype(np.float32) * stored["unit"]
    return AttenuationVolume(mu, stored["ijk_to_ras"].astype(np.float64))
