"""The model registry: where it looks, what it says, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from svdrr.errors import SVDRRError
from svdrr.models import available_models, find_model


def entries(**changed: Any) -> dict[str, Any]:
    return {
        "name": "small",
        "resolution": 64,
        "field_of_view_mm": 480.0,
        "num_inference_steps": 20,
        "guidance_scale": 3.0,
        "source_gray_levels": [0.1, 0.5, 0.8],
        "trained_on": "nothing",
        "intended_use": "tests",
        "license": "Apache-2.0",
        **changed,
    }


def write_model(folder: Path, **changed: Any) -> Path:
    (folder / "unet").mkdir(parents=True)
    (folder / "model.json").write_text(json.dumps(entries(**changed)), encoding="utf-8")
    (folder / "b.safetensors").write_bytes(b"weights")
    (folder / "unet" / "a.safetensors").write_bytes(b"more weights")
    return folder


def test_the_bundled_model_is_found() -> None:
    model = find_model("demo-256")
    assert model.resolution == 256
    assert model.folder.name == "demo-256"
    assert (model.folder / "model_index.json").is_file()
    assert "not for diagnosis" in model.intended_use


def test_folders_of_the_search_path_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "eins und ü", tmp_path / "two"
    write_model(first / "x", trained_on="first")
    write_model(second / "x", trained_on="second")
    write_model(second / "y", name="other")
    write_model(second / "z", name="demo-256", trained_on="mine")
    monkeypatch.setenv("SVDRR_MODELS", os.pathsep.join(map(str, (tmp_path / "nowhere", first, "", second))))
    assert find_model("small").trained_on == "first"
    assert find_model("small").folder == first / "x"
    assert find_model("other").folder == second / "y"
    assert find_model("demo-256").trained_on == "mine"
    assert sorted(model.name for model in available_models()) == ["demo-256", "other", "small"]


def test_a_damaged_model_does_not_hide_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_model(tmp_path / "whole")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "model.json").write_text("{", encoding="utf-8")
    monkeypatch.setenv("SVDRR_MODELS", str(tmp_path))
    assert sorted(model.name for model in available_models()) == ["demo-256", "small"]
    assert "does not describe a model" in caplog.text


def test_a_folder_is_a_name_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SVDRR_MODELS", raising=False)
    model = find_model(str(write_model(tmp_path / "my model")))
    assert model.name == "small"
    assert model.source_gray_levels == (0.1, 0.5, 0.8)


def test_unknown_names_list_the_choices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path / "x")
    monkeypatch.setenv("SVDRR_MODELS", str(tmp_path))
    with pytest.raises(SVDRRError, match=r"Unknown model 'nope'; available: small, demo-256\."):
        find_model("nope")


def test_a_folder_without_a_model_says_so_and_that_of_a_run_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(tmp_path / "run" / "model")
    (tmp_path / "demo-256").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SVDRRError, match=r"The folder '.*' holds no model\.json; give the folder of a model\."):
        find_model(str(tmp_path))
    with pytest.raises(SVDRRError, match=r"'run' is the folder of a training run; its model is 'run/model'\."):
        find_model("run")
    # A name stays a name.
    assert find_model("demo-256").folder != Path("demo-256")


def test_without_any_model_the_way_to_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("svdrr.models.registry._BUNDLED", (tmp_path,))
    monkeypatch.setenv("SVDRR_MODELS", "")
    with pytest.raises(SVDRRError, match="none found; set SVDRR_MODELS"):
        find_model("demo-256")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "7",
        "{}",
        json.dumps(entries(color="red")),
        json.dumps(entries(resolution="big")),
        json.dumps(entries(resolution=None)),
        json.dumps(entries(source_gray_levels=["dark"])),
        json.dumps({name: value for name, value in entries().items() if name != "license"}),
        b"\xff\xfe\x00",
    ],
)
def test_broken_descriptions(tmp_path: Path, text: str | bytes) -> None:
    folder = write_model(tmp_path / "x")
    (folder / "model.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SVDRRError, match=r"x/model\.json' does not describe a model"):
        find_model(str(folder))


def test_the_hash_tells_every_change_of_the_weights(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "x")
    before = find_model(str(folder)).weights_sha256()
    assert len(before) == 64
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "README.md").write_text("no weights")
    assert find_model(str(tmp_path / "copy")).weights_sha256() == before

    weights = folder / "unet" / "a.safetensors"
    weights.write_bytes(b"more weightz")
    changed = find_model(str(folder)).weights_sha256()
    weights.write_bytes(b"more weights")
    assert find_model(str(folder)).weights_sha256() == before
    weights.rename(folder / "a.safetensors")
    renamed = find_model(str(folder)).weights_sha256()
    assert len({before, changed, renamed}) == 3


@pytest.mark.parametrize("damage", ["truncated weights", "no weights", "no index", "text for weights"])
def test_damaged_weights_get_one_sentence(models_folder: Path, tmp_path: Path, damage: str) -> None:
    from svdrr.synthesis.synthesize import Synthesizer

    folder = tmp_path / "tiny"
    shutil.copytree(models_folder / "tiny", folder)
    weights = folder / "vcdit" / "diffusion_pytorch_model.safetensors"
    if damage == "truncated weights":
        weights.write_bytes(weights.read_bytes()[:5000])
    elif damage == "text for weights":
        weights.write_text("version https://git-lfs.github.com/spec/v1\n")
    else:
        (weights if damage == "no weights" else folder / "model_index.json").unlink()
    with pytest.raises(SVDRRError, match=r"model 'tiny' cannot be loaded; files in .* are missing or damaged"):
        Synthesizer(str(folder))
