"""Long work for the scene, as generators whose steps are short and run in the scene's thread.

A panel takes a step at every tick of a timer; `wait` takes them one after the other. What is long happens elsewhere, in
a thread, a process, or a backend, and the generator looks how far it is. Closing the generator cancels the work.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

import slicer

from svdrr.backend.jobs import JobStatus
from svdrr.errors import SVDRRError

Result = TypeVar("Result")

YIELD_S = 0.01
"""How long to sleep between two steps. Slicer's event loop holds Python's lock while it waits, so that other threads of
Python run only while Python itself sleeps."""


@dataclass(frozen=True)
class Progress:
    """How far a work is. stage: in words, without the numbers. done, total: its steps; 0 of 0 where it has none.

    eta_s: seconds left, where whoever works knows.
    """

    stage: str
    done: int = 0
    total: int = 0
    eta_s: float | None = None

    @staticmethod
    def of_job(status: JobStatus) -> Progress:
        """What a backend says of its job."""
        if status.state == "queued":
            before = f", {status.position} before it" if status.position else ""
            return Progress(f"Waiting for the backend{before}")
        return Progress(status.stage, status.step, status.steps, status.eta_s)


Steps = Generator[Progress, None, Result]
Say = Callable[[Progress], None]


def in_background(function: Callable[[Say], Result], stage: str) -> Steps[Result]:
    """Steps that wait for a function in a thread of its own, and return or raise what it does.

    function: must not touch the scene. It is called with a function that passes on its progress, and that raises once
    nobody waits for it any more.
    """
    latest = Progress(stage)
    outcome: list[Any] = []
    closed = threading.Event()

    def say(progress: Progress) -> None:
        nonlocal latest
        if closed.is_set():
            raise _ClosedError
        latest = progress

    def work() -> None:
        try:
            outcome.extend((True, function(say)))
        except _ClosedError:
            return
        except BaseException as error:
            outcome.extend((False, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            yield latest
    finally:
        closed.set()
    succeeded, value = outcome
    if not succeeded:
        raise value
    return value


def wait(steps: Steps[Result], on_progress: Say | None = None) -> Result:
    """Take all steps and return their result, for scripts and the Python console. Slicer's windows stay alive.

    on_progress: called with each new progress. Ctrl+C and whatever it raises cancel the work.
    """
    process_events = slicer.app.processEvents if hasattr(slicer, "app") else lambda: None
    told = None
    try:
        while True:
            try:
                progress = next(steps)
            except StopIteration as finished:
                return finished.value
            if on_progress is not None and progress != told:
                on_progress(progress)
            told = progress
            process_events()
            time.sleep(YIELD_S)
    finally:
        steps.close()


def require_in_scene(node: Any, name: str) -> None:
    """SVDRRError if a node that work has begun with was deleted meanwhile; `name`: what it was called."""
    if node.GetScene() is None or not slicer.mrmlScene.IsNodePresent(node):
        raise SVDRRError(f"'{name}' was deleted while the work went on; nothing was written to it.")


class _ClosedError(BaseException):
    """Nobody waits for this work any more."""
