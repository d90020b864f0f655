"""Radiographs in and out: bright bone, once; spacing, view and provenance; and every picture that is none."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from fixture_types import WriteDX
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from pydicom.data import get_testdata_file
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)
from sentences import assert_one_sentence

from svdrr.errors import SVDRRError
from svdrr.geometry import CArmPose, Detector, View
from svdrr.images import read_radiograph, write_nrrd, write_png, write_radiograph
from svdrr.provenance import Provenance
from svdrr.radiograph import Radiograph
from svdrr.superres import enhance

RNG = np.random.default_rng(8)
BITS8 = RNG.integers(0, 256, (20, 31)).astype(np.uint8)
BITS16 = RNG.integers(0, 65536, (20, 31)).astype(np.uint16)
UNIT = (BITS16 / np.float32(65535)).astype(np.float32)
PROVENANCE = Provenance(
    method="VCDiT",
    source="0123abcd",
    model="tiny ä",
    weights_sha256="fe" * 32,
    seed=0,
    settings={"Steps": "20", "Note": 'ä; "quoted": <50 %>, back\\slash\nnext line'},
)
VIEW = View(CArmPose(30.1, -10.3, (12.5, -40.0, 733.1)), Detector(20, 31, (0.7, 0.31)))


def written_by_itk(path: Path, array: np.ndarray, spacing: tuple[float, ...]) -> Path:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    sitk.WriteImage(image, str(path))
    return path


# DICOM


def test_the_real_radiograph_is_inverted_once(capfd: pytest.CaptureFixture[str]) -> None:
    path = Path(get_testdata_file("RG1_UNCI.dcm"))
    dataset = pydicom.dcmread(path)
    stored = dataset.pixel_array.astype(np.float64)
    assert dataset.PhotometricInterpretation == "MONOCHROME1"
    radiograph = read_radiograph(path)
    expected = 1.0 - (stored - stored.min()) / (stored.max() - stored.min())
    np.testing.assert_allclose(radiograph.pixels, expected, atol=1e-6)
    assert radiograph.pixels.dtype == np.float32
    assert radiograph.pixel_spacing_mm is None
    assert radiograph.view is None
    assert radiograph.provenance is None
    # Air beside the neck is dark, the spine in the middle is bright.
    rows, columns = radiograph.pixels.shape
    assert np.median(radiograph.pixels[: rows // 10, : columns // 10]) < 0.35
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("stored", [BITS8, BITS16 // 16], ids=["8 bit", "12 in 16 bit"])
def test_dicom_is_bright_bone_by_its_own_range(
    tmp_path: Path, write_dx: WriteDX, photometric: str, stored: np.ndarray
) -> None:
    path = write_dx(tmp_path / "a.dcm", stored, photometric, ImagerPixelSpacing=["0.2", "0.35"])
    radiograph = read_radiograph(path)
    low, high = float(stored.min()), float(stored.max())
    expected = (stored - low) / (high - low)
    np.testing.assert_allclose(
        radiograph.pixels, 1.0 - expected if photometric == "MONOCHROME1" else expected, atol=1e-6
    )
    assert radiograph.pixel_spacing_mm == (0.2, 0.35)  # row spacing first


EXPOSURE = np.exp(-np.linspace(0.0, 6.0, 400)).reshape(20, 20)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("sign", [1, -1])
def test_bone_is_bright_by_the_sign_of_the_relationship(
    tmp_path: Path, write_dx: WriteDX, photometric: str, sign: int
) -> None:
    """Of the stored values: 1, less exposure is a lower value; -1, it is a higher one."""
    integrals = -np.log(EXPOSURE)
    stored = np.round(integrals * 10000 if sign == -1 else 60000 - integrals * 10000).astype(np.uint16)
    tags = {"PixelIntensityRelationship": "LOG", "PixelIntensityRelationshipSign": sign}
    path = write_dx(tmp_path / "a.dcm", stored, photometric, **tags)
    np.testing.assert_allclose(read_radiograph(path).pixels, integrals / 6.0, atol=1e-4)


@pytest.mark.parametrize(("photometric", "sign"), [("MONOCHROME1", 1), ("MONOCHROME2", 1), ("MONOCHROME1", None)])
def test_a_raw_signal_is_made_logarithmic(
    tmp_path: Path, write_dx: WriteDX, photometric: str, sign: int | None
) -> None:
    """A detector's signal, 16 bit, linear in the exposure: the line integrals come back, in parts of ln 1000."""
    tags = {"PixelIntensityRelationship": "LIN", **({} if sign is None else {"PixelIntensityRelationshipSign": sign})}
    stored = np.round(60000 * EXPOSURE).astype(np.uint16)
    pixels = read_radiograph(write_dx(tmp_path / "a.dcm", stored, photometric, **tags)).pixels
    seen = -np.log(EXPOSURE) < 3.0
    np.testing.assert_allclose(pixels[seen], -np.log(EXPOSURE)[seen] / np.log(1000.0), atol=0.01)
    assert (np.diff(pixels.ravel()) >= 0.0).all()


def test_the_detector_s_spacing_goes_before_the_calibrated_one(tmp_path: Path, write_dx: WriteDX) -> None:
    both = write_dx(tmp_path / "a.dcm", BITS16, ImagerPixelSpacing=["0.2", "0.3"], PixelSpacing=["0.1", "0.1"])
    assert read_radiograph(both).pixel_spacing_mm == (0.2, 0.3)
    one = write_dx(tmp_path / "b.dcm", BITS16, PixelSpacing=["0.1", "0.15"])
    assert read_radiograph(one).pixel_spacing_mm == (0.1, 0.15)
    none = write_dx(tmp_path / "c.dcm", BITS16, ImagerPixelSpacing=["0", "0"])
    assert read_radiograph(none).pixel_spacing_mm is None


@pytest.mark.parametrize("stated", ["PA", "AP", "", "ap"])
def test_pa_and_ap_are_one_source_view(tmp_path: Path, write_dx: WriteDX, stated: str) -> None:
    radiograph = read_radiograph(write_dx(tmp_path / "a.dcm", BITS16, ViewPosition=stated))
    assert radiograph.view_position == ""
    assert radiograph.source_pose == CArmPose()


@pytest.mark.parametrize("suffix", ["png", "nrrd"])
def test_another_view_position_is_no_pa_and_stays_with_the_image(
    tmp_path: Path, write_dx: WriteDX, suffix: str
) -> None:
    taken = read_radiograph(write_dx(tmp_path / "a.dcm", BITS16, ViewPosition="LL", PixelSpacing=["0.1", "0.1"]))
    write_radiograph(tmp_path / f"b.{suffix}", enhance(taken))
    for radiograph in (taken, read_radiograph(tmp_path / f"b.{suffix}")):
        assert radiograph.view_position == "LL"
        with pytest.raises(SVDRRError, match="view position is LL") as refusal:
            radiograph.source_pose  # noqa: B018
        assert_one_sentence(refusal.value)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_too_little_pixel_data(
    tmp_path: Path, write_dx: WriteDX, syntax: UID, capfd: pytest.CaptureFixture[str]
) -> None:
    """The length says so, too: as far as the file's structure goes, nothing is missing."""
    dataset = pydicom.dcmread(write_dx(tmp_path / "a.dcm", BITS16))
    for name, data in (("whole", dataset.PixelData), ("less", dataset.PixelData[:-2]), ("hardly", bytes(100))):
        dataset.PixelData = data
        path = tmp_path / f"{name}.dcm"
        dataset.file_meta.TransferSyntaxUID = syntax
        pydicom.dcmwrite(path, dataset, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
        if name == "whole":
            assert read_radiograph(path).pixels.shape == BITS16.shape
        else:
            with pytest.raises(SVDRRError, match="it may be damaged"):
                read_radiograph(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("syntax", [DeflatedExplicitVRLittleEndian, RLELossless])
def test_compressed_dicom(tmp_path: Path, write_dx: WriteDX, syntax: UID) -> None:
    expected = read_radiograph(write_dx(tmp_path / "a.dcm", BITS16)).pixels
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    if syntax == RLELossless:
        dataset.compress(syntax)
    else:
        dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(tmp_path / "b.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(read_radiograph(tmp_path / "b.dcm").pixels, expected)


# Pictures


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_eight_bit_pictures_are_scaled_by_their_depth(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(BITS8 // 2).save(tmp_path / f"a.{suffix}")
    radiograph = read_radiograph(tmp_path / f"a.{suffix}")
    np.testing.assert_allclose(radiograph.pixels, (BITS8 // 2) / 255.0, atol=1e-7)
    assert radiograph.pixel_spacing_mm is None


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_pictures_are_scaled_by_their_depth(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(BITS16 // 2).save(tmp_path / f"a.{suffix}")
    np.testing.assert_allclose(read_radiograph(tmp_path / f"a.{suffix}").pixels, (BITS16 // 2) / 65535.0, atol=1e-7)


def test_float_tiff_is_kept(tmp_path: Path) -> None:
    Image.fromarray(UNIT).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_radiograph(tmp_path / "a.tif").pixels, UNIT)


def test_tiff_whose_zero_is_white_is_turned(tmp_path: Path) -> None:
    Image.fromarray(BITS16).save(tmp_path / "a.tif", tiffinfo={262: 0})  # Pillow stores 16 bits unturned
    np.testing.assert_allclose(read_radiograph(tmp_path / "a.tif").pixels, 1.0 - BITS16 / 65535.0, atol=1e-6)
    Image.fromarray(BITS8).save(tmp_path / "b.tif", tiffinfo={262: 0})  # and 8 bits turned
    np.testing.assert_allclose(read_radiograph(tmp_path / "b.tif").pixels, BITS8 / 255.0, atol=1e-6)


def test_gray_in_colors_is_gray(tmp_path: Path) -> None:
    gray, opaque = Image.fromarray(BITS8), Image.fromarray(np.full_like(BITS8, 255))
    turned = gray.copy()
    turned.putpalette([255 - level for level in range(256) for _ in range(3)])
    pictures = {
        "rgb": Image.merge("RGB", [gray] * 3),
        "rgba": Image.merge("RGBA", [gray] * 3 + [opaque]),
        "alpha": Image.merge("LA", [gray, opaque]),
    }
    for name, picture in pictures.items():
        picture.save(tmp_path / f"{name}.png")
        np.testing.assert_allclose(read_radiograph(tmp_path / f"{name}.png").pixels, BITS8 / 255.0, atol=1e-7)
    turned.save(tmp_path / "palette.png")
    np.testing.assert_allclose(read_radiograph(tmp_path / "palette.png").pixels, 1.0 - BITS8 / 255.0, atol=1e-6)
    Image.fromarray(BITS8 > 99).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_radiograph(tmp_path / "bits.png").pixels, BITS8 > 99)


# NRRD, NIfTI, MetaImage


@pytest.mark.parametrize("suffix", ["nrrd", "mha", "nii.gz"])
def test_a_float_volume_of_one_slice(tmp_path: Path, suffix: str) -> None:
    path = written_by_itk(tmp_path / f"a.{suffix}", UNIT[None], (0.25, 0.5, 3.0))
    radiograph = read_radiograph(path)
    np.testing.assert_array_equal(radiograph.pixels, UNIT)
    assert radiograph.pixel_spacing_mm == (0.5, 0.25)


def test_spacing_of_one_millimetre_is_unknown(tmp_path: Path) -> None:
    assert read_radiograph(written_by_itk(tmp_path / "a.nrrd", UNIT, (1.0, 1.0))).pixel_spacing_mm is None
    radiograph = Radiograph(UNIT)
    write_nrrd(tmp_path / "b.nrrd", UNIT, radiograph)
    assert read_radiograph(tmp_path / "b.nrrd").pixel_spacing_mm is None


def test_integers_of_a_volume_are_scaled_by_their_range(tmp_path: Path) -> None:
    path = written_by_itk(tmp_path / "a.nrrd", (BITS16.astype(np.int32) - 500)[None], (0.2, 0.2, 1.0))
    low, high = float(BITS16.min()), float(BITS16.max())
    np.testing.assert_allclose(read_radiograph(path).pixels, (BITS16 - low) / (high - low), atol=1e-6)


# Round trips

finite = st.floats(-500.0, 500.0)
spacings = st.floats(1e-3, 10.0)


@st.composite
def radiographs(draw: st.DrawFn) -> Radiograph:
    rows, columns = draw(st.integers(16, 25)), draw(st.integers(16, 25))
    pixels = np.random.default_rng(draw(st.integers(0, 99))).random((rows, columns), dtype=np.float32)
    spacing = draw(st.none() | st.tuples(spacings, spacings))
    view = None
    if spacing is not None and draw(st.booleans()):
        isocenter = draw(st.tuples(finite, finite, finite))
        pose = CArmPose(draw(st.floats(-360.0, 360.0)), draw(st.floats(-90.0, 90.0)), isocenter)
        view = View(pose, Detector(rows, columns, spacing))
    provenance = draw(st.sampled_from([None, PROVENANCE, Provenance("DRR (siddon)", "CT")]))
    return Radiograph(pixels, spacing, view, provenance)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("round trips")


@pytest.mark.parametrize(("suffix", "tolerance"), [("png", 0.5000001 / 65535.0), ("nrrd", 0.0)])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(radiograph=radiographs())
def test_round_trip(scratch: Path, suffix: str, tolerance: float, radiograph: Radiograph) -> None:
    path = scratch / f"a.{suffix}"
    write_radiograph(path, radiograph)
    back = read_radiograph(path)
    np.testing.assert_allclose(back.pixels, radiograph.pixels, rtol=0.0, atol=tolerance + 1e-7 * (tolerance > 0.0))
    assert back.view == radiograph.view
    assert back.provenance == radiograph.provenance
    if suffix == "png" or radiograph.provenance or radiograph.view or radiograph.pixel_spacing_mm != (1.0, 1.0):
        assert back.pixel_spacing_mm == radiograph.pixel_spacing_mm


def test_png_is_sixteen_bit_and_says_what_it_is(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", Radiograph(UNIT, (0.7, 0.31), VIEW, PROVENANCE))
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "I;16"
        np.testing.assert_array_equal(np.asarray(image), BITS16)
        assert image.text["SVDRR.Synthetic"] == "SYNTHETIC, not for diagnosis"
        assert image.text["SVDRR.PixelSpacing"] == "0.7\\0.31"
        assert image.text["SVDRR.Seed"] == "0"


def test_nrrd_lies_on_the_detector(tmp_path: Path) -> None:
    write_nrrd(tmp_path / "a.nrrd", UNIT, Radiograph(UNIT, (0.7, 0.31), VIEW, PROVENANCE))
    image = sitk.ReadImage(str(tmp_path / "a.nrrd"))
    assert image.GetMetaData("SVDRR.Synthetic") == "SYNTHETIC, not for diagnosis"
    for column, row in ((0, 0), (30, 0), (0, 19), (30, 19)):
        x, y, z = image.TransformIndexToPhysicalPoint((column, row, 0))
        np.testing.assert_allclose((-x, -y, z), (VIEW.pixel_to_ras @ (column, row, 0, 1))[:3], atol=1e-4)


# What is no radiograph


def test_a_description_that_no_longer_fits(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", Radiograph(UNIT, (0.7, 0.31), VIEW))
    with Image.open(tmp_path / "a.png") as image:
        texts = dict(image.text)

    def with_texts(**changed: str) -> Path:
        info = PngImagePlugin.PngInfo()
        for name, value in {**texts, **changed}.items():
            info.add_text(name.replace("_", "."), value)
        Image.fromarray(BITS8[:18]).save(tmp_path / "b.png", pnginfo=info)
        return tmp_path / "b.png"

    changes = {"SVDRR_View": "[1]", "SVDRR_PixelSpacing": "0.7", "SVDRR_Seed": "x", "SVDRR_Synthetic": "yes"}
    for name, value in changes.items():  # the last: nothing is broken but the number of rows
        with pytest.raises(SVDRRError, match="is damaged or does not fit"):
            read_radiograph(with_texts(**{name: value}))


def bomb() -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", 60000, 60000, 16, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg", "a.bmp", "a.dcm", "a.nrrd", "a.nii", "a.xyz", "a"])
@pytest.mark.parametrize("content", [b"", b"hello, this is text\n" * 40], ids=["empty", "text"])
def test_no_image(tmp_path: Path, name: str, content: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SVDRRError, match="cannot be read"):
        read_radiograph(tmp_path / name)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("part", [0.03, 0.5, 0.95])
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg", "a.dcm", "a.nrrd", "a.nii.gz", "a.mha"])
def test_truncated_files(
    tmp_path: Path, write_dx: WriteDX, name: str, part: float, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    if name.endswith("dcm"):
        write_dx(path, BITS16)
    elif name.endswith(("nrrd", "nii.gz", "mha")):
        sitk.WriteImage(sitk.GetImageFromArray(UNIT), str(path), useCompression=True)
    else:
        Image.fromarray(BITS8 if name.endswith("jpg") else BITS16).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(SVDRRError):
        read_radiograph(path)
    if not name.endswith("mha"):  # the MetaImage library writes to standard error by itself
        assert capfd.readouterr() == ("", "")


def test_pictures_that_are_no_radiographs(tmp_path: Path, write_dx: WriteDX) -> None:
    gray = Image.fromarray(BITS8)
    saved = {
        "color": (Image.fromarray(np.dstack([BITS8, BITS8, 255 - BITS8])), "color image"),
        "constant": (Image.fromarray(np.full((20, 20), 7, np.uint8)), "single gray value"),
        "small": (gray.crop((0, 0, 31, 15)), "only 15 x 31 pixels"),
        "i32": (Image.fromarray(BITS16.astype(np.int32) * 9), "32-bit"),
        "float": (Image.fromarray(UNIT * 2), "float values from"),
    }
    for name, (picture, words) in saved.items():
        path = tmp_path / f"{name}.tif"
        picture.save(path)
        with pytest.raises(SVDRRError, match=words):
            read_radiograph(path)
    gray.save(tmp_path / "two.tif", save_all=True, append_images=[gray])
    (tmp_path / "bomb.png").write_bytes(bomb())
    others = {
        tmp_path / "two.tif": "holds 2 images",
        tmp_path / "bomb.png": "cannot be read",
        written_by_itk(tmp_path / "nan.nrrd", np.where(UNIT > 0.5, UNIT, np.nan), (0.2, 0.2)): "NaN or infinite pixels",
        written_by_itk(tmp_path / "volume.nrrd", np.stack([UNIT, UNIT]), (0.2, 0.2, 1.0)): "a volume of size",
        written_by_itk(tmp_path / "upright.nrrd", BITS16[:, None], (0.2, 0.2, 1.0)): "a volume of size",
        write_dx(tmp_path / "tiny.dcm", BITS16[:9]): "only 9 x 31 pixels",
        write_dx(tmp_path / "constant.dcm", np.full((20, 20), 9, np.uint16)): "single value 9",
        write_dx(tmp_path / "mr.dcm", BITS16, Modality="MR"): "modality MR",
        tmp_path: "is a folder",
        tmp_path / "nothing.png": "There is no file",
    }
    for path, words in others.items():
        with pytest.raises(SVDRRError, match=words):
            read_radiograph(path)


def test_unknown_output_suffix(tmp_path: Path) -> None:
    with pytest.raises(SVDRRError, match=r"must end in \.png or \.nrrd"):
        write_radiograph(tmp_path / "a.jpg", Radiograph(UNIT))
    assert not list(tmp_path.iterdir())
