"""Reading and writing CTs: real DICOM files written here, and every wrong input that gets its sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom.data import get_testdata_file
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from svdrr.ct.io import WRITABLE_SUFFIXES, read_ct, write_volume
from svdrr.errors import SVDRRError
from svdrr.geometry.frames import lps_to_ras, ras_to_lps

PATIENT = "Secret^Person"
SHAPE = (6, 10, 12)  # k, j, i


def some_hu(shape: tuple[int, ...] = SHAPE) -> NDArray[np.float32]:
    hu = np.random.default_rng(3).integers(-1000, 1500, shape).astype(np.float32)
    hu.flat[:2] = -1000, 400
    return hu


def oblique_affine() -> NDArray[np.float64]:
    """RAS mm, turned about two axes, spacing 0.8 x 0.9 x 2.5."""
    a, b = 0.3, -0.2
    about_s = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_r = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    matrix = np.eye(4)
    matrix[:3, :3] = about_s @ about_r @ np.diag([-0.8, -0.9, 2.5])
    matrix[:3, 3] = 12.5, -30.25, 100.0
    return matrix


def write_series(
    folder: Path,
    hu: NDArray[np.float32],
    affine: NDArray[np.float64],
    modality: str = "CT",
    number: int | None = 1,
    shear: float = 0.0,
) -> str:
    """DICOM slices with rescale, in shuffled file order; shear in mm per slice along i tilts the gantry."""
    folder.mkdir(parents=True, exist_ok=True)
    lps = ras_to_lps(affine)
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    direction = lps[:3, :3] / spacing
    uid = generate_uid()
    order = np.random.default_rng(0).permutation(len(hu))
    for k in range(len(hu)):
        data = pydicom.Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = CTImageStorage
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        data.PatientName = data.PatientID = PATIENT
        data.Modality, data.SeriesInstanceUID, data.StudyInstanceUID = modality, uid, generate_uid()
        data.SeriesDescription = PATIENT
        if number is not None:
            data.SeriesNumber = number
        position = lps[:3, 3] + k * lps[:3, 2] + k * shear * direction[:, 0]
        data.ImagePositionPatient = [f"{x:.6f}" for x in position]
        data.ImageOrientationPatient = [f"{x:.8f}" for x in (*direction[:, 0], *direction[:, 1])]
        data.PixelSpacing = [str(spacing[1]), str(spacing[0])]
        data.Rows, data.Columns = hu.shape[1:]
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated = data.BitsStored = 16
        data.HighBit, data.PixelRepresentation = 15, 0
        data.RescaleSlope, data.RescaleIntercept = 1, -1024
        data.PixelData = (hu[k] + 1024).astype(np.uint16).tobytes()
        data.save_as(folder / f"{number}_{order[k]:03d}.dcm", enforce_file_format=True)
    return uid


def write_image(path: Path, array: NDArray[np.float32], vector: bool = False) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=vector), str(path))
    return path


def assert_refused(path: Path, *words: str, series: str | None = None) -> str:
    with pytest.raises(SVDRRError) as caught:
        read_ct(path, series)
    sentence = str(caught.value)
    for word in words:
        assert word in sentence
    assert "Secret" not in sentence
    assert "\n" not in sentence
    return sentence


# Right inputs


def test_frames_are_each_others_inverse() -> None:
    affine = oblique_affine()
    np.testing.assert_array_equal(lps_to_ras(ras_to_lps(affine)), affine)
    np.testing.assert_array_equal(ras_to_lps(np.eye(4)), np.diag([-1, -1, 1, 1]))
    with pytest.raises(ValueError, match="4x4"):
        lps_to_ras(np.eye(3))


@pytest.mark.parametrize("suffix", WRITABLE_SUFFIXES)
def test_round_trip(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"ct{suffix}"
    write_volume(path, some_hu(), oblique_affine())
    ct = read_ct(path)
    np.testing.assert_array_equal(ct.hu, some_hu())
    # NIfTI stores its matrices in float32
    np.testing.assert_allclose(ct.ijk_to_ras, oblique_affine(), atol=1e-4 if "nii" in suffix else 1e-9)
    assert ct.ijk_to_ras.dtype == np.float64
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", WRITABLE_SUFFIXES)
def test_left_handed_axes_round_trip(tmp_path: Path, suffix: str) -> None:
    affine = oblique_affine()
    affine[:3, 0] *= -1
    write_volume(tmp_path / f"ct{suffix}", some_hu(), affine)
    np.testing.assert_allclose(read_ct(tmp_path / f"ct{suffix}").ijk_to_ras, affine, atol=1e-4)


def test_masks_are_written_as_zero_and_one(tmp_path: Path) -> None:
    mask = some_hu() > 0
    write_volume(tmp_path / "mask.nrrd", mask, np.eye(4))
    stored = sitk.ReadImage(str(tmp_path / "mask.nrrd"))
    assert stored.GetPixelID() == sitk.sitkUInt8
    np.testing.assert_array_equal(sitk.GetArrayFromImage(stored) > 0, mask)


def test_oblique_dicom_series(tmp_path: Path) -> None:
    write_series(tmp_path, some_hu(), oblique_affine())
    ct = read_ct(tmp_path)
    np.testing.assert_array_equal(ct.hu, some_hu())
    np.testing.assert_allclose(ct.ijk_to_ras, oblique_affine(), atol=1e-5)


def test_values_below_air_stay(tmp_path: Path) -> None:
    hu = some_hu()
    hu[0] = -3024
    write_volume(tmp_path / "ct.nrrd", hu, np.eye(4))
    np.testing.assert_array_equal(read_ct(tmp_path / "ct.nrrd").hu, hu)


def test_other_files_beside_the_slices_do_not_matter(tmp_path: Path) -> None:
    write_series(tmp_path, some_hu(), oblique_affine())
    (tmp_path / "README.txt").write_text("notes")
    (tmp_path / ".DS_Store").write_bytes(b"\0")
    assert read_ct(tmp_path).hu.shape == SHAPE


def test_multi_slice_dicom_file(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(some_hu().astype(np.int16))
    image.SetMetaData("0008|0060", "CT")
    sitk.WriteImage(image, str(tmp_path / "ct.dcm"))
    np.testing.assert_array_equal(read_ct(tmp_path / "ct.dcm").hu, some_hu())
    np.testing.assert_array_equal(read_ct(tmp_path).hu, some_hu())


@pytest.mark.parametrize("by", ["number", "uid"])
def test_one_of_several_series(tmp_path: Path, by: str) -> None:
    write_series(tmp_path, some_hu() - 10, oblique_affine(), number=2)
    uid = write_series(tmp_path, some_hu(), oblique_affine(), number=7)
    sentence = assert_refused(tmp_path, "2 DICOM series", "--series", f"7: CT, 6 images, UID {uid}")
    assert "2: CT, 6 images" in sentence
    np.testing.assert_array_equal(read_ct(tmp_path, "7" if by == "number" else uid).hu, some_hu())
    assert_refused(tmp_path, "no DICOM series 9", "7: CT", series="9")


def test_series_with_one_number_are_counted(tmp_path: Path) -> None:
    for name in "ab":
        folder = tmp_path / name
        write_series(folder, some_hu(), oblique_affine(), number=None)
        for file in folder.iterdir():
            file.rename(tmp_path / f"{name}{file.name}")
        folder.rmdir()
    assert_refused(tmp_path, "1: CT", "2: CT")
    assert read_ct(tmp_path, "2").hu.shape == SHAPE


# Wrong inputs


def test_missing_file(tmp_path: Path) -> None:
    assert_refused(tmp_path / "no.nii.gz", "no file or folder", "no.nii.gz")


def test_empty_folder(tmp_path: Path) -> None:
    assert_refused(tmp_path, "is empty")


def test_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    assert_refused(tmp_path, "holds no DICOM images")


def test_unsupported_file(tmp_path: Path) -> None:
    path = tmp_path / "ct.txt"
    path.write_text("hello")
    assert_refused(path, "not a file type that holds a CT", "NRRD")


def test_photograph(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((8, 8, 3), np.uint8), isVector=True), str(tmp_path / "a.png"))
    assert_refused(tmp_path / "a.png", "not a file type that holds a CT")


def test_mr(tmp_path: Path) -> None:
    write_series(tmp_path, some_hu(), oblique_affine(), modality="MR")
    assert_refused(tmp_path, "is an MR image, not a CT")


def test_radiograph() -> None:
    path = get_testdata_file("RG1_UNCI.dcm", download=False)
    if path is None:
        pytest.skip("the radiograph comes with pydicom-data")
    assert_refused(Path(str(path)), "is a radiograph (CR), not a CT", "svdrr synthesize")


def test_one_dicom_slice(tmp_path: Path) -> None:
    write_series(tmp_path, some_hu()[:1], oblique_affine())
    assert_refused(next(tmp_path.iterdir()), "single slice", "folder")
    assert_refused(tmp_path, "single slice")


def test_series_of_a_file(tmp_path: Path) -> None:
    write_volume(tmp_path / "ct.nrrd", some_hu(), np.eye(4))
    assert_refused(tmp_path / "ct.nrrd", "can only be chosen in a folder", series="1")


def test_flat_volume_and_image(tmp_path: Path) -> None:
    assert_refused(write_image(tmp_path / "flat.nrrd", some_hu((6, 1, 8))), "single slice (8 x 1 x 6 voxels)")
    assert_refused(write_image(tmp_path / "image.mha", some_hu((6, 8))), "2-D image (8 x 6 pixels)")


def test_time_series_and_vectors(tmp_path: Path) -> None:
    path = tmp_path / "movie.nii.gz"
    frames = [sitk.GetImageFromArray(some_hu()) for _ in range(3)]
    sitk.WriteImage(sitk.JoinSeries(frames), str(path))
    assert_refused(path, "time series of 3 volumes")
    assert_refused(write_image(tmp_path / "v.nrrd", some_hu((*SHAPE, 3)), vector=True), "3 values per voxel")


def test_nan(tmp_path: Path) -> None:
    hu = some_hu()
    hu[1, 2, 3:5] = np.nan, np.inf
    assert_refused(write_image(tmp_path / "ct.nrrd", hu), "2 NaN or infinite voxels")


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0, 255), (0, 4095), (-1, 1), (-150, 200), (-1000, -900), (-1e6, 1e6), (7, 7)]
)
def test_not_hounsfield_units(tmp_path: Path, low: float, high: float) -> None:
    values = np.linspace(low, high, int(np.prod(SHAPE))).reshape(SHAPE).astype(np.float32)
    path = write_image(tmp_path / "ct.nrrd", values)
    assert_refused(path, "not in Hounsfield units", f"from {low:g} to {high:g}", "convert")


def test_missing_slice(tmp_path: Path) -> None:
    write_series(tmp_path, some_hu(), oblique_affine())
    by_position = sorted(tmp_path.iterdir(), key=lambda file: pydicom.dcmread(file).ImagePositionPatient[2])
    by_position[2].unlink()
    assert_refused(tmp_path, "between slices 2 and 3 of 5", "5.00 mm instead of 2.50 mm")


def test_slices_twice(tmp_path: Path) -> None:
    write_series(tmp_path, some_hu(), oblique_affine())
    first = next(tmp_path.iterdir())
    (tmp_path / "copy.dcm").write_bytes(first.read_bytes())
    assert_refused(tmp_path, "same position")


def test_slices_of_another_size_or_orientation(tmp_path: Path) -> None:
    write_series(tmp_path, some_hu(), oblique_affine())
    odd = next(tmp_path.iterdir())
    data = pydicom.dcmread(odd)
    data.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    data.save_as(odd)
    assert_refused(tmp_path, "differ in orientation", "localizer")
    data.Rows, data.PixelData = 5, data.PixelData[: 5 * 12 * 2]
    data.save_as(odd)
    assert_refused(tmp_path, "differ in size", "12 x 5 x 1")


def test_tilted_gantry(tmp_path: Path) -> None:
    write_series(tmp_path, some_hu(), oblique_affine(), shear=0.5)
    assert_refused(tmp_path, "tilted gantry", "11.3 degrees")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("kept", [0, 20, 0.7])
def test_truncated_file(tmp_path: Path, suffix: str, kept: float) -> None:
    path = tmp_path / f"ct{suffix}"
    write_volume(path, some_hu(), np.eye(4))
    content = path.read_bytes()
    path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    assert_refused(path, "damaged")


def test_truncated_slice(tmp_path: Path) -> None:
    write_series(tmp_path, some_hu(), oblique_affine())
    file = sorted(tmp_path.iterdir())[3]
    file.write_bytes(file.read_bytes()[:-150])
    assert_refused(tmp_path, "damaged")
    file.write_bytes(b"")
    assert_refused(tmp_path, "damaged", file.name)


def test_too_little_pixel_data(tmp_path: Path) -> None:
    """The length says so, too: as far as the file's structure goes, nothing is missing."""
    write_series(tmp_path, some_hu(), oblique_affine())
    file = sorted(tmp_path.iterdir())[3]
    data = pydicom.dcmread(file)
    data.PixelData = data.PixelData[:-2]
    data.save_as(file)
    assert_refused(tmp_path, "damaged or incomplete", file.name)
    data.NumberOfFrames, data.PixelData = 7, 3 * data.PixelData
    data.save_as(tmp_path / "many.dcm")
    assert_refused(tmp_path / "many.dcm", "damaged or incomplete")


def test_nothing_on_stderr(tmp_path: Path) -> None:
    """ITK warns in C++, past Python's sys.stderr."""
    write_series(tmp_path, some_hu(), oblique_affine(), shear=0.5)
    code = (
        "from pathlib import Path\n"
        "from svdrr.ct.io import read_ct\n"
        f"try: read_ct(Path({str(tmp_path)!r}))\n"
        "except Exception as error: print(type(error).__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "SVDRRError"
    assert done.stderr == ""


def test_the_global_warning_switch_is_put_back(tmp_path: Path) -> None:
    write_volume(tmp_path / "ct.nrrd", some_hu(), np.eye(4))
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    read_ct(tmp_path / "ct.nrrd")
    assert sitk.ProcessObject.GetGlobalWarningDisplay() == before


# Writing


def test_unknown_suffix(tmp_path: Path) -> None:
    with pytest.raises(SVDRRError, match=r"must end in \.nii"):
        write_volume(tmp_path / "ct.jpg", some_hu(), np.eye(4))
    assert not list(tmp_path.iterdir())


def test_shear_is_not_written(tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[0, 2] = 0.3
    with pytest.raises(SVDRRError, match="sheared"):
        write_volume(tmp_path / "ct.nrrd", some_hu(), affine)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("short_by", [None, 1, 4000])
@pytest.mark.parametrize("suffix", WRITABLE_SUFFIXES)
def test_full_disk(tmp_path: Path, suffix: str, short_by: int | None) -> None:
    """A real refusal by the kernel, early or in the last buffer; ITK calls some of these a success."""
    limit = 65536
    if short_by is not None:
        noise = np.random.default_rng(0).normal(size=(32, 64, 64)).astype(np.float32)
        write_volume(tmp_path / f"whole{suffix}", noise, np.eye(4))
        limit = (tmp_path / f"whole{suffix}").stat().st_size - short_by
        (tmp_path / f"whole{suffix}").unlink()
    path = tmp_path / f"ct{suffix}"
    path.write_bytes(b"old")
    code = (
        f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from svdrr.ct.io import write_volume\n"
        "noise = np.random.default_rng(0).normal(size=(32, 64, 64)).astype(np.float32)\n"
        f"try: write_volume(Path({str(path)!r}), noise, np.eye(4))\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == f"SVDRRError Cannot write {path}: File too large; nothing was written."
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
