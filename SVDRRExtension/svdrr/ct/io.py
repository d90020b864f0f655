"""Reading CTs from NIfTI, NRRD, MetaImage and DICOM, and writing volumes, with the checks that a CT needs."""

from __future__ import annotations

import gzip
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import ArrayLike, NDArray

from svdrr.ct.volume import CTVolume
from svdrr.errors import SVDRRError, counted
from svdrr.files import whole_file
from svdrr.geometry.frames import lps_to_ras, ras_to_lps

WRITABLE_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha")

_READABLE = "a NIfTI (.nii, .nii.gz), NRRD, MetaImage (.mha, .mhd) or DICOM file, or a folder of DICOM slices"
_READERS = ("NrrdImageIO", "MetaImageIO", "GDCMImageIO")
_NIFTI_SUFFIXES = (".nii", ".nii.gz")
_READABLE_SUFFIXES = (*_NIFTI_SUFFIXES, ".nrrd", ".nhdr", ".mha", ".mhd", ".dcm")
_RADIOGRAPH_MODALITIES = ("CR", "DX", "RG", "RF", "XA", "MG", "IO", "PX")

# What the file says: float32 (k, j, i), and ijk_to_ras (4, 4).
_Voxels = tuple[NDArray[np.float32], NDArray[np.float64]]

_MODALITY = "0008|0060"
_SERIES_UID = "0020|000e"
_SERIES_NUMBER = "0020|0011"
_BITS_ALLOCATED = "0028|0100"

# The header of Pixel Data (7FE0,0010): its value representation, where that is explicit, and its length (PS3.5 7.1).
_PIXEL_DATA = re.compile(rb"\xe0\x7f\x10\x00(?:(?:O[BW]|UN)\x00\x00)?(.{4})", re.DOTALL)
_PIXEL_DATA_BIG_ENDIAN = re.compile(rb"\x7f\xe0\x00\x10(?:(?:O[BW]|UN)\x00\x00)?(.{4})", re.DOTALL)
# The transfer syntax whose data sets, headers and all, are compressed; it stands in the first group, which is not.
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_DICOM_HEAD = 2048

# Every CT holds air (about -1000 HU) and tissue (about 0), and neither metal nor padding goes beyond 1e5.
_AIR_BELOW_HU = -200.0
_TISSUE_ABOVE_HU = -200.0
_IMPLAUSIBLE_HU = 1e5

# Of folders named and searched, where the one given holds no slices itself.
_MOST_NAMED = 3
_MOST_FOLDERS_SEARCHED = 1000

# Positions in DICOM are rounded; more than this fraction of the slice distance is a missing slice.
_SLICE_DISTANCE_TOLERANCE = 0.1


def read_ct(path: Path, series: str | None = None) -> CTVolume:
    """Read a CT in Hounsfield units; values stay as the scanner stored them, rescaled.

    path: a NIfTI, NRRD, MetaImage or multi-slice DICOM file, or a folder of DICOM slices.
    series: which series of a folder that holds several, by its SeriesInstanceUID or by the number that
        the error about several series lists.
    Returns a CTVolume, float32 (k, j, i), with ijk_to_ras from the file.
    Raises SVDRRError, one sentence, where the input is missing, damaged or not a CT in HU on a regular grid.
    """
    if not path.exists():
        raise SVDRRError(f"There is no file or folder {path}; check the path.")
    if path.is_file() and series is not None:
        raise SVDRRError(f"A series can only be chosen in a folder of DICOM slices, and {path} is a file.")
    with itk_warnings_silenced():
        hu, ijk_to_ras = _read_directory(path, series) if path.is_dir() else _read_file(path)
    check_hounsfield_units(hu, str(path))
    return CTVolume(hu, ijk_to_ras)


def require_writable_suffix(path: Path) -> None:
    """SVDRRError unless the file's suffix names a format that `write_volume` writes."""
    if not path.name.lower().endswith(WRITABLE_SUFFIXES):
        raise SVDRRError(f"Cannot write {path}: a volume's name must end in {', '.join(WRITABLE_SUFFIXES)}.")


def write_volume(
    path: Path, array: NDArray[Any], ijk_to_ras: ArrayLike, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a volume as NIfTI, NRRD or MetaImage (.nii, .nii.gz, .nrrd, .mha), whole or not at all.

    array: (k, j, i), a numeric dtype, or bool (stored as 0 and 1); ijk_to_ras: (4, 4), RAS mm, no shear.
    metadata: text by name, kept where the format can (NRRD, MetaImage).
    Raises SVDRRError if the suffix is another or the file cannot be written.
    """
    require_writable_suffix(path)
    image = sitk.GetImageFromArray(array.astype(np.uint8) if array.dtype == bool else array)
    _place(image, ras_to_lps(ijk_to_ras))
    for name, value in (metadata or {}).items():
        image.SetMetaData(name, value)
    with whole_file(path) as temporary, itk_warnings_silenced():
        try:
            sitk.WriteImage(image, str(temporary), useCompression=True)
            whole = not path.name.lower().endswith(_NIFTI_SUFFIXES) or nifti_is_whole(temporary)
        except RuntimeError:
            whole = False
        _require_room_on_disk(temporary)
        if not whole:
            raise SVDRRError(f"Cannot write {path}: SimpleITK failed; nothing was written.")


# One file


def _read_file(path: Path) -> _Voxels:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader_io = reader.GetImageIOFromFileName(str(path))
    is_nifti = reader_io == "NiftiImageIO" and path.name.lower().endswith(_NIFTI_SUFFIXES)
    if reader_io not in _READERS and not is_nifti:
        if path.name.lower().endswith(_READABLE_SUFFIXES):
            raise SVDRRError(f"{path} is damaged or not what its name says; export or copy it again.")
        raise SVDRRError(f"{path} is not a file type that holds a CT; give {_READABLE}.")
    reader.SetImageIO(reader_io)
    with _read_errors(path):
        reader.ReadImageInformation()
        if reader_io == "GDCMImageIO":
            _check_modality(_tag(reader, _MODALITY), path)
        _check_shape(reader, path)
        if (is_nifti and not nifti_is_whole(path)) or (reader_io == "GDCMImageIO" and not dicom_is_whole(path)):
            raise SVDRRError(f"{path} is damaged or incomplete; export or copy it again.")
        reader.SetOutputPixelType(sitk.sitkFloat32)
        image = reader.Execute()
        if image.GetDimension() == 4:
            image = image[:, :, :, 0]
    return sitk.GetArrayFromImage(image), lps_to_ras(ijk_to_lps(image))


def _check_modality(modality: str, path: Path) -> None:
    if modality == "CT":
        return
    if modality in _RADIOGRAPH_MODALITIES:
        raise SVDRRError(
            f"{path} is a radiograph ({modality}), not a CT; for other views of it use `svdrr synthesize`."
        )
    article = "an" if modality[:1] in "AEFHILMNORSX" else "a"
    kind = f"{article} {modality} image" if modality else "a DICOM image of unknown modality"
    raise SVDRRError(f"{path} is {kind}, not a CT; give a CT.")


def _check_shape(reader: sitk.ImageFileReader, path: Path) -> None:
    size = tuple(reader.GetSize())
    if reader.GetNumberOfComponents() > 1:
        raise SVDRRError(
            f"{path} holds {reader.GetNumberOfComponents()} values per voxel (colors or vectors); "
            "give a CT with one value, in Hounsfield units."
        )
    if len(size) > 3 and max(size[3:]) > 1:
        raise SVDRRError(f"{path} is a time series of {max(size[3:])} volumes; extract one and give that.")
    if len(size) > 4:
        raise SVDRRError(f"{path} has {len(size)} dimensions; give a volume of three.")
    if len(size) < 3:
        raise SVDRRError(f"{path} is a 2-D image ({size[0]} x {size[1]} pixels); give a CT volume.")
    if min(size[:3]) < 2:
        raise SVDRRError(
            f"{path} is a single slice ({size[0]} x {size[1]} x {size[2]} voxels); "
            "give a CT volume, or the folder that holds all its slices."
        )


# A folder of DICOM slices


@dataclass(frozen=True)
class _Slice:
    """What the header of one DICOM image says about its place."""

    file: Path
    modality: str
    series_uid: str
    series_number: str
    size: tuple[int, ...]
    ijk_to_lps: NDArray[np.float64]

    @property
    def normal(self) -> NDArray[np.float64]:
        return np.asarray(np.cross(self.ijk_to_lps[:3, 0], self.ijk_to_lps[:3, 1]))


def _read_directory(path: Path, series: str | None) -> _Voxels:
    slices = _choose_series(_dicom_images(path), series, path)
    _check_modality(slices[0].modality, path)
    if len(slices) == 1:
        return _read_file(slices[0].file)
    _check_alike(slices, path)
    normal = slices[0].normal / np.linalg.norm(slices[0].normal)
    slices = sorted(slices, key=lambda one: float(one.ijk_to_lps[:3, 3] @ normal))
    origins = np.array([one.ijk_to_lps[:3, 3] for one in slices])
    ijk_to_lps = slices[0].ijk_to_lps.copy()
    ijk_to_lps[:3, 2] = normal * _slice_distance(origins @ normal, path)
    _check_no_tilt(origins, normal, float(np.linalg.norm(ijk_to_lps[:3, :2], axis=0).min()), path)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(one.file) for one in slices])
    reader.SetImageIO("GDCMImageIO")
    reader.SetOutputPixelType(sitk.sitkFloat32)
    with _read_errors(path):
        for one in slices:
            if not dicom_is_whole(one.file):
                raise SVDRRError(f"{one.file} is damaged or incomplete; copy the slices again.")
        image = reader.Execute()
    return sitk.GetArrayFromImage(image), lps_to_ras(ijk_to_lps)


def _dicom_images(path: Path) -> list[_Slice]:
    files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    slices = [one for file in files if (one := _slice_header(file)) is not None]
    if slices:
        return slices
    if not any(path.iterdir()):
        raise SVDRRError(f"The folder {path} is empty; give the folder that holds the CT's DICOM slices.")
    below = list(islice(_folders_with_dicom(path), _MOST_NAMED + 1))
    if below:
        named = ", ".join(map(str, below[:_MOST_NAMED])) + (", …" if len(below) > _MOST_NAMED else "")
        raise SVDRRError(f"The folder {path} itself holds no DICOM images; give the one below it that does: {named}.")
    raise SVDRRError(
        f"The folder {path} holds no DICOM images; give the folder that directly holds the slices, or a file."
    )


def _folders_with_dicom(path: Path) -> Iterator[Path]:
    """Folders below `path` that hold DICOM files, which have four letters after their preamble (PS3.10, 7.1)."""
    for name, folders, files in islice(os.walk(path), _MOST_FOLDERS_SEARCHED):
        folders[:] = sorted(one for one in folders if not one.startswith("."))
        if any(_has_preamble(Path(name, file)) for file in sorted(files) if not file.startswith(".")):
            yield Path(name)


def _has_preamble(file: Path) -> bool:
    try:
        if not file.is_file():
            return False  # A pipe, which would wait for its other end.
        with file.open("rb") as content:
            return content.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _slice_header(file: Path) -> _Slice | None:
    """None for what is no DICOM image: a DICOMDIR, a report, a text file."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file))
    if reader.GetImageIOFromFileName(str(file)) == "GDCMImageIO":
        reader.SetImageIO("GDCMImageIO")
        try:
            reader.ReadImageInformation()
        except RuntimeError:
            return None
        modality, uid, number = (_tag(reader, tag) for tag in (_MODALITY, _SERIES_UID, _SERIES_NUMBER))
        return _Slice(file, modality, uid, number, reader.GetSize(), ijk_to_lps(reader))
    if file.suffix.lower() == ".dcm":
        raise SVDRRError(f"{file} is damaged, or no DICOM file; copy the slices again.")
    return None


def _choose_series(slices: list[_Slice], wanted: str | None, path: Path) -> list[_Slice]:
    by_uid: dict[str, list[_Slice]] = {}
    for one in slices:
        by_uid.setdefault(one.series_uid, []).append(one)
    if wanted is None and len(by_uid) == 1:
        return slices
    numbers = [members[0].series_number for members in by_uid.values()]
    if len(set(numbers)) < len(numbers) or "" in numbers:
        numbers = [str(index + 1) for index in range(len(by_uid))]
    chosen = {**dict(zip(numbers, by_uid.values(), strict=True)), **by_uid}.get(wanted or "")
    if chosen is not None:
        return chosen
    listing = "; ".join(
        f"{number}: {members[0].modality or 'unknown modality'}, {len(members)} "
        f"{'image' if len(members) == 1 else 'images'}, UID {uid}"
        for number, (uid, members) in zip(numbers, by_uid.items(), strict=True)
    )
    problem = f"holds {len(by_uid)} DICOM series" if wanted is None else f"holds no DICOM series {wanted}"
    raise SVDRRError(f"The folder {path} {problem}; choose one with --series, by number or UID: {listing}.")


def _check_alike(slices: list[_Slice], path: Path) -> None:
    first = slices[0]
    if any(one.size != first.size or one.size[2] != 1 for one in slices):
        sizes = Counter(" x ".join(map(str, one.size)) for one in slices)
        raise SVDRRError(
            f"The images in {path} differ in size or hold several slices each ({', '.join(sizes)}); "
            "keep the slices of one volume, or give one multi-slice file."
        )
    if any(not np.allclose(one.ijk_to_lps[:3, :2], first.ijk_to_lps[:3, :2], atol=1e-3) for one in slices):
        raise SVDRRError(
            f"The slices in {path} differ in orientation or pixel spacing; remove the localizer images, "
            "or keep the slices of one volume."
        )


def _slice_distance(positions: NDArray[np.float64], path: Path) -> float:
    """The one distance between sorted slice positions (n,), mm."""
    steps = np.diff(positions)
    step = float(np.median(steps))
    worst = int(np.argmax(np.abs(steps - step)))
    if steps.min() < 1e-3:
        raise SVDRRError(
            f"Several slices in {path} lie at the same position (several phases or reconstructions in one "
            "series, or no positions at all); keep the slices of one volume."
        )
    if abs(steps[worst] - step) > _SLICE_DISTANCE_TOLERANCE * step:
        raise SVDRRError(
            f"The slices in {path} are not evenly spaced: between slices {worst + 1} and {worst + 2} of "
            f"{len(positions)} there are {steps[worst]:.2f} mm instead of {step:.2f} mm; "
            "add the missing slices, or resample the CT to an even distance."
        )
    return float(positions[-1] - positions[0]) / (len(positions) - 1)


def _check_no_tilt(origins: NDArray[np.float64], normal: NDArray[np.float64], pixel_mm: float, path: Path) -> None:
    along = origins[-1] - origins[0]
    height = float(along @ normal)
    shift = float(np.linalg.norm(along - height * normal))
    if shift > pixel_mm:
        raise SVDRRError(
            f"The CT in {path} was taken with a tilted gantry (its slices are sheared by "
            f"{np.degrees(np.arctan2(shift, height)):.1f} degrees); resample it to a straight grid first, "
            "for example with 3D Slicer's DICOM import."
        )


# What both have in common


def check_hounsfield_units(hu: NDArray[np.float32], name: str) -> None:
    """SVDRRError, in a sentence that begins with `name`, unless the voxels can be HU of a CT."""
    bad = hu.size - int(np.count_nonzero(np.isfinite(hu)))
    if bad:
        raise SVDRRError(
            f"{name} holds {counted(bad, 'NaN or infinite voxel')}; replace what is no number by -1000 (air) first."
        )
    check_hounsfield_range(float(hu.min()), float(hu.max()), name)


def check_hounsfield_range(low: float, high: float, name: str) -> None:
    """SVDRRError, in a sentence that begins with `name`, unless a CT's lowest and highest values can be these."""
    if low < _AIR_BELOW_HU and high > _TISSUE_ABOVE_HU and max(-low, high) < _IMPLAUSIBLE_HU:
        return
    raise SVDRRError(
        f"{name} is not in Hounsfield units: its values range from {low:g} to {high:g}, where a CT has air "
        "near -1000 and tissue from about -100 up; convert it first."
    )


def _tag(reader: sitk.ImageFileReader, tag: str) -> str:
    return str(reader.GetMetaData(tag)).strip() if reader.HasMetaDataKey(tag) else ""


def ijk_to_lps(image: sitk.Image | sitk.ImageFileReader) -> NDArray[np.float64]:
    """The first three axes' affine of an image, or of a reader that has read its header."""
    dimension = image.GetDimension()
    matrix = np.eye(4)
    direction = np.array(image.GetDirection()).reshape(dimension, dimension)
    matrix[:3, :3] = direction[:3, :3] * np.array(image.GetSpacing())[:3]
    matrix[:3, 3] = image.GetOrigin()[:3]
    return matrix


def _place(image: sitk.Image, placed: NDArray[np.float64]) -> None:
    spacing = np.linalg.norm(placed[:3, :3], axis=0)
    direction = placed[:3, :3] / spacing
    if not np.allclose(direction.T @ direction, np.eye(3), atol=1e-4):
        raise SVDRRError("A volume with sheared axes cannot be written; resample it to a straight grid.")
    image.SetSpacing(spacing.tolist())
    image.SetDirection(direction.ravel().tolist())
    image.SetOrigin(placed[:3, 3].tolist())


@contextmanager
def itk_warnings_silenced() -> Iterator[None]:
    """ITK's warnings go to stderr and may quote a header; the switch is global, so it is put back."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


@contextmanager
def _read_errors(path: Path) -> Iterator[None]:
    """ITK's own words may quote a header, so they stay out of the sentence."""
    try:
        yield
    except RuntimeError as error:
        if "orthonormal" in str(error):
            raise SVDRRError(
                f"The axes of {path} are not at right angles; resample it to a straight grid first."
            ) from None
        raise SVDRRError(f"{path} is damaged or incomplete; export or copy it again.") from None


def nifti_is_whole(path: Path) -> bool:
    """Whether all voxels are there, for ITK reports neither a NIfTI cut short nor a disk that fills."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO("NiftiImageIO")
    reader.ReadImageInformation()
    voxel_bytes = int(reader.GetMetaData("bitpix")) // 8
    needed = float(reader.GetMetaData("vox_offset")) + voxel_bytes * np.prod(reader.GetSize(), dtype=float)
    if not path.name.lower().endswith(".gz"):
        return path.stat().st_size >= needed
    try:
        with gzip.open(path) as content:
            return sum(len(block) for block in iter(lambda: content.read(1 << 20), b"")) >= needed
    except (OSError, EOFError, zlib.error):
        return False


def dicom_is_whole(path: Path) -> bool:
    """Whether the pixel data's length covers all pixels, for GDCM fills up what is missing with whatever is in memory.

    Encapsulated pixel data, which is compressed, is of undefined length, the largest number; GDCM checks that itself.
    """
    content = path.read_bytes()
    if _DEFLATED in content[:_DICOM_HEAD]:
        return True
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO("GDCMImageIO")
    reader.ReadImageInformation()
    # Of one sample a pixel; color images are none of ours.
    needed = int(reader.GetMetaData(_BITS_ALLOCATED)) * np.prod(reader.GetSize(), dtype=float) / 8.0
    little = (int.from_bytes(length, "little") for length in _PIXEL_DATA.findall(content))
    big = (int.from_bytes(length, "big") for length in _PIXEL_DATA_BIG_ENDIAN.findall(content))
    return any(length >= needed for length in (*little, *big))


def _require_room_on_disk(file: Path) -> None:
    """OSError with the disk's own reason if it is full: ITK does not tell, and takes a refused last buffer for written.

    If 16 kB more fit behind the file, so did its last buffer.
    """
    size = file.stat().st_size
    with file.open("ab") as handle:
        handle.write(bytes(1 << 14))
    os.truncate(file, size)
