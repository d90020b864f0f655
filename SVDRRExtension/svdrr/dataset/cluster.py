"""CTs as tasks on a Ray cluster.

Every computer of it needs SVDRR of the same versions, and sees CTs and data set under the same paths; nothing is
uploaded or installed. https://docs.ray.io
"""

from __future__ import annotations

import dataclasses
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from svdrr.dataset.discover import Source
from svdrr.dataset.one_ct import Outcome, Work, build_ct
from svdrr.drr.parallel import core_count
from svdrr.errors import SVDRRError

MAX_RETRIES = 3
"""How often a CT is begun again when its worker has died."""

_MOST_CPUS_PER_CT = 4
_STARTS = 3  # Ray gives up after 30 s, which a busy computer needs for its first start.
_DIED = f"The worker died {MAX_RETRIES + 1} times over this CT, perhaps for lack of memory."


def check_cluster(address: str) -> None:
    """SVDRRError unless the address has one of the forms that `outcomes_on_ray` takes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address != "local" and not (host and port.isdecimal() and "/" not in host):
        raise SVDRRError(f"Cannot read the cluster '{address}'; give local, HOST:PORT or ray://HOST:PORT.")


def outcomes_on_ray(work: Work, sources: list[Source], address: str) -> Iterator[tuple[int, Outcome]]:
    """(index, outcome) of every source, as they are done.

    address: ``local`` for this computer, ``HOST:PORT`` of a cluster that it belongs to, ``ray://HOST:PORT`` of one
    that it does not. A CT gets a quarter of a small computer's cores up to 4 of a large one's, and uses no more.
    """
    check_cluster(address)
    with connected(address) as ray:
        cpus = _cpus_per_ct(ray)
        work = dataclasses.replace(work, threads=cpus)
        task = ray.remote(num_cpus=cpus, max_retries=MAX_RETRIES)(build_ct)
        waiting = {task.remote(work, source): index for index, source in enumerate(sources)}
        try:
            while waiting:
                (done,), _ = ray.wait(list(waiting), num_returns=1)
                index = waiting.pop(done)
                yield index, _outcome(ray, done)
        finally:
            for unfinished in waiting:
                ray.cancel(unfinished, force=True)


def _outcome(ray: Any, reference: Any) -> Outcome:
    try:
        result: Outcome = ray.get(reference)
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError, ray.exceptions.NodeDiedError):
        return Outcome(None, None, _DIED, _DIED)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, SVDRRError):
            raise SVDRRError(str(error.cause)) from None
        raise
    except ray.exceptions.RayError as error:
        raise SVDRRError(f"The Ray cluster failed ({type(error).__name__}); start the build again.") from None
    return result


def _cpus_per_ct(ray: Any) -> int:
    """Few enough for the smallest computer to work on two CTs at once."""
    cores = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    return max(1, min([_MOST_CPUS_PER_CT, *(count // 2 for count in cores if count)]))


@contextmanager
def connected(address: str, **options: Any) -> Iterator[Any]:
    """Ray, until the end of the block. address: as in `outcomes_on_ray`. options: of `ray.init`."""
    # Read by Ray on import: it must not report home, nor look at how this process was started.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    if address == "local":
        # Ray's switch for systems with a firewall: all of it listens on the loopback address alone.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        # Replicas of Ray Serve listen on every address all the same, and run what anyone sends who has Ray's token.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        import ray
    except ImportError as error:
        raise SVDRRError(
            f"A cluster needs the package '{error.name}'; install it with: pip install 'svdrr[cluster]'."
        ) from error
    if ray.is_initialized():
        raise SVDRRError("This process is connected to a Ray cluster already; call ray.shutdown() first.")
    temporary = tempfile.mkdtemp(prefix="ray-") if address == "local" else None
    try:
        try:
            _connect(ray, address, temporary, options)
        except Exception as error:  # Ray raises no narrower one where its processes do not start.
            raise SVDRRError(
                f"Cannot reach the Ray cluster '{address}' ({type(error).__name__}); is it running?"
            ) from None
        # Ray reports workers that died on standard output, where a machine may read the result.
        with redirect_stdout(sys.stderr):
            yield ray
    finally:
        ray.shutdown()
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _connect(ray: Any, address: str, temporary: str | None, options: dict[str, Any]) -> None:
    options = {"log_to_driver": False, "logging_level": "ERROR", **options}
    if address == "local":
        # Ray opens its folder to all users of this computer; the one around it stays closed.
        folder = os.path.join(str(temporary), "ray")
        # Two workers at least, so that one dying does not stop the other.
        options = {"num_cpus": max(2, core_count()), "_temp_dir": folder, "include_dashboard": False, **options}
        for start in range(1, _STARTS + 1):
            try:
                ray.init(address="local", _node_ip_address="127.0.0.1", **options)
                return
            except Exception:
                ray.shutdown()
                if start == _STARTS:
                    raise
    else:
        ray.init(address=address, **options)
