"""Takes the steps of long work by a timer of Qt, so that the window stays alive."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from typing import Any

import qt
from slicer.i18n import tr as _

from svdrr.errors import SVDRRError
from svdrr.mrml.task import YIELD_S, Progress, Steps

_INTERVAL_MS = 10


class Stepper:
    """One work at a time, see `svdrr.mrml.task`.

    on_progress: called after each step. on_error: with the sentence and the details, which may be empty.
    """

    def __init__(self, on_progress: Callable[[Progress], None], on_error: Callable[[str, str], None]) -> None:
        self._on_progress, self._on_error = on_progress, on_error
        self._steps: Steps[Any] | None = None
        self._stepping = False
        self._timer = qt.QTimer()
        self._timer.setInterval(_INTERVAL_MS)
        self._timer.connect("timeout()", self._step)

    @property
    def running(self) -> bool:
        """Whether there is work that has not ended."""
        return self._steps is not None

    def start(self, steps: Steps[Any], on_done: Callable[[Any], None]) -> None:
        """Begin; what runs already is cancelled. on_done: called with the result."""
        self.cancel()
        self._steps, self._on_done = steps, on_done
        self._timer.start()

    def cancel(self) -> None:
        """End the work, if there is any; neither on_done nor on_error is called."""
        self._timer.stop()
        steps, self._steps = self._steps, None
        # A step that is under way, such as one that asks the user something, ends by itself.
        if steps is not None and not self._stepping:
            steps.close()

    def _step(self) -> None:
        steps = self._steps
        if steps is None or self._stepping:
            return
        self._stepping = True
        try:
            progress = next(steps)
        except StopIteration as finished:
            result = finished.value
            self._end(steps, lambda: self._on_done(result))
        except SVDRRError as error:
            sentence = str(error)
            self._end(steps, lambda: self._on_error(sentence, ""))
        except Exception as error:
            self._end(steps, self._unexpected(error))
        else:
            if self._steps is not steps:
                steps.close()
                return
            self._on_progress(progress)
            time.sleep(YIELD_S)
        finally:
            self._stepping = False

    def _end(self, steps: Steps[Any], tell: Callable[[], None]) -> None:
        if self._steps is not steps:
            return
        self._timer.stop()
        self._steps = None
        try:
            tell()
        except SVDRRError as error:
            self._on_error(str(error), "")
        except Exception as error:
            self._unexpected(error)()

    def _unexpected(self, error: Exception) -> Callable[[], None]:
        details = "".join(traceback.format_exception(error))
        sentence = _("An unexpected error ended the work: {error}.").format(error=f"{type(error).__name__}: {error}")
        return lambda: self._on_error(sentence, details)
