"""Which build of torch fits the GPU and its driver."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass

from svdrr.errors import SVDRRError

Version = tuple[int, ...]
_QUERY = ("--query-gpu=driver_version,name,compute_cap,memory.total", "--format=csv,noheader,nounits")
_QUERY_TIMEOUT_S = 30


@dataclass(frozen=True)
class Gpu:
    """One GPU as nvidia-smi tells of it. memory_mib: its total memory."""

    name: str
    driver: str
    compute_capability: Version
    memory_mib: int


@dataclass(frozen=True)
class Gpus:
    """The NVIDIA GPUs of this computer. problem: why they could not be listed, or "" where they could."""

    devices: tuple[Gpu, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class TorchBuild:
    """A build of torch, such as "cpu" or "cu130", and in one sentence why this one."""

    name: str
    reason: str

    @property
    def uses_gpu(self) -> bool:
        """Whether it computes on an NVIDIA GPU."""
        return self.name != "cpu"


@dataclass(frozen=True)
class _CudaBuild:
    name: str
    cuda: str
    driver: str
    driver_on_windows: str
    lowest: Version
    highest: Version

    @property
    def needed_driver(self) -> str:
        return self.driver_on_windows if sys.platform == "win32" else self.driver

    def runs_on(self, gpu: Gpu) -> bool:
        return self.supports(gpu) and _version(gpu.driver) >= _version(self.needed_driver)

    def supports(self, gpu: Gpu) -> bool:
        return self.lowest <= gpu.compute_capability <= self.highest


# Newest first. Builds and GPU architectures: RELEASE.md of pytorch/pytorch, "PyTorch CUDA Support Matrix", torch 2.13
# (CUDA 13.2 is there too, as experimental). Drivers: "Minor Version Compatibility" in NVIDIA's CUDA Compatibility guide
# (CUDA 13.x from 580, 12.x from 525) and its table in the CUDA Toolkit Release Notes (12.x: 525.60.13, Windows 528.33).
_CUDA_BUILDS = (
    _CudaBuild("cu130", "13.0", "580", "580", (7, 5), (12, 9)),
    _CudaBuild("cu126", "12.6", "525.60.13", "528.33", (5, 0), (9, 0)),
)
BUILDS = ("cpu", *(build.name for build in _CUDA_BUILDS))


def find_gpus() -> Gpus:
    """The GPUs that nvidia-smi lists; none where there is no such program."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return Gpus()
    try:
        answer = subprocess.run([program, *_QUERY], capture_output=True, text=True, timeout=_QUERY_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Gpus(problem=f"nvidia-smi does not answer ({error}).")
    if answer.returncode != 0:
        said = (answer.stdout + answer.stderr).strip().splitlines() or ["no reason given"]
        return Gpus(problem=f"nvidia-smi fails: {said[-1]}")
    try:
        return Gpus(tuple(_gpu(line) for line in answer.stdout.splitlines() if line.strip()))
    except ValueError:
        return Gpus(problem=f"nvidia-smi answers something unexpected: {answer.stdout.strip()}")


def choose_build(name: str, gpus: Gpus) -> TorchBuild:
    """The build called `name`, or for "auto" the newest that runs on the GPUs, with the CPU build as the last resort.

    SVDRRError for a name that is none.
    """
    if name == "auto":
        return fitting_build(gpus)
    if name not in BUILDS:
        raise SVDRRError(f"Unknown build of torch '{name}'; available: auto, {', '.join(BUILDS)}.")
    return TorchBuild(name, f"The build {name} was asked for.")


def fitting_build(gpus: Gpus) -> TorchBuild:
    """The newest build of torch that runs on all of the GPUs, else on one of them, else on the CPU."""
    if sys.platform == "darwin":
        return TorchBuild("cpu", "On macOS torch has one build, without CUDA.")
    if not gpus.devices:
        return TorchBuild("cpu", gpus.problem or "No NVIDIA GPU was found, so jobs will run on the CPU.")
    first = gpus.devices[0]
    for enough in (all, any):
        for build in _CUDA_BUILDS:
            if enough(build.runs_on(gpu) for gpu in gpus.devices):
                return TorchBuild(build.name, f"The driver {first.driver} of {first.name} runs CUDA {build.cuda}.")
    return TorchBuild("cpu", f"{driver_problem(first)} Until then jobs run on the CPU.")


def driver_problem(gpu: Gpu) -> str:
    """Why no build of torch runs on `gpu`, in one sentence; "" if one does."""
    if any(build.runs_on(gpu) for build in _CUDA_BUILDS):
        return ""
    supporting = [build for build in _CUDA_BUILDS if build.supports(gpu)]
    if not supporting:
        capability = ".".join(map(str, gpu.compute_capability))
        return f"{gpu.name} (compute capability {capability}) is not among the GPUs that torch supports."
    needed = supporting[-1].needed_driver
    return f"The driver {gpu.driver} of {gpu.name} is too old for torch: update it to {needed} or newer."


def _gpu(line: str) -> Gpu:
    driver, name, capability, memory = (field.strip() for field in line.split(","))
    # Devices that share the computer's memory, such as a DGX Spark, have none of their own to tell of.
    return Gpu(name, driver, _version(capability), int(memory) if memory.isdigit() else 0)


def _version(text: str) -> Version:
    return tuple(int(part) for part in text.split("."))
