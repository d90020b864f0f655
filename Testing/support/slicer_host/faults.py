"""Exceptions that reached Qt or VTK, where Slicer only prints them: kept, so that a test can fail on them."""

from __future__ import annotations

import sys
import traceback
from types import TracebackType

uncaught: list[str] = []
displayed: list[str] = []


def record(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an exception as Slicer would, and keep it.

    One that `slicer.util.tryWithErrorDisplay` has shown to the user is raised again by design; those are in
    `displayed`, all others in `uncaught`.
    """
    text = "".join(traceback.format_exception(kind, error, trace))
    print(text, file=sys.stderr)
    (displayed if getattr(error, "_shown_in_message_box", False) else uncaught).append(text)


def mark_displayed() -> None:
    """Note that the exception now being handled, if any, is in front of the user."""
    error = sys.exc_info()[1]
    if error is not None:
        error._shown_in_message_box = True  # type: ignore[attr-defined]
