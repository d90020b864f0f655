"""``svdrr enhance`` by every method: what it writes, what it says, what it refuses and leaves nothing of.

The networks have learned nothing, which makes no difference to the command.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from command_line import run_svdrr
from PIL import Image
from test_cli import Result, Run, contents, disk_full_after
from untrained_networks import write_untrained_networks

from svdrr.geometry import CArmPose, Detector, View
from svdrr.images import read_radiograph, write_nrrd, write_png
from svdrr.models import registry
from svdrr.provenance import SYNTHETIC_LABEL, Provenance
from svdrr.radiograph import Radiograph
from svdrr.superres import METHODS, SCALES, enhance, uncertainty
from svdrr.superres.fidelity import data_fidelity

ROWS, COLUMNS = 37, 50


def gray_values() -> np.ndarray:
    """A body with a little noise, (ROWS, COLUMNS) in [0, 1]."""
    rows, columns = np.mgrid[:ROWS, :COLUMNS]
    body = np.exp(-((rows - 18) ** 2 / 200.0 + (columns - 25) ** 2 / 300.0))
    return 0.8 * body + 0.1 * np.random.default_rng(3).random(body.shape)


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_untrained_networks(tmp_path_factory.mktemp("networks"))


@pytest.fixture
def svdrr(capfd: pytest.CaptureFixture[str], networks: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command in this process, with the networks that have learned nothing."""
    monkeypatch.setenv("SVDRR_MODELS", str(networks))
    return lambda *arguments: Result(*run_svdrr(capfd, *arguments))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one radiograph as 8-bit and as 16-bit PNG, and as NRRD."""
    values = gray_values()
    Image.fromarray(np.round(255.0 * values).astype(np.uint8)).save(tmp_path / "8bit.png")
    Image.fromarray(np.round(65535.0 * values).astype(np.uint16)).save(tmp_path / "16bit.png")
    write_nrrd(tmp_path / "in.nrrd", values.astype(np.float32), Radiograph(values.astype(np.float32), (0.5, 0.4)))
    return tmp_path


def done(result: Result) -> Result:
    assert (result.code, result.err) == (0, "")
    return result


def read_map(path: Path) -> tuple[np.ndarray, tuple[float, float], dict[str, str]]:
    """Values (rows, columns), spacing (row, column) and metadata of a NRRD map."""
    image = sitk.ReadImage(str(path))
    texts = {name: image.GetMetaData(name) for name in image.GetMetaDataKeys()}
    return sitk.GetArrayFromImage(image)[0], (image.GetSpacing()[1], image.GetSpacing()[0]), texts


# What it writes


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_at_every_scale(svdrr: Run, folder: Path, method: str, scale: int) -> None:
    output = folder / "out.png"
    said = done(svdrr("enhance", folder / "8bit.png", output, "--method", method, "--scale", scale)).out
    expected = enhance(read_radiograph(folder / "8bit.png"), method, scale)
    with Image.open(output) as picture:
        assert picture.mode == "I;16"
        assert picture.size == (COLUMNS * scale, ROWS * scale)
        assert picture.text["SVDRR.Synthetic"] == SYNTHETIC_LABEL
        np.testing.assert_array_equal(np.asarray(picture), np.round(65535.0 * expected.pixels))
    enlarged = read_radiograph(output)
    assert enlarged.pixel_spacing_mm is None
    assert enlarged.provenance is not None
    assert expected.provenance is not None
    assert enlarged.provenance.method == f"{method} x{scale}"
    assert enlarged.provenance.weights_sha256 == expected.provenance.weights_sha256
    assert enlarged.provenance.settings == expected.provenance.settings
    assert said.startswith(f"{ROWS * scale} x {COLUMNS * scale} pixels, computed and not for diagnosis, written to ")
    assert "differs from the input by" in said


@pytest.mark.parametrize("suffix", ["png", "nrrd"])
def test_sixteen_bits_go_in_and_come_out(svdrr: Run, folder: Path, suffix: str) -> None:
    output = folder / f"out.{suffix}"
    done(svdrr("enhance", folder / "16bit.png", output, "--method", "regression"))
    exact = enhance(read_radiograph(folder / "16bit.png"), "regression", 2).pixels
    rounded = enhance(read_radiograph(folder / "8bit.png"), "regression", 2).pixels
    written = read_radiograph(output).pixels
    atol = 0.0 if suffix == "nrrd" else 0.501 / 65535.0
    np.testing.assert_allclose(written, exact, rtol=0, atol=atol)
    assert np.abs(written - rounded).max() > 10.0 / 65535.0


@pytest.mark.parametrize("suffix", ["png", "nrrd"])
@pytest.mark.parametrize("scale", SCALES)
def test_the_physical_extent_stays(svdrr: Run, folder: Path, suffix: str, scale: int) -> None:
    view = View(CArmPose(20.0, 5.0), Detector(ROWS, COLUMNS, (0.5, 0.4)))
    write_png(folder / "drr.png", Radiograph(read_radiograph(folder / "in.nrrd").pixels, (0.5, 0.4), view))
    for source in ("drr.png", "in.nrrd"):
        said = done(svdrr("enhance", folder / source, folder / f"out.{suffix}", "--scale", scale, "--json")).out
        enlarged = read_radiograph(folder / f"out.{suffix}")
        assert enlarged.pixel_spacing_mm == (0.5 / scale, 0.4 / scale)
        assert json.loads(said)["pixel_spacing_mm"] == [0.5 / scale, 0.4 / scale]
        assert enlarged.pixels.shape == (ROWS * scale, COLUMNS * scale)
        if source == "drr.png":
            assert enlarged.view is not None
            assert enlarged.view.pose == view.pose
            assert enlarged.view.detector == Detector(ROWS * scale, COLUMNS * scale, (0.5 / scale, 0.4 / scale))


def test_what_a_computed_image_says_of_itself_stays(svdrr: Run, folder: Path) -> None:
    pixels = read_radiograph(folder / "in.nrrd").pixels
    write_png(folder / "view.png", Radiograph(pixels, provenance=Provenance("VCDiT", "radiograph", "demo-256", seed=9)))
    done(svdrr("enhance", folder / "view.png", folder / "out.png", "--method", "lcmsr", "--seed", 4))
    found = read_radiograph(folder / "out.png").provenance
    assert found is not None
    assert (found.method, found.model, found.seed) == ("VCDiT", "demo-256", 9)
    assert (found.settings["Enhancement"], found.settings["EnhancementSeed"]) == ("lcmsr x2", "4")
    assert found.settings["EnhancementModel"] == "super-resolution/lcmsr/x2"
    assert "DataConsistencyResidual" in found.settings


def test_the_seed_is_that_of_the_noise_and_the_deterministic_path_has_none(svdrr: Run, folder: Path) -> None:
    def enlarged(*options: object) -> Radiograph:
        done(svdrr("enhance", folder / "in.nrrd", folder / "out.nrrd", "--method", "lcmsr", *options))
        return read_radiograph(folder / "out.nrrd")

    first, again, other = enlarged(), enlarged("--seed", 0), enlarged("--seed", 1)
    np.testing.assert_array_equal(first.pixels, again.pixels)
    assert not np.array_equal(first.pixels, other.pixels)
    assert other.provenance is not None
    assert (other.provenance.seed, other.provenance.settings["Code"]) == (1, "sampled")
    path = enlarged("--deterministic")
    assert not np.array_equal(path.pixels, first.pixels)
    assert path.provenance is not None
    assert (path.provenance.seed, path.provenance.settings["Code"]) == (None, "deterministic")


def test_a_consistent_result_says_what_its_input_says(svdrr: Run, folder: Path) -> None:
    arguments = ("enhance", folder / "in.nrrd", folder / "out.nrrd", "--method", "lcmsr", "--json")
    free, bound = (json.loads(done(svdrr(*arguments, *more)).out) for more in ((), ("--consistent",)))
    assert (free["method"], free["scale"], free["seed"], free["is_consistent"]) == ("lcmsr", 2, 0, False)
    # The most it cannot correct where pixels are black already.
    assert bound["fidelity_mean_percent"] < 0.02 * free["fidelity_mean_percent"]
    assert bound["fidelity_max_percent"] < 0.3 * free["fidelity_max_percent"]
    provenance = read_radiograph(folder / "out.nrrd").provenance
    assert provenance is not None
    assert provenance.settings["Projection"] == "iterative back-projection"


def test_the_fidelity_map_lies_on_the_input(svdrr: Run, folder: Path) -> None:
    path = folder / "map.nrrd"
    arguments = ("enhance", folder / "in.nrrd", folder / "out.nrrd", "--method", "deltadiff", "--scale", 4, "--json")
    said = json.loads(done(svdrr(*arguments, "--fidelity-map", path)).out)
    source, enlarged = read_radiograph(folder / "in.nrrd"), read_radiograph(folder / "out.nrrd")
    fidelity = data_fidelity(enlarged.pixels, source.pixels)
    values, spacing_mm, texts = read_map(path)
    np.testing.assert_array_equal(values, fidelity.difference_percent)
    assert spacing_mm == source.pixel_spacing_mm
    assert said["fidelity_mean_percent"] == pytest.approx(values.mean())
    assert said["fidelity_max_percent"] == pytest.approx(values.max())
    assert texts["SVDRR.Synthetic"] == SYNTHETIC_LABEL
    assert texts["SVDRR.Method"] == "deltadiff x4"
    assert texts["SVDRR.Quantity"] == (
        "absolute difference of the result, reduced again, from the input, percent of the gray range"
    )


def test_the_uncertainty_map_lies_on_the_result(svdrr: Run, folder: Path) -> None:
    path = folder / "map.nrrd"
    arguments = ("enhance", folder / "in.nrrd", folder / "out.nrrd", "--method", "lcmsr", "--uncertainty-map", path)
    done(svdrr(*arguments, "--seeds", 3, "--seed", 5))
    expected = uncertainty(read_radiograph(folder / "in.nrrd"), 2, 3, 5)
    values, spacing_mm, texts = read_map(path)
    np.testing.assert_array_equal(values, np.float32(100.0) * expected.pixels)
    assert values.max() > 0.0
    assert spacing_mm == (0.25, 0.2)
    assert texts["SVDRR.Synthetic"] == SYNTHETIC_LABEL
    assert texts["SVDRR.Method"] == "uncertainty of lcmsr x2"
    # In percent as the other map, and as it says.
    assert texts["SVDRR.Quantity"] == "standard deviation over 3 seeds, percent of the gray range"
    assert texts["SVDRR.Seed"] == "5"


def test_both_maps_and_the_result_at_once(svdrr: Run, folder: Path) -> None:
    before = contents(folder)
    maps = ("--fidelity-map", folder / "f.nrrd", "--uncertainty-map", folder / "u.nrrd", "--seeds", 2)
    done(svdrr("enhance", folder / "8bit.png", folder / "out.png", "--method", "lcmsr", "--deterministic", *maps))
    written = {Path(path).name for path in contents(folder).keys() - before.keys()}
    assert written == {"out.png", "f.nrrd", "u.nrrd"}


# What it refuses


BAD = [
    ("8bit.png out.jpg", "a radiograph's name must end in .png or .nrrd"),
    ("8bit.png out", "a radiograph's name must end in .png or .nrrd"),
    ("8bit.png out.png --fidelity-map map.png", "The name of a map must end in .nrrd"),
    ("8bit.png out.png --method lcmsr --uncertainty-map map.nii", "The name of a map must end in .nrrd"),
    ("8bit.png out.nrrd --fidelity-map out.nrrd", "cannot be written to one file"),
    ("8bit.png out.nrrd --fidelity-map ./out.nrrd", "cannot be written to one file"),
    ("8bit.png out.nrrd --method lcmsr --uncertainty-map out.nrrd", "cannot be written to one file"),
    ("8bit.png out.png --method lcmsr --uncertainty-map m.nrrd --fidelity-map m.nrrd", "cannot be written to one file"),
    ("in.nrrd in.nrrd", "Cannot write in.nrrd: it is the input itself"),
    ("in.nrrd out.png --fidelity-map in.nrrd", "Cannot write in.nrrd: it is the input itself"),
    ("in.nrrd out.png --method lcmsr --uncertainty-map in.nrrd", "Cannot write in.nrrd: it is the input itself"),
    ("8bit.png out.png --uncertainty-map map.nrrd", "Only lcmsr has an uncertainty map; 'lanczos' gives the same"),
    ("8bit.png out.png --method deltadiff --uncertainty-map map.nrrd", "Only lcmsr has an uncertainty map"),
    ("8bit.png out.png --method lcmsr --uncertainty-map map.nrrd --seeds 1", "takes 2 to 64 seeds, not 1"),
    ("8bit.png out.png --method lcmsr --uncertainty-map map.nrrd --seeds 0", "takes 2 to 64 seeds, not 0"),
    ("8bit.png out.png --method lcmsr --uncertainty-map map.nrrd --seeds 65", "takes 2 to 64 seeds, not 65"),
    ("8bit.png out.png --method lcmsr --seed -1", "A seed lies in 0 to 2^63 - 1, and -1 does not"),
    ("8bit.png out.png --method lcmsr --seed 1 --deterministic", "give either --deterministic or --seed"),
    ("8bit.png out.png --method deltadiff --seed 1", "Only lcmsr has noise; leave out --seed and --deterministic"),
    ("8bit.png out.png --deterministic", "Only lcmsr has noise; leave out --seed and --deterministic with 'lanczos'"),
    ("8bit.png out.png --method lcmsr --seeds 4", "The --seeds are those of an uncertainty map"),
    ("8bit.png out.png --method LCMSR", "Unknown super-resolution method 'LCMSR'; choose one of: bicubic, lanczos"),
    ("8bit.png out.png --method lcmsr --scale 8", "The scale must be 2 or 4, not 8"),
    ("8bit.png out.png --fidelity-map nowhere/map.nrrd", "the folder nowhere does not exist"),
    ("8bit.png out.png --method lcmsr --uncertainty-map 8bit.png/map.nrrd", "Cannot write 8bit.png/map.nrrd"),
]


@pytest.mark.parametrize(("command", "words"), BAD, ids=[command for command, _ in BAD])
def test_bad_input(svdrr: Run, folder: Path, command: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    before = contents(folder)
    assert words in svdrr("enhance", *command.split()).sentence
    assert contents(folder) == before


@pytest.mark.parametrize("method", ["regression", "lcmsr", "deltadiff"])
def test_weights_that_are_missing(
    svdrr: Run, folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    # Those that come with the package would be found otherwise.
    monkeypatch.setattr(registry, "_BUNDLED", ())
    monkeypatch.setenv("SVDRR_MODELS", str(tmp_path_factory.mktemp("empty")))
    before = contents(folder)
    sentence = svdrr("enhance", folder / "8bit.png", folder / "out.png", "--method", method, "--scale", 4).sentence
    assert f"The weights of '{method}' for scale 4 were not found" in sentence
    assert contents(folder) == before
    done(svdrr("enhance", folder / "8bit.png", folder / "out.png"))


# Nothing is left when something fails


@pytest.fixture
def damaged(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Networks that have learned nothing, for a test to damage."""
    models = write_untrained_networks(tmp_path_factory.mktemp("damaged"))
    monkeypatch.setenv("SVDRR_MODELS", str(models))
    return models / "super-resolution"


@pytest.mark.parametrize("how", ["cut", "gone", "config", "another's"])
@pytest.mark.parametrize("method", ["regression", "lcmsr", "deltadiff"])
def test_weights_that_are_damaged(svdrr: Run, damaged: Path, folder: Path, method: str, how: str) -> None:
    place = damaged / method / "x2"
    weights = next(place.glob("*.safetensors"))
    if how == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "gone":
        weights.unlink()
    elif how == "config":
        (place / "config.json").write_text("{")
    else:
        weights.write_bytes(next((damaged / method / "x4").glob("*.safetensors")).read_bytes())
    before = contents(folder)
    maps = ("--fidelity-map", folder / "map.nrrd")
    sentence = svdrr("enhance", folder / "8bit.png", folder / "out.png", "--method", method, *maps).sentence
    assert sentence == (
        f"The super-resolution model '{method}' cannot be loaded; files in {place} are missing or damaged."
    )
    assert contents(folder) == before


@pytest.mark.parametrize("fits", ["nothing", "the result"])
def test_a_disk_that_fills_up_keeps_what_was_there(svdrr: Run, folder: Path, fits: str) -> None:
    maps = ("--uncertainty-map", folder / "u.nrrd", "--seeds", 2)
    arguments = ("enhance", folder / "8bit.png", folder / "out.png", "--method", "lcmsr", *maps)
    done(svdrr(*arguments))
    size = (folder / "out.png").stat().st_size + 200
    # The uncertainty map has as many pixels as the result, in twice as many bits.
    assert size < (folder / "u.nrrd").stat().st_size
    before = contents(folder)
    with disk_full_after(500 if fits == "nothing" else size):
        sentence = svdrr(*arguments, "--seed", 1).sentence
    unwritten = folder / ("out.png" if fits == "nothing" else "u.nrrd")
    assert sentence == f"Cannot write {unwritten}: File too large; nothing was written."
    assert contents(folder) == before


@pytest.mark.parametrize(("end", "code"), [(MemoryError, 2), (KeyboardInterrupt, 130)])
def test_an_end_in_the_middle(
    svdrr: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, end: type[BaseException], code: int
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise end

    monkeypatch.setattr("svdrr.superres.uncertainty", fail)
    before = contents(folder)
    arguments = ("enhance", folder / "8bit.png", folder / "out.png", "--method", "lcmsr")
    ended = svdrr(*arguments, "--uncertainty-map", folder / "u.nrrd")
    assert (ended.code, ended.out) == (code, "")
    assert ("not enough memory" in ended.err) == (end is MemoryError)
    assert contents(folder) == before


# Where it lies


def corners_mm(path: Path) -> np.ndarray:
    """The outer corners of the first and the last pixel of a file, in its own frame."""
    image = sitk.ReadImage(str(path))
    columns, rows, _ = image.GetSize()
    ends = ((-0.5, -0.5, 0.0), (columns - 0.5, rows - 0.5, 0.0))
    return np.array([image.TransformContinuousIndexToPhysicalPoint(end) for end in ends])


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("plane", ["axial", "coronal", "turned"])
def test_result_and_maps_lie_where_the_file_lay(svdrr: Run, folder: Path, scale: int, plane: str) -> None:
    image = sitk.GetImageFromArray(gray_values().astype(np.float32)[None])
    image.SetSpacing((0.2, 0.3, 1.0))
    image.SetOrigin((11.0, -7.0, 33.0))
    turned = (0.6, -0.8, 0.0, 0.8, 0.6, 0.0, 0.0, 0.0, 1.0)
    image.SetDirection({"axial": np.eye(3).ravel(), "coronal": (1, 0, 0, 0, 0, -1, 0, 1, 0), "turned": turned}[plane])
    sitk.WriteImage(image, str(folder / "placed.nrrd"))
    maps = f"--fidelity-map {folder / 'f.nrrd'} --uncertainty-map {folder / 'u.nrrd'} --seeds 2".split()
    names = [str(folder / "placed.nrrd"), str(folder / "out.nrrd")]
    done(svdrr("enhance", *names, "--method", "lcmsr", "--scale", str(scale), *maps))
    for written in ("out.nrrd", "f.nrrd", "u.nrrd"):
        np.testing.assert_allclose(corners_mm(folder / written), corners_mm(folder / "placed.nrrd"), atol=1e-6)


def test_without_a_known_spacing_they_still_lie_over_one_another(svdrr: Run, folder: Path) -> None:
    names = [str(folder / "16bit.png"), str(folder / "out.nrrd"), "--fidelity-map", str(folder / "f.nrrd")]
    done(svdrr("enhance", *names, "--scale", "4"))
    np.testing.assert_allclose(corners_mm(folder / "out.nrrd"), corners_mm(folder / "f.nrrd"), atol=1e-6)
    assert "SVDRR.PixelSpacing" not in sitk.ReadImage(str(folder / "out.nrrd")).GetMetaDataKeys()


def test_a_view_keeps_its_detector_where_it_was(svdrr: Run, folder: Path) -> None:
    pixels = gray_values().astype(np.float32)
    view = View(CArmPose(40.0, 10.0), Detector(ROWS, COLUMNS, (0.7, 0.9)))
    write_nrrd(folder / "view.nrrd", pixels, Radiograph(pixels, (0.7, 0.9), view, Provenance("DRR (siddon)", "CT")))
    done(
        svdrr("enhance", str(folder / "view.nrrd"), str(folder / "out.nrrd"), "--fidelity-map", str(folder / "f.nrrd"))
    )
    for written in ("out.nrrd", "f.nrrd"):
        np.testing.assert_allclose(corners_mm(folder / written), corners_mm(folder / "view.nrrd"), atol=1e-6)


def test_a_projection_that_does_not_reach_the_input_says_so(svdrr: Run, folder: Path) -> None:
    """Squares of one pixel: no detector with a blur would have measured them."""
    squares = (255 * (np.indices((24, 24)).sum(0) % 2)).astype(np.uint8)
    Image.fromarray(squares).save(folder / "squares.png")
    result = done(svdrr("enhance", str(folder / "squares.png"), str(folder / "out.png"), "--consistent"))
    assert "Not all pixels could be made to agree" in result.out
    smooth = done(svdrr("enhance", str(folder / "8bit.png"), str(folder / "out.png")))
    assert "agree" not in smooth.out
