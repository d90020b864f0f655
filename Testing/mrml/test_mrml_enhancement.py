"""Super-resolution of nodes: the place in the world, regions of interest, fidelity, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
import slicer.util
import vtk
from backend_environment import write_backend_environment
from untrained_networks import write_untrained_networks

from svdrr.errors import SVDRRError
from svdrr.geometry import CArmPose, Detector, View
from svdrr.mrml import radiograph_from_node, radiograph_to_node
from svdrr.mrml.backend import BackendChoice, stop_local_backends
from svdrr.mrml.enhancement import Region, add_roi, cropped, enhance_steps, region_of_roi
from svdrr.mrml.task import wait
from svdrr.provenance import Provenance
from svdrr.radiograph import Radiograph
from svdrr.superres import enhance, uncertainty
from svdrr.superres.enhance import LEARNED, UNCERTAINTY_SEEDS
from svdrr.superres.fidelity import data_fidelity

SHAPE = ROWS, COLUMNS = 40, 56
VIEW = View(CArmPose(30.0, 10.0, (12.5, -40.0, 733.1)), Detector(ROWS, COLUMNS, (0.7, 0.31)))


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small ones, since what they have learned does not matter here."""
    return write_untrained_networks(tmp_path_factory.mktemp("networks"))


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One backend for all tests here, since it takes seconds to start."""
    yield write_backend_environment(tmp_path_factory.mktemp("enhancement") / "backend")
    stop_local_backends()


@pytest.fixture(autouse=True)
def _chosen(environment: Path, networks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SVDRR_MODELS", str(networks))
    monkeypatch.setenv("SVDRR_BACKEND", str(environment))


def pixels() -> np.ndarray:
    rows, columns = np.indices(SHAPE)
    smooth = 0.5 + 0.3 * np.sin(rows / 5.0) * np.cos(columns / 7.0)
    return (smooth + 0.1 * np.random.default_rng(3).random(SHAPE)).astype(np.float32)


@pytest.fixture
def taken(scene: Any) -> Any:
    """A radiograph whose view is known."""
    return radiograph_to_node(Radiograph(pixels(), (0.7, 0.31), VIEW), "chest")


@pytest.fixture
def loaded(scene: Any) -> Any:
    """A radiograph as Slicer loads it from a DICOM file without pixel spacing, then turned by a transform."""
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CR")
    slicer.util.updateVolumeFromArray(node, (30000 * pixels()).astype(np.int16)[np.newaxis])
    node.SetIJKToRASDirections(-1, 0, 0, 0, -1, 0, 0, 0, 1)
    node.SetOrigin(100.0, 200.0, 300.0)
    turn = vtk.vtkTransform()
    turn.RotateX(33.0)
    turn.RotateY(20.0)
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    transform.SetMatrixTransformToParent(turn.GetMatrix())
    node.SetAndObserveTransformNodeID(transform.GetID())
    return node


def outer_corners(node: Any, first: tuple[float, float] = (0, 0), shape: tuple[int, int] | None = None) -> np.ndarray:
    """RAS mm of the outer corners of the outer pixels of a node, or of a part of it."""
    to_parent, to_world = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(to_parent)
    if node.GetParentTransformNode():
        node.GetParentTransformNode().GetMatrixTransformToWorld(to_world)
    matrix = slicer.util.arrayFromVTKMatrix(to_world) @ slicer.util.arrayFromVTKMatrix(to_parent)
    rows, columns = shape or slicer.util.arrayFromVolume(node).shape[1:]
    top, left = first[0] - 0.5, first[1] - 0.5
    corners = [(left, top), (left + columns, top), (left, top + rows), (left + columns, top + rows)]
    return np.array([(matrix @ [i, j, 0.0, 1.0])[:3] for i, j in corners])


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("kind", ["taken", "loaded"])
@pytest.mark.parametrize("region", [None, Region(3, 17, 21, 30)])
def test_pixel_edges_stay_where_they_were(
    request: pytest.FixtureRequest, kind: str, scale: int, region: Region | None
) -> None:
    """To a hundredth of a pixel of the input, whatever holds it; and the pixels are those of the library."""
    node = request.getfixturevalue(kind)
    source = radiograph_from_node(node)
    nodes = wait(enhance_steps(node, method="bicubic", scale=scale, region=region))
    part = source if region is None else cropped(source, region)
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(nodes.volume)[0], enhance(part, "bicubic", scale).pixels)
    before = (
        outer_corners(node)
        if region is None
        else outer_corners(node, (region.first_row, region.first_column), (region.rows, region.columns))
    )
    hundredth_mm = 0.01 * min(source.pixel_spacing_mm or (1.0, 1.0))
    assert np.abs(outer_corners(nodes.volume) - before).max() < hundredth_mm

    back = radiograph_from_node(nodes.volume)
    assert back.pixels.shape == (part.pixels.shape[0] * scale, part.pixels.shape[1] * scale)
    if source.pixel_spacing_mm is None:
        # That the scene has to show pixels in some size does not make it known.
        assert back.pixel_spacing_mm is None
    else:
        assert back.pixel_spacing_mm == pytest.approx((0.7 / scale, 0.31 / scale), rel=1e-9)
    assert (back.view is None) == (kind == "loaded" or region is not None)
    if back.view is not None:
        assert back.view.pose == VIEW.pose


def test_what_the_result_says_about_itself(taken: Any) -> None:
    nodes = wait(enhance_steps(taken, region=Region(0, 0, 20, 20)))
    back = radiograph_from_node(nodes.volume)
    assert nodes.volume.GetName() == "chest x2 (synthetic)"
    assert back.provenance is not None
    assert back.provenance.method == "lanczos x2"
    assert back.provenance.settings["Region"] == "rows 0 to 19, columns 0 to 19"
    # An image that was computed before keeps its history, and says once what it is.
    origin = Provenance("VCDiT", "radiograph", "tiny", seed=4)
    view = radiograph_to_node(replace(radiograph_from_node(taken), provenance=origin), "view")
    again = wait(enhance_steps(view, method="bicubic", scale=4)).volume
    assert again.GetName() == "view x4 (synthetic)"
    provenance = radiograph_from_node(again).provenance
    assert provenance is not None
    assert (provenance.model, provenance.settings["Enhancement"]) == ("tiny", "bicubic x4")


def test_the_fidelity_map_lies_on_the_input(taken: Any) -> None:
    nodes = wait(enhance_steps(taken, region=Region(5, 6, 20, 24), map_fidelity=True))
    shown = slicer.util.arrayFromVolume(nodes.fidelity_map)
    part = cropped(radiograph_from_node(taken), Region(5, 6, 20, 24))
    expected = data_fidelity(enhance(part).pixels, part.pixels)
    np.testing.assert_array_equal(shown[0], expected.difference_percent)
    np.testing.assert_allclose(outer_corners(nodes.fidelity_map), outer_corners(nodes.volume), atol=1e-9)
    assert f"{expected.mean_percent:.3f} % of the gray range on average" in nodes.verdict
    assert 0.0 < expected.mean_percent < 5.0
    assert nodes.fidelity_map is not None
    display = nodes.fidelity_map.GetDisplayNode()
    assert display.GetColorNode().GetName() == "Iron"
    assert display.GetWindowLevelMin() == 0.0
    again = wait(enhance_steps(taken, nodes.volume, map_fidelity=True, fidelity_map=nodes.fidelity_map))
    assert (again.volume, again.fidelity_map) == (nodes.volume, nodes.fidelity_map)


@pytest.mark.parametrize("method", LEARNED)
def test_learned_methods(taken: Any, method: str) -> None:
    """The pixels are those of the library, and the sentences tell that its detail was not measured."""
    nodes = wait(enhance_steps(taken, method=method, seed=5))
    expected = enhance(radiograph_from_node(taken), method, 2, 5)
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(nodes.volume)[0], expected.pixels)
    made = radiograph_from_node(nodes.volume).provenance
    assert made is not None
    assert expected.provenance is not None
    assert made.model == f"super-resolution/{method}/x2"
    assert made.weights_sha256 == expected.provenance.weights_sha256
    how = "sampled with seed 5" if method == "lcmsr" else "computed"
    unmeasured = f"Detail finer than the input's pixels was {how} from what the network has learned, not measured."
    assert nodes.verdict == f"{nodes.fidelity.verdict} {unmeasured}"
    assert nodes.uncertainty_map is None


def test_what_is_interpolated_says_nothing_of_networks(taken: Any) -> None:
    nodes = wait(enhance_steps(taken, method="bicubic"))
    assert nodes.verdict == nodes.fidelity.verdict


def test_seeds_of_lcmsr(taken: Any) -> None:
    def made(seed: int | None) -> tuple[np.ndarray, Any]:
        nodes = wait(enhance_steps(taken, method="lcmsr", seed=seed))
        return slicer.util.arrayFromVolume(nodes.volume).copy(), nodes

    (first, nodes), (other, _), (again, _), (deterministic, without_noise) = map(made, (1, 2, 1, None))
    np.testing.assert_array_equal(again, first)
    assert np.abs(other - first).max() > 1e-3
    assert np.abs(deterministic - first).max() > 1e-3
    assert "sampled with seed 1 " in nodes.verdict
    assert "computed from what the network has learned" in without_noise.verdict
    for seed, one, code in ((1, nodes, "sampled"), (None, without_noise, "deterministic")):
        provenance = radiograph_from_node(one.volume).provenance
        assert provenance is not None
        assert (provenance.seed, provenance.settings["Code"]) == (seed, code)


@pytest.mark.parametrize("method", ["bicubic", "lcmsr"])
@pytest.mark.parametrize("region", [None, Region(5, 6, 20, 24)])
def test_the_projection_makes_it_consistent_with_the_input(taken: Any, method: str, region: Region | None) -> None:
    plain = wait(enhance_steps(taken, method=method, region=region))
    nodes = wait(enhance_steps(taken, method=method, region=region, consistent=True, map_fidelity=True))
    assert nodes.fidelity.mean_percent < 0.1 * plain.fidelity.mean_percent
    assert nodes.fidelity.max_percent < 0.1 * plain.fidelity.max_percent
    assert slicer.util.arrayFromVolume(nodes.fidelity_map).max() == pytest.approx(nodes.fidelity.max_percent)
    for one, projection in ((plain, None), (nodes, "iterative back-projection")):
        provenance = radiograph_from_node(one.volume).provenance
        assert provenance is not None
        assert provenance.settings.get("Projection") == projection


@pytest.mark.parametrize("kind", ["taken", "loaded"])
@pytest.mark.parametrize("region", [None, Region(5, 6, 20, 24)])
def test_the_uncertainty_map_lies_on_the_result(
    request: pytest.FixtureRequest, kind: str, region: Region | None
) -> None:
    node = request.getfixturevalue(kind)
    nodes = wait(enhance_steps(node, method="lcmsr", region=region, seed=3, map_fidelity=True, uncertainty=True))
    source = radiograph_from_node(node)
    part = source if region is None else cropped(source, region)
    percent = 100.0 * uncertainty(part, first_seed=3).pixels
    shown = slicer.util.arrayFromVolume(nodes.uncertainty_map)
    np.testing.assert_allclose(shown[0], percent, rtol=1e-6)
    assert shown.shape == slicer.util.arrayFromVolume(nodes.volume).shape
    np.testing.assert_allclose(outer_corners(nodes.uncertainty_map), outer_corners(nodes.volume), atol=1e-9)
    np.testing.assert_array_equal(
        slicer.util.arrayFromVolume(nodes.volume)[0], enhance(part, "lcmsr", 2, seed=3).pixels
    )
    assert percent.mean() > 0.1
    assert nodes.verdict.endswith(
        f"Over {UNCERTAINTY_SEEDS} seeds, sampled results vary by {percent.mean():.2f} % of the gray range on average, "
        f"by {percent.max():.1f} % at most (standard deviation)."
    )


def test_what_the_uncertainty_map_says_about_itself(taken: Any, nodes: Any) -> None:
    """It is of a computed image, in color where it says something, and written again where it is given back."""
    made = wait(enhance_steps(taken, method="lcmsr", region=Region(0, 0, 20, 20), seed=3, uncertainty=True))
    shown: Any = made.uncertainty_map
    assert made.fidelity_map is None
    assert shown.GetName() == "chest x2 uncertainty (synthetic)"
    provenance = Provenance.from_attributes({key: shown.GetAttribute(key) for key in shown.GetAttributeNames()})
    assert provenance is not None
    assert (provenance.method, provenance.seed) == ("uncertainty of lcmsr x2", 3)
    assert provenance.settings["Quantity"] == "standard deviation over 8 seeds, percent of the gray range"
    assert provenance.settings["Region"] == "rows 0 to 19, columns 0 to 19"
    mean_percent = slicer.util.arrayFromVolume(shown).mean()
    assert float(provenance.settings["MeanStandardDeviationPercent"]) == pytest.approx(mean_percent, abs=1e-4)
    display = shown.GetDisplayNode()
    assert display.GetColorNode().GetName() == "Iron"
    assert display.GetWindowLevelMin() == 0.0
    assert (
        display.GetWindowLevelMax() == display.GetUpperThreshold() == max(1.0, slicer.util.arrayFromVolume(shown).max())
    )
    assert display.GetApplyThreshold()
    assert display.GetLowerThreshold() == pytest.approx(0.1 * display.GetUpperThreshold())

    before = nodes()
    again = wait(enhance_steps(taken, made.volume, method="lcmsr", uncertainty=True, uncertainty_map=shown))
    assert (again.volume, again.uncertainty_map) == (made.volume, shown)
    assert nodes() == before
    assert shown.GetAttribute("SVDRR.Seed") == "0"
    assert shown.GetAttribute("SVDRR.Region") is None
    # What had the map before is no computed image any more.
    wait(enhance_steps(taken, map_fidelity=True, fidelity_map=shown))
    assert shown.GetName() == "chest x2 fidelity"
    assert shown.GetAttribute("SVDRR.Seed") is None


def test_an_output_is_written_again(taken: Any, nodes: Any) -> None:
    first = wait(enhance_steps(taken)).volume
    before = nodes()
    assert wait(enhance_steps(taken, first, scale=4)).volume is first
    assert nodes() == before
    assert slicer.util.arrayFromVolume(first).shape == (1, 4 * ROWS, 4 * COLUMNS)


def test_a_region_of_interest(taken: Any, loaded: Any) -> None:
    """A new one covers the middle half; pixels whose centers it holds count, however thick or far off it is."""
    for node in (taken, loaded):
        roi = add_roi(node)
        assert region_of_roi(roi, node) == Region(10, 14, 20, 28)
    roi.SetSize(17.9, 16.1, 500.0)
    assert region_of_roi(roi, loaded) == Region(12, 19, 16, 18)
    roi.SetSize(1000.0, 20.0, 1.0)
    assert region_of_roi(roi, loaded) == Region(10, 0, 20, COLUMNS)
    roi.SetCenter(roi.GetCenter()[0] + 1000.0, 0.0, 0.0)
    with pytest.raises(SVDRRError, match="holds too little of 'CR'"):
        region_of_roi(roi, loaded)
    empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "R")
    with pytest.raises(SVDRRError, match="'R' is not placed yet"):
        region_of_roi(empty, loaded)


@pytest.mark.parametrize("region", [Region(-1, 0, 4, 4), Region(0, 0, 41, 4), Region(0, 50, 4, 7), Region(0, 0, 0, 4)])
def test_regions_outside(taken: Any, nodes: Any, region: Region) -> None:
    before = nodes()
    with pytest.raises(SVDRRError, match="does not lie in the image, which has 40 rows, 56 columns"):
        wait(enhance_steps(taken, region=region))
    assert nodes() == before


def refused(steps: Any, sentence: str, nodes: Any) -> None:
    before = nodes()
    with pytest.raises(SVDRRError, match=sentence):
        wait(steps)
    assert nodes() == before


def test_what_is_refused(scene: Any, taken: Any, nodes: Any) -> None:
    volume = slicer.util.addVolumeFromArray(np.zeros((3, 20, 20), np.int16), name="MR")
    labels = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    refused(enhance_steps(None), "No volume is chosen", nodes)
    refused(enhance_steps(volume), "'MR' has 3 slices; choose a radiograph", nodes)
    refused(enhance_steps(labels), "'labels' is a label map", nodes)
    refused(enhance_steps(taken, taken), "would replace its own input 'chest'", nodes)
    refused(enhance_steps(taken, labels), "choose a vtkMRMLScalarVolumeNode", nodes)
    refused(enhance_steps(taken, method="magic"), "Unknown super-resolution method 'magic'", nodes)
    refused(enhance_steps(taken, scale=3), "scale must be 2 or 4", nodes)
    refused(enhance_steps(taken, method="lcmsr", seed=-1), "A seed lies in 0 to .*, and -1 does not", nodes)
    refused(enhance_steps(taken, method="deltadiff", uncertainty=True), "Only lcmsr has an uncertainty map", nodes)
    refused(enhance_steps(taken, map_fidelity=True, fidelity_map=taken), "its own input 'chest'", nodes)
    refused(enhance_steps(taken, uncertainty=True, uncertainty_map=taken), "its own input 'chest'", nodes)
    mine = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "mine")
    shared = "cannot share the volume 'mine'; choose another"
    refused(enhance_steps(taken, mine, map_fidelity=True, fidelity_map=mine), shared, nodes)
    refused(enhance_steps(taken, mine, uncertainty=True, uncertainty_map=mine), shared, nodes)
    both: dict[str, Any] = {"map_fidelity": True, "uncertainty": True}
    refused(enhance_steps(taken, fidelity_map=mine, uncertainty_map=mine, **both), shared, nodes)


def test_damaged_weights(taken: Any, nodes: Any, networks: Path) -> None:
    # Of a network that no other test here has the backend load.
    (weights,) = (networks / "super-resolution" / "deltadiff" / "x4").glob("*.safetensors")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    refused(enhance_steps(taken, method="deltadiff", scale=4), "missing or damaged", nodes)
    weights.write_bytes(whole)
    assert wait(enhance_steps(taken, method="deltadiff", scale=4)).volume is not None


def test_backends_that_are_not_there(taken: Any, nodes: Any, tmp_path: Path) -> None:
    refused(enhance_steps(taken, choice=BackendChoice(environment=tmp_path)), "set", nodes)
    refused(enhance_steps(taken, choice=BackendChoice("http://127.0.0.1:9", "secret")), "127.0.0.1:9", nodes)
    elsewhere = BackendChoice("https://gpu.invalid", "secret")
    refused(enhance_steps(taken, choice=elsewhere), "would go to gpu.invalid, and you have not agreed", nodes)


def test_given_up_or_deleted_meanwhile(scene: Any, taken: Any, nodes: Any) -> None:
    output = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "mine")
    before = nodes()
    steps = enhance_steps(taken, output)
    for _ in range(3):
        next(steps)
    steps.close()
    assert nodes() == before
    assert output.GetImageData() is None

    steps = enhance_steps(taken, output)
    next(steps)
    scene.RemoveNode(output)
    refused(steps, "'mine' was deleted while the work went on", nodes)
    # The input is copied at the start; that it goes is no reason to lose the result.
    steps = enhance_steps(taken)
    next(steps)
    scene.RemoveNode(taken)
    assert wait(steps).volume.GetName() == "chest x2 (synthetic)"
