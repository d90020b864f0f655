"""One CT in, its shards out: the same function on this computer and on a cluster's."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdrr.ct import CTVolume
from svdrr.ct.io import read_ct
from svdrr.ct.table import remove_table
from svdrr.dataset.discover import Source
from svdrr.dataset.settings import FORMAT, Settings, poses_of, read_json, write_json
from svdrr.dataset.shards import VIEWS_PER_SHARD, encode_sample, file_sha256, write_shard
from svdrr.drr import Renderer, attenuation, make_renderer, render_each, to_display
from svdrr.errors import SVDRRError
from svdrr.geometry import Detector, View
from svdrr.provenance import Provenance
from svdrr.render import require_in_view

Advance = Callable[[int], None]

# A slice distance is an average of rounded positions.
_THICKNESS_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Work:
    """What all CTs have in common. views and engine: as the user wrote them. out: absolute, on a shared disk
    if the workers are on other computers. threads: cores per CT; by default all."""

    settings: Settings
    views: str
    engine: str
    out: Path
    threads: int | None = None


@dataclass(frozen=True)
class Outcome:
    """entry: what `cts/KEY.json` holds, or None where the CT was skipped.

    reason: a sentence without paths or identifiers. sentence: the same for the person at the terminal, with them.
    key: the CT's, where its voxels could be read. rendered: how many images were rendered now, not found in place.
    """

    entry: dict[str, Any] | None
    key: str | None = None
    reason: str = ""
    sentence: str = ""
    rendered: int = 0


class _BadCTError(Exception):
    """The fault is the CT's, not the disk's or the settings'."""


def build_ct(work: Work, source: Source, advance: Advance = lambda pixels: None) -> Outcome:
    """Render all views of a CT at all sizes into shards; a CT that is done already is only read.

    Shards in place are hashed, which takes about as long as to read the CT, and rendered again where they are not
    what the CT's entry says.

    advance: told the number of this CT's pixels that are finished. Raises SVDRRError where no CT is to blame:
    a full disk, a missing engine, a changed view file.
    """
    key = None
    try:
        with _blamed_on_the_ct():
            ct = read_ct(source.path, source.series)
        voxels = hashlib.sha256(ct.hu.data).hexdigest()
        key = ct_key(ct, voxels)
        marker = work.out / "cts" / f"{key}.json"
        digests = _recorded_digests(marker)
        shards = _shards(work.settings, key)
        lacking = [shard for shard in shards if not _is_there(work.out / shard.file, digests.get(shard.file))]
        if lacking:
            with _blamed_on_the_ct():
                _check_thickness(ct, work.settings.max_slice_thickness_mm)
            _render(work, ct, key, voxels, lacking, advance)
            for shard in lacking:
                digests.pop(shard.file, None)
        entry = {
            "format": FORMAT,
            "ct": key,
            "voxels_sha256": voxels,
            "shape": list(ct.hu.shape),
            "spacing_mm": [round(float(mm), 4) for mm in ct.spacing_mm],
            "shards": [shard.entry(work.out, digests.get(shard.file)) for shard in shards],
        }
        write_json(marker, entry)
        return Outcome(entry, key, rendered=sum(shard.last - shard.first for shard in lacking))
    except _BadCTError as error:
        return Outcome(None, key, _without_paths(str(error), source), str(error))


def _is_there(path: Path, digest: str | None) -> bool:
    """Whether a shard is in place, with this hash if any was recorded: by its name alone it was whole once."""
    return path.is_file() and (digest is None or digest == file_sha256(path))


def ct_key(ct: CTVolume, voxels_sha256: str) -> str:
    """16 hex digits of a hash of the voxels and their grid."""
    grid = np.round(ct.ijk_to_ras, 3) + 0.0  # No negative zeros.
    return hashlib.sha256(f"{voxels_sha256} {ct.hu.shape} {grid.tolist()}".encode()).hexdigest()[:16]


@dataclass(frozen=True)
class _Shard:
    """Views first to last, without last, of one size, in pixels per side. pixels_before: of this CT."""

    file: str
    size: int
    first: int
    last: int
    pixels_before: int

    def entry(self, out: Path, digest: str | None) -> dict[str, Any]:
        """What the CT's entry says about it. digest: where it is known."""
        path = out / self.file
        return {
            "file": self.file,
            "size": self.size,
            "samples": self.last - self.first,
            "bytes": path.stat().st_size,
            "sha256": digest or file_sha256(path),
        }


def _shards(settings: Settings, key: str) -> list[_Shard]:
    """All shards of a CT."""
    shards = []
    pixels = 0
    for size in settings.sizes:
        for number, first in enumerate(range(0, settings.views_per_ct, VIEWS_PER_SHARD)):
            last = min(first + VIEWS_PER_SHARD, settings.views_per_ct)
            shards.append(_Shard(f"shards/{size}/{key}-{number:04d}.tar", size, first, last, pixels))
            pixels += (last - first) * size**2
    return shards


def _render(work: Work, ct: CTVolume, key: str, voxels: str, shards: list[_Shard], advance: Advance) -> None:
    poses = poses_of(work.views, ct.isocenter_ras, work.settings)
    with _blamed_on_the_ct():
        require_in_view(ct.corners_ras, poses, Detector.square(work.settings.sizes[0]))
        volume = attenuation(remove_table(ct).ct)
    renderer = make_renderer(volume, work.engine)
    del volume
    if renderer.name != work.settings.engine:
        raise SVDRRError(
            f"The engine '{work.engine}' is '{renderer.name}' here but '{work.settings.engine}' where the data set was "
            "begun; name the engine that all computers have."
        )
    provenance = Provenance(
        method=f"DRR ({renderer.name})",
        source=f"CT with voxels SHA-256 {voxels}, table removed",
        settings={"EffectiveEnergy": f"{work.settings.energy_kev:g} keV"},
        time_utc="",  # Times would make every build another.
    )
    for shard in shards:
        views = [View(pose, Detector.square(shard.size)) for pose in poses[shard.first : shard.last]]
        samples = _samples(renderer, views, f"{key}-{shard.size}", shard.first, provenance, work.threads)
        write_shard(work.out / shard.file, _counted(samples, shard.pixels_before, shard.size**2, advance))


def _samples(
    renderer: Renderer, views: list[View], prefix: str, first: int, provenance: Provenance, threads: int | None
) -> Iterator[tuple[str, bytes, bytes]]:
    def finish(index: int, line_integrals: NDArray[np.float32]) -> tuple[str, bytes, bytes]:
        key = f"{prefix}-{first + index:05d}"
        return encode_sample(key, to_display(line_integrals), views[index], provenance)

    # Renderers look at the geometry of each view, which a CT may not fit.
    with _blamed_on_the_ct():
        yield from render_each(renderer if threads is None else _Limited(renderer, threads), views, finish)


class _Limited:
    """A renderer that uses so many cores and no more: view after view, each on all of them."""

    on_cpu_threads = False

    def __init__(self, renderer: Renderer, threads: int) -> None:
        self._renderer, self._threads, self.name = renderer, threads, renderer.name

    def render(self, view: View, threads: int | None = None) -> NDArray[np.float32]:
        return self._renderer.render(view, self._threads)


def _counted(
    samples: Iterator[tuple[str, bytes, bytes]], before: int, pixels: int, advance: Advance
) -> Iterator[tuple[str, bytes, bytes]]:
    for number, sample in enumerate(samples, start=1):
        yield sample
        advance(before + number * pixels)


def _recorded_digests(marker: Path) -> dict[str, str]:
    """The hashes of a finished CT's shards by name; none where it is not finished, or its entry is damaged."""
    try:
        return {shard["file"]: shard["sha256"] for shard in read_json(marker)["shards"]}
    except (SVDRRError, KeyError, TypeError):
        return {}


def _check_thickness(ct: CTVolume, limit_mm: float | None) -> None:
    """Slices lie farther apart than pixels do, so the longest voxel edge is theirs in whatever axis order."""
    thickness = float(ct.spacing_mm.max())
    if limit_mm is not None and thickness > limit_mm * (1.0 + _THICKNESS_TOLERANCE):
        raise SVDRRError(f"The CT's slices are {thickness:.2f} mm apart, more than the {limit_mm:g} mm allowed.")


@contextmanager
def _blamed_on_the_ct() -> Iterator[None]:
    try:
        yield
    except SVDRRError as error:
        raise _BadCTError(str(error)) from error
    except MemoryError:
        raise _BadCTError("The CT does not fit into memory.") from None
    except OSError as error:
        raise _BadCTError(f"The CT cannot be read: {error.strerror or type(error).__name__}.") from None
    except (RuntimeError, ValueError, ArithmeticError, LookupError) as error:
        # ITK's own words may quote a header.
        raise _BadCTError(f"The CT cannot be used ({type(error).__name__}).") from None


def _without_paths(sentence: str, source: Source) -> str:
    """The sentence without what may name a patient: file names, folder names, UIDs."""
    files = map(str, source.path.iterdir()) if source.path.is_dir() and os.access(source.path, os.R_OK) else ()
    for path in (*sorted(files, key=len, reverse=True), str(source.path)):
        sentence = sentence.replace(f"The folder {path}", path).replace(path, "the CT")
    parts = [part for part in source.path.parts if len(part) > 2 and part in sentence]
    if parts or os.sep in sentence or "UID" in sentence:
        return "The CT cannot be read."
    return sentence[:1].upper() + sentence[1:]
