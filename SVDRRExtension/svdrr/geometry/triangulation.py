"""From a point's pixels in two or more views to its place in the patient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from svdrr.errors import SVDRRError
from svdrr.geometry.carm import View

# Between rays that meet at less than this angle, half a millimeter at the detector is 30 cm in depth.
MIN_ANGLE_DEG = 0.1


@dataclass(frozen=True, eq=False)
class Triangulation:
    """A point and how well each view's pixel agrees with it, both residuals in the order of the views.

    point_ras: float64 (3,), RAS mm.
    pixel_distances: float64 (N,), from the given pixel to the projected point, in pixels (columns and rows
        count alike, whatever their spacing).
    ray_distances_mm: float64 (N,), from the point to the pixel's ray, in mm; for two views their sum is the
        closest distance between the two rays.
    """

    point_ras: NDArray[np.float64]
    pixel_distances: NDArray[np.float64]
    ray_distances_mm: NDArray[np.float64]


def triangulate(views: Sequence[View], pixels: ArrayLike) -> Triangulation:
    """The point with the least sum of squared distances, in mm, to the rays of its pixels.

    views: at least two. pixels: (N, 2), (column, row), one for each view, or (N, 1, 2), as `View.project` gives them
    for one point; they may lie outside of the detector.
    For two views it is the midpoint of the shortest line between the rays (Hartley and Zisserman, Multiple View
    Geometry, chapter 12; Hartley and Sturm, Triangulation, 1997); for more, the closed form of the same criterion.
    It weighs millimeters at the point, not pixels: views count alike only where the sources are equally far away.
    Raises SVDRRError for fewer than two views, pixels of another shape, no numbers or not finite, rays that are all
    within `MIN_ANGLE_DEG` of one line's direction, and a point that is not in front of every source.
    """
    try:
        points = np.asarray(pixels)
    except ValueError:
        points = np.array(None)  # Of several lengths: no numbers either.
    if points.ndim == 3 and points.shape[1] == 1:
        points = points[:, 0]
    if len(views) < 2:
        raise SVDRRError(f"Triangulation needs a point's pixels in at least two views, not in {len(views)}.")
    if points.dtype.kind not in "iuf":
        raise SVDRRError("Triangulation needs a pixel of two numbers (column, row) for each view.")
    if points.shape != (len(views), 2):
        raise SVDRRError(
            f"Triangulation needs one pixel (column, row) for each of the {len(views)} views, "
            f"not an array of shape {points.shape}."
        )
    if not np.isfinite(points).all():
        raise SVDRRError("Triangulation needs finite pixel coordinates; leave out views that do not show the point.")

    sources = np.array([view.pose.source_ras for view in views])
    toward_pixels = np.array([view.detector_positions(pixel)[0] for view, pixel in zip(views, points, strict=True)])
    directions = toward_pixels - sources
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    # Sines, because next to 0 degrees cosines tell nothing; they call opposite rays parallel, too.
    sines = [np.linalg.norm(np.cross(one, other)) for one, other in combinations(directions, 2)]
    if max(sines) < math.sin(math.radians(MIN_ANGLE_DEG)):
        raise SVDRRError(
            "The views look along nearly parallel rays, which do not fix a depth; "
            "choose views whose angles differ, such as PA and lateral."
        )

    across = np.eye(3) - directions[:, :, None] * directions[:, None, :]
    # About the sources' center, to lose no digits to an isocenter that is far from the origin.
    center = sources.mean(axis=0)
    point = center + np.linalg.solve(across.sum(axis=0), np.einsum("nij,nj->i", across, sources - center))

    projected = np.array([view.project(point)[0] for view in views])
    if not np.isfinite(projected).all():
        raise SVDRRError("The rays meet behind a source; check that each pixel belongs to its view.")
    return Triangulation(
        point_ras=point,
        pixel_distances=np.linalg.norm(projected - points, axis=1),
        ray_distances_mm=np.linalg.norm(np.einsum("nij,nj->ni", across, point - sources), axis=1),
    )
