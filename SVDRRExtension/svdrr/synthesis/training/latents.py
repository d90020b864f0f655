"""What VCDiT is trained on: latents of radiographs, computed once and kept on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from diffusers import AutoencoderKL
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from torch import Tensor, nn

from svdrr.dataset.read import read_views_of, samples_of
from svdrr.dataset.settings import read_manifest
from svdrr.errors import SVDRRError
from svdrr.files import whole_directory
from svdrr.geometry import View, relative_view_encoding
from svdrr.synthesis.back_projection import pose_of, project, projector
from svdrr.synthesis.lifting import LiftingNetwork, likely_volume
from svdrr.synthesis.pipeline import encode_latents
from svdrr.synthesis.training.loop import share

ENCODED_AT_ONCE = 4
"""Radiographs that go through the VAE together."""


@dataclass(frozen=True, eq=False)
class LatentSet:
    """The training views of many volumes, some of which are also what other views are made from: the sources.

    latents: scaled latents (volumes, views, c, h, w). sources: their radiographs (volumes, n_sources, rows, columns),
    16 bit. source_latents: (volumes, n_sources, c, h, w). encodings: `relative_view_encoding` from each source to each
    view, (volumes, n_sources, views, 4). back_projections: for models that look at them, the latents of what the views
    look like in the back-projection of source number view % n_sources, (volumes, views, c, h, w).
    """

    latents: NDArray[np.floating]
    sources: NDArray[np.uint16]
    source_latents: NDArray[np.floating]
    encodings: NDArray[np.float32]
    back_projections: NDArray[np.floating] | None = None

    def draw(self, batch_size: int, generator: np.random.Generator) -> LatentBatch:
        """Random views of random volumes from random sources: this process's `share` of a batch, on its device."""
        volumes = generator.integers(len(self.latents), size=batch_size)
        sources = generator.integers(self.sources.shape[1], size=batch_size)
        views = generator.integers(self.latents.shape[1], size=batch_size)
        mine = share(batch_size)
        volumes, sources, views = volumes[mine], sources[mine], views[mine]
        if self.back_projections is not None:
            sources = views % self.sources.shape[1]
        given = on_device(self.source_latents[volumes, sources])
        if self.back_projections is not None:
            given = torch.cat([given, on_device(self.back_projections[volumes, views])], dim=1)
        return LatentBatch(
            target=on_device(self.latents[volumes, views]),
            source=on_device(self.sources[volumes, sources]) / 65535.0,
            given_latents=given,
            encoding=on_device(self.encodings[volumes, sources, views]),
            volumes=volumes,
            source_numbers=sources,
        )


@dataclass(frozen=True, eq=False)
class LatentBatch:
    """target: (batch, c, h, w). source: (batch, rows, columns) in [0, 1]. given_latents: for `VCDiT.forward`, that of
    the source first. encoding: (batch, 4).

    volumes, source_numbers: which of the set's volumes and of their sources these are, (batch,).
    """

    target: Tensor
    source: Tensor
    given_latents: Tensor
    encoding: Tensor
    volumes: NDArray[np.int64]
    source_numbers: NDArray[np.int64]


def on_device(values: NDArray[Any]) -> Tensor:
    """Numbers of any kind as float32, on this process's device."""
    return torch.from_numpy(np.asarray(values, np.float32)).to(PartialState().device)


def cache_latents(
    vae: AutoencoderKL,
    shape: tuple[int, int, int],
    radiographs_of: Callable[[int], Iterator[NDArray[np.float32]]],
    source_views: Sequence[int],
    directory: Path,
    identity: dict[str, str],
    on_volume: Callable[[int, int], None] | None = None,
) -> tuple[NDArray[np.float16], NDArray[np.uint16]]:
    """Scaled latents (volumes, views, c, h, w), half precision, and source radiographs (volumes, n_sources, pixels,
    pixels), 16 bit: memory-mapped files in `directory`.

    Encodes only what an earlier call with the same `identity`, the hashes of what the latents depend on, has not
    finished. Several processes share the volumes. shape: volumes, views, pixels per side. radiographs_of: the views
    (pixels, pixels) in [0, 1] of a volume. on_volume: finished and total volumes. SVDRRError if the directory holds
    latents of another identity.
    """
    volumes, views, pixels = shape
    processes = PartialState()
    side = pixels // 2 ** (len(vae.config.block_out_channels) - 1)
    with processes.main_process_first():
        if not directory.exists():
            with whole_directory(directory) as folder:
                _new(folder / "latents.npy", np.float16, (volumes, views, vae.config.latent_channels, side, side))
                _new(folder / "sources.npy", np.uint16, (volumes, len(source_views), pixels, pixels))
                _new(folder / "finished.npy", np.bool_, (volumes,))
                (folder / "identity.json").write_text(json.dumps(identity, indent=1) + "\n", encoding="utf-8")
    latents, sources, finished = (_opened(directory / f"{name}.npy") for name in ("latents", "sources", "finished"))
    if _identity_in(directory) != identity or latents.shape[:2] != (volumes, views):
        raise SVDRRError(f"'{directory}' holds latents of other images or of another VAE; train in a new folder.")
    vae.to(processes.device)
    for volume in range(processes.process_index, volumes, processes.num_processes):
        if not finished[volume]:
            _encode_volume(vae, radiographs_of(volume), source_views, latents[volume], sources[volume])
            # On the disk before it counts as done.
            latents.flush()
            sources.flush()
            finished[volume] = True
            finished.flush()
        if on_volume is not None:
            on_volume(min(volume + processes.num_processes, volumes), volumes)
    processes.wait_for_everyone()
    return latents, sources


def _encode_volume(
    vae: AutoencoderKL,
    radiographs: Iterator[NDArray[np.float32]],
    source_views: Sequence[int],
    latents: NDArray[np.float16],
    sources: NDArray[np.uint16],
) -> None:
    done = 0
    while batch := list(islice(radiographs, ENCODED_AT_ONCE)):
        for index, radiograph in enumerate(batch, start=done):
            if index in source_views:
                sources[source_views.index(index)] = np.round(radiograph * 65535.0)
        done += len(batch)
        if done <= len(latents):
            with torch.no_grad():
                encoded = encode_latents(vae, on_device(np.stack(batch)))
            latents[done - len(batch) : done] = encoded.cpu().numpy()
    if done != len(latents):
        raise SVDRRError(f"A CT has {done} views instead of {len(latents)}; verify the data set.")


def dataset_latents(
    vae: AutoencoderKL,
    data: Path,
    pixels: int,
    directory: Path,
    on_volume: Callable[[int, int], None] | None = None,
) -> LatentSet:
    """The training split of a data set of ``svdrr dataset build``, with the PA view, its first, as the source.

    pixels: per side; one of the data set's sizes. Latents are kept in `directory`, see `cache_latents`. SVDRRError if
    the data set does not have all that is needed, or its first view is not PA.
    """
    cts = training_cts(data, pixels)
    views = read_views_of(data, cts[0], pixels)
    source = views[0].pose
    if (source.primary_deg, source.secondary_deg) != (0.0, 0.0):
        raise SVDRRError(
            f"The first view of {data} is {source.label}, and must be PA, from which the others are made; "
            "build the data set with --views hemisphere:N."
        )
    latents, sources = cache_latents(
        vae,
        (len(cts), len(views), pixels),
        lambda volume: (sample.pixels for sample in samples_of(data, cts[volume], pixels)),
        [0],
        directory,
        {"dataset": read_manifest(data)["index_sha256"], "vae": weights_sha256(vae)},
        on_volume,
    )
    return LatentSet(latents, sources, latents[:, :1], np.tile(_encodings(views), (len(cts), 1, 1, 1)))


def cache_back_projections(
    vae: AutoencoderKL,
    latents: LatentSet,
    side_mm: float,
    directory: Path,
    identity: dict[str, str],
    lifting: LiftingNetwork | None = None,
    on_volume: Callable[[int, int], None] | None = None,
) -> LatentSet:
    """`latents` with its back-projections, which are kept in `directory` as by `cache_latents`.

    side_mm, lifting: see `likely_volume`, side_mm being that of the sources' detector.
    """
    volumes, sources, pixels, _ = latents.sources.shape
    views = latents.latents.shape[1]

    def radiographs_of(volume: int) -> Iterator[NDArray[np.float32]]:
        seen = np.empty((views, pixels, pixels), np.float32)
        for number, source in enumerate(latents.sources[volume]):
            poses = [pose_of(encoding) for encoding in latents.encodings[volume, number, number::sources]]
            renderer = projector(likely_volume(source / np.float32(65535.0), side_mm, lifting))
            seen[number::sources] = project(renderer, poses, pixels, side_mm)
        return iter(seen)

    if lifting is not None:
        identity = {**identity, "lifting": weights_sha256(lifting)}
    encoded, _ = cache_latents(vae, (volumes, views, pixels), radiographs_of, [], directory, identity, on_volume)
    return replace(latents, back_projections=encoded)


def _encodings(views: Sequence[View]) -> NDArray[np.float32]:
    """(1, views, 4). One volume's hold for all: they are differences of angles, and all have the same views."""
    source = views[0].pose
    return np.array([[relative_view_encoding(source, view.pose) for view in views]], np.float32)


def training_cts(data: Path, pixels: int) -> list[dict[str, Any]]:
    """The manifest's entries of the training split; SVDRRError if there are none, or none of that size."""
    manifest = read_manifest(data)
    sizes = manifest["settings"]["sizes"]
    if pixels not in sizes:
        raise SVDRRError(f"{data} has images of {', '.join(map(str, sizes))} pixels, and none of {pixels}.")
    cts: list[dict[str, Any]] = [ct for ct in manifest["cts"] if ct["split"] == "train"]
    if not cts:
        raise SVDRRError(f"No CT of {data} is in its training split; build it with more CTs or a larger share.")
    return cts


def weights_sha256(model: nn.Module) -> str:
    """A hash of a network's parameters and buffers, by name."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


def _new(file: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> None:
    """A file of zeros, which takes no room on the disk before it is written to."""
    open_memmap(file, "w+", dtype, shape).flush()


def _opened(file: Path) -> np.memmap[Any, Any]:
    try:
        return open_memmap(file, "r+")
    except (OSError, ValueError):
        raise SVDRRError(f"'{file}' is missing or damaged; remove the folder '{file.parent}'.") from None


def _identity_in(directory: Path) -> object:
    try:
        return json.loads((directory / "identity.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
