"""The training loop: it learns, goes on exactly where it was killed, shares its work, and knows when to stop."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from svdrr.errors import SVDRRError
from svdrr.images import read_radiograph
from svdrr.provenance import Provenance
from svdrr.radiograph import Radiograph
from svdrr.synthesis.configuration import Schedule
from svdrr.synthesis.training.loop import learning_rate_at, saved_states, train
from svdrr.synthesis.training.phantom_views import training_poses
from svdrr.synthesis.training.record import keep_record

SCHEDULE = Schedule(steps=40, batch_size=8, learning_rate=1e-2, warmup_steps=5, ema_decay=0.9)


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.SiLU(), torch.nn.Linear(16, 1))


def loss_of(model: torch.nn.Module, stop_at: int | None = None, part: slice = slice(None)):
    def loss_at(step: int) -> torch.Tensor:
        if step == stop_at:
            raise KeyboardInterrupt
        inputs = torch.from_numpy(np.random.default_rng(step).standard_normal((8, 4)).astype(np.float32))[part]
        return functional.mse_loss(model(inputs), inputs.sum(dim=1, keepdim=True))

    return loss_at


def losses_in(directory: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (directory / "log.jsonl").read_text().splitlines()]


# Going on

# What child processes run: the network above, with steps that last long enough to be killed between.
CHILD = """
import sys, time
from pathlib import Path
import torch
from accelerate import PartialState
from test_training import SCHEDULE, loss_of, network
from svdrr.synthesis.training.loop import share, train

torch.set_num_threads(1)
PartialState(cpu=True)  # Without this argument, accelerate joins processes on GPUs only.
model = network()
loss_at = loss_of(model, part=share(8))

def slowly(step):
    time.sleep(float(sys.argv[2]))
    return loss_at(step)

train(model, slowly, SCHEDULE, Path(sys.argv[1]), save_every=7)
"""


def child(directory: Path, seconds_per_step: float, **variables: str) -> subprocess.Popen[bytes]:
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-c", CHILD, str(directory), str(seconds_per_step)]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path, **variables}, start_new_session=True)


def final_state(directory: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    assert saved_states(directory)[-1].name == f"step-{SCHEDULE.steps:07d}.safetensors"
    return load_file(saved_states(directory)[-1])


def test_an_interrupted_run_ends_in_the_same_weights(tmp_path: Path) -> None:
    whole = network()
    train(whole, loss_of(whole), SCHEDULE, tmp_path / "whole", save_every=10)

    broken = network()
    with pytest.raises(KeyboardInterrupt):
        train(broken, loss_of(broken, stop_at=37), SCHEDULE, tmp_path / "broken", save_every=10)
    resumed = network()
    train(resumed, loss_of(resumed), SCHEDULE, tmp_path / "broken", save_every=10)

    for expected, actual in zip(whole.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(actual, expected, rtol=0.0, atol=0.0)
    assert losses_in(tmp_path / "broken") == losses_in(tmp_path / "whole")


def test_a_process_killed_outright_goes_on_with_the_same_loss_curve(tmp_path: Path) -> None:
    whole = network()
    train(whole, loss_of(whole), SCHEDULE, tmp_path / "whole", save_every=7)

    killed = child(tmp_path / "killed", seconds_per_step=0.2)
    try:
        deadline = time.monotonic() + 120.0
        while not (tmp_path / "killed" / "step-0000021.safetensors").exists():
            assert time.monotonic() < deadline
            assert killed.poll() is None
            time.sleep(0.05)
    finally:
        os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "step-0000028.safetensors").exists()
    # Killed while it wrote.
    with (tmp_path / "killed" / "log.jsonl").open("a") as log:
        log.write('{"step": 39, "lo')

    assert child(tmp_path / "killed", seconds_per_step=0.0).wait() == 0
    np.testing.assert_allclose(losses_in(tmp_path / "killed"), losses_in(tmp_path / "whole"), rtol=1e-6)
    expected = final_state(tmp_path / "whole")
    for name, value in final_state(tmp_path / "killed").items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)


def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    one = network()
    train(one, loss_of(one), SCHEDULE, tmp_path / "one", save_every=10)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    variables = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "LOCAL_WORLD_SIZE": "2"}
    variables["OMP_NUM_THREADS"] = "1"
    processes = [child(tmp_path / "two", 0.0, RANK=rank, LOCAL_RANK=rank, **variables) for rank in ("0", "1")]
    assert [process.wait(120) for process in processes] == [0, 0]
    np.testing.assert_allclose(losses_in(tmp_path / "two"), losses_in(tmp_path / "one"), rtol=1e-5)
    expected = final_state(tmp_path / "one")
    for name, value in final_state(tmp_path / "two").items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    (tmp_path / "step-0000020.safetensors").write_bytes(b"half a file")
    model = network()
    with pytest.raises(SVDRRError, match=r"step-0000020\.safetensors' is damaged or of another network"):
        train(model, loss_of(model), SCHEDULE, tmp_path)


# Learning


def test_training_lowers_the_loss_and_keeps_two_states(tmp_path: Path) -> None:
    model = network()
    seen: list[tuple[int, int]] = []
    schedule = dataclasses.replace(SCHEDULE, steps=200)
    train(model, loss_of(model), schedule, tmp_path, save_every=20, on_step=lambda *step: seen.append(step))
    losses = losses_in(tmp_path)
    assert losses[-1] < 0.3 * losses[0]
    assert [state.name for state in saved_states(tmp_path)] == ["step-0000180.safetensors", "step-0000200.safetensors"]
    assert seen == [(step, 200) for step in range(1, 201)]
    assert not list(tmp_path.rglob("*.pkl")) + list(tmp_path.rglob("*.bin"))


def test_mixed_precision_computes_in_bfloat16_and_keeps_weights_in_float32(tmp_path: Path) -> None:
    model = network()
    computed: list[torch.dtype] = []
    model[0].register_forward_hook(lambda module, inputs, output: computed.append(output.dtype))
    schedule = dataclasses.replace(SCHEDULE, steps=200)
    train(model, loss_of(model), schedule, tmp_path, mixed_precision="bf16")
    assert set(computed) == {torch.bfloat16}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert losses_in(tmp_path)[-1] < 0.3 * losses_in(tmp_path)[0]


def test_the_weights_that_remain_are_averages(tmp_path: Path) -> None:
    """Against the average written out, from the weights after each step."""
    model = network()
    after: list[torch.Tensor] = []

    def remember(finished: int, total: int) -> None:
        after.append(model[2].bias.detach().clone())

    expected = model[2].bias.detach().clone()
    train(model, loss_of(model), SCHEDULE, tmp_path, on_step=remember)
    for index, value in enumerate(after):
        decay = 0.0 if index == 0 else min(1.0 - (1.0 + index) ** -0.75, SCHEDULE.ema_decay)
        expected = decay * expected + (1.0 - decay) * value
    torch.testing.assert_close(model[2].bias.detach(), expected, rtol=1e-5, atol=1e-6)
    assert not torch.equal(model[2].bias, after[-1])


def test_the_learning_rate_warms_up_and_falls_or_stays() -> None:
    rates = [learning_rate_at(step, SCHEDULE) for step in range(SCHEDULE.steps)]
    np.testing.assert_allclose(rates[:6], [0.002, 0.004, 0.006, 0.008, 0.01, 0.01])
    assert np.all(np.diff(rates[5:]) < 0.0)
    assert 0.0 < rates[-1] < 0.02 * SCHEDULE.learning_rate
    # Halfway through the cosine.
    assert learning_rate_at(5, dataclasses.replace(SCHEDULE, steps=6)) == 0.01
    assert learning_rate_at(20, dataclasses.replace(SCHEDULE, steps=35)) == pytest.approx(0.005)
    constant = dataclasses.replace(SCHEDULE, decay="constant")
    assert {learning_rate_at(step, constant) for step in range(4, 40)} == {0.01}


# Pictures and curves


def test_pictures_show_the_averaged_weights_and_do_not_disturb(tmp_path: Path) -> None:
    plain, drawn = network(), network()
    train(plain, loss_of(plain), SCHEDULE, tmp_path / "plain", save_every=20)
    biases: list[torch.Tensor] = []

    def picture() -> Radiograph:
        biases.append(drawn[2].bias.detach().clone())
        assert not drawn.training
        return Radiograph(np.full((16, 20), 0.5, np.float32), provenance=Provenance("test", "nothing"))

    train(drawn, loss_of(drawn), SCHEDULE, tmp_path / "drawn", save_every=20, picture=picture)
    assert torch.equal(biases[-1], plain[2].bias)
    assert torch.equal(drawn[2].bias, plain[2].bias)
    assert losses_in(tmp_path / "drawn") == losses_in(tmp_path / "plain")
    names = sorted(file.name for file in (tmp_path / "drawn" / "samples").iterdir())
    assert names == ["step-0000020.png", "step-0000040.png"]
    with pytest.raises(SVDRRError, match="single gray value"):
        read_radiograph(tmp_path / "drawn" / "samples" / names[0])


def test_tensorboard_gets_the_curves_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scalars: list[tuple[str, float, int]] = []
    pictures: list[tuple[str, tuple[int, ...], int]] = []

    class SummaryWriter:
        def __init__(self, folder: str, purge_step: int) -> None:
            assert folder == str(tmp_path / "tensorboard")
            assert purge_step == 0

        def add_scalar(self, name: str, value: float, step: int) -> None:
            scalars.append((name, value, step))

        def add_image(self, name: str, image: np.ndarray, step: int) -> None:
            pictures.append((name, image.shape, step))

        def close(self) -> None:
            scalars.append(("closed", 0.0, 0))

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    model = network()
    shown = Radiograph(np.full((16, 20), 0.5, np.float32), provenance=Provenance("test", "nothing"))
    train(model, loss_of(model), SCHEDULE, tmp_path, picture=lambda: shown)
    losses = [(value, step) for name, value, step in scalars if name == "loss"]
    assert losses == list(zip(losses_in(tmp_path), [19, 39], strict=True))
    assert {name for name, _, _ in scalars} == {"loss", "learning_rate", "seconds_per_step", "closed"}
    assert pictures == [("samples", (1, 16, 20), 40)]


# Guards


def test_a_loss_that_is_no_number_stops_with_a_sentence(tmp_path: Path) -> None:
    model = network()
    with pytest.raises(SVDRRError, match=r"The loss is nan at step 0, before anything was learned; .* new folder\.$"):
        train(model, lambda step: model(torch.full((1, 4), float("nan"))).sum(), SCHEDULE, tmp_path)
    assert not saved_states(tmp_path)


@pytest.mark.parametrize(("at", "end"), [(3, r"below 0\.01\.$"), (8, r"below 0\.01; '.*' keeps the states before\.$")])
def test_states_are_spoken_of_where_there_are_any(tmp_path: Path, at: int, end: str) -> None:
    model = network()
    with pytest.raises(SVDRRError, match=f"The loss is nan at step {at}; verify the data set, or .* {end}"):
        train(model, _scaled(model, {at: float("nan")}), SCHEDULE, tmp_path, save_every=5)


def _scaled(model: torch.nn.Module, factor_at: dict[int, float], beyond: int = 10**9):
    """A loss of about 1 that is so many times larger at some steps, and 20 times beyond one."""

    def loss_at(step: int) -> torch.Tensor:
        factor = factor_at.get(step, 20.0 if step >= beyond else 1.0)
        return factor * (1.0 + 0.0 * model(torch.zeros(1, 4)).sum())

    return loss_at


def test_a_loss_that_diverges_stops_with_a_sentence(tmp_path: Path) -> None:
    model = network()
    schedule = dataclasses.replace(SCHEDULE, steps=400)
    with pytest.raises(SVDRRError, match=r"at step 304 its median is 10\.5 over 10 steps, and was 1 over"):
        train(model, _scaled(model, {}, beyond=300), schedule, tmp_path)


def test_single_bad_batches_do_not_stop_a_run(tmp_path: Path) -> None:
    model = network()
    schedule = dataclasses.replace(SCHEDULE, steps=400)
    train(model, _scaled(model, dict.fromkeys((250, 252, 300, 399), 1000.0)), schedule, tmp_path)
    assert len(losses_in(tmp_path)) == 20


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"learning_rate": 0.0}, "learning rate must be above 0, not 0"),
        ({"learning_rate": -1e-5}, "learning rate must be above 0, not -1e-05"),
        ({"learning_rate": float("nan")}, "learning rate must be above 0, not nan"),
        ({"decay": "linear"}, "decay must be cosine or constant, not 'linear'"),
        ({"steps": 0}, "must be above 0"),
        ({"batch_size": 0}, "must be above 0"),
        ({"warmup_steps": -1}, "warm-up steps must not be negative, and -1 is"),
        ({"ema_decay": 2.0}, "averaged weights must lie in 0 to below 1, not 2"),
        ({"ema_decay": float("nan")}, "averaged weights must lie in 0 to below 1, not nan"),
    ],
)
def test_schedules_that_make_no_sense_are_refused(changed: dict, words: str) -> None:
    with pytest.raises(SVDRRError, match=words):
        dataclasses.replace(SCHEDULE, **changed)


def test_unknown_precision_and_no_states_are_refused(tmp_path: Path) -> None:
    model = network()
    with pytest.raises(SVDRRError, match="one of no, bf16, not 'fp16'"):
        train(model, loss_of(model), SCHEDULE, tmp_path, mixed_precision="fp16")
    with pytest.raises(SVDRRError, match="between two states must be above 0"):
        train(model, loss_of(model), SCHEDULE, tmp_path, save_every=0)
    assert not list(tmp_path.iterdir())


# Phantoms


def test_training_views_start_with_pa_and_stay_the_same_for_a_seed() -> None:
    poses = training_poses(5, (0.0, 0.0, 0.0))
    assert len(poses) == 72
    assert poses[0].label == "PA"
    assert poses == training_poses(5, (0.0, 0.0, 0.0)) != training_poses(6, (0.0, 0.0, 0.0))


def test_the_record_has_the_logs_and_their_curves(tmp_path: Path) -> None:
    lines = '{"step": 19, "loss": 0.5}\n{"step": 39, "loss": 0.25}\n'
    for stage in ("vae", "vcdit-256"):
        (tmp_path / stage).mkdir()
        (tmp_path / stage / "log.jsonl").write_text(lines)
    model = tmp_path / "model"
    model.mkdir()
    keep_record(model, {stage: tmp_path / stage for stage in ("vae", "vcdit-256")})
    assert (model / "training-vae.jsonl").read_text() == (model / "training-vcdit-256.jsonl").read_text() == lines
    with Image.open(model / "training.png") as curves:
        assert curves.width > 2 * curves.height
        assert len(np.unique(np.asarray(curves.convert("L")))) > 10
