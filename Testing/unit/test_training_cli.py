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
from diffusers import LCMScheduler
from safetensors.torch import load_file

from svdrr import cli
from svdrr.ct.io import write_volume
from svdrr.ct.phantoms import ThoraxOptions, thorax_phantom
from svdrr.dataset.build import build_dataset
from svdrr.dataset.read import read_samples
from svdrr.dataset.settings import make_settings
from svdrr.drr import ENGINES
from svdrr.errors import SVDRRError
from svdrr.geometry import CArmPose
from svdrr.images import read_radiograph
from svdrr.models import find_model
from svdrr.models.import_pixart import untrained_description
from svdrr.models.write import write_model
from svdrr.provenance import SYNTHETIC_LABEL
from svdrr.radiograph import Radiograph
from svdrr.synthesis.configuration import Schedule, load_configuration, make_pipeline
from svdrr.synthesis.synthesize import Synthesizer, load_pipeline

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


def write_configuration(file: Path, resolution: int, stages: tuple[str, ...] = ("vcdit",)) -> Path:
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
        "training": dict.fromkeys(stages, dataclasses.asdict(SCHEDULE)),
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
        (["--seed", "-1"], "The seed must lie in 0 to 9223372036854775807, not -1"),
        (["--seed", "99999999999999999999999"], "The seed must lie in 0 to 9223372036854775807"),
        (["--config", "fast.json"], "has no schedule 'vcdit'; add one, or choose another"),
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
    write_configuration(tmp_path / "fast.json", 32, ("consistency",))
    (tmp_path / "run.json").write_text("{}")
    given = {"--config": str(run.parent / "small-32.json"), "--from": str(start)}
    given |= dict(zip(changed[::2], changed[1::2], strict=True))
    before = {file: file.stat().st_mtime_ns for file in run.rglob("*") if file.is_file()}
    code, error = train(data, run, *(word for option in given.items() for word in option))
    assert code == 2
    assert words in error
    assert len(error.strip().splitlines()) == 1
    assert {file: file.stat().st_mtime_ns for file in run.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--mixed-precision", "fp16", "The mixed precision must be one of no, bf16, not 'fp16'."),
        ("--save-every", "0", "The number of steps between two states must be above 0, not 0."),
        ("--save-every", "-5", "The number of steps between two states must be above 0, not -5."),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(
    run: Path, data: Path, start: Path, tmp_path: Path, option: str, value: str, words: str
) -> None:
    arguments = ("--config", run.parent / "small-32.json", "--from", start)
    assert train(data, tmp_path / "run", *arguments, option, value) == (2, f"svdrr: {words}\n")
    assert not (tmp_path / "run").exists()


def test_a_folder_of_something_else_is_refused(run: Path, data: Path, start: Path, tmp_path: Path) -> None:
    (tmp_path / "views").mkdir()
    (tmp_path / "views" / "PA.png").write_bytes(b"a DRR")
    code, error = train(data, tmp_path / "views", "--config", run.parent / "small-32.json", "--from", start)
    assert code == 2
    assert "is not empty and no run; choose a new folder" in error
    assert [path.name for path in (tmp_path / "views").iterdir()] == ["PA.png"]


@pytest.mark.parametrize("text", ["[]", "7", "{", "null"])
def test_a_damaged_record_of_a_run_gets_one_sentence(
    run: Path, data: Path, start: Path, tmp_path: Path, text: str
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(text)
    code, error = train(data, tmp_path / "run", "--config", run.parent / "small-32.json", "--from", start)
    assert (code, error.endswith("run.json' is damaged; train in a new folder.\n")) == (2, True)


@pytest.mark.parametrize(
    ("entry", "value", "words"),
    [
        ("training.vcdit.steps", "a", "the entry 'training.vcdit.steps' must be a whole number, not \"a\"."),
        ("training.vcdit.steps", True, "must be a whole number, not true."),
        ("training.vcdit.steps", 0, "in 'training.vcdit', the numbers of steps and of samples in a batch must be"),
        ("training.vcdit.learning_rate", float("nan"), "'training.vcdit.learning_rate' must be a number, not NaN."),
        ("training.vcdit.learning_rate", -1, "in 'training.vcdit', the learning rate must be above 0, not -1."),
        ("training.vcdit.ema_decay", 2.0, "must lie in 0 to below 1, not 2."),
        ("training.vcdit.decay", "linear", "'training.vcdit.decay' must be cosine or constant, not \"linear\"."),
        ("training.vcdit.rate", 1, "the entry 'training.vcdit.rate' is unknown; remove it."),
        ("training.vcdti", {}, "the entry 'training.vcdti' is unknown; remove it."),
        ("training", [], "the entry 'training' must be a group of entries, not []."),
        ("vcdit.foo", 1, "the entry 'vcdit.foo' is unknown; remove it."),
        ("vcdit.back_projection_mm", "wide", 'must be a number or null, not "wide".'),
        ("vcdit.attention_head_dim", 7, "no model can be made by its entries ("),
        ("vae.latent_channels", 8, "'latent_channels' of vae and vcdit must be equal, not 8 and 4."),
        ("vae.block_out_channels", 16, "'vae.block_out_channels' must be a list, not 16."),
        ("sampling.foo", 1, "the entry 'sampling.foo' is unknown; remove it."),
        ("sampling", {}, "the entry 'sampling.num_inference_steps' is missing; add it."),
        ("sampling.num_inference_steps", 0, "in 'sampling', the number of steps must lie in 1 to 1000, not 0."),
        ("scheduler.prediction_type", "foo", 'must be epsilon or v_prediction, not "foo".'),
        ("image_encoder", {}, "the entry 'image_encoder.class' is missing; add it."),
        ("image_encoder.class", "ViT", 'must be CLIPVisionModel or RadiographEncoder, not "ViT".'),
        ("image_encoder.hidden_size", 64, "must be equal, not 64 and 32."),
        ("resolution", "x", "the entry 'resolution' must be a whole number, not \"x\"."),
        ("resolution", 64, "the resolution and that of vae and vcdit must be equal, not 64 and 32."),
        ("name", "mine", "the entry 'name' is unknown; remove it."),
    ],
)
def test_configurations_that_make_no_sense_are_refused(tmp_path: Path, entry: str, value: object, words: str) -> None:
    file = write_configuration(tmp_path / "wrong.json", 32)
    entries = json.loads(file.read_text())
    *groups, name = entry.split(".")
    place = entries
    for group in groups:
        place = place[group]
    place[name] = value
    file.write_text(json.dumps(entries))
    with pytest.raises(SVDRRError) as error:
        load_configuration(str(file))
    assert str(error.value).startswith(f"'{file}' is not a model configuration: ")
    assert words in str(error.value)


@pytest.mark.parametrize(("text", "words"), [("{", "it is no JSON; correct it."), ("[]", "it holds no entries")])
def test_files_that_are_no_configuration_are_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "wrong.json").write_text(text)
    with pytest.raises(SVDRRError, match=words):
        load_configuration(str(tmp_path / "wrong.json"))


# To few steps


@pytest.fixture(scope="module")
def fast(data: Path, run: Path) -> Path:
    """A run that distils the model of `run`, with its configuration beside it."""
    configuration = write_configuration(run.parent / "both-32.json", 32, ("vcdit", "consistency"))
    code, error = train(
        *(data, run.parent / "fast", "--config", configuration, "--from", run, "--few-steps", "--save-every", 2)
    )
    assert (code, error) == (0, "")
    return run.parent / "fast"


def test_a_distilled_model_samples_in_one_step_without_guidance(fast: Path, run: Path, data: Path) -> None:
    model = find_model(str(fast / "model"))
    assert (model.name, model.num_inference_steps, model.guidance_scale) == ("both-32-fast", 1, 1.0)
    assert "beginning with the weights of 'small-32'" in model.trained_on
    synthesizer = Synthesizer(model)
    assert isinstance(load_pipeline(model).scheduler, LCMScheduler)
    assert model.weights_sha256() != find_model(str(run / "model")).weights_sha256()
    source = next(read_samples(data, size=32))
    (view,) = synthesizer.synthesize(Radiograph(source.pixels, view=source.view), [CArmPose(30.0)])
    assert np.isfinite(view.pixels).all()
    assert view.pixels.std() > 0.0
    names = [file.name for file in sorted((fast / "samples").iterdir())]
    assert names == [f"step-000000{step}.png" for step in (2, 4, 6)]


def test_an_interrupted_distillation_ends_in_the_same_weights(
    fast: Path, run: Path, data: Path, tmp_path: Path
) -> None:
    again = tmp_path / "fast"
    shutil.copytree(fast, again)
    shutil.rmtree(again / "model")
    (again / "step-0000006.safetensors").unlink()
    code, error = train(data, again, "--config", run.parent / "both-32.json", "--from", run, "--few-steps")
    assert (code, error) == (0, "")
    before, after = (find_model(str(folder / "model")).weights_sha256() for folder in (fast, again))
    assert after == before


@pytest.mark.parametrize(
    ("folder", "teacher", "config", "options", "words"),
    [
        ("fast", "run", "both-32.json", [], "was begun with another choice of --few-steps; repeat that or train in"),
        ("new", "run", "small-32.json", ["--few-steps"], "has no schedule 'consistency'; add one"),
        ("new", "fast", "both-32.json", ["--few-steps"], "The model 'both-32-fast' takes few steps already"),
        ("new", "run", "64.json", ["--few-steps"], "has 32 pixels, and the configuration '64' 64; for --few-steps"),
    ],
)
def test_what_cannot_be_distilled_gets_one_sentence(
    fast: Path, data: Path, folder: str, teacher: str, config: str, options: list[str], words: str
) -> None:
    place = fast.parent
    write_configuration(place / "64.json", 64, ("consistency",))
    code, error = train(data, place / folder, "--config", place / config, "--from", place / teacher, *options)
    assert code == 2
    assert words in error
    assert len(error.strip().splitlines()) == 1
    assert not (place / "new").exists()


def test_a_run_from_before_there_was_a_choice_goes_on(run: Path, data: Path, start: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    settings = json.loads((copy / "run.json").read_text())
    assert settings.pop("choice of --few-steps") is False
    (copy / "run.json").write_text(json.dumps(settings))
    code, error = train(data, copy, "--config", run.parent / "small-32.json", "--from", start)
    assert (code, error) == (0, "")


# Data and weights that do not fit


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
