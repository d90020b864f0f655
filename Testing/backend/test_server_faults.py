"""What goes wrong around a real server: clients, workers, the server itself, disks, and everything that may be sent.

Simulated: a full disk, by the operating system's limit on the size of a file (RLIMIT_FSIZE); a worker that is stuck,
by stopping its process.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import resource
import signal
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import requests
from server_process import TOKEN, Server, server_process, wait_until
from starlette.requests import Request
from test_server import render_job, synthesize_job

from svdrr.backend import guard
from svdrr.backend.arrays import to_npy
from svdrr.backend.guard import RefusedError, limited_body
from svdrr.backend.jobs import EchoJob, EnhanceJob, job_to_json
from svdrr.backend.server import HEAD_WITHIN_S
from svdrr.ct import CTVolume
from svdrr.geometry import Detector

ECHO = json.dumps({"kind": "echo"})
SMALL = np.full((16, 16), 0.5, np.float32)


def refused(answer: requests.Response, status: int = 422, code: str = "invalid") -> str:
    """The sentence of a request that is refused."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["code"] == code
    assert error["message"].endswith((".", ")."))
    assert "Traceback" not in error["message"]
    return str(error["message"])


# Workers and servers that die


def test_a_worker_that_is_killed_in_mid_step(server: Server, phantom: CTVolume) -> None:
    server.wait_until_ready()
    done = server.start(EchoJob(), SMALL)
    server.finished(done)
    job_id = server.start(render_job(phantom, Detector.square(256, 300.0), tuple(range(-60, 60))), phantom.hu)
    behind = server.start(EchoJob(), SMALL)
    server.wait(job_id, lambda status: status["views_done"] >= 2)
    (worker,) = server.workers()
    worker.kill()
    status = server.finished(job_id)
    assert (status["state"], status["attempt"], status["views_done"]) == ("done", 2, 120)
    assert len(server.result(job_id)) == 120
    for other in (done, behind):
        status = server.finished(other)
        assert (status["state"], status["attempt"]) == ("done", 1)
        np.testing.assert_array_equal(server.result(other)[0][1], SMALL)
    assert "signal 9" in server.log()
    assert job_id not in server.log()


def test_a_job_that_kills_its_worker_twice_is_given_up(server: Server, phantom: CTVolume) -> None:
    server.wait_until_ready()
    job_id = server.start(render_job(phantom, Detector.square(1024, 300.0), tuple(range(-90, 90))), phantom.hu)
    behind = server.start(EchoJob(), SMALL)
    for attempt in (1, 2):
        server.wait(job_id, lambda status, now=attempt: status["attempt"] == now and status["views_done"] >= 1)
        (worker,) = server.workers()
        worker.kill()
    status = server.finished(job_id)
    assert status["state"] == "failed"
    assert status["message"] == (
        "The backend's worker ended (signal 9). It happened twice with this job, so it was given up."
    )
    assert server.finished(behind)["state"] == "done"


def test_a_server_that_is_killed_told_to_end_and_interrupted(
    spool: Path, phantom: CTVolume, radiograph_pixels: np.ndarray
) -> None:
    """Each next server on the same folder goes on where the last one was stopped; nothing is left running."""
    long = render_job(phantom, Detector.square(256, 300.0), tuple(range(-90, 90)))
    with server_process(spool) as server:
        done = server.start(EchoJob(), radiograph_pixels)
        server.finished(done)
        running = server.start(long, phantom.hu)
        waiting = server.start(EchoJob(), SMALL)
        server.wait(running, lambda status: status["views_done"] >= 1)
        workers = server.workers()
        server.kill()
        psutil.wait_procs(workers, 3.0)
        assert not any(worker.is_running() for worker in workers)

    # Asked before a worker is ready, so that the job cannot be done unseen.
    with server_process(spool, ready=False) as server:
        np.testing.assert_array_equal(server.result(done)[0][1], radiograph_pixels)
        # For some seconds it is still the killed server's.
        server.wait(running, lambda status: status["attempt"] == 2 and status["views_done"] >= 1)
        assert server.status(running)["state"] == "running"
        workers = server.workers()
        # As Ctrl+C does: every process of the terminal is told.
        os.killpg(server.process.pid, signal.SIGINT)
        server.ended(8.0)
        psutil.wait_procs(workers, 3.0)
        assert not any(worker.is_running() for worker in workers)

    with server_process(spool, ready=False) as server:
        server.wait(running, lambda status: status["state"] == "running" and status["views_done"] >= 1)
        follower = server.events(running)
        next(follower)
        workers = server.workers()
        server.process.send_signal(signal.SIGTERM)
        begun = time.monotonic()
        server.ended(8.0)
        psutil.wait_procs(workers, 3.0)
        assert not any(worker.is_running() for worker in workers)
        assert time.monotonic() - begun < 8.0
        with suppress(requests.exceptions.RequestException):
            assert all(event.data["state"] != "failed" for event in follower if event.name == "status")

    with server_process(spool) as server:
        status = server.finished(running)
        assert (status["state"], status["attempt"], status["views_done"]) == ("done", 2, 180)
        assert len(server.result(running)) == 180
        assert server.finished(waiting)["state"] == "done"
        np.testing.assert_array_equal(server.result(done)[0][1], radiograph_pixels)
        # Its parent has gone.
        workers = server.workers()
        assert server.process.stdin is not None
        server.process.stdin.close()
        assert server.ended(8.0) == 0
        psutil.wait_procs(workers, 3.0)
        assert not any(worker.is_running() for worker in workers)
        server.process.stdin = open(os.devnull, "wb")  # noqa: SIM115  (closed by server_process)


# Limits


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with limits that are soon met: 1 MiB a request, 3 jobs waiting, 20 MiB of disk."""
    limits = ("--max-request-mb", "1", "--max-queued", "3", "--max-spool-gb", "0.02")
    with server_process(tmp_path_factory.mktemp("limited") / "spool", *limits) as running:
        yield running


@pytest.fixture(scope="module")
def forgetful(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that drops a job for which nobody has asked in 3 seconds."""
    with server_process(tmp_path_factory.mktemp("forgetful") / "spool", "--keep-minutes", "0.05") as running:
        yield running


def stuck_job(server: Server) -> tuple[str, psutil.Process]:
    """A job that its worker does not go on with, and the worker."""
    # A worker that has done a job is not one that is about to be killed for an earlier one.
    before = server.start(EchoJob(), SMALL)
    assert server.finished(before)["state"] == "done"
    server.cancel(before)
    (worker,) = server.workers()
    worker.suspend()
    job_id = server.start(EchoJob(), SMALL)
    server.wait(job_id, lambda status: status["state"] == "running")
    return job_id, worker


def test_a_full_queue(limited: Server) -> None:
    running, _ = stuck_job(limited)
    waiting = [limited.start(EchoJob(), SMALL) for _ in range(3)]
    answer = limited.submit(EchoJob(), SMALL)
    assert "3 jobs waiting" in refused(answer, 429, "queue_full")
    assert int(answer.headers["Retry-After"]) > 0
    limited.cancel(waiting.pop())
    waiting.append(limited.start(EchoJob(), SMALL))
    limited.cancel(running)
    for job_id in waiting:
        assert limited.finished(job_id)["state"] == "done"
        limited.cancel(job_id)


def test_a_full_share_of_the_disk(limited: Server, phantom: CTVolume) -> None:
    job = render_job(phantom, Detector.square(1024, 300.0), tuple(range(6)))
    assert "GiB" in refused(limited.submit(job, phantom.hu), 507, "disk_full")
    held = limited.start(render_job(phantom, Detector.square(1024, 300.0), tuple(range(4))), phantom.hu)
    job = render_job(phantom, Detector.square(512, 300.0), tuple(range(5)))
    refused(limited.submit(job, phantom.hu), 507, "disk_full")
    limited.cancel(held)
    limited.cancel(limited.start(job, phantom.hu))


def test_a_request_that_is_too_large(limited: Server) -> None:
    pixels = np.zeros((600, 600), np.float32)
    assert "1 MiB" in refused(limited.submit(EchoJob(), pixels), 413, "too_large")

    def chunks() -> Iterator[bytes]:
        yield body(ECHO, to_npy(pixels))[:1000]
        for _ in range(40):
            yield b"x" * 50_000

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    refused(limited.ask("POST", "/v1/jobs", data=chunks(), headers=headers), 413, "too_large")
    with limited.connect() as connection:
        connection.sendall(post_head(limited, 10**15))
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")
    assert limited.get("/v1/capabilities").status_code == 200


def test_a_job_of_a_client_that_has_vanished(forgetful: Server) -> None:
    job_id, worker = stuck_job(forgetful)
    assert forgetful.get("/v1/capabilities").json()["queue"]["running"] == 1
    wait_until(lambda: forgetful.get("/v1/capabilities").json()["queue"]["running"] == 0, 10.0)
    assert forgetful.get(f"/v1/jobs/{job_id}").status_code == 404
    worker.wait(5.0)
    forgetful.run(EchoJob(), SMALL)


def test_following_a_job_keeps_it(forgetful: Server) -> None:
    job_id, worker = stuck_job(forgetful)
    headers = {**forgetful.headers, "Accept": "text/event-stream"}
    with requests.get(
        f"{forgetful.url}/v1/jobs/{job_id}/events", headers=headers, stream=True, timeout=10.0
    ) as followed:
        lines = followed.iter_lines(chunk_size=1)
        begun = time.monotonic()
        # Comments keep the connection alive, 5 seconds apart; the job would be dropped after 3.
        while next(lines) != b":":
            assert time.monotonic() - begun < 10.0
        assert time.monotonic() - begun > 3.5
    assert forgetful.status(job_id)["state"] == "running"
    worker.resume()
    assert forgetful.finished(job_id)["state"] == "done"
    forgetful.cancel(job_id)


def test_a_disk_that_fills_up(spool: Path, phantom: CTVolume, radiograph_pixels: np.ndarray) -> None:
    size = 3 * 2**20

    def no_long_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    with server_process(spool, before=no_long_files) as server:
        # In the worker, in the middle of a job.
        job_id = server.start(EnhanceJob("bicubic", 4), np.full((250, 250), 0.5, np.float32))
        status = server.finished(job_id)
        assert status["state"] == "failed"
        assert status["message"] == "The backend could not store the result: File too large."
        # In the server, as a request comes in.
        refused(server.submit(EchoJob(), np.zeros((1000, 1000), np.float32)), 507, "disk_full")
        assert not list((spool / "inputs").glob(".*"))
        np.testing.assert_array_equal(server.run(EchoJob(), radiograph_pixels)[0][1], radiograph_pixels)


# Clients that are gone, slow, or no clients at all


def post_head(server: Server, length: int, boundary: str = "b") -> bytes:
    return (
        f"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {server.token}\r\n"
        f"Content-Type: multipart/form-data; boundary={boundary}\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def body(job: str | bytes, pixels: bytes) -> bytes:
    job = job.encode() if isinstance(job, str) else job
    return (
        b'--b\r\nContent-Disposition: form-data; name="job"\r\n\r\n' + job + b"\r\n"
        b'--b\r\nContent-Disposition: form-data; name="pixels"; filename="pixels.npy"\r\n\r\n'
        + pixels
        + b"\r\n--b--\r\n"
    )


def answer_of(connection: socket.socket, timeout_s: float = 20.0) -> bytes:
    """All that comes until the server closes the connection, or nothing more comes."""
    connection.settimeout(timeout_s)
    received = b""
    with suppress(OSError):
        while piece := connection.recv(65536):
            received += piece
    return received


def reset(connection: socket.socket) -> None:
    """Ends a connection as the kernel does for a process that was killed with data unread."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def test_clients_that_are_killed(server: Server, phantom: CTVolume) -> None:
    server.wait_until_ready()
    process = psutil.Process(server.process.pid)
    job_id = server.start(render_job(phantom, Detector.square(1024, 300.0), tuple(range(-90, 90))), phantom.hu)
    before = process.num_fds()
    whole = body(ECHO, to_npy(np.zeros((1500, 1500), np.float32)))
    for index in range(20):
        connection = server.connect()
        if index % 2:
            connection.sendall(post_head(server, len(whole)) + whole[: len(whole) // 2])
        else:
            request = (
                f"GET /v1/jobs/{job_id}/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
            )
            connection.sendall(request.encode())
            connection.recv(100)
        reset(connection) if index % 4 < 2 else connection.close()
    wait_until(lambda: process.num_fds() <= before, 20.0, lambda: f"{process.num_fds()} of {before}")
    assert server.get("/v1/capabilities").json()["queue"]["queued"] == 0
    assert server.status(job_id)["state"] == "running"
    server.cancel(job_id)


def test_a_body_that_is_cut_off(server: Server) -> None:
    whole = body(ECHO, to_npy(SMALL))
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        with server.connect() as connection:
            connection.sendall(post_head(server, len(whole)) + whole[:length])
            connection.shutdown(socket.SHUT_WR)
            assert not answer_of(connection).startswith((b"HTTP/1.1 2", b"HTTP/1.1 5"))
    # Whole by its length, and yet without its end.
    for length in (10, len(whole) // 2, len(whole) - 8):
        with server.connect() as connection:
            connection.sendall(post_head(server, length).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            connection.sendall(whole[:length])
            assert answer_of(connection).startswith(b"HTTP/1.1 422 ")
    assert server.get("/v1/capabilities").json()["queue"]["queued"] == 0


def test_clients_that_are_too_slow(server: Server) -> None:
    """Heads that never end are dropped, the first on a connection and the next; bodies that stop are refused.

    Who follows a job on which nothing happens is not taken for slow.
    """
    job_id, worker = stuck_job(server)
    follower = server.connect()
    request = f"GET /v1/jobs/{job_id}/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
    follower.sendall(request.encode())
    head = f"GET /v1/capabilities HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n".encode()
    silent, first, following, body_stops = (server.connect() for _ in range(4))
    following.sendall(head + b"\r\n")
    assert following.recv(65536).startswith(b"HTTP/1.1 200 ")
    body_stops.sendall(post_head(server, 5000) + body(ECHO, to_npy(SMALL))[:300])
    trickled = (head + b"X: " + b"y" * 1000)[:400]
    begun = time.monotonic()
    open_ones = {first, following}
    for byte in trickled:
        for connection in tuple(open_ones):
            try:
                connection.sendall(bytes([byte]))
            except OSError:
                open_ones.discard(connection)
        if not open_ones:
            break
        time.sleep(0.1)
    assert not open_ones
    assert HEAD_WITHIN_S - 1.0 < time.monotonic() - begun < HEAD_WITHIN_S + 6.0
    with silent, first, following, body_stops:
        assert answer_of(silent) == b""
        assert answer_of(body_stops).startswith(b"HTTP/1.1 408 ")
    with follower:
        time.sleep(1.0)
        worker.resume()
        received = b""
        while b'"state": "done"' not in received:
            piece = follower.recv(65536)
            assert piece
            received += piece
    assert server.get("/v1/capabilities").status_code == 200


def test_a_body_has_so_long_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, with a shorter time: a chunk now and then does not keep a request going for ever."""
    monkeypatch.setattr(guard, "BODY_WITHIN_S", 0.3)

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0.05)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def read(stream: AsyncIterator[bytes]) -> int:
        return len([chunk async for chunk in stream])

    request = Request({"type": "http", "headers": []}, receive)
    begun = time.monotonic()
    with pytest.raises(RefusedError, match="too slowly") as refusal:
        asyncio.run(read(limited_body(request, 10**6)))
    assert refusal.value.status == 408
    assert time.monotonic() - begun < 3.0


def client_hello() -> bytes:
    outgoing = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


def test_garbage_on_the_socket(server: Server) -> None:
    random = np.random.default_rng(5)
    garbage = [
        client_hello(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
        b"\0" * 10_000,
        b"\r\n" * 10_000,
        b"GET " + b"/" * 200_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-A: y\r\n" * 20_000 + b"\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFF\r\n",
        post_head(server, 10).replace(b"Content-Length: 10", b"Transfer-Encoding: chunked") + b"zz\r\n\r\n",
        b"GET /v1/jobs HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        *(random.bytes(2000) for _ in range(20)),
    ]
    for noise in garbage:
        with server.connect() as connection, suppress(OSError):
            connection.sendall(noise)
            connection.shutdown(socket.SHUT_WR)
            received = answer_of(connection)
            assert not received or received.startswith(b"HTTP/1.1 4"), received[:200]
    assert server.get("/v1/health").status_code == 200
    assert "Traceback" not in server.log()


# Requests that are wrong


class Malicious:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def npy_with_header(header: str, data: bytes = b"") -> bytes:
    text = header.encode("latin-1")
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def npy_of(shape: str, descr: str = "'<f4'", data: bytes = b"") -> bytes:
    return npy_with_header(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n", data)


def fortran() -> bytes:
    return to_npy(SMALL).replace(b"'fortran_order': False", b"'fortran_order': True ")


CLEAN = to_npy(SMALL)
PIXELS = {
    "empty": b"",
    "no npy": b"\x89PNG\r\n\x1a\n" + b"\0" * 1000,
    "magic alone": b"\x93NUMPY",
    "version 9": b"\x93NUMPY\x09\x00" + CLEAN[8:],
    "header cut off": CLEAN[:40],
    "cut off": CLEAN[:-1],
    "too long": CLEAN + b"\0",
    "float64": to_npy(SMALL.astype(np.float64)),
    "float16": to_npy(SMALL.astype(np.float16)),
    "int16": to_npy(SMALL.astype(np.int16)),
    "bool": to_npy(SMALL > 0.0),
    "big-endian": to_npy(SMALL.astype(">f4")),
    "Fortran order": fortran(),
    "structure": to_npy(np.zeros((16, 16), [("a", "f4")])),
    "1-D": to_npy(SMALL[0]),
    "3-D": to_npy(SMALL[None]),
    "0-D": to_npy(np.float32(0.5)),
    "no rows": to_npy(np.zeros((0, 16), np.float32)),
    "too small": to_npy(SMALL[:15]),
    "too wide": to_npy(np.zeros((16, 8193), np.float32)),
    "NaN": to_npy(np.where(np.eye(16) > 0.0, np.float32(np.nan), SMALL)),
    "infinite": to_npy(np.where(np.eye(16) > 0.0, np.float32(np.inf), SMALL)),
    "above 1": to_npy(SMALL + np.float32(0.51)),
    "below 0": to_npy(SMALL - np.float32(0.51)),
    "10^12 elements": npy_of("(1000000, 1000000)"),
    "more than memory has": npy_of(f"({10**30}, 16)"),
    "more digits than Python prints": npy_of(f"({'9' * 3000}, {'9' * 3000})"),
    "negative": npy_of("(-16, -16)", data=CLEAN[-1024:]),
    "no shape": npy_of("16", data=CLEAN[-1024:]),
    "no type": npy_of("(16, 16)", "()", CLEAN[-1024:]),
    "unknown type": npy_of("(16, 16)", "'<x9'", CLEAN[-1024:]),
    "open bracket": npy_with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (16,"),
    "open quote": npy_with_header("'''"),
    "brackets": npy_with_header("(" * 5000),
    "minus signs": npy_with_header("-" * 9000 + "1"),
    "code": npy_with_header("__import__('os').abort()"),
}


@pytest.mark.parametrize("name", PIXELS)
def test_pixels_that_are_wrong(server: Server, name: str) -> None:
    assert "pixels" in refused(server.submit(EchoJob(), PIXELS[name]))


def test_pickled_objects_are_not_unpickled(server: Server, tmp_path: Path) -> None:
    left = tmp_path / "left-behind"
    for data in (
        npy_of("(16, 16)", "'|O'", pickle.dumps([Malicious(left)] * 256)),
        npy_of("(16, 16)", "[('a', 'O')]", pickle.dumps(Malicious(left))),
        pickle.dumps(Malicious(left)),
    ):
        assert "pixels" in refused(server.submit(EchoJob(), data))
    assert not left.exists()


def test_cts_that_are_wrong(server: Server, phantom: CTVolume) -> None:
    job = render_job(phantom)
    hu = phantom.hu
    for wrong in (
        hu[0],
        hu[None],
        hu.astype(np.uint8),
        hu.astype(">i2"),
        hu[:, :15],
        np.zeros((1, 16, 2049), np.int16),
    ):
        refused(server.submit(job, to_npy(wrong) if wrong.dtype != ">i2" else _saved(wrong)))
    broken = hu.copy()
    broken[3, 4, 5] = np.nan
    assert "not numbers" in refused(server.submit(job, broken))


def _saved(array: np.ndarray) -> bytes:
    return npy_of(str(array.shape), f"'{array.dtype.str}'", array.tobytes())


def changed(job: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """A copy of the job with another value at ``name.name.0``."""
    copy: dict[str, Any] = json.loads(json.dumps(job))
    *inner, last = (int(part) if part.isdigit() else part for part in path.split("."))
    place: Any = copy
    for part in inner:
        place = place[part]
    place[last] = value
    return copy


WRONG_RENDERS: list[tuple[str, object]] = [
    ("unknown_field", 1),
    ("poses.0.patient", "a name"),
    ("kind", "rendering"),
    ("kind", None),
    ("poses", []),
    ("poses", "all"),
    ("poses.0", None),
    ("poses.0.primary_deg", "12"),
    ("poses.0.primary_deg", 361.0),
    ("poses.0.primary_deg", float("nan")),
    ("poses.0.secondary_deg", float("inf")),
    ("poses.0.isocenter_ras", [0.0, 0.0]),
    ("poses.0.isocenter_ras", [0.0, 0.0, 1e300]),
    ("poses.0.source_to_isocenter_mm", 0.0),
    ("poses.0.source_to_isocenter_mm", 5000.0),
    ("detector.rows", 0),
    ("detector.rows", 4097),
    ("detector.rows", 64.5),
    ("detector.rows", True),
    ("detector.pixel_spacing_mm", [0.0, 1.0]),
    ("ijk_to_ras", [[0.0] * 4] * 4),
    ("ijk_to_ras.0.0", float("nan")),
    ("ijk_to_ras.0", [1.0, 0.0, 0.0]),
    ("ijk_to_ras.3", [0.0, 0.0, 1.0, 1.0]),
    ("energy_kev", -1.0),
    ("energy_kev", float("nan")),
    ("energy_kev", float("inf")),
    ("kvp", 5),
    ("kvp", 10**30),
    ("kvp", 80.5),
    ("material", "lead"),
    ("window", "../../etc/passwd"),
    ("engine", "os.system"),
    ("air_photons_per_pixel", 0.0),
    ("air_photons_per_pixel", float("nan")),
    ("blur_mm", -1.0),
    ("blur_mm", float("nan")),
    ("seed", -1),
    ("seed", 2**63),
    ("seed", 10**400),
    ("remove_table", "yes"),
    ("pixels_sha256", 5),
]


@pytest.mark.parametrize(
    ("path", "value"), WRONG_RENDERS, ids=[f"{path}={value}"[:50] for path, value in WRONG_RENDERS]
)
def test_renders_that_are_wrong(server: Server, phantom: CTVolume, path: str, value: object) -> None:
    job = changed(job_to_json(render_job(phantom)), path, value)
    refused(server.submit(job, phantom.hu))


def test_as_many_views_as_a_job_may_have(server: Server, phantom: CTVolume) -> None:
    job = job_to_json(render_job(phantom, Detector.square(16, 300.0)))
    assert "1 to 2,000 views" in refused(server.submit(changed(job, "poses", job["poses"][:1] * 2001), phantom.hu))
    answer = server.submit(changed(job, "poses", job["poses"][:1] * 2000), phantom.hu)
    assert answer.status_code == 201
    server.cancel(answer.json()["id"])


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model", "no such model"),
        ("model", "/etc"),
        ("model", "../tiny"),
        ("model", "tiny/"),
        ("model", ""),
        ("model", "\ud800\0"),
        ("steps", 0),
        ("steps", 1001),
        ("steps", 10**400),
        ("guidance", float("nan")),
        ("guidance", -1.0),
        ("pixel_spacing_mm", [float("nan"), 1.0]),
        ("pixel_spacing_mm", [1.0]),
        ("source_pose", None),
        ("source_path", "/etc/passwd"),
    ],
)
def test_syntheses_that_are_wrong(server: Server, path: str, value: object) -> None:
    sentence = refused(server.submit(changed(job_to_json(synthesize_job()), path, value), SMALL))
    assert "/work" not in sentence
    assert "/root" not in sentence


def test_a_model_by_the_path_of_its_folder_is_unknown(server: Server, models_folder: Path) -> None:
    job = changed(job_to_json(synthesize_job()), "model", str(models_folder / "tiny"))
    assert "Unknown model" in refused(server.submit(job, SMALL))


@pytest.mark.parametrize(("path", "value"), [("method", "magic"), ("scale", 3), ("scale", 10**30), ("scale", 2.0)])
def test_enhancements_that_are_wrong(server: Server, path: str, value: object) -> None:
    refused(server.submit(changed(job_to_json(EnhanceJob("lanczos", 2)), path, value), SMALL))


@pytest.mark.parametrize(
    "text", ["", "{", "null", "[]", "5", '"echo"', "{}", '{"kind": "echo", "kind": 5}', "[" * 100_000, "\0", "\ufeff{}"]
)
def test_what_is_no_job(server: Server, text: str) -> None:
    refused(server.submit(text, SMALL))


def test_requests_that_are_no_forms(server: Server) -> None:
    for content_type in ("", "application/json", "text/plain", "application/x-www-form-urlencoded"):
        headers = {"Content-Type": content_type}
        refused(server.ask("POST", "/v1/jobs", data=ECHO, headers=headers), 415)
    whole = body(ECHO, to_npy(SMALL))
    for content_type, data in (
        ("multipart/form-data", whole),
        ("multipart/form-data; boundary=", whole),
        ("multipart/form-data; boundary=another", whole),
        ("multipart/form-data; boundary=" + "b" * 5000, whole),
        ("multipart/form-data; boundary=b; charset=utf-99", whole.replace(b'name="job"', b'name="\xff"')),
        ("multipart/form-data; boundary=b", b""),
        ("multipart/form-data; boundary=b", b"--b--\r\n"),
        ("multipart/form-data; boundary=b", whole.replace(b'name="job"', b"")),
        ("multipart/form-data; boundary=b", whole.replace(b'name="job"', b'name="job"; filename="job"')),
        ("multipart/form-data; boundary=b", whole.replace(b'; filename="pixels.npy"', b"")),
        ("multipart/form-data; boundary=b", whole.replace(b'name="pixels"', b'name="other"')),
        ("multipart/form-data; boundary=b", whole.replace(b"--b--", b"--b\r\n") + whole),
        ("multipart/form-data; boundary=b", body(b'{"kind": "echo"}' + b" " * 5 * 2**20, to_npy(SMALL))),
        ("multipart/form-data; boundary=b", body(b"\xff\xfe", to_npy(SMALL))),
    ):
        refused(server.ask("POST", "/v1/jobs", data=data, headers={"Content-Type": content_type}))
    refused(server.submit(ECHO))
    refused(server.submit({"kind": "echo", "pixels_sha256": "../../etc/passwd"}))


def test_the_worker_survives_all_of_it(server: Server) -> None:
    with closing(server.connect()):
        np.testing.assert_array_equal(server.run(EchoJob(), SMALL)[0][1], SMALL)
