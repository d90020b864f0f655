"""All cores for one view, or for many views at once, by threads: the kernels release Python's lock."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from svdrr.drr.renderer import Renderer
    from svdrr.geometry import View

Result = TypeVar("Result")

TILE = 16
"""Pixels: rays of one tile share the voxels that they fetch, in whatever direction they run through memory."""


def core_count() -> int:
    """The cores that this process may use, which in a container are fewer than the computer's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="svdrr-drr")


def over_rows(kernel: Callable[..., None], threads: int | None, *arguments: Any) -> None:
    """Call ``kernel(*arguments, first_row, end_row)`` for bands of `TILE` rows of the last argument, an image."""
    image: NDArray[np.float32] = arguments[-1]
    rows = image.shape[0]
    threads = core_count() if threads is None else threads
    if threads == 1 or rows <= TILE:
        for first in range(0, rows, TILE):
            kernel(*arguments, first, min(first + TILE, rows))
        return
    bands = [
        _pool(threads).submit(kernel, *arguments, first, min(first + TILE, rows)) for first in range(0, rows, TILE)
    ]
    for band in bands:
        band.result()


def render_each(
    renderer: Renderer, views: Sequence[View], finish: Callable[[int, NDArray[np.float32]], Result]
) -> Iterator[Result]:
    """Yields ``finish(index, line_integrals)`` of every view, in order.

    Engines for the CPU render as many views at once as there are cores, and `finish` (encode, write, …) runs on
    the thread that rendered; the others, and all of them where there is one view only, render one view after the
    other. Few images are held at a time.
    """
    threads = core_count() if renderer.on_cpu_threads and len(views) > 1 else 1
    if threads == 1:
        for index, view in enumerate(views):
            yield finish(index, renderer.render(view))
        return

    def one(index: int) -> Result:
        return finish(index, renderer.render(views[index], threads=1))

    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="svdrr-views") as pool:
        try:
            for index in range(len(views)):
                waiting.append(pool.submit(one, index))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
