"""The learned methods: networks from the model folders, applied tile by tile."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from diffusers import ModelMixin
from diffusers.utils import logging as diffusers_logging
from numpy.typing import NDArray

from svdrr.devices import choose_device, put_on
from svdrr.errors import SVDRRError
from svdrr.models.registry import weights_sha256
from svdrr.superres.interpolation import interpolate
from svdrr.superres.networks import CODE_CHANNELS, CODE_PIXELS, LCMSR, DeltaDiff, RegressionNetwork
from svdrr.superres.tiling import enlarge_in_tiles, padded_shape

NETWORKS: dict[str, type[ModelMixin]] = {"regression": RegressionNetwork, "lcmsr": LCMSR, "deltadiff": DeltaDiff}
CORE = 256
"""Side of the part of a tile that is used, in pixels of the small image."""
MARGIN = 24
"""How much is computed around it, in pixels of the small image, or of LCMSR's codes where these are larger.

What lies farther away moves no result by a gray level of 4,096: ``make bench-superres``.
"""

OnStep = Callable[[int, int], None]


def enlarge(
    pixels: NDArray[np.float32],
    network: ModelMixin,
    seed: int | None = 0,
    on_step: OnStep | None = None,
    core: int = CORE,
    margin: int | None = None,
) -> NDArray[np.float32]:
    """The enlarged image (rows·scale, columns·scale) in [0, 1], by a network of `load_network`.

    seed: of LCMSR's noise, which is that of the whole image, whatever the tiles; None for its deterministic path.
    on_step: called with the finished and the total number of steps of all tiles; an exception from it ends the work.
    core, margin: of the tiles, see `svdrr.superres.tiling.enlarge_in_tiles`; the margin is `MARGIN` by default.
    """
    scale: int = network.config.scale
    if margin is None:
        margin = MARGIN * CODE_PIXELS // scale if isinstance(network, LCMSR) else MARGIN
    noise = None
    if isinstance(network, LCMSR) and seed is not None:
        rows, columns = (
            length * scale // CODE_PIXELS for length in padded_shape(pixels.shape[0], pixels.shape[1], margin)
        )
        noise = np.random.default_rng(seed).standard_normal((CODE_CHANNELS, rows, columns), np.float32)
    steps = len(network.scheduler.timesteps) if isinstance(network, DeltaDiff) else 1
    finished = total = 0

    def on_tile(tile: int, tiles: int) -> None:
        nonlocal finished, total
        finished, total = tile * steps, tiles * steps
        if on_step is not None:
            on_step(finished, total)

    def on_step_of_tile() -> None:
        nonlocal finished
        finished += 1
        if on_step is not None:
            on_step(finished, total)

    @torch.inference_mode()
    def enlarged(tile: NDArray[np.float32], corner: tuple[int, int]) -> NDArray[np.float32]:
        inputs = [_tensor(tile, network), _tensor(interpolate(tile, scale, "bicubic"), network)]
        if noise is not None:
            row, column = (index * scale // CODE_PIXELS for index in corner)
            height, width = (length * scale // CODE_PIXELS for length in tile.shape)
            inputs.append(_tensor(noise[:, row : row + height, column : column + width], network))
        extra = {"on_step": on_step_of_tile} if isinstance(network, DeltaDiff) else {}
        try:
            result = network(*inputs, **extra)
        except RuntimeError as error:  # of which torch has one subclass for GPUs and none for main memory
            if "memory" not in str(error):
                raise
            raise SVDRRError(
                f"There is not enough memory on the device '{network.device}' for super-resolution; "
                "close other programs that use it, or choose cpu."
            ) from error
        return np.clip(result[0, 0].cpu().numpy(), 0.0, 1.0)

    return enlarge_in_tiles(enlarged, pixels, scale, core, margin, on_tile)


def load_network(method: str, folder: Path, device: str = "auto") -> ModelMixin:
    """The network of a method of `NETWORKS` from its folder, ready on the device, see `choose_device`.

    Kept for the next call, as long as the weights in the folder stay the same. SVDRRError if a file is missing or
    damaged, or if there is no such device.
    """
    return _loaded(method, folder, device, weights_sha256(folder))


@lru_cache(maxsize=2)
def _loaded(method: str, folder: Path, device: str, _: str) -> ModelMixin:
    diffusers_logging.disable_progress_bar()
    chosen = choose_device(device)
    try:
        network = NETWORKS[method].from_pretrained(folder, local_files_only=True, use_safetensors=True)
    except Exception as error:  # whatever diffusers, safetensors and torch raise for a damaged file
        raise SVDRRError(
            f"The super-resolution model '{method}' cannot be loaded; files in {folder} are missing or damaged."
        ) from error
    network.float().eval().requires_grad_(False)
    if chosen.type == "cpu":
        # The layout that convolutions on a CPU are fastest in.
        network.to(memory_format=torch.channels_last)
    return put_on(chosen, network, f"The super-resolution model '{method}'")


def _tensor(values: NDArray[np.float32], network: ModelMixin) -> torch.Tensor:
    """(1, channels, h, w) of an image or of channels."""
    tensor = torch.from_numpy(np.ascontiguousarray(values)).reshape(1, -1, *values.shape[-2:])
    return tensor.to(network.device)
