"""Exact radiological paths on the CPU.

R. L. Siddon, Med. Phys. 12(2), 1985, in the incremental form of J. Amanatides and A. Woo, Eurographics 1987.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from svdrr.drr.attenuation import AttenuationVolume
from svdrr.drr.parallel import TILE, over_rows
from svdrr.drr.rays import compiled, length_mm, rays_in_array, span
from svdrr.geometry import View


@compiled
def _integrate(  # type: ignore[no-untyped-def]
    values, size, step_in_memory, millimeters_per_voxel, source, corner, per_column, per_row, image, first_row, end_row
):
    """Line integrals through the pixels of some rows; positions, sizes and steps are those of voxels (i, j, k)."""
    crossing, between = np.empty(3), np.empty(3)
    stride, left = np.empty(3, np.int64), np.empty(3, np.int64)
    for tile in range(0, image.shape[1], TILE):
        for row in range(first_row, end_row):
            for column in range(tile, min(tile + TILE, image.shape[1])):
                direction = corner + column * per_column + row * per_row - source
                enter, leave = span(source, direction, size)
                if leave <= enter:
                    image[row, column] = 0.0
                    continue

                offset = 0
                for axis in range(3):
                    index = int(np.floor(source[axis] + enter * direction[axis] + 0.5))
                    index = min(max(index, 0), size[axis] - 1)
                    offset += index * step_in_memory[axis]
                    if direction[axis] > 0.0:
                        crossing[axis] = (index + 0.5 - source[axis]) / direction[axis]
                        stride[axis], left[axis] = step_in_memory[axis], size[axis] - 1 - index
                    elif direction[axis] < 0.0:
                        crossing[axis] = (index - 0.5 - source[axis]) / direction[axis]
                        stride[axis], left[axis] = -step_in_memory[axis], index
                    else:
                        crossing[axis], stride[axis], left[axis] = np.inf, 0, 0
                    between[axis] = 1.0 / abs(direction[axis]) if direction[axis] != 0.0 else np.inf

                t0, t1, t2 = crossing
                d0, d1, d2 = between
                s0, s1, s2 = stride
                n0, n1, n2 = left
                total, position = 0.0, enter
                while True:
                    if t0 <= t1 and t0 <= t2:
                        total += values[offset] * (t0 - position)
                        if n0 == 0:
                            break
                        position, n0, offset, t0 = t0, n0 - 1, offset + s0, t0 + d0
                    elif t1 <= t2:
                        total += values[offset] * (t1 - position)
                        if n1 == 0:
                            break
                        position, n1, offset, t1 = t1, n1 - 1, offset + s1, t1 + d1
                    else:
                        total += values[offset] * (t2 - position)
                        if n2 == 0:
                            break
                        position, n2, offset, t2 = t2, n2 - 1, offset + s2, t2 + d2
                image[row, column] = total * length_mm(direction, millimeters_per_voxel)


class SiddonRenderer:
    """Exact line integrals by numba. Rays end where the volume ends, not at the detector."""

    name = "siddon"
    on_cpu_threads = True

    def __init__(self, volume: AttenuationVolume) -> None:
        self._whole = volume
        cropped = volume.cropped()
        self._size = cropped.mu.shape[::-1]
        # The crop stays where it lies in the whole volume, which costs no second copy.
        mu = np.ascontiguousarray(volume.mu)
        self._step_in_memory = (1, mu.shape[2], mu.shape[1] * mu.shape[2])
        first_ijk = np.linalg.solve(volume.ijk_to_ras, cropped.ijk_to_ras[:, 3])[:3]
        self._values = mu.reshape(-1)[int(np.rint(first_ijk) @ self._step_in_memory) :]
        self._ijk_to_ras = cropped.ijk_to_ras

    def render(self, view: View, threads: int | None = None) -> NDArray[np.float32]:
        """Line integrals of μ, float32 (rows, columns), dimensionless; on all cores unless `threads` says fewer."""
        self._whole.require_outside(view.pose.source_ras)
        image = np.empty((view.detector.rows, view.detector.columns), np.float32)
        over_rows(
            _integrate,
            threads,
            self._values,
            self._size,
            self._step_in_memory,
            np.ascontiguousarray(self._ijk_to_ras[:3, :3]),
            *rays_in_array(view, np.linalg.inv(self._ijk_to_ras)),
            image,
        )
        return image
