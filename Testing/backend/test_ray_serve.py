"""A real server on Ray Serve with two replicas: one result whichever answers, and also when one of them is killed."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import requests
from same_radiograph import assert_same
from server_process import TOKEN, Server, server_process, wait_until

from svdrr.backend.cli import serve_command
from svdrr.backend.client import BackendClient, BackendError, FinishedView
from svdrr.backend.jobs import EchoJob, JobStatus
from svdrr.backend.ray_serve import serve_on_ray
from svdrr.backend.request import render_request, synthesis_request
from svdrr.backend.server import ServerSettings
from svdrr.backend.store import LOST_AFTER_S, Limits
from svdrr.ct import CTVolume
from svdrr.errors import SVDRRError
from svdrr.geometry import CArmPose, Detector
from svdrr.models.registry import available_model
from svdrr.radiograph import Radiograph
from svdrr.render import render_drrs
from svdrr.synthesis.sampling import Sampling
from svdrr.synthesis.synthesize import Synthesizer

MAX_REQUEST_BYTES = 2**20
POSES = [CArmPose(angle, 5.0) for angle in (-30.0, 0.0, 45.0)]


@pytest.fixture(scope="module")
def ray_server(tmp_path_factory: pytest.TempPathFactory, models_folder: Path) -> Iterator[Server]:
    """The server; nothing of it may be left when its standard input has ended."""
    options = ("--ray", "--replicas", "2", "--models", str(models_folder), "--max-request-mb", "1")
    spool = tmp_path_factory.mktemp("ray") / "spool"
    with server_process(spool, *options, ready=False, start_within_s=150.0) as server:
        yield server
        family = psutil.Process(server.process.pid).children(recursive=True)
        assert len(replicas(server)) == 2
        assert server.process.stdin is not None
        server.process.stdin.close()
        assert server.ended(30.0) == 0, server.log()
        _, left = psutil.wait_procs(family, 5.0)
        assert left == []
        assert list(spool.glob("token-*")) == []


@pytest.fixture
def client(ray_server: Server) -> BackendClient:
    return BackendClient(ray_server.url, TOKEN)


def workers(server: Server) -> list[psutil.Process]:
    """Both replicas' workers, once they run."""

    def found() -> list[psutil.Process]:
        family = psutil.Process(server.process.pid).children(recursive=True)
        return [process for process in family if "svdrr.backend.worker" in words(process)]

    wait_until(lambda: len(found()) == 2, 60.0, server.log)
    return found()


def words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def replicas(server: Server) -> list[psutil.Process]:
    parents = [worker.parent() for worker in workers(server)]
    assert all(parent is not None and "ServeReplica" in parent.name() + " ".join(words(parent)) for parent in parents)
    return [parent for parent in parents if parent is not None]


def who_answers(server: Server) -> int:
    """Which replica did: each measured the free memory at a moment of its own."""
    return int(server.devices()[0].get("memory_free_bytes", 0))


@pytest.fixture
def radiograph(radiograph_pixels: np.ndarray) -> Radiograph:
    return Radiograph(radiograph_pixels, (2.0, 2.0))


def test_renders_the_same_as_here(client: BackendClient, phantom: CTVolume) -> None:
    detector = Detector.square(48, 300.0)
    results = client.run(render_request(phantom, POSES, detector, engine="joseph"))
    expected = [radiograph for radiograph, _ in render_drrs(phantom, POSES, detector, "joseph")]
    for result, wanted in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result.pixels, wanted.pixels)
        assert result.view == wanted.view


def assert_same_but_for_the_time(result: Radiograph, expected: Radiograph) -> None:
    assert result.provenance is not None
    assert expected.provenance is not None
    now = replace(result.provenance, time_utc=expected.provenance.time_utc)
    assert_same(replace(result, provenance=now), expected)


def synthesized(models_folder: Path, radiograph: Radiograph, steps: int, seed: int) -> list[Radiograph]:
    synthesizer = Synthesizer(available_model("tiny"), "cpu")
    return synthesizer.synthesize(radiograph, POSES, Sampling.of(synthesizer.model, steps, None, seed))


@pytest.mark.usefixtures("models")
def test_synthesizes_the_same_as_here(client: BackendClient, models_folder: Path, radiograph: Radiograph) -> None:
    results = client.run(synthesis_request(radiograph, POSES, "tiny", steps=3, seed=5))
    for result, wanted in zip(results, synthesized(models_folder, radiograph, 3, 5), strict=True):
        assert_same_but_for_the_time(result, wanted)


def test_whichever_replica_answers_knows_the_job(ray_server: Server, radiograph_pixels: np.ndarray) -> None:
    workers(ray_server)
    job_id = ray_server.start(EchoJob(), radiograph_pixels)
    ray_server.finished(job_id)
    answered = {who_answers(ray_server)}
    deadline = time.monotonic() + 30.0
    for count in range(1000):
        assert ray_server.status(job_id)["state"] == "done"
        assert [event.data["state"] for event in ray_server.events(job_id) if event.name == "status"] == ["done"]
        ((_, pixels),) = ray_server.result(job_id)
        np.testing.assert_array_equal(pixels, radiograph_pixels)
        answered.add(who_answers(ray_server))
        if len(answered) == 2 and count >= 20:
            break
        assert time.monotonic() < deadline, answered
    ray_server.cancel(job_id)
    for _ in range(20):
        assert ray_server.get(f"/v1/jobs/{job_id}").status_code == 404


def test_views_are_announced_while_the_job_runs(client: BackendClient, radiograph: Radiograph) -> None:
    # Long enough that the server is asked, a few times a second, before the other views are done.
    job_id = client.submit(synthesis_request(radiograph, POSES * 4, "tiny", steps=400))
    states = []
    for event in client.follow(job_id):
        if isinstance(event, FinishedView):
            states.append(client.status(job_id).state)
    assert len(states) == 12
    assert states[0] == "running"
    client.cancel(job_id)


def test_a_wrong_token_and_a_large_body_are_refused(ray_server: Server) -> None:
    with pytest.raises(BackendError) as caught:
        BackendClient(ray_server.url, "x" * 20).capabilities()
    assert caught.value.code == "unauthorized"
    answer = ray_server.submit(EchoJob(), b"x" * (MAX_REQUEST_BYTES + 1))
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "too_large"


def test_ray_itself_lets_nobody_in_without_its_token(ray_server: Server) -> None:
    import grpc

    for process in [*replicas(ray_server), *psutil.Process(ray_server.process.pid).children(recursive=True)]:
        for connection in process.net_connections("inet"):
            if connection.status != psutil.CONN_LISTEN or connection.laddr.ip.endswith("127.0.0.1"):
                continue
            with grpc.insecure_channel(f"127.0.0.1:{connection.laddr.port}") as channel:
                call = channel.unary_unary("/ray.serve.ASGIService/HandleRequest")
                with pytest.raises(grpc.RpcError) as caught:
                    call(b"", timeout=10.0)
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED, words(process)


@pytest.mark.usefixtures("models")
def test_a_killed_replica_loses_no_job(
    ray_server: Server, client: BackendClient, models_folder: Path, radiograph: Radiograph
) -> None:
    request = synthesis_request(radiograph, POSES, "tiny", steps=150, seed=9)
    both = workers(ray_server)
    job_id = client.submit(request)
    ray_server.wait(job_id, lambda status: status["step"] > 0)
    busy = [worker.cpu_times().user for worker in both]
    ray_server.wait(job_id, lambda status: status["step"] > 40)
    at_work = max(both, key=lambda worker: worker.cpu_times().user - busy[both.index(worker)])
    owner = at_work.parent()
    assert owner is not None
    owner.kill()
    killed = time.monotonic()
    assert psutil.wait_procs([at_work], 5.0)[1] == []
    # The client does not notice more than that it takes longer.
    statuses = [event for event in client.follow(job_id) if isinstance(event, JobStatus)]
    assert (statuses[-1].state, statuses[-1].attempt) == ("done", 2)
    assert time.monotonic() - killed > LOST_AFTER_S - 2.0
    expected = synthesized(models_folder, radiograph, 150, 9)
    for result, wanted in zip(map(request.restore, client.result(job_id)), expected, strict=True):
        assert_same_but_for_the_time(result, wanted)
    client.cancel(job_id)
    wait_until(lambda: len({process.pid for process in replicas(ray_server)} - {owner.pid}) == 2, 60.0)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"ray": True, "certificate": Path(__file__), "key": Path(__file__)}, "reverse proxy"),
        ({"ray": True, "device": "cuda:0"}, "Ray gives each replica"),
        ({"replicas": 2}, "--replicas needs --ray"),
    ],
)
def test_what_cannot_be_served_is_refused_in_a_sentence(
    options: dict[str, Any], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SVDRR_TOKEN", raising=False)
    with pytest.raises(SVDRRError, match=sentence):
        serve_command(**{"device": "cpu", "spool": tmp_path / "spool", **options})


def settings(spool: Path, **more: object) -> ServerSettings:
    return ServerSettings("127.0.0.1", 0, None, spool, more.pop("devices", ("cpu",)), Limits(), 2**20, **more)  # type: ignore[arg-type]


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, "")  # set by what is tested; taken back with the test
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SVDRRError, match=r"svdrr\[cluster\]"):
        serve_on_ray(settings(tmp_path / "spool"))


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(SVDRRError, match=f"port {port}"):
            serve_on_ray(ServerSettings("127.0.0.1", port, None, tmp_path / "spool", ("cpu",), Limits(), 2**20))


def test_more_replicas_than_gpus_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SVDRRError, match="--replicas 2 or fewer"):
        serve_on_ray(settings(tmp_path / "spool", devices=("cuda:0", "cuda:1")), 3)


def test_health_needs_no_token(ray_server: Server) -> None:
    assert requests.get(f"{ray_server.url}/v1/health", timeout=10.0).json()["service"] == "svdrr"
