"""Data sets built by a Ray cluster on this computer: the same bytes, also where a worker dies."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from test_cli import child
from test_dataset import hashes

from svdrr.ct.io import write_volume
from svdrr.ct.phantoms import ThoraxOptions, thorax_phantom
from svdrr.dataset import cluster
from svdrr.errors import SVDRRError

VIEWS = "hemisphere:60"
SIZES = "96,128"


@pytest.fixture(scope="module")
def cts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cts")
    for seed in range(4):
        ct = thorax_phantom(seed, ThoraxOptions(spacing_mm=8.0)).ct
        write_volume(root / f"{seed}.nrrd", ct.hu, ct.ijk_to_ras)
    (root / "bad.nrrd").write_bytes(b"junk")
    return root


def below(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def listening_addresses(pid: int) -> set[str]:
    """Where the processes below this one wait for connections."""
    found = set()
    for process in below(pid):
        with contextlib.suppress(psutil.Error):
            found |= {one.laddr.ip for one in process.net_connections("inet") if one.status == psutil.CONN_LISTEN}
    return found


def rendering_workers(pid: int) -> list[psutil.Process]:
    """Ray's workers below this process that are at work on a CT."""
    found = []
    for process in below(pid):
        with contextlib.suppress(psutil.Error):
            if "ray::build_ct" in " ".join(process.cmdline()):
                found.append(process)
    return found


def is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.removeprefix("::ffff:")).is_loopback


def test_a_killed_worker_changes_nothing(cts: Path, tmp_path: Path) -> None:
    options = ("--views", VIEWS, "--sizes", SIZES, "--json")
    with child("dataset", "build", cts, tmp_path / "alone", *options) as alone:
        assert alone.wait() == 0
    out = tmp_path / "cluster"
    with child("dataset", "build", cts, out, *options, "--cluster", "local") as process:
        # A shard that is being written: its worker is in the midst of a CT.
        while process.poll() is None and not list(out.glob("shards/*/.*.tar")):
            time.sleep(0.005)
        workers = rendering_workers(process.pid)
        workers[0].kill()
        addresses = listening_addresses(process.pid)
        stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr
    assert "1 of the CTs skipped" in stderr
    assert "retried" in stderr
    assert json.loads(stdout)["cts"] == 4
    assert addresses
    assert [address for address in addresses if not is_loopback(address)] == []
    assert hashes(out) == hashes(tmp_path / "alone")


@pytest.mark.parametrize(("cores", "cpus"), [([1], 1), ([2], 1), ([4, 64], 2), ([64], 4), ([64, 0], 4), ([], 4)])
def test_two_cts_at_once_fit_the_smallest_computer(cores: list[int], cpus: int) -> None:
    nodes = [{"Alive": True, "Resources": {"CPU": float(count)}} for count in cores]
    dead = {"Alive": False, "Resources": {"CPU": 1.0}}
    assert cluster._cpus_per_ct(SimpleNamespace(nodes=lambda: [*nodes, dead])) == cpus


def failing(error: Exception) -> SimpleNamespace:
    """Ray, for which every task ends in an error."""
    import ray

    def get(reference: object) -> None:
        raise error

    return SimpleNamespace(get=get, exceptions=ray.exceptions)


def test_a_ct_that_kills_every_worker_is_skipped() -> None:
    from ray.exceptions import WorkerCrashedError

    outcome = cluster._outcome(failing(WorkerCrashedError()), None)
    assert outcome.entry is None
    assert "died 4 times" in outcome.reason


def test_a_worker_that_cannot_write_ends_the_build_with_its_sentence() -> None:
    from ray.exceptions import GetTimeoutError, RayTaskError

    full = SVDRRError("Cannot write a shard: No space left on device; nothing was written.")
    with pytest.raises(SVDRRError, match="Cannot write a shard") as caught:
        cluster._outcome(failing(RayTaskError("build_ct", "long", full)), None)
    assert str(caught.value) == str(full)
    with pytest.raises(SVDRRError, match="cluster failed"):
        cluster._outcome(failing(GetTimeoutError()), None)


def test_limited_renderer_keeps_to_its_cores() -> None:
    from svdrr.dataset.one_ct import _Limited
    from svdrr.geometry import CArmPose, Detector, View

    asked: list[int | None] = []

    class Renderer:
        name, on_cpu_threads = "test", True

        def render(self, view: View, threads: int | None = None) -> np.ndarray:
            asked.append(threads)
            return np.zeros((1, 1), np.float32)

    limited = _Limited(Renderer(), 3)
    limited.render(View(CArmPose(), Detector.square(16)))
    assert (asked, limited.on_cpu_threads, limited.name) == ([3], False, "test")


@pytest.mark.parametrize("address", ["", "somewhere", "ray://", "ray://host", "http://host:1", "host:port"])
def test_addresses_that_make_no_sense(address: str) -> None:
    with pytest.raises(SVDRRError, match="Cannot read the cluster"):
        cluster.check_cluster(address)
