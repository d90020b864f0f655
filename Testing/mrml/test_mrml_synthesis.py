"""Novel views of a radiograph node: what comes into the scene, one by one, and what is refused or left behind."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pydicom
import pytest
import SimpleITK as sitk
import slicer
import slicer.util
from backend_environment import write_backend_environment
from pydicom.data import get_testdata_file

from svdrr.backend.client import BackendClient
from svdrr.backend.jobs import SynthesizeJob
from svdrr.backend.request import synthesis_request
from svdrr.ct import CTVolume
from svdrr.errors import SVDRRError
from svdrr.evaluation.metrics import psnr_db
from svdrr.geometry import CArmPose, Detector
from svdrr.models import find_model
from svdrr.mrml import ct_to_node, radiograph_from_node, radiograph_to_node, views_from_sequence, views_to_sequence
from svdrr.mrml.backend import BackendChoice, stop_local_backends
from svdrr.mrml.comparison import PRIMARY, PSNR, SSIM, VIEW, comparison_steps
from svdrr.mrml.synthesis import (
    LiveSource,
    SynthesisNodes,
    SynthesisOrder,
    Truth,
    inspection_steps,
    preparation_steps,
    source_steps,
    synthesis_steps,
)
from svdrr.mrml.targets import TargetViews
from svdrr.mrml.task import wait
from svdrr.preparation import Preparation
from svdrr.radiograph import Radiograph
from svdrr.render import render_drrs
from svdrr.synthesis.preparation import prepare_source

SWEEP = TargetViews(mode="set", view_set="sweep", sweep_from_deg=-20.0, sweep_to_deg=20.0, sweep_step_deg=20.0)
ISOCENTER = (10.0, -5.0, 30.0)
ORDER = SynthesisOrder("tiny", SWEEP)


@pytest.fixture(scope="module")
def choice(tmp_path_factory: pytest.TempPathFactory, models_folder: Path) -> Iterator[BackendChoice]:
    """A backend on this computer with the tiny model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SVDRR_MODELS", str(models_folder))
        yield BackendChoice(environment=write_backend_environment(tmp_path_factory.mktemp("synthesis")))
        stop_local_backends()


@pytest.fixture(scope="module")
def ct() -> CTVolume:
    """A sphere of soft tissue with a bone off center, about ISOCENTER."""
    k, j, i = np.mgrid[:24, :32, :32]
    hu = np.full((24, 32, 32), -1000.0, np.float32)
    hu[(k - 11.5) ** 2 * 2.0 + (j - 15.5) ** 2 + (i - 15.5) ** 2 < 180.0] = 40.0
    hu[6:20, 18:22, 20:24] = 900.0
    spacing = np.diag([-8.0, -8.0, 10.0, 1.0])
    spacing[:3, 3] = np.array(ISOCENTER) - spacing[:3, :3] @ [15.5, 15.5, 11.5]
    return CTVolume(hu, spacing)


@pytest.fixture
def drr(ct: CTVolume) -> Any:
    """The PA DRR of the CT, as a node that knows its view."""
    ((image, _),) = render_drrs(ct, [CArmPose(isocenter_ras=ISOCENTER)], Detector.square(64), engine="siddon")
    return radiograph_to_node(image, "chest")


@pytest.fixture
def film(scene: Any) -> Any:
    """A radiograph as Slicer loads it: integers, spacing unknown, no view; brighter to the right and the bottom."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CR")
    slicer.util.updateVolumeFromArray(node, np.arange(40 * 30, dtype=np.int16).reshape(1, 40, 30))
    return node


def test_views_come_one_by_one_with_their_labels(drr: Any, choice: BackendChoice) -> None:
    seen: list[SynthesisNodes] = []
    shown: list[int] = []

    def on_nodes(nodes: SynthesisNodes) -> None:
        seen.append(nodes)
        if nodes.browser is not None:
            shown.append(nodes.browser.GetMasterSequenceNode().GetNumberOfDataNodes())

    nodes = wait(synthesis_steps(drr, ORDER, choice, on_nodes=on_nodes))
    assert [one.arrived for one in seen] == [0, 1, 2, 3]
    assert shown == [1, 2, 3]
    assert nodes == seen[-1]
    assert nodes.volume.GetName() == "chest views (synthetic)"
    assert nodes.prepared.GetName() == "chest prepared (DRR)"
    views = views_from_sequence(nodes.browser)
    assert [view.view.pose.primary_deg for view in views if view.view] == [-20.0, 0.0, 20.0]
    for view in views:
        assert view.view is not None
        assert view.view.pose.isocenter_ras == ISOCENTER
        assert view.provenance is not None
        assert view.provenance.model == "tiny"
        assert view.provenance.source.startswith("computed image (DRR (siddon))")
    assert nodes.volume.GetAttribute("SVDRR.Synthetic") == "SYNTHETIC, not for diagnosis"


def test_seed_steps_and_guidance_are_those_chosen(drr: Any, choice: BackendChoice) -> None:
    targets = TargetViews(primary_deg=30.0)
    order = SynthesisOrder("tiny", targets, steps=3, guidance=2.0, seed=11)
    (view,) = views_from_sequence(wait(synthesis_steps(drr, order, choice)).browser)
    assert view.provenance is not None
    assert view.provenance.seed == 11
    assert view.provenance.settings["Steps"] == "3"
    assert view.provenance.settings["Guidance"] == "2"


def test_what_is_prepared_is_what_goes_to_the_model(film: Any, choice: BackendChoice) -> None:
    preparation = Preparation(
        quarter_turns=1, flip=True, margins=(2, 0, 0, 4), invert=True, source_angles_deg=(180.0, 0.0)
    )
    nodes = wait(synthesis_steps(film, SynthesisOrder("tiny", SWEEP, preparation), choice))
    prepared = radiograph_from_node(nodes.prepared)
    # Darkest where it was brightest.
    assert prepared.pixels.shape == (28, 36)
    assert prepared.pixel_spacing_mm is None
    (first, *_) = views_from_sequence(nodes.browser)
    assert first.provenance is not None
    assert first.provenance.source == f"radiograph with pixels SHA-256 {prepared.pixels_sha256()}"
    assert first.provenance.settings["SourceView"] == "AP"


def test_a_stated_spacing_gives_the_prepared_image_its_place(film: Any) -> None:
    node = wait(preparation_steps(film, Preparation(pixel_spacing_mm=(0.4, 0.3), source_angles_deg=(90.0, 0.0))))
    prepared = radiograph_from_node(node)
    assert prepared.view is not None
    assert prepared.view.pose == CArmPose(90.0)
    assert prepared.view.detector == Detector(40, 30, (0.4, 0.3))
    assert "synthetic" not in node.GetName()
    again = wait(preparation_steps(film, Preparation(), node))
    assert again is node
    assert radiograph_from_node(node).pixel_spacing_mm is None


def test_what_shows_of_a_radiograph(film: Any, drr: Any) -> None:
    facts = wait(inspection_steps(film, Preparation(quarter_turns=1)))
    assert (facts.rows, facts.columns) == (30, 40)
    assert facts.pixel_spacing_mm is None
    assert facts.own_pose is None
    of_drr = wait(inspection_steps(drr, Preparation()))
    assert of_drr.own_pose == CArmPose(isocenter_ras=ISOCENTER)
    assert not of_drr.looks_inverted
    assert of_drr.margins == (0, 0, 0, 0)


def test_the_real_radiograph_needs_no_inversion_and_states_no_spacing(scene: Any) -> None:
    """A MONOCHROME1 file as Slicer loads it, inverted once, and as it would be if nobody had inverted it."""
    path = get_testdata_file("RG1_UNCI.dcm")
    assert path is not None
    image = sitk.ReadImage(path)
    loaded = slicer.util.addVolumeFromArray(sitk.GetArrayFromImage(image), name="CR")
    facts = wait(inspection_steps(loaded, Preparation()))
    assert (facts.rows, facts.columns) == (1955, 1841)
    assert facts.pixel_spacing_mm is None
    assert not facts.looks_inverted
    stored = slicer.util.addVolumeFromArray(pydicom.dcmread(path).pixel_array[np.newaxis], name="stored")
    assert wait(inspection_steps(stored, Preparation())).looks_inverted
    # Half a turn changes nothing about that.
    assert wait(inspection_steps(stored, Preparation(quarter_turns=2, flip=True))).looks_inverted


def test_the_picture_of_the_source_is_what_the_backend_makes_of_its_request(film: Any, models: Path) -> None:
    model, preparation = find_model("tiny"), Preparation(invert=True, pixel_spacing_mm=(3.0, 2.5))
    shown = wait(source_steps(film, preparation, model))
    assert (shown.is_computed, shown.is_matched) == (False, True)
    header, _, pixels = shown.picture.partition(b"\n")
    assert header == b"P5 404 200 255"
    prepared = radiograph_from_node(wait(preparation_steps(film, preparation)))
    request = synthesis_request(prepared, [CArmPose(30.0)], "tiny")
    assert isinstance(request.job, SynthesizeJob)
    given = prepare_source(Radiograph(request.pixels, request.job.pixel_spacing_mm), model)
    right = np.frombuffer(pixels, np.uint8).reshape(200, 404)[:, 204:] / 255.0
    centers = ((np.arange(32) + 0.5) * 200 / 32).astype(int)
    assert np.abs(right[np.ix_(centers, centers)] - given).mean() < 0.01
    assert np.ptp(given) > 0.2


def test_the_picture_of_a_drr_says_so(drr: Any, models: Path) -> None:
    shown = wait(source_steps(drr, Preparation(), find_model("tiny")))
    assert (shown.is_computed, shown.is_matched) == (True, False)


def test_a_live_view_asks_for_what_the_job_would(drr: Any) -> None:
    source, pose = LiveSource(), CArmPose(30.0, 10.0)
    preparation = Preparation(quarter_turns=2, source_angles_deg=(90.0, 0.0))
    order = SynthesisOrder("tiny", preparation=preparation, steps=3, guidance=2.0, seed=11)
    live = wait(source.steps(drr, pose, order))
    prepared = radiograph_from_node(wait(preparation_steps(drr, preparation)))
    asked = CArmPose(30.0, 10.0, ISOCENTER)
    job = synthesis_request(prepared, [asked], "tiny", 3, 2.0, 11, CArmPose(90.0, 0.0, ISOCENTER))
    assert live.job == job.job
    assert np.array_equal(live.pixels, job.pixels)

    again = wait(source.steps(drr, CArmPose(-5.0), SynthesisOrder("other", preparation=preparation)))
    assert again.pixels is live.pixels, "pixels are made once"
    assert isinstance(again.job, SynthesizeJob)
    assert (again.job.model, again.job.poses[0].primary_deg, again.job.steps) == ("other", -5.0, None)
    slicer.util.arrayFromVolume(drr)[:] *= 0.5
    slicer.util.arrayFromVolumeModified(drr)
    changed = wait(source.steps(drr, pose, order))
    assert changed.pixels.max() == pytest.approx(0.5 * live.pixels.max())
    assert changed.pixels_sha256 != live.pixels_sha256


class DicomDatabase:
    """Slicer's, as far as it is asked."""

    def instanceValue(self, uid: str, tag: str) -> str:  # noqa: N802
        return {("1.2.3", "0028,1040"): "LIN ", ("1.2.4", "0028,1040"): "LOG"}.get((uid, tag), "")


@pytest.mark.parametrize(("uids", "linear"), [("1.2.3 1.2.4", True), ("1.2.4", False), ("1.2.5", False), (None, False)])
def test_the_dicom_database_is_asked_for_the_relationship(
    film: Any, monkeypatch: pytest.MonkeyPatch, uids: str | None, linear: bool
) -> None:
    if uids is not None:
        film.SetAttribute("DICOM.instanceUIDs", uids)
    assert not wait(inspection_steps(film, Preparation())).states_linear, "there is no database"
    monkeypatch.setattr(slicer, "dicomDatabase", DicomDatabase(), raising=False)
    assert wait(inspection_steps(film, Preparation())).states_linear == linear


def test_a_truth_is_rendered_beside_and_scored(drr: Any, ct: CTVolume, choice: BackendChoice) -> None:
    truth = Truth(ct_to_node(ct, "CT"))
    nodes = wait(synthesis_steps(drr, ORDER, choice, truth))
    comparison = nodes.comparison
    assert comparison is not None
    assert comparison.truth.GetName() == "CT truth (DRR)"
    nodes.browser.SetSelectedItemNumber(2)
    view, true_view = radiograph_from_node(nodes.volume), radiograph_from_node(comparison.truth)
    assert view.view == true_view.view
    assert view.view is not None
    ((expected, _),) = render_drrs(ct, [view.view.pose], view.view.detector)
    np.testing.assert_allclose(true_view.pixels, expected.pixels, atol=1e-4)
    score = comparison.scores[2]
    assert score.psnr_db == pytest.approx(psnr_db(view.pixels[None], true_view.pixels[None])[0])
    table = comparison.table.GetTable()
    assert [table.GetColumnName(index) for index in range(5)] == [
        VIEW,
        "Primary angle (°)",
        "Secondary angle (°)",
        "PSNR (dB)",
        "SSIM",
    ]
    assert table.GetValueByName(2, VIEW).ToString() == "LAO 20°"
    assert table.GetValueByName(2, PRIMARY).ToDouble() == 20.0
    assert table.GetValueByName(2, PSNR).ToDouble() == score.psnr_db
    assert table.GetValueByName(2, SSIM).ToDouble() == score.ssim
    for chart, column in ((comparison.psnr_chart, PSNR), (comparison.ssim_chart, SSIM)):
        series = chart.GetNthPlotSeriesNode(0)
        assert series.GetTableNode() is comparison.table
        assert (series.GetXColumnName(), series.GetYColumnName()) == (PRIMARY, column)
    assert comparison.sentence.startswith("Against the CT, the mean PSNR is ")


def test_a_radiograph_without_a_place_can_stand_about_the_center(
    film: Any, ct: CTVolume, choice: BackendChoice, nodes: Any
) -> None:
    node = ct_to_node(ct, "CT")
    before = nodes()
    with pytest.raises(SVDRRError, match="'CR' has no view of its own and thus no place in the frame of 'CT'"):
        wait(synthesis_steps(film, ORDER, choice, Truth(node)))
    assert nodes() == before
    made = wait(synthesis_steps(film, ORDER, choice, Truth(node, center_of_ct=True)))
    assert made.comparison is not None
    assert made.comparison.scores[0].view.pose.isocenter_ras == pytest.approx(ISOCENTER)


def test_a_truth_elsewhere_is_refused_before_anything_is_sent(
    drr: Any, ct: CTVolume, choice: BackendChoice, nodes: Any
) -> None:
    far = ct.ijk_to_ras.copy()
    far[2, 3] += 5000.0
    truth = Truth(ct_to_node(CTVolume(ct.hu, far), "CT"))
    with pytest.raises(SVDRRError, match="misses the CT"):
        wait(synthesis_steps(drr, ORDER, choice, truth))
    assert not slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode")


def test_cancelled_views_stay(drr: Any, choice: BackendChoice) -> None:
    many = TargetViews(mode="set", view_set="hemisphere", hemisphere_count=200)
    seen: list[SynthesisNodes] = []
    steps = synthesis_steps(drr, SynthesisOrder("tiny", many), choice, on_nodes=seen.append)
    for _ in steps:
        if seen and seen[-1].arrived >= 3:
            break
    steps.close()
    assert 3 <= seen[-1].arrived < 200
    assert len(views_from_sequence(seen[-1].browser)) == seen[-1].arrived


def test_a_deleted_sequence_ends_the_job_with_a_sentence(drr: Any, choice: BackendChoice) -> None:
    many = TargetViews(mode="set", view_set="hemisphere", hemisphere_count=200)

    def on_nodes(nodes: SynthesisNodes) -> None:
        if nodes.arrived == 2:
            slicer.mrmlScene.RemoveNode(nodes.browser)

    with pytest.raises(SVDRRError, match=r"was deleted while the work went on; nothing was written to it\.$"):
        wait(synthesis_steps(drr, SynthesisOrder("tiny", many), choice, on_nodes=on_nodes))


def test_a_backend_that_dies_leaves_what_has_arrived(
    drr: Any, tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("svdrr.backend.local.BackendClient", partial(BackendClient, patience_s=1.0))
    own = BackendChoice(environment=write_backend_environment(tmp_path / "own"))
    many = TargetViews(mode="set", view_set="hemisphere", hemisphere_count=500)
    before = {process.pid for process in psutil.Process().children(recursive=True)}

    def on_nodes(nodes: SynthesisNodes) -> None:
        if nodes.arrived == 1:
            for process in psutil.Process().children(recursive=True):
                if process.pid not in before:
                    process.kill()

    with pytest.raises(SVDRRError, match=r"\. [1-9][0-9]* of 500 views (is|are) in the scene\.$"):
        wait(synthesis_steps(drr, SynthesisOrder("tiny", many), own, on_nodes=on_nodes))
    (browser,) = slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode")
    assert views_from_sequence(browser)


@pytest.mark.parametrize("model", ["no-such-model", ""])
def test_a_model_that_the_backend_has_not_is_refused(drr: Any, choice: BackendChoice, model: str) -> None:
    with pytest.raises(SVDRRError, match="The backend has no model"):
        wait(synthesis_steps(drr, SynthesisOrder(model), choice))


def test_wrong_nodes_are_refused_and_leave_the_scene(drr: Any, ct: CTVolume, choice: BackendChoice, nodes: Any) -> None:
    volume = ct_to_node(ct, "CT")
    labels = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    mr = ct_to_node(CTVolume(ct.hu, ct.ijk_to_ras), "MR")
    slicer.util.updateVolumeFromArray(mr, np.full((4, 5, 6), 20000, np.int16))
    before = nodes()
    for wrong, reason in ((None, "No volume"), (volume, "24 slices"), (labels, "label map")):
        with pytest.raises(SVDRRError, match=reason):
            wait(synthesis_steps(wrong, ORDER, choice))
    for wrong, reason in ((None, "No volume"), (drr, "single slice"), (labels, "label map"), (mr, "Hounsfield")):
        with pytest.raises(SVDRRError, match=reason):
            wait(synthesis_steps(drr, ORDER, choice, Truth(wrong)))
    with pytest.raises(SVDRRError, match="written over"):
        wait(synthesis_steps(drr, ORDER, choice, prepared=drr))
    assert nodes() == before


def test_only_views_with_poses_can_be_compared(ct: CTVolume, choice: BackendChoice) -> None:
    unplaced = views_to_sequence([Radiograph(np.full((16, 16), 0.5, np.float32))], "pictures")
    with pytest.raises(SVDRRError, match="have no poses with one detector"):
        wait(comparison_steps(unplaced, ct_to_node(ct, "CT"), choice))
    with pytest.raises(SVDRRError, match="no sequence of radiographs"):
        wait(comparison_steps(None, ct_to_node(ct, "CT"), choice))
