"""What a model has to beat: methods of other views that are no diffusion model.

All take the PA view about the origin, on a square detector; see `svdrr.evaluation.benchmark.Method`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from svdrr.drr import AttenuationVolume, from_display, make_renderer, render_each, to_display
from svdrr.errors import SVDRRError
from svdrr.evaluation.benchmark import Images, Render
from svdrr.evaluation.lifting import DEPTH_MM, FIELD_OF_VIEW_MM, LAYERS, attenuation_volume, lift
from svdrr.geometry import CArmPose, Detector, View
from svdrr.models import ModelDescription
from svdrr.models.registry import baseline_file

MEAN_VOLUME_FILE = "mean_thorax.safetensors"
DEPTH_TO_BREADTH = 0.7
"""Of an adult chest; what back-projection takes the body's depth for."""

_BODY_LEVEL = 0.05  # line integral, 3 mm of water


def copy_source(source: NDArray[np.float32]) -> Render:
    """The source view itself, whatever the pose."""
    return lambda poses: np.broadcast_to(source, (len(poses), *source.shape))


def mean_drr(source: NDArray[np.float32]) -> Render:
    """The DRR of the mean phantom, whatever the source: μ averaged over training phantoms about their isocenters."""
    return _projections(_mean_thorax(), len(source))


def back_projection(source: NDArray[np.float32]) -> Render:
    """Each line integral of the source spread evenly along its ray inside the body, then projected again.

    The body is an elliptic cylinder: as broad in each row as the silhouette there, and 0.7 times as deep as the
    silhouette's median breadth.
    """
    return _projections(attenuation_volume(source, _even_parts(source)), len(source))


def lifting(source: NDArray[np.float32]) -> Render:
    """The volume that a small network makes of the source, projected; see `svdrr.evaluation.lifting`."""
    return _projections(lift(source), len(source))


def check_baselines(model: ModelDescription) -> None:
    """SVDRRError where the baselines have no weights or cannot see what the model sees."""
    for name in ("lifting.safetensors", MEAN_VOLUME_FILE):
        baseline_file(name)
    if model.field_of_view_mm != FIELD_OF_VIEW_MM:
        raise SVDRRError(
            f"The baselines know detectors of {FIELD_OF_VIEW_MM:g} mm only, and '{model.name}' was trained on one of "
            f"{model.field_of_view_mm:g} mm."
        )


def _projections(volume: AttenuationVolume, pixels: int) -> Render:
    renderer = make_renderer(volume, "joseph")
    detector = Detector.square(pixels, FIELD_OF_VIEW_MM)

    def render(poses: Sequence[CArmPose]) -> Images:
        views = [View(pose, detector) for pose in poses]
        return np.stack(list(render_each(renderer, views, lambda _, line_integrals: to_display(line_integrals))))

    return render


@cache
def _mean_thorax() -> AttenuationVolume:
    stored = load_file(baseline_file(MEAN_VOLUME_FILE))
    mu = stored["mu"].astype(np.float32) * stored["unit"]
    return AttenuationVolume(mu, stored["ijk_to_ras"].astype(np.float64))


def _even_parts(source: NDArray[np.float32]) -> NDArray[np.float32]:
    """(LAYERS, n, n): the part of each ray that lies in each layer, evenly spread inside the elliptic cylinder."""
    body = from_display(source) > _BODY_LEVEL
    places = (np.arange(len(source)) + 0.5) / len(source) * 2.0 - 1.0
    half_depth = np.full(source.shape, 1.0 / LAYERS)
    left, right = places[body.argmax(axis=1)], places[::-1][body[:, ::-1].argmax(axis=1)]
    rows = body.any(axis=1)
    center, half_breadth = 0.5 * (left + right), 0.5 * (right - left) + 1.0 / len(source)
    if rows.any():
        # From places on the detector to mm at the isocenter, to places along the depth.
        pose = CArmPose()
        at_isocenter = FIELD_OF_VIEW_MM * pose.source_to_isocenter_mm / pose.source_to_detector_mm
        depth = DEPTH_TO_BREADTH * np.median(half_breadth[rows]) * at_isocenter / DEPTH_MM
        aside = (places - center[:, None]) / half_breadth[:, None]
        half_depth = np.maximum(depth * np.sqrt(np.maximum(1.0 - aside**2, 0.0)), half_depth)
    layers = (np.arange(LAYERS) + 0.5) / LAYERS * 2.0 - 1.0
    parts = np.clip((half_depth - np.abs(layers[:, None, None])) * LAYERS / 2.0 + 0.5, 0.0, 1.0)
    return np.asarray(parts / parts.sum(axis=0), np.float32)
