"""Interpolated line integrals on the CPU: the fastest engine there.

P. M. Joseph, IEEE Trans. Med. Imaging 1(3), 1982: one bilinear sample in every voxel plane that a ray crosses, of
the axis along which it crosses most. The first and the last voxel count by the length that the ray runs in them,
so that a homogeneous box is exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numba import types
from numba.extending import overload
from numpy.typing import NDArray

from svdrr.drr.attenuation import AttenuationVolume
from svdrr.drr.parallel import over_rows
from svdrr.drr.rays import compiled, length_mm, rays_in_array, span
from svdrr.drr.siddon import SiddonRenderer
from svdrr.geometry import View

# Rays of a tile march together through the planes of one block, which the occupancy grid may rule out. Tiles are
# wide because rows of voxels are contiguous, and the rows of an image usually run along them.
_TILE_COLUMNS = 64
_BLOCK = 16

# Positions in a plane are fixed-point numbers: a conversion from float costs more than the whole interpolation.
_FRACTION_BITS = 16
_ONE = 1 << _FRACTION_BITS

# Where 16 bits per voxel change the attenuation of the whole volume by more than this part, or that of any voxel by
# more than ten times this part of the mean, float32 is kept.
_STORAGE_ERROR = 1e-3

# One axis leads all rays of an image, so at the edges of a very wide cone a ray may cross many voxels for each plane
# and see one of them. Where it would be more than these, every voxel is visited instead.
_STEEPEST = 4.0


@dataclass(frozen=True, eq=False)
class _Grid:
    """Voxels to be marched through along one axis of the array.

    voxels: uint16 or float32, framed by a copy of the outermost ones. unit: μ in 1/mm of a voxel whose value is 1.
    extent: (3,), the volume's size in these voxels, a fraction where the last one is not full. occupied: which
    blocks, `_BLOCK` voxels on a side, hold any attenuation. array_to_ras: (4, 4), without the frame.
    """

    main: int
    extent: NDArray[np.float64]
    voxels: NDArray[np.uint16] | NDArray[np.float32]
    unit: float
    occupied: NDArray[np.bool_]
    array_to_ras: NDArray[np.float64]


class JosephRenderer:
    """Joseph's method by numba. Rays end where the volume ends, not at the detector.

    The volume is cropped to its attenuation; what touches the crop ends sharply there. Planes along the direction
    of view are merged up to the thickness of the coarsest axis; across it the resolution stays. Voxels take 16 bits
    where that is precise enough, and blocks of air are skipped. Cones so wide that some rays run nearly across the
    direction of view (from 25° off the axis, in the worst oblique) are left to `SiddonRenderer`.
    """

    name = "joseph"
    on_cpu_threads = True

    def __init__(self, volume: AttenuationVolume) -> None:
        self._whole = volume
        self._volume = volume.cropped()
        self._ras_to_array = np.linalg.inv(_array_to_ras(self._volume))
        self._grids: dict[int, _Grid] = {}
        self._preparing = Lock()

    def render(self, view: View, threads: int | None = None) -> NDArray[np.float32]:
        """Line integrals of μ, float32 (rows, columns), dimensionless; on all cores unless `threads` says fewer."""
        self._whole.require_outside(view.pose.source_ras)
        main = int(np.argmax(np.abs(self._ras_to_array[:3, :3] @ view.pose.detector_direction)))
        if _is_too_wide(self._ras_to_array[:3, :3], main, view):
            return SiddonRenderer(self._whole).render(view, threads)
        grid = self._grid(main)
        image = np.empty((view.detector.rows, view.detector.columns), np.float32)
        over_rows(
            _integrate,
            threads,
            grid.main,
            grid.extent,
            grid.voxels,
            grid.unit,
            grid.occupied,
            np.ascontiguousarray(grid.array_to_ras[:3, :3]),
            *rays_in_array(view, np.linalg.inv(grid.array_to_ras)),
            image,
        )
        return image

    def _grid(self, main: int) -> _Grid:
        with self._preparing:
            if main not in self._grids:
                self._grids[main] = _grid_along(self._volume, main)
            return self._grids[main]


def _is_too_wide(ras_to_array: NDArray[np.floating], main: int, view: View) -> bool:
    corners = (view.detector_corners_ras - view.pose.source_ras) @ ras_to_array.T
    along = corners[:, main] * np.sign(corners[0, main])
    sideways = np.abs(np.delete(corners, main, axis=1)).max(axis=1)
    return bool((sideways > _STEEPEST * along).any())


def _array_to_ras(volume: AttenuationVolume) -> NDArray[np.float64]:
    return np.asarray(volume.ijk_to_ras[:, [2, 1, 0, 3]])


def _grid_along(volume: AttenuationVolume, main: int) -> _Grid:
    array_to_ras = _array_to_ras(volume).copy()
    spacing = np.linalg.norm(array_to_ras[:3, :3], axis=0)
    merged = max(1, int(spacing.max() / spacing[main] + 1e-6))
    array_to_ras[:3, 3] += array_to_ras[:3, main] * (merged - 1) / 2.0
    array_to_ras[:3, main] *= merged
    voxels, unit = _stored(volume.mu, main, merged)
    extent = np.array(volume.mu.shape, float)
    extent[main] /= merged
    return _Grid(main, extent, voxels, unit, _occupied_blocks(voxels), array_to_ras)


def _merged_slabs(mu: NDArray[np.float32], axis: int, merged: int) -> Iterator[NDArray[np.float32]]:
    """The slices, along the first axis, of `mu` with every `merged` planes along `axis` averaged; fewer at the end."""
    if axis == 0:
        for first in range(0, len(mu), merged):
            yield np.asarray(mu[first : first + merged].mean(axis=0), np.float32)
    else:
        starts = np.arange(0, mu.shape[axis], merged)
        counts = np.diff([*starts, mu.shape[axis]]).astype(np.float32)
        for plane in mu:
            sums = np.add.reduceat(plane, starts, axis=axis - 1)
            yield np.asarray(sums / (counts[:, None] if axis == 1 else counts), np.float32)


def _stored(mu: NDArray[np.float32], axis: int, merged: int) -> tuple[NDArray[np.uint16] | NDArray[np.float32], float]:
    """(voxels in their frame, unit) of `mu` with planes along `axis` merged."""
    shape = [-(-size // merged) if number == axis else size for number, size in enumerate(mu.shape)]
    framed: NDArray[np.uint16] | NDArray[np.float32] = np.empty([size + 2 for size in shape], np.uint16)
    unit = float(mu.max()) / 65535.0 or 1.0
    total, stored, worst, occupied = 0.0, 0.0, 0.0, 0
    for inner, slab in zip(framed[1:-1, 1:-1, 1:-1], _merged_slabs(mu, axis, merged), strict=True):
        inner[:] = np.rint(slab / np.float32(unit))
        total += float(slab.sum(dtype=np.float64))
        stored += float(inner.sum(dtype=np.float64)) * unit
        worst = max(worst, float(np.abs(inner * np.float32(unit) - slab).max()))
        occupied += np.count_nonzero(slab)
    if abs(stored - total) > _STORAGE_ERROR * total or worst * occupied > 10.0 * _STORAGE_ERROR * total:
        framed, unit = np.empty(framed.shape, np.float32), 1.0
        for inner, slab in zip(framed[1:-1, 1:-1, 1:-1], _merged_slabs(mu, axis, merged), strict=True):
            inner[:] = slab
    for number in range(3):
        faces = np.moveaxis(framed, number, 0)
        faces[0], faces[-1] = faces[1], faces[-2]
    return framed, unit


def _occupied_blocks(voxels: NDArray[np.uint16] | NDArray[np.float32]) -> NDArray[np.bool_]:
    occupied: NDArray[np.bool_] = voxels > 0
    for axis, size in enumerate(voxels.shape):
        occupied = np.logical_or.reduceat(occupied, np.arange(0, size, _BLOCK), axis=axis)
    return occupied


def _sum_along(voxels, count, offset, a, b, per_a, per_b, main, stride_a, stride_b):  # type: ignore[no-untyped-def]
    """The sum of `count` bilinear samples, each one plane (`main` in memory) after the other.

    a, b: fixed-point position in the plane at first; per_a, per_b: its change from one plane to the next.
    """
    raise TypeError("called from compiled code only")


@overload(_sum_along, jit_options={"fastmath": {"contract"}, "error_model": "numpy"})
def _sum_along_for(voxels, count, offset, a, b, per_a, per_b, main, stride_a, stride_b):  # type: ignore[no-untyped-def]
    mask = _ONE - 1

    def of_integers(voxels, count, offset, a, b, per_a, per_b, main, stride_a, stride_b):  # type: ignore[no-untyped-def]
        total = 0
        for _ in range(count):
            # Unsigned, because numba gives negative indices Python's meaning and asks for it at each.
            here = np.uint64(offset + (a >> _FRACTION_BITS) * stride_a + (b >> _FRACTION_BITS) * stride_b)
            v00, v01 = np.int64(voxels[here]), np.int64(voxels[here + np.uint64(stride_b)])
            there = here + np.uint64(stride_a)
            v10, v11 = np.int64(voxels[there]), np.int64(voxels[there + np.uint64(stride_b)])
            along_b = b & mask
            v0 = (v00 << _FRACTION_BITS) + (v01 - v00) * along_b
            v1 = (v10 << _FRACTION_BITS) + (v11 - v10) * along_b
            total += v0 + ((v1 - v0) >> _FRACTION_BITS) * (a & mask)
            offset += main
            a += per_a
            b += per_b
        return total / _ONE

    def of_floats(voxels, count, offset, a, b, per_a, per_b, main, stride_a, stride_b):  # type: ignore[no-untyped-def]
        total = np.float32(0.0)
        for _ in range(count):
            here = np.uint64(offset + (a >> _FRACTION_BITS) * stride_a + (b >> _FRACTION_BITS) * stride_b)
            there = here + np.uint64(stride_a)
            along_a, along_b = np.float32((a & mask) / _ONE), np.float32((b & mask) / _ONE)
            v0 = voxels[here] + along_b * (voxels[here + np.uint64(stride_b)] - voxels[here])
            v1 = voxels[there] + along_b * (voxels[there + np.uint64(stride_b)] - voxels[there])
            total += v0 + along_a * (v1 - v0)
            offset += main
            a += per_a
            b += per_b
        return np.float64(total)

    return of_integers if isinstance(voxels.dtype, types.Integer) else of_floats


@compiled
def _integrate(  # type: ignore[no-untyped-def]
    main,
    extent,
    voxels,
    unit,
    occupied,
    millimeters_per_voxel,
    source,
    corner,
    per_column,
    per_row,
    image,
    first_row,
    end_row,
):
    """Line integrals through the pixels of some rows; positions are array coordinates, without the frame of one."""
    shape = (voxels.shape[0] - 2, voxels.shape[1] - 2, voxels.shape[2] - 2)
    strides = (voxels.shape[1] * voxels.shape[2], voxels.shape[2], 1)
    memory = voxels.ravel()
    most = _TILE_COLUMNS * (end_row - first_row)
    sums, weights = np.empty(most), np.empty(most)
    at_a, at_b, per_a, per_b = np.empty(most), np.empty(most), np.empty(most), np.empty(most)
    first, last = np.empty(most, np.int64), np.empty(most, np.int64)
    position = np.empty(3, np.int64)
    a, b = (1 if main == 0 else 0), (1 if main == 2 else 2)

    for first_column in range(0, image.shape[1], _TILE_COLUMNS):
        columns = min(_TILE_COLUMNS, image.shape[1] - first_column)
        count = columns * (end_row - first_row)
        tile_first, tile_last = shape[main], -1

        for ray in range(count):
            row, column = first_row + ray // columns, first_column + ray % columns
            # A tuple, since an array for every ray takes longer than all else here.
            direction = (
                corner[0] + column * per_column[0] + row * per_row[0] - source[0],
                corner[1] + column * per_column[1] + row * per_row[1] - source[1],
                corner[2] + column * per_column[2] + row * per_row[2] - source[2],
            )
            weights[ray] = unit * length_mm(direction, millimeters_per_voxel) / abs(direction[main])
            # Position in the frame of plane p: at + p·per.
            per_a[ray], per_b[ray] = direction[a] / direction[main], direction[b] / direction[main]
            at_a[ray] = source[a] - source[main] * per_a[ray] + 1.0
            at_b[ray] = source[b] - source[main] * per_b[ray] + 1.0
            sums[ray], first[ray], last[ray] = 0.0, 0, -1
            enter, leave = span(source, direction, extent)
            if leave <= enter:
                continue
            low = source[main] + enter * direction[main]
            high = source[main] + leave * direction[main]
            low, high = min(low, high), max(low, high)
            # The voxels in which the ray begins and ends: sampled in the middle of what it crosses of them.
            begin, end = int(np.floor(low + 0.5)), int(np.floor(high + 0.5))
            for plane in (begin, end):
                start, stop = max(low, plane - 0.5), min(high, plane + 0.5)
                half = 0.5 * (start + stop)
                sums[ray] += (stop - start) * _sum_along(
                    memory,
                    1,
                    (plane + 1) * strides[main],
                    int((at_a[ray] + half * per_a[ray]) * _ONE),
                    int((at_b[ray] + half * per_b[ray]) * _ONE),
                    0,
                    0,
                    0,
                    strides[a],
                    strides[b],
                )
                if begin == end:
                    break
            first[ray], last[ray] = begin + 1, end - 1
            tile_first, tile_last = min(tile_first, begin + 1), max(tile_last, end - 1)

        for block in range((tile_first + 1) // _BLOCK, (tile_last + 1) // _BLOCK + 1):
            # Blocks divide the framed array, planes count without the frame.
            block_first = max(tile_first, block * _BLOCK - 1)
            block_last = min(tile_last, block * _BLOCK + _BLOCK - 2)
            low_a, high_a, low_b, high_b = np.inf, -np.inf, np.inf, -np.inf
            for ray in (0, columns - 1, count - columns, count - 1):
                for plane in (block_first, block_last):
                    x, y = at_a[ray] + plane * per_a[ray], at_b[ray] + plane * per_b[ray]
                    low_a, high_a, low_b, high_b = min(low_a, x), max(high_a, x), min(low_b, y), max(high_b, y)
            any_occupied = False
            position[main] = block
            for position_a in range(max(int(low_a), 0) // _BLOCK, min(int(high_a) + 1, shape[a] + 1) // _BLOCK + 1):
                for position_b in range(max(int(low_b), 0) // _BLOCK, min(int(high_b) + 1, shape[b] + 1) // _BLOCK + 1):
                    position[a], position[b] = position_a, position_b
                    any_occupied |= occupied[position[0], position[1], position[2]]
            if not any_occupied:
                continue
            for ray in range(count):
                plane, end = max(block_first, first[ray]), min(block_last, last[ray]) + 1
                if end > plane:
                    sums[ray] += _sum_along(
                        memory,
                        end - plane,
                        (plane + 1) * strides[main],
                        int((at_a[ray] + plane * per_a[ray]) * _ONE),
                        int((at_b[ray] + plane * per_b[ray]) * _ONE),
                        int(per_a[ray] * _ONE),
                        int(per_b[ray] * _ONE),
                        strides[main],
                        strides[a],
                        strides[b],
                    )
        for ray in range(count):
            image[first_row + ray // columns, first_column + ray % columns] = sums[ray] * weights[ray]
