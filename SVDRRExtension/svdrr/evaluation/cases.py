"""Volumes with known views, from phantoms, a CT or a data set."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from svdrr.ct import CTVolume
from svdrr.ct.io import read_ct
from svdrr.ct.table import remove_table
from svdrr.dataset.read import read_samples, read_views_of
from svdrr.dataset.settings import MANIFEST_FILE, SETTINGS_FILE, read_manifest
from svdrr.drr import attenuation, make_renderer, render_each, to_display
from svdrr.errors import SVDRRError, counted
from svdrr.evaluation.benchmark import Case
from svdrr.geometry import CArmPose, Detector, View
from svdrr.geometry.viewsets import Isocenter
from svdrr.models import ModelDescription
from svdrr.synthesis.training.phantom_views import FIRST_HELD_OUT_SEED, render_phantom

MAX_PHANTOMS = 10_000
_SAME_PLACE_MM = 1e-3


@dataclass(frozen=True, eq=False)
class Cases:
    """cases: one after the other, each made when it is asked for. description: what they are, for the table."""

    count: int
    description: str
    cases: Iterator[Case]


def open_cases(data: str, poses: Sequence[CArmPose], model: ModelDescription, series: str | None = None) -> Cases:
    """The volumes of `data` with their views from `poses`, which are about the origin, and the PA view as the source.

    data: ``phantoms:N``, the first N held-out phantoms; a CT, whose table is removed; or a folder of
    ``svdrr dataset build``, of which the test part is used and which must hold these views at the model's resolution.
    Views are about the center of each volume, in the model's resolution and field of view. SVDRRError, before any
    work, for anything else.
    """
    kind, _, count = data.partition(":")
    if kind == "phantoms" and not Path(data).exists():
        return _phantoms(count, poses, model)
    folder = Path(data)
    if (folder / MANIFEST_FILE).is_file() or (folder / SETTINGS_FILE).is_file():
        return _data_set(folder, poses, model)
    volume = read_ct(folder, series)
    name = f"CT with voxels SHA-256 {hashlib.sha256(volume.hu.data).hexdigest()[:16]}"
    return Cases(1, f"{name}, table removed", _one_ct(volume, name, poses, model))


def _about(poses: Sequence[CArmPose], isocenter_ras: Isocenter) -> list[CArmPose]:
    """The source pose and `poses`, about the isocenter."""
    return [
        CArmPose(
            pose.primary_deg,
            pose.secondary_deg,
            isocenter_ras,
            pose.source_to_isocenter_mm,
            pose.source_to_detector_mm,
        )
        for pose in (CArmPose(), *poses)
    ]


def _phantoms(count: str, poses: Sequence[CArmPose], model: ModelDescription) -> Cases:
    if not count.isdecimal() or not 1 <= int(count) <= MAX_PHANTOMS:
        raise SVDRRError(f"Give 1 to {MAX_PHANTOMS:,} phantoms, such as phantoms:16, not 'phantoms:{count}'.")
    seeds = range(FIRST_HELD_OUT_SEED, FIRST_HELD_OUT_SEED + int(count))

    def cases() -> Iterator[Case]:
        for seed in seeds:
            radiographs = render_phantom(seed, lambda center: _about(poses, center), model.resolution)
            yield Case(f"phantom {seed}", radiographs[0], radiographs[1:])

    return Cases(len(seeds), f"{len(seeds)} held-out phantoms (seeds from {FIRST_HELD_OUT_SEED:,})", cases())


def _one_ct(volume: CTVolume, name: str, poses: Sequence[CArmPose], model: ModelDescription) -> Iterator[Case]:
    ct = remove_table(volume).ct
    detector = Detector.square(model.resolution, model.field_of_view_mm)
    views = [View(pose, detector) for pose in _about(poses, ct.isocenter_ras)]
    renderer = make_renderer(attenuation(ct), "joseph")
    radiographs = np.stack(list(render_each(renderer, views, lambda _, integrals: to_display(integrals))))
    yield Case(name, radiographs[0], radiographs[1:])


def _data_set(folder: Path, poses: Sequence[CArmPose], model: ModelDescription) -> Cases:
    manifest = read_manifest(folder)
    held_out = [entry for entry in manifest["cts"] if entry["split"] == "test"]
    samples = read_samples(folder, "test", model.resolution)
    if not held_out:
        raise SVDRRError(f"{folder} has no CT in its test part; build it with a larger share of test.")
    stored = read_views_of(folder, held_out[0], model.resolution)
    side_mm = stored[0].detector.columns * stored[0].detector.pixel_spacing_mm[1]
    if abs(side_mm - model.field_of_view_mm) > 1e-3:
        raise SVDRRError(
            f"The detector of {folder} has a side of {side_mm:g} mm and that of '{model.name}' one of "
            f"{model.field_of_view_mm:g} mm; choose data with the model's own."
        )
    isocenter_ras = stored[0].pose.isocenter_ras
    indices = [_index(folder, pose, stored, manifest) for pose in _about(poses, isocenter_ras)]

    def cases() -> Iterator[Case]:
        for key, of_ct in groupby(samples, lambda sample: sample.ct):
            by_index = {sample.index: sample.pixels for sample in of_ct if sample.index in set(indices)}
            source, *truth = (by_index[index] for index in indices)
            yield Case(f"CT {key}", source, np.stack(truth))

    return Cases(len(held_out), f"{counted(len(held_out), 'CT')}, the test part of a data set", cases())


def _index(folder: Path, pose: CArmPose, stored: Sequence[View], manifest: dict[str, Any]) -> int:
    """Which of the stored views is taken from `pose`."""
    wanted = np.array([pose.source_ras, pose.detector_center_ras])
    for index, view in enumerate(stored):
        if np.abs(wanted - (view.pose.source_ras, view.pose.detector_center_ras)).max() < _SAME_PLACE_MM:
            return index
    raise SVDRRError(
        f"{folder}, built with --views {manifest['settings']['views']}, lacks the view {pose.label}; evaluate with the "
        "views that it was built with, which PA, the source view, must be one of."
    )
