"""The real server, `python -m svdrr serve`, as a process of its own, and a plain HTTP client of it."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil
import requests

from svdrr.backend.arrays import to_npy
from svdrr.backend.jobs import Job, job_to_json

TOKEN = "a-token-of-the-tests-0123456789"
Pixels = np.ndarray | bytes | None

_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy", "SVDRR_TOKEN")


@dataclass
class Server:
    """A server while a test runs."""

    process: subprocess.Popen[bytes]
    url: str
    log_file: Path
    token: str | None = TOKEN
    verify: str | bool = True
    _session: requests.Session = field(default_factory=requests.Session)

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.token is None else {"Authorization": f"Bearer {self.token}"}

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        assert parts.port is not None
        return parts.hostname, parts.port

    def ask(self, method: str, path: str, timeout_s: float = 30.0, **options: Any) -> requests.Response:
        """One request, with the token, on a connection of its own."""
        headers = {**self.headers, **options.pop("headers", {})}
        url = f"{self.url}{path}"
        return requests.request(method, url, headers=headers, timeout=timeout_s, verify=self.verify, **options)

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.ask("GET", path, **options)

    def submit(self, job: Job | dict[str, Any] | str, pixels: Pixels = None, **options: Any) -> requests.Response:
        """Asks for a job; text and dicts are sent as they are, right or wrong."""
        if not isinstance(job, dict | str):
            job = job_to_json(job)
        text = job if isinstance(job, str) else json.dumps(job)
        parts: dict[str, Any] = {"job": (None, text, "application/json")}
        if pixels is not None:
            data = to_npy(pixels) if isinstance(pixels, np.ndarray) else pixels
            parts["pixels"] = ("pixels.npy", data, "application/octet-stream")
        return self.ask("POST", "/v1/jobs", files=parts, **options)

    def start(self, job: Job, pixels: Pixels = None) -> str:
        """The id of a job that must be accepted."""
        answer = self.submit(job, pixels)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def status(self, job_id: str) -> dict[str, Any]:
        answer = self.get(f"/v1/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def wait(self, job_id: str, until: Callable[[dict[str, Any]], bool], timeout_s: float = 120.0) -> dict[str, Any]:
        """The job's status once `until` holds for it."""
        deadline = time.monotonic() + timeout_s
        while not until(status := self.status(job_id)):
            assert time.monotonic() < deadline, status
            time.sleep(0.03)
        return status

    def finished(self, job_id: str, timeout_s: float = 120.0) -> dict[str, Any]:
        return self.wait(job_id, lambda status: status["state"] in ("done", "failed"), timeout_s)

    def cancel(self, job_id: str) -> None:
        assert self.ask("DELETE", f"/v1/jobs/{job_id}").status_code == 204

    def result(self, job_id: str, index: int | None = None) -> list[tuple[dict[str, Any], np.ndarray]]:
        """The entries of ``views.json``, each with its array."""
        answer = self.get(f"/v1/jobs/{job_id}/result" + ("" if index is None else f"/{index}"))
        assert answer.status_code == 200, answer.text
        assert answer.headers["Content-Type"] == "application/zip"
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            assert archive.testzip() is None
            entries = json.loads(archive.read("views.json"))["views"]
            return [(entry, np.load(io.BytesIO(archive.read(entry["array"])))) for entry in entries]

    def run(self, job: Job, pixels: Pixels = None, timeout_s: float = 120.0) -> list[tuple[dict[str, Any], np.ndarray]]:
        """The result of a job that must succeed."""
        job_id = self.start(job, pixels)
        status = self.finished(job_id, timeout_s)
        assert status["state"] == "done", status
        return self.result(job_id)

    def events(self, job_id: str, last_event_id: int | None = None, timeout_s: float = 120.0) -> Iterator[Event]:
        """What the server says of the job until it has no more to say."""
        headers = {} if last_event_id is None else {"Last-Event-ID": str(last_event_id)}
        with self.get(f"/v1/jobs/{job_id}/events", headers=headers, stream=True, timeout_s=timeout_s) as answer:
            assert answer.status_code == 200, answer.text
            assert answer.headers["Content-Type"].startswith("text/event-stream")
            fields: dict[str, str] = {}
            for line in answer.iter_lines(chunk_size=1, decode_unicode=True):
                if line.startswith(":"):
                    continue
                if line:
                    name, _, value = line.partition(": ")
                    fields[name] = value
                elif fields:
                    yield Event(fields["event"], fields.get("id"), json.loads(fields["data"]))
                    fields = {}

    def connect(self) -> socket.socket:
        """A bare connection."""
        return socket.create_connection(self.address, timeout=20.0)

    def devices(self) -> list[dict[str, Any]]:
        devices: list[dict[str, Any]] = self.get("/v1/capabilities").json()["devices"]
        return devices

    def workers(self) -> list[psutil.Process]:
        return [
            child
            for child in psutil.Process(self.process.pid).children()
            if any("svdrr.backend.worker" in word for word in child.cmdline())
        ]

    def wait_until_ready(self, timeout_s: float = 120.0) -> None:
        wait_until(lambda: all(device["ready"] for device in self.devices()), timeout_s, self.log)

    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def ended(self, timeout_s: float) -> int:
        """Its exit code; TimeoutExpired if it goes on."""
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        """As kill -9 of the server alone does."""
        self.process.kill()
        self.process.wait(10.0)


@dataclass(frozen=True)
class Event:
    """One server-sent event."""

    name: str
    id: str | None
    data: dict[str, Any]


def wait_until(condition: Callable[[], object], timeout_s: float = 20.0, why: Callable[[], str] = str) -> None:
    """Fails, with what `why` says, unless `condition` holds in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, why()
        time.sleep(0.03)


def command(spool: Path, *arguments: str) -> list[str]:
    """The server's command line, on a free loopback port."""
    serve = [sys.executable, "-m", "svdrr", "serve", "--port", "0", "--device", "cpu", "--spool", str(spool)]
    return [*serve, *arguments]


def environment(token: str | None) -> dict[str, str]:
    """The environment of a server: this one's, without proxies, and with that token alone."""
    found = {name: value for name, value in os.environ.items() if name not in _PROXIES}
    return found if token is None else {**found, "SVDRR_TOKEN": token}


def refusal(spool: Path, *arguments: str, token: str | None = TOKEN) -> str:
    """What a server that must refuse to start says."""
    done = subprocess.run(
        command(spool, *arguments), env=environment(token), capture_output=True, text=True, timeout=120.0
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return " ".join(done.stderr.replace("│", " ").split())


@contextmanager
def server_process(
    spool: Path,
    *arguments: str,
    token: str | None = TOKEN,
    verify: str | bool = True,
    before: Callable[[], object] | None = None,
    ready: bool = True,
    start_within_s: float = 60.0,
) -> Iterator[Server]:
    """A server on `spool`. before: called in its process before it starts. ready: wait until a worker is."""
    folder = spool.parent
    folder.mkdir(parents=True, exist_ok=True)
    address_file, log_file = folder / f"{spool.name}.address", folder / f"{spool.name}.log"
    address_file.unlink(missing_ok=True)
    line = command(spool, "--address-file", str(address_file), "--exit-with-parent", *arguments)
    with log_file.open("ab") as log:
        process = subprocess.Popen(
            line,
            env=environment(token),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=before,
        )
    family: list[psutil.Process] = []
    try:

        def listens() -> bool:
            assert process.poll() is None, log_file.read_text(encoding="utf-8")
            return address_file.exists()

        wait_until(listens, start_within_s)
        server = Server(process, json.loads(address_file.read_text(encoding="utf-8"))["url"], log_file, token, verify)
        if ready:
            server.wait_until_ready()
        yield server
    finally:
        if process.poll() is None:
            family = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGTERM)
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(15.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for child in family:
            if child.is_running():
                child.kill()
