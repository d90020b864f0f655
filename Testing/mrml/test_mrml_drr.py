"""DRRs of CT nodes through a real backend process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
import slicer.util
from backend_environment import write_backend_environment

from svdrr.ct import CTVolume
from svdrr.errors import SVDRRError
from svdrr.geometry import CArmPose
from svdrr.images import read_radiograph
from svdrr.mrml import ct_to_node, radiograph_from_node, radiograph_to_node, views_from_sequence
from svdrr.mrml import drr as drr_module
from svdrr.mrml.backend import BackendChoice, stop_local_backends
from svdrr.mrml.drr import CTSource, DRRSettings, export_steps, isocenter_of, render_steps
from svdrr.mrml.task import wait
from svdrr.provenance import Provenance
from svdrr.radiograph import Radiograph
from svdrr.render import render_drrs

SETTINGS = DRRSettings(detector_pixels=32, remove_table=False)
POSES = [CArmPose(30.0, 10.0), CArmPose(-90.0), CArmPose(0.0, -20.0)]


@pytest.fixture(scope="module")
def choice(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackendChoice]:
    yield BackendChoice(environment=write_backend_environment(tmp_path_factory.mktemp("backend")))
    stop_local_backends()


@pytest.fixture
def ct() -> CTVolume:
    k, j, i = np.mgrid[:24, :30, :32]
    inside = ((k - 12) / 11) ** 2 + ((j - 15) / 10) ** 2 + ((i - 16) / 13) ** 2 < 1.0
    hu = np.where(inside, 40.0, -1000.0).astype(np.float32)
    return CTVolume(hu, np.array([[-4.0, 0, 0, 60], [0, -4.0, 0, 50], [0, 0, 5.0, -70], [0, 0, 0, 1.0]]))


@pytest.fixture
def node(ct: CTVolume) -> Any:
    return ct_to_node(ct, "CT")


def points(*positions: tuple[float, float, float], name: str = "Points") -> Any:
    markups = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
    for position in positions:
        markups.AddControlPointWorld(position)
    return markups


def test_one_view_is_what_the_library_renders(ct: CTVolume, node: Any, choice: BackendChoice) -> None:
    nodes = wait(render_steps(node, POSES[:1], SETTINGS, choice=choice))
    assert nodes.volume.GetName() == "CT LAO 30° CRAN 10° (DRR)"
    assert (nodes.browser, nodes.projection) == (None, None)
    found = radiograph_from_node(nodes.volume)
    ((expected, _),) = render_drrs(ct, POSES[:1], SETTINGS.detector)
    assert found.view == expected.view
    np.testing.assert_allclose(found.pixels, expected.pixels, atol=1e-6)


def test_a_view_can_go_into_a_volume(node: Any, choice: BackendChoice) -> None:
    output = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Mine")
    nodes = wait(render_steps(node, POSES[:1], SETTINGS, output, choice=choice))
    assert nodes.volume is output
    with pytest.raises(SVDRRError, match="cannot be written to"):
        wait(render_steps(node, POSES[:1], SETTINGS, slicer.vtkMRMLModelNode(), choice=choice))


def test_a_set_becomes_a_sequence_with_markups_on_each_view(node: Any, choice: BackendChoice) -> None:
    markups = points((0.0, 0.0, 0.0), (20.0, -10.0, 5.0), name="Landmarks")
    seen: list[int] = []

    def look(_: Any) -> None:
        found = slicer.util.getNodesByClass("vtkMRMLSequenceNode")
        seen.append(found[0].GetNumberOfDataNodes() if found else 0)

    nodes = wait(render_steps(node, POSES, SETTINGS, sequence=True, markups=markups, choice=choice), look)
    assert [view.view.pose for view in views_from_sequence(nodes.browser) if view.view] == POSES
    assert nodes.browser is not None
    assert nodes.projection is not None
    assert nodes.projection.GetName() == "Landmarks on CT (DRR)"
    for index in (2, 0, 1):
        nodes.browser.SetSelectedItemNumber(index)
        view = radiograph_from_node(nodes.volume).view
        assert view is not None
        for number in range(2):
            found = nodes.projection.GetNthControlPointPositionWorld(number)
            pixel = view.project([markups.GetNthControlPointPositionWorld(number)])
            np.testing.assert_allclose(found, view.detector_positions(pixel)[0], atol=1e-3)


def test_a_ct_is_read_once_until_it_changes(node: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source = CTSource()
    first = wait(source.steps(node))
    monkeypatch.setattr(drr_module, "ct_snapshot", None)
    assert wait(source.steps(node)) is first
    node.SetName("another name")
    assert wait(source.steps(node)) is first
    monkeypatch.undo()
    slicer.util.arrayFromVolume(node)[0] = 0
    slicer.util.arrayFromVolumeModified(node)
    second = wait(source.steps(node))
    assert second.pixels_sha256 != first.pixels_sha256
    node.SetOrigin(1.0, 2.0, 3.0)
    assert wait(source.steps(node)) is not second


def test_the_isocenter(ct: CTVolume, node: Any) -> None:
    np.testing.assert_allclose(isocenter_of(node), ct.isocenter_ras)
    markups = points()
    with pytest.raises(SVDRRError, match="'Points' has no point for the isocenter"):
        isocenter_of(node, markups)
    markups.AddControlPointWorld((1.0, 2.0, 3.0))
    assert isocenter_of(node, markups) == (1.0, 2.0, 3.0)


def test_what_is_refused_leaves_the_scene(node: Any, nodes: Any, choice: BackendChoice, tmp_path: Path) -> None:
    mr = slicer.util.addVolumeFromArray(np.full((10, 20, 20), 300, np.int16), name="MR")
    empty = points()
    far = [CArmPose(0.0, 0.0, (5000.0, 0.0, 0.0))]
    nowhere = BackendChoice(environment=tmp_path / "none")
    before = nodes()
    for steps, sentence in (
        (render_steps(mr, POSES, SETTINGS, choice=choice), "'MR'"),
        (render_steps(None, POSES, SETTINGS, choice=choice), "No volume is chosen"),
        (render_steps(node, POSES, SETTINGS, markups=empty, choice=choice), "no control points that are placed"),
        (render_steps(node, far, SETTINGS, choice=choice), "misses the CT"),
        (render_steps(node, POSES, DRRSettings(window="x"), choice=choice), "Unknown display window"),
        (render_steps(node, POSES, SETTINGS, choice=nowhere), "."),
        (render_steps(node, POSES, SETTINGS, choice=BackendChoice(url="https://gpu.example.org")), "not agreed"),
    ):
        with pytest.raises(SVDRRError, match=sentence):
            wait(steps)
    assert nodes() == before


def test_an_output_that_is_deleted_meanwhile(node: Any, choice: BackendChoice) -> None:
    output = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Mine")
    steps = render_steps(node, POSES[:1], SETTINGS, output, choice=choice)
    next(steps)
    slicer.mrmlScene.RemoveNode(output)
    with pytest.raises(SVDRRError, match="'Mine' was deleted while the work went on"):
        wait(steps)


def test_cancelling_leaves_finished_views(node: Any, choice: BackendChoice) -> None:
    poses = [CArmPose(angle / 10.0) for angle in range(500)]
    steps = render_steps(node, poses, SETTINGS, sequence=True, choice=choice)

    def enough(_: Any) -> None:
        found = slicer.util.getNodesByClass("vtkMRMLSequenceNode")
        if found and found[0].GetNumberOfDataNodes() > 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        wait(steps, enough)
    (browser,) = slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode")
    assert 2 < len(views_from_sequence(browser)) < 500


def test_exported_views_can_be_read_again(node: Any, choice: BackendChoice, tmp_path: Path) -> None:
    nodes = wait(render_steps(node, POSES, SETTINGS, sequence=True, choice=choice))
    folder = tmp_path / "export"
    assert wait(export_steps(nodes.volume, nodes.browser, folder)) == 3
    document = json.loads((folder / "views.json").read_text(encoding="utf-8"))
    for entry, pose in zip(document["views"], POSES, strict=True):
        view = read_radiograph(folder / entry["image"])
        assert view.view is not None
        assert view.view.pose == pose
        assert view.provenance is not None
    assert wait(export_steps(nodes.volume, None, tmp_path / "one")) == 1


def test_what_cannot_be_exported(node: Any, tmp_path: Path, provenance: Provenance) -> None:
    image = radiograph_to_node(Radiograph(np.zeros((16, 16), np.float32), provenance=provenance), "Image")
    with pytest.raises(SVDRRError, match="Only views that were rendered here"):
        wait(export_steps(image, None, tmp_path / "export"))
    with pytest.raises(SVDRRError, match="which has one"):
        wait(export_steps(node, None, tmp_path / "export"))
    assert not list(tmp_path.iterdir())
