"""``svdrr train``: from shards to a model that synthesizes, and on to the next resolution."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from svdrr import cli
from svdrr.ct.io import write_volume
from svdrr.ct.phantoms import ThoraxOptions, thorax_phantom
from svdrr.dataset.build import build_dataset
from svdrr.dataset.read import read_samples
from svdrr.dataset.settings import make_settings
from svdrr.drr import ENGINES
from svdrr.geometry import CArmPose
from svdrr.images import read_radiograph
from svdrr.models import find_model
from svdrr.models.import_pixart import untrained_description
from svdrr.models.write import write_model
from svdrr.provenance import SYNTHETIC_LABEL
from svdrr.radiograph import Radiograph
from svdrr.synthesis.configuration import Schedule, load_configuration, make_pipeline
from svdrr.synthesis.synthesize import Synthesizer

SCHEDULE = Schedule(steps=6, batch_size=4, learning_rate=1e-3, warmup_steps=2, ema_decay=0.9)


def data_set(folder: Path, views: str) -> Path:
    ct = thorax_phantom(4, ThoraxOptions(spacing_mm=12.0)).ct
    write_volume(folder / "ct.nii.gz", ct.hu, ct.ijk_to_ras)
    settings = make_settings(views, "32,64", ENGINES[0], split="1,0,0")
    build_dataset([folder / "ct.nii.gz"], folder / "data", settings, views, ENGINES[0])
    return folder / "data"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data_set(tmp_path_factory.mktemp("shards"), "hemisphere:6")


def write_configuration(file: Path, resolution: int, **schedule: object) -> Path:
    """A tiny model of 32 or 64 pixels."""
    demo = load_configuration("demo-128")
    entries = {
        "resolution": resolution,
        "vae": {**demo.vae, "block_out_channels": [16, 16, 16, 16]},
        "vcdit": {
            **demo.vcdit,
            "sample_size": resolution // 8,
            "num_layers": 1,
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "image_embedding_dim": 32,
            "interpolation_scale": resolution / 32,
        },
        "image_encoder": {**demo.image_encoder, "image_size": 32, "hidden_size": 32},
        "scheduler": demo.scheduler,
        "sampling": {"num_inference_steps": 2, "guidance_scale": 1.5},
        "training": {"vcdit": {**dataclasses.asdict(SCHEDULE), **schedule}},
    }
    file.write_text(json.dumps(entries), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with random weights, ``small-32-untrained``."""
    folder = tmp_path_factory.mktemp("start")
    configuration = load_configuration(str(write_configuration(folder / "small-32.json", 32)))
    torch.manual_seed(0)
    write_model(folder / "model", make_pipeline(configuration), untrained_description(configuration))
    return folder / "model"


@pytest.fixture(scope="module")
def run(data: Path, start: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run at 32 x 32 pixels."""
    folder = tmp_path_factory.mktemp("runs")
    configuration = write_configuration(folder / "small-32.json", 32)
    code, _ = train(data, folder / "run", "--config", configuration, "--from", start)
    assert code == 0
    return folder / "run"


def train(*arguments: object) -> tuple[int, str]:
    """Exit code and standard error of the command in this process."""
    code: object = 0
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(StringIO()) as error:
        patch.setattr(sys, "argv", ["svdrr", "train", *map(str, arguments)])
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
    assert isinstance(code, int)
    return code, error.getvalue()


def test_a_run_ends_with_a_model_that_synthesizes(run: Path, data: Path) -> None:
    model = find_model(str(run / "model"))
    assert (model.name, model.resolution, model.field_of_view_mm) == ("small-32", 32, 480.0)
    assert "6 DRRs of 1 CTs" in model.trained_on
    assert "not for diagnosis" in model.intended_use
    source = next(read_samples(data, size=32))
    levels = np.array(model.source_gray_levels)
    assert levels.max() == pytest.approx(source.pixels.max(), abs=1e-4)
    assert np.all(np.diff(levels) >= 0.0)
    (view,) = Synthesizer(model).synthesize(Radiograph(source.pixels, view=source.view), [CArmPose(30.0)])
    assert view.pixels.shape == (32, 32)
    assert view.provenance is not None
    assert view.provenance.attributes()["SVDRR.Synthetic"] == SYNTHETIC_LABEL


def test_the_vae_stays_and_the_transformer_changes(run: Path, start: Path) -> None:
    def is_same(part: str) -> list[bool]:
        before, after = (
            load_file(folder / part / "diffusion_pytorch_model.safetensors") for folder in (start, run / "model")
        )
        assert before.keys() == after.keys()
        return [torch.equal(after[name], value) for name, value in before.items()]

    assert all(is_same("vae"))
    assert not all(is_same("vcdit"))


def test_pictures_of_the_training_say_that_they_are_synthetic(run: Path) -> None:
    (file,) = (run / "samples").glob("*.png")
    picture = read_radiograph(file)
    assert picture.pixels.shape == (4 * 32, 3 * 32)
    assert picture.provenance is not None
    assert picture.provenance.attributes()["SVDRR.Synthetic"] == SYNTHETIC_LABEL


def test_the_next_resolution_begins_from_a_run(run: Path, data: Path, tmp_path: Path) -> None:
    configuration = write_configuration(tmp_path / "small-64.json", 64)
    code, error = train(data, tmp_path / "run", "--config", configuration, "--from", run)
    assert (code, error) == (0, "")
    model = find_model(str(tmp_path / "run" / "model"))
    assert (model.name, model.resolution) == ("small-64", 64)
    assert "beginning with the weights of 'small-32'" in model.trained_on


def test_a_finished_run_is_not_trained_again(
    run: Path, data: Path, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    before = find_model(str(run / "model")).weights_sha256()
    shutil.rmtree(copy / "model")

    def never(*arguments: object) -> None:
        raise AssertionError("encoded or trained again")

    monkeypatch.setattr("svdrr.synthesis.training.latents.encode_latents", never)
    monkeypatch.setattr("torch.optim.AdamW.step", never)
    configuration = run.parent / "small-32.json"
    code, error = train(data, copy, "--config", configuration, "--from", start)
    assert (code, error) == (0, "")
    assert find_model(str(copy / "model")).weights_sha256() == before


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (["--seed", "1"], "was begun with another seed; repeat that or train in a new folder"),
        (["--mixed-precision", "bf16"], "was begun with another mixed precision"),
        (["--config", "64.json"], "was begun with another configuration"),
        (["--config", "demo-128"], r"has images of 32, 64 pixels, and none of 128"),
        (["--config", "nonsense"], "Unknown configuration 'nonsense'"),
        (["--config", "missing.json"], r"'missing.json' is not a model configuration"),
        (["--from", "nonsense"], "Unknown model 'nonsense'"),
        (["--from", "."], "The run in '.' has not ended with a model yet"),
        (["--seed", "-1"], "The seed must not be negative"),
    ],
)
def test_what_does_not_fit_gets_one_sentence(
    run: Path,
    data: Path,
    start: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changed: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_configuration(tmp_path / "64.json", 64)
    (tmp_path / "run.json").write_text("{}")
    given = {"--config": str(run.parent / "small-32.json"), "--from": str(start)}
    given |= dict(zip(changed[::2], changed[1::2], strict=True))
    before = {file: file.stat().st_mtime_ns for file in run.rglob("*") if file.is_file()}
    code, error = train(data, run, *(word for option in given.items() for word in option))
    assert code == 2
    assert words in error
    assert len(error.strip().splitlines()) == 1
    assert {file: file.stat().st_mtime_ns for file in run.rglob("*") if file.is_file()} == before


def test_a_data_set_must_begin_with_pa(start: Path, tmp_path: Path) -> None:
    shifted = data_set(tmp_path, "sweep:10:40:10")
    configuration = write_configuration(tmp_path / "small-32.json", 32)
    code, error = train(shifted, tmp_path / "run", "--config", configuration, "--from", start)
    assert code == 2
    assert "must be PA, from which the others are made" in error


def test_another_architecture_is_named_by_a_weight(data: Path, start: Path, tmp_path: Path) -> None:
    file = write_configuration(tmp_path / "deeper.json", 32)
    entries = json.loads(file.read_text())
    entries["vcdit"]["num_layers"] = 2
    file.write_text(json.dumps(entries))
    code, error = train(data, tmp_path / "run", "--config", file, "--from", start)
    assert code == 2
    assert "'transformer.transformer_blocks.1." in error
    assert "has shape None and not" in error
    assert not (tmp_path / "run").exists()
