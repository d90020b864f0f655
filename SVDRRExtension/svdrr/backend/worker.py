"""The process that does a server's heavy work, on one device: jobs in on standard input, news out on standard output.

Both are lines of JSON. It ends when its standard input does, so it never outlives its server.
"""

from __future__ import annotations

import io
import json
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from PIL import Image

from svdrr.backend.arrays import to_npy
from svdrr.backend.validation import read_job
from svdrr.backend.work import Workbench
from svdrr.errors import SVDRRError
from svdrr.geometry.viewsets import view_to_json
from svdrr.radiograph import Radiograph

PREVIEW_SIDE = 96

_log = logging.getLogger("svdrr.worker")


class _CancelledError(Exception):
    """The server does not want the job any more."""


class _Messages:
    """What the server says: jobs in their order, and which of them it does not want any more."""

    def __init__(self, stream: TextIO) -> None:
        self._jobs: queue.Queue[dict[str, Any]] = queue.Queue()
        self._cancelled: set[str] = set()
        threading.Thread(target=self._listen, args=(stream,), daemon=True).start()

    def jobs(self) -> Iterator[dict[str, Any]]:
        while True:
            yield self._jobs.get()

    def is_cancelled(self, job_id: str) -> bool:
        return job_id in self._cancelled

    def _listen(self, stream: TextIO) -> None:
        for line in stream:
            message = json.loads(line)
            if "cancel" in message:
                self._cancelled.add(message["cancel"])
            else:
                self._cancelled.clear()
                self._jobs.put(message)
        # The server has gone: nobody waits for what is being computed.
        os._exit(0)


class _Progress:
    """Tells the server how far a job is, with the time left of its present stage."""

    def __init__(self, job_id: str, messages: _Messages, say: Any) -> None:
        self._id, self._messages, self._say = job_id, messages, say
        self._stage, self._since = "", 0.0

    def __call__(self, stage: str, step: int, steps: int) -> None:
        if self._messages.is_cancelled(self._id):
            raise _CancelledError
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._since = stage, now
        eta_s = (now - self._since) / step * (steps - step) if step else None
        self._say(id=self._id, stage=stage, step=step, steps=steps, eta_s=eta_s)


def main(device: str, compile_model: bool) -> None:
    """Serves one job after the other until standard input ends."""
    # Ctrl+C reaches every process of the terminal; the server says what becomes of the job.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", stream=sys.stderr)
    # What a library prints must not come between the messages.
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def say(**message: Any) -> None:
        channel.write(json.dumps(message) + "\n")

    messages = _Messages(io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8"))
    workbench = Workbench(device, compile_model)
    say(ready=True, **device_state(device))
    for message in messages.jobs():
        job_id = message["id"]
        try:
            _do(workbench, message, _Progress(job_id, messages, say), say)
            say(id=job_id, done=True, **device_state(device))
        except _CancelledError:
            say(id=job_id, cancelled=True)
        except SVDRRError as error:
            say(id=job_id, failed=str(error))
        except OSError as error:
            say(id=job_id, failed=f"The backend could not store the result: {error.strerror or error}.")
        except MemoryError:
            say(id=job_id, failed="The backend's memory is too small for this job; ask for fewer pixels.")
        except Exception as error:
            _log.exception("job %s", job_id[:8])
            if _device_is_lost(error):
                os._exit(70)
            reason = f"The backend met an unexpected error ({type(error).__name__}); its log says more."
            say(id=job_id, failed=reason)


def device_state(device: str) -> dict[str, Any]:
    """name, description, total and free memory in bytes of the device ``cpu`` or ``cuda:N``."""
    if device.startswith("cuda"):
        import torch

        free, total = torch.cuda.mem_get_info(device)
        return {
            "name": device,
            "description": torch.cuda.get_device_name(device),
            "memory_total_bytes": total,
            "memory_free_bytes": free,
        }
    from svdrr.drr.parallel import core_count

    cores = core_count()
    memory = _memory_bytes()
    return {
        "name": "cpu",
        "description": f"CPU, {cores} core{'s' * (cores > 1)}",
        "memory_total_bytes": memory.get("MemTotal"),
        "memory_free_bytes": memory.get("MemAvailable"),
    }


def _memory_bytes() -> dict[str, int]:
    """Main memory, where the system says so."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    return {name: int(rest.split()[0]) * 1024 for name, rest in (line.split(":") for line in lines)}


def _do(workbench: Workbench, message: dict[str, Any], progress: _Progress, say: Any) -> None:
    job = read_job(message["job"])
    results = Path(message["results"])
    for index, radiograph in enumerate(workbench.views(job, Path(message["pixels"]), progress)):
        _write_view(results, index, radiograph)
        say(id=message["id"], views_done=index + 1)


def _write_view(folder: Path, index: int, radiograph: Radiograph) -> None:
    name = f"view_{index:05d}"
    entry = {
        "array": f"{name}.npy",
        "label": radiograph.view.pose.label if radiograph.view else "",
        "pixel_spacing_mm": radiograph.pixel_spacing_mm,
        "view": view_to_json(radiograph.view) if radiograph.view else None,
        "provenance": radiograph.provenance.attributes() if radiograph.provenance else {},
    }
    (folder / f"{name}.npy").write_bytes(to_npy(radiograph.pixels.astype(np.float32, copy=False)))
    preview = Image.fromarray(np.round(radiograph.pixels * 255.0).astype(np.uint8))
    preview.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    preview.save(folder / f"{name}.png")
    (folder / f"{name}.json").write_text(json.dumps(entry), encoding="utf-8")


def _device_is_lost(error: Exception) -> bool:
    """After an error in a CUDA kernel, nothing works in this process any more."""
    return isinstance(error, RuntimeError) and "CUDA error" in str(error)


if __name__ == "__main__":
    main(sys.argv[1], "--compile" in sys.argv[2:])
