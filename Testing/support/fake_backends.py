"""Servers on real sockets that behave as a test says."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HEALTH = {"service": "svdrr", "version": "0.1.0", "api": "v1"}
GPU = {"name": "cuda:0", "description": "NVIDIA H100", "ready": True, "problem": ""}
CPU = {"name": "cpu", "description": "CPU, 2 cores", "ready": True, "problem": ""}
CAPABILITIES: dict[str, Any] = {
    "version": "0.1.0",
    "devices": [GPU],
    "queue": {"queued": 0, "running": 0, "max_queued": 64},
    "models": [{"name": "demo-256"}],
    "limits": {"max_request_bytes": 10**9},
}


@dataclass
class Site:
    """A web server while a test runs. requests: (method, path, headers, body), as they came in."""

    url: str
    requests: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)

    def asked(self, method: str) -> list[str]:
        """The paths that were asked for by that method."""
        return [path for asked, path, _, _ in self.requests if asked == method]


Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def site(answer: Answer, tls: tuple[Path, Path] | None = None, host: str = "127.0.0.1") -> Iterator[Site]:
    """A web server on a free loopback port that answers every request by `answer`. tls: certificate and key."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _do(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            known.requests.append((self.command, self.path, dict(self.headers), body))
            try:
                answer(self)
            except OSError:
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    for method in ("GET", "POST", "DELETE"):
        setattr(Handler, f"do_{method}", Handler._do)

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, *_: object) -> None:
            pass

    server = Server((host, 0), Handler)
    scheme = "http"
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
        # The handshake waits for the first read, which is in the connection's own thread.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        scheme = "https"
    known = Site(f"{scheme}://{host}:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield known
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def send(handler: BaseHTTPRequestHandler, status: int, body: bytes, **headers: str) -> None:
    """One whole answer."""
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def send_json(handler: BaseHTTPRequestHandler, content: object, status: int = 200) -> None:
    """One whole answer in JSON."""
    send(handler, status, json.dumps(content).encode(), Content_Type="application/json")


def send_error(handler: BaseHTTPRequestHandler, status: int, code: str, message: str) -> None:
    """An error as an SVDRR server words it."""
    send_json(handler, {"error": {"code": code, "message": message}}, status)


def capable(capabilities: object, token: str | None = None, health: object = HEALTH) -> Answer:
    """A server that is asked for nothing but whether it is one."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if handler.path == "/v1/health":
            send_json(handler, health)
        elif token is not None and handler.headers.get("Authorization") != f"Bearer {token}":
            send_error(handler, 401, "unauthorized", "The backend does not accept this token.")
        elif handler.path == "/v1/capabilities":
            send_json(handler, capabilities)
        else:
            send_error(handler, 404, "not_found", "Not Found.")

    return answer


@contextmanager
def listener(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that does not speak HTTP by itself; `talk` has each connection. Yields its URL."""
    listening = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=_talk, args=(connection, talk), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        # Closing alone would leave `accept` waiting.
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()


def _talk(connection: socket.socket, talk: Callable[[socket.socket], None]) -> None:
    with connection:
        try:
            talk(connection)
        except OSError:
            return


CUT = b"CUT"
"""In a stream of `JobServer`: the connection breaks here."""

WAIT = b"WAIT"
"""In a stream of `JobServer`: nothing comes until the job is deleted."""


@dataclass
class JobServer:
    """Plays a server with one job.

    streams: what each connection to its events is sent, one after the other, the last one for all that follow.
    views: as `svdrr.backend.arrays.zipped` takes them. refusals: (path ending, status, code), each used once.
    """

    streams: list[list[bytes]]
    views: dict[int, bytes] = field(default_factory=dict)
    refusals: list[tuple[str, int, str]] = field(default_factory=list)
    max_request_bytes: int = 10**9
    asked_after: list[str] = field(default_factory=list)
    deleted: threading.Event = field(default_factory=threading.Event)

    def __call__(self, handler: BaseHTTPRequestHandler) -> None:
        for refusal in self.refusals:
            if handler.path.endswith(refusal[0]):
                self.refusals.remove(refusal)
                send_error(handler, refusal[1], refusal[2], "Refused by the test.")
                return
        if handler.command == "POST":
            send_json(handler, status("queued"), 201)
        elif handler.command == "DELETE":
            self.deleted.set()
            send(handler, 204, b"")
        elif handler.path.endswith("/events"):
            self._stream(handler)
        elif "/result/" in handler.path:
            send(handler, 200, self.views[int(handler.path.rpartition("/")[2])])
        else:
            limits = {"max_request_bytes": self.max_request_bytes}
            capable({**CAPABILITIES, "limits": limits})(handler)

    def _stream(self, handler: BaseHTTPRequestHandler) -> None:
        self.asked_after.append(handler.headers.get("Last-Event-ID", ""))
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        stream = self.streams.pop(0) if len(self.streams) > 1 else self.streams[0]
        for piece in stream:
            if piece == CUT:
                handler.close_connection = True
                handler.connection.shutdown(socket.SHUT_RDWR)
                return
            if piece == WAIT:
                self.deleted.wait(30.0)
            else:
                handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        handler.wfile.write(b"0\r\n\r\n")


def status(state: str, **changes: object) -> dict[str, object]:
    """The JSON of a job's status."""
    plain = {"step": 0, "steps": 0, "eta_s": None, "views_done": 0, "views_total": 1, "position": 0, "attempt": 1}
    return {"id": "ab" * 16, "kind": "echo", "state": state, "stage": state, "message": "", **plain, **changes}


def sse(event: str, data: object) -> bytes:
    """One server-sent event."""
    number = f"id: {data['index'] + 1}\n" if event == "view" and isinstance(data, dict) else ""
    return f"event: {event}\n{number}data: {json.dumps(data)}\n\n".encode()


def view_event(index: int) -> bytes:
    """The event that announces a view."""
    return sse("view", {"index": index, "label": "PA", "preview_png": "cG5n"})


class Relay:
    """A way to a server that can be cut. url: of the way's beginning."""

    def __init__(self, server_url: str) -> None:
        host, _, port = server_url.removeprefix("http://").partition(":")
        self._server = (host, int(port))
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._down = False
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, down: bool = False) -> None:
        """Breaks every connection; down: and those that come, until the next call."""
        self._down = down
        while self._open:
            _shut(self._open.pop())

    def close(self) -> None:
        """Ends it."""
        self.cut(down=True)
        _shut(self._listening)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            if self._down:
                _shut(near)
                continue
            far = socket.create_connection(self._server)
            self._open += [near, far]
            for ends in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(2**16):
                target.sendall(data)
        except OSError:
            pass
        _shut(target)


def _shut(open_socket: socket.socket) -> None:
    with suppress(OSError):
        open_socket.shutdown(socket.SHUT_RDWR)
    open_socket.close()


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def certificate(folder: Path, names: str = "DNS:localhost,IP:127.0.0.1", valid: bool = True) -> tuple[Path, Path]:
    """A self-signed certificate for `names`, and its key; valid: not one that has expired."""
    folder.mkdir(parents=True)
    settings = folder / "openssl.cnf"
    settings.write_text(
        f"""[ca]
default_ca = ours
[ours]
new_certs_dir = {folder}
database = {folder / "index.txt"}
serial = {folder / "serial"}
default_md = sha256
policy = any
x509_extensions = extensions
[any]
commonName = supplied
[req]
distinguished_name = name
[name]
[extensions]
subjectAltName = {names}
basicConstraints = critical, CA:TRUE
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
keyUsage = critical, digitalSignature, keyCertSign
"""
    )
    (folder / "index.txt").touch()
    (folder / "serial").write_text("01\n")
    request, key, signed = folder / "request.pem", folder / "key.pem", folder / "certificate.pem"
    new = ["-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-keyout", key]
    dates = ["-startdate", "20200101000000Z", "-enddate", "20991231000000Z" if valid else "20200102000000Z"]
    for command, made in (
        (["req", "-new", *new, "-config", settings], request),
        (
            ["ca", "-selfsign", "-batch", "-config", settings, "-keyfile", key, "-in", request, *dates],
            signed,
        ),
    ):
        subprocess.run(["openssl", *map(str, command), "-out", str(made)], check=True, capture_output=True)
    return signed, key
