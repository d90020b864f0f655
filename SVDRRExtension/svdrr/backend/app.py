"""The web application of a backend: API v1."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import re
import sqlite3
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser

from svdrr import __version__
from svdrr.backend.arrays import zipped
from svdrr.backend.guard import Guard, RefusedError, limited_body
from svdrr.backend.jobs import API, MAX_VIEWS, JobStatus
from svdrr.backend.openapi import ERRORS, EVENT_STREAM, JOB_REQUEST, ZIP_FILE, describe
from svdrr.backend.store import DiskFullError, JobStore, QueueFullError, UnknownPixelsError
from svdrr.backend.supervisor import Supervisor
from svdrr.backend.validation import read_job, read_pixels, require_possible
from svdrr.drr.renderer import ENGINES
from svdrr.errors import SVDRRError
from svdrr.models import available_models
from svdrr.superres import SCALES, available_methods

MAX_JOB_TEXT_BYTES = 4 * 2**20
KEEP_ALIVE_S = 5.0
_HOUSEKEEPING_S = 1.0
# Changes made by another server on the same store are found by looking.
_LOOK_S = 0.2
# How often a client that follows a job counts as asking for it.
_NOTE_S = 1.0
_JOB_ID = re.compile(r"[0-9a-f]{32}")
_READERS = 2
_ZIP = "application/zip"

_log = logging.getLogger("svdrr.server")


class _Changes:
    """Wakes those who follow a job, from any thread."""

    def __init__(self) -> None:
        self._events: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()

    def announce(self, job_id: str) -> None:
        if self._loop is not None and job_id in self._events:
            self._loop.call_soon_threadsafe(self._set, job_id)

    def follow(self, job_id: str) -> asyncio.Event:
        event = asyncio.Event()
        self._events[job_id].add(event)
        return event

    def leave(self, job_id: str, event: asyncio.Event) -> None:
        self._events[job_id].discard(event)
        if not self._events[job_id]:
            del self._events[job_id]

    def _set(self, job_id: str) -> None:
        for event in self._events.get(job_id, ()):
            event.set()


def create_app(
    store: JobStore, supervisors: Sequence[Supervisor], token: str | None, max_request_bytes: int
) -> FastAPI:
    """The application that offers `store` to clients and has `supervisors` run its jobs while it is up."""
    changes = _Changes()
    reading = asyncio.Semaphore(_READERS)

    def changed(job_id: str) -> None:
        changes.announce(job_id)
        for supervisor in supervisors:
            supervisor.wake.set()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        changes.start()
        store.changed = changed
        for supervisor in supervisors:
            supervisor.start()
        housekeeping = asyncio.create_task(_keep_house(store))
        yield
        housekeeping.cancel()
        await asyncio.gather(*(run_in_threadpool(supervisor.stop) for supervisor in supervisors))
        store.close()

    app = FastAPI(
        title="SVDRR backend",
        version=__version__,
        description="Renders DRRs, synthesizes views and enlarges radiographs as jobs. Synthetic images: not for "
        "diagnosis. Errors are {error: {code, message}}, with one sentence for people.",
        lifespan=lifespan,
        redoc_url=None,
        responses=ERRORS,
    )
    describe(app)
    app.add_middleware(Guard, token=token)

    @app.exception_handler(RefusedError)
    async def refused(_: Request, error: RefusedError) -> Response:
        return error.response()

    @app.exception_handler(HTTPException)
    async def no_such_address(_: Request, error: HTTPException) -> Response:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid")
        return RefusedError(error.status_code, code, f"{error.detail}.", dict(error.headers or {})).response()

    @app.exception_handler(RequestValidationError)
    async def no_such_number(_: Request, __: RequestValidationError) -> Response:
        return RefusedError(404, "not_found", "A view's number is a whole number from 0 on.").response()

    @app.exception_handler(sqlite3.OperationalError)
    async def cannot_write(_: Request, error: sqlite3.OperationalError) -> Response:
        return RefusedError(507, "disk_full", f"The backend cannot write its list of jobs ({error}).").response()

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> Response:
        return RefusedError(
            500, "internal", f"The backend met an unexpected error ({type(error).__name__})."
        ).response()

    @app.get("/v1/health")
    async def health() -> dict[str, str]:
        """Alive, and which version. Needs no token."""
        return {"service": "svdrr", "version": __version__, "api": API}

    @app.get("/v1/capabilities")
    def capabilities() -> dict[str, Any]:
        """Devices (name, description, memory_total_bytes, memory_free_bytes, ready, problem), queue (queued, running,
        max_queued), models (name, resolution, field_of_view_mm, source_gray_levels, default steps and guidance,
        size_bytes, licence, use), super_resolution (methods, scales), engines, limits (max_request_bytes, max_views,
        keep_s)."""
        counts = store.counts()
        return {
            "version": __version__,
            "devices": [dict(supervisor.state) for supervisor in supervisors],
            "queue": {
                "queued": counts.get("queued", 0),
                "running": counts.get("running", 0),
                "max_queued": store.limits.max_queued,
            },
            "models": [
                {
                    "name": model.name,
                    "resolution": model.resolution,
                    "field_of_view_mm": model.field_of_view_mm,
                    "source_gray_levels": model.source_gray_levels,
                    "num_inference_steps": model.num_inference_steps,
                    "guidance_scale": model.guidance_scale,
                    "size_bytes": model.weights_bytes(),
                    "trained_on": model.trained_on,
                    "intended_use": model.intended_use,
                    "license": model.license,
                }
                for model in available_models()
            ],
            "super_resolution": {"methods": available_methods(), "scales": SCALES},
            "engines": ENGINES,
            "limits": {
                "max_request_bytes": max_request_bytes,
                "max_views": MAX_VIEWS,
                "keep_s": store.limits.keep_s,
            },
        }

    @app.post("/v1/jobs", status_code=201, openapi_extra=JOB_REQUEST)
    async def submit(request: Request) -> JobStatus:
        """A new job. Its pixels are a .npy file: float32 (rows, columns) in [0, 1] for radiographs, int16 or float32
        HU (k, j, i) for a CT; or the job names by `pixels_sha256` a file that an earlier job brought."""
        job_text, upload = await _parts(request, max_request_bytes)
        try:
            async with reading:
                job_id = await run_in_threadpool(_add, store, job_text, upload)
        finally:
            if upload is not None:
                await upload.close()
        return _status(store, job_id)

    @app.get("/v1/jobs/{job_id}")
    def status(job_id: str) -> JobStatus:
        """The job as it stands."""
        found = _status(store, job_id)
        store.asked_for(job_id)
        return found

    @app.get("/v1/jobs/{job_id}/events", response_class=StreamingResponse, responses=EVENT_STREAM)
    async def events(job_id: str, request: Request) -> StreamingResponse:
        """Server-sent events: `status` with the job's status, `view` with a preview of each view that is finished,
        `gone` if the job is cancelled meanwhile. The header Last-Event-ID skips views that were announced before."""
        _status(store, job_id)
        known = request.headers.get("last-event-id", "0")
        stream = _events(store, changes, job_id, int(known) if re.fullmatch(r"\d{1,6}", known) else 0)
        return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    @app.get("/v1/jobs/{job_id}/result", response_class=StreamingResponse, responses=ZIP_FILE)
    def result(job_id: str) -> StreamingResponse:
        """All views of a finished job: a zip file of views.json and one .npy file each, float32 (rows, columns)."""
        found = _status(store, job_id)
        if found.state != "done":
            raise RefusedError(409, "not_finished", f"The job is {found.state}; there is no result.")
        return StreamingResponse(_zip(store, job_id, range(found.views_done)), media_type=_ZIP)

    @app.get("/v1/jobs/{job_id}/result/{index}", response_class=Response, responses=ZIP_FILE)
    def view(job_id: str, index: int) -> Response:
        """One view, as soon as it is finished, in the same form."""
        found = _status(store, job_id)
        if not 0 <= index < found.views_total:
            raise RefusedError(404, "not_found", f"There is no view {index}, only 0 to {found.views_total - 1}.")
        if index >= found.views_done:
            raise RefusedError(409, "not_finished", f"View {index} is not finished.")
        try:
            # One image, at once: as a stream each of its pieces would go through another thread.
            return Response(b"".join(_zip(store, job_id, [index])), media_type=_ZIP)
        except FileNotFoundError:  # cancelled since
            raise _no_such_job() from None

    @app.delete("/v1/jobs/{job_id}", status_code=204)
    def cancel(job_id: str) -> None:
        """Cancels the job and forgets it, its pixels and its result."""
        if not _JOB_ID.fullmatch(job_id) or not store.delete(job_id):
            raise _no_such_job()

    return app


async def _keep_house(store: JobStore) -> None:
    while True:
        await asyncio.sleep(_HOUSEKEEPING_S)
        try:
            await run_in_threadpool(store.housekeeping)
        except sqlite3.OperationalError as error:
            _log.error("housekeeping: %s", error)


async def _parts(request: Request, max_bytes: int) -> tuple[str, UploadFile | None]:
    """The parts `job` and `pixels` of a multipart request."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise RefusedError(415, "invalid", "A job is sent as multipart/form-data with the parts 'job' and 'pixels'.")
    parser = MultiPartParser(
        request.headers,
        limited_body(request, max_bytes),  # type: ignore[arg-type]
        max_files=1,
        max_fields=1,
        max_part_size=MAX_JOB_TEXT_BYTES,
    )
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, UnicodeDecodeError) as error:
        raise RefusedError(
            422, "invalid", f"The request is no multipart/form-data that can be read ({error})."
        ) from None
    except OSError as error:
        raise RefusedError(507, "disk_full", f"The backend cannot store the request ({error.strerror}).") from None
    job, pixels = form.get("job"), form.get("pixels")
    if (
        not isinstance(job, str)
        or len(form.multi_items()) != 1 + (pixels is not None)
        or not (pixels is None or isinstance(pixels, UploadFile))
    ):
        await form.close()
        raise RefusedError(422, "invalid", "A job has two parts: the text 'job' and the file 'pixels'.")
    return job, pixels


def _add(store: JobStore, job_text: str, upload: UploadFile | None) -> str:
    try:
        job = read_job(job_text)
        require_possible(job)
        data = None
        if upload is not None:
            data = upload.file.read()
            read_pixels(data, job)
        elif job.pixels_sha256 is None or not re.fullmatch(r"[0-9a-f]{64}", job.pixels_sha256):
            raise SVDRRError("The request has no part 'pixels', and its job no 'pixels_sha256' of earlier ones.")
        return store.add(job, data)
    except QueueFullError as error:
        raise RefusedError(429, "queue_full", str(error), {"Retry-After": "5"}) from None
    except DiskFullError as error:
        raise RefusedError(507, "disk_full", str(error)) from None
    except UnknownPixelsError as error:
        raise RefusedError(409, "pixels_unknown", str(error)) from None
    except SVDRRError as error:
        raise RefusedError(422, "invalid", str(error)) from None


def _no_such_job() -> RefusedError:
    return RefusedError(404, "not_found", "The backend has no such job; it may have been cancelled or have expired.")


def _status(store: JobStore, job_id: str) -> JobStatus:
    found = store.status(job_id) if _JOB_ID.fullmatch(job_id) else None
    if found is None:
        raise _no_such_job()
    return found


async def _events(store: JobStore, changes: _Changes, job_id: str, announced: int) -> AsyncIterator[str]:
    changed = changes.follow(job_id)
    said = ""
    noted = silent_since = asyncio.get_running_loop().time()
    try:
        while True:
            changed.clear()
            status = store.status(job_id)
            if status is None:
                yield _event("gone", {})
                return
            for index in range(announced, status.views_done):
                yield _event("view", _preview(store.results(job_id), index), index + 1)
            announced = max(announced, status.views_done)
            now = asyncio.get_running_loop().time()
            if (text := _event("status", asdict(status))) != said:
                said, silent_since = text, now
                yield text
            if status.finished:
                return
            if now - noted > _NOTE_S:
                noted = now
                await run_in_threadpool(store.asked_for, job_id)
            if now - silent_since > KEEP_ALIVE_S:
                silent_since = now
                yield ":\n\n"
            try:
                await asyncio.wait_for(changed.wait(), _LOOK_S)
            except asyncio.TimeoutError:
                continue
    finally:
        changes.leave(job_id, changed)


def _event(name: str, data: Mapping[str, Any], number: int | None = None) -> str:
    identity = "" if number is None else f"id: {number}\n"
    return f"event: {name}\n{identity}data: {json.dumps(data)}\n\n"


def _preview(results: Path, index: int) -> dict[str, Any]:
    name = f"view_{index:05d}"
    try:
        picture = base64.b64encode((results / f"{name}.png").read_bytes()).decode()
        label = json.loads((results / f"{name}.json").read_text(encoding="utf-8"))["label"]
    except FileNotFoundError:  # cancelled since
        picture, label = "", ""
    return {"index": index, "label": label, "preview_png": picture}


def _zip(store: JobStore, job_id: str, indices: Iterable[int]) -> Iterable[bytes]:
    store.asked_for(job_id)
    paths = [store.results(job_id) / f"view_{index:05d}.npy" for index in indices]
    try:
        entries = [json.loads(path.with_suffix(".json").read_text(encoding="utf-8")) for path in paths]
    except FileNotFoundError:
        raise _no_such_job() from None
    return zipped(entries, (path.read_bytes() for path in paths))
