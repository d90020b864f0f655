"""Finding the CTs below the folders that a user gives."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk

from svdrr.ct.io import itk_warnings_silenced
from svdrr.errors import SVDRRError

_VOLUME_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
_MODALITY, _SERIES_UID, _PATIENT_ID, _IMAGE_TYPE = "0008|0060", "0020|000e", "0010|0020", "0008|0008"


@dataclass(frozen=True)
class Source:
    """One CT: a file, or one DICOM series of a folder.

    patient: what the CTs of one person have in common: the PatientID, or where there is none, the folder directly
    below the one that the user gave, or the file itself if it lies there. It serves to compare and is never written.
    """

    path: Path
    series: str | None
    patient: str


LeftOut = dict[str, list[Path]]
"""The folders of DICOM series that are no CT, by kind: a modality, or "localizer"."""


def find_cts(
    inputs: Sequence[Path],
    on_folder: Callable[[], None] = lambda: None,
    on_left_out: Callable[[LeftOut], None] = lambda left_out: None,
) -> list[Source]:
    """All CTs in files and, at any depth, in folders; sorted, each once.

    DICOM series of other modalities and localizers are left out; on_left_out is told of them once, if there are any.
    What cannot be read is a source too, so that whoever reads it says why. Raises SVDRRError if an input is missing
    or no CT is found.
    """
    for given in inputs:
        if not given.exists():
            raise SVDRRError(f"There is no file or folder {given}; check the path.")
    sources: dict[tuple[Path, str | None], Source] = {}
    others: dict[tuple[Path, str], str] = {}
    with itk_warnings_silenced():
        for root in sorted({given.resolve() for given in inputs}):
            for source in _in_folder(root, on_folder, others) if root.is_dir() else [Source(root, None, str(root))]:
                sources.setdefault((source.path, source.series), source)
    left_out: LeftOut = {}
    for (folder, _), kind in others.items():
        left_out.setdefault(kind, []).append(folder)
    if not sources:
        where = ", ".join(map(str, inputs))
        only = f", only {describe_left_out(left_out)}" if left_out else ""
        raise SVDRRError(f"There is no CT in {where}{only}; give folders with DICOM, NIfTI, NRRD or MetaImage CTs.")
    if left_out:
        on_left_out(left_out)
    return list(sources.values())


def describe_left_out(left_out: LeftOut) -> str:
    """Words such as ``2 MR series (the first in /cts/mr)``, one for each kind."""
    return ", ".join(f"{len(folders)} {kind} series (the first in {folders[0]})" for kind, folders in left_out.items())


def _in_folder(root: Path, on_folder: Callable[[], None], others: dict[tuple[Path, str], str]) -> Iterator[Source]:
    unreadable: list[Path] = []
    for name, folders, files in os.walk(root, onerror=lambda error: unreadable.append(Path(error.filename))):
        on_folder()
        folders[:] = sorted(one for one in folders if not one.startswith("."))
        folder = Path(name)
        dicom = []
        for file in sorted(folder / one for one in files if not one.startswith(".")):
            if file.name.lower().endswith(_VOLUME_SUFFIXES):
                yield Source(file, None, _person(root, file))
            else:
                dicom.append(file)
        yield from _series(root, folder, dicom, others)
    for folder in unreadable:
        yield Source(folder, None, _person(root, folder))


def _series(root: Path, folder: Path, files: list[Path], others: dict[tuple[Path, str], str]) -> Iterator[Source]:
    """The folder's CT series; the folder itself, if all that it holds is damaged. others: gets what is no CT."""
    patients: dict[str, str] = {}
    damaged = images = 0
    for file in files:
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(file))
        if reader.GetImageIOFromFileName(str(file)) != "GDCMImageIO":
            damaged += file.suffix.lower() == ".dcm"
            continue
        reader.SetImageIO("GDCMImageIO")
        try:
            reader.ReadImageInformation()
        except RuntimeError:
            continue  # A report, a segmentation, a DICOMDIR.
        images += 1
        modality, uid, patient = (_tag(reader, tag) for tag in (_MODALITY, _SERIES_UID, _PATIENT_ID))
        if modality != "CT":
            others[folder, uid] = modality or "unknown"
        elif "LOCALIZER" in _tag(reader, _IMAGE_TYPE):
            others[folder, uid] = "localizer"
        else:
            patients.setdefault(uid, f"ID {patient}" if patient else _person(root, file))
    for uid in sorted(patients):
        yield Source(folder, uid, patients[uid])
    if damaged and not images:
        yield Source(folder, None, _person(root, folder))


def _person(root: Path, path: Path) -> str:
    parts = path.relative_to(root).parts
    return str(root / parts[0]) if parts else str(root)


def _tag(reader: sitk.ImageFileReader, tag: str) -> str:
    return str(reader.GetMetaData(tag)).strip() if reader.HasMetaDataKey(tag) else ""
