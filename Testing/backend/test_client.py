"""The client: what leaves, what comes back, and what happens when the line or the server does not hold."""

from __future__ import annotations

import hashlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_backends import (
    CUT,
    WAIT,
    JobServer,
    Relay,
    Site,
    certificate,
    free_port,
    listener,
    send,
    site,
    sse,
    status,
    view_event,
)
from server_process import TOKEN, Server, server_process

from svdrr.backend import client as client_module
from svdrr.backend.arrays import from_npy, npy_sha256, to_npy, zipped
from svdrr.backend.client import ArrivedView, BackendClient, BackendError, FinishedView, RunningJob
from svdrr.backend.jobs import JobStatus, RenderJob, SynthesizeJob
from svdrr.backend.request import (
    Request,
    echo_request,
    enhancement_request,
    render_request,
    synthesis_request,
)
from svdrr.ct import CTVolume
from svdrr.ct.table import remove_table
from svdrr.errors import SVDRRError
from svdrr.geometry import CArmPose, Detector, View
from svdrr.provenance import Provenance
from svdrr.radiograph import Radiograph
from svdrr.render import Imaging, render_drrs
from svdrr.superres import enhance

QUICK = (1.0, 2.0)
POSES = (CArmPose(30.0, 10.0), CArmPose(-90.0), CArmPose(180.0))


def radiograph(seed: int = 0, provenance: Provenance | None = None) -> Radiograph:
    pixels = np.random.default_rng(seed).random((24, 20), dtype=np.float32)
    view = View(CArmPose(5.0, 3.0, (1.0, 2.0, 3.0)), Detector(24, 20, (0.7, 0.31)))
    return Radiograph(pixels, (0.7, 0.31), view, provenance)


def ct() -> CTVolume:
    k, j, i = np.mgrid[:24, :30, :32]
    inside = ((k - 12) / 11) ** 2 + ((j - 15) / 10) ** 2 + ((i - 16) / 13) ** 2 < 1.0
    hu = np.where(inside, 40.0, -1000.0).astype(np.float32)
    return CTVolume(hu, np.array([[-4.0, 0, 0, 60], [0, -4.0, 0, 50], [0, 0, 5.0, -70], [0, 0, 0, 1.0]]))


def zipped_view(view: Radiograph) -> bytes:
    provenance = view.provenance.attributes() if view.provenance else {}
    entry = {"array": "v.npy", "pixel_spacing_mm": view.pixel_spacing_mm, "view": None, "provenance": provenance}
    return b"".join(zipped([entry], [to_npy(view.pixels)]))


def sent_parts(server: Site) -> list[tuple[dict[str, Any], bytes]]:
    """The job and the pixels of each job that was posted."""
    found = []
    for method, _, headers, body in server.requests:
        if method == "POST":
            boundary = headers["Content-Type"].partition("boundary=")[2].encode()
            parts = [part.partition(b"\r\n\r\n") for part in body.split(b"--" + boundary)[1:-1]]
            by_name = {head.split(b'"')[1]: content.removesuffix(b"\r\n") for head, _, content in parts}
            found.append((json.loads(by_name[b"job"]), by_name.get(b"pixels", b"")))
    return found


# What the client needs


def test_it_runs_on_numpy_and_requests_alone() -> None:
    program = """
import sys

allowed = {*sys.stdlib_module_names, "svdrr", "numpy", "requests", "urllib3", "idna", "certifi", "charset_normalizer"}

class OnlyThese:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in allowed:
            raise ImportError(f"{name} is not in Slicer")

sys.meta_path.insert(0, OnlyThese())
import svdrr.backend.client, svdrr.backend.connection, svdrr.backend.local, svdrr.backend.request

assert svdrr.backend.client.test_connection
try:
    import SimpleITK
except ImportError:
    print("blocked")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "blocked\n", done.stderr


# What leaves


def test_only_pixels_spacing_and_poses_leave() -> None:
    origin = Provenance("VCDiT", "patient Doe", "private-model", settings={"Secret": "born 1970"})
    image = radiograph(provenance=origin)
    with site(JobServer([[sse("gone", {})]])) as server:
        for request in (
            synthesis_request(image, POSES, "demo-256"),
            enhancement_request(image),
            echo_request(image),
            render_request(ct(), POSES, Detector.square(16)),
        ):
            BackendClient(server.url, TOKEN).submit(request)
    sources = (image.pixels, image.pixels, image.pixels, ct().hu)
    for (job, pixels), array in zip(sent_parts(server), sources, strict=True):
        for text in ("Doe", "private-model", "1970", "Secret"):
            assert text not in json.dumps(job)
        np.testing.assert_array_equal(from_npy(pixels, ("float32", "int16"), array.ndim), array)
    assert not any(TOKEN in path for _, path, _, _ in server.requests)


def test_a_synthesis_request_says_what_the_radiograph_says() -> None:
    image = radiograph()
    assert image.view is not None
    job = synthesis_request(image, POSES, "tiny", steps=3, guidance=2.0, seed=7).job
    assert job == SynthesizeJob(POSES, image.view.pose, "tiny", 3, 2.0, 7, (0.7, 0.31))
    plain = synthesis_request(Radiograph(image.pixels), POSES, "tiny").job
    assert plain == SynthesizeJob(POSES, CArmPose(), "tiny")
    drr = replace(image, provenance=Provenance("DRR (siddon)", "CT"))
    rendered = synthesis_request(drr, POSES, "tiny", source_pose=POSES[0]).job
    assert rendered == SynthesizeJob(POSES, POSES[0], "tiny", pixel_spacing_mm=(0.7, 0.31), source_is_drr=True)
    windowed = replace(image, provenance=Provenance("DRR (siddon)", "CT", settings={"DisplayWindow": "bone"}))
    assert synthesis_request(windowed, POSES, "tiny").job == replace(
        rendered, source_pose=image.view.pose, source_is_drr=False
    )


def test_a_render_request_has_the_fields_of_its_job() -> None:
    request = render_request(ct(), POSES, Detector.square(16), kvp=120, material="water-bone", remove_table=True)
    assert isinstance(request.job, RenderJob)
    assert (request.job.kvp, request.job.material, request.job.remove_table) == (120, "water-bone", True)
    np.testing.assert_array_equal(request.job.ijk_to_ras, ct().ijk_to_ras)
    with pytest.raises(SVDRRError, match="one energy or a tube voltage"):
        render_request(ct(), POSES, Detector.square(16), kvp=120, energy_kev=70.0)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(0.0, "int16"), (-0.0, "float32"), (-32768.0, "int16"), (32768.0, "float32"), (0.5, "float32"), (1e30, "float32")],
)
def test_hu_travel_as_int16_where_no_bit_is_lost(value: float, dtype: str) -> None:
    volume = ct()
    hu = volume.hu.copy()
    hu[1, 2, 3] = value
    for array in (hu, np.asfortranarray(hu)):
        pixels = render_request(volume.with_hu(array), POSES, Detector.square(16)).pixels
        assert pixels.dtype == dtype
        assert np.ascontiguousarray(pixels.astype(np.float32)).tobytes() == hu.tobytes()


def test_numbers_of_numpy_and_those_that_are_none() -> None:
    with site(JobServer([[]])) as server:
        client = BackendClient(server.url)
        client.submit(synthesis_request(radiograph(), POSES, "tiny", np.int64(3), np.float32(1.5), np.int64(2)))
        with pytest.raises(SVDRRError, match="A number of the request"):
            client.submit(synthesis_request(radiograph(), POSES, "tiny", guidance=float("nan")))
    ((job, _),) = sent_parts(server)
    assert (job["steps"], job["guidance"], job["seed"]) == (3, 1.5, 2)


LARGE = Radiograph(np.random.default_rng(0).random((600, 500), dtype=np.float32))


def test_pixels_go_once() -> None:
    answers = JobServer([[]])
    with site(answers) as server:
        client = BackendClient(server.url)
        client.submit(echo_request(LARGE))
        client.submit(echo_request(LARGE))
        answers.refusals.append(("/v1/jobs", 409, "pixels_unknown"))
        client.submit(echo_request(LARGE))
        client.submit(echo_request(Radiograph(LARGE.pixels * np.float32(0.5))))
    jobs, pixels = zip(*sent_parts(server), strict=True)
    assert [job["pixels_sha256"] is not None for job in jobs] == [False, True, True, False, False]
    assert [len(data) > 0 for data in pixels] == [True, False, False, True, True]


def test_a_hash_is_that_of_the_file() -> None:
    for array in (LARGE.pixels, np.asfortranarray(LARGE.pixels), np.arange(24, dtype=np.int16).reshape(2, 3, 4)):
        assert npy_sha256(array) == hashlib.sha256(to_npy(array)).hexdigest()


def test_pixels_are_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slider that moves asks for many views of one CT, which may have 200 MB."""
    request = echo_request(LARGE).hashed()
    with site(JobServer([[]])) as server:
        client = BackendClient(server.url)
        client.submit(request)
        monkeypatch.setattr(client_module, "npy_sha256", None)
        monkeypatch.setattr(client_module, "to_npy", None)
        client.submit(replace(request, job=replace(request.job)))
    assert [len(data) > 0 for _, data in sent_parts(server)] == [True, False]


def test_a_held_job_stays_until_it_is_let_go() -> None:
    for hold in (True, False):
        answers = JobServer([[RUNNING[0], *map(view_event, range(3)), DONE]], VIEWS)
        with site(answers) as server:
            job = BackendClient(server.url).start(echo_request(radiograph()), hold)
            news = finish(job)
            assert len([event for event in news if isinstance(event, ArrivedView)]) == 3
            assert answers.deleted.is_set() != hold
            job.cancel()
            assert answers.deleted.wait(5.0)
            assert server.asked("DELETE") == [f"/v1/jobs/{'ab' * 16}"]


def test_a_held_job_that_fails_or_is_cancelled_is_forgotten() -> None:
    for stream in ([sse("status", status("failed", message="No."))], [RUNNING[0], WAIT]):
        answers = JobServer([stream])
        with site(answers) as server:
            job = BackendClient(server.url).start(echo_request(radiograph()), hold=True)
            # Its first statuses tell of the sending, when there is no job to forget yet.
            while not (job.finished or any(isinstance(event, JobStatus) and event.id for event in job.poll())):
                time.sleep(0.01)
            job.cancel()
            assert answers.deleted.wait(5.0)


def test_a_small_job_is_one_request() -> None:
    """A question before each would cost as much as the job."""
    with site(JobServer([[]])) as server:
        client = BackendClient(server.url)
        for _ in range(3):
            client.submit(echo_request(radiograph()))
    assert [method for method, _, _, _ in server.requests] == ["GET", "POST", "POST", "POST"]


def test_the_token_goes_to_a_server_of_ours_only() -> None:
    with site(lambda handler: send(handler, 200, b"{}")) as server:
        for ask in (BackendClient.capabilities, lambda client: client.run(echo_request(LARGE))):
            with pytest.raises(BackendError, match="not an SVDRR server"):
                ask(BackendClient(server.url, TOKEN))
        assert not any("Authorization" in headers for _, _, headers, _ in server.requests)


def test_pixels_that_are_too_many_stay_here() -> None:
    with site(JobServer([[]], max_request_bytes=1000)) as server:
        with pytest.raises(BackendError, match="These pixels have 1 MiB; the backend takes 0 MiB") as caught:
            BackendClient(server.url).submit(echo_request(LARGE))
        assert server.asked("POST") == []
    assert caught.value.code == "too_large"


def test_a_slow_server_gets_its_time_to_read() -> None:
    """requests limits each send by the time to connect, which is short."""
    image = Radiograph(np.zeros((2000, 2000), np.float32))

    def talk(peer: socket.socket) -> None:
        head = peer.recv(10_000)
        body = b'{"service": "svdrr", "api": "v1", "limits": {"max_request_bytes": 100000000}}'
        while not head.startswith(b"POST"):
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            head = peer.recv(10_000)
        time.sleep(0.6)  # longer than the time to connect
        size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
        read = len(head.partition(b"\r\n\r\n")[2])
        while read < size:
            read += len(peer.recv(2**20))
        answer = json.dumps(status("queued")).encode()
        peer.sendall(b"HTTP/1.1 201 Created\r\nContent-Length: %d\r\n\r\n%s" % (len(answer), answer))

    with listener(talk) as url:
        assert BackendClient(url, timeout_s=(0.3, 10.0)).submit(echo_request(image)) == "ab" * 16


# What comes back


def test_what_never_left_is_put_back() -> None:
    origin = Provenance("DRR (siddon)", "CT with voxels", seed=3, settings={"Scatter": "none"}, time_utc="then")
    image = radiograph(provenance=origin)
    made = Provenance("VCDiT", f"radiograph with pixels SHA-256 {image.pixels_sha256()}", "tiny", "ab", 4)
    answered = Radiograph(np.ones((8, 8), np.float32), (1.0, 1.0), None, made)
    view = synthesis_request(image, POSES, "tiny").restore(answered)
    assert view.provenance == replace(
        made, source=f"computed image (DRR (siddon)) with pixels SHA-256 {image.pixels_sha256()}"
    )
    assert synthesis_request(radiograph(), POSES, "tiny").restore(answered).provenance == made
    for source in (image, enhance(image, "bicubic", 4)):
        sent = Radiograph(source.pixels, source.pixel_spacing_mm, source.view)
        larger = enhance(sent, "lanczos", 2, gray_scale="drr")
        restored = enhancement_request(source, "lanczos", 2).restore(larger)
        assert restored.provenance == enhance(source, "lanczos", 2).provenance
    plain = enhance(radiograph(), "lanczos", 2)
    lateral = replace(radiograph(), view_position="LL")
    restored = enhancement_request(lateral, "lanczos", 2).restore(plain)
    assert (restored.provenance, restored.view_position) == (plain.provenance, "LL")
    echo = echo_request(image).restore(Radiograph(image.pixels))
    assert (echo.pixel_spacing_mm, echo.view, echo.provenance) == (image.pixel_spacing_mm, image.view, origin)


def test_an_image_without_a_label_is_not_used() -> None:
    for request in (
        synthesis_request(radiograph(), POSES, "tiny"),
        enhancement_request(radiograph()),
        render_request(ct(), POSES, Detector.square(16)),
    ):
        with pytest.raises(SVDRRError, match="does not say how it was computed"):
            request.restore(Radiograph(np.ones((8, 8), np.float32)))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(client_module, "_LONGEST_PAUSE_S", 0.1)
    monkeypatch.setattr(client_module, "SILENCE_S", 0.5)


RUNNING = [sse("status", status("running", views_total=3)), view_event(0)]
DONE = sse("status", status("done", views_done=3, views_total=3))
VIEWS = {index: zipped_view(radiograph(index)) for index in range(3)}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("broken", [[CUT], [], [b"ev", CUT], [b": still here\n\n", CUT], [b"event: sta"]])
def test_following_goes_on_where_it_was(broken: list[bytes]) -> None:
    answers = JobServer([[*RUNNING, *broken], [CUT], [CUT], [view_event(1), *broken], [view_event(2), DONE]], VIEWS)
    with site(answers) as server:
        found = list(BackendClient(server.url, timeout_s=QUICK).follow("ab" * 16))
    assert answers.asked_after == ["0", "1", "1", "1", "2"]
    assert [event.index for event in found if isinstance(event, FinishedView)] == [0, 1, 2]
    assert [event.state for event in found if isinstance(event, JobStatus)] == ["running", "done"]
    assert FinishedView(1, "PA", b"png") in found


@pytest.mark.usefixtures("impatient")
def test_a_server_that_is_silent_is_asked_again() -> None:
    answers = JobServer([[*RUNNING, WAIT], [DONE]], VIEWS)
    with site(answers) as server:
        found = list(BackendClient(server.url, timeout_s=QUICK).follow("ab" * 16))
        answers.deleted.set()
    assert found[-1].finished  # type: ignore[union-attr]


@pytest.mark.usefixtures("impatient")
def test_events_in_any_pieces() -> None:
    whole = b": hello\r\n\r\n" + b"".join(RUNNING).replace(b"\n", b"\r\n") + view_event(1) + view_event(2) + DONE
    for size in (1, 7, 1000):
        pieces = [whole[start : start + size] for start in range(0, len(whole), size)]
        with site(JobServer([pieces], VIEWS)) as server:
            found = list(BackendClient(server.url, timeout_s=QUICK).follow("ab" * 16))
        assert [type(event) for event in found] == [JobStatus, FinishedView, FinishedView, FinishedView, JobStatus]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "garbage",
    [
        *(b"event: status\ndata: {\n\n", b"event: status\ndata: {}\n\n", b"event: status\ndata: []\n\n"),
        *(b"event: status\n\n", b"event: view\ndata: {}\n\n", b"\xff\xfe\n\n", b"event: view\ndata: 7\n\n"),
        b'event: view\ndata: {"index": 0, "label": "", "preview_png": "?"}\n\n',
    ],
)
def test_events_that_are_none(garbage: bytes) -> None:
    with site(JobServer([[garbage]])) as server, pytest.raises(BackendError, match="does not know; update") as caught:
        list(BackendClient(server.url, timeout_s=QUICK).follow("ab" * 16))
    assert caught.value.code == "version"


@pytest.mark.usefixtures("impatient")
def test_a_line_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_MAX_LINE_BYTES", 10_000)
    with site(JobServer([[b"x" * 1000] * 100])) as server, pytest.raises(BackendError, match="update"):
        list(BackendClient(server.url, timeout_s=QUICK).follow("ab" * 16))


@pytest.mark.usefixtures("impatient")
def test_patience_has_an_end() -> None:
    for url, code in ((f"http://127.0.0.1:{free_port()}", "refused"), (None, "dropped")):
        with listener(lambda peer: None) as hanging_up:
            started = time.monotonic()
            with pytest.raises(BackendError) as caught:
                list(BackendClient(url or hanging_up, timeout_s=QUICK, patience_s=0.5).follow("ab" * 16))
            assert 0.3 < time.monotonic() - started < 2.0
        assert caught.value.code == code


@pytest.mark.usefixtures("impatient")
def test_what_waiting_does_not_mend_is_told_at_once() -> None:
    answers = JobServer([[*RUNNING, CUT]], refusals=[("/events", 401, "unauthorized")])
    with site(answers) as server, pytest.raises(BackendError, match=r"Refused by the test\."):
        list(BackendClient(server.url, timeout_s=QUICK).follow("ab" * 16))
    assert len(server.asked("GET")) == 2  # the first, whether it is a server of ours


@pytest.mark.usefixtures("impatient")
def test_run_gives_the_views_in_their_order() -> None:
    events = [RUNNING[0], view_event(2), CUT], [view_event(0), DONE]
    with site(JobServer([*events], VIEWS, refusals=[("/result/2", 503, "oops")])) as server:
        found = BackendClient(server.url, timeout_s=QUICK)
        with pytest.raises(BackendError, match="Refused"):
            found.run(Request(echo_request(radiograph()).job, radiograph().pixels, lambda view: view))
    answers = JobServer([[RUNNING[0], view_event(2), CUT], [view_event(0), DONE]], VIEWS)
    states: list[str] = []
    with site(answers) as server:
        request = Request(echo_request(radiograph()).job, radiograph().pixels, lambda view: view)
        views = BackendClient(server.url, timeout_s=QUICK).run(request, lambda found: states.append(found.state))
        assert server.requests[-1][0] == "DELETE"
    for index, view in enumerate(views):
        np.testing.assert_array_equal(view.pixels, radiograph(index).pixels)
    assert states[-2:] == ["running", "done"]


@pytest.mark.usefixtures("impatient")
def test_a_view_lost_with_its_worker_comes_at_the_end() -> None:
    answers = JobServer([[*RUNNING, DONE]], VIEWS, refusals=[("/result/0", 409, "not_finished")])
    with site(answers) as server:
        request = Request(echo_request(radiograph()).job, radiograph().pixels, lambda view: view)
        assert len(BackendClient(server.url, timeout_s=QUICK).run(request)) == 3


def test_a_job_that_fails() -> None:
    failed = sse("status", status("failed", message="The model 'x' is unknown."))
    with site(JobServer([[failed]])) as server:
        with pytest.raises(BackendError, match=r"^The model 'x' is unknown\.$") as caught:
            BackendClient(server.url).run(echo_request(radiograph()))
        assert server.asked("DELETE") == [f"/v1/jobs/{'ab' * 16}"]
    assert caught.value.code == "failed"


def test_a_job_that_somebody_else_cancels() -> None:
    with site(JobServer([[sse("gone", {})]])) as server, pytest.raises(BackendError, match="was cancelled"):
        BackendClient(server.url).run(echo_request(radiograph()))


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("stage", ["Sending", "running"])
def test_an_exception_of_the_caller_cancels(error: type[BaseException], stage: str) -> None:
    def on_status(found: JobStatus) -> None:
        if found.stage == stage:
            raise error

    with site(JobServer([[*RUNNING, WAIT]], VIEWS)) as server:
        with pytest.raises(error):
            BackendClient(server.url).run(echo_request(radiograph()), on_status)
        assert len(server.asked("DELETE")) == (stage == "running")


def test_ctrl_c_cancels_while_nothing_comes() -> None:
    with site(JobServer([[*RUNNING, WAIT]], VIEWS)) as server:
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            BackendClient(server.url).run(echo_request(radiograph()))
        assert time.monotonic() - started < 2.0
        assert server.asked("DELETE")


def test_more_views_than_one() -> None:
    entry = {"array": "v.npy", "pixel_spacing_mm": None, "view": None, "provenance": {}}
    two = b"".join(zipped([entry, {**entry, "array": "w.npy"}], [to_npy(radiograph().pixels)] * 2))
    with site(JobServer([[]], {0: two})) as server, pytest.raises(BackendError, match="does not know; update"):
        BackendClient(server.url).view("ab" * 16, 0)


def test_results_that_are_none() -> None:
    for body in (b"", b"PK", b"<html>", zipped_view(radiograph())[:-60]):
        with site(JobServer([[*RUNNING, DONE]], {0: body})) as server:
            with pytest.raises(SVDRRError, match="result cannot be read"):
                BackendClient(server.url).run(echo_request(radiograph()))
            assert server.asked("DELETE")


# In the background


def finish(job: RunningJob, within_s: float = 30.0) -> list[JobStatus | ArrivedView]:
    events = []
    deadline = time.monotonic() + within_s
    while not job.finished:
        assert time.monotonic() < deadline
        events += job.poll()
        time.sleep(0.01)
    return events


def settle(threads: int) -> None:
    """Waits until no more threads run than before."""
    deadline = time.monotonic() + 3.0
    while threading.active_count() > threads:
        assert time.monotonic() < deadline, threading.enumerate()
        time.sleep(0.02)


@pytest.mark.usefixtures("impatient")
def test_a_running_job_brings_views_one_by_one() -> None:
    with site(JobServer([[*RUNNING, CUT], [view_event(1), view_event(2), DONE]], VIEWS)) as server:
        threads = threading.active_count()
        job = BackendClient(server.url).start(
            Request(echo_request(radiograph()).job, radiograph().pixels, lambda view: view)
        )
        events = finish(job)
        settle(threads + 4)  # connections of the server's side that are kept alive
    assert job.error == ""
    assert job.poll() == []
    arrived = [event for event in events if isinstance(event, ArrivedView)]
    assert [view.index for view in arrived] == [0, 1, 2]
    np.testing.assert_array_equal(arrived[2].radiograph.pixels, radiograph(2).pixels)
    assert isinstance(events[-1], JobStatus)
    assert events[-1].state == "done"


@pytest.mark.usefixtures("impatient")
def test_polling_never_waits() -> None:
    def silent(peer: socket.socket) -> None:
        peer.recv(10_000)
        time.sleep(1.0)

    durations: list[float] = []
    threads = threading.active_count()
    with listener(silent) as slow:
        for url in (slow, f"http://127.0.0.1:{free_port()}", "http://no-such-computer.invalid"):
            client = BackendClient(url, timeout_s=(0.5, 0.5), patience_s=0.2)
            durations.append(_timed(lambda client=client: jobs.put(client.start(echo_request(radiograph())))))
            job = jobs.get()
            while not job.finished:
                durations.append(_timed(job.poll))
                time.sleep(0.01)
            assert job.error.endswith(".")
            durations.append(_timed(job.cancel))
        settle(threads + 1)
    assert np.median(durations) < 0.005
    assert max(durations) < 0.2  # what a panel may take, on a computer that is busy with other things too


jobs: queue.SimpleQueue[RunningJob] = queue.SimpleQueue()


def _timed(call: Any) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


@pytest.mark.usefixtures("impatient")
def test_cancelling_a_running_job() -> None:
    with site(JobServer([[*RUNNING, WAIT, sse("gone", {})]], VIEWS)) as server:
        threads = threading.active_count()
        job = BackendClient(server.url).start(echo_request(radiograph()))
        while not any(isinstance(event, ArrivedView) for event in job.poll()):
            time.sleep(0.01)
        assert _timed(job.cancel) < 0.2
        assert job.finished
        assert job.poll() == []
        deadline = time.monotonic() + 1.0
        while not server.asked("DELETE"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        settle(threads + 4)
    assert job.error == ""


def test_cancelling_while_the_pixels_are_sent() -> None:
    received = threading.Event()

    def talk(peer: socket.socket) -> None:
        body = b'{"service": "svdrr", "api": "v1", "limits": {"max_request_bytes": 100000000000}}'
        while not peer.recv(10_000).startswith(b"POST"):
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        received.set()
        while peer.recv(2**12):
            time.sleep(0.001)

    with listener(talk) as url:
        threads = threading.active_count()
        job = BackendClient(url).start(echo_request(Radiograph(np.zeros((5000, 5000), np.float32))))
        assert received.wait(10.0)
        time.sleep(0.2)
        job.cancel()
        settle(threads)


def test_a_running_job_with_a_fault_of_ours_ends_too() -> None:
    def broken(view: Radiograph) -> Radiograph:
        raise ZeroDivisionError("oops")

    with site(JobServer([[*RUNNING, DONE]], VIEWS)) as server:
        job = BackendClient(server.url).start(Request(echo_request(radiograph()).job, radiograph().pixels, broken))
        finish(job)
        assert server.asked("DELETE")
    assert job.error == "The job ended by an unexpected error (ZeroDivisionError: oops)."


# Against the server


@pytest.fixture(scope="module")
def backend(server: Server) -> BackendClient:
    return BackendClient(server.url, server.token)


def without_time(provenance: Provenance | None) -> Provenance:
    assert provenance is not None
    return replace(provenance, time_utc="")


def assert_same(theirs: list[Radiograph], ours: list[Radiograph], atol: float = 0.0) -> None:
    for one, other in zip(theirs, ours, strict=True):
        np.testing.assert_allclose(one.pixels, other.pixels, rtol=0, atol=atol)
        assert (one.pixel_spacing_mm, one.view) == (other.pixel_spacing_mm, other.view)
        assert without_time(one.provenance) == without_time(other.provenance)


def test_echo(backend: BackendClient) -> None:
    image = radiograph(provenance=Provenance("VCDiT", "x"))
    (echo,) = backend.run(echo_request(image))
    np.testing.assert_array_equal(echo.pixels, image.pixels)
    assert (echo.view, echo.provenance) == (image.view, image.provenance)


@pytest.mark.parametrize("origin", [None, Provenance("DRR (siddon)", "CT", settings={"Enhancement": "bicubic x2"})])
def test_enhancement_there_is_enhancement_here(backend: BackendClient, origin: Provenance | None) -> None:
    image = radiograph(provenance=origin)
    theirs = backend.run(enhancement_request(image, "bicubic", 4))
    assert_same(theirs, [enhance(image, "bicubic", 4)])


@pytest.mark.parametrize("fraction", [0.0, 0.25], ids=["int16", "float32"])
@pytest.mark.parametrize("table", [False, True])
def test_rendering_there_is_rendering_here(backend: BackendClient, fraction: float, table: bool) -> None:
    import hashlib

    volume = ct().with_hu(ct().hu + np.float32(fraction))
    detector = Detector.square(32, 300.0)
    request = render_request(volume, POSES, detector, engine="siddon", window="chest", remove_table=table)
    theirs = backend.run(request)
    source = f"CT with voxels SHA-256 {hashlib.sha256(volume.hu.data).hexdigest()}{', table removed' * table}"
    here = remove_table(volume).ct if table else volume
    ours = render_drrs(here, POSES, detector, "siddon", source, Imaging(window="chest"))
    assert_same(theirs, [drr for drr, _ in ours], atol=1e-6)


@pytest.mark.parametrize("origin", [None, Provenance("DRR (siddon)", "CT"), Provenance("VCDiT", "x")])
@pytest.mark.usefixtures("models")
def test_synthesis_there_is_synthesis_here(backend: BackendClient, origin: Provenance | None) -> None:
    from svdrr.synthesis.sampling import Sampling
    from svdrr.synthesis.synthesize import Synthesizer

    image = radiograph(provenance=origin)
    theirs = backend.run(synthesis_request(image, POSES, "tiny", steps=2, guidance=1.5, seed=9))
    assert_same(theirs, Synthesizer("tiny").synthesize(image, POSES, Sampling(2, 1.5, 9)), atol=1e-5)


def test_refusals_in_the_servers_words(backend: BackendClient) -> None:
    with pytest.raises(BackendError, match="nowhere-1"):
        backend.run(synthesis_request(radiograph(), POSES, "nowhere-1"))
    with pytest.raises(BackendError, match="method 'magic'"):
        backend.run(enhancement_request(radiograph(), "magic"))
    with pytest.raises(BackendError, match="must lie in 0 to 1"):
        backend.run(echo_request(Radiograph(np.full((16, 16), 2.0, np.float32))))
    with pytest.raises(BackendError, match="no such job") as caught:
        backend.status("ab" * 16)
    assert caught.value.code == "not_found"
    backend.cancel("ab" * 16)


def test_submit_follow_result(backend: BackendClient) -> None:
    request = render_request(ct(), POSES, Detector.square(16))
    job_id = backend.submit(request)
    events = list(backend.follow(job_id))
    assert [event.index for event in events if isinstance(event, FinishedView)] == [0, 1, 2]
    assert backend.status(job_id).state == "done"
    views = backend.result(job_id)
    assert [view.view.pose for view in views if view.view] == list(POSES)
    np.testing.assert_array_equal(backend.view(job_id, 1).pixels, views[1].pixels)
    previews = [event.preview_png for event in events if isinstance(event, FinishedView)]
    assert all(png.startswith(b"\x89PNG") for png in previews)
    backend.cancel(job_id)
    with pytest.raises(BackendError, match="no such job"):
        list(backend.follow(job_id))


@pytest.mark.usefixtures("impatient")
def test_a_job_survives_a_line_that_breaks(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "SILENCE_S", 15.0)
    relay = Relay(server.url)
    far = BackendClient(relay.url, server.token)
    poses = [CArmPose(float(angle)) for angle in range(0, 90, 3)]
    request = render_request(ct(), poses, Detector.square(256), engine="siddon")
    job = far.start(request)
    arrived: list[int] = []
    cuts = 0
    deadline = time.monotonic() + 60.0
    while not job.finished:
        assert time.monotonic() < deadline
        for event in job.poll():
            if isinstance(event, ArrivedView):
                arrived.append(event.index)
                if len(arrived) % 8 == 1:
                    cuts += 1
                    relay.cut(down=True)
                    time.sleep(0.3)
                    relay.cut()
        time.sleep(0.005)
    relay.close()
    assert job.error == ""
    assert cuts >= 3
    assert arrived == list(range(len(poses)))


def test_cancelling_frees_the_server_at_once(backend: BackendClient) -> None:
    poses = [CArmPose(angle / 10.0) for angle in range(900)]
    job = backend.start(render_request(ct(), poses, Detector.square(512), engine="siddon"))
    while not any(isinstance(event, ArrivedView) for event in job.poll()):
        time.sleep(0.01)
    job.cancel()
    started = time.monotonic()
    backend.run(echo_request(radiograph()))
    assert time.monotonic() - started < 5.0
    assert backend.capabilities()["queue"]["running"] == 0


def test_over_tls(tmp_path: Path) -> None:
    certificate_file, key = map(str, certificate(tmp_path / "own"))
    arguments = ["--certificate", certificate_file, "--key", key]
    with server_process(tmp_path / "spool", *arguments, verify=certificate_file) as server:
        assert client_module.test_connection(server.url, server.token, certificate_file).ok
        assert client_module.test_connection(server.url, server.token).code == "tls"
        (echo,) = BackendClient(server.url, server.token, certificate_file).run(echo_request(radiograph()))
        assert TOKEN not in server.log()
    np.testing.assert_array_equal(echo.pixels, radiograph().pixels)
