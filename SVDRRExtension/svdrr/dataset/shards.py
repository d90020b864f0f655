"""Samples and shards whose bytes depend on their content alone: no times, users or modes of the machine."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import tarfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from svdrr.files import whole_file
from svdrr.geometry import View
from svdrr.geometry.viewsets import view_to_json
from svdrr.provenance import PREFIX, SYNTHETIC_LABEL, Provenance

VIEWS_PER_SHARD = 1000

_UP = 2  # PNG's filter "up": every byte minus the one above it (ISO/IEC 15948, 9.2).


def encode_sample(
    key: str, pixels: NDArray[np.float32], view: View, provenance: Provenance
) -> tuple[str, bytes, bytes]:
    """(key, PNG, JSON). The PNG has the pixels and text chunks of `svdrr.images.write_png`, so that reads it too."""
    entry = view_to_json(view)
    texts = {
        **provenance.attributes(),
        f"{PREFIX}View": json.dumps(entry),
        f"{PREFIX}PixelSpacing": "\\".join(map(repr, view.detector.pixel_spacing_mm)),
    }
    description = {
        "key": key,
        "synthetic": SYNTHETIC_LABEL,
        "label": view.pose.label,
        **entry,
        "provenance": provenance.attributes(),
    }
    values = np.round(np.clip(pixels, 0.0, 1.0) * 65535.0).astype(np.uint16)
    return key, encode_png(values, texts), json.dumps(description, sort_keys=True).encode()


def encode_png(values: NDArray[np.uint16], texts: dict[str, str]) -> bytes:
    """16-bit gray PNG of (rows, columns).

    Pillow holds Python's lock while it compresses, so that on many cores the others wait; numpy and zlib do not.
    The filter "up" with run lengths takes a third of the time of Pillow's fastest level for fewer bytes.
    """
    rows, columns = values.shape
    lines = values.astype(">u2").view(np.uint8).reshape(rows, 2 * columns)
    filtered = np.empty((rows, 1 + 2 * columns), np.uint8)
    filtered[:, 0] = _UP
    filtered[0, 1:] = lines[0]
    np.subtract(lines[1:], lines[:-1], out=filtered[1:, 1:])
    compressor = zlib.compressobj(1, zlib.DEFLATED, 15, 9, zlib.Z_RLE)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", struct.pack(">IIBBBBB", columns, rows, 16, 0, 0, 0, 0)),
            *(_chunk(b"tEXt", f"{name}\0{text}".encode("latin-1")) for name, text in texts.items()),
            _chunk(b"IDAT", compressor.compress(filtered.data) + compressor.flush()),
            _chunk(b"IEND", b""),
        ]
    )


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(name)))


def write_shard(path: Path, samples: Iterable[tuple[str, bytes, bytes]]) -> None:
    """A tar of KEY.png and KEY.json one after the other, as WebDataset groups them; whole or not at all."""
    with whole_file(path) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, png, description in samples:
            for suffix, content in ((".png", png), (".json", description)):
                member = tarfile.TarInfo(key + suffix)  # Time, user and group are 0.
                member.size, member.mode = len(content), 0o644
                tar.addfile(member, io.BytesIO(content))


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
