"""Where the true DRRs of a reader study come from: held-out phantoms, CTs, or the test CTs of a data set."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from svdrr.ct.io import read_ct
from svdrr.ct.table import remove_table
from svdrr.dataset.discover import Source, find_cts
from svdrr.dataset.read import read_sample, read_views_of
from svdrr.dataset.settings import MANIFEST_FILE, read_manifest
from svdrr.errors import SVDRRError
from svdrr.geometry import CArmPose, Detector, View
from svdrr.geometry.viewsets import Isocenter, hemisphere_views
from svdrr.models import ModelDescription
from svdrr.provenance import Provenance
from svdrr.radiograph import Radiograph
from svdrr.render import render_drrs
from svdrr.synthesis.training.phantom_views import FIRST_HELD_OUT_SEED, HEMISPHERE_LATTICE, render_phantom

_SPLIT = "test"
_MOST_PHANTOMS = 10_000


@dataclass(frozen=True)
class Volume:
    """A body to be seen from its sides.

    views: how many there are to choose from, PA not counted. render: the DRR of PA, and then those of the views with
    these numbers, from 0 to `views`, without it; each with its view and provenance.
    """

    views: int
    render: Callable[[Sequence[int]], list[Radiograph]]


def volumes_of(data: str, model: ModelDescription) -> list[Volume]:
    """The volumes that `data` names, to be rendered with the model's detector.

    data: ``phantoms:N`` for the first N held-out phantoms; the folder of a finished data set, for its test CTs and
    its views; or a CT's file or a folder of CTs. Those that are no data set are seen from the 1,500 positions of the
    paper's hemisphere. SVDRRError for what is none of these, or does not fit the model.
    """
    kind, _, count = data.partition(":")
    if kind == "phantoms":
        if not (count.isdecimal() and 1 <= int(count) <= _MOST_PHANTOMS):
            raise SVDRRError(f"Cannot read '{data}'; give a number of phantoms up to {_MOST_PHANTOMS:,}: phantoms:16.")
        _require_field_of_view(model, Detector.square(model.resolution), "phantoms")
        seeds = range(FIRST_HELD_OUT_SEED, FIRST_HELD_OUT_SEED + int(count))
        return [Volume(HEMISPHERE_LATTICE - 1, partial(_phantom, seed, model.resolution)) for seed in seeds]
    path = Path(data)
    if (path / MANIFEST_FILE).is_file():
        return _in_data_set(path, model)
    detector = Detector.square(model.resolution, model.field_of_view_mm)
    return [Volume(HEMISPHERE_LATTICE - 1, partial(_ct, source, detector)) for source in find_cts([path])]


def _poses(numbers: Sequence[int], isocenter_ras: Isocenter) -> list[CArmPose]:
    lattice = hemisphere_views(HEMISPHERE_LATTICE, isocenter_ras)
    return [lattice[number] for number in (0, *(number + 1 for number in numbers))]


def _phantom(seed: int, pixels: int, numbers: Sequence[int]) -> list[Radiograph]:
    poses: list[CArmPose] = []

    def about(isocenter_ras: Isocenter) -> list[CArmPose]:
        poses[:] = _poses(numbers, isocenter_ras)
        return poses

    images = render_phantom(seed, about, pixels)
    detector = Detector.square(pixels)
    provenance = Provenance("DRR (joseph)", f"thorax phantom, seed {seed}")
    return [
        Radiograph(image, detector.pixel_spacing_mm, View(pose, detector), provenance)
        for image, pose in zip(images, poses, strict=True)
    ]


def _ct(source: Source, detector: Detector, numbers: Sequence[int]) -> list[Radiograph]:
    volume = read_ct(source.path, source.series)
    name = f"CT with voxels SHA-256 {hashlib.sha256(volume.hu.data).hexdigest()}, table removed"
    poses = _poses(numbers, volume.isocenter_ras)
    return [drr for drr, _ in render_drrs(remove_table(volume).ct, poses, detector, source=name)]


def _in_data_set(path: Path, model: ModelDescription) -> list[Volume]:
    manifest = read_manifest(path)
    settings = manifest["settings"]
    if model.resolution not in settings["sizes"]:
        sizes = ", ".join(map(str, settings["sizes"]))
        raise SVDRRError(f"The model '{model.name}' needs images of {model.resolution} pixels; {path} has {sizes}.")
    cts = [ct for ct in manifest["cts"] if ct["split"] == _SPLIT]
    if not cts:
        raise SVDRRError(f"{path} has no CT in its split '{_SPLIT}', and others may have been trained on.")
    views = read_views_of(path, cts[0], model.resolution)
    _require_field_of_view(model, views[0].detector, str(path))
    frontal = [
        number for number, view in enumerate(views) if (view.pose.primary_deg, view.pose.secondary_deg) == (0, 0)
    ]
    if not frontal:
        raise SVDRRError(f"{path} has no PA view to synthesize others from; build one with hemisphere:N.")
    others = [number for number in range(len(views)) if number not in frontal]

    def drrs(ct: dict[str, Any], numbers: Sequence[int]) -> list[Radiograph]:
        provenance = Provenance(f"DRR ({settings['engine']})", f"data set's CT {ct['ct']}")
        samples = [
            read_sample(path, ct, model.resolution, number)
            for number in (frontal[0], *(others[number] for number in numbers))
        ]
        return [
            Radiograph(sample.pixels, sample.view.detector.pixel_spacing_mm, sample.view, provenance)
            for sample in samples
        ]

    return [Volume(len(others), partial(drrs, ct)) for ct in cts]


def _require_field_of_view(model: ModelDescription, detector: Detector, what: str) -> None:
    if detector != Detector.square(model.resolution, model.field_of_view_mm):
        side_mm = detector.rows * detector.pixel_spacing_mm[0]
        raise SVDRRError(
            f"The model '{model.name}' knows a detector of {model.field_of_view_mm:g} mm; that of {what} has "
            f"{side_mm:g} mm."
        )
