"""`svdrr serve`: one process that answers, and one worker process for each device."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import os
import re
import shutil
import socket
import ssl
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from svdrr.backend.app import create_app
from svdrr.backend.store import JobStore, Limits
from svdrr.backend.supervisor import Supervisor
from svdrr.errors import SVDRRError
from svdrr.files import whole_file

MIN_TOKEN_CHARACTERS = 16
HEAD_WITHIN_S = 15.0


@dataclass(frozen=True)
class ServerSettings:
    """How a server runs. See `svdrr serve --help`.

    port: 0 takes a free one. token: None only on a loopback address. devices: such as ("cpu",) or ("cuda:0",).
    address_file: told the URL once the server listens. exit_with_parent: end when standard input does.
    discard_jobs: remove the spool at the end.
    """

    host: str
    port: int
    token: str | None
    spool: Path
    devices: tuple[str, ...]
    limits: Limits
    max_request_bytes: int
    certificate: Path | None = None
    key: Path | None = None
    address_file: Path | None = None
    exit_with_parent: bool = False
    discard_jobs: bool = False
    compile_model: bool = False

    def __post_init__(self) -> None:
        if self.token is not None and not re.fullmatch(rf"[!-~]{{{MIN_TOKEN_CHARACTERS},}}", self.token):
            raise SVDRRError(f"A token needs at least {MIN_TOKEN_CHARACTERS} characters, ASCII and without spaces.")
        if self.token is None and not _is_loopback(self.host):
            raise SVDRRError(
                f"On {self.host} other computers can reach the backend, so it needs a token: give --token-file."
            )
        if (self.certificate is None) != (self.key is None):
            raise SVDRRError("TLS needs both --certificate and --key.")


def serve(settings: ServerSettings) -> None:
    """Runs the server until it is told to end."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", stream=sys.stderr)
    listening = listen(settings.host, settings.port)
    store = JobStore(settings.spool, settings.limits)
    supervisors = [Supervisor(store, device, settings.compile_model) for device in settings.devices]
    app = create_app(store, supervisors, settings.token, settings.max_request_bytes)
    config = uvicorn.Config(
        app,
        http=PunctualProtocol,
        ws="none",
        # Addresses of requests hold job ids, and whoever knows one may fetch the job.
        access_log=False,
        log_config=None,
        ssl_certfile=settings.certificate,
        ssl_keyfile=settings.key,
        timeout_graceful_shutdown=2,
        limit_concurrency=500,
        server_header=False,
    )
    try:
        config.load()
    except ssl.SSLError as error:
        raise SVDRRError(f"The certificate and its key cannot be used ({error.reason or error}).") from None
    server = uvicorn.Server(config)
    if settings.exit_with_parent:
        when_input_ends(partial(setattr, server, "should_exit", True))
    announce(settings, *listening.getsockname()[:2])
    try:
        server.run(sockets=[listening])
    finally:
        if settings.discard_jobs:
            shutil.rmtree(settings.spool, ignore_errors=True)


class PunctualProtocol(H11Protocol):
    """Closes a connection on which no whole request head arrives in `HEAD_WITHIN_S`; uvicorn waits for ever."""

    _due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_request_after(None)

    def on_response_complete(self) -> None:
        answered = self.cycle
        super().on_response_complete()
        self._expect_request_after(answered)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._due is not None:
            self._due.cancel()
        super().connection_lost(exc)

    def _expect_request_after(self, answered: Any) -> None:
        if self._due is not None:
            self._due.cancel()
        self._due = self.loop.call_later(HEAD_WITHIN_S, self._close_unless_after, answered)

    def _close_unless_after(self, answered: Any) -> None:
        if self.cycle is answered:
            self.transport.close()


def listen(host: str, port: int) -> socket.socket:
    """A socket that does; SVDRRError with the reason if that cannot be."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=512)
    except (OSError, OverflowError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "there is no such port"
        raise SVDRRError(f"Cannot listen on {host}, port {port}: {reason}.") from None
    listening.set_inheritable(False)
    return listening


def announce(settings: ServerSettings, host: str, port: int) -> None:
    """Tells the address file, and people, where the server listens."""
    scheme = "http" if settings.certificate is None else "https"
    url = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
    if settings.address_file is not None:
        with whole_file(settings.address_file) as file:
            file.write_text(json.dumps({"url": url, "pid": os.getpid()}), encoding="utf-8")
    print(f"SVDRR backend at {url}, jobs in {settings.spool}. Ctrl+C ends it.", file=sys.stderr)
    if scheme == "http" and not _is_loopback(settings.host):
        print("The connection is not encrypted: give --certificate and --key, or use an SSH tunnel.", file=sys.stderr)


def when_input_ends(end: Callable[[], object]) -> None:
    """Calls `end` once standard input has ended, from a thread."""

    def wait() -> None:
        # Not through sys.stdin, whose lock would stop the interpreter from ending for other reasons.
        while os.read(0, 4096):
            pass
        end()

    threading.Thread(target=wait, daemon=True).start()


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
