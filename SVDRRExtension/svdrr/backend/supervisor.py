"""Keeps one worker process alive and gives it jobs."""

from __future__ import annotations

import json
import logging
import queue
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from svdrr.backend.store import ClaimedJob, JobStore

CANCEL_WITHIN_S = 0.6
"""A worker that has not let go of a cancelled job by then is killed: one step of a large model may take minutes."""

_LOOK_S = 0.1
_BEAT_S = 1.0
_RESTART_AFTER_S = 5.0

_log = logging.getLogger("svdrr.server")


class Supervisor(threading.Thread):
    """A thread that runs the store's jobs on `device`, in a process of its own."""

    def __init__(self, store: JobStore, device: str, compile_model: bool = False) -> None:
        super().__init__(name=f"svdrr-{device}", daemon=True)
        self.state: Mapping[str, Any] = {"name": device, "description": device, "ready": False, "problem": "starting"}
        self.wake = threading.Event()
        self._store, self._device, self._compile = store, device, compile_model
        # Another server may run the same device on the same store, so the name must be its own.
        self._owner = f"{device}-{secrets.token_hex(4)}"
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Ends the worker; a job that it was at goes back into the queue."""
        self._stopping.set()
        self.wake.set()
        self.join()

    def run(self) -> None:
        while not self._stopping.is_set():
            try:
                with closing(_Worker(self._device, self._compile)) as worker:
                    self._serve(worker)
            except Exception:
                _log.exception("%s", self._owner)
                self._stopping.wait(_LOOK_S)
            self.state = {**self.state, "ready": False, "problem": "its worker is being restarted"}

    def _serve(self, worker: _Worker) -> None:
        """Runs jobs until the worker has gone or this thread is to stop."""
        if not self._wait_until_ready(worker):
            return
        while not self._stopping.is_set() and worker.is_alive():
            self.wake.clear()
            job = self._store.claim(self._owner)
            if job is None:
                self.wake.wait(_LOOK_S)
            elif not self._run_one(worker, job):
                return

    def _wait_until_ready(self, worker: _Worker) -> bool:
        while not self._stopping.is_set():
            message = worker.next_message(_LOOK_S)
            if message is _GONE:
                self.state = {**self.state, "problem": f"its worker does not start ({worker.obituary()})"}
                _log.error("worker %s: %s", self._owner, self.state["problem"])
                self._stopping.wait(_RESTART_AFTER_S)
                return False
            if message is not None:
                self._note_device(message)
                _log.info("worker %s is ready: %s", self._owner, self.state["description"])
                return True
        return False

    def _run_one(self, worker: _Worker, job: ClaimedJob) -> bool:
        """Whether the worker is still of use after the job."""
        worker.send({"id": job.id, "job": job.job, "pixels": str(job.pixels), "results": str(job.results)})
        beat = time.monotonic()
        while True:
            message = worker.next_message(_LOOK_S)
            if message is _GONE:
                self._store.give_back(job.id, self._owner, f"The backend's worker ended ({worker.obituary()}).")
                _log.error("worker %s ended at job %s: %s", self._owner, job.id[:8], worker.obituary())
                return False
            if self._stopping.is_set():
                self._store.give_back(job.id, self._owner)
                return False
            if message is not None and message.get("id") == job.id:
                if "done" in message:
                    self._note_device(message)
                    self._store.finish(job.id, self._owner)
                    return True
                if "failed" in message:
                    self._store.finish(job.id, self._owner, message["failed"])
                    return True
                self._note_progress(job.id, message)
            if self._store.status(job.id) is None:
                return self._let_go(worker, job.id)
            if time.monotonic() - beat > _BEAT_S:
                beat = time.monotonic()
                if not self._store.still_running(job.id, self._owner):
                    return self._let_go(worker, job.id)

    def _let_go(self, worker: _Worker, job_id: str) -> bool:
        """Makes the worker drop a cancelled job; whether it did so by itself."""
        worker.send({"cancel": job_id})
        deadline = time.monotonic() + CANCEL_WITHIN_S
        while (left := deadline - time.monotonic()) > 0.0:
            message = worker.next_message(left)
            if message is _GONE:
                return False
            if message is not None and {"cancelled", "done", "failed"} & message.keys():
                return True
        return False

    def _note_progress(self, job_id: str, message: Mapping[str, Any]) -> None:
        if "views_done" in message:
            self._store.view_done(job_id, self._owner, message["views_done"])
        elif "stage" in message:
            step, steps, eta_s = message["step"], message["steps"], message["eta_s"]
            self._store.progress(job_id, self._owner, message["stage"], step, steps, eta_s)

    def _note_device(self, message: Mapping[str, Any]) -> None:
        names = ("name", "description", "memory_total_bytes", "memory_free_bytes")
        self.state = {**{name: message[name] for name in names}, "ready": True, "problem": ""}


_GONE: dict[str, Any] = {}


# With the search path of this process, which the environment alone does not give back where the packages lie beside
# those of another application's Python.
_RUN_MODULE = f"""
import runpy, sys
sys.path[:] = {sys.path!a}
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


class _Worker:
    """The process and its two channels."""

    def __init__(self, device: str, compile_model: bool) -> None:
        flags = ["--compile"] if compile_model else []
        self._process = subprocess.Popen(
            [sys.executable, "-c", _RUN_MODULE, "svdrr.backend.worker", device, *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            bufsize=1,
        )
        self._messages: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def send(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
        except OSError:
            _log.debug("a worker was gone before it could be told")

    def next_message(self, timeout_s: float) -> dict[str, Any] | None:
        """The next one, None if none comes in time, `_GONE` after the last."""
        try:
            return self._messages.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def obituary(self) -> str:
        code = self._process.wait()
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        try:
            for line in self._process.stdout:
                self._messages.put(json.loads(line))
        except ValueError:
            _log.error("a worker was cut off in the middle of a message")
        finally:
            self._messages.put(_GONE)
