"""Markups in the scene: where they appear in DRRs, and back from DRRs to the patient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
import slicer.util
import vtk
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from svdrr.drr import make_renderer
from svdrr.drr.attenuation import AttenuationVolume
from svdrr.errors import SVDRRError
from svdrr.geometry import CArmPose, Detector, View
from svdrr.geometry.carm import ANTERIOR, RIGHT, SUPERIOR
from svdrr.mrml import markups_on_view, new_scene, project_markups, save_scene, triangulate_markups

FIDUCIALS = "vtkMRMLMarkupsFiducialNode"
DETECTOR = Detector(110, 130, (1.2, 0.9))
ISOCENTER = (10.0, -20.0, 30.0)
PA, LATERAL, OBLIQUE = (
    View(CArmPose(*angles, isocenter_ras=ISOCENTER), DETECTOR) for angles in [(0.0, 0.0), (90.0, 0.0), (35.0, 20.0)]
)

# Of rising brightness in the phantom, and nowhere behind one another in the views.
CENTERS = {
    "apex": np.array([25.3, -5.0, 51.2]),
    "base": np.array([-12.6, -31.7, 41.0]),
    "tip": np.array([4.2, -12.4, 8.9]),
}


def point_list(points: dict[str, Any], name: str = "landmarks", kind: str = FIDUCIALS) -> Any:
    node = slicer.mrmlScene.AddNewNodeByClass(kind, name)
    for label, point in points.items():
        node.AddControlPointWorld(point, label)
    return node


def positions(node: Any) -> NDArray[np.float64]:
    return np.array([node.GetNthControlPointPositionWorld(i) for i in range(node.GetNumberOfControlPoints())])


def labels(node: Any) -> list[str]:
    return [node.GetNthControlPointLabel(index) for index in range(node.GetNumberOfControlPoints())]


def defined(node: Any) -> list[bool]:
    count = node.GetNumberOfControlPoints()
    return [node.GetNthControlPointPositionStatus(index) == node.PositionDefined for index in range(count)]


def contents(node: Any) -> tuple[Any, ...]:
    return node.GetName(), labels(node), defined(node), positions(node).tolist()


def placed_on(view: View, points: dict[str, Any], name: str) -> Any:
    """What a user leaves who clicks on the points' images in the view."""
    pixels = view.project(list(points.values()))
    return point_list(dict(zip(points, view.detector_positions(pixels), strict=True)), name)


def transform(matrix: NDArray[np.float64]) -> Any:
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "moved")
    node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    return node


def bent() -> tuple[Any, Any]:
    """A thin-plate spline that leaves four points of a cube where they are and moves the fifth."""
    fixed = 100.0 * np.vstack([np.eye(3), np.zeros(3), np.ones(3)])
    moved = fixed.copy()
    moved[4] += (20.0, -10.0, 5.0)
    spline = vtk.vtkThinPlateSplineTransform()
    for corners, setter in [(fixed, spline.SetSourceLandmarks), (moved, spline.SetTargetLandmarks)]:
        landmarks = vtk.vtkPoints()
        for corner in corners:
            landmarks.InsertNextPoint(corner)
        setter(landmarks)
    spline.SetBasisToR()
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "bent")
    node.SetAndObserveTransformToParent(spline)
    return node, spline


def spheres() -> AttenuationVolume:
    """Balls with soft edges about CENTERS, each brighter than the one before, in voxels of 0.5 mm.

    The grid is turned against every view, so that no row of rays keeps to the same side of its voxels' centers.
    """
    size = 140
    axes = Rotation.from_euler("xyz", (25.0, 35.0, 15.0), degrees=True).as_matrix()
    ijk_to_ras = np.eye(4)
    ijk_to_ras[:3, :3] = 0.5 * axes
    ijk_to_ras[:3, 3] = np.array(ISOCENTER) - ijk_to_ras[:3, :3].sum(axis=1) * (size - 1) / 2.0
    k, j, i = np.indices((size, size, size)).reshape(3, -1)
    ras = np.stack([i, j, k], axis=1) @ ijk_to_ras[:3, :3].T + ijk_to_ras[:3, 3]
    mu = np.zeros(size**3)
    for brightness, center in enumerate(CENTERS.values(), start=1):
        mu += brightness * np.clip((4.0 - np.linalg.norm(ras - center, axis=1)) / 2.0, 0.0, 1.0)
    return AttenuationVolume(mu.reshape(size, size, size).astype(np.float32), ijk_to_ras)


def blob_centroids(image: NDArray[np.float32]) -> NDArray[np.float64]:
    """(column, row) of each connected bright region, the faintest first."""
    regions, count = ndimage.label(image > 0.0, np.ones((3, 3)))
    order = np.argsort(ndimage.maximum(image, regions, range(1, count + 1))) + 1
    return np.array(ndimage.center_of_mass(image.astype(float), regions, order))[:, ::-1]


# --- Against rendered images ---------------------------------------------------------------------------------


def test_projected_centers_are_where_the_spheres_appear() -> None:
    renderer = make_renderer(spheres())
    views = [PA, LATERAL, OBLIQUE]
    for view, found in zip(views, project_markups(point_list(CENTERS), views), strict=True):
        centroids = blob_centroids(renderer.render(view))
        assert found.view is view
        assert found.labels == tuple(CENTERS)
        assert found.on_detector.all()
        assert centroids.shape == (3, 2)
        np.testing.assert_allclose(found.pixels, centroids, atol=0.05)


def test_spheres_found_in_two_images_are_triangulated_to_their_centers() -> None:
    renderer = make_renderer(spheres())
    nodes = []
    for view in (PA, LATERAL):
        found = view.detector_positions(blob_centroids(renderer.render(view)))
        nodes.append(point_list(dict(zip(CENTERS, found, strict=True)), view.pose.label))
    result = triangulate_markups([(PA, nodes[0]), (LATERAL, nodes[1])], "centers")
    # A twentieth of a millimeter, less than a tenth of a pixel.
    np.testing.assert_allclose(positions(result), list(CENTERS.values()), atol=0.05)


# --- project_markups -----------------------------------------------------------------------------------------


def test_flags_say_why_a_point_is_not_seen() -> None:
    source = PA.pose.source_ras
    node = point_list(
        {
            "seen": ISOCENTER,
            "left": np.array(ISOCENTER) + 500.0 * RIGHT,
            "behind": source - 50.0 * ANTERIOR,
            "source": source,
            "gone": (0.0, 0.0, 0.0),
            "missing": (0.0, 0.0, 0.0),
        }
    )
    node.UnsetNthControlPointPosition(4)
    node.SetNthControlPointPositionMissing(5)
    (found,) = project_markups(node, [PA])
    assert found.on_detector.tolist() == [True, False, False, False, False, False]
    assert found.outside_detector.tolist() == [False, True, False, False, False, False]
    assert found.behind_source.tolist() == [False, False, True, True, False, False]
    assert found.undefined.tolist() == [False, False, False, False, True, True]
    assert np.isnan(found.pixels).all(axis=1).tolist() == [False, False, True, True, True, True]
    np.testing.assert_allclose(found.pixels[0], [64.5, 54.5], atol=1e-9)
    assert found.pixels[1, 0] < -0.5


def test_the_detector_ends_with_its_outer_pixels() -> None:
    edges = [[-0.49, 3.0], [-0.51, 3.0], [129.49, 3.0], [129.51, 3.0], [3.0, -0.51], [3.0, 109.49], [3.0, 109.51]]
    node = point_list(dict(zip("abcdefg", OBLIQUE.detector_positions(edges), strict=True)))
    (found,) = project_markups(node, [OBLIQUE])
    assert found.outside_detector.tolist() == [False, True, False, True, True, False, True]


def test_linear_parent_transforms_count() -> None:
    node = point_list({"a": (1.0, 2.0, 3.0)})
    inner, outer = transform(np.diag([1.0, 2.0, 3.0, 1.0])), np.eye(4)
    outer[:3, 3] = ISOCENTER
    inner.SetAndObserveTransformNodeID(transform(outer).GetID())
    node.SetAndObserveTransformNodeID(inner.GetID())
    expected = np.array([1.0, 4.0, 9.0]) + ISOCENTER
    np.testing.assert_allclose(project_markups(node, [OBLIQUE])[0].pixels, OBLIQUE.project(expected), atol=1e-9)


def test_non_linear_parent_transforms_count() -> None:
    node = point_list(CENTERS)
    parent, spline = bent()
    node.SetAndObserveTransformNodeID(parent.GetID())
    expected = np.array([spline.TransformPoint(center) for center in CENTERS.values()])
    assert np.abs(expected - list(CENTERS.values())).max() > 1.0
    np.testing.assert_allclose(project_markups(node, [PA])[0].pixels, PA.project(expected), atol=1e-6)
    on_view = markups_on_view(node, PA, "on PA")
    np.testing.assert_allclose(positions(on_view), PA.detector_positions(PA.project(expected)), atol=1e-6)


@pytest.mark.parametrize("kind", ["vtkMRMLMarkupsCurveNode", "vtkMRMLMarkupsLineNode", "vtkMRMLMarkupsAngleNode"])
def test_any_markups_can_be_projected(kind: str) -> None:
    points = dict(list(CENTERS.items())[:2])
    (found,) = project_markups(point_list(points, kind=kind), [PA])
    np.testing.assert_allclose(found.pixels, PA.project(list(points.values())), atol=1e-9)


# --- markups_on_view -----------------------------------------------------------------------------------------


def test_points_lie_on_the_detector_plane_in_order() -> None:
    node = point_list(CENTERS)
    for view in (PA, LATERAL, OBLIQUE):
        result = markups_on_view(node, view, "on the DRR")
        assert result.GetClassName() == FIDUCIALS
        assert result.GetName() == "on the DRR"
        assert result.GetDisplayNode() is not None
        assert labels(result) == list(CENTERS)
        found = positions(result)
        np.testing.assert_allclose((found - view.pose.detector_center_ras) @ view.pose.detector_direction, 0, atol=1e-9)
        np.testing.assert_allclose(view.project(found), view.project(list(CENTERS.values())), atol=1e-9)
    assert labels(node) == list(CENTERS)


def test_placed_points_survive_a_saved_scene(tmp_path: Path) -> None:
    placed = placed_on(PA, CENTERS, "on the film")
    expected, names = positions(placed), labels(placed)
    save_scene(tmp_path / "scene.mrb")
    scene = new_scene()
    assert scene.ReadFromMRB(str(tmp_path / "scene.mrb"))
    read = scene.GetFirstNodeByName("on the film")
    assert labels(read) == names
    np.testing.assert_allclose(positions(read), expected, atol=1e-3)


def test_points_without_an_image_stay_undefined() -> None:
    node = point_list({"": ISOCENTER, "gone": ISOCENTER, "behind": PA.pose.source_ras - 9.0 * ANTERIOR, "b": (1, 2, 3)})
    node.SetNthControlPointLabel(0, "")
    node.UnsetNthControlPointPosition(1)
    result = markups_on_view(node, PA, "on PA")
    assert labels(result) == ["", "gone", "behind", "b"]
    assert defined(result) == [True, False, False, True]
    assert result.GetNumberOfDefinedControlPoints() == 2


def test_a_reused_list_keeps_nothing_of_the_old_points(nodes: Any) -> None:
    old = point_list({"x": (1.0, 2.0, 3.0)}, "old")
    old.SetAndObserveTransformNodeID(transform(np.diag([2.0, 2.0, 2.0, 1.0])).GetID())
    old.SetMaximumNumberOfControlPoints(1)
    old.SetFixedNumberOfControlPoints(True)
    node = point_list(CENTERS)
    old.CreateDefaultDisplayNodes()
    before = nodes()
    assert markups_on_view(node, LATERAL, "new", old) is old
    assert nodes() == before
    assert old.GetName() == "new"
    assert old.GetTransformNodeID() is None
    assert labels(old) == list(CENTERS)
    np.testing.assert_allclose(LATERAL.project(positions(old)), LATERAL.project(list(CENTERS.values())), atol=1e-9)


# --- triangulate_markups -------------------------------------------------------------------------------------


def test_two_views_give_the_point_back() -> None:
    node = point_list(CENTERS)
    on_pa, on_lateral = (markups_on_view(node, view, view.pose.label) for view in (PA, LATERAL))
    result = triangulate_markups([(PA, on_pa), (LATERAL, on_lateral)], "centers")
    assert result.GetName() == "centers"
    assert result.GetDisplayNode() is not None
    assert labels(result) == list(CENTERS)
    np.testing.assert_allclose(positions(result), list(CENTERS.values()), atol=0.01)
    assert result.GetNthControlPointDescription(0) == (
        "Triangulated from 2 views, residual up to 0.00 pixels, 0.000 mm"
    )


def test_three_views_and_their_residual() -> None:
    lists = [placed_on(view, CENTERS, view.pose.label) for view in (PA, LATERAL, OBLIQUE)]
    # Of "base" alone, 2 pixels up in one view.
    up = positions(lists[1])[1] + 2.4 * SUPERIOR
    lists[1].SetNthControlPointPositionWorld(1, up)
    result = triangulate_markups(list(zip((PA, LATERAL, OBLIQUE), lists, strict=True)), "centers")
    found = [result.GetNthControlPointDescription(index) for index in range(3)]
    assert found[0] == found[2] == "Triangulated from 3 views, residual up to 0.00 pixels, 0.000 mm"
    assert found[1].startswith("Triangulated from 3 views, residual up to 1.")
    error = np.linalg.norm(positions(result) - list(CENTERS.values()), axis=1)
    assert error[[0, 2]].max() < 0.01
    assert 0.1 < error[1] < 2.4


def test_points_are_matched_by_label_in_any_order() -> None:
    backwards = dict(reversed(CENTERS.items()))
    result = triangulate_markups(
        [(PA, placed_on(PA, CENTERS, "a")), (LATERAL, placed_on(LATERAL, backwards, "b"))], "centers"
    )
    assert labels(result) == list(CENTERS)
    np.testing.assert_allclose(positions(result), list(CENTERS.values()), atol=0.01)


@pytest.mark.parametrize("names", [("F", "F_1"), ("PA (DRR)", "lateral 90° [2]")])
def test_points_that_slicer_has_labelled_are_matched_by_order(names: tuple[str, str]) -> None:
    lists = []
    for view, name in zip((PA, LATERAL), names, strict=True):
        node = slicer.mrmlScene.AddNewNodeByClass(FIDUCIALS, name)
        for position in view.detector_positions(view.project(list(CENTERS.values()))):
            node.AddControlPointWorld(position)
        lists.append(node)
    assert set(labels(lists[0])).isdisjoint(labels(lists[1]))
    result = triangulate_markups([(PA, lists[0]), (LATERAL, lists[1])], "centers")
    assert labels(result) == labels(lists[0])
    np.testing.assert_allclose(positions(result), list(CENTERS.values()), atol=0.01)

    lists[1].SetNthControlPointLabel(0, "")
    result = triangulate_markups([(PA, lists[0]), (LATERAL, lists[1])], "centers")
    np.testing.assert_allclose(positions(result), list(CENTERS.values()), atol=0.01)


def test_a_point_that_one_view_lacks_is_undefined() -> None:
    on_pa, on_lateral = placed_on(PA, CENTERS, "a"), placed_on(LATERAL, CENTERS, "b")
    on_lateral.UnsetNthControlPointPosition(1)
    result = triangulate_markups([(PA, on_pa), (LATERAL, on_lateral)], "centers")
    assert labels(result) == list(CENTERS)
    assert defined(result) == [True, False, True]
    assert result.GetNthControlPointDescription(1) == ""
    np.testing.assert_allclose(positions(result)[[0, 2]], [CENTERS["apex"], CENTERS["tip"]], atol=0.01)


def test_a_point_that_follows_the_mouse_does_not_count() -> None:
    on_pa, on_lateral = placed_on(PA, CENTERS, "a"), placed_on(LATERAL, CENTERS, "b")
    preview = on_lateral.AddControlPointWorld((900.0, 0.0, 0.0), "b-4")
    on_lateral.SetNthControlPointPosition(preview, 900.0, 0.0, 0.0, on_lateral.PositionPreview)
    result = triangulate_markups([(PA, on_pa), (LATERAL, on_lateral)], "centers")
    np.testing.assert_allclose(positions(result), list(CENTERS.values()), atol=0.01)


def test_points_a_little_off_the_plane_are_moved_onto_it() -> None:
    off = {}
    for view, shift in ((PA, 0.4), (LATERAL, -0.4)):
        node = placed_on(view, CENTERS, view.pose.label)
        for index, position in enumerate(positions(node)):
            node.SetNthControlPointPositionWorld(index, position + shift * view.pose.detector_direction)
        off[view] = node
    result = triangulate_markups(list(off.items()), "centers")
    np.testing.assert_allclose(positions(result), list(CENTERS.values()), atol=0.01)


def test_lists_under_transforms_and_an_old_result(nodes: Any) -> None:
    shift = np.eye(4)
    shift[:3, 3] = (3.0, 4.0, 5.0)
    on_pa, on_lateral = placed_on(PA, CENTERS, "a"), placed_on(LATERAL, CENTERS, "b")
    for index, position in enumerate(positions(on_pa)):
        on_pa.SetNthControlPointPosition(index, position - shift[:3, 3])
    on_pa.SetAndObserveTransformNodeID(transform(shift).GetID())
    old = point_list({"x": (0, 0, 0)})
    old.SetAndObserveTransformNodeID(on_pa.GetTransformNodeID())
    old.CreateDefaultDisplayNodes()
    before = nodes()
    assert triangulate_markups([(PA, on_pa), (LATERAL, on_lateral)], "centers", old) is old
    assert nodes() == before
    np.testing.assert_allclose(positions(old), list(CENTERS.values()), atol=0.01)


# --- Refusals ------------------------------------------------------------------------------------------------


def emptied() -> Any:
    node = point_list(CENTERS, "cleared")
    node.UnsetAllControlPoints()
    return node


def at_infinity() -> Any:
    return point_list({"a": (0.0, 0.0, 0.0), "b": (np.nan, 0.0, 0.0)})


BAD_NODES: dict[str, Callable[[], Any]] = {
    "No markups are chosen": lambda: None,
    "'skin' is no markups node": lambda: slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", "skin"),
    "'landmarks' has no control points that are placed": lambda: point_list({}),
    "'cleared' has no control points that are placed": emptied,
    "Control point 'b' of 'landmarks' has no finite position": at_infinity,
}


def assert_refused(call: Callable[[], Any], sentence: str, nodes: Any) -> None:
    before = nodes()
    with pytest.raises(SVDRRError) as refusal:
        call()
    text = str(refusal.value)
    assert sentence in text
    assert text.endswith(".")
    assert "\n" not in text
    assert ". " not in text
    assert nodes() == before


@pytest.mark.parametrize("sentence", BAD_NODES)
def test_bad_nodes_are_refused_and_nothing_is_added(sentence: str, nodes: Any) -> None:
    bad = BAD_NODES[sentence]()
    good = placed_on(PA, CENTERS, "good")
    assert_refused(lambda: project_markups(bad, [PA]), sentence, nodes)
    assert_refused(lambda: markups_on_view(bad, PA, "new"), sentence, nodes)
    assert_refused(lambda: triangulate_markups([(PA, good), (LATERAL, bad)], "new"), sentence, nodes)


def test_no_views_are_refused(nodes: Any) -> None:
    node = point_list(CENTERS)
    assert_refused(lambda: project_markups(node, []), "There are no views", nodes)
    assert_refused(lambda: triangulate_markups([], "new"), "at least two views, not in 0", nodes)
    assert_refused(lambda: triangulate_markups([(PA, node)], "new"), "at least two views, not in 1", nodes)


def relabelled(view: View, new: Sequence[str], name: str = "other") -> Any:
    return placed_on(view, dict(zip(new, CENTERS.values(), strict=False)), name)


def with_label(node: Any, index: int, label: str) -> Any:
    node.SetNthControlPointLabel(index, label)
    return node


def unset(node: Any) -> Any:
    node.UnsetNthControlPointPosition(0)
    return node


BAD_PARTNERS: dict[str, tuple[str, Callable[[], Any]]] = {
    "other labels": ("labels differ", lambda: relabelled(LATERAL, ["apex", "base", "top"])),
    "fewer labels": ("labels differ", lambda: relabelled(LATERAL, ["apex", "base"])),
    "a label twice": ("labels differ", lambda: with_label(placed_on(LATERAL, CENTERS, "b"), 1, "apex")),
    "only one list has labels": ("labels differ", lambda: relabelled(LATERAL, ["F-1", "F-2", "F-3"], "F")),
    "moved": ("mm off the detector of the view left lateral", lambda: point_list(CENTERS)),
    "the same view": ("off the detector", lambda: placed_on(PA, CENTERS, "b")),
}


@pytest.mark.parametrize("case", BAD_PARTNERS)
def test_lists_that_do_not_go_together_are_refused(case: str, nodes: Any) -> None:
    sentence, make = BAD_PARTNERS[case]
    on_pa, partner = placed_on(PA, CENTERS, "a"), make()
    old = point_list({"x": (1.0, 2.0, 3.0)}, "old")
    before = contents(old)
    assert_refused(lambda: triangulate_markups([(PA, on_pa), (LATERAL, partner)], "new", old), sentence, nodes)
    assert contents(old) == before


def test_default_labels_in_different_numbers_are_refused(nodes: Any) -> None:
    first, second = relabelled(PA, ["F-1", "F-2", "F-3"], "F"), relabelled(LATERAL, ["G-1", "G-2"], "G")
    sentence = "numbers of control points differ (3 in 'F', 2 in 'G')"
    assert_refused(lambda: triangulate_markups([(PA, first), (LATERAL, second)], "new"), sentence, nodes)


def test_points_of_parallel_views_are_refused_by_name(nodes: Any) -> None:
    first, second = placed_on(PA, CENTERS, "a"), placed_on(PA, CENTERS, "b")
    sentence = "Control point 'apex' cannot be triangulated: the views look along nearly parallel rays"
    assert_refused(lambda: triangulate_markups([(PA, first), (PA, second)], "new"), sentence, nodes)


def test_no_point_in_common_is_refused(nodes: Any) -> None:
    two = dict(list(CENTERS.items())[:2])
    first, second = unset(placed_on(PA, two, "a")), placed_on(LATERAL, two, "b")
    second.UnsetNthControlPointPosition(1)
    sentence = "No control point is placed in every view"
    assert_refused(lambda: triangulate_markups([(PA, first), (LATERAL, second)], "new"), sentence, nodes)


def test_wrong_output_nodes_are_refused_and_kept(nodes: Any) -> None:
    on_pa, on_lateral = placed_on(PA, CENTERS, "a"), placed_on(LATERAL, CENTERS, "b")
    curve = point_list(CENTERS, "curve", "vtkMRMLMarkupsCurveNode")
    pairs = [(PA, on_pa), (LATERAL, on_lateral)]
    for output, sentence in [(curve, "cannot be written to 'curve'"), (on_pa, "replace its own input 'a'")]:
        before = contents(output)

        def project(output: Any = output) -> Any:
            return markups_on_view(on_pa, PA, "new", output)

        def back(output: Any = output) -> Any:
            return triangulate_markups(pairs, "new", output)

        assert_refused(project, sentence, nodes)
        assert_refused(back, sentence, nodes)
        assert contents(output) == before
