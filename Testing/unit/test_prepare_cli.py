"""``svdrr prepare``: the file that ``svdrr synthesize`` takes, and the picture of what the model will get."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from command_line import run_svdrr
from fixture_types import WriteDX
from PIL import Image

from svdrr.geometry import CArmPose, Detector, View
from svdrr.images import read_radiograph, write_png
from svdrr.models import find_model
from svdrr.preparation import Preparation, prepare
from svdrr.provenance import Provenance
from svdrr.radiograph import Radiograph
from svdrr.synthesis.preparation import beside

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def svdrr(capfd: pytest.CaptureFixture[str]) -> Run:
    """``svdrr prepare``."""
    return partial(run_svdrr, capfd, "prepare")


def shuttered() -> np.ndarray:
    rows, columns = np.mgrid[:120, :90] / 90.0
    image = (0.5 + 0.35 * np.sin(5.0 * rows + 2.0) * np.cos(7.0 * columns)).astype(np.float32)
    image[:15] = image[:, :8] = 0.0
    return image


@pytest.fixture
def film(tmp_path: Path) -> Path:
    file = tmp_path / "film.png"
    write_png(file, Radiograph(shuttered()))
    return file


def test_everything_at_once(film: Path, tmp_path: Path, svdrr: Run) -> None:
    out = tmp_path / "out.png"
    options = ("--turn", 90, "--flip", "--crop", "1,2,3,4", "--invert", "--spacing", "0.3,0.4", "--json")
    code, said, err = svdrr(film, out, *options)
    assert code == 0, err
    done = Preparation(1, True, (1, 2, 3, 4), True, pixel_spacing_mm=(0.3, 0.4))
    expected = prepare(read_radiograph(film), done)
    written = read_radiograph(out)
    np.testing.assert_allclose(written.pixels, expected.pixels, atol=1e-5)
    assert written.pixel_spacing_mm == (0.3, 0.4)
    result = json.loads(said)
    assert (result["rows"], result["columns"]) == expected.pixels.shape
    assert result["cut_off"] == {"top": 1, "bottom": 2, "left": 3, "right": 4}


def test_shutters_are_cut_off_by_themselves(film: Path, tmp_path: Path, svdrr: Run) -> None:
    for extra in ((), ("--invert",)):
        code, said, err = svdrr(film, tmp_path / "out.png", "--crop", "auto", "--json", *extra)
        assert code == 0, err
        assert json.loads(said)["cut_off"] == {"top": 15, "bottom": 0, "left": 8, "right": 0}


def test_the_logarithm(tmp_path: Path, svdrr: Run) -> None:
    exposure = np.exp(-6.0 * shuttered())
    write_png(tmp_path / "raw.png", Radiograph(exposure))
    code, _, err = svdrr(tmp_path / "raw.png", tmp_path / "out.png", "--invert", "--linear")
    assert code == 0, err
    np.testing.assert_allclose(
        read_radiograph(tmp_path / "out.png").pixels, 6.0 * shuttered() / np.log(1000.0), atol=2e-3
    )


def test_the_picture_is_what_the_model_gets(film: Path, tmp_path: Path, svdrr: Run) -> None:
    code, _, err = svdrr(film, tmp_path / "out.nrrd", "--crop", "auto", "--show", tmp_path / "shown.png")
    assert code == 0, err
    with Image.open(tmp_path / "shown.png") as image:
        shown = np.asarray(image) / 65535.0
    expected = beside(read_radiograph(film), read_radiograph(tmp_path / "out.nrrd"), find_model("demo-256"))
    np.testing.assert_allclose(shown, expected, atol=1e-4)


def test_computed_images_stay_labeled(tmp_path: Path, svdrr: Run) -> None:
    write_png(tmp_path / "drr.png", Radiograph(shuttered(), provenance=Provenance("DRR (siddon)", "CT")))
    assert svdrr(tmp_path / "drr.png", tmp_path / "out.png", "--show", tmp_path / "shown.png")[0] == 0
    for name in ("out.png", "shown.png"):
        provenance = read_radiograph(tmp_path / name).provenance
        assert provenance is not None
        assert provenance.attributes()["SVDRR.Synthetic"] == "SYNTHETIC, not for diagnosis"


@pytest.mark.parametrize("option", [("--turn", 90), ("--flip",)])
def test_an_image_that_says_where_it_was_taken_is_not_turned(
    tmp_path: Path, svdrr: Run, option: tuple[object, ...]
) -> None:
    view = View(CArmPose(90.0), Detector(120, 90, (0.5, 0.5)))
    write_png(tmp_path / "drr.png", Radiograph(shuttered(), (0.5, 0.5), view, Provenance("DRR (siddon)", "CT")))
    code, said, err = svdrr(tmp_path / "drr.png", tmp_path / "out.png", *option)
    assert (code, said, err.count("\n")) == (2, "", 1)
    assert "says where it was taken from" in err
    assert not (tmp_path / "out.png").exists()
    assert svdrr(tmp_path / "drr.png", tmp_path / "out.png", "--crop", "2,4,6,8")[0] == 0
    cropped = read_radiograph(tmp_path / "out.png")
    assert cropped.view == View(CArmPose(90.0), Detector(116, 78, (0.5, 0.5)))
    assert cropped.provenance is not None
    assert cropped.provenance.settings["Preparation"] == "cropped 2 4 6 8"


def test_a_lateral_radiograph_does_not_become_a_pa_one(tmp_path: Path, svdrr: Run, write_dx: WriteDX) -> None:
    stored = np.round(60000 * shuttered()).astype(np.uint16)
    lateral = write_dx(tmp_path / "a.dcm", stored, ViewPosition="LL", ImagerPixelSpacing=["0.5", "0.5"])
    assert svdrr(lateral, tmp_path / "out.png")[0] == 0
    prepared = read_radiograph(tmp_path / "out.png")
    assert (prepared.view, prepared.view_position) == (None, "LL")
    assert prepared.pixel_spacing_mm == (0.5, 0.5)


@pytest.mark.parametrize("output", [("film.png",), ("out.png", "--show", "film.png"), ("link.png",)])
def test_the_input_is_not_written_over(film: Path, tmp_path: Path, svdrr: Run, output: tuple[str, ...]) -> None:
    (tmp_path / "link.png").symlink_to(film)
    before = film.read_bytes()
    names = [name if name.startswith("--") else tmp_path / name for name in output]
    code, said, err = svdrr(film, *names)
    assert (code, said, err.count("\n")) == (2, "", 1)
    assert "is the input itself; give the output another name" in err
    assert film.read_bytes() == before
    assert not (tmp_path / "out.png").exists()


def test_advice_about_dark_bone_fits_what_was_done(tmp_path: Path, svdrr: Run) -> None:
    _, columns = np.mgrid[:40, :40] / 40.0
    bright_spine = np.exp(-(((columns - 0.5) / 0.15) ** 2)).astype(np.float32)
    write_png(tmp_path / "bright.png", Radiograph(bright_spine))
    write_png(tmp_path / "dark.png", Radiograph(1.0 - bright_spine))
    for name, options, advice in (
        ("bright", (), ""),
        ("dark", (), " Bone seems to be dark here: --invert?"),
        ("bright", ("--invert",), " Bone seems to be dark here: leave out --invert?"),
        ("dark", ("--invert",), ""),
    ):
        code, said, _ = svdrr(tmp_path / f"{name}.png", tmp_path / "out.png", *options)
        assert code == 0
        assert said.strip().endswith(f"(0, 0, 0, 0).{advice}")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--turn", 45), "by 0, 90, 180, 270 degrees, not by 45"),
        (("--crop", "1,2"), "Cannot read the crop '1,2'"),
        (("--crop", "some"), "Cannot read the crop 'some'"),
        (("--crop", "100,100,0,0"), "cut off less"),
        (("--crop=-1,0,0,0",), "numbers of pixels from 0 on"),
        (("--spacing", "0.1"), "Cannot read the spacing"),
        (("--spacing", "0,0"), "two positive numbers"),
        (("--show", "shown.jpg"), "must end in .png"),
        (("--show", "shown.png", "--model", "none"), "Unknown model"),
    ],
)
def test_what_makes_no_sense(
    film: Path, tmp_path: Path, svdrr: Run, options: tuple[object, ...], sentence: str
) -> None:
    before = sorted(tmp_path.iterdir())
    code, out, err = svdrr(film, tmp_path / "out.png", *options)
    assert (code, out) == (2, "")
    assert sentence in err
    assert err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_the_picture_needs_a_name_of_its_own(film: Path, tmp_path: Path, svdrr: Run) -> None:
    code, _, err = svdrr(film, tmp_path / "out.png", "--show", tmp_path / "out.png")
    assert code == 2
    assert "give one another name" in err
