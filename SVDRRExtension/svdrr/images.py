"""Radiographs: reading what people have, writing 16-bit PNG and float NRRD with their provenance."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from svdrr.ct.io import dicom_is_whole, ijk_to_lps, itk_warnings_silenced, nifti_is_whole, write_volume
from svdrr.errors import SVDRRError, counted
from svdrr.files import whole_file
from svdrr.geometry.frames import lps_to_ras
from svdrr.geometry.viewsets import view_from_json, view_to_json
from svdrr.preparation import logarithmic
from svdrr.provenance import PREFIX, Provenance
from svdrr.radiograph import Radiograph

_VIEW_TEXT = f"{PREFIX}View"
_SPACING_TEXT = f"{PREFIX}PixelSpacing"
_POSITION_TEXT = f"{PREFIX}ViewPosition"
_VOLUME_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd", ".nii", ".nii.gz")
_PNG_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
_SPACING_TAGS = ("0018|1164", "0028|0030")  # Imager Pixel Spacing, Pixel Spacing (DICOM PS3.3 10.7)
_MODALITY_TAG = "0008|0060"
_PHOTOMETRIC_TAG = "0028|0004"
_RELATIONSHIP_TAG, _SIGN_TAG = "0028|1040", "0028|1041"  # Pixel Intensity Relationship (PS3.3 C.8.11.3.1)
_INTENSITY_TAGS = (_PHOTOMETRIC_TAG, _RELATIONSHIP_TAG, _SIGN_TAG)
_POSITION_TAG = "0018|5101"  # View Position
_TIFF_PHOTOMETRIC = 262
_PROJECTION_MODALITIES = ("CR", "DX", "RF", "XA", "RG", "MG", "OT", "")


def read_radiograph(path: Path) -> Radiograph:
    """A radiograph from DICOM (CR, DX, …), PNG, TIFF, JPEG, or a one-slice NRRD, NIfTI or MetaImage file.

    Integer pictures are scaled by their bit depth, DICOM and other integers by their own range; float values must
    lie in [0, 1] already. DICOM comes out as bright bone whatever its photometric interpretation, since GDCM
    inverts MONOCHROME1 on reading, and with a logarithmic gray scale where the file says that its own is linear in
    the exposure, see `bring_to_log`; other files are taken as that. A DICOM file's view position comes along where it
    is neither PA nor AP, see `Radiograph.source_pose`. Raises SVDRRError for anything else.
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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            values, texts, frames, white_is_zero = _decoded(path)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise SVDRRError(f"'{path}' cannot be read as an image; it may be damaged or of another type.") from None
    if frames > 1:
        raise SVDRRError(f"'{path}' holds {frames} images; a radiograph is one.")
    if values.ndim == 3:
        if np.any(values != values[..., :1]):
            raise SVDRRError(f"'{path}' is a color image; a radiograph has one gray channel.")
        values = values[..., 0]
    if values.dtype.kind == "f":
        return Radiograph(_unit_range(values, path))
    white = 255 if values.dtype == np.uint8 else 65535
    if values.min() < 0 or values.max() > white:
        raise SVDRRError(f"'{path}' has 32-bit pixels; save it with 8 or 16 bits, or as float values in 0 to 1.")
    pixels = values.astype(np.float32) / np.float32(white)
    return _described(_checked(1.0 - pixels if white_is_zero else pixels, path), texts, path)


def _decoded(path: Path) -> tuple[NDArray[Any], dict[str, str], int, bool]:
    """Pixels (rows, columns) or (rows, columns, 3), text entries, the number of images, whether zero is white."""
    with Image.open(path) as image:
        mode, frames = image.mode, getattr(image, "n_frames", 1)
        sixteen_bit = mode.startswith("I;16")
        # Palettes, bits and alpha come out as colors, to be compared by the caller.
        values = np.asarray(image if sixteen_bit or mode in ("L", "I", "F") else image.convert("RGB"))
        # Pillow turns 8-bit TIFFs whose zero is white, and leaves 16-bit ones as they are.
        white_is_zero = sixteen_bit and getattr(image, "tag_v2", {}).get(_TIFF_PHOTOMETRIC) == 0
        return values, dict(getattr(image, "text", {})), frames, white_is_zero


def _described(pixels: NDArray[np.float32], texts: Mapping[str, str], path: Path) -> Radiograph:
    """The radiograph with the spacing, view and provenance that `write_png` or `write_nrrd` put into the file."""
    try:
        row_mm, column_mm = map(float, texts[_SPACING_TEXT].split("\\")) if _SPACING_TEXT in texts else (0.0, 0.0)
        view = view_from_json(json.loads(texts[_VIEW_TEXT])) if _VIEW_TEXT in texts else None
        provenance = Provenance.from_attributes(texts)
        if view is not None and (view.detector.rows, view.detector.columns) != pixels.shape:
            raise ValueError("cropped or resampled since")
    except (ValueError, KeyError, TypeError, SVDRRError):
        raise SVDRRError(f"The description that SVDRR wrote into '{path}' is damaged or does not fit.") from None
    spacing = (row_mm, column_mm) if min(row_mm, column_mm) > 0.0 else None
    return Radiograph(pixels, spacing, view, provenance, texts.get(_POSITION_TEXT, ""))


def _read_with_itk(path: Path) -> Radiograph:
    try:
        with itk_warnings_silenced():
            if sitk.ImageFileReader.GetImageIOFromFileName(str(path)) == "GDCMImageIO" and not dicom_is_whole(path):
                raise RuntimeError
            image = sitk.ReadImage(str(path))
            if path.name.lower().endswith((".nii", ".nii.gz")) and not nifti_is_whole(path):
                raise RuntimeError
    except RuntimeError:
        raise SVDRRError(f"'{path}' cannot be read as a radiograph; it may be damaged or of another type.") from None
    tags = set(image.GetMetaDataKeys())
    modality = image.GetMetaData(_MODALITY_TAG).strip() if _MODALITY_TAG in tags else ""
    if modality not in _PROJECTION_MODALITIES:
        raise SVDRRError(f"'{path}' is a DICOM image of modality {modality}; a radiograph (CR or DX) is needed here.")
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise SVDRRError(f"'{path}' is a color image; a radiograph has one gray channel.")
    values = sitk.GetArrayFromImage(image)
    while values.ndim > 2 and len(values) == 1:
        values = values[0]
    if values.ndim != 2:
        raise SVDRRError(f"'{path}' is a volume of size {image.GetSize()}; a radiograph has one slice.")
    if values.dtype.kind == "f" and not modality:
        pixels = _unit_range(values, path)
        texts = {name: image.GetMetaData(name) for name in tags if name.startswith(PREFIX)}
        return _described(pixels, texts, path) if texts else Radiograph(pixels, _spacing(image, tags))
    values = values.astype(np.float32)
    low, high = float(values.min()), float(values.max())
    if not high > low:
        raise SVDRRError(f"'{path}' holds the single value {low:g} or values that are not numbers; nothing is on it.")
    pixels = _checked((values - np.float32(low)) / np.float32(high - low), path)
    stated = [image.GetMetaData(tag).strip() if tag in tags else "" for tag in _INTENSITY_TAGS]
    position = image.GetMetaData(_POSITION_TAG) if _POSITION_TAG in tags else ""
    return Radiograph(bring_to_log(pixels, *stated), _spacing(image, tags), view_position=_other_position(position))


def bring_to_log(pixels: NDArray[np.float32], photometric: str, relationship: str, sign: str) -> NDArray[np.float32]:
    """Bright bone and a logarithmic gray scale, from what a DICOM file says of its pixels' relation to the exposure.

    pixels: in [0, 1], as GDCM gives them, which inverts those of photometric interpretation MONOCHROME1. sign: of the
    stored pixels, "1" where less exposure is a lower value, so that bone is dark, "-1" where it is bright.
    relationship: "LIN" where they are linear in the exposure; those of everything else, as CR and DX for presentation,
    are on a logarithmic scale, or a curve of it, already. (DICOM PS3.3 C.8.11.3.1; empty where the file says nothing.)
    """
    if sign in ("1", "-1") and (sign == "1") != (photometric == "MONOCHROME1"):
        pixels = np.float32(1.0) - pixels
    return logarithmic(pixels) if relationship == "LIN" else pixels


def _other_position(stated: str) -> str:
    """A DICOM file's view position on one line, or "" for PA and AP, and where it states none."""
    position = " ".join(stated.encode("ascii", "replace").decode().upper().split())
    return "" if position in ("PA", "AP") else position


def _spacing(image: sitk.Image, tags: set[str]) -> tuple[float, float] | None:
    """(row, column) in mm, or None: a DICOM spacing of 0 arrives from GDCM as 1, so the tags are asked.

    In other files 1 x 1 mm is what writers put where they know of none, and no detector's.
    """
    if _MODALITY_TAG not in tags:
        column_mm, row_mm = image.GetSpacing()[:2]
        return None if (row_mm, column_mm) == (1.0, 1.0) else (row_mm, column_mm)
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
        raise SVDRRError(
            f"'{path}' holds {counted(count, 'NaN or infinite pixel')}; replace what is no number by 0 (air) first."
        )
    if values.min() < 0.0 or values.max() > 1.0:
        raise SVDRRError(
            f"'{path}' has float values from {values.min():g} to {values.max():g}; a radiograph's lie in 0 to 1; "
            "where they are line integrals from 'svdrr render', use the PNG of the same name."
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
    if radiograph.view_position:
        entries[_POSITION_TEXT] = radiograph.view_position
    return entries


def write_png(path: Path, radiograph: Radiograph) -> None:
    """16-bit gray PNG; provenance, view and pixel spacing (row\\column, mm) in its text chunks."""
    texts = PngImagePlugin.PngInfo()
    for name, value in _descriptions(radiograph).items():
        texts.add_text(name, value)
    values = np.round(np.clip(radiograph.pixels, 0.0, 1.0) * 65535.0).astype(np.uint16)
    with whole_file(path) as temporary:
        Image.fromarray(values).save(temporary, format="PNG", pnginfo=texts)


def write_nrrd(
    path: Path, values: NDArray[np.float32], radiograph: Radiograph, pixel_to_ras: NDArray[np.float64] | None = None
) -> None:
    """Float NRRD of `values` (rows, columns), with the radiograph's provenance.

    `values` are given apart from the radiograph's pixels, since a DRR is kept as line integrals. pixel_to_ras: (4, 4),
    takes (column, row, 0, 1) to RAS mm; by default where `radiograph`'s view puts it.
    """
    placed = np.eye(4)
    if pixel_to_ras is not None:
        placed = pixel_to_ras
    elif radiograph.view is not None:
        placed = radiograph.view.pixel_to_ras
    elif radiograph.pixel_spacing_mm is not None:
        placed = np.diag([radiograph.pixel_spacing_mm[1], radiograph.pixel_spacing_mm[0], 1.0, 1.0])
    write_volume(path, values[None].astype(np.float32), placed, _descriptions(radiograph))


def pixel_to_ras(path: Path, radiograph: Radiograph) -> NDArray[np.float64]:
    """Takes (column, row, 0, 1) to RAS mm, for the radiograph that `read_radiograph` has read from `path`; (4, 4).

    By its view, else as an NRRD, MetaImage or NIfTI file says, else by its pixel spacing, or 1 mm where that is
    unknown, from the outer corner of the first pixel on.
    """
    if radiograph.view is not None:
        return radiograph.view.pixel_to_ras
    if path.name.lower().endswith(_VOLUME_SUFFIXES):
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        with itk_warnings_silenced():
            reader.ReadImageInformation()
        if reader.GetDimension() == 3:
            return lps_to_ras(ijk_to_lps(reader))
    row_mm, column_mm = radiograph.pixel_spacing_mm or (1.0, 1.0)
    placed = np.diag([column_mm, row_mm, 1.0, 1.0])
    placed[:2, 3] = column_mm / 2.0, row_mm / 2.0
    return placed


def write_view(
    folder: Path, number: int, radiograph: Radiograph, values: NDArray[np.float32] | None = None
) -> dict[str, Any]:
    """A computed view as ``drr_NNNNN.png``, or ``synthetic_NNNNN.png`` if a model made it; returns its entry for
    `svdrr.geometry.viewsets.views_document`. values: also written, as in `write_nrrd`.
    """
    assert radiograph.view is not None
    assert radiograph.provenance is not None
    name = f"{'synthetic' if radiograph.provenance.model else 'drr'}_{number:05d}"
    write_png(folder / f"{name}.png", radiograph)
    if values is not None:
        write_nrrd(folder / f"{name}.nrrd", values, radiograph)
    return {
        "image": f"{name}.png",
        "label": radiograph.view.pose.label,
        **view_to_json(radiograph.view),
        "provenance": radiograph.provenance.attributes(),
    }


def require_radiograph_suffix(path: Path) -> None:
    """SVDRRError unless the file's suffix names a format that `write_radiograph` writes."""
    if path.suffix.lower() not in (".png", ".nrrd"):
        raise SVDRRError(f"Cannot write '{path}': a radiograph's name must end in .png or .nrrd.")


def write_radiograph(path: Path, radiograph: Radiograph) -> None:
    """The radiograph as 16-bit PNG or float NRRD, as the suffix says."""
    require_radiograph_suffix(path)
    if path.suffix.lower() == ".png":
        write_png(path, radiograph)
    else:
        write_nrrd(path, radiograph.pixels, radiograph)
