"""Reading a data set back, without WebDataset: what training and evaluation use."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from svdrr.dataset.settings import SPLITS, read_manifest
from svdrr.errors import SVDRRError
from svdrr.geometry import View
from svdrr.geometry.viewsets import view_from_json


@dataclass(frozen=True, eq=False)
class Sample:
    """One DRR. pixels: float32 (rows, columns) in [0, 1], bright bone. split: train, val or test.

    ct, patient: keys, as in the manifest. index: the view's number in the view set.
    """

    key: str
    pixels: NDArray[np.float32]
    view: View
    split: str
    ct: str
    patient: str
    index: int


def read_samples(out: Path, split: str | None = None, size: int | None = None) -> Iterator[Sample]:
    """The samples of a finished data set, CT after CT, of one split or all, of one size or all.

    Raises SVDRRError if there is no finished data set, it lacks that split or size, or a shard is damaged.
    """
    manifest = read_manifest(out)
    sizes = manifest["settings"]["sizes"]
    if split is not None and split not in SPLITS:
        raise SVDRRError(f"There is no split '{split}'; choose one of: {', '.join(SPLITS)}.")
    if size is not None and size not in sizes:
        raise SVDRRError(f"{out} has no images of {size} pixels; choose one of: {', '.join(map(str, sizes))}.")
    return (
        sample
        for ct in manifest["cts"]
        if split in (None, ct["split"])
        for shard in ct["shards"]
        if size in (None, shard["size"])
        for sample in _in_shard(out / shard["file"], ct)
    )


def samples_of(out: Path, ct: dict[str, Any], size: int) -> Iterator[Sample]:
    """The samples of one CT, an entry of the manifest's "cts"."""
    return (sample for shard in ct["shards"] if shard["size"] == size for sample in _in_shard(out / shard["file"], ct))


def read_chosen(out: Path, ct: dict[str, Any], size: int, indices: Sequence[int]) -> list[Sample]:
    """The views with these numbers of one CT, an entry of the manifest's "cts", in their order; SVDRRError for others.

    Each shard is read once, and of it only these images.
    """
    found: dict[int, Sample] = {}
    first = 0
    for shard in ct["shards"]:
        if shard["size"] == size:
            here = [index for index in indices if first <= index < first + shard["samples"]]
            keys = {f"{ct['ct']}-{size}-{index:05d}" for index in here}
            found |= {sample.index: sample for sample in _in_shard(out / shard["file"], ct, keys)} if keys else {}
            first += shard["samples"]
    for index in indices:
        if index not in found:
            raise SVDRRError(f"{out} has no view {index} of {size} pixels of the CT {ct['ct']}.")
    return [found[index] for index in indices]


def read_views_of(out: Path, ct: dict[str, Any], size: int) -> list[View]:
    """All views of one CT, an entry of the manifest's "cts", without the images."""
    views = []
    for shard in ct["shards"]:
        if shard["size"] == size:
            with _opened(out / shard["file"]) as tar:
                views += [view_from_json(_json(tar, member.name)) for member in tar if member.name.endswith(".json")]
    return views


def _in_shard(path: Path, ct: dict[str, Any], wanted: Collection[str] | None = None) -> Iterator[Sample]:
    with _opened(path) as tar:
        for member in tar:
            key, _, suffix = member.name.rpartition(".")
            if suffix != "png" or (wanted is not None and key not in wanted):
                continue
            with Image.open(io.BytesIO(_bytes(tar, member.name))) as png:
                pixels = np.asarray(png).astype(np.float32) / np.float32(65535)
            view = view_from_json(_json(tar, f"{key}.json"))
            yield Sample(key, pixels, view, ct["split"], ct["ct"], ct["patient"], int(key.rpartition("-")[2]))


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(path) as tar:
            yield tar
    except (OSError, EOFError, tarfile.TarError, KeyError, ValueError, SyntaxError) as error:
        raise SVDRRError(
            f"The shard {path} is missing or damaged ({type(error).__name__}); verify the data set."
        ) from None


def _bytes(tar: tarfile.TarFile, name: str) -> bytes:
    content = tar.extractfile(name)
    assert content is not None
    return content.read()


def _json(tar: tarfile.TarFile, name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(_bytes(tar, name))
    return document
