"""What the engines for the CPU share: where a view's rays run in a volume's array, and how kernels are compiled."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from svdrr.geometry import View

# Infinities mark the axes that a ray never crosses, so "ninf" and "nnan" must stay out of this set.
_FAST_MATH = {"reassoc", "contract", "arcp", "nsz"}


def compiled(function: Callable[..., Any]) -> Any:
    """The function in machine code, which numba keeps beside the package, or in the user's folder if that is
    read-only, or nowhere if that is too."""
    compile_it = partial(njit, nogil=True, fastmath=_FAST_MATH, error_model="numpy")
    try:
        return compile_it(cache=True)(function)
    except RuntimeError:
        return compile_it()(function)


@compiled
def span(source, direction, shape):  # type: ignore[no-untyped-def]
    """(enter, leave) of ``source + t·direction`` through an array of voxels; empty where leave ≤ enter."""
    enter, leave = 0.0, np.inf
    for axis in range(3):
        low, high = -0.5 - source[axis], shape[axis] - 0.5 - source[axis]
        if direction[axis] == 0.0:
            if low > 0.0 or high < 0.0:
                leave = -1.0
        else:
            first, second = low / direction[axis], high / direction[axis]
            enter = max(enter, min(first, second))
            leave = min(leave, max(first, second))
    return enter, leave


@compiled
def length_mm(direction, millimeters_per_voxel):  # type: ignore[no-untyped-def]
    """Length in mm of a direction in array coordinates."""
    squared = 0.0
    for axis in range(3):
        component = (
            millimeters_per_voxel[axis, 0] * direction[0]
            + millimeters_per_voxel[axis, 1] * direction[1]
            + millimeters_per_voxel[axis, 2] * direction[2]
        )
        squared += component * component
    return np.sqrt(squared)


def rays_in_array(
    view: View, ras_to_array: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """(source, first pixel's center, step per column, step per row), each (3,), in array coordinates.

    ras_to_array: (4, 4), RAS mm to continuous array indices with integers at voxel centers, any order of axes.
    """
    source = ras_to_array @ np.append(view.pose.source_ras, 1.0)
    pixel_to_array = ras_to_array @ view.pixel_to_ras
    per_column, per_row, _, corner = (np.ascontiguousarray(column) for column in pixel_to_array[:3].T)
    return source[:3], corner, per_column, per_row
