"""Markups and views: where control points appear in DRRs, and where points marked in DRRs lie in the patient."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
from numpy.typing import NDArray

from svdrr.errors import SVDRRError
from svdrr.geometry import View
from svdrr.geometry.triangulation import triangulate
from svdrr.mrml.nodes import check_output, output_node

_FIDUCIALS = "vtkMRMLMarkupsFiducialNode"

# Half the thickness of a radiograph's one slice, mm: further away, a point was not placed on it.
PLANE_TOLERANCE_MM = 0.5


@dataclass(frozen=True, eq=False)
class ProjectedMarkups:
    """The control points of a markups node in one view, all arrays in the node's order.

    labels: N labels. pixels: float64 (N, 2), (column, row), NaN for points that are undefined or behind the source.
    undefined: bool (N,), not placed (yet), or marked as missing. behind_source: bool (N,), beside or behind it.
    outside_detector: bool (N,), in front of the source, beyond the outer edge of the outer pixels.
    """

    view: View
    labels: tuple[str, ...]
    pixels: NDArray[np.float64]
    undefined: NDArray[np.bool_]
    behind_source: NDArray[np.bool_]
    outside_detector: NDArray[np.bool_]

    @property
    def on_detector(self) -> NDArray[np.bool_]:
        """Bool (N,): which points the view's image shows."""
        return ~(self.undefined | self.behind_source | self.outside_detector)


def project_markups(markups_node: slicer.vtkMRMLMarkupsNode, views: Sequence[View]) -> list[ProjectedMarkups]:
    """Where the control points of any markups node appear in each of the views.

    Parent transforms, linear or not, are taken into account. Raises SVDRRError for a node that is no markups or has
    no defined control point, and for no views.
    """
    labels, positions = _control_points(markups_node)
    if not views:
        raise SVDRRError("There are no views to project onto; choose at least one.")
    return [_projected(labels, positions, view) for view in views]


def markups_on_view(
    markups_node: slicer.vtkMRMLMarkupsNode,
    view: View,
    name: str,
    node: slicer.vtkMRMLMarkupsFiducialNode | None = None,
) -> slicer.vtkMRMLMarkupsFiducialNode:
    """Show the control points' projections as a point list on the view's detector plane, where its image lies.

    The list has the node's labels in the node's order. Points that are undefined or behind the source are undefined
    in it; those outside of the detector lie beside the image. node: a point list whose points and parent transform
    go. Raises SVDRRError as `project_markups`, and for a `node` that is no point list or the input itself.
    """
    labels, positions = _control_points(markups_node)
    _check_point_list(node, [markups_node])
    projected = _projected(labels, positions, view)
    return _point_list(name, node, labels, view.detector_positions(projected.pixels))


def triangulate_markups(
    placed: Sequence[tuple[View, slicer.vtkMRMLMarkupsNode]],
    name: str,
    node: slicer.vtkMRMLMarkupsFiducialNode | None = None,
) -> slicer.vtkMRMLMarkupsFiducialNode:
    """A point list in RAS from control points that were placed on the images of two or more views.

    placed: each view with the markups node whose control points lie on its detector plane. A point up to
    `PLANE_TOLERANCE_MM` off the plane, as in a slice view that is not quite on the image, is moved onto it at a right
    angle; one further away is refused, because it was moved or placed on something else.

    Points belong together by label if all nodes have the same labels, each once. If all labels are Slicer's own
    (empty, or the node's name and a number by its label format), they belong together by order. Anything else is
    refused. A point that is undefined in one of the views is undefined in the result; points that are only
    previewed under the mouse do not count. Labels and order are the first node's.

    Each point's description holds its residuals (see `svdrr.geometry.triangulation`): the largest distance in
    pixels in a view, and in mm from a ray. node: a point list whose points and parent transform go.
    Raises SVDRRError for fewer than two views, a node without defined control points, points that do not match,
    lie off the detector, or are nowhere defined in all views, rays that do not meet, and a `node` that is no
    point list or one of the inputs.
    """
    if len(placed) < 2:
        raise SVDRRError(f"Triangulation needs control points placed in at least two views, not in {len(placed)}.")
    lists = [_control_points(markups_node) for _, markups_node in placed]
    markups_nodes = [markups_node for _, markups_node in placed]
    _check_point_list(node, markups_nodes)
    pixels = [
        _pixels_on_detector(view, markups_node, positions)
        for (view, markups_node), (_, positions) in zip(placed, lists, strict=True)
    ]
    labels = lists[0][0]
    # (views, points, 2), the points in the order of the first node.
    matched = np.array([one[order] for one, order in zip(pixels, _matching(markups_nodes), strict=True)])

    views = [view for view, _ in placed]
    positions = np.full((len(labels), 3), np.nan)
    descriptions = [""] * len(labels)
    for index in np.flatnonzero(np.isfinite(matched).all(axis=(0, 2))):
        try:
            found = triangulate(views, matched[:, index])
        except SVDRRError as error:
            reason = str(error)
            raise SVDRRError(
                f"Control point '{labels[index]}' cannot be triangulated: {reason[0].lower()}{reason[1:]}"
            ) from None
        positions[index] = found.point_ras
        descriptions[index] = (
            f"Triangulated from {len(views)} views, residual up to "
            f"{found.pixel_distances.max():.2f} pixels, {found.ray_distances_mm.max():.3f} mm"
        )
    if np.isnan(positions).all():
        raise SVDRRError("No control point is placed in every view; place at least one in each.")
    return _point_list(name, node, labels, positions, descriptions)


def _control_points(node: Any) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """Labels, and world positions (N, 3), RAS mm, NaN where undefined, of all but previewed control points."""
    if node is None:
        raise SVDRRError("No markups are chosen; choose a list of control points.")
    if not node.IsA("vtkMRMLMarkupsNode"):
        raise SVDRRError(f"'{node.GetName()}' is no markups node; choose a list of control points.")
    indices = _indices(node)
    labels = tuple(node.GetNthControlPointLabel(index) for index in indices)
    positions = np.full((len(indices), 3), np.nan)
    for row, index in enumerate(indices):
        if node.GetNthControlPointPositionStatus(index) == node.PositionDefined:
            positions[row] = node.GetNthControlPointPositionWorld(index)
            if not np.isfinite(positions[row]).all():
                raise SVDRRError(
                    f"Control point '{labels[row]}' of '{node.GetName()}' has no finite position; "
                    "place it again or correct the list's transform."
                )
    if np.isnan(positions).all():
        raise SVDRRError(f"'{node.GetName()}' has no control points that are placed; place at least one.")
    return labels, positions


def _indices(node: Any) -> list[int]:
    """Of control points without those that only follow the mouse until it is clicked."""
    return [
        index
        for index in range(node.GetNumberOfControlPoints())
        if node.GetNthControlPointPositionStatus(index) != node.PositionPreview
    ]


def _projected(labels: tuple[str, ...], positions: NDArray[np.float64], view: View) -> ProjectedMarkups:
    pixels = view.project(positions)
    undefined = np.asarray(np.isnan(positions).any(axis=1))
    last = np.array([view.detector.columns, view.detector.rows]) - 0.5
    return ProjectedMarkups(
        view,
        labels,
        pixels,
        undefined=undefined,
        behind_source=np.asarray(np.isnan(pixels).any(axis=1) & ~undefined),
        # Comparisons with NaN are false: points without a pixel are not outside of the detector.
        outside_detector=np.asarray(((pixels < -0.5) | (pixels > last)).any(axis=1)),
    )


def _pixels_on_detector(view: View, node: Any, positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pixel coordinates (N, 2) of points (N, 3), RAS mm, next to the detector plane; NaN stays NaN."""
    homogeneous = np.column_stack([positions, np.ones(len(positions))])
    column_row_depth = (homogeneous @ np.linalg.inv(view.pixel_to_ras).T)[:, :3]
    off_plane = np.nanmax(np.abs(column_row_depth[:, 2]))
    if off_plane > PLANE_TOLERANCE_MM:
        raise SVDRRError(
            f"'{node.GetName()}' has a control point {off_plane:.1f} mm off the detector of the view "
            f"{view.pose.label}; place its points on that view's image."
        )
    return np.asarray(column_row_depth[:, :2])


def _matching(nodes: Sequence[Any]) -> list[list[int]]:
    """For each node, which of its points belongs to the first node's first, second, … point."""
    labels = [[node.GetNthControlPointLabel(index) for index in _indices(node)] for node in nodes]
    first = labels[0]
    if all(len(set(one)) == len(one) and set(one) == set(first) for one in labels):
        return [[one.index(label) for label in first] for one in labels]
    if not all(_has_default_labels(node, one) for node, one in zip(nodes, labels, strict=True)):
        raise SVDRRError(
            "The control points' labels differ between the views; give points that belong together the same label, "
            "and each label to one point of a list."
        )
    if len({len(one) for one in labels}) > 1:
        counts = ", ".join(f"{len(one)} in '{node.GetName()}'" for node, one in zip(nodes, labels, strict=True))
        raise SVDRRError(
            f"The numbers of control points differ ({counts}); place the same ones in each view or label them."
        )
    return [list(range(len(first)))] * len(labels)


def _has_default_labels(node: Any, labels: Sequence[str]) -> bool:
    """Whether Slicer has given all labels, by the node's present name and label format."""
    named = re.escape(node.ReplaceListNameInControlPointLabelFormat())
    default = re.compile(named.replace("%d", r"\d+"))
    return all(label == "" or default.fullmatch(label) for label in labels)


def _check_point_list(node: Any, inputs: Sequence[Any]) -> None:
    check_output(_FIDUCIALS, node)
    if node is not None and any(node is one for one in inputs):
        raise SVDRRError(f"The result would replace its own input '{node.GetName()}'; choose another point list.")


def _point_list(
    name: str,
    node: Any,
    labels: Sequence[str],
    positions: NDArray[np.float64],
    descriptions: Sequence[str] = (),
) -> Any:
    """A point list in the world frame; positions (N, 3), RAS mm, NaN for undefined points."""
    points = output_node(_FIDUCIALS, name, node)
    points.SetAndObserveTransformNodeID(None)
    # A list that was in use may be locked to a number of points.
    points.SetFixedNumberOfControlPoints(False)
    points.SetMaximumNumberOfControlPoints(-1)
    points.RemoveAllControlPoints()
    for index, (label, position) in enumerate(zip(labels, positions, strict=True)):
        points.AddControlPointWorld(np.nan_to_num(position))
        # By itself, because a list makes up a label for a point that is added with an empty one.
        points.SetNthControlPointLabel(index, label)
        if np.isnan(position).any():
            points.UnsetNthControlPointPosition(index)
    for index, description in enumerate(descriptions):
        points.SetNthControlPointDescription(index, description)
    points.CreateDefaultDisplayNodes()
    return points
