"""Thousands of malformed requests: the server answers each with a sentence, none with 5xx, and does not grow.

Every test of the suite sends a part of them; `SVDRR_FUZZ_REQUESTS=10000 pytest Testing/backend/test_server_fuzz.py`
sends them all.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from server_process import TOKEN, Server, server_process
from test_server import render_job, synthesize_job
from test_server_faults import CLEAN, PIXELS, body

from svdrr.backend.arrays import to_npy
from svdrr.backend.jobs import EchoJob, EnhanceJob, job_to_json
from svdrr.backend.validation import job_schema
from svdrr.ct import CTVolume
from svdrr.geometry import Detector

REQUESTS = int(os.environ.get("SVDRR_FUZZ_REQUESTS", "1500"))
MAX_GROWTH_BYTES = 20 * 2**20
WARM_UP = 300

Place = tuple[str | int, ...]

_PHANTOM = CTVolume(np.zeros((16, 16, 16), np.float32), np.eye(4))
_VALID = [
    (job_to_json(EchoJob()), CLEAN),
    (job_to_json(EnhanceJob("lanczos", 2, pixel_spacing_mm=(1.0, 1.0))), CLEAN),
    (job_to_json(synthesize_job(steps=3)), CLEAN),
    (job_to_json(render_job(_PHANTOM, Detector.square(16, 50.0))), to_npy(_PHANTOM.hu.astype(np.int16))),
]
# What the schema speaks of: the names of every field of every kind of job.
_NAMES = sorted({name for part in job_schema()["$defs"].values() for name in part.get("properties", {})})

_numbers = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([0, -1, 1, 2**31, 2**63, 2**64, -(2**63) - 1, 10**400, 1e308, -0.0, 4097, 2001, 0.5]),
)
_texts = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["", "tiny", "render", "echo", "/etc/passwd", "../../x", "\0", "\ud800", "NaN", "A" * 5000, "%s%n"]
    ),
)
_values = st.recursive(
    st.one_of(st.none(), st.booleans(), _numbers, _texts),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(_NAMES) | _texts, inner, max_size=3),
    max_leaves=6,
)


def _places(value: Any, before: Place = ()) -> list[Place]:
    """Where a JSON value can be changed."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [before, *(place for name, item in inner for place in _places(item, (*before, name)))]


@st.composite
def _jobs(draw: st.DrawFn) -> tuple[str, bytes]:
    """The text of a job with mistakes, and right pixels for it."""
    job, pixels = draw(st.sampled_from(_VALID))
    job = json.loads(json.dumps(job))
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from(_places(job)[1:]))
        holder: Any = job
        for step in way:
            holder = holder[step]
        change = draw(st.sampled_from(["replace", "delete", "add"]))
        if change == "replace":
            holder[last] = draw(_values)
        elif change == "delete":
            del holder[last]
        elif isinstance(holder, dict):
            holder[draw(st.sampled_from(_NAMES) | _texts)] = draw(_values)
        else:
            holder.append(draw(_values))
        if not _places(job)[1:]:
            break
    text = json.dumps(job)
    if draw(st.integers(0, 9)) == 0:
        cut = draw(st.integers(0, len(text)))
        text = text[:cut] + draw(st.sampled_from(["", "\0", "]", "}", '"', "//", "\x7f"])) + text[cut + 1 :]
    return text, pixels


@st.composite
def _mangled(draw: st.DrawFn, whole: bytes) -> bytes:
    """The bytes with some changed, cut out or put in."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, min(len(data), 400)))
        kind = draw(st.sampled_from(["flip", "cut", "insert", "end"]))
        if kind == "flip" and at < len(data):
            data[at] ^= draw(st.integers(1, 255))
        elif kind == "cut":
            del data[at : at + draw(st.integers(1, 40))]
        elif kind == "insert":
            data[at:at] = draw(st.binary(max_size=30))
        else:
            del data[at:]
    return bytes(data)


_forms = st.one_of(
    _jobs().map(lambda made: body(made[0].encode("utf-8", "surrogatepass"), made[1])),
    st.sampled_from(_VALID).flatmap(lambda job: _mangled(job[1]).map(lambda pixels: body(json.dumps(job[0]), pixels))),
    st.sampled_from(sorted(PIXELS)).map(lambda name: body('{"kind": "echo"}', PIXELS[name])),
    st.sampled_from(_VALID).flatmap(lambda job: _mangled(body(json.dumps(job[0]), job[1]))),
    st.binary(max_size=200),
)
_types = st.one_of(
    *[st.just("multipart/form-data; boundary=b")] * 3,
    st.sampled_from(["", "application/json", "multipart/form-data", 'multipart/form-data; boundary="', "\xff"]),
)
_identities = st.one_of(
    st.sampled_from(["0" * 32, "..", "../../etc/passwd", "%2e%2e%2f", "%00", "%ff", "{job_id}", "-1", "1e9", "\u0661"]),
    st.text(st.characters(codec="utf-8"), max_size=40),
)
_words = st.sampled_from(["v1", "v2", "jobs", "health", "capabilities", "events", "result", "openapi.json", "docs", ""])
_addresses = st.one_of(
    st.lists(_words | _identities, max_size=5).map(lambda parts: "/" + "/".join(parts)),
    st.tuples(_identities, st.sampled_from(["", "/events", "/result", "/result/0", "/result/-1", "/result/x"])).map(
        lambda parts: f"/v1/jobs/{parts[0]}{parts[1]}"
    ),
)
_methods = st.sampled_from(["GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS", "TRACE", "QWERTY"])
_headers = st.dictionaries(
    st.sampled_from(["Last-Event-ID", "Host", "Origin", "Range", "Accept", "Cookie", "Expect", "Content-Encoding"]),
    st.sampled_from(["", "0", "-1", "9" * 40, "x" * 1000, "\xff\xfe", "100-continue", "gzip", "bytes=0-", "[::1"]),
    max_size=3,
)

Wanted = tuple[str, str, dict[str, str], bytes]

_submissions = st.tuples(
    st.just("POST"), st.just("/v1/jobs"), _types.map(lambda value: {"Content-Type": value}), _forms
)
_others = st.tuples(_methods, _addresses, _headers, st.binary(max_size=20))
# Most of what can go wrong is in a job and its pixels.
_requests: st.SearchStrategy[Wanted] = st.integers(0, 3).flatmap(lambda which: _submissions if which else _others)
_raw = st.one_of(
    st.binary(min_size=1, max_size=300),
    _mangled(b"GET /v1/capabilities HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc"),
    _mangled(b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
)


class Fuzzer:
    """Sends requests one after the other, on one connection while the server leaves it open."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._connection = http.client.HTTPConnection(*server.address, timeout=30.0)
        self.answered: dict[int, int] = {}

    def request(self, wanted: Wanted) -> None:
        method, address, headers, data = wanted
        target = "".join(c if "!" <= c <= "~" else "".join(f"%{b:02x}" for b in c.encode()) for c in address)
        connection = self._connection
        for again in (True, False):
            try:
                connection.putrequest(method, target, skip_host="Host" in headers, skip_accept_encoding=True)
                given = {"Authorization": f"Bearer {TOKEN}", "Content-Length": str(len(data)), **headers}
                for name, value in given.items():
                    connection.putheader(name, value.encode("latin-1"))
                connection.endheaders(data)
                answer = connection.getresponse()
                text = answer.read()
                break
            except (http.client.RemoteDisconnected, ConnectionError):
                # It may close a connection between two requests, and after one that it cannot read.
                connection.close()
                assert again
        self._judge(method, answer.status, answer.headers.get("Content-Type", ""), text)

    def _judge(self, method: str, status: int, content_type: str, text: bytes) -> None:
        self.answered[status] = self.answered.get(status, 0) + 1
        assert status < 500, (status, text)
        if status == 201:
            # By chance it was a right one after all.
            job_id = json.loads(text)["id"]
            assert self._server.ask("DELETE", f"/v1/jobs/{job_id}").status_code == 204
        elif status >= 400 and content_type == "application/json" and method != "HEAD":
            error = json.loads(text)["error"]
            assert error.keys() == {"code", "message"}
            assert error["message"].endswith(".")
            assert len(error["message"]) < 20_000
        elif status >= 400 and method != "HEAD":
            # A request that is no HTTP does not reach the application.
            assert (status, content_type) == (400, "text/plain; charset=utf-8")

    def raw(self, data: bytes) -> None:
        with self._server.connect() as connection:
            received = b""
            try:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                while piece := connection.recv(65536):
                    received += piece
            except ConnectionError:
                pass
        assert not received.startswith(b"HTTP/1.1 5"), received[:300]


def fuzz(server: Server, count: int) -> dict[int, int]:
    """Sends about `count` requests; how many were answered by which status."""
    fuzzer = Fuzzer(server)
    parts = (
        (fuzzer.request, _requests, count - count // 10),
        (fuzzer.raw, _raw, count // 10),
    )
    for send, strategy, number in parts:
        _for_all(send, strategy, number)
    return fuzzer.answered


def _for_all(send: Callable[[Any], None], strategy: st.SearchStrategy[Any], count: int) -> None:
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def one(wanted: Any) -> None:
        send(wanted)

    one()


def test_no_request_breaks_the_server_or_makes_it_grow(tmp_path: Path, models_folder: Path) -> None:
    with server_process(tmp_path / "spool", "--models", str(models_folder)) as server:
        process = psutil.Process(server.process.pid)
        fuzz(server, WARM_UP)
        before, files = process.memory_info().rss, process.num_fds()
        answered = fuzz(server, REQUESTS)
        grown = process.memory_info().rss - before
        assert grown < MAX_GROWTH_BYTES, f"{grown / 2**20:.1f} MiB"
        assert process.num_fds() <= files + 5
        assert answered.get(422, 0) > REQUESTS / 5, answered
        assert {404, 405, 415, 422} <= answered.keys()
        assert server.get("/v1/capabilities").json()["queue"]["queued"] == 0
        np.testing.assert_array_equal(
            server.run(EchoJob(), np.full((16, 16), 0.5, np.float32))[0][1], np.full((16, 16), 0.5, np.float32)
        )
        log = server.log()
        assert "Traceback" not in log
        assert TOKEN not in log
        print(f"{REQUESTS} requests, answered {dict(sorted(answered.items()))}; grown by {grown / 2**20:.1f} MiB")
