"""Arrays on the way between client and server: .npy without pickled objects, results in a plain zip file."""

from __future__ import annotations

import hashlib
import io
import json
import math
import zipfile
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from svdrr.errors import SVDRRError
from svdrr.geometry.viewsets import view_from_json
from svdrr.provenance import Provenance
from svdrr.radiograph import Radiograph

VIEWS_FILE = "views.json"


def to_npy(array: NDArray[Any]) -> bytes:
    """The bytes of a .npy file, in C order."""
    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(array), allow_pickle=False)
    return stream.getvalue()


def npy_sha256(array: NDArray[Any]) -> str:
    """SHA-256 of what `to_npy` makes of the array, without making it."""
    contiguous = np.ascontiguousarray(array)
    header = io.BytesIO()
    npy.write_array_header_1_0(header, npy.header_data_from_array_1_0(contiguous))
    digest = hashlib.sha256(header.getvalue())
    digest.update(contiguous.data)
    return digest.hexdigest()


def from_npy(data: bytes, dtypes: tuple[str, ...], ndim: int) -> NDArray[Any]:
    """The array in a .npy file, a read-only view of `data`.

    dtypes: those allowed, such as "float32". SVDRRError for anything else than one whole C-ordered array of these.
    """
    stream = io.BytesIO(data)
    try:
        version = npy.read_magic(stream)
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran_order, dtype = read_header(stream)
    except Exception:  # whatever ast, tokenize and numpy raise for the header that they are given
        raise SVDRRError("The pixels are not a .npy file.") from None
    if dtype.hasobject or dtype.name not in dtypes or not dtype.isnative or fortran_order:
        raise SVDRRError(f"The pixels must be {' or '.join(dtypes)}, little-endian, in C order, not {dtype.name}.")
    if len(shape) != ndim or min(shape, default=0) < 1:
        raise SVDRRError(f"The pixels must have {ndim} axes and at least one element, not the shape {shape}.")
    expected = math.prod(shape) * dtype.itemsize
    if len(data) - stream.tell() != expected:
        raise SVDRRError(
            f"The pixels are cut off or too long: their {len(data) - stream.tell():,} bytes do not make the array "
            "that the .npy file announces."
        )
    return np.frombuffer(data, dtype, offset=stream.tell()).reshape(shape)


def radiographs_from_zip(data: bytes) -> list[Radiograph]:
    """The radiographs of a job's result; SVDRRError if the file is not one."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = json.loads(archive.read(VIEWS_FILE))["views"]
            return [_radiograph(entry, archive.read(entry["array"])) for entry in entries]
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError, EOFError) as error:
        raise SVDRRError(f"The backend's result cannot be read ({type(error).__name__}).") from error


def zipped(entries: Iterable[dict[str, Any]], arrays: Iterable[bytes]) -> Iterable[bytes]:
    """The zip file of a result, piece by piece: one array in memory at a time.

    entries: as in ``views.json``. arrays: .npy files, in the same order.
    """
    entries = list(entries)
    pieces = _Pieces()
    with zipfile.ZipFile(pieces, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(VIEWS_FILE, json.dumps({"views": entries}))
        for entry, array in zip(entries, arrays, strict=True):
            archive.writestr(entry["array"], array)
            yield pieces.take()
    yield pieces.take()


class _Pieces(io.RawIOBase):
    """A file that is only ever written on; what was written can be taken away."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, piece: Any) -> int:
        self._pieces.append(bytes(piece))
        return len(piece)

    def take(self) -> bytes:
        taken = b"".join(self._pieces)
        self._pieces.clear()
        return taken


def _radiograph(entry: dict[str, Any], array: bytes) -> Radiograph:
    spacing = entry["pixel_spacing_mm"]
    return Radiograph(
        from_npy(array, ("float32",), 2),
        None if spacing is None else (float(spacing[0]), float(spacing[1])),
        None if entry["view"] is None else view_from_json(entry["view"]),
        Provenance.from_attributes(entry["provenance"]),
    )
