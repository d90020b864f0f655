"""The voxel grid that a phantom is drawn on: soft-edged painting of implicit shapes.

Body frame: x to the patient's left, y posterior, z superior (LPS axes), millimetres. It differs from the
scanner frame by a small rotation about z, a small tilt and a shift. The tilt is a shear, so that z stays the
same in both frames and every profile along the body remains a function of one slice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..volume import AIR_HU

Floats = NDArray[np.float32]
Points = Sequence[Sequence[float] | NDArray[np.float64]] | NDArray[np.float64]
FAR_MM = 1e3


@dataclass(frozen=True)
class Placement:
    """How the body lies in the scanner: rotation about z, shear per mm of z, and shift in mm."""

    rotation_deg: float
    tilt: tuple[float, float]
    shift_mm: tuple[float, float]

    def to_body(self, x: Floats, y: Floats, z: Floats) -> tuple[Floats, Floats]:
        cos, sin = self._cos_sin()
        x, y = x - self.shift_mm[0], y - self.shift_mm[1]
        return (cos * x + sin * y) - self.tilt[0] * z, (cos * y - sin * x) - self.tilt[1] * z

    def to_scanner(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        cos, sin = self._cos_sin()
        x = points[:, 0] + self.tilt[0] * points[:, 2]
        y = points[:, 1] + self.tilt[1] * points[:, 2]
        return np.stack(
            [cos * x - sin * y + self.shift_mm[0], sin * x + cos * y + self.shift_mm[1], points[:, 2]], axis=1
        )

    def _cos_sin(self) -> tuple[np.float32, np.float32]:
        angle = np.deg2rad(self.rotation_deg)
        return np.float32(np.cos(angle)), np.float32(np.sin(angle))


class Canvas:
    """HU and labels on one grid, and the body coordinates of its voxels.

    hu, labels: (k, j, i). x, y: body coordinates, mm, (k, j, i). z: mm, (k, 1, 1).
    """

    def __init__(
        self, low_mm: Sequence[float], high_mm: Sequence[float], spacing_mm: float, placement: Placement
    ) -> None:
        self.spacing = spacing_mm
        self.placement = placement
        self.origin = np.asarray(low_mm, dtype=np.float64)
        self.size = np.ceil((np.asarray(high_mm) - self.origin) / spacing_mm).astype(int) + 1
        gx, gy, gz = (
            (start + spacing_mm * np.arange(n)).astype(np.float32)
            for start, n in zip(self.origin, self.size, strict=True)
        )
        self.z = gz[:, None, None]
        self.x, self.y = placement.to_body(gx[None, None, :], gy[None, :, None], self.z)
        self.shape = self.x.shape
        self.hu = np.full(self.shape, AIR_HU, dtype=np.float32)
        self.labels = np.zeros(self.shape, dtype=np.uint8)

    def empty_field(self) -> Floats:
        """A signed distance field with nothing in it yet."""
        return np.full(self.shape, FAR_MM, dtype=np.float32)

    def box(self, points: NDArray[np.float64], margin_mm: ArrayLike) -> tuple[slice, ...]:
        """Index box (k, j, i) around body points, clipped to the grid; may be empty."""
        scanner = (self.placement.to_scanner(points) - self.origin) / self.spacing
        margin = np.asarray(margin_mm) / self.spacing
        low = np.clip(np.floor(scanner.min(axis=0) - margin).astype(int), 0, self.size)
        high = np.clip(np.ceil(scanner.max(axis=0) + margin).astype(int) + 1, 0, self.size)
        return tuple(slice(a, b) for a, b in zip(low[::-1], high[::-1], strict=True))

    def add_tube(
        self,
        field: Floats,
        points: Points,
        radii: ArrayLike,
        stretch: tuple[float, float, float] = (1.0, 1.0, 1.0),
        blend_mm: float = 0.0,
    ) -> None:
        """Unite `field` with a tapered tube along a polyline, segment by segment in small boxes.

        stretch: how many times wider than its radius the tube is along x, y, z (for flat bones).
        """
        p = np.atleast_2d(np.asarray(points, dtype=np.float64))
        r = np.broadcast_to(np.asarray(radii, dtype=np.float64), len(p))
        scale = np.asarray(stretch)
        for a, b, ra, rb in zip(p[:-1], p[1:], r[:-1], r[1:], strict=True):
            reach = (max(ra, rb) + blend_mm) * scale + 1.5 * self.spacing
            box = self.box(np.stack([a, b]), reach)
            if any(s.start >= s.stop for s in box):
                continue
            d = self._segment_distance(box, a, b, ra, rb, scale)
            field[box] = smooth_min(field[box], d, blend_mm) if blend_mm else np.minimum(field[box], d)

    def _segment_distance(
        self,
        box: tuple[slice, ...],
        a: NDArray[np.float64],
        b: NDArray[np.float64],
        ra: float,
        rb: float,
        scale: NDArray[np.float64],
    ) -> Floats:
        along = (b - a) / scale
        ux, uy, uz = (np.float32(v) for v in along / max(float(along @ along), 1e-9))
        vx, vy, vz = (np.float32(v) for v in along)
        sx, sy, sz = (np.float32(1.0 / v) for v in scale)
        x = (self.x[box] - np.float32(a[0])) * sx
        y = (self.y[box] - np.float32(a[1])) * sy
        z = (self.z[box[0]] - np.float32(a[2])) * sz
        t = np.clip(x * ux + y * uy + z * uz, 0, 1)
        x -= t * vx
        y -= t * vy
        z = z - t * vz
        d = np.sqrt(x * x + y * y + z * z) - (np.float32(ra) + t * np.float32(rb - ra))
        return np.asarray(d, dtype=np.float32)

    def add_ellipsoid(
        self,
        field: Floats,
        center: ArrayLike,
        semi_axes: ArrayLike,
        axes: NDArray[np.float64] | None = None,
        blend_mm: float = 0.0,
    ) -> None:
        """Unite `field` with an ellipsoid; rows of `axes` are the directions of its semi-axes."""
        c = np.asarray(center, dtype=np.float64)
        s = np.asarray(semi_axes, dtype=np.float64)
        rows = np.eye(3) if axes is None else axes
        extent = np.sqrt(((rows * s[:, None]) ** 2).sum(axis=0)) + blend_mm + 2 * self.spacing
        box = self.box(c[None], extent)
        if any(b.start >= b.stop for b in box):
            return
        x, y, z = (
            self.x[box] - np.float32(c[0]),
            self.y[box] - np.float32(c[1]),
            self.z[box[0]] - np.float32(c[2]),
        )
        r2 = np.zeros(x.shape, dtype=np.float32)
        for (ax, ay, az), semi in zip(rows.astype(np.float32), s.astype(np.float32), strict=True):
            r2 += ((ax * x + ay * y + az * z) / semi) ** 2
        d = radial_distance(np.sqrt(x * x + y * y + z * z), np.sqrt(r2))
        field[box] = smooth_min(field[box], d, blend_mm) if blend_mm else np.minimum(field[box], d)

    def paint(self, field: Floats, hu: float | Floats, label: int, within: NDArray[np.bool_] | None = None) -> None:
        """Blend a shape in, with a one-voxel soft edge for the partial volume effect."""
        near = field < np.float32(self.spacing / 2)
        if within is not None:
            near &= within
        at = np.flatnonzero(near)
        coverage = np.minimum(np.float32(0.5) - field.ravel()[at] / np.float32(self.spacing), np.float32(1))
        values = hu.ravel()[at] if isinstance(hu, np.ndarray) else np.float32(hu)
        flat = self.hu.reshape(-1)
        old = flat[at]
        flat[at] = old + coverage * (values - old)
        self.labels.reshape(-1)[at[coverage > 0.5]] = label

    def section(self, left: Floats, front: Floats, back: Floats, center_x: Floats, squareness: float) -> Floats:
        """Signed distance to a stack of squircles: half width, front and back y per slice, all (k, 1, 1)."""
        x2 = np.square(self.x - center_x)
        y2 = np.square(self.y - (front + back) / 2)
        u2 = np.minimum(x2 / left**2, np.float32(1.6))
        v2 = np.minimum(y2 / ((back - front) / 2) ** 2, np.float32(1.6))
        r = np.sqrt(u2 + v2 - np.float32(squareness) * u2 * v2)
        return radial_distance(np.sqrt(x2 + y2), r)


def shifted(point: NDArray[np.float64], x: float, y: float, z: float) -> NDArray[np.float64]:
    """The point moved by x, y, z mm."""
    return point + np.array([x, y, z])


def radial_distance(rho: Floats, r: Floats) -> Floats:
    """Distance along the ray from the center, where r is 1 on the surface."""
    return np.asarray(rho * (1 - 1 / np.maximum(r, np.float32(0.05))), dtype=np.float32)


def smooth_min(a: Floats, b: Floats, k: float) -> Floats:
    """Union of two distance fields with a fillet of about k mm."""
    h = a - b
    np.abs(h, out=h)
    np.subtract(np.float32(k), h, out=h)
    np.maximum(h, np.float32(0), out=h)
    h *= h
    h *= np.float32(0.25 / k)
    return np.asarray(np.subtract(np.minimum(a, b), h, out=h), dtype=np.float32)


def smooth_max(a: Floats, b: Floats, k: float) -> Floats:
    """Intersection of two distance fields with a fillet of about k mm."""
    return -smooth_min(-a, -b, k)
