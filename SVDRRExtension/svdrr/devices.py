"""Which device PyTorch computes on."""

from __future__ import annotations

import re
from typing import TypeVar

import torch
from diffusers import DiffusionPipeline, ModelMixin

from svdrr.errors import SVDRRError

Networks = TypeVar("Networks", ModelMixin, DiffusionPipeline)


def choose_device(name: str) -> torch.device:
    """The device called `name`: ``cpu``, ``cuda``, ``cuda:1``, …, or ``auto``, a GPU if there is one.

    SVDRRError if this computer has no such device.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise SVDRRError(f"Unknown device '{name}'; choose auto, cpu, cuda or one of several GPUs, such as cuda:1.")
    gpus = torch.cuda.device_count()
    device = torch.device(("cuda" if gpus else "cpu") if name == "auto" else name)
    if device.type == "cuda" and (device.index or 0) >= gpus:
        available = ", ".join(["cpu", *(f"cuda:{number}" for number in range(gpus))])
        raise SVDRRError(f"There is no device '{name}' for PyTorch here; available: {available}.")
    return device


def put_on(device: torch.device, networks: Networks, name: str) -> Networks:
    """Moves them there. name: as the error calls them, "The model 'tiny'". SVDRRError if they do not fit there."""
    try:
        return networks.to(device)
    except RuntimeError as error:  # too little memory, or a GPU that this PyTorch was not built for
        reason = str(error).splitlines()[0].partition(". ")[0]
        raise SVDRRError(
            f"{name} cannot be put on the device '{device}' ({reason}); "
            "close other programs that use it, or choose cpu."
        ) from error
