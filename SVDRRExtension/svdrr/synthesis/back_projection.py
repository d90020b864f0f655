"""A radiograph spread over a body of likely depth and seen from elsewhere: what geometry alone says of other views."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from svdrr.drr import AttenuationVolume, Renderer, from_display, make_renderer, render_each, to_display
from svdrr.geometry import CArmPose, Detector, View

DEPTH_TO_BREADTH = 0.7
"""Of an adult chest."""
VOXEL_MM = 3.0
_BODY_LEVEL = 0.05  # line integral, 3 mm of water


def back_project(radiograph: NDArray[np.float32], field_of_view_mm: float) -> AttenuationVolume:
    """Each line integral of a PA radiograph spread evenly along its ray inside the body, about the origin.

    radiograph: (n, n) in [0, 1] of a detector with sides of `field_of_view_mm`. The body is an elliptic cylinder: as
    broad in each row as the silhouette there, and 0.7 times as deep as the silhouette's median breadth. Projected
    again from PA, the volume gives the radiograph.
    """
    pose = CArmPose()
    line_integrals = from_display(radiograph)
    center, half_breadth = _silhouette(line_integrals > _BODY_LEVEL)
    half_side_mm = 0.5 * field_of_view_mm
    half_side_at_isocenter_mm = half_side_mm * pose.source_to_isocenter_mm / pose.source_to_detector_mm
    half_depth_mm = max(DEPTH_TO_BREADTH * float(np.median(half_breadth)) * half_side_at_isocenter_mm, VOXEL_MM)

    # Rays spread, so that behind the isocenter the body reaches farther than the field of view there.
    half = [half_side_at_isocenter_mm + 0.2 * half_depth_mm, half_depth_mm + VOXEL_MM]
    across, anterior = (np.arange(-extent, extent + VOXEL_MM, VOXEL_MM, dtype=np.float32) for extent in half)
    superior, forward, right = np.meshgrid(across, anterior, across, indexing="ij", sparse=True)
    # PA: the patient's right is on the left of the image, and the rays go to the front.
    on_detector = (pose.source_to_detector_mm / half_side_mm) / (pose.source_to_isocenter_mm + forward)
    column, row = -right * on_detector, -superior * on_detector

    at_row = (row + 1.0) * (0.5 * len(radiograph)) - 0.5
    rows = np.arange(len(radiograph))
    aside = (column - np.interp(at_row, rows, center)) / np.interp(at_row, rows, half_breadth)
    depth_mm = np.maximum(half_depth_mm * np.sqrt(np.maximum(1.0 - aside**2, 0.0)), 0.5 * VOXEL_MM)
    inside = np.clip((depth_mm - np.abs(forward)) / VOXEL_MM + 0.5, 0.0, 1.0)
    slope = half_side_mm / pose.source_to_detector_mm
    length_mm = 2.0 * depth_mm * np.sqrt(1.0 + slope**2 * (column**2 + row**2))
    at_column = (column + 1.0) * (0.5 * len(radiograph)) - 0.5
    places = np.broadcast_arrays(at_row, at_column)
    measured = map_coordinates(line_integrals, places, order=1, mode="constant", prefilter=False)
    ijk_to_ras = np.diag([VOXEL_MM, VOXEL_MM, VOXEL_MM, 1.0])
    ijk_to_ras[:3, 3] = [-half[0], -half[1], -half[0]]
    return AttenuationVolume((measured * inside / length_mm).astype(np.float32), ijk_to_ras)


def projector(volume: AttenuationVolume) -> Renderer:
    """For `project`: keep it for more poses, because what it prepares of the volume takes as long as many views."""
    return make_renderer(volume, "joseph")


def project(renderer: Renderer, poses: Sequence[CArmPose], pixels: int, field_of_view_mm: float) -> NDArray[np.float32]:
    """Radiographs (poses, pixels, pixels) in [0, 1) of a volume about the origin."""
    detector = Detector.square(pixels, field_of_view_mm)
    views = [View(pose, detector) for pose in poses]
    return np.stack(list(render_each(renderer, views, lambda _, line_integrals: to_display(line_integrals))))


def pose_of(relative_view: NDArray[np.floating]) -> CArmPose:
    """The pose about the origin that `relative_view_encoding` leads to from PA."""
    elevation, sine, cosine, radius = relative_view.tolist()
    pa = CArmPose()
    source_to_isocenter_mm = pa.source_to_isocenter_mm * (1.0 + radius)
    return CArmPose(
        math.degrees(math.atan2(sine, cosine)),
        math.degrees(elevation),
        source_to_isocenter_mm=source_to_isocenter_mm,
        source_to_detector_mm=source_to_isocenter_mm + pa.source_to_detector_mm - pa.source_to_isocenter_mm,
    )


def _silhouette(body: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Center and half breadth of the body in each row, in half sides of the image; rows without any are as the next."""
    count = body.shape[1]
    places = (np.arange(count) + 0.5) / count * 2.0 - 1.0
    rows = np.flatnonzero(body.any(axis=1))
    if not len(rows):
        return np.zeros(len(body)), np.ones(len(body))
    left, right = places[body[rows].argmax(axis=1)], places[::-1][body[rows][:, ::-1].argmax(axis=1)]
    everywhere = np.arange(len(body))
    center, half_breadth = 0.5 * (left + right), 0.5 * (right - left) + 1.0 / count
    return np.interp(everywhere, rows, center), np.interp(everywhere, rows, half_breadth)
