"""The training loop that VAE and VCDiT share: accelerate, EMA, exact resume."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from svdrr.errors import SVDRRError
from svdrr.files import whole_directory
from svdrr.synthesis.configuration import Schedule

LOG_EVERY = 20
_STATE_PREFIX = "step-"


def train(
    model: nn.Module,
    loss_at: Callable[[int], Tensor],
    schedule: Schedule,
    directory: Path,
    save_every: int = 200,
) -> None:
    """Trains `model` in place and leaves the averaged (EMA) weights in it.

    loss_at(step) draws everything random from the step number alone, never from a global generator; so a run
    that was killed and started again takes the same steps as one that was not. directory: gets ``log.jsonl`` and
    the newest two states; if there is a state already, training goes on from it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    accelerator = Accelerator()
    optimizer = torch.optim.AdamW(model.parameters(), lr=schedule.learning_rate, weight_decay=0.01)
    learning_rate = get_cosine_schedule_with_warmup(optimizer, schedule.warmup_steps, schedule.steps)
    prepared, optimizer, learning_rate = accelerator.prepare(model, optimizer, learning_rate)
    ema = EMAModel(model.parameters(), decay=schedule.ema_decay, use_ema_warmup=True, power=0.75)
    accelerator.register_for_checkpointing(ema)

    step = 0
    states = saved_states(directory)
    if states:
        accelerator.load_state(str(states[-1]))
        step = _step_of(states[-1])
    log = _Log(directory / "log.jsonl", step)
    prepared.train()
    while step < schedule.steps:
        loss = loss_at(step)
        if not math.isfinite(loss.item()):
            raise SVDRRError(
                f"The loss is {loss.item()} at step {step}; lower the learning rate ({schedule.learning_rate:g}) "
                f"and start again from the last state in '{directory}'."
            )
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(prepared.parameters(), 1.0)
        optimizer.step()
        log.add(step, loss.item(), learning_rate.get_last_lr()[0])
        learning_rate.step()
        optimizer.zero_grad()
        ema.step(model.parameters())
        step += 1
        if step % save_every == 0 or step == schedule.steps:
            with whole_directory(directory / f"{_STATE_PREFIX}{step:07d}") as temporary:
                accelerator.save_state(str(temporary))
            for old in saved_states(directory)[:-2]:
                shutil.rmtree(old)
    ema.copy_to(model.parameters())
    model.eval()


def saved_states(directory: Path) -> list[Path]:
    """Complete training states in `directory`, oldest first."""
    return sorted(directory.glob(f"{_STATE_PREFIX}*"))


def _step_of(state: Path) -> int:
    return int(state.name.removeprefix(_STATE_PREFIX))


class _Log:
    """Mean loss of every `LOG_EVERY` steps as JSON lines; what lies beyond the resumed step is dropped."""

    def __init__(self, path: Path, resumed_step: int) -> None:
        self._path = path
        self._losses: list[float] = []
        self._started = time.monotonic()
        kept = path.read_text().splitlines(keepends=True) if path.exists() else []
        path.write_text("".join(line for line in kept if json.loads(line)["step"] < resumed_step))

    def add(self, step: int, loss: float, learning_rate: float) -> None:
        self._losses.append(loss)
        if (step + 1) % LOG_EVERY:
            return
        entry = {
            "step": step,
            "loss": sum(self._losses) / len(self._losses),
            "learning_rate": learning_rate,
            "seconds_per_step": (time.monotonic() - self._started) / len(self._losses),
        }
        with self._path.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        self._losses.clear()
        self._started = time.monotonic()
