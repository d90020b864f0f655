"""The backend on this computer starts, says why it does not, and leaves nothing behind, however its parent ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from server_process import wait_until

from svdrr.backend import connection
from svdrr.backend import local as local_module
from svdrr.backend.client import ArrivedView, BackendClient
from svdrr.backend.local import LocalBackend
from svdrr.backend.request import echo_request, render_request
from svdrr.ct import CTVolume
from svdrr.errors import SVDRRError
from svdrr.geometry import CArmPose, Detector
from svdrr.radiograph import Radiograph

IMAGE = Radiograph(np.random.default_rng(0).random((20, 24), dtype=np.float32))

SVDRR = [sys.executable, "-m", "svdrr"]


def descendants_of(backend: LocalBackend) -> list[psutil.Process]:
    assert backend._server is not None
    server = psutil.Process(backend._server.process.pid)
    return [server, *server.children(recursive=True)]


def all_gone(processes: list[psutil.Process]) -> bool:
    return not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)


@pytest.fixture
def stand_in(tmp_path: Path) -> Callable[[str], dict[str, str]]:
    """An environment in which ``python -m svdrr`` is the program given."""

    def make(program: str) -> dict[str, str]:
        package = tmp_path / "stand in" / "svdrr"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text(program)
        return {**os.environ, "PYTHONPATH": str(package.parent)}

    return make


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("local backend é")


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[tuple[LocalBackend, BackendClient, list[str]]]:
    progress: list[str] = []
    with LocalBackend(SVDRR, folder, device="cpu") as backend:
        yield backend, backend.start(progress.append), progress


def test_it_starts_and_works(running: tuple[LocalBackend, BackendClient, list[str]]) -> None:
    backend, client, progress = running
    assert backend.running
    assert client.url.startswith("http://127.0.0.1:")
    assert progress[0] == "Starting the backend on this computer: 0 s"
    (echo,) = client.run(echo_request(IMAGE))
    np.testing.assert_array_equal(echo.pixels, IMAGE.pixels)
    assert backend.start() is client


def test_nobody_else_can_use_it(running: tuple[LocalBackend, BackendClient, list[str]], folder: Path) -> None:
    backend, client, _ = running
    token = client._connection._authorize.token
    assert token is not None
    assert len(token) >= 32
    assert connection.test_connection(client.url).code == "unauthorized"
    for process in descendants_of(backend):
        assert not any(token in argument for argument in process.cmdline())
        listening = [each for each in process.net_connections() if each.status == psutil.CONN_LISTEN]
        assert all(each.laddr.ip == "127.0.0.1" for each in listening)
    for file in folder.rglob("*"):
        assert file.is_dir() or token.encode() not in file.read_bytes()


def test_two_at_once(running: tuple[LocalBackend, BackendClient, list[str]], folder: Path) -> None:
    """As with two Slicers: the second neither takes up the jobs of the first nor removes them."""
    with LocalBackend(SVDRR, folder, device="cpu") as second:
        assert second.start().url != running[1].url
        assert len(list(folder.glob("run-*"))) == 2
        second.start().run(echo_request(IMAGE))
    assert len(list(folder.glob("run-*"))) == 1
    running[1].run(echo_request(IMAGE))


def test_stopping_leaves_nothing_but_the_log(tmp_path: Path) -> None:
    backend = LocalBackend(SVDRR, tmp_path, device="cpu")
    client = backend.start()
    job = client.start(render_request(big_ct(), [CArmPose(angle / 9) for angle in range(900)], Detector.square(512)))
    wait_until(lambda: any(isinstance(event, ArrivedView) for event in job.poll()), 60.0)
    processes = descendants_of(backend)
    assert len(processes) > 1
    started = time.monotonic()
    backend.stop()
    assert time.monotonic() - started < 8.0
    assert all_gone(processes)
    assert [path.name for path in tmp_path.iterdir()] == ["backend.log"]
    assert not backend.running
    backend.stop()
    assert connection.test_connection(client.url).code == "refused"
    job.cancel()


def big_ct() -> CTVolume:
    hu = np.zeros((64, 64, 64), np.float32)
    return CTVolume(hu, np.diag([3.0, 3.0, 3.0, 1.0]))


def test_a_server_that_died_is_started_anew(tmp_path: Path) -> None:
    with LocalBackend(SVDRR, tmp_path, device="cpu") as backend:
        first = backend.start()
        processes = descendants_of(backend)
        processes[0].kill()
        wait_until(lambda: not backend.running)
        second = backend.start()
        assert second is not first
        second.run(echo_request(IMAGE))
        assert len(list(tmp_path.glob("run-*"))) == 1
        assert all_gone(processes)


PARENT = """
import os, sys, time
from pathlib import Path
import numpy as np
from svdrr.backend.client import ArrivedView
from svdrr.backend.local import LocalBackend
from svdrr.backend.request import render_request
from svdrr.ct import CTVolume
from svdrr.geometry import CArmPose, Detector

backend = LocalBackend([sys.executable, "-m", "svdrr"], Path(sys.argv[1]), device="cpu")
ct = CTVolume(np.zeros((64, 64, 64), np.float32), np.diag([3.0, 3.0, 3.0, 1.0]))
poses = [CArmPose(angle / 9) for angle in range(900)]
job = backend.start().start(render_request(ct, poses, Detector.square(512), engine="siddon"))
while not any(isinstance(event, ArrivedView) for event in job.poll()):
    time.sleep(0.02)
print("at work", flush=True)
sys.stdin.readline()
{then}
"""


@pytest.mark.parametrize(
    ("then", "number"),
    [
        ("", signal.SIGKILL),
        ("sys.exit()", None),
        ("raise ValueError", None),
        ("os._exit(3)", None),
    ],
    ids=["kill -9", "exit", "exception", "crash"],
)
def test_it_ends_with_its_parent(tmp_path: Path, then: str, number: signal.Signals | None) -> None:
    command = [sys.executable, "-c", PARENT.format(then=then), str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        assert parent.stdout is not None
        assert parent.stdin is not None
        assert parent.stdout.readline() == b"at work\n"
        processes = psutil.Process(parent.pid).children(recursive=True)
        assert len(processes) > 1
        if number is not None:
            parent.send_signal(number)
        else:
            parent.stdin.write(b"\n")
            parent.stdin.flush()
        parent.wait(20.0)
        wait_until(lambda: all_gone(processes), 5.0)
    assert not list(tmp_path.rglob("*.npy"))


def test_what_a_killed_slicer_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / "run-left"
    (left / "jobs").mkdir(parents=True)
    (left / "jobs" / "pixels.npy").write_bytes(b"somebody's chest")
    (left / "address.json").write_text('{"url": "http://127.0.0.1:1", "pid": 1}')
    young = tmp_path / "run-young"
    young.mkdir()
    long_ago = time.time() - 3600.0
    os.utime(left, (long_ago, long_ago))
    with LocalBackend(SVDRR, tmp_path, device="cpu") as backend:
        backend.start()
        assert not left.exists()
        assert young.exists()


def test_it_says_why_it_does_not_start(tmp_path: Path, stand_in: Callable[[str], dict[str, str]]) -> None:
    program = "import sys; print('a line'); sys.exit('svdrr: The backend needs the package fastapi.\\n\\n')"
    backend = LocalBackend(SVDRR, tmp_path, stand_in(program))
    with pytest.raises(SVDRRError) as caught:
        backend.start()
    assert str(caught.value) == (
        "The backend on this computer ended while it started (exit code 1): svdrr: The backend needs the package "
        f"fastapi. Its log is {tmp_path / 'backend.log'}."
    )
    assert not backend.running
    assert [path.name for path in tmp_path.glob("run-*")] == []


def test_its_last_words_are_its_own(tmp_path: Path, stand_in: Callable[[str], dict[str, str]]) -> None:
    (tmp_path / "backend.log").write_text("an earlier error\n")
    with pytest.raises(SVDRRError, match="it said nothing"):
        LocalBackend(SVDRR, tmp_path, stand_in("import os; os._exit(3)")).start()


def test_the_log_does_not_grow_for_ever(tmp_path: Path, stand_in: Callable[[str], dict[str, str]]) -> None:
    log = tmp_path / "backend.log"
    log.write_bytes(b"x" * (2**20 + 1))
    with pytest.raises(SVDRRError):
        LocalBackend(SVDRR, tmp_path, stand_in("raise SystemExit('short')")).start()
    assert log.read_text() == "short\n"


def test_a_server_that_never_answers(
    tmp_path: Path, stand_in: Callable[[str], dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_module, "START_WITHIN_S", 1.0)
    monkeypatch.setattr(local_module, "STOP_WITHIN_S", 0.5)
    # Deaf to the end of its input, with a child in tow: only the end of the whole tree helps.
    program = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""
    with pytest.raises(SVDRRError, match=r"did not start within 1 s: \d+\. Its log is"):
        LocalBackend(SVDRR, tmp_path, stand_in(program)).start()
    child = int((tmp_path / "backend.log").read_text())
    wait_until(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)


def test_starting_can_be_cancelled(tmp_path: Path) -> None:
    backend = LocalBackend(SVDRR, tmp_path, device="cpu")
    processes: list[psutil.Process] = []

    def on_progress(sentence: str) -> None:
        processes.extend(descendants_of(backend))
        if sentence.endswith("1 s"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backend.start(on_progress)
    assert all_gone(processes)
    assert not backend.running


@pytest.mark.parametrize("python", ["/no/such/python", __file__])
def test_a_python_that_is_none(tmp_path: Path, python: str) -> None:
    with pytest.raises(SVDRRError, match=r"cannot be started with .*; set up its environment again"):
        LocalBackend([str(python)], tmp_path).start()


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SVDRRError, match="cannot be started"):
        LocalBackend(SVDRR, tmp_path / "file" / "folder").start()


def test_a_relative_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with LocalBackend(SVDRR, Path("here"), device="cpu") as backend:
        assert backend.start().capabilities()["version"]
