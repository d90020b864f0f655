"""The ``svdrr`` command as a user types it: what it writes, what it says, and what it refuses without a trace."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from command_line import run_svdrr
from fixture_types import WriteDX
from numpy.typing import NDArray
from PIL import Image
from pydicom.data import get_testdata_file
from test_ct_io import PATIENT, write_series

from svdrr import __version__
from svdrr.ct.io import read_ct, write_volume
from svdrr.ct.phantoms import Label, ThoraxOptions, thorax_phantom
from svdrr.drr import ENGINES, to_display
from svdrr.drr.display import WINDOWS, apply_window
from svdrr.drr.materials import MATERIALS
from svdrr.geometry import CArmPose, Detector, View
from svdrr.geometry.viewsets import view_from_json
from svdrr.images import read_radiograph, write_png
from svdrr.models import find_model
from svdrr.radiograph import Radiograph
from svdrr.render import OUTPUTS
from svdrr.superres import enhance
from svdrr.superres.fidelity import data_fidelity

SYNTHETIC = "SYNTHETIC, not for diagnosis"
VIEWS = "sweep:-40:40:40"
RNG = np.random.default_rng(2)
LPS = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """What bad input must end in: exit code 2, nothing on stdout, one line on stderr."""
        assert (self.code, self.out) == (2, ""), self
        assert self.err.startswith("svdrr: "), self.err
        assert self.err.count("\n") == 1, self.err
        return self.err.removeprefix("svdrr: ").strip()


Run = Callable[..., Result]


@pytest.fixture
def svdrr(capfd: pytest.CaptureFixture[str], models: Path) -> Run:
    """Runs the command in this process, where its libraries are loaded already; the tiny model is there."""

    def run(*arguments: object) -> Result:
        return Result(*run_svdrr(capfd, *arguments))

    return run


def child(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    """The command as a process of its own, in which Ctrl-C works whatever this process was started with."""
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "from svdrr.cli import main; main()"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every path below the folder, hidden ones too, with its bytes."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@contextlib.contextmanager
def disk_full_after(size: int) -> Iterator[None]:
    """The kernel refuses to let a file grow beyond `size` bytes, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def small_hu() -> NDArray[np.float32]:
    """A body with a dense rod off its middle."""
    hu = np.full((12, 24, 24), -1000.0, np.float32)
    hu[1:11, 6:18, 4:20] = 40.0
    hu[4:8, 8:11, 7:10] = 1200.0
    return hu


AFFINE = np.array([[-8.0, 0, 0, 90], [0, -8, 0, 40], [0, 0, 16, 300], [0, 0, 0, 1]])


def radiograph_values() -> NDArray[np.uint16]:
    rows, columns = np.mgrid[:48, :40]
    body = np.exp(-((rows - 24) ** 2 / 300.0 + (columns - 20) ** 2 / 150.0))
    return (50000 * body + RNG.integers(0, 9000, body.shape)).astype(np.uint16)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, write_dx: WriteDX) -> Path:
    """A folder of good and of bad input."""
    folder = tmp_path_factory.mktemp("world")
    hu, values = small_hu(), radiograph_values()
    write_volume(folder / "ct.nrrd", hu, AFFINE)
    write_volume(folder / "thin.nrrd", hu[5:6], AFFINE)
    nan = hu.copy()
    nan[3, 4, 5] = np.nan
    write_volume(folder / "nan.nrrd", nan, AFFINE)
    write_series(folder / "dicom", hu, AFFINE)
    write_series(folder / "mr", hu, AFFINE, modality="MR")
    write_series(folder / "two", hu, AFFINE, number=3)
    write_series(folder / "two", hu[:7], AFFINE, number=8)
    one = next((folder / "dicom").iterdir()).read_bytes()
    (folder / "truncated").mkdir()
    for file in sorted((folder / "dicom").iterdir()):
        (folder / "truncated" / file.name).write_bytes(file.read_bytes()[:-300])
    (folder / "empty").mkdir()
    write_dx(folder / "dx.dcm", values, PatientName=PATIENT, PatientID=PATIENT, ImagerPixelSpacing=["9", "9"])
    write_dx(folder / "lateral.dcm", values, ViewPosition="LL", PatientName=PATIENT)
    (folder / "slice.dcm").write_bytes(one)
    (folder / "truncated.dcm").write_bytes((folder / "dx.dcm").read_bytes()[:-500])
    Image.fromarray(values).save(folder / "radiograph.png")
    (folder / "link.png").symlink_to(folder / "radiograph.png")
    (folder / "truncated.png").write_bytes((folder / "radiograph.png").read_bytes()[:2000])
    Image.fromarray(RNG.integers(0, 255, (20, 20, 3)).astype(np.uint8)).save(folder / "color.png")
    Image.fromarray(np.full((20, 20), 9, np.uint8)).save(folder / "constant.png")
    Image.fromarray(values[:8, :8]).save(folder / "tiny.png")
    for name in ("text.png", "text.dcm", "text.nrrd", "file"):
        (folder / name).write_text("This is a text.\n" * 20)
    (folder / "folder.png").mkdir()
    (folder / "folder.nrrd").mkdir()
    (folder / "broken.json").write_text("{")
    beside = [{"primary_deg": 0}, {"primary_deg": 30, "isocenter_ras_mm": [5000, 0, 0]}]
    (folder / "beside.json").write_text(json.dumps({"format": "svdrr-views-1", "views": beside}))
    misspelled = [{"primary_deg": 0, "secondry_deg": 10}]
    (folder / "misspelled.json").write_text(json.dumps({"format": "svdrr-views-1", "views": misspelled}))
    write_series(folder / "study" / "A" / "1", hu, AFFINE)
    write_series(folder / "study" / "B", hu, AFFINE)
    return folder


# Start


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, svdrr\n"
        "light = sorted({'numpy', 'typer', 'rich', 'scipy', 'SimpleITK', 'torch'} & set(sys.modules))\n"
        "from svdrr.cli import main\n"
        "sys.argv = ['svdrr', '--help']\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    code = stop.code\n"
        "heavy = {'torch', 'vtk', 'vtkmodules', 'slicer', 'SimpleITK', 'numba', 'scipy', 'diffusers'}\n"
        "print(code, light, sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stderr.strip() == "0 [] []"
    for command in ("remove-table", "render", "synthesize", "enhance", "evaluate", "demo"):
        assert command in done.stdout
    assert "not for diagnosis" in " ".join(done.stdout.split())


def test_the_installed_command_says_its_version() -> None:
    command = Path(sys.executable).parent / "svdrr"
    done = subprocess.run([command, "--version"], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"svdrr {__version__}\n", "")


@pytest.mark.parametrize("command", ["remove-table", "render", "synthesize", "enhance", "evaluate", "demo"])
def test_every_command_explains_itself(svdrr: Run, command: str) -> None:
    done = svdrr(command, "--help")
    assert (done.code, done.err) == (0, "")
    assert "--json" in done.out


@pytest.mark.parametrize(
    "arguments",
    [["render"], ["enhance", "a", "b", "--scale", "x"], ["--bogus"], ["nonsense"], ["render", "a", "b", "c"]],
)
def test_misuse_ends_in_the_usage(svdrr: Run, arguments: list[str]) -> None:
    done = svdrr(*arguments)
    assert (done.code, done.out) == (2, "")
    assert "Usage: svdrr" in done.err
    assert "Traceback" not in done.err


# remove-table


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NDArray[np.uint8]]:
    """A phantom on a table as a file, and its labels."""
    made = thorax_phantom(4, ThoraxOptions(table=True, spacing_mm=6.0))
    path = tmp_path_factory.mktemp("phantom") / "ct.nii.gz"
    write_volume(path, made.ct.hu, made.ct.ijk_to_ras)
    return path, made.labels


def test_remove_table(svdrr: Run, phantom: tuple[Path, NDArray[np.uint8]], tmp_path: Path) -> None:
    path, labels = phantom
    output, mask = tmp_path / "Übung 1.nrrd", tmp_path / "mask.nii"
    done = svdrr("remove-table", path, output, "--mask", mask)
    assert (done.code, done.err) == (0, "")
    assert str(output) in done.out
    before, after = read_ct(path), read_ct(output)
    body = sitk.GetArrayFromImage(sitk.ReadImage(str(mask)))
    np.testing.assert_allclose(after.ijk_to_ras, before.ijk_to_ras, atol=1e-4)
    np.testing.assert_array_equal(after.hu, np.where(body == 1, before.hu, -1000.0))
    assert set(np.unique(body)) == {0, 1}
    table = np.isin(labels, [Label.TABLE, Label.MATTRESS])
    assert body[~table & (labels != Label.AIR)].mean() > 0.96
    assert (before.hu[table] > -900).sum() > 500
    assert (after.hu[table] == -1000).all()
    assert sorted(tmp_path.iterdir()) == sorted([output, mask])


def test_remove_table_as_json(svdrr: Run, phantom: tuple[Path, NDArray[np.uint8]], tmp_path: Path) -> None:
    output = tmp_path / "out.nii.gz"
    done = svdrr("remove-table", phantom[0], output, "--json")
    result = json.loads(done.out)
    assert (done.code, done.err, done.out.count("\n")) == (0, "", 1)
    assert result["output"] == str(output)
    assert result["residual_voxels"] == 0
    assert isinstance(result["verdict"], str)


# render


def test_render(svdrr: Run, world: Path, tmp_path: Path) -> None:
    views = tmp_path / "views.json"
    poses = [{"primary_deg": 0}, {"primary_deg": 35, "secondary_deg": 20}, {"primary_deg": -90, "secondary_deg": -10}]
    views.write_text(json.dumps({"format": "svdrr-views-1", "views": poses}))
    outdir = tmp_path / "Übung 1"
    options = ("--views", views, "--size", 96, "--engine", "siddon", "--no-table-removal", "--json")
    done = svdrr("render", world / "ct.nrrd", outdir, *options)
    assert (done.code, done.err, done.out.count("\n")) == (0, "", 1)
    assert json.loads(done.out) == {"outdir": str(outdir), "views": 3}
    names = [f"drr_{number:05d}" for number in range(3)]
    assert sorted(path.name for path in outdir.iterdir()) == sorted(
        [f"{name}.{suffix}" for name in names for suffix in ("png", "nrrd")] + ["views.json"]
    )
    volume = read_ct(world / "ct.nrrd")
    rod_ras = (volume.ijk_to_ras @ (8.0, 9.0, 5.5, 1.0))[:3]
    document = json.loads((outdir / "views.json").read_text(encoding="utf-8"))
    assert document["format"] == "svdrr-views-1"
    assert "RAS" in document["frame"]
    assert [entry["image"] for entry in document["views"]] == [f"{name}.png" for name in names]
    assert [entry["label"] for entry in document["views"]] == ["PA", "LAO 35° CRAN 20°", "RAO 90° CAUD 10°"]
    for name, entry, pose in zip(names, document["views"], poses, strict=True):
        expected = View(
            CArmPose(pose["primary_deg"], pose.get("secondary_deg", 0), volume.isocenter_ras), Detector.square(96)
        )
        assert view_from_json(entry) == expected
        np.testing.assert_array_equal(entry["projection_matrix"], expected.projection_matrix)
        np.testing.assert_array_equal(entry["pixel_to_ras"], expected.pixel_to_ras)
        np.testing.assert_array_equal(entry["source_ras_mm"], expected.pose.source_ras)
        assert entry["provenance"]["SVDRR.Method"] == "DRR (siddon)"

        with Image.open(outdir / f"{name}.png") as image:
            assert image.mode == "I;16"
            assert image.size == (96, 96)
            assert image.text["SVDRR.Synthetic"] == SYNTHETIC
            shown = np.asarray(image) / 65535.0
        picture = sitk.ReadImage(str(outdir / f"{name}.nrrd"))
        assert picture.GetMetaData("SVDRR.Synthetic") == SYNTHETIC
        assert picture.GetPixelID() == sitk.sitkFloat32
        line_integrals = sitk.GetArrayFromImage(picture)[0]
        assert line_integrals.max() > 1.5  # not gray values
        assert np.abs(to_display(line_integrals) - shown).max() <= 1.0 / 65535.0
        # The file lies on the detector plane, and the rod is seen where the matrix says.
        for column, row in ((0, 0), (95, 0), (0, 95), (95, 95)):
            corner_ras = LPS @ picture.TransformIndexToPhysicalPoint((column, row, 0))
            np.testing.assert_allclose(corner_ras, (expected.pixel_to_ras @ (column, row, 0, 1))[:3], atol=1e-4)
            off_plane = (corner_ras - expected.pose.detector_center_ras) @ expected.pose.detector_direction
            assert abs(off_plane) < 1e-4
        column, row = expected.project(rod_ras)[0]
        brightest = np.argwhere(line_integrals > 0.98 * line_integrals.max()).mean(axis=0)
        assert np.abs(brightest - (row, column)).max() < 4.0


def test_render_reads_the_views_that_it_wrote(svdrr: Run, world: Path, tmp_path: Path) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    done = svdrr("render", world / "ct.nrrd", first, "--views", "sweep:30:30:5", "--size", 24)
    assert done.out == f"1 view written to {first}.\n"
    # The detector is not that of the file.
    assert svdrr("render", world / "ct.nrrd", again, "--views", first / "views.json", "--size", 32).code == 0
    before, after = (read_radiograph(folder / "drr_00000.png").view for folder in (first, again))
    assert before is not None
    assert after == View(before.pose, Detector.square(32))


def test_a_view_that_misses_is_refused_before_the_table_is_removed(
    svdrr: Run, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("svdrr.ct.table.remove_table", lambda ct: pytest.fail("the work has begun"))
    refused(svdrr, world, "misses the CT", "render", world / "ct.nrrd", world / "out", "--views", world / "beside.json")


def test_render_removes_the_table_first(svdrr: Run, phantom: tuple[Path, NDArray[np.uint8]], tmp_path: Path) -> None:
    path, _ = phantom
    sums = []
    for number, switch in enumerate(("--table-removal", "--no-table-removal")):
        outdir = tmp_path / str(number)
        assert svdrr("render", path, outdir, "--views", "sweep:90:90:5", "--size", 32, switch).code == 0
        radiograph = read_radiograph(outdir / "drr_00000.png")
        assert radiograph.provenance is not None
        assert radiograph.provenance.source.startswith("CT with voxels SHA-256 ")
        assert ("table removed" in radiograph.provenance.source) == (number == 0)
        sums.append(radiograph.pixels.sum())
    assert sums[0] < sums[1]


def test_render_into_a_folder_keeps_what_is_there(svdrr: Run, world: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "views.json").write_text("old")
    assert svdrr("render", world / "ct.nrrd", tmp_path, "--views", VIEWS, "--size", 16).code == 0
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert len(json.loads((tmp_path / "views.json").read_text(encoding="utf-8"))["views"]) == 3
    assert len(list(tmp_path.iterdir())) == 8


def rendered(svdrr: Run, world: Path, outdir: Path, *options: object) -> tuple[list[Radiograph], NDArray[np.float32]]:
    """The radiographs, and the values of the NRRDs (views, rows, columns)."""
    done = svdrr("render", world / "ct.nrrd", outdir, "--views", VIEWS, "--size", 24, *options)
    assert (done.code, done.err) == (0, "")
    values = [sitk.GetArrayFromImage(sitk.ReadImage(str(path)))[0] for path in sorted(outdir.glob("*.nrrd"))]
    return [read_radiograph(path) for path in sorted(outdir.glob("*.png"))], np.stack(values)


def test_render_with_a_tube_and_a_detector(svdrr: Run, world: Path, tmp_path: Path) -> None:
    options = ("--kvp", 80, "--material", "water-bone", "--photons", 5000, "--blur", 12, "--side", 240)
    more = ("--window", "chest", "--output", "linear")
    radiographs, values = rendered(svdrr, world, tmp_path / "a", *options, *more, "--seed", 3)
    expected = {
        "SVDRR.Seed": "3",
        "SVDRR.TubeVoltage": "80 kV",
        "SVDRR.HalfValueLayer": "2.70 mm Al",
        "SVDRR.Material": "water-bone",
        "SVDRR.AirPhotonsPerPixel": "5000",
        "SVDRR.DetectorBlurFWHM": "12 mm",
        "SVDRR.Scatter": "none: primary radiation only",
        "SVDRR.NRRDValues": "transmission I/I0",
        "SVDRR.DisplayWindow": "chest",
    }
    entries = json.loads((tmp_path / "a" / "views.json").read_text(encoding="utf-8"))["views"]
    for radiograph, entry in zip(radiographs, entries, strict=True):
        assert radiograph.provenance is not None
        assert expected.items() <= radiograph.provenance.attributes().items()
        assert expected.items() <= entry["provenance"].items()
        assert entry["pixel_spacing_mm"] == [10.0, 10.0]
    # Transmission, with noise on both sides of 1 in air, and the PNG is its window.
    assert 0.0 < values.min() < 0.5 < 1.0 < values.max() < 1.2
    for radiograph, transmission in zip(radiographs, values, strict=True):
        shown = apply_window(to_display(-np.log(transmission)), "chest")
        assert np.abs(shown - radiograph.pixels).max() <= 1.0 / 65535.0

    _, again = rendered(svdrr, world, tmp_path / "b", *options, *more, "--seed", 3)
    _, other = rendered(svdrr, world, tmp_path / "c", *options, *more, "--seed", 4)
    np.testing.assert_array_equal(again, values)
    assert np.abs(other - values).max() > 0.005


def test_render_defaults_to_an_ideal_detector_and_one_energy(svdrr: Run, world: Path, tmp_path: Path) -> None:
    radiographs, values = rendered(svdrr, world, tmp_path / "default")
    provenance = radiographs[0].provenance
    assert provenance is not None
    assert provenance.seed is None
    assert provenance.settings == {
        "EffectiveEnergy": "73 keV",
        "Material": "water",
        "Scatter": "none: primary radiation only",
        "NRRDValues": "line integrals -ln(I/I0)",
        "DisplayWindow": "full",
    }
    _, same = rendered(svdrr, world, tmp_path / "same", "--energy", 73)
    np.testing.assert_array_equal(same, values)
    _, softer = rendered(svdrr, world, tmp_path / "softer", "--energy", 40)
    # Water, cm²/g: 0.2683 at 40 keV (NIST), 0.1898 at 73 keV (Elam et al.).
    ratios = softer[values > 0.1] / values[values > 0.1]
    np.testing.assert_allclose(ratios, 0.2683 / 0.1898, rtol=2e-3)


def test_render_names_its_choices(svdrr: Run) -> None:
    words = svdrr("render", "--help").out.replace("│", " ").split()
    for choice in (*MATERIALS, *OUTPUTS, *WINDOWS):
        assert any(word.strip("(),.:") == choice for word in words), choice


def test_render_chooses_the_series(svdrr: Run, world: Path, tmp_path: Path) -> None:
    sentence = svdrr("render", world / "two", tmp_path / "out", "--views", VIEWS, "--size", 16).sentence
    assert "2 DICOM series" in sentence
    assert "--series" in sentence
    assert "3: CT, 12 images" in sentence
    assert "8: CT, 7 images" in sentence
    assert PATIENT not in sentence
    for series in ("3", "8"):
        done = svdrr("render", world / "two", tmp_path / series, "--views", VIEWS, "--size", 16, "--series", series)
        assert done.code == 0, done.err
    three, eight = (read_radiograph(tmp_path / series / "drr_00001.png") for series in ("3", "8"))
    assert np.abs(three.pixels - eight.pixels).max() > 0.01
    assert "no DICOM series 5" in svdrr("render", world / "two", tmp_path / "out", "--series", "5").sentence


# synthesize


def synthesized(folder: Path) -> list[NDArray[np.float32]]:
    return [read_radiograph(path).pixels for path in sorted(folder.glob("*.png"))]


def test_synthesize(svdrr: Run, world: Path, tmp_path: Path) -> None:
    outdir = tmp_path / "Übung 1"
    arguments = ("synthesize", world / "dx.dcm", outdir, "--model", "tiny", "--views", VIEWS)
    done = svdrr(*arguments, "--seed", 5, "--json")
    assert (done.code, done.err, done.out.count("\n")) == (0, "", 1)
    weights = find_model("tiny").weights_sha256()
    assert json.loads(done.out) == {
        "outdir": str(outdir),
        "views": 3,
        "synthetic": True,
        "model": "tiny",
        "weights_sha256": weights,
        "seed": 5,
    }
    names = [f"synthetic_{number:05d}.png" for number in range(3)]
    assert sorted(path.name for path in outdir.iterdir()) == [*names, "views.json"]
    document = json.loads((outdir / "views.json").read_text(encoding="utf-8"))
    assert [entry["image"] for entry in document["views"]] == names
    assert [entry["label"] for entry in document["views"]] == ["RAO 40°", "PA", "LAO 40°"]
    source = read_radiograph(world / "dx.dcm").pixels_sha256()
    for name, entry in zip(names, document["views"], strict=True):
        with Image.open(outdir / name) as image:
            assert image.mode == "I;16"
            assert image.size == (32, 32)
            texts = image.text
        expected = {
            "SVDRR.Synthetic": SYNTHETIC,
            "SVDRR.Method": "VCDiT",
            "SVDRR.Model": "tiny",
            "SVDRR.WeightsSHA256": weights,
            "SVDRR.Seed": "5",
            "SVDRR.Steps": "2",
            "SVDRR.Guidance": "1.5",
            "SVDRR.SourceView": "PA",
            "SVDRR.Source": f"radiograph with pixels SHA-256 {source}",
            "SVDRR.Software": f"SVDRR {__version__}",
        }
        assert expected.items() <= texts.items()
        assert expected.items() <= entry["provenance"].items()
        assert view_from_json(entry) == read_radiograph(outdir / name).view
        assert entry["pixel_spacing_mm"] == [15.0, 15.0]


def test_a_view_made_from_a_synthetic_image_says_so(svdrr: Run, world: Path, tmp_path: Path) -> None:
    options = ("--model", "tiny", "--views", VIEWS, "--steps", 1)
    assert svdrr("synthesize", world / "radiograph.png", tmp_path / "first", *options).code == 0
    made = tmp_path / "first" / "synthetic_00000.png"
    assert svdrr("synthesize", made, tmp_path / "second", *options).code == 0
    with Image.open(tmp_path / "second" / "synthetic_00000.png") as image:
        assert image.text["SVDRR.Source"].startswith("computed image (VCDiT) with pixels SHA-256 ")


def test_synthesize_repeats_itself_by_seed(svdrr: Run, world: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        done = svdrr(
            *("synthesize", world / "radiograph.png", tmp_path / name, "--model", "tiny", "--views", VIEWS),
            *("--seed", seed, "--steps", 1, "--guidance", 1),
        )
        assert done.code == 0
        assert "SYNTHETIC" in done.out
        assert "not for diagnosis" in done.out
    first, again, other = (synthesized(tmp_path / name) for name in "abc")
    np.testing.assert_array_equal(first, again)
    assert np.abs(np.subtract(first, other)).max() > 0.01


def test_synthesize_with_the_bundled_model_by_folder(svdrr: Run, world: Path, tmp_path: Path) -> None:
    folder = find_model("demo-256").folder
    done = svdrr(
        *("synthesize", world / "radiograph.png", tmp_path / "out", "--model", folder, "--steps", 1),
        *("--views", "hemisphere:1"),
    )
    assert (done.code, done.err) == (0, "")
    assert [pixels.shape for pixels in synthesized(tmp_path / "out")] == [(256, 256)]


def test_synthesize_starts_from_the_view_of_its_source(svdrr: Run, world: Path, tmp_path: Path) -> None:
    view = View(CArmPose(90.0, 0.0, (1.0, 2.0, 3.0)), Detector(48, 40, (9.0, 9.0)))
    pixels = (radiograph_values() / 65535.0).astype(np.float32)
    write_png(tmp_path / "lateral.png", Radiograph(pixels, (9.0, 9.0), view))
    done = svdrr("synthesize", tmp_path / "lateral.png", tmp_path / "out", "--model", "tiny", "--views", "hemisphere:1")
    assert done.code == 0
    result = read_radiograph(tmp_path / "out" / "synthetic_00000.png")
    assert result.provenance is not None
    assert result.provenance.settings["SourceView"] == "left lateral"
    assert result.view is not None
    assert result.view.pose.isocenter_ras == (1.0, 2.0, 3.0)


def test_dark_pictures_are_brought_to_the_gray_scale(svdrr: Run, tmp_path: Path) -> None:
    """Ten bits in a 16-bit file: all of it is darker than the air of others."""
    Image.fromarray(radiograph_values() >> 6).save(tmp_path / "dark.png")
    done = svdrr("synthesize", tmp_path / "dark.png", tmp_path / "out", "--model", "tiny", "--views", "hemisphere:1")
    assert (done.code, done.err) == (0, "")


def test_wrong_numbers_show_before_pytorch_is_loaded(world: Path, models: Path, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from svdrr.cli import main\n"
        "arguments = ['svdrr', 'synthesize', *sys.argv[1:], '--model=tiny']\n"
        "for option in ('--steps=0', '--guidance=-1', '--seed=-1', '--views=nonsense'):\n"
        "    sys.argv = [*arguments, option]\n"
        "    try:\n        main()\n    except SystemExit as stop:\n        print(stop.code)\n"
        "print('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, world / "radiograph.png", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.stdout, done.stderr.count("\n")) == ("2\n" * 4 + "False\n", 4)


# enhance


@pytest.mark.parametrize("suffix", ["png", "nrrd"])
def test_enhance(svdrr: Run, world: Path, tmp_path: Path, suffix: str) -> None:
    output = tmp_path / f"groß {suffix}.{suffix}"
    done = svdrr("enhance", world / "dx.dcm", output, "--scale", 4, "--method", "bicubic", "--json")
    assert (done.code, done.err, done.out.count("\n")) == (0, "", 1)
    source = read_radiograph(world / "dx.dcm")
    fidelity = data_fidelity(enhance(source, "bicubic", 4).pixels, source.pixels)
    assert json.loads(done.out) == {
        "output": str(output),
        "synthetic": True,
        "rows": 192,
        "columns": 160,
        "pixel_spacing_mm": [2.25, 2.25],
        "fidelity_mean_percent": fidelity.mean_percent,
        "fidelity_max_percent": fidelity.max_percent,
        "is_consistent": False,
        "method": "bicubic",
        "scale": 4,
        "seed": None,
        "fidelity_map": None,
        "uncertainty_map": None,
    }
    enlarged = read_radiograph(output)
    assert enlarged.pixels.shape == (192, 160)
    assert enlarged.pixel_spacing_mm == (2.25, 2.25)
    assert enlarged.provenance is not None
    assert enlarged.provenance.method == "bicubic x4"
    assert list(tmp_path.iterdir()) == [output]


def test_enhance_keeps_the_provenance(svdrr: Run, world: Path, tmp_path: Path) -> None:
    svdrr("render", world / "ct.nrrd", tmp_path / "out", "--views", "hemisphere:1", "--size", 16, "--engine", "siddon")
    path = tmp_path / "out" / "drr_00000.png"
    before = read_radiograph(path)
    done = svdrr("enhance", path, tmp_path / "large.png")
    assert done.code == 0
    assert "32 x 32 pixels" in done.out
    after = read_radiograph(tmp_path / "large.png")
    assert after.view is not None
    assert before.view is not None
    assert after.provenance is not None
    assert after.view.pose == before.view.pose
    assert after.provenance.method == "DRR (siddon)"
    assert after.provenance.settings["Enhancement"] == "lanczos x2"


# Bad input

RENDER_AFTER = ("--views", VIEWS, "--size", "16")
SYNTHESIZE_AFTER = ("--views", VIEWS, "--model", "tiny", "--steps", "1")
BAD_CT = {
    "missing.nrrd": "There is no file or folder",
    "empty": "is empty",
    "study": "itself holds no DICOM images; give the one below it that does: ",
    "mr": "is an MR image, not a CT",
    "nan.nrrd": "1 NaN or infinite voxel",
    "RG1": "is a radiograph (CR), not a CT",
    "dx.dcm": "is a radiograph (DX), not a CT",
    "thin.nrrd": "single slice",
    "two": "choose one with --series",
    "text.png": "not a file type that holds a CT",
    "text.dcm": "damaged",
    "text.nrrd": "damaged",
    "truncated": "is damaged",
    "radiograph.png": "not a file type that holds a CT",
}
BAD_RADIOGRAPH = {
    "missing.png": "There is no file",
    "empty": "is a folder",
    "dicom": "is a folder",
    "ct.nrrd": "is a volume",
    "slice.dcm": "modality CT",
    "text.png": "cannot be read as an image",
    "text.dcm": "cannot be read as a radiograph",
    "truncated.png": "cannot be read as an image",
    "truncated.dcm": "cannot be read as a radiograph",
    "color.png": "color image",
    "constant.png": "single gray value",
    "tiny.png": "only 8 x 8 pixels",
}
BAD_OPTIONS = [
    ("render ct.nrrd out --views nonsense", "Unknown view set 'nonsense'"),
    ("render ct.nrrd out --views sweep:0:10", "Cannot read the view set"),
    ("render ct.nrrd out --views sweep:0:nan:1", "finite angles"),
    ("render ct.nrrd out --views hemisphere:0", "1 to 100,000 views, not 0"),
    ("render ct.nrrd out --views missing.json", "Cannot read the view file"),
    ("render ct.nrrd out --views broken.json", "not valid JSON"),
    ("render ct.nrrd out --views file", "must end in .json; rename 'file' if it is one"),
    ("render ct.nrrd out --views misspelled.json", "unknown key 'secondry_deg'"),
    ("render ct.nrrd out --views beside.json", "View 2 of 2 (LAO 30°) misses the CT"),
    ("render ct.nrrd out --engine magic", f"Unknown DRR engine 'magic'; choose one of: {', '.join(ENGINES)}"),
    ("render ct.nrrd out --size 0", "16 to 4096 pixels, not 0"),
    ("render ct.nrrd out --size 5000", "16 to 4096 pixels, not 5000"),
    ("render ct.nrrd out --side 0", "side must lie in 10 to 2000 mm, not 0 mm"),
    ("render ct.nrrd out --side nan", "side must lie in 10 to 2000 mm, not nan mm"),
    ("render ct.nrrd out --energy 9", "photon energy must lie in 10 to 150 keV, not 9 keV"),
    ("render ct.nrrd out --energy nan", "photon energy must lie in 10 to 150 keV, not nan keV"),
    ("render ct.nrrd out --kvp 200", "tube voltage must be a whole number of kV from 40 to 150, not 200"),
    ("render ct.nrrd out --kvp 0", "tube voltage must be a whole number of kV from 40 to 150, not 0"),
    ("render ct.nrrd out --kvp 80 --energy 60", "give either --energy or --kvp"),
    ("render ct.nrrd out --material lead", "Unknown material model 'lead'; choose one of: water, water-bone"),
    ("render ct.nrrd out --photons 0", "photons per pixel must lie above 0 and up to 1e12, not 0"),
    ("render ct.nrrd out --photons nan", "photons per pixel must lie above 0 and up to 1e12, not nan"),
    ("render ct.nrrd out --blur -1", "blur must lie in 0 to 50 mm, not -1 mm"),
    ("render ct.nrrd out --blur inf", "blur must lie in 0 to 50 mm, not inf mm"),
    ("render ct.nrrd out --seed -1", "seed must not be negative, not -1"),
    ("render ct.nrrd out --output both", "Unknown output 'both'; choose one of: log, linear"),
    ("render ct.nrrd out --window lung", "Unknown display window 'lung'; choose one of: full, chest"),
    ("render ct.nrrd out --series 1", "A series can only be chosen in a folder"),
    ("render ct.nrrd file/out", "Cannot write"),
    ("render ct.nrrd nowhere/out", "nowhere does not exist; create it first"),
    ("render ct.nrrd file", "Not a directory"),
    ("synthesize radiograph.png out --model nope", "Unknown model 'nope'; available: tiny, demo-256"),
    ("synthesize radiograph.png out --model tiny --steps 0", "steps must lie in 1 to 1000, not 0"),
    ("synthesize radiograph.png out --model tiny --steps -4", "steps must lie in 1 to 1000, not -4"),
    ("synthesize radiograph.png out --model tiny --steps 100000", "steps must lie in 1 to 1000, not 100000"),
    ("synthesize radiograph.png out --model tiny --guidance nan", "guidance scale must lie in 0 to 50, not nan"),
    ("synthesize radiograph.png out --model tiny --guidance -1", "guidance scale must lie in 0 to 50, not -1"),
    ("synthesize radiograph.png out --model tiny --seed -1", "The seed must lie in 0 to 2^63 - 1, not -1"),
    ("synthesize radiograph.png out --model tiny --seed 99999999999999999999999", "must lie in 0 to 2^63 - 1"),
    ("synthesize lateral.dcm out --model tiny", "its view position is LL, and views can be made of PA and AP"),
    ("synthesize radiograph.png out --model tiny --views nonsense", "Unknown view set"),
    ("synthesize radiograph.png file/out --model tiny", "Cannot write"),
    ("synthesize radiograph.png nowhere/out --model tiny", "nowhere does not exist"),
    ("synthesize radiograph.png file --model tiny", "Not a directory"),
    ("evaluate nope phantoms:1 out", "Unknown model 'nope'"),
    ("evaluate tiny phantoms:1 out --steps 0", "steps must lie in"),
    ("evaluate tiny phantoms:0 out", "Give 1 to 10,000 phantoms"),
    ("evaluate tiny phantoms:1 out --views nonsense", "Unknown view set"),
    ("evaluate tiny phantoms:1 out --lpips ct.nrrd", "is no safetensors file with the weights of lpips"),
    ("evaluate tiny phantoms:1 out --fid ct.nrrd", "is no safetensors file with the weights of pytorch_fid"),
    ("evaluate tiny nothing out", "nothing"),
    ("enhance radiograph.png out.png --method magic", "Unknown super-resolution method 'magic'"),
    ("enhance radiograph.png out.png --scale 3", "scale must be 2 or 4, not 3"),
    ("enhance radiograph.png radiograph.png", "Cannot write radiograph.png: it is the input itself"),
    ("enhance radiograph.png link.png", "Cannot write link.png: it is the input itself"),
    ("enhance radiograph.png out.jpg", "must end in .png or .nrrd"),
    ("enhance radiograph.png folder.png", "Is a directory"),
    ("enhance radiograph.png file/out.png", "Cannot write"),
    ("enhance radiograph.png nowhere/out.nrrd", "nowhere does not exist"),
    ("remove-table ct.nrrd ct.nrrd", "Cannot write ct.nrrd: it is the input itself"),
    ("remove-table ct.nrrd out.nrrd --mask ct.nrrd", "Cannot write ct.nrrd: it is the input itself"),
    ("remove-table ct.nrrd out.txt", "must end in .nii"),
    ("remove-table ct.nrrd out.nrrd --mask mask.txt", "must end in .nii"),
    ("remove-table ct.nrrd folder.nrrd", "Is a directory"),
    ("remove-table ct.nrrd nowhere/out.nrrd", "nowhere does not exist"),
    ("remove-table ct.nrrd out.nrrd --mask nowhere/mask.nrrd", "nowhere does not exist"),
    ("remove-table ct.nrrd out.nrrd --mask out.nrrd", "cannot both be written to"),
    ("remove-table ct.nrrd file/out.nrrd", "Cannot write"),
]


def refused(svdrr: Run, world: Path, words: str, *arguments: object) -> None:
    before = contents(world)
    sentence = svdrr(*arguments).sentence
    assert words in sentence
    assert PATIENT not in sentence
    assert ".tmp" not in sentence
    assert contents(world) == before


@pytest.mark.parametrize("name", BAD_CT)
def test_bad_cts(svdrr: Run, world: Path, name: str) -> None:
    path = get_testdata_file("RG1_UNCI.dcm") if name == "RG1" else world / name
    refused(svdrr, world, BAD_CT[name], "render", path, world / "out", *RENDER_AFTER)
    refused(svdrr, world, BAD_CT[name], "remove-table", path, world / "out.nrrd", "--mask", world / "mask.nrrd")


@pytest.mark.parametrize("name", BAD_RADIOGRAPH)
def test_bad_radiographs(svdrr: Run, world: Path, name: str) -> None:
    refused(svdrr, world, BAD_RADIOGRAPH[name], "synthesize", world / name, world / "out", *SYNTHESIZE_AFTER)
    refused(svdrr, world, BAD_RADIOGRAPH[name], "enhance", world / name, world / "out.png")


@pytest.mark.parametrize(("command", "words"), BAD_OPTIONS, ids=[command for command, _ in BAD_OPTIONS])
def test_bad_options(svdrr: Run, world: Path, command: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)
    refused(svdrr, world, words, *command.split())


def test_folders_with_dicom_are_named(svdrr: Run, world: Path) -> None:
    sentence = svdrr("render", world / "study", world / "out", *RENDER_AFTER).sentence
    assert sentence.endswith(f"{world / 'study' / 'A' / '1'}, {world / 'study' / 'B'}.")


def test_a_ct_without_a_body(svdrr: Run, tmp_path: Path) -> None:
    hu = np.full((6, 20, 20), -1000.0, np.float32)
    hu[2, 3, 4] = 100.0
    write_volume(tmp_path / "air.nrrd", hu, AFFINE)
    refused(svdrr, tmp_path, "no body", "remove-table", tmp_path / "air.nrrd", tmp_path / "out.nrrd")
    refused(svdrr, tmp_path, "no body", "render", tmp_path / "air.nrrd", tmp_path / "out", *RENDER_AFTER)


def test_a_path_that_no_file_system_takes(svdrr: Run, world: Path) -> None:
    before = contents(world)
    for command in ("render", "synthesize", "enhance", "remove-table"):
        after = ("--model", "tiny") if command == "synthesize" else ()
        assert "name too long" in svdrr(command, world / ("x" * 300), world / "out.nrrd", *after).sentence
    assert "name too long" in svdrr("render", world / "ct.nrrd", world / ("x" * 300), *RENDER_AFTER).sentence
    assert contents(world) == before


def test_a_damaged_model(svdrr: Run, world: Path, models: Path, tmp_path: Path) -> None:
    (tmp_path / "model.json").write_bytes((models / "tiny" / "model.json").read_bytes())
    arguments = ("synthesize", world / "radiograph.png", world / "out", "--model", tmp_path)
    refused(svdrr, world, "files in", *arguments)


def test_bad_input_as_json_leaves_standard_output_empty() -> None:
    process = child("render", "missing.nrrd", "out", "--json")
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (2, "")
    assert err == "svdrr: There is no file or folder missing.nrrd; check the path.\n"


# The disk fills halfway


def full_disk(svdrr: Run, folder: Path, size: int, path: Path, *arguments: object) -> None:
    before = contents(folder)
    with disk_full_after(size):
        done = svdrr(*arguments)
    assert (done.code, done.out) == (2, "")
    lines = done.err.splitlines()
    assert lines[-1].startswith(f"svdrr: Cannot write {path}")  # or a file in the folder `path`
    assert lines[-1].endswith(": File too large; nothing was written.")
    # The NIfTI and MetaImage libraries add a line of their own.
    assert len(lines) == 1 or path.name.endswith((".nii", ".nii.gz", ".mha"))
    assert contents(folder) == before


def test_full_disk_while_rendering(svdrr: Run, world: Path, tmp_path: Path) -> None:
    arguments = ("render", world / "ct.nrrd", tmp_path / "out", "--views", VIEWS, "--size", 96)
    assert svdrr(*arguments).code == 0
    sizes = {path.suffix: path.stat().st_size for path in sorted((tmp_path / "out").glob("*_00000.*"))}
    assert sizes[".png"] + 100 < sizes[".nrrd"]  # so the PNG fits and the NRRD does not
    full_disk(svdrr, tmp_path, sizes[".png"] + 100, tmp_path / "out", *arguments)
    full_disk(svdrr, tmp_path, sizes[".png"] + 100, tmp_path / "new", *arguments[:2], tmp_path / "new", *arguments[3:])


def test_full_disk_while_synthesizing(svdrr: Run, world: Path, tmp_path: Path) -> None:
    arguments = ("synthesize", world / "radiograph.png", tmp_path / "out", *SYNTHESIZE_AFTER)
    assert svdrr(*arguments).code == 0
    largest = max(path.stat().st_size for path in (tmp_path / "out").glob("*.png"))
    assert largest < (tmp_path / "out" / "views.json").stat().st_size
    full_disk(svdrr, tmp_path, largest, tmp_path / "out", *arguments)
    full_disk(svdrr, tmp_path, 500, tmp_path / "out", *arguments)


def test_full_disk_while_removing_the_table(
    svdrr: Run, world: Path, phantom: tuple[Path, NDArray[np.uint8]], tmp_path: Path
) -> None:
    path, _ = phantom
    for suffix in ("nii.gz", "nrrd", "mha"):
        output = tmp_path / f"out.{suffix}"
        arguments = ("remove-table", path, output, "--mask", tmp_path / "mask.nrrd")
        full_disk(svdrr, tmp_path, 30000, output, *arguments)


def test_full_disk_when_only_the_mask_is_left(svdrr: Run, tmp_path: Path) -> None:
    """The CT is compressed to a few kB and fits, its uncompressed mask of 186 kB does not."""
    fine = small_hu().repeat(3, axis=0).repeat(3, axis=1).repeat(3, axis=2)
    write_volume(tmp_path / "ct.nrrd", fine, AFFINE @ np.diag([1 / 3, 1 / 3, 1 / 3, 1.0]))
    mask = tmp_path / "mask.nii"
    arguments = ("remove-table", tmp_path / "ct.nrrd", tmp_path / "out.nrrd", "--mask", mask)
    full_disk(svdrr, tmp_path, 60_000, mask, *arguments)


@pytest.mark.parametrize("suffix", ["png", "nrrd"])
def test_full_disk_while_enhancing(svdrr: Run, world: Path, tmp_path: Path, suffix: str) -> None:
    output = tmp_path / f"out.{suffix}"
    full_disk(svdrr, tmp_path, 3000, output, "enhance", world / "radiograph.png", output)


# Ctrl-C


def test_ctrl_c_leaves_nothing_behind(world: Path, tmp_path: Path) -> None:
    process = child("render", world / "ct.nrrd", tmp_path / "out", "--views", "hemisphere:5000", "--size", 128)
    try:
        deadline = time.monotonic() + 300
        while not any(path.name == "drr_00001.png" for path in tmp_path.rglob("*")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130
    assert time.monotonic() - start < 20.0  # at once, on a machine that is not busy
    assert (out, err) == ("", "")
    assert not list(tmp_path.iterdir())


# Names and paths


def test_no_patient_in_what_comes_out(svdrr: Run, world: Path, tmp_path: Path) -> None:
    said = ""
    for arguments in (
        ("remove-table", world / "dicom", tmp_path / "ct.nii.gz", "--mask", tmp_path / "mask.nrrd"),
        ("render", world / "dicom", tmp_path / "drrs", *RENDER_AFTER, "--json"),
        ("synthesize", world / "dx.dcm", tmp_path / "views", *SYNTHESIZE_AFTER, "--json"),
        ("enhance", world / "dx.dcm", tmp_path / "large.png"),
        ("enhance", world / "dx.dcm", tmp_path / "large.nrrd"),
    ):
        done = svdrr(*arguments)
        assert done.code == 0, done.err
        said += done.out + done.err
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 4 + 7 + 4
    assert PATIENT.encode() in (world / "dx.dcm").read_bytes()
    secret = PATIENT.split("^")[0]
    for path in files:
        content = path.read_bytes()
        content += gzip.decompress(content) if path.suffix == ".gz" else b""
        assert secret.encode() not in content, path
        assert secret not in path.name
    assert secret not in said


def test_paths_that_the_terminal_cannot_show(world: Path, tmp_path: Path) -> None:
    folder = tmp_path / "Übung 1 ł"
    folder.mkdir()
    process = child(
        *("enhance", world / "radiograph.png", folder / "größer.png"),
        env={**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"},
        encoding="latin-1",
    )
    out, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, "")
    assert "Übung 1 \\u0142" in out
    assert read_radiograph(folder / "größer.png").pixels.shape == (96, 80)
