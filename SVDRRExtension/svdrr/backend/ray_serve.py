"""`svdrr serve --ray`: the application of `svdrr.backend.app` in several replicas, by Ray Serve, on this computer.

Each replica answers clients and runs jobs in a worker process of its own, which has a GPU to itself. They share one
folder of jobs, so whichever is asked knows every job, and when one dies another takes up its job while Ray replaces it.
https://docs.ray.io/en/latest/serve
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from svdrr.backend.app import create_app
from svdrr.backend.server import ServerSettings, announce, listen, when_input_ends
from svdrr.backend.store import JobStore
from svdrr.backend.supervisor import Supervisor
from svdrr.dataset.cluster import connected
from svdrr.drr.parallel import core_count
from svdrr.errors import SVDRRError

_REQUESTS_PER_REPLICA = 250  # Ray's default of 5 would be used up by 5 clients that follow their jobs.
_LOOK_AFTER_REPLICAS_S = 1.0
_STOP_WITHIN_S = 5.0


def serve_on_ray(settings: ServerSettings, replicas: int | None = None) -> None:
    """Runs the server until it is told to end. replicas: by default as many as there are devices.

    Ray is started for it, and ends with it; or the environment variable RAY_ADDRESS names one that this computer
    belongs to already.
    """
    if settings.certificate is not None:
        raise SVDRRError("With --ray the backend has no TLS of its own; put a reverse proxy with TLS before it.")
    gpus = sum(device.startswith("cuda") for device in settings.devices)
    replicas = replicas or len(settings.devices)
    if 0 < gpus < replicas:
        raise SVDRRError(f"Each replica needs a GPU, and there are {gpus}; give --replicas {gpus} or fewer.")
    address = os.environ.get("RAY_ADDRESS", "local")
    if address.startswith("ray://"):
        raise SVDRRError("RAY_ADDRESS must be HOST:PORT of a Ray cluster that this computer belongs to.")
    with listen(settings.host, settings.port) as free:
        host, port = free.getsockname()[:2]
    # Made here, since SQLite lets only one process at a time set up its file.
    JobStore(settings.spool, settings.limits).close()
    cpus = 1 if gpus else max(1, core_count() // replicas)
    local = {"num_cpus": max(core_count(), cpus * replicas), "num_gpus": gpus} if address == "local" else {}
    with (
        _token_file(settings) as token_file,
        connected(address, log_to_driver=True, **local) as ray,
        _until_interrupted(),
    ):
        from ray import serve

        if serve.status().proxies:
            raise SVDRRError("This Ray cluster runs Ray Serve for something else already; give it one of its own.")
        here = f"node:{ray.util.get_node_ip_address()}"
        deployment: Any = serve.deployment(
            serve.ingress(_application(settings, "cuda:0" if gpus else "cpu", token_file))(),
            name="svdrr",
            num_replicas=replicas,
            # SQLite's locks work between processes of one computer only.
            ray_actor_options={"num_cpus": cpus, "num_gpus": min(gpus, 1), "resources": {here: 0.001}},
            max_ongoing_requests=_REQUESTS_PER_REPLICA,
            health_check_period_s=_LOOK_AFTER_REPLICAS_S,
            graceful_shutdown_timeout_s=_STOP_WITHIN_S,
            graceful_shutdown_wait_loop_s=0.1,
        )
        # Addresses of requests hold job ids, and whoever knows one may fetch the job.
        quiet = {"enable_access_log": False, "log_level": "WARNING"}
        try:
            if settings.exit_with_parent:
                when_input_ends(partial(os.kill, os.getpid(), signal.SIGTERM))
            serve.start(http_options={"host": host, "port": port}, logging_config=quiet)
            serve.run(deployment.bind(), name="svdrr", route_prefix="/", logging_config=quiet)
            announce(settings, host, port)
            threading.Event().wait()
        finally:
            serve.shutdown()


def _application(settings: ServerSettings, device: str, token_file: Path | None) -> Any:
    """What makes the application in each replica. Only what is said here goes there, so not the token."""
    spool, limits, max_request_bytes = settings.spool.resolve(), settings.limits, settings.max_request_bytes
    compile_model = settings.compile_model
    # Ray gives each replica one thread for each of its cores, and with other threads sums differ in their last bits.
    environment = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "SVDRR_MODELS")}

    def make() -> FastAPI:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", stream=sys.stderr)
        for name, value in environment.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        token = None if token_file is None else token_file.read_text(encoding="utf-8")
        store = JobStore(spool, limits)
        return create_app(store, [Supervisor(store, device, compile_model)], token, max_request_bytes)

    return make


@contextmanager
def _token_file(settings: ServerSettings) -> Iterator[Path | None]:
    """The token for the replicas, in a file that this user alone can read: Ray shows what it is told to everyone."""
    if settings.token is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="token-", dir=settings.spool) as folder:
        file = Path(folder).resolve() / "token"
        file.write_text(settings.token, encoding="utf-8")
        yield file


@contextmanager
def _until_interrupted() -> Iterator[None]:
    """Ctrl+C and SIGTERM end the block. From then on they do nothing, so that what follows ends every process."""

    def end(*_: object) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    with suppress(KeyboardInterrupt):
        yield
