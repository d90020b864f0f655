"""Methods of view synthesis measured on volumes with known views."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from svdrr.errors import SVDRRError
from svdrr.geometry import CArmPose

Images = NDArray[np.float32]
"""Radiographs (N, rows, columns) in [0, 1], bright bone."""

Render = Callable[[Sequence[CArmPose]], Images]
"""Takes poses about the origin; returns the view of each."""

Method = Callable[[NDArray[np.float32]], Render]
"""Takes a source radiograph (rows, columns), which is PA about the origin; returns what makes other views of it."""

Metric = Callable[[Images, Images], NDArray[np.float64]]
"""Takes images and the truth; returns one number for each pair."""

OBLIQUE_DEG = 30.0
OBLIQUE = f"at least {OBLIQUE_DEG:g}° from the source view"
ALL = "all views"
_VIEWS_AT_ONCE = 36


@dataclass(frozen=True, eq=False)
class Case:
    """One volume: its name, its source view (rows, columns), and its true views (poses, rows, columns)."""

    name: str
    source: NDArray[np.float32]
    truth: Images


@dataclass(frozen=True)
class SetDistance:
    """How far each method's set of images is from the true one; images: how many each has."""

    images: int
    by_method: dict[str, float]


@dataclass(frozen=True, eq=False)
class Benchmark:
    """values: by metric and method, (volumes, poses)."""

    volumes: tuple[str, ...]
    poses: tuple[CArmPose, ...]
    values: dict[str, dict[str, NDArray[np.float64]]]

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics."""
        return list(self.values)

    @property
    def methods(self) -> list[str]:
        """Names of the methods."""
        return list(next(iter(self.values.values())))

    def angles_deg(self) -> NDArray[np.float64]:
        """Primary and secondary angle of each pose (poses, 2)."""
        return np.array([(pose.primary_deg, pose.secondary_deg) for pose in self.poses])

    def of_poses(self, chosen: NDArray[np.int64] | NDArray[np.bool_]) -> Benchmark:
        """The same for some of the poses."""
        poses = tuple(np.array(self.poses, object)[chosen])
        values = {
            metric: {method: values[:, chosen] for method, values in by_method.items()}
            for metric, by_method in self.values.items()
        }
        return Benchmark(self.volumes, poses, values)

    def oblique(self) -> Benchmark:
        """The same for the `oblique` views."""
        return self.of_poses(oblique(self.poses))

    def parts(self) -> dict[str, Benchmark]:
        """The same for each of the `view_parts`."""
        return {part: self.of_poses(chosen) for part, chosen in view_parts(self.poses).items()}

    def mean(self, metric: str, method: str) -> float:
        """Mean over the volumes and views."""
        return float(self.values[metric][method].mean())


def oblique(poses: Sequence[CArmPose]) -> NDArray[np.bool_]:
    """Which views are at least 30° from the source view, where copying it is no longer good enough.

    The angle is that between the central rays; where the secondary angle is 0, it is |primary|.
    """
    cosine = np.array([pose.detector_direction @ CArmPose().detector_direction for pose in poses])
    return np.asarray(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))) >= OBLIQUE_DEG - 1e-6)


def view_parts(poses: Sequence[CArmPose]) -> dict[str, NDArray[np.bool_]]:
    """Which views are in the parts that are reported apart: the oblique ones, if there are any, and all."""
    far = oblique(poses)
    return {**({OBLIQUE: far} if far.any() else {}), ALL: np.ones(len(poses), bool)}


def without_source(poses: Sequence[CArmPose]) -> list[CArmPose]:
    """Those of the poses, about the origin, that are not PA, the source view. SVDRRError if that is the only one."""
    others = [pose for pose in poses if not np.allclose(pose.source_ras, CArmPose().source_ras, rtol=0.0, atol=1e-3)]
    if not others:
        raise SVDRRError("The only view is PA, the source view; give others to evaluate.")
    return others


def benchmark(
    cases: Iterable[Case],
    poses: Sequence[CArmPose],
    methods: Mapping[str, Method],
    metrics: Mapping[str, Metric],
    on_view: Callable[[], None] | None = None,
    on_images: Callable[[str, Case, slice, Images], None] | None = None,
) -> Benchmark:
    """Makes the views of every case by every method and measures them against the truth.

    on_view: called once for each view of each method. on_images: called with the method's name, the case, which of
    the poses, and their images.
    """
    names: list[str] = []
    rows: dict[str, dict[str, list[NDArray[np.float64]]]] = {
        metric: {name: [] for name in methods} for metric in metrics
    }
    for case in cases:
        names.append(case.name)
        for method, make in methods.items():
            render = make(case.source)
            parts: dict[str, list[NDArray[np.float64]]] = {metric: [] for metric in metrics}
            for start in range(0, len(poses), _VIEWS_AT_ONCE):
                chosen = slice(start, min(start + _VIEWS_AT_ONCE, len(poses)))
                images = render(poses[chosen])
                for metric, measure in metrics.items():
                    parts[metric].append(measure(images, case.truth[chosen]))
                if on_images is not None:
                    on_images(method, case, chosen, images)
                for _ in range(len(images) if on_view else 0):
                    assert on_view is not None
                    on_view()
            for metric, values in parts.items():
                rows[metric][method].append(np.concatenate(values))
    return Benchmark(
        tuple(names),
        tuple(poses),
        {
            metric: {method: np.stack(values) for method, values in by_method.items()}
            for metric, by_method in rows.items()
        },
    )
