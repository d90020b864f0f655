"""The training loop that all networks share: mixed precision, several GPUs, EMA, exact resume, guards."""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import reduce
from diffusers.training_utils import EMAModel
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from svdrr.errors import SVDRRError
from svdrr.files import whole_file
from svdrr.images import write_png
from svdrr.radiograph import Radiograph
from svdrr.synthesis.configuration import Schedule

LOG_EVERY = 20
LOG_FILE = "log.jsonl"
MIXED_PRECISIONS = ("no", "bf16")
RECENT_LOSSES, EARLIER_LOSSES, DIVERGED = 10, 200, 5.0
"""Training has diverged where the median of the recent losses is so many times that of the earlier ones.

One bad batch is no reason to stop: a resumed run would meet the same batch again.
"""
_LEARNED, _AVERAGED, _OPTIMIZER = "model/", "ema/", "optimizer/"


def train(
    model: nn.Module,
    loss_at: Callable[[int], Tensor],
    schedule: Schedule,
    directory: Path,
    save_every: int = 200,
    mixed_precision: str = "no",
    picture: Callable[[], Radiograph] | None = None,
    on_step: Callable[[int, int], None] | None = None,
    target: nn.Module | None = None,
) -> None:
    """Trains `model` in place, on the GPU if there is one, and leaves the averaged (EMA) weights in it.

    loss_at(step) draws everything random from the step number alone, never from a global generator; so a run
    that was killed and started again takes the same steps as one that was not. Of several processes, as
    ``accelerate launch`` starts them, each returns the mean over its `share` of the batch; gradients are averaged
    over the processes, so the steps are those of one process but for the order in which numbers are added.
    directory: gets ``log.jsonl`` and the newest two states; if there is a state already, training goes on from it.
    mixed_precision: "bf16" computes in bfloat16 where autocast finds it safe; weights and their updates stay float32.
    picture: drawn with the averaged weights whenever a state is saved, kept in ``samples/``. Where TensorBoard is
    installed, curves and pictures go to ``tensorboard/`` too. on_step: finished and total steps. target: a copy of
    `model` that has the averaged weights before every step, for losses that compare with them.
    SVDRRError if an option makes no sense, and where the loss is not finite or diverges.
    """
    check_options(mixed_precision, save_every)
    processes = PartialState()
    device: torch.device = processes.device
    directory.mkdir(parents=True, exist_ok=True)
    model.to(device).train()
    learned = {name: value for name, value in model.named_parameters() if value.requires_grad}
    parameters = list(learned.values())
    followers = []
    if target is not None:
        target.to(device).requires_grad_(False)
        followers = [value for name, value in target.named_parameters() if name in learned]
    optimizer = torch.optim.AdamW(parameters, lr=schedule.learning_rate, weight_decay=0.01)
    ema = EMAModel(parameters, decay=schedule.ema_decay, use_ema_warmup=True, power=0.75, foreach=True)
    losses: deque[float] = deque(maxlen=RECENT_LOSSES + EARLIER_LOSSES)

    step = 0
    states = saved_states(directory)
    if states:
        step = _load_state(states[-1], learned, optimizer, ema, losses)
    with _curves(directory, step, processes.is_main_process) as curves:
        while step < schedule.steps:
            if followers:
                ema.copy_to(followers)
            learning_rate = learning_rate_at(step, schedule)
            optimizer.param_groups[0]["lr"] = learning_rate
            with torch.autocast(device.type, torch.bfloat16, enabled=mixed_precision == "bf16"):
                loss = loss_at(step)
            loss.backward()
            losses.append(reduce(loss.detach(), "mean").item())
            _check_losses(losses, step, schedule, directory)
            if processes.num_processes > 1:
                _average_gradients(parameters)
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            ema.step(parameters)
            step += 1
            if step % LOG_EVERY == 0:
                curves.add(step - 1, losses, learning_rate)
            if on_step is not None:
                on_step(step, schedule.steps)
            if (step % save_every == 0 or step == schedule.steps) and processes.is_main_process:
                with whole_file(_state_file(directory, step)) as file:
                    _save_state(file, learned, optimizer, ema, losses)
                for old in saved_states(directory)[:-2]:
                    old.unlink()
                if picture is not None:
                    with _averaged_weights(model, parameters, ema):
                        curves.add_picture(step, picture())
    ema.copy_to(parameters)
    model.eval()


def share(batch_size: int) -> slice:
    """Which samples of a batch this process takes: every n-th of n processes.

    SVDRRError unless all take equally many: else the mean of their means would not be the batch's.
    """
    processes = PartialState()
    if batch_size % processes.num_processes:
        raise SVDRRError(
            f"A batch of {batch_size} cannot be shared evenly by {processes.num_processes} processes; "
            "start a number of processes that divides it."
        )
    return slice(processes.process_index, None, processes.num_processes)


def learning_rate_at(step: int, schedule: Schedule) -> float:
    """Linear warm-up, then constant or half a cosine down to almost 0; above 0 at every step."""
    if step < schedule.warmup_steps:
        return schedule.learning_rate * (step + 1) / schedule.warmup_steps
    if schedule.decay == "constant":
        return schedule.learning_rate
    done = (step - schedule.warmup_steps) / (schedule.steps - schedule.warmup_steps)
    return schedule.learning_rate * 0.5 * (1.0 + math.cos(math.pi * done))


# Guards


def check_options(mixed_precision: str, save_every: int) -> None:
    """SVDRRError unless `train` takes them; for those who do long work before it."""
    if save_every < 1:
        raise SVDRRError(f"The number of steps between two states must be above 0, not {save_every}.")
    if mixed_precision not in MIXED_PRECISIONS:
        raise SVDRRError(f"The mixed precision must be one of {', '.join(MIXED_PRECISIONS)}, not '{mixed_precision}'.")


def _check_losses(losses: deque[float], step: int, schedule: Schedule, directory: Path) -> None:
    """Called with the mean loss of all processes, so that all of them stop, or none."""
    if not math.isfinite(losses[-1]) and step == 0:
        raise SVDRRError(
            f"The loss is {losses[-1]} at step 0, before anything was learned; verify the images and the weights that "
            "training begins with, and train in a new folder."
        )
    kept = f"; '{directory}' keeps the states before." if saved_states(directory) else "."
    advice = f"train in a new folder with a learning rate below {schedule.learning_rate:g}{kept}"
    if not math.isfinite(losses[-1]):
        raise SVDRRError(f"The loss is {losses[-1]} at step {step}; verify the data set, or {advice}")
    if len(losses) < RECENT_LOSSES + EARLIER_LOSSES:
        return
    recent, earlier = np.median(list(losses)[-RECENT_LOSSES:]), np.median(list(losses)[:EARLIER_LOSSES])
    if recent > DIVERGED * earlier:
        raise SVDRRError(
            f"The loss diverges: at step {step} its median is {recent:.3g} over {RECENT_LOSSES} steps, and was "
            f"{earlier:.3g} over the {EARLIER_LOSSES} before; {advice}"
        )


# Several processes


def _average_gradients(parameters: list[nn.Parameter]) -> None:
    """In place of a wrapper about the model, so that a loss may call the model's parts as it likes."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad = reduce(parameter.grad, "mean")


# States


def saved_states(directory: Path) -> list[Path]:
    """Complete training states in `directory`, oldest first."""
    return sorted(directory.glob("step-*.safetensors"))


def averaged_weights(state: Path) -> dict[str, Tensor]:
    """The averaged weights, by the parameters' names, of one of `saved_states`."""
    with safe_open(state, "pt") as stored:
        names = [name for name in stored.keys() if name.startswith(_AVERAGED)]  # noqa: SIM118, it is no dictionary
        return {name.removeprefix(_AVERAGED): stored.get_tensor(name) for name in names}


def _state_file(directory: Path, step: int) -> Path:
    return directory / f"step-{step:07d}.safetensors"


def _save_state(
    file: Path, learned: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, ema: EMAModel, losses: deque[float]
) -> None:
    """Everything that the next steps depend on, beside their number, which is the file's name."""
    tensors = {_LEARNED + name: value.detach() for name, value in learned.items()}
    tensors |= {_AVERAGED + name: value for name, value in zip(learned, ema.shadow_params, strict=True)}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"{_OPTIMIZER}{index}/{name}": value for name, value in moments.items()}
    tensors["losses"] = torch.tensor(list(losses), dtype=torch.float64)
    save_file({name: value.contiguous() for name, value in tensors.items()}, file)


def _load_state(
    file: Path, learned: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, ema: EMAModel, losses: deque[float]
) -> int:
    """Inverse of `_save_state`; returns the step. SVDRRError if the state is damaged or another network's."""
    step = int(file.stem.removeprefix("step-"))
    moments: dict[int, dict[str, Tensor]] = {}
    try:
        with safe_open(file, "pt") as state, torch.no_grad():
            for (name, parameter), averaged in zip(learned.items(), ema.shadow_params, strict=True):
                parameter.copy_(state.get_tensor(_LEARNED + name))
                averaged.copy_(state.get_tensor(_AVERAGED + name))
            for key in state.keys():  # noqa: SIM118, it is no dictionary
                if key.startswith(_OPTIMIZER):
                    _, index, name = key.split("/")
                    moments.setdefault(int(index), {})[name] = state.get_tensor(key)
            losses.extend(state.get_tensor("losses").tolist())
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": moments, "param_groups": groups})
    except Exception as error:  # whatever safetensors and torch raise for a file that is not what it should be
        raise SVDRRError(
            f"The training state '{file}' is damaged or of another network; remove it to go on from the one before."
        ) from error
    ema.optimization_step = step
    return step


@contextmanager
def _averaged_weights(model: nn.Module, parameters: list[nn.Parameter], ema: EMAModel) -> Iterator[None]:
    ema.store(parameters)
    ema.copy_to(parameters)
    model.eval()
    yield
    model.train()
    ema.restore(parameters)


# Curves


@contextmanager
def _curves(directory: Path, resumed_step: int, is_main_process: bool) -> Iterator[_Curves]:
    """What lies beyond the resumed step is dropped. Processes other than the main one write nothing."""
    if not is_main_process:
        yield _Curves(None, None)
        return
    log = directory / LOG_FILE
    kept = [line for line in _lines(log) if line["step"] < resumed_step]
    with whole_file(log) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
    writer = _tensorboard_writer(directory / "tensorboard", resumed_step)
    try:
        yield _Curves(directory, writer)
    finally:
        if writer is not None:
            writer.close()


def _lines(log: Path) -> Iterator[dict[str, Any]]:
    """The entries of a log; a process that was killed may have left half a line as its last."""
    if log.exists():
        for line in log.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n"):
                yield json.loads(line)


def _tensorboard_writer(folder: Path, resumed_step: int) -> Any:
    """None where TensorBoard is not installed: the log has the same numbers."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=resumed_step)


@dataclass
class _Curves:
    """Mean loss of every `LOG_EVERY` steps as JSON lines, and in TensorBoard where there is one."""

    directory: Path | None
    writer: Any
    started: float = 0.0

    def __post_init__(self) -> None:
        self.started = time.monotonic()

    def add(self, step: int, losses: deque[float], learning_rate: float) -> None:
        if self.directory is None:
            return
        entry = {
            "step": step,
            "loss": sum(list(losses)[-LOG_EVERY:]) / LOG_EVERY,
            "learning_rate": learning_rate,
            "seconds_per_step": (time.monotonic() - self.started) / LOG_EVERY,
        }
        if torch.cuda.is_available():
            entry["gpu_memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
        with (self.directory / LOG_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        if self.writer is not None:
            for name in entry.keys() - {"step"}:
                self.writer.add_scalar(name, entry[name], step)
        self.started = time.monotonic()

    def add_picture(self, step: int, picture: Radiograph) -> None:
        assert self.directory is not None
        (self.directory / "samples").mkdir(exist_ok=True)
        write_png(self.directory / "samples" / f"step-{step:07d}.png", picture)
        if self.writer is not None:
            self.writer.add_image("samples", picture.pixels[None], step)
