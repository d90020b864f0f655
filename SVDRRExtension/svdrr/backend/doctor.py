"""What a backend needs on this computer: what is there, what is missing, and what to do about it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svdrr.backend.driver import Gpus, driver_problem, find_gpus, fitting_build
from svdrr.backend.environment import BackendEnvironment
from svdrr.backend.requirements import Requirements, requirement_name
from svdrr.errors import SVDRRError
from svdrr.models.registry import DESCRIPTION_FILE, model_folders, read_description

_PYTHON = ((3, 10), (3, 14))
_PROBE_TIMEOUT_S = 120
_LOW_MEMORY_BYTES = 2_000_000_000
_LOW_DISK_BYTES = 2_000_000_000

# Runs in the Python that a backend would use. What it imports, it imports because only that shows that it works.
_PROBE = """
import importlib.metadata, json, sys
facts = {"python": sys.version.split()[0], "versions": {}, "gpus": [], "torch": None, "problem": ""}
facts["numba_keeps"] = None
for name in json.loads(sys.argv[1]):
    try:
        facts["versions"][name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
try:
    import torch
    facts["torch"] = torch.__version__
    if torch.cuda.is_available():
        facts["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
except Exception as error:
    facts["problem"] = f"{type(error).__name__}: {error}"
try:
    import numba, svdrr.drr.rays
    numba.njit(cache=True)(svdrr.drr.rays.span.py_func)
    facts["numba_keeps"] = True
except RuntimeError:
    facts["numba_keeps"] = False
except Exception:
    pass
print(json.dumps(facts))
"""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. ok: whether it is as a backend needs it. advice: what to do, "" where nothing."""

    ok: bool
    sentence: str
    advice: str = ""


def findings(
    url: str | None = None,
    token: str | None = None,
    folder: Path | None = None,
    models: Path | None = None,
    verify: Path | None = None,
) -> list[Finding]:
    """Look at what a backend needs, or with a `url` and no `folder` at that backend alone.

    folder: made by ``svdrr setup-backend``; without it, the Python that runs this is looked at. models: a folder of
    models, instead of those that are found by themselves. url, token: a backend to connect to, or None for none.
    verify: the certificate authority to trust with it.
    """
    if url is not None and folder is None:
        return [_connection_finding(url, token, verify)]
    found: list[Finding] = []
    environment = None
    if folder is not None:
        try:
            environment = BackendEnvironment.read(folder)
            found.append(Finding(True, f"The backend in {environment.folder} is complete."))
        except SVDRRError as error:
            found.append(Finding(False, str(error)))
    found += _python_findings(environment)
    found += _resource_findings()
    found += _model_findings(models)
    if url is not None:
        found.append(_connection_finding(url, token, verify))
    return found


def _python_findings(environment: BackendEnvironment | None) -> Iterator[Finding]:
    gpus = find_gpus()
    requirements = Requirements.of_backend()
    names = [requirement_name(line) for lines in requirements.groups.values() for line in lines]
    try:
        facts = _probe(environment, names)
    except SVDRRError as error:
        yield Finding(False, str(error), "Set the backend up again with 'svdrr setup-backend DIR'.")
        return
    yield _python_finding(facts["python"])
    for group, lines in requirements.groups.items():
        if group != "nanodrr" or gpus.devices:
            yield _group_finding(group, [requirement_name(line) for line in lines], facts["versions"])
    yield _torch_finding(facts, gpus)
    if facts["numba_keeps"] is False:
        yield Finding(
            False,
            "Compiled render engines cannot be kept on the disk, so each start of a backend compiles them again.",
            "Set NUMBA_CACHE_DIR to a folder that can be written.",
        )


def _probe(environment: BackendEnvironment | None, names: list[str]) -> dict[str, Any]:
    """What the Python of `environment`, or this one, says of itself."""
    if environment is None:
        command, variables = [sys.executable, "-c", _PROBE], dict(os.environ)
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    else:
        command, variables = environment.script(_PROBE), environment.environment(os.environ)
    try:
        answer = subprocess.run(
            [*command, json.dumps(names)], capture_output=True, env=variables, timeout=_PROBE_TIMEOUT_S
        )
        return dict(json.loads(answer.stdout.splitlines()[-1]))
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError) as error:
        raise SVDRRError(f"{command[0]} does not run ({type(error).__name__}).") from None


def _python_finding(version: str) -> Finding:
    lowest, beyond = _PYTHON
    if lowest <= tuple(map(int, version.split(".")[:2])) < beyond:
        return Finding(True, f"Python {version} is one that svdrr runs on.")
    span = f"{lowest[0]}.{lowest[1]} to {beyond[0]}.{beyond[1] - 1}"
    return Finding(False, f"Python {version} is not among those that svdrr runs on.", f"Use Python {span}.")


def _group_finding(group: str, names: list[str], versions: Mapping[str, str]) -> Finding:
    missing = [name for name in names if name not in versions]
    if missing:
        extra = "svdrr" if group == "core" else f"svdrr[{group}]"
        return Finding(
            False,
            f"Of the packages '{group}', {', '.join(missing)} cannot be found.",
            f"Make an environment with 'svdrr setup-backend DIR', or add them to this one with 'pip install {extra}'.",
        )
    return Finding(True, f"The packages '{group}' are there: {', '.join(f'{n} {versions[n]}' for n in names)}.")


def _torch_finding(facts: Mapping[str, Any], gpus: Gpus) -> Finding:
    torch, renew = facts["torch"], "Renew the backend with 'svdrr setup-backend DIR'"
    if torch is None:
        return Finding(False, f"torch does not load ({facts['problem']}).", f"{renew}, which brings one that fits.")
    if facts["gpus"]:
        return Finding(True, f"torch {torch} computes on {', '.join(facts['gpus'])}.")
    if gpus.problem:
        return Finding(False, gpus.problem, "Install the GPU's driver again, or restart the computer.")
    if not gpus.devices:
        return Finding(True, f"torch {torch} computes on the CPU: no NVIDIA GPU was found.")
    gpu = gpus.devices[0]
    sentence = f"{gpu.name} is there, but torch {torch} does not use it, so jobs run on the CPU."
    if driver_problem(gpu):
        return Finding(False, sentence, driver_problem(gpu))
    return Finding(False, sentence, f"{renew}: it installs the build {fitting_build(gpus).name}.")


def _resource_findings() -> Iterator[Finding]:
    memory = _free_memory_bytes()
    if memory is not None:
        yield _amount_finding(f"{memory / 1e9:.1f} GB of memory", memory, _LOW_MEMORY_BYTES, "Close other programs.")
    folder = tempfile.gettempdir()
    disk = shutil.disk_usage(folder).free
    advice = "Free some, or have TMPDIR name a folder on another disk."
    yield _amount_finding(f"{disk / 1e9:.1f} GB of disk in {folder}", disk, _LOW_DISK_BYTES, advice)


def _amount_finding(what: str, free: int, low: int, advice: str) -> Finding:
    if free < low:
        return Finding(False, f"Only {what} are free, which may be too little for a job.", advice)
    return Finding(True, f"{what} are free.")


def _free_memory_bytes() -> int | None:
    """Memory that a new process can have, where the system tells; None on macOS."""
    if sys.platform == "win32":
        return _free_windows_memory_bytes()
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None


def _free_windows_memory_bytes() -> int:
    import ctypes

    # MEMORYSTATUSEX: two 32-bit fields, the first its own size, then seven of 64 bits; the second of those is what
    # is free.
    status = (ctypes.c_uint64 * 8)()
    status[0] = ctypes.sizeof(status)
    ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))  # type: ignore[attr-defined,unused-ignore]
    return int(status[2])


def _model_findings(models: Path | None) -> Iterator[Finding]:
    folders = (
        model_folders() if models is None else [file.parent for file in sorted(models.glob(f"*/{DESCRIPTION_FILE}"))]
    )
    if not folders:
        where = "SVDRR_MODELS or beside svdrr" if models is None else str(models)
        yield Finding(False, f"No model was found in {where}.", "Have SVDRR_MODELS name a folder of models.")
    for folder in folders:
        yield _model_finding(folder)


def _model_finding(folder: Path) -> Finding:
    try:
        model = read_description(folder)
    except SVDRRError as error:
        return Finding(False, str(error), "Copy the model's folder again.")
    weights = model.weights_bytes()
    if weights == 0:
        return Finding(False, f"The model {model.name} in {folder} has no weights.", "Copy the model's folder again.")
    size = f"{model.resolution} x {model.resolution} pixels, {weights / 1e6:.0f} MB"
    return Finding(True, f"The model {model.name} is in {folder} ({size}).")


def _connection_finding(url: str, token: str | None, verify: Path | None) -> Finding:
    from svdrr.backend.client import test_connection

    diagnosis = test_connection(url, token, verify or True)
    return Finding(diagnosis.ok, diagnosis.sentence)
