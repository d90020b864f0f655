"""A backend on this computer, in a process of its own that lives as long as this one wants it."""

from __future__ import annotations

import atexit
import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from svdrr.backend.client import BackendClient
from svdrr.backend.connection import BackendError, Connection
from svdrr.errors import SVDRRError

START_WITHIN_S = 120.0
STOP_WITHIN_S = 5.0

# One that has ended does not come back by itself, unlike the way to another computer.
_PATIENCE_S = 5.0
_LOOK_S = 0.1
_ANSWER_WITHIN_S = (1.0, 2.0)
_MAX_LOG_BYTES = 2**20
_ADDRESS_FILE = "address.json"
_NO_WINDOW = getattr(subprocess, "CREATE_NO_WINDOW", 0)  # Windows only


class LocalBackend:
    """A server on this computer's loopback, which nothing but its clients here can use.

    svdrr: the command in an environment with ``svdrr[backend]``, such as ``[python, "-m", "svdrr"]`` or
    `BackendEnvironment.command()`. folder: for its jobs while it runs, and for its log.
    environment: the process's environment variables; by default this one's. models: folder of models beside the
    bundled ones. device: as in ``svdrr serve --device``.

    It ends with `stop`, at the end of the ``with`` block, and with this process, however that ends.
    """

    def __init__(
        self,
        svdrr: Sequence[str],
        folder: Path,
        environment: Mapping[str, str] | None = None,
        models: Path | None = None,
        device: str = "auto",
    ) -> None:
        self._svdrr, self._folder, self._models, self._device = svdrr, folder.absolute(), models, device
        self._environment = os.environ if environment is None else environment
        self._server: _Server | None = None
        self._client: BackendClient | None = None

    @property
    def log(self) -> Path:
        """What the server says. There are no images in it, and no token."""
        return self._folder / "backend.log"

    @property
    def running(self) -> bool:
        """Whether the server's process is alive."""
        return self._server is not None and self._server.process.poll() is None

    def start(self, on_progress: Callable[[str], None] | None = None) -> BackendClient:
        """Starts the server, unless it runs, and waits until it answers; returns a client of it.

        on_progress: called about ten times a second with a sentence; what it raises stops the server. SVDRRError with
        the reason if the server does not start.
        """
        if self._client is not None and self.running:
            return self._client
        self.stop()
        atexit.register(self.stop)
        token = secrets.token_urlsafe(32)
        try:
            self._server = self._launched(token)
            url = self._url_when_it_answers(self._server, on_progress or (lambda sentence: None))
            self._client = BackendClient(url, token, patience_s=_PATIENCE_S)
        except BaseException:
            self.stop()
            raise
        return self._client

    def stop(self) -> None:
        """Ends the server and all that it has started, and removes its jobs. Does nothing if it does not run."""
        atexit.unregister(self.stop)
        server, self._server, self._client = self._server, None, None
        if server is None:
            return
        assert server.process.stdin is not None
        server.process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            server.process.wait(STOP_WITHIN_S)
        _kill_tree(server.process)
        shutil.rmtree(server.folder, ignore_errors=True)

    def __enter__(self) -> LocalBackend:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _launched(self, token: str) -> _Server:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(self._folder)
            # Of its own, so that jobs of an earlier Slicer, or of one beside this, are not taken up.
            folder = Path(tempfile.mkdtemp(prefix="run-", dir=self._folder))
            if self.log.is_file() and self.log.stat().st_size > _MAX_LOG_BYTES:
                self.log.unlink()
            with self.log.open("ab") as log:
                process = subprocess.Popen(
                    self._command(folder),
                    # Its end, which comes with that of this process too, tells the server to end.
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    cwd=folder,
                    env={**self._environment, "SVDRR_TOKEN": token},
                    creationflags=_NO_WINDOW,
                    start_new_session=True,
                )
                return _Server(process, folder, log.tell())
        except OSError as error:
            raise SVDRRError(
                f"The backend on this computer cannot be started with {self._svdrr[0]} in {self._folder}: "
                f"{error.strerror or error}; set up its environment again."
            ) from None

    def _command(self, folder: Path) -> list[str]:
        models = [] if self._models is None else ["--models", str(self._models)]
        return [
            *(*self._svdrr, "serve", "--host", "127.0.0.1", "--port", "0", "--exit-with-parent"),
            "--discard-jobs",
            *("--spool", str(folder / "jobs"), "--address-file", str(folder / _ADDRESS_FILE)),
            *("--device", self._device, *models),
        ]

    def _url_when_it_answers(self, server: _Server, on_progress: Callable[[str], None]) -> str:
        began = time.monotonic()
        while (seconds := time.monotonic() - began) < START_WITHIN_S:
            on_progress(f"Starting the backend on this computer: {seconds:.0f} s")
            if server.process.poll() is not None:
                what = f"ended while it started (exit code {server.process.returncode})"
                raise SVDRRError(f"The backend on this computer {what}: {self._last_words(server)}")
            url = _address(server.folder)
            if url is not None and _answers(url):
                return url
            time.sleep(_LOOK_S)
        what = f"did not start within {START_WITHIN_S:.0f} s"
        raise SVDRRError(f"The backend on this computer {what}: {self._last_words(server)}")

    def _last_words(self, server: _Server) -> str:
        with self.log.open("rb") as log:
            log.seek(server.log_start)
            lines = log.read().decode(errors="replace").splitlines()
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
        return f"{last.rstrip('.')}. Its log is {self.log}."


@dataclass(frozen=True)
class _Server:
    """One process. folder: of its jobs and its address. log_start: where its part of the log begins, in bytes."""

    process: subprocess.Popen[bytes]
    folder: Path
    log_start: int


def _address(folder: Path) -> str | None:
    """The URL of the server of that folder, once it has one."""
    try:
        return str(json.loads((folder / _ADDRESS_FILE).read_text(encoding="utf-8"))["url"])
    except OSError:  # not there yet; on Windows also while it is being put there
        return None


def _answers(url: str) -> bool:
    try:
        Connection(url, timeout_s=_ANSWER_WITHIN_S).check_server()
    except BackendError:
        return False
    return True


def _remove_abandoned(folder: Path) -> None:
    """Removes what a server has left that was killed with this process's forerunner: images, too."""
    for old in folder.glob("run-*"):
        with suppress(FileNotFoundError):  # another Slicer removes them too
            starting = time.time() - old.stat().st_mtime < 2.0 * START_WITHIN_S
            url = _address(old)
            if not (starting or (url is not None and _answers(url))):
                shutil.rmtree(old, ignore_errors=True)


def _kill_tree(process: subprocess.Popen[bytes]) -> None:
    """Ends the process and its descendants, which may outlive it."""
    if os.name == "nt":
        command = ["taskkill", "/PID", str(process.pid), "/T", "/F"]
        subprocess.run(command, capture_output=True, creationflags=_NO_WINDOW, check=False)
    else:
        with suppress(ProcessLookupError, PermissionError):  # gone already; macOS says the latter
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
