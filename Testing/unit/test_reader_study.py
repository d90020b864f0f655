"""Reader studies: pairs that give nothing away, the paper's statistics, and one sentence for every wrong file."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import run_svdrr
from PIL import Image
from scipy.special import betainc

from svdrr.ct import CTVolume
from svdrr.ct.body import body_center_ras
from svdrr.ct.io import write_volume
from svdrr.ct.phantoms import ThoraxOptions, thorax_phantom
from svdrr.errors import SVDRRError
from svdrr.evaluation.reader_study.analyze import COLUMNS, Reader, analyze, markdown, read_key, read_results
from svdrr.evaluation.reader_study.make import KEY_FILE, PAGE_FILE, make_pairs, write_study
from svdrr.evaluation.volumes import Volume, open_volumes
from svdrr.geometry import CArmPose, Detector, View
from svdrr.geometry.viewsets import hemisphere_views, pose_to_json, views_document
from svdrr.models import find_model
from svdrr.provenance import Provenance
from svdrr.radiograph import Radiograph

PIXELS = 16
TRUE, SYNTHETIC = 0.25, 0.5


def volume(number: int, views: int = 40) -> Volume:
    """A body whose DRRs say in their first two pixels which body and which view they show."""

    def render(chosen: Sequence[int]) -> list[Radiograph]:
        provenance = Provenance("DRR (test)", f"phantom {number}")
        return [_image(TRUE, number, view, CArmPose(float(view)), provenance) for view in (-1, *chosen)]

    return Volume(views, render)


def synthesize(source: Radiograph, true: Sequence[Radiograph], seed: int) -> list[Radiograph]:
    """Views that are brighter than the true ones."""
    assert source.view is not None
    assert source.view.pose.primary_deg == -1.0
    number = round(float(source.pixels[0, 0]) * 1000)
    provenance = Provenance("VCDiT", "PA", model="secret-model", weights_sha256="f" * 64, seed=seed)
    return [
        _image(SYNTHETIC, number, round(drr.view.pose.primary_deg), drr.view.pose, provenance)
        for drr in true
        if drr.view is not None
    ]


def _image(gray: float, number: int, view: int, pose: CArmPose, provenance: Provenance) -> Radiograph:
    pixels = np.full((PIXELS, PIXELS), gray, np.float32)
    pixels[0, :2] = number / 1000, (view + 1) / 1000
    detector = Detector.square(PIXELS)
    return Radiograph(pixels, detector.pixel_spacing_mm, View(pose, detector), provenance)


@dataclass(frozen=True)
class Study:
    """A written study. page: its HTML. images: as the page has them. key: as JSON."""

    folder: Path
    page: str
    images: list[dict[str, str]]
    key: dict[str, Any]

    @property
    def key_file(self) -> Path:
        return self.folder / KEY_FILE


def written(folder: Path, pairs: int = 6, seed: int = 3, volumes: int = 2) -> Study:
    made = make_pairs([volume(number) for number in range(1, volumes + 1)], synthesize, pairs, seed)
    write_study(folder, made, seed)
    page = (folder / PAGE_FILE).read_text(encoding="utf-8")
    data = re.search(r'<script id="study" type="application/json">(.*?)</script>', page, re.DOTALL)
    assert data is not None
    return Study(folder, page, json.loads(data[1])["pairs"], json.loads((folder / KEY_FILE).read_text()))


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return written(tmp_path)


def png(text: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        assert image.mode == "L"
        assert not getattr(image, "text", {})
        return np.asarray(image)


# Pairs


def test_a_pair_shows_one_body_from_one_angle_and_the_key_knows_which_image_is_synthetic(study: Study) -> None:
    assert len(study.images) == len(study.key["pairs"]) == 6
    for images, entry in zip(study.images, study.key["pairs"], strict=True):
        true, synthetic = ("b", "a") if entry["synthetic"] == "a" else ("a", "b")
        shown = {name: png(text) for name, text in images.items()}
        # One window for both: the brighter image, which here is the synthetic one, is white, the other half as bright.
        assert abs(int(shown[synthetic][-1, -1]) - 255) <= 1
        assert abs(int(shown[true][-1, -1]) - 128) <= 1
        np.testing.assert_array_equal(shown["a"][0, :2], shown["b"][0, :2])
        # The second pixel says which view it is, from 1 on, up to the brightest pixel and 8 bits.
        assert shown[true][0, 1] * entry["white"] / 255 == pytest.approx(
            (entry["pose"]["primary_deg"] + 1) / 1000, abs=2e-3
        )
        assert entry[true]["provenance"]["SVDRR.Method"] == "DRR (test)"
        assert entry[synthetic]["provenance"]["SVDRR.Model"] == "secret-model"
        assert entry[synthetic]["provenance"]["SVDRR.Synthetic"] == "SYNTHETIC, not for diagnosis"
        for name in "ab":
            assert entry[name]["png_sha256"] == hashlib.sha256(base64.b64decode(images[name])).hexdigest()


def test_the_page_holds_all_and_tells_nothing(study: Study) -> None:
    text = re.sub(r'"[A-Za-z0-9+/=]{60,}"', "", study.page)
    for secret in ("secret-model", "VCDiT", "provenance", "DRR (test)", "phantom 1", "f" * 64, '"seed"'):
        assert secret not in text, secret
    assert not re.search(r"https?://|//[a-z]|@import|<link|<iframe", text)
    assert "default-src 'none'" in text
    for images in study.images:
        assert list(images) == ["a", "b"]


def test_which_image_is_first_is_a_fair_coin(tmp_path: Path) -> None:
    made = make_pairs([volume(number) for number in range(1, 11)], synthesize, 400, 5)
    first = sum(pair.synthetic_first for pair in made)
    # Beyond four standard deviations once in 16,000 seeds; this is one seed.
    assert abs(first - 200) <= 40


def test_the_seed_makes_the_study(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
    first, again, other = (written(folder, seed=seed) for folder, seed in zip(folders, (3, 3, 4), strict=True))
    assert first.page == again.page
    assert first.key["study"] == again.key["study"]
    assert first.key["study"] != other.key["study"]


def test_pairs_are_spread_over_the_volumes_and_no_angle_comes_twice() -> None:
    made = make_pairs([volume(number, 10) for number in range(1, 5)], synthesize, 35, 1)
    seen = [(pair.true.pixels[0, 0].item(), pair.true.pixels[0, 1].item()) for pair in made]
    assert len(set(seen)) == 35
    counts = [sum(number == of for number, _ in seen) for of in {number for number, _ in seen}]
    assert sorted(counts) == [8, 9, 9, 9]
    few = make_pairs([volume(number) for number in range(1, 31)], synthesize, 5, 1)
    assert len({pair.true.pixels[0, 0].item() for pair in few}) == 5


@pytest.mark.parametrize(
    ("pairs", "seed", "sentence"),
    [(0, 0, "has 1 to 500"), (501, 0, "has 1 to 500"), (21, 0, "need 11 views of each"), (2, -1, "must not be neg")],
)
def test_impossible_studies_are_refused_before_anything_is_rendered(pairs: int, seed: int, sentence: str) -> None:
    def render(chosen: Sequence[int]) -> list[Radiograph]:
        raise AssertionError("rendered")

    with pytest.raises(SVDRRError, match=sentence):
        make_pairs([Volume(10, render)] * 2, synthesize, pairs, seed)


# Where they come from


def test_drrs_of_a_ct_are_those_of_the_command_line(models: Path, tmp_path: Path, svdrr: Callable[..., Any]) -> None:
    ct = thorax_phantom(7, ThoraxOptions(spacing_mm=12.0)).ct
    write_volume(tmp_path / "ct.nii.gz", ct.hu, ct.ijk_to_ras)
    (found,) = open_volumes(str(tmp_path / "ct.nii.gz"), find_model("tiny")).volumes
    frontal, oblique = found.render([700])
    lattice = hemisphere_views(1500, body_center_ras(ct))
    views = tmp_path / "views.json"
    views.write_text(views_document([pose_to_json(lattice[number]) for number in (0, 701)]))
    code, _, err = svdrr("render", tmp_path / "ct.nii.gz", tmp_path / "out", "--views", views, "--size", 32)
    assert code == 0, err
    for number, drr in enumerate((frontal, oblique)):
        with Image.open(tmp_path / "out" / f"drr_{number:05d}.png") as image:
            np.testing.assert_allclose(drr.pixels, np.asarray(image) / 65535.0, atol=1e-4)
    assert frontal.view is not None
    assert frontal.view.pose.label == "PA"
    assert str(tmp_path) not in json.dumps(frontal.provenance.attributes() if frontal.provenance else None)


def test_a_data_set_gives_its_test_cts(models: Path, tmp_path: Path, svdrr: Callable[..., Any]) -> None:
    ct: CTVolume = thorax_phantom(8, ThoraxOptions(spacing_mm=12.0)).ct
    write_volume(tmp_path / "ct.nii.gz", ct.hu, ct.ijk_to_ras)
    made = tmp_path / "set"
    options = ("--views", "hemisphere:6", "--sizes", "32", "--split", "0,0,1")
    assert svdrr("dataset", "build", tmp_path / "ct.nii.gz", made, *options)[0] == 0
    (found,) = open_volumes(str(made), find_model("tiny")).volumes
    assert found.views == 5
    frontal, last = found.render([4])
    assert frontal.view is not None
    assert last.view is not None
    assert frontal.view.pose.label == "PA"
    assert frontal.has_drr_gray_scale
    assert last.view.pose.primary_deg != 0.0
    for options, sentence in (
        (("--views", "hemisphere:6", "--sizes", "32", "--split", "1,0,0"), "no CT in its test part"),
        (("--views", "simple", "--sizes", "32", "--split", "0,0,1"), "no PA view"),
        (("--views", "hemisphere:6", "--sizes", "48", "--split", "0,0,1"), "needs images of 32 pixels"),
    ):
        other = tmp_path / sentence.replace("'", "")
        assert svdrr("dataset", "build", tmp_path / "ct.nii.gz", other, *options)[0] == 0
        with pytest.raises(SVDRRError, match=sentence):
            open_volumes(str(other), find_model("tiny"))


@pytest.mark.parametrize("data", ["phantoms:", "phantoms:0", "phantoms:-1", "phantoms:many", "phantoms:100001"])
def test_phantoms_are_counted(models: Path, data: str) -> None:
    with pytest.raises(SVDRRError, match=r"Give 1 to 10,000 phantoms, such as phantoms:16"):
        open_volumes(data, find_model("tiny"))


@pytest.fixture
def svdrr(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """The command in this process."""
    return partial(run_svdrr, capfd)


def test_the_commands_from_model_to_figures(models: Path, tmp_path: Path, svdrr: Callable[..., Any]) -> None:
    out = tmp_path / "study"
    code, said, err = svdrr("reader-study", "make", "tiny", "phantoms:1", out, "--pairs", 3)
    assert code == 0, err
    assert "SYNTHETIC" in said
    assert sorted(path.name for path in out.iterdir()) == [KEY_FILE, PAGE_FILE]
    key = json.loads((out / KEY_FILE).read_text())
    assert key["seed"] > 2**32, "nobody can guess the seed"
    assert {entry[entry["synthetic"]]["provenance"]["SVDRR.Model"] for entry in key["pairs"]} == {"tiny"}
    answers = [answered(tmp_path / f"{name}.csv", key, name, rights) for name, rights in (("ada", 3), ("bo", 1))]
    code, said, err = svdrr("reader-study", "analyze", out / KEY_FILE, *answers)
    assert (code, err) == (0, "")
    assert "| ada | 3 | 3 | 100.0 % |" in said
    code, said, _ = svdrr("reader-study", "analyze", out / KEY_FILE, *answers, "--json")
    assert (json.loads(said)["correct"], json.loads(said)["total"]) == (4, 6)


def test_a_study_is_never_replaced(models: Path, tmp_path: Path, svdrr: Callable[..., Any]) -> None:
    """Whether or not the key has been put where readers cannot see it."""
    for name in (KEY_FILE, PAGE_FILE):
        out = tmp_path / name
        out.mkdir()
        (out / name).write_text("kept")
        code, said, err = svdrr("reader-study", "make", "tiny", "phantoms:1", out, "--pairs", 2)
        assert (code, said) == (2, "")
        assert f"{out} holds a study already" in err
        assert [(path.name, path.read_text()) for path in out.iterdir()] == [(name, "kept")]


# Answers


def answered(file: Path, key: dict[str, Any], reader: str = "ada", rights: int = 6, **changes: Any) -> Path:
    """A file as the page saves it; the first `rights` answers take the true DRR for the real image."""
    rows = []
    for position, entry in enumerate(key["pairs"], start=1):
        true = "b" if entry["synthetic"] == "a" else "a"
        chosen = true if position <= rights else entry["synthetic"]
        rows.append([key["study"], reader, position, entry["pair"], "b", "a", chosen, "1.5"])
    for (row, column), value in changes.get("cells", {}).items():
        rows[row][COLUMNS.index(column)] = value
    with file.open("w", newline="") as text:
        csv.writer(text).writerows([COLUMNS, *rows[: changes.get("keep", len(rows))], *changes.get("more", [])])
    return file


def test_answers_are_counted(study: Study, tmp_path: Path) -> None:
    files = [answered(tmp_path / f"{rights}.csv", study.key, f"R-{rights}", rights) for rights in range(7)]
    readers = read_results(read_key(study.key_file), files)
    assert readers == [Reader(f"R-{rights}", rights, 6) for rights in range(7)]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"keep": 4}, "is incomplete: 4 of 6 pairs"),
        ({"keep": 0}, "is not what a reader study's page saves"),
        ({"cells": {(0, "study"): "abc"}}, "has answers to another study"),
        ({"cells": {(2, "reader"): "bo"}}, "mixes the answers of 2 readers"),
        ({"cells": {(n, "reader"): "=1+1" for n in range(6)}}, "names no reader"),
        ({"cells": {(1, "pair"): "1"}}, "answers the pair 1 twice"),
        ({"cells": {(1, "pair"): "7"}}, "Line 3 of .* is no answer"),
        ({"cells": {(1, "pair"): "one"}}, "Line 3 of .* is no answer"),
        ({"cells": {(1, "pair"): "1" * 5000}}, "Line 3 of .* is no answer"),
        ({"cells": {(1, "position"): "x"}}, "Line 3 of .* is no answer"),
        ({"cells": {(1, "position"): "7"}}, "Line 3 of .* is no answer"),
        ({"cells": {(1, "seconds"): "nan"}}, "Line 3 of .* is no answer"),
        ({"cells": {(1, "seconds"): "-5"}}, "Line 3 of .* is no answer"),
        ({"cells": {(1, "left"): "a"}}, "Line 3 of .* is no answer"),
        ({"cells": {(5, "chosen"): "left"}}, "Line 7 of .* is no answer"),
        ({"more": [["too", "short"]]}, "is not what a reader study's page saves"),
    ],
)
def test_wrong_answers_get_a_sentence(study: Study, tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    file = answered(tmp_path / "answers.csv", study.key, **changes)
    with pytest.raises(SVDRRError, match=sentence) as error:
        read_results(read_key(study.key_file), [file])
    assert "\n" not in str(error.value)
    assert "answers.csv" in str(error.value)


def test_files_that_hold_no_answers(study: Study, tmp_path: Path) -> None:
    key = read_key(study.key_file)
    file = tmp_path / "answers.csv"
    for content in (b"", b"\xff\xfe\x00", b"a,b\n1,2\n", study.key_file.read_bytes()):
        file.write_bytes(content)
        with pytest.raises(SVDRRError, match="is not what a reader study's page saves"):
            read_results(key, [file])
    with pytest.raises(SVDRRError, match="Cannot read"):
        read_results(key, [tmp_path / "missing.csv"])


def test_a_reader_comes_once(study: Study, tmp_path: Path) -> None:
    files = [answered(tmp_path / f"{name}.csv", study.key) for name in "ab"]
    with pytest.raises(SVDRRError, match="both by the reader 'ada'"):
        read_results(read_key(study.key_file), files)


def test_a_spreadsheet_may_have_opened_the_file(study: Study, tmp_path: Path) -> None:
    file = answered(tmp_path / "answers.csv", study.key)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert read_results(read_key(study.key_file), [file]) == [Reader("ada", 6, 6)]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": "svdrr-reader-study-1"}', '{"format": "other", "study": "a", "pairs": []}']
)
def test_what_is_no_key(tmp_path: Path, text: str) -> None:
    (tmp_path / KEY_FILE).write_text(text)
    with pytest.raises(SVDRRError, match="is not the key"):
        read_key(tmp_path / KEY_FILE)


def test_a_damaged_key(study: Study) -> None:
    study.key["pairs"][0]["synthetic"] = "c"
    study.key_file.write_text(json.dumps(study.key))
    with pytest.raises(SVDRRError, match="is damaged"):
        read_key(study.key_file)
    with pytest.raises(SVDRRError, match="Cannot read the key"):
        read_key(study.folder / "missing.json")


# Statistics


def student_p(t: float, freedom: int) -> float:
    """Two-sided, by the incomplete beta function (Abramowitz and Stegun, 26.7.1)."""
    return float(betainc(freedom / 2, 0.5, freedom / (freedom + t * t)))


def test_the_published_binomial_test() -> None:
    """358 of 750 gives p = 0.228: the exact two-sided test; the normal approximation without correction does not."""
    p = analyze([Reader("all", 358, 750)]).binomial_p
    assert round(p, 3) == 0.228
    tail = Fraction(sum(math.comb(750, count) for count in range(359)), 2**750)
    assert p == pytest.approx(float(2 * tail), rel=1e-9)
    assert round(math.erfc((375 - 358) / math.sqrt(750 / 4) / math.sqrt(2)), 3) == 0.214


def test_the_published_t_test() -> None:
    """A mean of 48.6 % over 15 readers with t = -1.06 as printed: p = 0.306 up to the rounding of t."""
    spread = np.linspace(-1.0, 1.0, 15)
    deviation = 0.014 / 1.06 * math.sqrt(15)
    accuracies = 0.486 + spread / spread.std(ddof=1) * deviation
    result = analyze([Reader(str(number), round(a * 10**7), 10**7) for number, a in enumerate(accuracies)])
    assert result.mean == pytest.approx(0.486, abs=1e-6)
    assert result.t == pytest.approx(-1.06, abs=1e-4)
    assert result.t_p is not None
    assert result.t_p == pytest.approx(student_p(1.06, 14), abs=1e-4)
    assert student_p(1.065, 14) < 0.306 < student_p(1.055, 14)
    assert round(result.t_p, 3) == 0.307


def test_statistics_of_four_readers() -> None:
    """By hand: accuracies 0.4, 0.5, 0.6, 0.7."""
    readers = [Reader(name, correct, 50) for name, correct in zip("abcd", (20, 25, 30, 35), strict=True)]
    result = analyze(readers)
    assert (result.mean, result.low, result.high) == pytest.approx((0.55, 0.4, 0.7))
    deviation = math.sqrt(0.05 / 3)
    t = 0.05 / (deviation / 2)
    assert result.deviation == pytest.approx(deviation)
    assert result.t == pytest.approx(t)
    assert result.t_p == pytest.approx(student_p(t, 3))
    # 3.182446 is the 97.5 % point of Student's distribution with 3 degrees of freedom.
    half = 3.182446305 * deviation / 2
    assert result.t_interval == pytest.approx((0.55 - half, 0.55 + half), abs=1e-8)
    assert (result.correct, result.total) == (110, 200)
    text = markdown(result)
    assert "| c | 30 | 50 | 60.0 % |" in text
    assert f"t = {t:.2f}" in text
    json.dumps(result.document())


def test_readers_come_in_the_order_of_their_numbers_and_no_p_is_zero() -> None:
    names = [f"r{number}" for number in (10, 2, 0, 11, 1)] + ["ada", "7"]
    text = markdown(analyze([Reader(name, 45 + number, 50) for number, name in enumerate(names[:5])]))
    assert re.findall(r"^\| (r\d+)", text, re.MULTILINE) == ["r0", "r1", "r2", "r10", "r11"]
    assert text.count("p < 0.001") == 2
    assert "0.000" not in text
    text = markdown(analyze([Reader(name, 25, 50) for name in names]))
    assert re.findall(r"^\| (\w+) \| 25", text, re.MULTILINE) == ["7", "ada", "r0", "r1", "r2", "r10", "r11"]
    assert "p = 1.000" in text


def test_where_there_is_no_t_test() -> None:
    for readers in ([Reader("a", 3, 5)], [Reader("a", 3, 5), Reader("b", 3, 5)]):
        result = analyze(readers)
        assert (result.t, result.t_p, result.t_interval) == (None, None, None)
        assert "No t-test" in markdown(result)
        json.loads(json.dumps(result.document(), allow_nan=False))


def test_all_right_is_not_chance() -> None:
    """By hand: 2 of 2^10 outcomes are as extreme; the exact interval's lower end is 0.025^(1/10)."""
    result = analyze([Reader("a", 10, 10)])
    assert result.binomial_p == pytest.approx(2 / 2**10)
    assert result.binomial_interval == pytest.approx((0.025**0.1, 1.0))
