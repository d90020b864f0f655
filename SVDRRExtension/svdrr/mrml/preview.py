"""Single views while a slider moves: always of the newest position, never a queue of old ones."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from svdrr.backend.client import ArrivedView, BackendClient, RunningJob
from svdrr.backend.request import Request
from svdrr.errors import SVDRRError
from svdrr.mrml.backend import BackendChoice, client_of, require_success
from svdrr.mrml.task import Progress, Steps
from svdrr.radiograph import Radiograph


class LivePreview:
    """Has a backend make what was wanted last.

    While a preview is at work, only the newest one waits; those between are never made. The backend keeps the pixels
    that they are made of, because each preview's job is held there until the next one has named them.
    """

    def __init__(self) -> None:
        self._wanted: tuple[Steps[Request], BackendChoice] | None = None
        self._held: RunningJob | None = None
        self._client: tuple[BackendChoice, BackendClient] | None = None

    def want(self, request: Steps[Request], choice: BackendChoice) -> None:
        """Have this made next, instead of what is waiting; by `steps`, if they are at work, too.

        request: steps, none of them taken yet, to a request for one view, best a `Request.hashed` one.
        """
        self._wanted = request, choice

    def steps(self, on_view: Callable[[Radiograph, float], None]) -> Steps[None]:
        """Steps that go on until nothing is wanted any more. SVDRRError with the reason if that fails.

        on_view: called with each view and with the seconds that it took, from the first of its steps on.
        """
        while self._wanted is not None:
            (making, choice), self._wanted = self._wanted, None
            client = yield from self._client_of(choice)
            began = time.monotonic()
            job = client.start((yield from making), hold=True)
            # Not before: with its last job the backend would drop the pixels.
            before, self._held = self._held, job
            try:
                yield from _take(client, job, on_view, began)
            except SVDRRError:
                self._client = None
                raise
            finally:
                if before is not None:
                    before.cancel()
                if not job.finished:
                    job.cancel()

    def close(self) -> None:
        """Want nothing any more, and have the backend forget the pixels."""
        self._wanted = self._client = None
        held, self._held = self._held, None
        if held is not None:
            held.cancel()

    def _client_of(self, choice: BackendChoice) -> Steps[BackendClient]:
        """Kept from preview to preview, because each step of the way to it is a part of what a preview may take."""
        if self._client is None or self._client[0] != choice:
            self._client = choice, (yield from client_of(choice))
        return self._client[1]


def _take(
    client: BackendClient, job: RunningJob, on_view: Callable[[Radiograph, float], None], began: float
) -> Steps[None]:
    progress = Progress("Waiting for the view")
    while not job.finished:
        for event in job.poll():
            if isinstance(event, ArrivedView):
                on_view(event.radiograph, time.monotonic() - began)
            else:
                progress = Progress.of_job(event)
        yield progress
    require_success(client, job)


def picture(radiograph: Radiograph) -> bytes:
    """A file that Qt reads without a library: the portable gray map of the pixels, 8 bits deep."""
    rows, columns = radiograph.pixels.shape
    gray: Any = (radiograph.pixels * 255.0 + 0.5).astype("uint8")
    return b"P5 %d %d 255\n" % (columns, rows) + gray.tobytes()
