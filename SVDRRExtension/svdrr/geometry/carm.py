"""C-arm poses from DICOM positioner angles, detectors, and the views they make together.

World frame: Slicer RAS, millimetres. Angles: DICOM PS3.3 C.8.7.5.1.2, Positioner Primary Angle (LAO positive)
and Positioner Secondary Angle (cranial positive), in degrees; they say where the detector is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
from numpy.typing import ArrayLike, NDArray

from svdrr.errors import SVDRRError

RIGHT = np.array([1.0, 0.0, 0.0])
ANTERIOR = np.array([0.0, 1.0, 0.0])
SUPERIOR = np.array([0.0, 0.0, 1.0])

SOURCE_TO_ISOCENTER_MM = 1800.0
SOURCE_TO_DETECTOR_MM = 2000.0

# Beyond any room: what lies outside is a mistake, such as another unit.
MAX_DISTANCE_MM = 100_000.0
MAX_PRIMARY_DEG = 360.0
MAX_DETECTOR_PIXELS = 65_536

# Depth in front of the source, as a part of the source-to-detector distance, that counts as none.
_IN_SOURCE_PLANE = 1e-9


def _are_finite(values: Iterable[object]) -> bool:
    """Whether all are finite numbers, Python's or numpy's: no text and no truth values."""
    try:
        return all(isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value) for value in values)
    except OverflowError:
        return False  # An int that no float holds.


def _has_length(values: object, length: int) -> bool:
    if isinstance(values, np.ndarray):
        return values.shape == (length,)
    return isinstance(values, (tuple, list)) and len(values) == length


@dataclass(frozen=True)
class CArmPose:
    """Where source and detector stand about an isocenter.

    primary_deg: LAO positive, in [-360, 360]; 0 is PA (detector anterior), 180 AP, +90 left lateral (detector at the
    left). secondary_deg: detector cranial positive, in [-90, 90].
    isocenter_ras: RAS mm. The central ray runs from the source through the isocenter to the detector.
    Distances and the isocenter's coordinates go up to `MAX_DISTANCE_MM`. Raises SVDRRError for anything else.
    """

    primary_deg: float = 0.0
    secondary_deg: float = 0.0
    isocenter_ras: tuple[float, float, float] = (0.0, 0.0, 0.0)
    source_to_isocenter_mm: float = SOURCE_TO_ISOCENTER_MM
    source_to_detector_mm: float = SOURCE_TO_DETECTOR_MM

    def __post_init__(self) -> None:
        numbers = (
            self.primary_deg,
            self.secondary_deg,
            self.source_to_isocenter_mm,
            self.source_to_detector_mm,
        )
        if not _has_length(self.isocenter_ras, 3) or not _are_finite((*numbers, *self.isocenter_ras)):
            raise SVDRRError("A C-arm pose needs finite angles and distances and an isocenter of three numbers.")
        if abs(self.primary_deg) > MAX_PRIMARY_DEG:
            raise SVDRRError(f"The primary angle must lie in -360 to 360 degrees, not {self.primary_deg:g}.")
        if not -90.0 <= self.secondary_deg <= 90.0:
            raise SVDRRError(f"The secondary angle must lie in -90 to 90 degrees, not {self.secondary_deg:g}.")
        if not 0.0 < self.source_to_isocenter_mm < self.source_to_detector_mm:
            raise SVDRRError(
                "The source-to-isocenter distance must be positive and less than the source-to-detector distance, "
                f"not {self.source_to_isocenter_mm:g} and {self.source_to_detector_mm:g} mm."
            )
        if max(self.source_to_detector_mm, *map(abs, self.isocenter_ras)) > MAX_DISTANCE_MM:
            raise SVDRRError(
                "The distances of a C-arm pose and its isocenter's coordinates must not exceed "
                f"{MAX_DISTANCE_MM:,.0f} mm."
            )

    @property
    def detector_direction(self) -> NDArray[np.float64]:
        """Unit vector n (3,) from the isocenter to the detector, RAS."""
        primary, secondary = math.radians(self.primary_deg), math.radians(self.secondary_deg)
        in_plane = math.cos(primary) * ANTERIOR - math.sin(primary) * RIGHT
        return np.asarray(math.cos(secondary) * in_plane + math.sin(secondary) * SUPERIOR)

    @property
    def image_axes(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Unit vectors (right, down), each (3,), of the image in RAS, as seen from the detector.

        Up is the projection of S onto the detector plane; at the poles, where S has none, that of A.
        """
        n = self.detector_direction
        up = SUPERIOR - (SUPERIOR @ n) * n
        if np.linalg.norm(up) < 1e-9:
            up = ANTERIOR - (ANTERIOR @ n) * n
        up /= np.linalg.norm(up)
        return np.cross(up, n), -up

    @property
    def label(self) -> str:
        """The view's name for people, to 0.1 degrees: ``PA``, ``left lateral`` or ``LAO 30° CRAN 10°``."""
        primary = (round(self.primary_deg, 1) + 180.0) % 360.0 - 180.0
        secondary = round(self.secondary_deg, 1)
        named = {0.0: "PA", -180.0: "AP", 90.0: "left lateral", -90.0: "right lateral"}
        if secondary == 0.0 and primary in named:
            return named[primary]
        angles = ((primary, "LAO", "RAO"), (secondary, "CRAN", "CAUD"))
        return " ".join(
            f"{positive if angle > 0.0 else negative} {abs(round(angle, 1)):g}°"
            for angle, positive, negative in angles
            if angle
        )

    @property
    def source_ras(self) -> NDArray[np.float64]:
        """X-ray focal spot (3,), RAS mm."""
        return np.asarray(self.isocenter_ras) - self.source_to_isocenter_mm * self.detector_direction

    @property
    def detector_center_ras(self) -> NDArray[np.float64]:
        """Where the central ray meets the detector (3,), RAS mm."""
        return self.source_ras + self.source_to_detector_mm * self.detector_direction

    @classmethod
    def from_direction(cls, direction: ArrayLike, isocenter_ras: tuple[float, float, float]) -> CArmPose:
        """The pose whose detector lies in `direction` (3,), RAS, any length > 0, from the isocenter.

        At the poles, where every primary angle gives the same direction, the primary angle is 0.
        """
        x, y, z = np.asarray(direction, float) / np.linalg.norm(direction)
        radius = math.hypot(x, y)
        primary = math.degrees(math.atan2(0.0 - x, y)) if radius > 1e-12 else 0.0
        return cls(primary, math.degrees(math.atan2(z, radius)), isocenter_ras)


@dataclass(frozen=True)
class Detector:
    """A flat detector, centered on the central ray.

    rows, columns: pixels, 1 to 65,536 each. pixel_spacing_mm: (row spacing, column spacing) on the detector, as in
    DICOM PS3.3 10.7.1.3: between rows first, then between columns. Raises SVDRRError for anything else.
    """

    rows: int
    columns: int
    pixel_spacing_mm: tuple[float, float]

    def __post_init__(self) -> None:
        for count in (self.rows, self.columns):
            if not isinstance(count, Integral) or isinstance(count, bool) or not 1 <= count <= MAX_DETECTOR_PIXELS:
                raise SVDRRError(
                    f"A detector needs whole numbers of rows and columns from 1 to {MAX_DETECTOR_PIXELS:,}, "
                    f"not {self.rows!r} x {self.columns!r}."
                )
        spacing = self.pixel_spacing_mm
        if not (_has_length(spacing, 2) and _are_finite(spacing) and min(spacing) > 0.0):
            raise SVDRRError(
                f"The detector's pixel spacing must be two positive numbers (between rows, between columns), "
                f"not {spacing!r} mm."
            )

    @classmethod
    def square(cls, pixels: int, side_mm: float = 480.0) -> Detector:
        """`pixels` x `pixels` over `side_mm` x `side_mm`."""
        return cls(pixels, pixels, (side_mm / pixels, side_mm / pixels))


@dataclass(frozen=True)
class View:
    """One C-arm pose seen by one detector. Pixel coordinates are (column, row), integers at pixel centers."""

    pose: CArmPose
    detector: Detector

    @property
    def pixel_to_ras(self) -> NDArray[np.float64]:
        """Float64 (4, 4): takes (column, row, 0, 1) to RAS mm on the detector plane.

        The third axis, 1 mm long, points to the source, which makes the frame right-handed.
        """
        right, down = self.pose.image_axes
        row_mm, column_mm = self.detector.pixel_spacing_mm
        matrix = np.eye(4)
        matrix[:3, 0] = right * column_mm
        matrix[:3, 1] = down * row_mm
        matrix[:3, 2] = -self.pose.detector_direction
        center = np.array([(self.detector.columns - 1) / 2.0, (self.detector.rows - 1) / 2.0])
        matrix[:3, 3] = self.pose.detector_center_ras - matrix[:3, :2] @ center
        return matrix

    @property
    def projection_matrix(self) -> NDArray[np.float64]:
        """Float64 (3, 4): takes RAS mm (x, y, z, 1) to homogeneous pixel coordinates (column·w, row·w, w).

        w is the depth in mm from the source along the central ray: positive in front of the source
        (Hartley and Zisserman, Multiple View Geometry, 6.1).
        """
        right, down = self.pose.image_axes
        row_mm, column_mm = self.detector.pixel_spacing_mm
        focal = self.pose.source_to_detector_mm
        intrinsic = np.array(
            [
                [focal / column_mm, 0.0, (self.detector.columns - 1) / 2.0],
                [0.0, focal / row_mm, (self.detector.rows - 1) / 2.0],
                [0.0, 0.0, 1.0],
            ]
        )
        rotation = np.stack([right, down, self.pose.detector_direction])
        extrinsic = np.column_stack([rotation, -rotation @ self.pose.source_ras])
        return np.asarray(intrinsic @ extrinsic)

    @property
    def detector_corners_ras(self) -> NDArray[np.float64]:
        """Outer corners of the outer pixels (4, 3), RAS mm: top left, top right, bottom right, bottom left.

        Left and top are those of the image as it is displayed: half a pixel outside of pixel (0, 0)'s center.
        """
        right, bottom = self.detector.columns - 0.5, self.detector.rows - 0.5
        return self.detector_positions([[-0.5, -0.5], [right, -0.5], [right, bottom], [-0.5, bottom]])

    def detector_positions(self, pixels: ArrayLike) -> NDArray[np.float64]:
        """Points (N, 3) on the detector plane, RAS mm, of pixel coordinates (N, 2), (column, row)."""
        points = np.atleast_2d(np.asarray(pixels, float))
        in_plane = np.column_stack([points, np.zeros(len(points)), np.ones(len(points))])
        return np.asarray((in_plane @ self.pixel_to_ras.T)[:, :3])

    def project(self, points_ras: ArrayLike) -> NDArray[np.float64]:
        """Pixel coordinates (N, 2), (column, row), of points (N, 3) in RAS mm.

        A point beside or behind the source, where no ray goes, has the coordinates NaN: the projection matrix alone
        would put its mirror image on the detector (Hartley and Zisserman, Multiple View Geometry, 6.2.3). A point
        outside of the detector's area has coordinates outside of its pixels.
        """
        points = np.atleast_2d(np.asarray(points_ras, float))
        homogeneous = np.column_stack([points, np.ones(len(points))]) @ self.projection_matrix.T
        # Nearer to the source's plane than rounding can tell from lying in it.
        depth = homogeneous[:, 2:]
        in_front = depth > _IN_SOURCE_PLANE * self.pose.source_to_detector_mm
        return np.asarray(homogeneous[:, :2] / np.where(in_front, depth, np.nan))

    def misses(self, corners_ras: ArrayLike) -> bool:
        """Whether a convex body with these corners (N, 3), RAS mm, lies wholly behind the source or on the outer
        side of one edge of the detector, so that no pixel's ray meets it.

        True is certain. A body that the beam passes only diagonally, at a corner of the detector, may give False.
        """
        corners = np.atleast_2d(np.asarray(corners_ras, float))
        x, y, depth = self.projection_matrix @ np.column_stack([corners, np.ones(len(corners))]).T
        # The planes through the source and the detector's edges, not yet divided by the depth: corners on both sides
        # of the source need no care.
        right, bottom = self.detector.columns - 0.5, self.detector.rows - 0.5
        inside = np.array([depth, x + 0.5 * depth, right * depth - x, y + 0.5 * depth, bottom * depth - y])
        return bool((inside < 0.0).all(axis=1).any())
