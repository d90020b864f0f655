"""The backend on this computer: what its protocol costs beside the model's own time, and whether it stays small.

The server is the real one, in processes of its own. What is compared takes turns, so that whatever else the computer
does slows both alike.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import psutil
import requests
from rich.console import Console
from rich.table import Table

from svdrr.backend.arrays import to_npy
from svdrr.backend.client import BackendClient
from svdrr.backend.jobs import EchoJob
from svdrr.backend.local import LocalBackend
from svdrr.backend.request import echo_request, synthesis_request
from svdrr.backend.store import JobStore, Limits
from svdrr.backend.supervisor import Supervisor
from svdrr.files import whole_file
from svdrr.geometry import parse_views
from svdrr.radiograph import Radiograph
from svdrr.synthesis.sampling import Sampling
from svdrr.synthesis.synthesize import Synthesizer

MODEL, STEPS, VIEWS = "demo-256", 4, 16
NULL_JOBS, WARM_UP_JOBS, MEMORY_JOBS, CLIENTS = 200, 100, 1000, 8
TRANSFER_SIDE = 2048


@dataclass(frozen=True)
class Figure:
    """One line of the report."""

    what: str
    value: float
    unit: str


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer jobs and views")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    shrink = 10 if arguments.quick else 1
    command = [sys.executable, "-m", "svdrr"]
    with tempfile.TemporaryDirectory() as folder, LocalBackend(command, Path(folder), device="cpu") as backend:
        client = backend.start()
        wait_until_ready(client)
        figures = [
            *protocol(client, NULL_JOBS // shrink),
            *model(client, VIEWS // (4 if arguments.quick else 1)),
            *memory(client, WARM_UP_JOBS // shrink, MEMORY_JOBS // shrink),
        ]
    table = Table("what", "figure", "unit")
    for figure in figures:
        table.add_row(figure.what, f"{figure.value:,.4g}", figure.unit)
    Console().print(table)
    if arguments.json is not None:
        with whole_file(arguments.json) as file:
            file.write_text(json.dumps([vars(figure) for figure in figures], indent=1), encoding="utf-8")


def wait_until_ready(client: BackendClient) -> None:
    while not all(device["ready"] for device in client.capabilities()["devices"]):
        time.sleep(0.1)


def random_radiograph(side: int) -> Radiograph:
    return Radiograph(np.random.default_rng(side).random((side, side), dtype=np.float32))


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def protocol(client: BackendClient, jobs: int) -> list[Figure]:
    """A job that does nothing, from submitting it to having its image and having deleted it."""
    small, large = echo_request(random_radiograph(16)), echo_request(random_radiograph(TRANSFER_SIDE))
    for request in (small, large):
        client.run(request)
    single = [seconds(lambda: client.run(small)) for _ in range(jobs)]
    with_pixels = [seconds(lambda: client.run(large)) for _ in range(jobs // 10)]

    def repeated(_: int) -> None:
        for _ in range(jobs // CLIENTS):
            client.run(small)

    with ThreadPoolExecutor(CLIENTS) as pool:
        together = seconds(lambda: list(pool.map(repeated, range(CLIENTS))))
    job_id = client.submit(small)
    status = [seconds(lambda: client.status(job_id)) for _ in range(jobs)]
    client.cancel(job_id)
    bare = requests.Session()
    health = [seconds(lambda: bare.get(f"{client.url}/v1/health").content) for _ in range(jobs)]
    return [
        Figure("null job without HTTP: from accepted to done", 1e3 * median(turnarounds(jobs)), "ms"),
        Figure("null job: submit, follow, fetch, delete", 1e3 * median(single), "ms"),
        Figure("the same, 95th percentile", 1e3 * float(np.quantile(single, 0.95)), "ms"),
        Figure(f"null job of {TRANSFER_SIDE} x {TRANSFER_SIDE} pixels", 1e3 * median(with_pixels), "ms"),
        Figure("null jobs of one client", 1.0 / median(single), "jobs/s"),
        Figure(f"null jobs of {CLIENTS} clients", jobs // CLIENTS * CLIENTS / together, "jobs/s"),
        Figure("status request", 1e3 * median(status), "ms"),
        Figure("a bare request to the server, by the requests package", 1e3 * median(health), "ms"),
    ]


def turnarounds(jobs: int) -> list[float]:
    """Seconds from a job's arrival in the store to its end, worker process included, in a server without its HTTP."""
    taken = []
    finished = threading.Event()
    pixels = to_npy(random_radiograph(16).pixels)
    with tempfile.TemporaryDirectory() as folder:
        store = JobStore(Path(folder), Limits())
        supervisor = Supervisor(store, "cpu")

        def changed(job_id: str) -> None:
            supervisor.wake.set()
            status = store.status(job_id)
            if status is not None and status.finished:
                finished.set()

        store.changed = changed
        supervisor.start()
        while not supervisor.state["ready"]:
            time.sleep(0.1)
        for _ in range(jobs):
            finished.clear()
            start = time.perf_counter()
            job_id = store.add(EchoJob(), pixels)
            finished.wait(60.0)
            taken.append(time.perf_counter() - start)
            store.delete(job_id)
        supervisor.stop()
        store.close()
    return taken


def model(client: BackendClient, views: int) -> list[Figure]:
    """The demo model in this process, in batches and one by one, and as a job."""
    synthesizer = Synthesizer(MODEL, "cpu")
    source = random_radiograph(128)
    poses = parse_views(f"hemisphere:{views}", (0.0, 0.0, 0.0))
    sampling = Sampling.of(synthesizer.model, STEPS)
    request = synthesis_request(source, poses, MODEL, STEPS)
    ways: dict[str, Callable[[], object]] = {
        "in batches": lambda: list(synthesizer.views(source, poses, sampling)),
        "one by one": lambda: list(synthesizer.views(source, poses, sampling, batch_size=1)),
        "as a job": lambda: client.run(request),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(3):
        for name, way in ways.items():
            taken[name].append(seconds(way))
    fastest = {name: min(times) for name, times in taken.items()}
    return [
        *(Figure(f"{MODEL}, {STEPS} steps, {name}", views / fastest[name], "views/s") for name in ways),
        Figure("batches over one by one", fastest["one by one"] / fastest["in batches"], "x"),
        Figure(f"what the job adds to {views} views", 1e3 * (fastest["as a job"] - fastest["in batches"]), "ms"),
    ]


def memory(client: BackendClient, warm_up: int, jobs: int) -> list[Figure]:
    """Resident memory of server and worker, before and after many jobs."""
    request = echo_request(random_radiograph(512))
    processes = [
        process
        for process in psutil.Process().children(recursive=True)
        if {"serve", "svdrr.backend.worker"} & set(process.cmdline())
    ]
    for _ in range(warm_up):
        client.run(request)
    before = sum(process.memory_info().rss for process in processes)
    for _ in range(jobs):
        client.run(request)
    after = sum(process.memory_info().rss for process in processes)
    return [
        Figure(f"memory of server and worker after {warm_up} jobs", before / 2**20, "MiB"),
        Figure(f"what {jobs} more jobs add to it", (after - before) / 2**20, "MiB"),
    ]


if __name__ == "__main__":
    main()
