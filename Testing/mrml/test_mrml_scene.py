"""View sequences, and scenes as .mrb files that another process opens."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
import slicer.util
from same_radiograph import assert_same

from svdrr.ct import CTVolume
from svdrr.errors import SVDRRError
from svdrr.mrml import (
    ct_to_node,
    masks_to_segmentation,
    radiograph_from_node,
    radiograph_to_node,
    remove_sequence,
    save_scene,
    views_from_sequence,
    views_to_sequence,
)
from svdrr.mrml.sequence import GrowingSequence
from svdrr.provenance import Provenance
from svdrr.radiograph import Radiograph


def test_sequence_round_trip(radiographs: list[Radiograph]) -> None:
    back = views_from_sequence(views_to_sequence(radiographs, "novel views"))
    assert len(back) == len(radiographs)
    for result, expected in zip(back, radiographs, strict=True):
        assert_same(result, expected)


def test_items_have_readable_names(radiographs: list[Radiograph]) -> None:
    browser = views_to_sequence([*radiographs, replace(radiographs[0], view=None), *radiographs], "novel views")
    sequence = browser.GetMasterSequenceNode()
    assert sequence.GetIndexName() == "view"
    values = [sequence.GetNthIndexValue(index) for index in range(sequence.GetNumberOfDataNodes())]
    assert values[:3] == ["1: PA", "2: LAO 30° CRAN 10°", "3: right lateral"]
    assert values[6] == "7"
    assert values[8:10] == ["9: LAO 30° CRAN 10°", "10: right lateral"]
    for node in (sequence, browser, browser.GetProxyNode(sequence)):
        assert "novel views (synthetic)" in node.GetName()


def test_the_proxy_follows_the_browser(radiographs: list[Radiograph]) -> None:
    mixed = [*radiographs, replace(radiographs[0], view=None, provenance=None)]
    browser = views_to_sequence(mixed, "novel views")
    proxy = browser.GetProxyNode(browser.GetMasterSequenceNode())
    assert_same(radiograph_from_node(proxy), mixed[0])
    for index in (3, 6, 1):
        browser.SetSelectedItemNumber(index)
        assert_same(radiograph_from_node(proxy), mixed[index])
        assert proxy.GetDisplayNode().GetWindowLevelMax() == 1.0


def test_writing_to_the_proxy_does_not_change_the_sequence(radiographs: list[Radiograph]) -> None:
    browser = views_to_sequence(radiographs, "novel views")
    proxy = browser.GetProxyNode(browser.GetMasterSequenceNode())
    radiograph_to_node(radiographs[4], "other", proxy)
    assert_same(views_from_sequence(browser)[0], radiographs[0])


def test_removing_a_sequence_leaves_nothing(radiographs: list[Radiograph], nodes: Any, tmp_path: Path) -> None:
    radiograph_to_node(radiographs[0], "source")
    save_scene(tmp_path / "first.mrb")
    before = nodes()
    browser = views_to_sequence(radiographs, "novel views")
    # Sequence, browser, proxy and its display: the items are not in the scene.
    assert len(nodes()) == len(before) + 4
    save_scene(tmp_path / "second.mrb")
    remove_sequence(browser)
    assert nodes() == before


def test_refused_sequences_leave_the_scene_alone(radiographs: list[Radiograph], nodes: Any) -> None:
    empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "empty")
    before = nodes()
    bad = replace(radiographs[0], pixels=np.zeros((2, 2), np.float32))
    with pytest.raises(SVDRRError, match="no views"):
        views_to_sequence([], "novel views")
    with pytest.raises(SVDRRError, match="2 x 2 pixels"):
        views_to_sequence([*radiographs, bad], "novel views")
    for browser in (None, empty):
        with pytest.raises(SVDRRError, match="no sequence of radiographs"):
            views_from_sequence(browser)
    assert nodes() == before


REOPEN = """
import pickle, sys
import slicer, slicer.util
from svdrr.mrml import new_scene, radiograph_from_node, ct_from_node, views_from_sequence
scene = new_scene()
assert scene.ReadFromMRB(sys.argv[1])
browsers = slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode")
proxies = []
for browser in browsers:
    browser.SetSelectedItemNumber(1)
    proxies.append(radiograph_from_node(browser.GetProxyNode(browser.GetMasterSequenceNode())))
ct = ct_from_node(slicer.util.getNode("chest"))
segmentation = slicer.util.getFirstNodeByClassByName("vtkMRMLSegmentationNode", "parts").GetSegmentation()
result = {
    "film": radiograph_from_node(slicer.util.getNode("Röntgen: 1/2 (synthetic)")),
    "views": [views_from_sequence(browser) for browser in browsers],
    "proxies": proxies,
    "hu": ct.hu,
    "ijk_to_ras": ct.ijk_to_ras,
    "segments": [segmentation.GetNthSegment(index).GetName() for index in range(segmentation.GetNumberOfSegments())],
    "nodes": sorted(
        (node.GetClassName(), node.GetName())
        for node in map(scene.GetNthNode, range(scene.GetNumberOfNodes()))
        if not node.IsA("vtkMRMLStorageNode")
    ),
}
sys.stdout.buffer.write(pickle.dumps(result))
"""


def test_saved_scene_opens_elsewhere(radiographs: list[Radiograph], scene: Any, tmp_path: Path) -> None:
    ct = CTVolume(np.full((20, 20, 20), -1000.0, np.float32), np.diag([-0.7, -0.7, 2.5, 1.0]))
    ct.hu[4:9, 3:6, 2:7] = 55.25
    chest = ct_to_node(ct, "chest")
    original = tmp_path / "private folder" / "patient.nrrd"
    original.parent.mkdir()
    chest.AddDefaultStorageNode()
    chest.GetStorageNode().SetFileName(str(original))
    assert chest.GetStorageNode().WriteData(chest)
    masks_to_segmentation({"body": ct.hu > 0.0, "table": ct.hu < 0.0}, chest, "parts")
    radiograph_to_node(radiographs[1], "Röntgen: 1/2")
    views_to_sequence(radiographs, "novel views")
    # One plane for all of them: Slicer stores such a sequence in another way.
    flat = [replace(one, view=radiographs[0].view) for one in radiographs]
    views_to_sequence(flat, "one plane")
    listed = sorted(
        (node.GetClassName(), node.GetName())
        for node in map(scene.GetNthNode, range(scene.GetNumberOfNodes()))
        if not node.IsA("vtkMRMLStorageNode")
    )

    path = tmp_path / "szene 1.mrb"
    save_scene(path)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["private folder", "szene 1.mrb"]
    assert chest.GetStorageNode().GetFileName() == str(original)

    with zipfile.ZipFile(path) as bundle:
        assert bundle.testzip() is None
        names = bundle.namelist()
        (document,) = (bundle.read(name).decode() for name in names if name.endswith(".mrml"))
        sequence = next(name for name in names if name.endswith(".seq.mrb"))
        with zipfile.ZipFile(bundle.open(sequence)) as inner:
            document += "".join(inner.read(name).decode() for name in inner.namelist() if name.endswith(".mrml"))
        volume = bundle.read(next(name for name in names if name.endswith("chest.nrrd") or "patient" in name))
    assert all(name.startswith("szene 1/") and ".." not in name and "\\" not in name for name in names)
    assert str(tmp_path) not in document
    assert tempfile.gettempdir() not in document
    assert "private folder" not in document
    assert len(volume) < ct.hu.nbytes / 10

    done = subprocess.run([sys.executable, "-c", REOPEN, str(path)], capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    result = pickle.loads(done.stdout)
    np.testing.assert_array_equal(result["hu"], ct.hu)
    np.testing.assert_allclose(result["ijk_to_ras"], ct.ijk_to_ras, atol=1e-9)
    assert result["segments"] == ["body", "table"]
    assert result["nodes"] == listed
    assert_same(result["film"], radiographs[1])
    for back, expected in zip(result["views"], (radiographs, flat), strict=True):
        for one, other in zip(back, expected, strict=True):
            assert_same(one, other)
    assert_same(result["proxies"][0], radiographs[1])
    assert_same(result["proxies"][1], flat[1])


def test_saving_replaces_whole_files_only(radiographs: list[Radiograph], tmp_path: Path) -> None:
    path = tmp_path / "scene.mrb"
    path.write_text("old")
    radiograph_to_node(radiographs[0], "film")
    with pytest.raises(SVDRRError, match=r"must end in \.mrb"):
        save_scene(tmp_path / "scene.mrml")
    with pytest.raises(SVDRRError, match="does not exist"):
        save_scene(tmp_path / "nowhere" / "scene.mrb")
    folder = tmp_path / "folder.mrb"
    folder.mkdir()
    with pytest.raises(SVDRRError, match="Cannot write"):
        save_scene(folder)
    assert path.read_text() == "old"
    save_scene(path)
    assert zipfile.is_zipfile(path)
    assert sorted(os.listdir(tmp_path)) == ["folder.mrb", "scene.mrb"]


def test_a_save_that_slicer_fails_leaves_the_old_file(radiographs: list[Radiograph], tmp_path: Path) -> None:
    path = tmp_path / "scene.mrb"
    path.write_text("old")
    radiograph_to_node(radiographs[0], "film")
    manager = slicer.mrmlScene.GetDataIOManager()
    manager.GetCacheManager().SetRemoteCacheDirectory("/proc/nowhere")
    with pytest.raises(SVDRRError, match="could not save the scene"):
        save_scene(path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["scene.mrb"]


def test_views_come_one_by_one_while_the_browser_is_used(radiographs: list[Radiograph], nodes: Any) -> None:
    before = nodes()
    views = GrowingSequence("novel views")
    assert nodes() == before
    views.append(radiographs[0])
    views.append(radiographs[1])
    assert views.browser.GetSelectedItemNumber() == 0
    views.browser.SetSelectedItemNumber(1)
    for radiograph in radiographs[2:]:
        views.append(radiograph)
    assert views.browser.GetSelectedItemNumber() == 1
    assert_same(radiograph_from_node(views.proxy), radiographs[1])
    for result, expected in zip(views_from_sequence(views.browser), radiographs, strict=True):
        assert_same(result, expected)


def test_two_sequences_are_browsed_together(radiographs: list[Radiograph], nodes: Any) -> None:
    before = nodes()
    drr = Provenance("DRR (siddon)", "CT")
    browser = views_to_sequence(radiographs, "novel views")
    truth = GrowingSequence("truth", beside=browser)
    true_views = [replace(radiograph, provenance=drr) for radiograph in radiographs]
    for radiograph in true_views:
        truth.append(radiograph)
    assert truth.browser is browser
    assert "truth (DRR)" in truth.proxy.GetName()
    browser.SetSelectedItemNumber(4)
    assert_same(radiograph_from_node(truth.proxy), true_views[4])
    assert_same(radiograph_from_node(browser.GetProxyNode(browser.GetMasterSequenceNode())), radiographs[4])
    remove_sequence(browser)
    assert nodes() == before


def test_the_first_computed_view_labels_the_whole_sequence(radiographs: list[Radiograph]) -> None:
    views = GrowingSequence("mixed")
    views.append(replace(radiographs[0], provenance=None))
    assert views.proxy.GetName() == "mixed"
    views.append(radiographs[1])
    for node in (views.proxy, views.sequence, views.browser):
        assert "mixed (synthetic)" in node.GetName()


@pytest.mark.parametrize("what", ["sequence", "browser"])
def test_a_sequence_that_is_deleted_takes_no_more_views(radiographs: list[Radiograph], nodes: Any, what: str) -> None:
    views = GrowingSequence("novel views")
    views.append(radiographs[0])
    slicer.mrmlScene.RemoveNode(getattr(views, what))
    before = nodes()
    with pytest.raises(SVDRRError, match="was deleted"):
        views.append(radiographs[1])
    assert nodes() == before
