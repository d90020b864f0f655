"""A data set from many CTs: resumable at any point, the same bytes however often it was interrupted."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from svdrr.dataset.discover import LeftOut, Source, find_cts
from svdrr.dataset.one_ct import Outcome, Work, build_ct
from svdrr.dataset.settings import (
    FORMAT,
    MANIFEST_FILE,
    SETTINGS_FILE,
    SPLITS,
    Settings,
    json_bytes,
    read_json,
    read_manifest,
    write_json,
)
from svdrr.dataset.shards import file_sha256
from svdrr.errors import SVDRRError, counted
from svdrr.provenance import SYNTHETIC_LABEL

INDEX_FILE = "index.json"

_LOCK_FILE = ".lock"
_TEMPORARY = re.compile(r"\.[0-9a-f]{12}(\.\w+)*")
_DUPLICATE = "It has the same voxels as another CT of the input."


@dataclass(frozen=True)
class Watcher:
    """Who wants to know how a build gets on.

    on_folder: a folder has been looked through. on_total: the number of CTs, and of pixels in all.
    on_pixels: the number of pixels done so far. on_ct: number (from 1), source and outcome of a CT.
    """

    on_folder: Callable[[], None] = lambda: None
    on_total: Callable[[int, int], None] = lambda cts, pixels: None
    on_pixels: Callable[[int], None] = lambda pixels: None
    on_ct: Callable[[int, Source, Outcome], None] = lambda number, source, outcome: None


@dataclass(frozen=True)
class Summary:
    """cts: how many are in the data set. skipped: how many are not. samples: by split. rendered: how many of the
    samples were rendered now, not found in place. left_out: DICOM series that are no CT.
    """

    cts: int
    skipped: int
    samples: dict[str, int]
    rendered: int
    left_out: LeftOut


def build_dataset(
    inputs: Sequence[Path],
    out: Path,
    settings: Settings,
    views: str,
    engine: str,
    cluster: str | None = None,
    watcher: Watcher = Watcher(),
) -> Summary:
    """Render all CTs of `inputs` into `out`, going on where an interrupted build of the same settings has stopped.

    views, engine: what `settings` were made of. cluster: ``ray://HOST:PORT``, ``HOST:PORT`` or ``local``; `inputs`
    and `out` must then be paths that mean the same on every computer of it.
    Raises SVDRRError where the folders or the settings do not fit, the disk is full, or no CT could be used.
    """
    _check_folders(inputs, out)
    left_out: LeftOut = {}
    sources = find_cts(inputs, watcher.on_folder, left_out.update)
    out = out.resolve()
    work = Work(settings, views, engine, out)
    pixels_per_ct = settings.views_per_ct * sum(size**2 for size in settings.sizes)
    watcher.on_total(len(sources), len(sources) * pixels_per_ct)

    def on_pixels(index: int, of_this_ct: int) -> None:
        watcher.on_pixels(index * pixels_per_ct + of_this_ct)

    with _locked(out, settings):
        outcomes: list[Outcome | None] = [None] * len(sources)
        done = 0
        for index, outcome in _outcomes(work, sources, cluster, on_pixels):
            outcomes[index] = outcome
            done += pixels_per_ct
            watcher.on_pixels(done)
            watcher.on_ct(index + 1, sources[index], outcome)
        summary = _conclude(out, settings, sources, [outcome for outcome in outcomes if outcome is not None])
        return replace(summary, left_out=left_out)


def _outcomes(
    work: Work, sources: list[Source], cluster: str | None, on_pixels: Callable[[int, int], None]
) -> Iterator[tuple[int, Outcome]]:
    """(index, outcome) of every source, in the order in which they are done."""
    if cluster is not None:
        from svdrr.dataset.cluster import outcomes_on_ray

        yield from outcomes_on_ray(work, sources, cluster)
        return
    for index, source in enumerate(sources):
        yield index, build_ct(work, source, partial(on_pixels, index))


# The folder


def _check_folders(inputs: Sequence[Path], out: Path) -> None:
    if not out.parent.is_dir():
        raise SVDRRError(f"Cannot write {out}: the folder {out.parent} does not exist; create it first.")
    if out.exists() and not out.is_dir():
        raise SVDRRError(f"Cannot write {out}: it is a file; give a folder.")
    place = out.resolve()
    for given in inputs:
        source = given.resolve()
        if place == source or (source in place.parents and source.is_dir()) or place in source.parents:
            raise SVDRRError(f"The data set {out} and the CTs in {given} must not lie in one another; choose another.")
    if out.is_dir() and not any((out / name).exists() for name in (SETTINGS_FILE, MANIFEST_FILE)):
        strange = [path.name for path in out.iterdir() if path.name != _LOCK_FILE and not _is_temporary(path)]
        if strange:
            raise SVDRRError(f"The folder {out} is not empty and no data set; choose a new folder.")


@contextmanager
def _locked(out: Path, settings: Settings) -> Iterator[None]:
    """The folder made ready, and no other build in it meanwhile; a killed build's lock is gone with it.

    A folder that was made here goes again where the block fails before anything is rendered.
    """
    is_new = not out.exists()
    try:
        out.mkdir(exist_ok=True)
        lock = (out / _LOCK_FILE).open("w")
    except OSError as error:
        raise SVDRRError(f"Cannot write {out}: {error.strerror}; nothing was written.") from None
    with lock:
        try:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            pass  # Windows.
        except OSError:
            raise SVDRRError(f"Another build is writing into {out}; wait for it, or choose another folder.") from None
        try:
            _begin(out, settings)
            yield
        except BaseException:
            if is_new and not _has_begun(out):
                shutil.rmtree(out, ignore_errors=True)
            raise


def _begin(out: Path, settings: Settings) -> None:
    _remove_temporaries(out)
    file, document = out / SETTINGS_FILE, settings.document()
    if _has_begun(out):
        before = _settings_of(out)
        changed = sorted(name for name in document | before if document.get(name) != before.get(name))
        if changed:
            names = ", ".join(name.replace("_", " ") for name in changed)
            raise SVDRRError(
                f"The data set {out} was begun with other settings ({names}); repeat those or choose a new folder."
            )
    write_json(file, document)
    try:
        for folder in ("cts", *(f"shards/{size}" for size in settings.sizes)):
            (out / folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SVDRRError(f"Cannot write {out}: {error.strerror}.") from None


def _has_begun(out: Path) -> bool:
    """Whether anything has been rendered."""
    return any(not _is_temporary(path) for name in ("shards", "cts") for path in (out / name).rglob("*.*"))


def _settings_of(out: Path) -> dict[str, Any]:
    """What a data set was begun with. The manifest of a finished one knows it, too, should the file be damaged."""
    with suppress(SVDRRError):
        settings: dict[str, Any] = read_manifest(out)["settings"]
        return settings
    return read_json(out / SETTINGS_FILE)


def _is_temporary(path: Path) -> bool:
    return _TEMPORARY.fullmatch(path.name) is not None


def _remove_temporaries(out: Path) -> None:
    """What `whole_file` had begun when it was killed."""
    for path in out.rglob(".*"):
        if path.is_file() and _is_temporary(path):
            path.unlink(missing_ok=True)


# The result


def _conclude(out: Path, settings: Settings, sources: list[Source], outcomes: list[Outcome]) -> Summary:
    """Split, index and manifest; nothing in them depends on the order in which CTs were done."""
    built: dict[str, dict[str, Any]] = {}
    people: dict[str, set[str]] = {}
    skipped = []
    rendered: dict[str, int] = {}
    for number, (source, outcome) in enumerate(zip(sources, outcomes, strict=True), start=1):
        reason = outcome.reason
        if outcome.entry is not None:
            assert outcome.key is not None
            people.setdefault(source.patient, set()).add(outcome.key)
            reason = _DUPLICATE if outcome.key in built else ""
            built[outcome.key] = outcome.entry
            # The most, not the sum: two workers may have had the same CT at once.
            rendered[outcome.key] = max(outcome.rendered, rendered.get(outcome.key, 0))
        if reason:
            skipped.append({"input": number, "ct": outcome.key, "reason": reason})
    if not built:
        problem = f"None of the {len(sources):,} CTs could be used; the first" if len(sources) > 1 else "No CT is left"
        raise SVDRRError(f"{problem}: {outcomes[0].sentence}")
    others = sorted({marker.stem for marker in (out / "cts").glob("*.json")} - set(built))
    if others:
        raise SVDRRError(
            f"The data set {out} also holds {counted(len(others), 'CT')} from outside these inputs "
            f"(such as {others[0]}); give all inputs together, so that no patient comes into two splits; "
            "what was rendered stays."
        )
    patient_of = patients(people.values())
    split_of = {patient: split(patient, settings.split) for patient in set(patient_of.values())}

    cts = []
    shards: dict[str, dict[str, list[str]]] = {name: {str(size): [] for size in settings.sizes} for name in SPLITS}
    samples = dict.fromkeys(SPLITS, 0)
    for key in sorted(built):
        name = split_of[patient_of[key]]
        entry = {field: value for field, value in built[key].items() if field != "format"}
        cts.append({**entry, "patient": patient_of[key], "split": name})
        for shard in entry["shards"]:
            shards[name][str(shard["size"])].append(shard["file"])
            samples[name] += shard["samples"]
    _remove_temporaries(out)  # Of workers that died.
    head = {"format": FORMAT, "synthetic": SYNTHETIC_LABEL}
    write_json(out / INDEX_FILE, {**head, "samples": samples, "shards": shards})
    made_with = {"settings": settings.document(), "index_sha256": file_sha256(out / INDEX_FILE)}
    found = {"patients": split_of, "cts": cts, "skipped": skipped}
    write_json(out / MANIFEST_FILE, {**head, **made_with, **found})
    return Summary(len(built), len(skipped), samples, sum(rendered.values()), {})


def patients(people: Iterable[set[str]]) -> dict[str, str]:
    """CT key -> patient key, the smallest key among the patient's CTs.

    people: the CT keys of each PatientID or folder. Two of them that share a CT are one person, who must not come
    into two splits.
    """
    groups: list[set[str]] = []
    for keys in people:
        touching = [group for group in groups if group & keys]
        groups = [group for group in groups if not group & keys]
        groups.append(set(keys).union(*touching))
    return {key: min(group) for group in groups for key in group}


def split(patient: str, shares: Sequence[float]) -> str:
    """The split of a patient: by the hash of the key alone, so that no patient moves when others come.

    A further CT of a patient may become the smallest key, and then moves the patient with all CTs.
    """
    position = int.from_bytes(hashlib.sha256(patient.encode()).digest()[:8], "big") / 2**64 * sum(shares)
    for name, share in zip(SPLITS, shares, strict=True):
        if position < share:
            return name
        position -= share
    # Rounding at the very end.
    return max(zip(shares, SPLITS, strict=True))[1]


def verify(out: Path) -> list[str]:
    """The files of a finished data set that are missing or differ from what the manifest says, by name."""
    manifest = read_manifest(out)
    # The manifest holds the settings and the CTs' entries in full, and of the others their hashes.
    digests = {INDEX_FILE: manifest["index_sha256"], SETTINGS_FILE: _sha256(manifest["settings"])}
    for ct in manifest["cts"]:
        entry = {name: value for name, value in ct.items() if name not in ("patient", "split")}
        digests[f"cts/{ct['ct']}.json"] = _sha256({"format": FORMAT, **entry})
        digests |= {shard["file"]: shard["sha256"] for shard in ct["shards"]}
    return [name for name, digest in digests.items() if not (out / name).is_file() or file_sha256(out / name) != digest]


def _sha256(document: dict[str, Any]) -> str:
    return hashlib.sha256(json_bytes(document)).hexdigest()
