"""One interface for every DRR engine."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from svdrr.drr.attenuation import AttenuationVolume
from svdrr.errors import SVDRRError
from svdrr.geometry import View

ENGINES = ("auto", "joseph", "siddon", "nanodrr", "diffdrr")
_EXTRAS = {"joseph": "drr", "siddon": "drr", "nanodrr": "nanodrr", "diffdrr": "diffdrr"}


class Renderer(Protocol):
    """Renders views of the attenuation volume that it was made with.

    on_cpu_threads: whether `render` may run on several threads at once, and heeds `threads`.
    """

    name: str
    on_cpu_threads: bool

    def render(self, view: View, threads: int | None = None) -> NDArray[np.float32]:
        """Line integrals of μ (dimensionless), float32 (rows, columns), row 0 at the top.

        threads: how many cores to use for this view; by default all.
        """
        ...


def check_engine(engine: str) -> None:
    """SVDRRError unless `engine` is one of `ENGINES`."""
    if engine not in ENGINES:
        raise SVDRRError(f"Unknown DRR engine '{engine}'; choose one of: {', '.join(ENGINES)}.")


def make_renderer(volume: AttenuationVolume, engine: str = "auto") -> Renderer:
    """The named engine on a volume.

    ``auto``: nanodrr where it is installed and finds a CUDA device, else joseph. ``joseph``: interpolating, fastest
    on a CPU. ``siddon``: exact, on a CPU. ``nanodrr``: interpolating, for CUDA. ``diffdrr``: the exact and
    differentiable reference. Raises SVDRRError for another name, for another kind of volume, and where the engine's
    package is missing.
    """
    check_engine(engine)
    if not isinstance(volume, AttenuationVolume):
        raise SVDRRError(
            "A renderer needs an AttenuationVolume, which svdrr.drr.attenuation makes of a CTVolume, "
            f"not {type(volume).__name__}."
        )
    if engine == "auto":
        engine = "nanodrr" if _has_cuda_engine() else "joseph"
    try:
        if engine == "joseph":
            from svdrr.drr.joseph import JosephRenderer

            return JosephRenderer(volume)
        if engine == "siddon":
            from svdrr.drr.siddon import SiddonRenderer

            return SiddonRenderer(volume)
        if engine == "nanodrr":
            from svdrr.drr.nanodrr import NanoDRRRenderer

            return NanoDRRRenderer(volume)
        from svdrr.drr.diffdrr import DiffDRRRenderer

        return DiffDRRRenderer(volume)
    except ImportError as error:
        raise SVDRRError(
            f"The engine '{engine}' needs the package '{error.name}'; "
            f"install it with: pip install 'svdrr[{_EXTRAS[engine]}]'."
        ) from error


def _has_cuda_engine() -> bool:
    if find_spec("nanodrr") is None or find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()
