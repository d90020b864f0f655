"""One interface for every DRR engine."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from svdrr.drr.attenuation import AttenuationVolume
from svdrr.errors import SVDRRError
from svdrr.geometry import View

ENGINES = ("siddon", "diffdrr")


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


def make_renderer(volume: AttenuationVolume, engine: str = "siddon") -> Renderer:
    """The named engine on a volume: ``siddon`` (exact, fast on a CPU) or ``diffdrr`` (differentiable reference)."""
    check_engine(engine)
    try:
        if engine == "siddon":
            from svdrr.drr.siddon import SiddonRenderer

            return SiddonRenderer(volume)
        from svdrr.drr.diffdrr import DiffDRRRenderer

        return DiffDRRRenderer(volume)
    except ImportError as error:
        extra = {"siddon": "drr", "diffdrr": "diffdrr"}[engine]
        raise SVDRRError(
            f"The engine '{engine}' needs the package '{error.name}'; install it with: pip install 'svdrr[{extra}]'."
        ) from error
