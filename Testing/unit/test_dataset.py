"""Data sets of DRRs: the same bytes whatever happened in between, nothing about patients, one sentence per error."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import webdataset
from fixture_types import WriteDX
from PIL import Image
from test_cli import child, disk_full_after
from test_ct_io import PATIENT, write_series

from svdrr import cli
from svdrr.ct import CTVolume
from svdrr.ct.io import read_ct, write_volume
from svdrr.ct.phantoms import ThoraxOptions, thorax_phantom
from svdrr.ct.table import remove_table
from svdrr.dataset import build as dataset_build
from svdrr.dataset.build import patients, split
from svdrr.dataset.discover import find_cts
from svdrr.dataset.read import read_samples
from svdrr.dataset.settings import make_settings, parse_sizes, parse_split
from svdrr.dataset.shards import encode_png
from svdrr.drr import ENGINES, attenuation, make_renderer, to_display
from svdrr.errors import SVDRRError
from svdrr.geometry import Detector, View, parse_views
from svdrr.images import read_radiograph

SYNTHETIC = "SYNTHETIC, not for diagnosis"
OPTIONS = ("--views", "hemisphere:12", "--sizes", "32,48")
FOLDER = "Doe_Jane_1950"


def phantom(seed: int) -> CTVolume:
    ct = thorax_phantom(seed, ThoraxOptions(spacing_mm=10.0, table=True)).ct
    return ct.with_hu(np.round(ct.hu) + np.float32(0.0))  # No negative zeros: DICOM has none.


@pytest.fixture(scope="module")
def cts(tmp_path_factory: pytest.TempPathFactory, write_dx: WriteDX) -> Path:
    """Two NIfTI files, and a folder as of a scanner: a DICOM series with a patient's name, a localizer, a DX, notes."""
    root = tmp_path_factory.mktemp("cts")
    for seed in (1, 2):
        ct = phantom(seed)
        write_volume(root / f"{seed}.nii.gz", ct.hu, ct.ijk_to_ras)
    study = root / FOLDER / "study"
    study.mkdir(parents=True)
    ct = phantom(3)
    write_series(study / "1", ct.hu, ct.ijk_to_ras)
    write_series(study / "1", ct.hu, ct.ijk_to_ras, modality="MR", number=2)
    (study / "2").mkdir()
    write_dx(study / "2" / "film.dcm", np.arange(400, dtype=np.uint16).reshape(20, 20), PatientID=PATIENT)
    (study / "1" / "notes.xml").write_text(f"<name>{PATIENT}</name>")
    return root


@pytest.fixture(scope="module")
def whole(cts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set of `cts`, built without interruption."""
    out = tmp_path_factory.mktemp("whole") / "set"
    code, _, _ = run_child(cts, out, *OPTIONS)
    assert code == 0
    return out


def run_child(*arguments: object) -> tuple[int, str, str]:
    process = child("dataset", "build", *arguments)
    out, err = process.communicate()
    return process.returncode, out, err


def run(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """The command in this process."""
    capfd.readouterr()
    code: object = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["svdrr", "dataset", *map(str, arguments)])
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
    assert isinstance(code, int)
    return code, *capfd.readouterr()


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def manifest_of(out: Path) -> dict:
    return json.loads((out / "manifest.json").read_text())


# What is in it


def test_manifest_and_index_list_every_shard_with_its_hash(whole: Path) -> None:
    manifest, index, files = manifest_of(whole), json.loads((whole / "index.json").read_text()), hashes(whole)
    listed = {shard["file"]: shard["sha256"] for ct in manifest["cts"] for shard in ct["shards"]}
    assert listed == {name: digest for name, digest in files.items() if name.endswith(".tar")}
    assert len(listed) == 3 * 2
    assert manifest["index_sha256"] == files["index.json"]
    assert sorted(name for sizes in index["shards"].values() for names in sizes.values() for name in names) == sorted(
        listed
    )
    assert sum(index["samples"].values()) == 3 * 2 * 12
    assert manifest["skipped"] == []
    assert manifest["synthetic"] == index["synthetic"] == SYNTHETIC
    voxels = {hashlib.sha256(phantom(seed).hu.data).hexdigest() for seed in (1, 2, 3)}
    assert {ct["voxels_sha256"] for ct in manifest["cts"]} == voxels
    assert "20" + time.strftime("%y-%m") not in json.dumps(manifest)


def test_webdataset_reads_the_shards(whole: Path) -> None:
    index = json.loads((whole / "index.json").read_text())
    urls = [str(whole / name) for sizes in index["shards"].values() for name in sizes["48"]]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    assert len(samples) == 3 * 12
    assert len({sample["__key__"] for sample in samples}) == 3 * 12
    for sample in samples:
        description = json.loads(sample["json"])
        assert description["key"] == sample["__key__"]
        assert description["synthetic"] == description["provenance"]["SVDRR.Synthetic"] == SYNTHETIC
        assert "SVDRR.TimeUTC" not in description["provenance"]
        assert (description["rows"], description["columns"]) == (48, 48)
        assert sample["png"].startswith(b"\x89PNG")


def test_a_sample_is_a_direct_render_of_its_view(cts: Path, whole: Path, tmp_path: Path) -> None:
    ct = read_ct(cts / "2.nii.gz")
    voxels = hashlib.sha256(ct.hu.data).hexdigest()
    (key,) = [entry["ct"] for entry in manifest_of(whole)["cts"] if entry["voxels_sha256"] == voxels]
    renderer = make_renderer(attenuation(remove_table(ct).ct), ENGINES[0])
    poses = parse_views("hemisphere:12", ct.isocenter_ras)
    samples = [sample for sample in read_samples(whole, size=48) if sample.ct == key]
    assert [sample.index for sample in samples] == list(range(12))
    for sample, pose in zip(samples, poses, strict=True):
        view = View(pose, Detector.square(48))
        assert sample.view == view
        expected = np.round(to_display(renderer.render(view)) * 65535.0)
        np.testing.assert_array_equal(np.round(sample.pixels * 65535.0), expected)
    assert samples[0].pixels.dtype == np.float32
    assert samples[0].pixels.max() > 0.3

    shard = next(iter((whole / "shards" / "48").glob(f"{key}*")))
    shutil.unpack_archive(shard, tmp_path, format="tar")
    radiograph = read_radiograph(tmp_path / f"{key}-48-00003.png")
    assert radiograph.view == View(poses[3], Detector.square(48))
    assert radiograph.provenance is not None
    assert radiograph.provenance.method.startswith("DRR (")
    assert voxels in radiograph.provenance.source
    np.testing.assert_array_equal(radiograph.pixels, samples[3].pixels)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (7, 3), (64, 64)])
def test_png_is_read_back_as_it_was(shape: tuple[int, int], tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 65536, shape).astype(np.uint16)
    (tmp_path / "a.png").write_bytes(encode_png(values, {"Name": "Ünïcode in Latin-1"}))
    with Image.open(tmp_path / "a.png") as image:
        image.load()
        assert image.mode == "I;16"
        np.testing.assert_array_equal(np.asarray(image), values)
        assert image.text == {"Name": "Ünïcode in Latin-1"}


def test_reader_filters_by_split_and_size(whole: Path) -> None:
    manifest = manifest_of(whole)
    for name in ("train", "val", "test"):
        samples = list(read_samples(whole, name, 32))
        assert len(samples) == 12 * sum(ct["split"] == name for ct in manifest["cts"])
        assert all(sample.split == name and sample.pixels.shape == (32, 32) for sample in samples)
    assert len(list(read_samples(whole))) == 3 * 2 * 12
    with pytest.raises(SVDRRError, match="no split"):
        read_samples(whole, "training")
    with pytest.raises(SVDRRError, match="no images of 64 pixels"):
        read_samples(whole, size=64)
    with pytest.raises(SVDRRError, match="not a finished data set"):
        read_samples(whole.parent)


def test_nothing_in_the_result_names_a_patient(cts: Path, whole: Path) -> None:
    uids = [source.series for source in find_cts([cts]) if source.series]
    secrets = [PATIENT, FOLDER, "Secret", "study", str(cts), *uids]
    for path in whole.rglob("*"):
        for secret in secrets:
            assert secret not in path.name
            assert path.is_dir() or secret.encode() not in path.read_bytes(), (path, secret)


# Splits


def test_split_follows_the_patient_key_alone() -> None:
    keys = [hashlib.sha256(str(number).encode()).hexdigest()[:16] for number in range(3000)]
    names = [split(key, (80, 10, 10)) for key in keys]
    assert names == [split(key, (8.0, 1.0, 1.0)) for key in keys]
    assert [round(names.count(name) / 30) for name in ("train", "val", "test")] == pytest.approx([80, 10, 10], abs=2)
    assert {split(key, (0, 0, 1)) for key in keys} == {"test"}


def test_cts_of_one_patient_stay_together() -> None:
    groups = [{"b", "c"}, {"d"}, {"c", "a"}, {"e"}, {"e", "f"}]
    assert patients(groups) == {"a": "a", "b": "a", "c": "a", "d": "d", "e": "e", "f": "e"}


def test_two_series_of_one_patient_id_come_into_one_split(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for seed in (4, 5):
        ct = phantom(seed)
        (tmp_path / "in" / f"folder{seed}").mkdir(parents=True)
        write_series(tmp_path / "in" / f"folder{seed}" / "s", ct.hu, ct.ijk_to_ras)
    code, _, _ = run(capfd, "build", tmp_path / "in", tmp_path / "out", "--views", "simple", "--sizes", "16")
    assert code == 0
    cts = manifest_of(tmp_path / "out")["cts"]
    assert len(cts) == 2
    assert {ct["patient"] for ct in cts} == {min(ct["ct"] for ct in cts)}
    assert len({ct["split"] for ct in cts}) == 1


def test_files_below_one_folder_are_one_patient_and_files_beside_each_other_are_not(tmp_path: Path) -> None:
    for name in ("a.nii", "b.nrrd", "p/x/c.mha", "p/y/d.nii.gz", ".hidden/e.nii"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    sources = find_cts([tmp_path, tmp_path / "a.nii"])
    assert [source.path.name for source in sources] == ["a.nii", "b.nrrd", "c.mha", "d.nii.gz"]
    assert len({source.patient for source in sources}) == 3
    assert sources[2].patient == sources[3].patient


# Interruptions


def test_killed_at_any_moment_it_ends_with_the_same_bytes(cts: Path, tmp_path: Path) -> None:
    options = ("--views", "hemisphere:40", "--sizes", "64,160")
    assert run_child(cts, tmp_path / "whole", *options)[0] == 0
    out, rng, killed = tmp_path / "killed", random.Random(7), 0
    for shards in (0, 1, 3, 4):
        process = child("dataset", "build", cts, out, *options)
        while process.poll() is None and len(list(out.glob("shards/*/[!.]*.tar"))) < shards:
            time.sleep(0.002)
        time.sleep(rng.uniform(0.0, 2.0) if shards == 0 else rng.uniform(0.0, 0.2))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        assert not (out / "manifest.json").exists()
    assert killed >= 3
    assert run_child(cts, out, *options)[0] == 0
    assert hashes(out) == hashes(tmp_path / "whole")


KILLED_BEFORE_A_RENAME = """
import os, sys, signal
from svdrr import cli
count, rename = int(sys.argv.pop(1)), os.replace
def replace(*paths):
    global count
    count -= 1
    if count < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    rename(*paths)
os.replace = replace
cli.main()
"""


@pytest.mark.parametrize("renames", [0, 2, 3, 10, 11])
def test_killed_before_a_rename_its_temporary_file_goes(cts: Path, whole: Path, tmp_path: Path, renames: int) -> None:
    """Of settings, a second shard, a CT's marker, the index and the manifest."""
    out = tmp_path / "set"
    command = [sys.executable, "-c", KILLED_BEFORE_A_RENAME, str(renames), "dataset", "build", str(cts), str(out)]
    assert subprocess.run([*command, *OPTIONS], capture_output=True, check=False).returncode == -signal.SIGKILL
    assert any(name.name != ".lock" for name in out.rglob(".*"))
    assert run_child(cts, out, *OPTIONS)[0] == 0
    assert hashes(out) == hashes(whole)
    assert [path.name for path in out.rglob(".*")] == [".lock"]


def test_a_finished_set_is_not_rendered_again(cts: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    shutil.copytree(whole, out)
    removed = next(iter(out.glob("shards/32/*.tar")))
    removed.unlink()
    before = {path: path.stat().st_mtime_ns for path in out.glob("shards/*/*.tar")}
    assert run_child(cts, out, *OPTIONS)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert hashes(out) == hashes(whole)


def test_a_patient_more_moves_no_other(
    cts: Path, whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out, more = tmp_path / "set", tmp_path / "more.nrrd"
    shutil.copytree(whole, out)
    ct = phantom(6)
    write_volume(more, ct.hu, ct.ijk_to_ras)
    code, _, err = run(capfd, "build", more, out, *OPTIONS)
    assert (code, err.count("\n")) == (2, 1)
    assert "holds 3 CTs from outside these inputs" in err
    assert manifest_of(out) == manifest_of(whole)
    assert run(capfd, "build", cts, more, out, *OPTIONS)[0] == 0
    before, after = manifest_of(whole), manifest_of(out)
    assert len(after["cts"]) == 4
    assert before["patients"].items() <= after["patients"].items()
    assert all(ct in after["cts"] for ct in before["cts"])


def test_two_builds_at_once_are_refused(cts: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import fcntl

    (tmp_path / "set").mkdir()
    with (tmp_path / "set" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, _, err = run(capfd, "build", cts, tmp_path / "set", *OPTIONS)
    assert (code, err.count("\n")) == (2, 1)
    assert "Another build" in err


# Bad CTs


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """One good CT, and what is wrong with others, under names that tell."""
    root = tmp_path / "mixed"
    patient = root / FOLDER
    patient.mkdir(parents=True)
    good = phantom(1)
    write_volume(root / "good.nii", good.hu, good.ijk_to_ras)
    write_volume(root / "same.nrrd", good.hu, good.ijk_to_ras)
    (patient / "junk.nii.gz").write_bytes(b"junk")
    write_volume(patient / "air.nii", np.full((9, 9, 9), -1000.0, np.float32), np.eye(4))
    empty = np.full((20, 20, 20), -1000.0, np.float32)
    empty[0, 0, 0] = 100.0
    write_volume(patient / "no_body.nii", empty, np.eye(4))
    thick = thorax_phantom(2, ThoraxOptions(spacing_mm=12.0)).ct
    write_series(patient / "thick", np.round(thick.hu), thick.ijk_to_ras)
    gap = patient / "gap"
    write_series(gap, good.hu, good.ijk_to_ras)
    sorted(gap.iterdir())[7].unlink()
    broken = patient / "broken"
    broken.mkdir()
    (broken / f"{PATIENT}.dcm").write_bytes(b"no DICOM")
    return root


def test_bad_cts_are_skipped_with_a_sentence(mixed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    code, stdout, err = run(capfd, "build", mixed, out, *OPTIONS, "--max-slice-thickness", "11")
    assert code == 0
    assert "1 CT, 24 SYNTHETIC images" in stdout
    assert stdout.endswith("24 written now, 0 found in place.\n")
    assert "Warning: 7 of the CTs" in err
    assert str(mixed / FOLDER / "junk.nii.gz") in err
    assert err.count("Skipped CT") == 6  # That one CT is there twice is no fault.
    skipped = manifest_of(out)["skipped"]
    reasons = " | ".join(entry["reason"] for entry in skipped)
    for words in (
        "damaged",
        "not in Hounsfield units",
        "no body",
        "12.00 mm apart",
        "not evenly spaced",
        "same voxels",
    ):
        assert words in reasons, words
    assert all(entry["reason"].endswith(".") and os.sep not in entry["reason"] for entry in skipped)
    text = (out / "manifest.json").read_text()
    for secret in (PATIENT, FOLDER, "junk", "gap", str(mixed)):
        assert secret not in text
    assert len(manifest_of(out)["cts"]) == 1


def test_none_that_works_is_an_error_and_other_settings_may_follow(
    mixed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    code, stdout, err = run(capfd, "build", mixed / FOLDER / "thick", out, *OPTIONS, "--max-slice-thickness", "2.5")
    assert (code, stdout) == (2, "")
    assert "No CT is left: The CT's slices are 12.00 mm apart" in err.splitlines()[-1]
    assert not out.exists()
    assert run(capfd, "build", mixed / FOLDER / "thick", out, *OPTIONS)[0] == 0


def test_a_folder_of_another_modality_is_named(cts: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ct = phantom(3)
    write_series(tmp_path / "in" / "mr", ct.hu, ct.ijk_to_ras, modality="MR")
    code, stdout, err = run(capfd, "build", tmp_path / "in", tmp_path / "out", *OPTIONS)
    assert (code, stdout, err.count("\n")) == (2, "", 1)
    assert f"only 1 MR series (the first in {tmp_path / 'in' / 'mr'})" in err
    write_series(tmp_path / "in" / "ct", ct.hu, ct.ijk_to_ras)
    code, stdout, err = run(capfd, "build", tmp_path / "in", tmp_path / "out", *OPTIONS)
    assert code == 0
    assert "1 CT, " in stdout
    assert f"svdrr: Left out what is no CT: 1 MR series (the first in {tmp_path / 'in' / 'mr'}).\n" in err


def test_a_ct_that_a_view_misses_is_skipped(cts: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    views = [{"primary_deg": 0}, {"primary_deg": 90, "isocenter_ras_mm": [0, 0, 5000]}]
    (tmp_path / "views.json").write_text(json.dumps({"format": "svdrr-views-1", "views": views}))
    options = ("--views", tmp_path / "views.json", "--sizes", "32")
    code, _, err = run(capfd, "build", cts / "1.nii.gz", tmp_path / "out", *options)
    assert code == 2
    assert "View 2 of 2 (left lateral) misses the CT" in err
    assert not (tmp_path / "out").exists()


def test_a_share_that_comes_out_empty_is_named(cts: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    options = ("--views", "hemisphere:2", "--sizes", "16")
    for number, shares in enumerate(("1,1,1", "1,0,0")):
        code, _, err = run(capfd, "build", cts / "1.nii.gz", tmp_path / str(number), *options, "--split", shares)
        assert code == 0
        empty = [name for name in ("train", "val", "test") if shares == "1,1,1" and name not in err]
        assert err.count("came out empty") == (shares == "1,1,1")
        assert len(empty) == (shares == "1,1,1")
        assert err.count("\n") == (shares == "1,1,1")


# What is refused


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--sizes", "abc"), "Cannot read the sizes 'abc'"),
        (("--sizes", ""), "Cannot read the sizes"),
        (("--sizes", "0"), "16 to 4096 pixels, not 0"),
        (("--sizes", "64,-5"), "not -5"),
        (("--sizes", "64,32,64"), "one size twice"),
        (("--views", "everything"), "Unknown view set"),
        (("--views", "hemisphere:0"), "needs 1 to"),
        (("--views", "missing.json"), "Cannot read the view file"),
        (("--split", "80,20"), "Cannot read the split"),
        (("--split", "-1,1,1"), "Cannot read the split"),
        (("--split", "0,0,0"), "Cannot read the split"),
        (("--split", "nan,1,1"), "Cannot read the split"),
        (("--max-slice-thickness", "0"), "above 0 mm"),
        (("--max-slice-thickness", "nan"), "above 0 mm"),
        (("--engine", "crystal"), "Unknown DRR engine"),
        (("--cluster", "somewhere"), "Cannot read the cluster"),
    ],
)
def test_arguments_that_make_no_sense(
    cts: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    code, stdout, err = run(capfd, "build", cts, tmp_path / "out", *arguments)
    assert (code, stdout, err.count("\n")) == (2, "", 1)
    assert words in err
    assert list(tmp_path.iterdir()) == []


def test_folders_that_do_not_fit(cts: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "full" / "inner").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    for given, out, words in (
        (cts, cts / "out", "must not lie in one another"),
        (cts, cts, "must not lie in one another"),
        (cts, cts.parent, "must not lie in one another"),
        (cts, tmp_path / "no" / "out", "does not exist; create it first"),
        (cts, tmp_path / "file", "it is a file"),
        (cts, tmp_path / "full", "not empty and no data set"),
        (tmp_path / "empty", tmp_path / "out", "There is no CT in"),
        (tmp_path / "none", tmp_path / "out", "There is no file or folder"),
    ):
        code, stdout, err = run(capfd, "build", given, out, *OPTIONS)
        assert (code, stdout, err.count("\n")) == (2, "", 1), err
        assert words in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "full"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--views", "hemisphere:11", "--sizes", "32,48"), "(views, views per ct, views sha256)"),
        (("--views", "hemisphere:12", "--sizes", "32"), "(sizes)"),
        ((*OPTIONS, "--max-slice-thickness", "20"), "(max slice thickness mm)"),
        ((*OPTIONS, "--split", "70,20,10"), "(split)"),
    ],
)
def test_other_settings_are_refused(
    cts: Path, whole: Path, capfd: pytest.CaptureFixture[str], options: tuple[str, ...], words: str
) -> None:
    before = hashes(whole)
    code, _, err = run(capfd, "build", cts, whole, *options)
    assert (code, err.count("\n")) == (2, 1)
    assert f"begun with other settings {words}" in err
    assert hashes(whole) == before


def test_other_versions_are_refused(
    cts: Path, whole: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("svdrr.dataset.settings.__version__", "99")
    code, _, err = run(capfd, "build", cts, whole, *OPTIONS)
    assert code == 2
    assert "(versions)" in err


def test_views_of_a_file(cts: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / f"{FOLDER}.json"
    file.write_text(json.dumps({"format": "svdrr-views-1", "views": [{"primary_deg": 0}, {"primary_deg": 90}]}))
    command = ("build", cts / "1.nii.gz", tmp_path / "out", "--sizes", "32", "--views", file)
    assert run(capfd, *command)[0] == 0
    assert FOLDER not in (tmp_path / "out" / "settings.json").read_text()
    assert {sample.view.pose.label for sample in read_samples(tmp_path / "out")} == {"PA", "left lateral"}
    file.write_text(file.read_text().replace("90", "91"))
    code, _, err = run(capfd, *command)
    assert code == 2
    assert "(views sha256)" in err


def test_a_full_disk_is_no_fault_of_the_ct(
    cts: Path, whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "set"
    with disk_full_after(30_000):
        code, stdout, err = run(capfd, "build", cts, out, *OPTIONS)
    assert (code, stdout, err.count("\n")) == (2, "", 1), err
    assert "File too large" in err
    assert not (out / "manifest.json").exists()
    assert list(out.glob("shards/*/*")) == []
    assert run(capfd, "build", cts, out, *OPTIONS)[0] == 0
    assert hashes(out) == hashes(whole)


def test_settings_are_parsed() -> None:
    assert parse_sizes("256, 512,1024") == (256, 512, 1024)
    assert parse_split("8,1,1") == (8.0, 1.0, 1.0)
    settings = make_settings("simple", "64", ENGINES[0])
    assert settings.views_per_ct == 36
    assert json.loads(json.dumps(settings.document())) == settings.document()


def test_shards_hold_at_most_so_many_views(
    cts: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("svdrr.dataset.one_ct.VIEWS_PER_SHARD", 5)
    assert run(capfd, "build", cts / "1.nii.gz", tmp_path / "out", "--sizes", "32", "--views", "hemisphere:12")[0] == 0
    (ct,) = manifest_of(tmp_path / "out")["cts"]
    assert [shard["samples"] for shard in ct["shards"]] == [5, 5, 2]
    assert [sample.index for sample in read_samples(tmp_path / "out")] == list(range(12))
    assert run(capfd, "show", tmp_path / "out")[0] == 0


# Looking at it


def test_show_and_verify(whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, stdout, _ = run(capfd, "show", whole, "--output", tmp_path, "--json")
    assert code == 0
    for path in json.loads(stdout).values():
        with Image.open(path) as image:
            assert "not for diagnosis" in image.text["Comment"]
            assert image.width > 300
    assert run(capfd, "verify", whole)[0] == 0
    out = tmp_path / "set"
    shutil.copytree(whole, out)
    shard = sorted(out.glob("shards/*/*.tar"))[0]
    content = bytearray(shard.read_bytes())
    content[5000] ^= 1
    shard.write_bytes(content)
    code, _, err = run(capfd, "verify", out)
    assert (code, err.count("\n")) == (2, 1)
    assert f"1 file of {out} missing or changed (the first: shards/32/{shard.name})" in err
    shard.write_bytes(content[:4000])
    with pytest.raises(SVDRRError, match="missing or damaged"):
        list(read_samples(out))
    code, _, err = run(capfd, "show", tmp_path)
    assert (code, err.count("\n")) == (2, 1)
    code, _, err = run(capfd, "show", tmp_path / "nope")
    assert (code, err) == (2, f"svdrr: There is no data set {tmp_path / 'nope'}; make one with svdrr dataset build.\n")
    assert dataset_build.verify(whole) == []


DESTROYED = ("index.json", "settings.json", "cts/*.json", "shards/48/*.tar")


@pytest.mark.parametrize("content", [None, b"{}\n", b'{"format": "svdrr-dataset-1", "shards": []}'])
@pytest.mark.parametrize("name", DESTROYED)
def test_verify_finds_any_file_and_build_renews_it(
    cts: Path, whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, content: bytes | None
) -> None:
    out = tmp_path / "set"
    shutil.copytree(whole, out)
    file = sorted(out.glob(name))[1 if "*" in name else 0]
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    code, stdout, err = run(capfd, "verify", out)
    assert (code, stdout, err.count("\n")) == (2, "", 1)
    assert f"1 file of {out} missing or changed (the first: {file.relative_to(out)})" in err
    code, stdout, _ = run(capfd, "build", cts, out, *OPTIONS)
    rendered = 12 if file.suffix == ".tar" else 0
    assert code == 0
    assert f"{rendered} written now, {72 - rendered} found in place" in stdout
    assert hashes(out) == hashes(whole)
    assert run(capfd, "verify", out)[0] == 0


def test_a_shard_with_one_wrong_bit_is_rendered_again(
    cts: Path, whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "set"
    shutil.copytree(whole, out)
    shard = sorted(out.glob("shards/*/*.tar"))[0]
    content = bytearray(shard.read_bytes())
    content[5000] ^= 1
    shard.write_bytes(content)
    code, stdout, _ = run(capfd, "build", cts, out, *OPTIONS, "--json")
    assert (code, json.loads(stdout)["written_now"]) == (0, 12)
    assert hashes(out) == hashes(whole)


def test_a_manifest_of_nothing_is_called_damaged(
    whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "set"
    shutil.copytree(whole, out)
    (out / "manifest.json").write_text('{"format": "svdrr-dataset-1"}')
    for command in ("verify", "show"):
        code, _, err = run(capfd, command, out)
        assert (code, err.count("\n")) == (2, 1)
        assert "manifest.json is damaged" in err
