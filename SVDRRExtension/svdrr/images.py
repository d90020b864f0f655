"""Radiographs: reading what people have, writing 16-bit PNG and float NRRD with their provenance."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from svdrr.ct.io import write_volume
from svdrr.errors import SVDRRError
from svdrr.files import whole_file
from svdrr.geometry import View
from svdrr.geometry.viewsets import view_from_json, view_to_json
from svdrr.provenance import PREFIX, Provenance

_VIEW_TEXT = f"{PREFIX}View"
_SPACING_TEXT = f"{PREFIX}PixelSpacing"
_PNG_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
_SPACING_TAGS = ("0018|1164", "0028|0030")  # Imager Pixel Spacing, Pixel Spacing (DICOM PS3.3 10.7)
_MODALITY_TAG = "0008|0060"
_PROJECTION_MODALITIES = ("CR", "DX", "RF", "XA", "RG", "MG", "OT", "")


@dataclass(frozen=True, eq=False)
class Radiograph:
    """One projection image.

    pixels: float32 (rows, columns), row 0 at the top, in [0, 1], bright bone. pixel_spacing_mm: (row, column) at
    the detector, or None where it is unknown. view: pose and detector, where known. provenance: None for an image
    that was taken, not computed.
    """

    pixels: NDArray[np.float32]
    pixel_spacing_mm: tuple[float, float] | None = None
    view: View | None = None
    provenance: Provenance | None = None

    def pixels_sha256(self) -> str:
        """Hash of the pixel values alone: names a source without naming a patient."""
        return hashlib.sha256(np.ascontiguousarray(self.pixels).tobytes()).hexdigest()


def read_radiograph(path: Path) -> Radiograph:
    """A radiograph from DICOM (CR, DX, …), PNG, TIFF, JPEG, or a one-slice NRRD, NIfTI or MetaImage file.

    Integer pictures are scaled by their bit depth, DICOM and other integers by their own range; float values must
    lie in [0, 1] already. DICOM comes out as bright bone whatever its photometric interpretation, since GDCM
    inverts MONOCHROME1 on reading; other files are taken as bright bone. Raises SVDRRError for anything else.
    """
    if not path.exists():
        raise SVDRRError(f"There is no file '{path}'.")
    if path.is_dir():
        raise SVDRRError(f"'{path}' is a folder; give the file of one radiograph.")
    if path.suffix.lower() in _PNG_SUFFIXES:
        return _read_picture(path)
    return _read_with_itk(path)


def _read_picture(path: Path) -> Radiograph:
    try:
        with Image.open(path) as image:
            image.load()
            values = np.asarray(image)
            texts = dict(getattr(image, "text", {}))
    except (OSError, SyntaxError, ValueError):
        raise SVDRRError(f"'{path}' cannot be read as an image; it may be damaged or of another type.") from None
    if values.ndim == 3:
        gray = values[..., 0]
        if np.any(values[..., :3] != gray[..., None]):
            raise SVDRRError(f"'{path}' is a color image; a radiograph has one gray channel.")
        values = gray
    if values.dtype.kind == "f":
        return Radiograph(_unit_range(values, path))
    depth = 255.0 if values.dtype == np.uint8 else 65535.0
    pixels = _checked(values.astype(np.float32) / np.float32(depth), path)
    try:
        spacing = texts.get(_SPACING_TEXT)
        row_mm, column_mm = map(float, spacing.split("\\")) if spacing else (0.0, 0.0)
        view = view_from_json(json.loads(texts[_VIEW_TEXT])) if _VIEW_TEXT in texts else None
    except (ValueError, KeyError, TypeError):
        raise SVDRRError(f"The description that SVDRR wrote into '{path}' has been damaged.") from None
    return Radiograph(pixels, (row_mm, column_mm) if row_mm > 0.0 else None, view, Provenance.from_attributes(texts))


def _read_with_itk(path: Path) -> Radiograph:
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError:
        raise SVDRRError(f"'{path}' cannot be read as a radiograph; it may be damaged or of another type.") from None
    tags = set(image.GetMetaDataKeys())
    modality = image.GetMetaData(_MODALITY_TAG).strip() if _MODALITY_TAG in tags else ""
    if modality not in _PROJECTION_MODALITIES:
        raise SVDRRError(f"'{path}' is a {modality} image; a radiograph (CR or DX) is needed here.")
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise SVDRRError(f"'{path}' is a color image; a radiograph has one gray channel.")
    values = np.squeeze(sitk.GetArrayFromImage(image))
    if values.ndim != 2:
        raise SVDRRError(f"'{path}' is a volume of size {image.GetSize()}; a radiograph has one slice.")
    if values.dtype.kind == "f" and not modality:
        return Radiograph(_unit_range(values, path), _spacing(image, tags))
    values = values.astype(np.float32)
    low, high = float(values.min()), float(values.max())
    if not high > low:
        raise SVDRRError(f"'{path}' holds the single value {low:g} or values that are not numbers; nothing is on it.")
    return Radiograph((values - np.float32(low)) / np.float32(high - low), _spacing(image, tags))


def _spacing(image: sitk.Image, tags: set[str]) -> tuple[float, float] | None:
    """(row, column) in mm, or None: a DICOM spacing of 0 arrives from GDCM as 1, so the tags are asked."""
    if _MODALITY_TAG not in tags:
        return float(image.GetSpacing()[1]), float(image.GetSpacing()[0])
    for tag in _SPACING_TAGS:
        if tag in tags:
            try:
                row_mm, column_mm = map(float, image.GetMetaData(tag).split("\\"))
            except ValueError:
                continue
            if row_mm > 0.0 and column_mm > 0.0:
                return row_mm, column_mm
    return None


def _unit_range(values: NDArray[np.floating], path: Path) -> NDArray[np.float32]:
    if not np.all(np.isfinite(values)):
        count = int(np.count_nonzero(~np.isfinite(values)))
        raise SVDRRError(f"'{path}' has {count:,} pixels that are not numbers (NaN or infinite).")
    if values.min() < 0.0 or values.max() > 1.0:
        raise SVDRRError(
            f"'{path}' has float values from {values.min():g} to {values.max():g}; a radiograph's lie in 0 to 1."
        )
    return _checked(values.astype(np.float32), path)


def _checked(pixels: NDArray[np.float32], path: Path) -> NDArray[np.float32]:
    if min(pixels.shape) < 16:
        raise SVDRRError(
            f"'{path}' has only {pixels.shape[0]} x {pixels.shape[1]} pixels; at least 16 x 16 are needed."
        )
    if pixels.min() == pixels.max():
        raise SVDRRError(f"'{path}' holds a single gray value; nothing is on it.")
    return pixels


def _descriptions(radiograph: Radiograph) -> dict[str, str]:
    entries = dict(radiograph.provenance.attributes()) if radiograph.provenance else {}
    if radiograph.view is not None:
        entries[_VIEW_TEXT] = json.dumps(view_to_json(radiograph.view))
    if radiograph.pixel_spacing_mm is not None:
        entries[_SPACING_TEXT] = "\\".join(map(repr, radiograph.pixel_spacing_mm))
    return entries


def write_png(path: Path, radiograph: Radiograph) -> None:
    """16-bit gray PNG; provenance, view and pixel spacing (row\\column, mm) in its text chunks."""
    texts = PngImagePlugin.PngInfo()
    for name, value in _descriptions(radiograph).items():
        texts.add_text(name, value)
    values = np.round(np.clip(radiograph.pixels, 0.0, 1.0) * 65535.0).astype(np.uint16)
    with whole_file(path) as temporary:
        Image.fromarray(values).save(temporary, format="PNG", pnginfo=texts)


def write_nrrd(path: Path, values: NDArray[np.float32], radiograph: Radiograph) -> None:
    """Float NRRD of `values` (rows, columns), placed where `radiograph`'s view puts it, with its provenance.

    `values` are given apart from the radiograph's pixels, since a DRR is kept as line integrals.
    """
    placed = np.eye(4)
    if radiograph.view is not None:
        placed = radiograph.view.pixel_to_ras
    elif radiograph.pixel_spacing_mm is not None:
        placed = np.diag([radiograph.pixel_spacing_mm[1], radiograph.pixel_spacing_mm[0], 1.0, 1.0])
    write_volume(path, values[None].astype(np.float32), placed, _descriptions(radiograph))


def write_radiograph(path: Path, radiograph: Radiograph) -> None:
    """The radiograph as 16-bit PNG or float NRRD, as the suffix says."""
    if path.suffix.lower() == ".png":
        write_png(path, radiograph)
    elif path.suffix.lower() == ".nrrd":
        write_nrrd(path, radiograph.pixels, radiograph)
    else:
        raise SVDRRError(f"Cannot write '{path}': a radiograph's name must end in .png or .nrrd.")
