"""Where true DRRs come from, for evaluation and reader studies: held-out phantoms, CTs, or a data set's test CTs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from svdrr.ct import CTVolume
from svdrr.ct.body import body_center_ras
from svdrr.ct.io import read_ct
from svdrr.ct.table import remove_table
from svdrr.dataset.discover import Source, find_cts
from svdrr.dataset.read import read_chosen, read_views_of
from svdrr.dataset.settings import MANIFEST_FILE, SETTINGS_FILE, read_manifest
from svdrr.errors import SVDRRError, counted
from svdrr.geometry import CArmPose, Detector, View
from svdrr.geometry.viewsets import Isocenter, hemisphere_views
from svdrr.models import ModelDescription
from svdrr.provenance import Provenance
from svdrr.radiograph import Radiograph
from svdrr.render import render_drrs
from svdrr.synthesis.training.phantom_views import FIRST_HELD_OUT_SEED, HEMISPHERE_LATTICE, render_phantom

MAX_PHANTOMS = 10_000
_SPLIT = "test"
_ENGINE = "joseph"
_SAME_PLACE_MM = 1e-3

FindCTs = Callable[[Path], Sequence[Source]]


@dataclass(frozen=True)
class Volume:
    """A body to be seen from its sides.

    views: how many there are to choose from, PA not counted. render: the DRR of PA, and then those of the views with
    these numbers, from 0 to `views`, without it; each with its view, and with a provenance that names the body, but no
    patient.
    """

    views: int
    render: Callable[[Sequence[int]], list[Radiograph]]


@dataclass(frozen=True)
class Volumes:
    """description: what they are, for people."""

    description: str
    volumes: tuple[Volume, ...]


def all_cts(path: Path) -> list[Source]:
    """Every CT in a file or, at any depth, in a folder."""
    return find_cts([path])


def one_ct(series: str | None) -> FindCTs:
    """The one CT of a file or folder; series: see `svdrr.ct.io.read_ct`."""
    return lambda path: [Source(path, series, str(path))]


def open_volumes(
    data: str, model: ModelDescription, poses: Sequence[CArmPose] | None = None, find: FindCTs = all_cts
) -> Volumes:
    """The volumes that `data` names, seen with the model's detector.

    data: ``phantoms:N``, the first N held-out phantoms; the folder of ``svdrr dataset build``, of which the test part
    is used and which must hold these views at the model's resolution; or what `find` finds CTs in, whose tables are
    removed. poses: the views, about the origin, PA not among them; they are taken about the center of each volume. By
    default those that a data set holds, and of other volumes the 1,500 positions of the paper's hemisphere.
    SVDRRError, before any work, for what is none of these, or does not fit the model; of several CTs, one that cannot
    be read is found when its turn comes.
    """
    kind, _, count = data.partition(":")
    path = Path(data)
    everywhere = hemisphere_views(HEMISPHERE_LATTICE, (0.0, 0.0, 0.0))[1:] if poses is None else poses
    if kind == "phantoms" and not path.exists():
        return _phantoms(count, everywhere, model)
    if (path / MANIFEST_FILE).is_file() or (path / SETTINGS_FILE).is_file():
        return _data_set(path, poses, model)
    return _cts(find(path), everywhere, model)


def _about(poses: Sequence[CArmPose], isocenter_ras: Isocenter, numbers: Sequence[int]) -> list[CArmPose]:
    """PA and the poses with these numbers, about the isocenter."""
    return [replace(pose, isocenter_ras=isocenter_ras) for pose in (CArmPose(), *(poses[number] for number in numbers))]


def _phantoms(count: str, poses: Sequence[CArmPose], model: ModelDescription) -> Volumes:
    if not count.isdecimal() or not 1 <= int(count) <= MAX_PHANTOMS:
        raise SVDRRError(f"Give 1 to {MAX_PHANTOMS:,} phantoms, such as phantoms:16, not 'phantoms:{count}'.")
    _require_field_of_view(model, Detector.square(model.resolution), "phantoms")
    seeds = range(FIRST_HELD_OUT_SEED, FIRST_HELD_OUT_SEED + int(count))
    return Volumes(
        f"{counted(len(seeds), 'held-out phantom')} (seeds from {FIRST_HELD_OUT_SEED:,})",
        tuple(Volume(len(poses), partial(_phantom, seed, poses, model.resolution)) for seed in seeds),
    )


def _phantom(seed: int, poses: Sequence[CArmPose], pixels: int, numbers: Sequence[int]) -> list[Radiograph]:
    taken: list[CArmPose] = []

    def about(isocenter_ras: Isocenter) -> list[CArmPose]:
        taken[:] = _about(poses, isocenter_ras, numbers)
        return taken

    images = render_phantom(seed, about, pixels)
    detector = Detector.square(pixels)
    provenance = Provenance(f"DRR ({_ENGINE})", f"thorax phantom, seed {seed}")
    return [
        Radiograph(image, detector.pixel_spacing_mm, View(pose, detector), provenance)
        for image, pose in zip(images, taken, strict=True)
    ]


def _cts(sources: Sequence[Source], poses: Sequence[CArmPose], model: ModelDescription) -> Volumes:
    detector = Detector.square(model.resolution, model.field_of_view_mm)
    read = lru_cache(maxsize=1)(read_ct)

    def drrs(source: Source, numbers: Sequence[int]) -> list[Radiograph]:
        ct = read(source.path, source.series)
        without_table = remove_table(ct).ct
        about = _about(poses, body_center_ras(without_table), numbers)
        name = f"CT with voxels SHA-256 {_voxels_sha256(ct)}, table removed"
        return [drr for drr, _ in render_drrs(without_table, about, detector, _ENGINE, name)]

    description = f"{counted(len(sources), 'CT')}, tables removed"
    if len(sources) == 1:
        # What cannot be read is refused now, and read no second time.
        sha256 = _voxels_sha256(read(sources[0].path, sources[0].series))
        description = f"CT with voxels SHA-256 {sha256[:16]}, table removed"
    return Volumes(description, tuple(Volume(len(poses), partial(drrs, source)) for source in sources))


def _voxels_sha256(ct: CTVolume) -> str:
    return hashlib.sha256(ct.hu.data).hexdigest()


def _data_set(folder: Path, poses: Sequence[CArmPose] | None, model: ModelDescription) -> Volumes:
    manifest = read_manifest(folder)
    settings = manifest["settings"]
    if model.resolution not in settings["sizes"]:
        sizes = ", ".join(map(str, settings["sizes"]))
        raise SVDRRError(f"The model '{model.name}' needs images of {model.resolution} pixels; {folder} has {sizes}.")
    cts = [ct for ct in manifest["cts"] if ct["split"] == _SPLIT]
    if not cts:
        raise SVDRRError(
            f"{folder} has no CT in its test part, and others may have been trained on; build it with a larger share "
            "of test."
        )
    stored = read_views_of(folder, cts[0], model.resolution)
    _require_field_of_view(model, stored[0].detector, str(folder))
    if poses is None:
        frontal, others = _frontal_and_others(folder, stored)
    else:
        frontal, *others = _indices(folder, poses, stored, settings["views"])

    def drrs(ct: dict[str, Any], numbers: Sequence[int]) -> list[Radiograph]:
        provenance = Provenance(f"DRR ({settings['engine']})", f"data set's CT {ct['ct']}")
        chosen = [frontal, *(others[number] for number in numbers)]
        return [
            Radiograph(sample.pixels, sample.view.detector.pixel_spacing_mm, sample.view, provenance)
            for sample in read_chosen(folder, ct, model.resolution, chosen)
        ]

    return Volumes(
        f"{counted(len(cts), 'CT')}, the test part of a data set",
        tuple(Volume(len(others), partial(drrs, ct)) for ct in cts),
    )


def _frontal_and_others(folder: Path, stored: Sequence[View]) -> tuple[int, list[int]]:
    frontal = [index for index, view in enumerate(stored) if (view.pose.primary_deg, view.pose.secondary_deg) == (0, 0)]
    if not frontal:
        raise SVDRRError(f"{folder} has no PA view to synthesize others from; build one with hemisphere:N.")
    return frontal[0], [index for index in range(len(stored)) if index not in frontal]


def _indices(folder: Path, poses: Sequence[CArmPose], stored: Sequence[View], built_with: str) -> list[int]:
    """Which of the stored views are taken from PA and from the poses."""
    places = np.array([(view.pose.source_ras, view.pose.detector_center_ras) for view in stored])
    indices = []
    for pose in _about(poses, stored[0].pose.isocenter_ras, range(len(poses))):
        distances = np.abs(places - (pose.source_ras, pose.detector_center_ras)).max(axis=(1, 2))
        if distances.min() >= _SAME_PLACE_MM:
            raise SVDRRError(
                f"{folder}, built with --views {built_with}, lacks the view {pose.label}; evaluate with the views that "
                "it was built with, which PA, the source view, must be one of."
            )
        indices.append(int(distances.argmin()))
    return indices


def _require_field_of_view(model: ModelDescription, detector: Detector, what: str) -> None:
    if detector != Detector.square(model.resolution, model.field_of_view_mm):
        side_mm = detector.rows * detector.pixel_spacing_mm[0]
        raise SVDRRError(
            f"The detector of {what} has a side of {side_mm:g} mm and that of '{model.name}' one of "
            f"{model.field_of_view_mm:g} mm; choose data with the model's own."
        )
