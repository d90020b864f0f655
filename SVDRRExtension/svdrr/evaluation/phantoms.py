"""The held-out phantom benchmark of a bundled model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from svdrr.errors import SVDRRError
from svdrr.evaluation.benchmark import BenchmarkResult, benchmark
from svdrr.geometry import CArmPose, relative_view_encoding
from svdrr.geometry.viewsets import Isocenter, simple_views
from svdrr.models import ModelDescription
from svdrr.synthesis.sampling import Sampling
from svdrr.synthesis.synthesize import Synthesizer
from svdrr.synthesis.training.phantom_views import FIRST_HELD_OUT_SEED, render_phantom

MEAN_VIEWS_FILE = "mean_views.safetensors"


def mean_simple_views(model: ModelDescription) -> NDArray[np.float32]:
    """Mean training DRR of each of the 36 `simple` views (36, resolution, resolution), shipped with the model."""
    try:
        stored = load_file(model.folder / MEAN_VIEWS_FILE)["mean_views"]
    except FileNotFoundError:
        raise SVDRRError(f"The model '{model.name}' ships no mean training views; it cannot be benchmarked.") from None
    return stored.astype(np.float32) / np.float32(65535.0)


def benchmark_phantoms(
    synthesizer: Synthesizer,
    phantoms: int = 16,
    views: Sequence[int] = range(36),
    sampling: Sampling | None = None,
    on_phantom: Callable[[int, int], None] | None = None,
) -> BenchmarkResult:
    """The model on held-out phantoms, against copying the source and the mean training DRR.

    phantoms: how many of the held-out seeds. views: which of the 36 `simple` views. on_phantom: called with the
    finished and the total number of phantoms.
    """
    model = synthesizer.model
    sampling = sampling or Sampling.of(model)
    chosen = list(views)

    def poses_about(isocenter_ras: Isocenter) -> list[CArmPose]:
        simple = simple_views(isocenter_ras)
        return [CArmPose(isocenter_ras=isocenter_ras), *(simple[index] for index in chosen)]

    def volumes() -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        for number in range(phantoms):
            radiographs = render_phantom(FIRST_HELD_OUT_SEED + number, poses_about, model.resolution)
            yield radiographs[0], radiographs[1:]
            if on_phantom is not None:
                on_phantom(number + 1, phantoms)

    def synthesize(source: NDArray[np.float32], poses: Sequence[CArmPose]) -> NDArray[np.float32]:
        encodings = np.stack([relative_view_encoding(CArmPose(), pose) for pose in poses])
        return synthesizer.pipeline(
            source, encodings, sampling.num_inference_steps, sampling.guidance_scale, sampling.seed
        )

    return benchmark(volumes(), poses_about((0.0, 0.0, 0.0))[1:], mean_simple_views(model)[chosen], synthesize)
