"""Sends jobs to a backend and fetches their images: blocking, or in the background for a panel that polls.

Needs numpy and requests, which 3D Slicer brings along.
"""

from __future__ import annotations

import base64
import io
import json
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, fields, replace
from typing import Any
from urllib.parse import quote

import numpy as np
import urllib3

from svdrr.backend.arrays import npy_sha256, radiographs_from_zip, to_npy
from svdrr.backend.connection import LOST, TIMEOUT_S, BackendError, Connection, Verify, test_connection
from svdrr.backend.jobs import API, Job, JobStatus, job_to_json, view_count
from svdrr.backend.request import Request
from svdrr.errors import SVDRRError
from svdrr.radiograph import Radiograph

__all__ = ["ArrivedView", "BackendClient", "BackendError", "FinishedView", "RunningJob", "test_connection"]

PATIENCE_S = 60.0
"""For how long a lost connection is tried again."""

SILENCE_S = 15.0
"""A server says something at least every 5 s while it is followed, if only that it is there."""

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 8.0
_MAX_LINE_BYTES = 2**22
_LARGE_BYTES = 2**20


@dataclass(frozen=True)
class FinishedView:
    """News that a view can be fetched. label: its name for people. preview_png: a small PNG file."""

    index: int
    label: str
    preview_png: bytes


@dataclass(frozen=True, eq=False)
class ArrivedView:
    """A view that has been fetched; index: that of its pose in the request."""

    index: int
    radiograph: Radiograph


Event = JobStatus | ArrivedView


class BackendClient:
    """A backend, wherever it is. Arguments as in `svdrr.backend.connection.Connection`.

    Every method waits for the network, but `start`; every one may be called from any thread. They raise SVDRRError,
    as BackendError with a code in the words of `test_connection` where the backend cannot be reached, or in those of
    the server where it refuses. patience_s: for how long a lost connection is tried again while a job is followed.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        verify: Verify = True,
        timeout_s: tuple[float, float] = TIMEOUT_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._connection = Connection(url, token, verify, timeout_s)
        self._patience_s = patience_s
        self._sent: set[str] = set()

    @property
    def url(self) -> str:
        """The backend's address."""
        return self._connection.url

    def capabilities(self) -> dict[str, Any]:
        """Version, devices, queue, models, methods, engines and limits, as API v1 has them."""
        found: dict[str, Any] = self._connection.get_json(f"/{API}/capabilities")
        return found

    def submit(self, request: Request) -> str:
        """The id of the new job. Pixels that this client has sent before are not sent again if the server has them."""
        return self._submit(request, lambda sent, size: None)

    def status(self, job_id: str) -> JobStatus:
        """The job as it stands."""
        return self._status(self._connection.get_json(_path(job_id)))

    def follow(self, job_id: str) -> Iterator[JobStatus | FinishedView]:
        """The job's statuses as they change, to the last, and its views as they are finished, each once.

        Goes on after the connection was lost, if it comes back in time.
        """
        return self._follow(job_id, _Patience(self._patience_s, threading.Event()))

    def view(self, job_id: str, index: int) -> Radiograph:
        """One view, as soon as it is finished, as the server labels it; see `Request.restore`."""
        views = self._radiographs(f"{_path(job_id)}/result/{index}")
        if len(views) != 1:
            raise self._not_understood()
        return views[0]

    def result(self, job_id: str) -> list[Radiograph]:
        """All views of a job that is done, as the server labels them; see `Request.restore`."""
        return self._radiographs(f"{_path(job_id)}/result")

    def cancel(self, job_id: str) -> None:
        """Ends the job, if it has not ended, and has the server forget it with its pixels and views."""
        try:
            self._connection.send("DELETE", _path(job_id)).close()
        except BackendError as error:
            if error.code != "not_found":
                raise

    def run(self, request: Request, on_status: Callable[[JobStatus], None] | None = None) -> list[Radiograph]:
        """The request's images, in the order of its poses.

        on_status: called with each new status. What it raises, and Ctrl+C, cancels the job.
        """
        views: dict[int, Radiograph] = {}

        def take(event: Event) -> None:
            if isinstance(event, ArrivedView):
                views[event.index] = event.radiograph
            elif on_status is not None:
                on_status(event)

        self._work(request, take, threading.Event())
        return [views[index] for index in sorted(views)]

    def start(self, request: Request, hold: bool = False) -> RunningJob:
        """The same in the background: returns at once.

        hold: keep the job on the server when it is done, until `RunningJob.cancel`, so that the next one with the same
        pixels, such as the next preview of a CT, finds them there. The server forgets it when nobody asks for long.
        """
        return RunningJob(self, request, hold)

    def _work(self, request: Request, tell: Callable[[Event], None], stop: threading.Event, hold: bool = False) -> None:
        """Submits, follows, fetches, and cleans up behind itself. _Stopped soon after `stop` is set."""
        job_id = self._submit(request, _upload_teller(request.job, tell, stop))
        patience = _Patience(self._patience_s, stop)
        done = False
        try:
            self._fetch_all(job_id, request, tell, patience)
            done = True
        finally:
            if not (hold and done):
                self._forget(job_id)

    def _fetch_all(self, job_id: str, request: Request, tell: Callable[[Event], None], patience: _Patience) -> None:
        arrived: set[int] = set()

        def fetch(index: int) -> None:
            if index not in arrived:
                view = request.restore(patience.until_it_works(lambda: self.view(job_id, index)))
                arrived.add(index)
                tell(ArrivedView(index, view))

        with closing(self._follow(job_id, patience)) as events:
            for event in events:
                patience.check()
                if isinstance(event, FinishedView):
                    _unless_lost(fetch, event.index)
                    continue
                if event.state == "done":
                    for index in range(event.views_total):
                        fetch(index)
                tell(event)
                if event.state == "failed":
                    raise BackendError("failed", event.message)

    def _submit(self, request: Request, on_sent: Callable[[int, int], None]) -> str:
        if request.pixels.nbytes < _LARGE_BYTES:
            return self._post(_whole(request.job, to_npy(request.pixels)), on_sent)
        digest = request.pixels_sha256 or npy_sha256(request.pixels)
        if digest in self._sent:
            try:
                return self._post({"job": _json(replace(request.job, pixels_sha256=digest))}, on_sent)
            except BackendError as error:
                if error.code != "pixels_unknown":
                    raise
        pixels = to_npy(request.pixels)
        # Asked before the pixels go, since a server that refuses may hang up on a client that is still sending.
        most = self._max_request_bytes()
        if len(pixels) > most:
            raise BackendError(
                "too_large",
                f"These pixels have {len(pixels) / 2**20:.0f} MiB; the backend takes {most / 2**20:.0f} MiB.",
            )
        job_id = self._post(_whole(request.job, pixels), on_sent)
        self._sent.add(digest)
        return job_id

    def _max_request_bytes(self) -> int:
        try:
            return int(self.capabilities()["limits"]["max_request_bytes"])
        except (KeyError, TypeError, ValueError):
            raise self._not_understood() from None

    def _post(self, parts: dict[str, Any], on_sent: Callable[[int, int], None]) -> str:
        body, content_type = urllib3.encode_multipart_formdata(parts)
        read_timeout_s = self._connection.timeout_s[1]
        with self._connection.send(
            "POST",
            f"/{API}/jobs",
            data=_Upload(body, on_sent),
            headers={"Content-Type": content_type},
            # requests gives each block that is sent the time to connect, which a busy server may need longer for.
            timeout_s=(read_timeout_s, read_timeout_s),
        ) as response:
            return self._status(self._connection.read_json(response)).id

    def _status(self, entries: Any) -> JobStatus:
        try:
            return JobStatus(**{field.name: entries[field.name] for field in fields(JobStatus)})
        except (KeyError, TypeError):
            raise self._not_understood() from None

    def _radiographs(self, path: str) -> list[Radiograph]:
        with self._connection.send("GET", path) as response:
            return radiographs_from_zip(b"".join(self._connection.pieces(response, 2**20)))

    def _forget(self, job_id: str) -> None:
        """Cancels as far as that is possible; the server drops a job by itself that nobody asks for."""
        try:
            self.cancel(job_id)
        except BackendError:
            return

    def _follow(self, job_id: str, patience: _Patience) -> Generator[JobStatus | FinishedView, None, None]:
        announced: set[int] = set()
        finished = False
        while not finished:
            try:
                # To its end, which comes right after the last status: a connection that was read out is used again.
                for event in self._events(job_id, max(announced, default=-1) + 1):
                    patience.renew()
                    if isinstance(event, FinishedView):
                        if event.index in announced:
                            continue
                        announced.add(event.index)
                    yield event
                    finished = isinstance(event, JobStatus) and event.finished
                if not finished:
                    raise BackendError("dropped", f"{self.url} broke off its report; the job may go on there.")
            except BackendError as error:
                if not finished:
                    patience.wait_after(error)

    def _events(self, job_id: str, first_view: int) -> Iterator[JobStatus | FinishedView]:
        """What the server reports over one connection; of the views, those from `first_view` on."""
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(first_view)}
        timeout_s = (self._connection.timeout_s[0], SILENCE_S)
        with self._connection.send("GET", f"{_path(job_id)}/events", headers=headers, timeout_s=timeout_s) as response:
            try:
                for message in _messages(self._connection.pieces(response)):
                    kind, data = message.get("event"), json.loads(message.get("data", "null"))
                    if kind == "status":
                        yield self._status(data)
                    elif kind == "view":
                        png = base64.b64decode(data["preview_png"], validate=True)
                        yield FinishedView(data["index"], data["label"], png)
                    elif kind == "gone":
                        raise BackendError("gone", "The job was cancelled on the backend.")
            except (ValueError, KeyError, TypeError):
                raise self._not_understood() from None

    def _not_understood(self) -> BackendError:
        return BackendError("version", f"{self.url} answers in a way that this version of SVDRR does not know; update.")


class RunningJob:
    """A request at work in the background, for a timer of a panel: nothing here waits.

    finished: whether no more events will come. error: why it failed, for people; empty if it did not.
    """

    def __init__(self, client: BackendClient, request: Request, hold: bool = False) -> None:
        self.finished = False
        self.error = ""
        self._client, self._request, self._held = client, request, hold
        self._news: queue.SimpleQueue[Event | str] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._job_id = ""
        threading.Thread(target=self._work, daemon=True).start()

    def poll(self) -> list[Event]:
        """What has happened since the last call: statuses, and views one by one, all before the status "done"."""
        events: list[Event] = []
        while not self.finished:
            try:
                news = self._news.get_nowait()
            except queue.Empty:
                break
            if isinstance(news, str):
                self.finished, self.error = True, news
            else:
                events.append(news)
        return events

    def cancel(self) -> None:
        """Ends the job here at once, and on the server as soon as that can be reached; there also one that is held."""
        if self.finished and not self._held:
            return
        self.finished, self._held = True, False
        self._stop.set()
        if self._job_id:
            # The job's own thread may be waiting for the server's next word.
            threading.Thread(target=self._client._forget, args=(self._job_id,), daemon=True).start()

    def _work(self) -> None:
        try:
            self._client._work(self._request, self._tell, self._stop, self._held)
            self._news.put("")
        except _StoppedError:
            return
        except SVDRRError as error:
            self._news.put(str(error))
        except Exception as error:  # else the panel would wait for ever
            self._news.put(f"The job ended by an unexpected error ({type(error).__name__}: {error}).")

    def _tell(self, event: Event) -> None:
        if isinstance(event, JobStatus):
            self._job_id = event.id
        self._news.put(event)


class _StoppedError(Exception):
    """The user has cancelled."""


class _Patience:
    """How long to go on trying when the connection is lost, with growing pauses."""

    def __init__(self, seconds: float, stop: threading.Event) -> None:
        self._seconds, self._stop = seconds, stop
        self.renew()

    def renew(self) -> None:
        """The server was heard."""
        self._pause_s = _FIRST_PAUSE_S
        self._until = 0.0

    def check(self) -> None:
        """_StoppedError once the user has cancelled."""
        if self._stop.is_set():
            raise _StoppedError

    def wait_after(self, error: BackendError) -> None:
        """Waits a little before the next attempt; raises `error` if another makes no sense."""
        self.check()
        if error.code not in LOST:
            raise error
        now = time.monotonic()
        self._until = self._until or now + self._seconds
        if now + self._pause_s > self._until:
            raise error
        self._stop.wait(self._pause_s)
        self.check()
        self._pause_s = min(2.0 * self._pause_s, _LONGEST_PAUSE_S)

    def until_it_works(self, fetch: Callable[[], Radiograph]) -> Radiograph:
        """What `fetch` returns, however often the connection is lost meanwhile."""
        while True:
            try:
                return fetch()
            except BackendError as error:
                self.wait_after(error)


class _Upload(io.BytesIO):
    """A request's body that tells how much of it has been sent; what `on_sent` raises ends the sending."""

    def __init__(self, body: bytes, on_sent: Callable[[int, int], None]) -> None:
        super().__init__(body)
        self._size, self._on_sent = len(body), on_sent

    def read(self, size: int | None = -1) -> bytes:
        self._on_sent(self.tell(), self._size)
        return super().read(size)


def _upload_teller(job: Job, tell: Callable[[Event], None], stop: threading.Event) -> Callable[[int, int], None]:
    """Tells of each percent that has been sent, as a status of a job that has no id yet."""
    told = -1

    def on_sent(sent: int, size: int) -> None:
        nonlocal told
        if stop.is_set():
            raise _StoppedError
        percent = 100 * sent // size
        if percent > told:
            told = percent
            tell(JobStatus("", job.kind, "queued", "Sending", percent, 100, None, 0, view_count(job), 0, 1, ""))

    return on_sent


def _unless_lost(fetch: Callable[[int], None], index: int) -> None:
    """Fetches a view, but waits for the end of the job with one that was lost with its worker and is made again."""
    try:
        fetch(index)
    except BackendError as error:
        if error.code != "not_finished":
            raise


def _messages(pieces: Iterable[bytes]) -> Iterator[dict[str, str]]:
    """The fields of each server-sent event (WHATWG HTML, 9.2.6); its data is one line here. ValueError for others."""
    rest = b""
    message: dict[str, str] = {}
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        if len(rest) > _MAX_LINE_BYTES:
            raise ValueError
        for line in lines:
            name, _, value = line.rstrip(b"\r").decode().partition(":")
            if name:
                message[name] = value.removeprefix(" ")
            elif message and not value:
                yield message
                message = {}


def _whole(job: Job, pixels: bytes) -> dict[str, Any]:
    return {"job": _json(job), "pixels": ("pixels.npy", pixels, "application/octet-stream")}


def _path(job_id: str) -> str:
    return f"/{API}/jobs/{quote(job_id, safe='')}"


def _json(job: Job) -> str:
    try:
        return json.dumps(job_to_json(job), allow_nan=False, default=np.generic.item)
    except (ValueError, TypeError):
        raise SVDRRError("A number of the request is not one, or is infinite; correct it.") from None
