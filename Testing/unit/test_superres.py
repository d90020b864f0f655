"""Enlarged radiographs lie where the small ones lay, to a hundredth of a pixel."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from scipy.ndimage import gaussian_filter

from svdrr.drr import to_display
from svdrr.errors import SVDRRError
from svdrr.evaluation.metrics import psnr_db
from svdrr.geometry import CArmPose, Detector, View
from svdrr.images import read_radiograph
from svdrr.models.registry import super_resolution_folder, weights_sha256
from svdrr.provenance import Provenance
from svdrr.radiograph import Radiograph
from svdrr.superres import METHODS, SCALES, available_methods, check_enhancement, check_method, enhance, uncertainty
from svdrr.superres.degradation import Degradation
from svdrr.superres.enhance import LEARNED
from svdrr.superres.interpolation import METHODS as CLASSICAL
from svdrr.superres.learned import enlarge, load_network
from svdrr.superres.networks import RegressionNetwork
from svdrr.superres.training.overlays import add_overlays

SPACING = (0.7, 0.31)
every_method = pytest.mark.parametrize("method", METHODS)
every_scale = pytest.mark.parametrize("scale", SCALES)


def test_methods_on_offer() -> None:
    assert METHODS == ("bicubic", "lanczos", "regression", "lcmsr", "deltadiff")
    assert available_methods() == METHODS
    assert SCALES == (2, 4)


@every_method
@every_scale
@pytest.mark.parametrize("axis", [0, 1])
def test_a_ramp_keeps_its_place(method: str, scale: int, axis: int) -> None:
    """Shown by a rising ramp and a falling one: what is the same for both is gray, not place."""
    count = 25
    step = 0.8 / (count - 1)
    positions = (np.arange(count * scale) + 0.5) / scale - 0.5
    inside = (positions > 3) & (positions < count - 4)  # the filters reach 3 pixels far
    differences = []
    for rising in (1, -1):
        ramp = np.broadcast_to(0.5 + rising * np.linspace(-0.4, 0.4, count, dtype=np.float32), (18, count))
        enlarged = enhance(Radiograph(np.ascontiguousarray(ramp if axis == 1 else ramp.T)), method, scale).pixels
        enlarged = enlarged if axis == 1 else enlarged.T
        assert enlarged.shape == (18 * scale, count * scale)
        differences.append(enlarged[:, inside] - (0.5 + rising * (0.1 - 0.5 + step * positions[inside])))
    off_pixels = (differences[0] - differences[1]) / (2.0 * step)
    # Lanczos ripples about a ramp; what counts is that it does not lean to one side.
    assert abs(off_pixels.mean()) < (0.002 if method in CLASSICAL else 0.01)
    assert np.abs(off_pixels).max() < {"bicubic": 0.002, "lanczos": 0.03}.get(method, 0.1)
    assert abs((differences[0] + differences[1]).mean() / 2.0) < 1e-3


@every_method
@every_scale
@settings(max_examples=15, deadline=None)
@given(row=st.floats(12.0, 18.0), column=st.floats(12.0, 26.0))
def test_a_blob_keeps_its_place_in_mm(method: str, scale: int, row: float, column: float) -> None:
    rows, columns = np.mgrid[:31, :39]
    blob = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * 2.0**2)).astype(np.float32)
    enlarged = enhance(Radiograph(blob, SPACING), method, scale)
    assert enlarged.pixel_spacing_mm == (SPACING[0] / scale, SPACING[1] / scale)
    row_mm, column_mm = centroid_mm(enlarged)
    assert abs(row_mm - (row + 0.5) * SPACING[0]) < 0.01 * SPACING[0]
    assert abs(column_mm - (column + 0.5) * SPACING[1]) < 0.01 * SPACING[1]


def centroid_mm(radiograph: Radiograph) -> tuple[float, float]:
    """(row, column) in mm from the outer corner of the first pixel."""
    assert radiograph.pixel_spacing_mm is not None
    row_mm, column_mm = radiograph.pixel_spacing_mm
    weights = radiograph.pixels.astype(float)
    rows, columns = (np.arange(count) + 0.5 for count in weights.shape)
    return weights.sum(1) @ rows * row_mm / weights.sum(), weights.sum(0) @ columns * column_mm / weights.sum()


@every_method
@every_scale
@pytest.mark.parametrize("shape", [(16, 16), (17, 40), (33, 19)])
def test_the_view_covers_the_same_detector(method: str, scale: int, shape: tuple[int, int]) -> None:
    rows, columns = shape
    view = View(CArmPose(33.0, -12.0, (5.0, -60.0, 410.0)), Detector(rows, columns, SPACING))
    pixels = np.random.default_rng(1).random(shape, dtype=np.float32)
    enlarged = enhance(Radiograph(pixels, SPACING, view), method, scale)
    assert enlarged.view is not None
    assert enlarged.view.pose == view.pose
    detector = enlarged.view.detector
    assert enlarged.pixels.shape == (detector.rows, detector.columns) == (rows * scale, columns * scale)
    assert enlarged.pixel_spacing_mm == detector.pixel_spacing_mm
    for across, down in ((0, 0), (1, 0), (0, 1), (1, 1)):
        before = view.pixel_to_ras @ (across * columns - 0.5, down * rows - 0.5, 0, 1)
        after = enlarged.view.pixel_to_ras @ (across * columns * scale - 0.5, down * rows * scale - 0.5, 0, 1)
        np.testing.assert_allclose(after, before, atol=1e-9)


@every_method
@every_scale
def test_values_stay_in_range(method: str, scale: int) -> None:
    edges = np.kron(np.indices((4, 5)).sum(0) % 2, np.ones((5, 5))).astype(np.float32)
    enlarged = enhance(Radiograph(edges), method, scale).pixels
    assert enlarged.dtype == np.float32
    assert enlarged.min() == 0.0
    assert enlarged.max() == 1.0
    assert np.unique(enlarged).size > 2


@every_method
def test_reduced_again_it_is_the_input(method: str) -> None:
    rows, columns = np.mgrid[:40, :30]
    smooth = (0.5 + 0.4 * np.sin(rows / 4.0) * np.cos(columns / 5.0)).astype(np.float32)
    enlarged = enhance(Radiograph(smooth), method, 2).pixels
    reduced = enlarged.reshape(40, 2, 30, 2).mean(axis=(1, 3))
    assert np.abs(reduced - smooth)[3:-3, 3:-3].max() < 0.02


def test_unknown_spacing_and_view_stay_unknown() -> None:
    enlarged = enhance(Radiograph(np.eye(16, dtype=np.float32)))
    assert enlarged.pixel_spacing_mm is None
    assert enlarged.view is None


def test_provenance_is_kept_and_extended() -> None:
    origin = Provenance("VCDiT", "radiograph", "tiny", "ab" * 32, seed=4, settings={"Steps": "20"})
    before = Radiograph(np.eye(16, dtype=np.float32), provenance=origin)
    after = enhance(before, "bicubic", 4).provenance
    assert after is not None
    kept = ("method", "source", "model", "weights_sha256", "seed", "time_utc", "software")
    assert {name: getattr(after, name) for name in kept} == {name: getattr(origin, name) for name in kept}
    assert after.settings.pop("DataConsistencyResidual").endswith("% of the gray range")
    assert after.settings == {"Steps": "20", "Enhancement": "bicubic x4", "EnhancedFrom": before.pixels_sha256()}


def test_a_taken_image_is_a_computed_one_afterwards() -> None:
    before = Radiograph(np.eye(16, dtype=np.float32))
    after = enhance(before).provenance
    assert after is not None
    assert after.method == "lanczos x2"
    assert before.pixels_sha256() in after.source
    assert "Synthetic" in "".join(after.attributes())


def test_unknown_method_and_scale() -> None:
    with pytest.raises(SVDRRError, match="Unknown super-resolution method 'magic'; choose one of: bicubic, lanczos"):
        check_method("magic", 2)
    for scale in (0, 1, 3, 8, -2):
        with pytest.raises(SVDRRError, match=f"The scale must be 2 or 4, not {scale}"):
            enhance(Radiograph(np.eye(16, dtype=np.float32)), "bicubic", scale)


def test_a_second_enhancement_joins_the_history() -> None:
    pixels = np.linspace(0.0, 1.0, 20 * 20, dtype=np.float32).reshape(20, 20)
    view = Radiograph(pixels, provenance=Provenance(method="VCDiT", source="x", model="tiny"))
    twice = enhance(enhance(view, "lanczos", 2), "bicubic", 2)
    assert twice.provenance is not None
    assert twice.provenance.settings["Enhancement"] == "lanczos x2, bicubic x2"
    assert twice.provenance.model == "tiny"


# Learned methods, with the bundled weights


@every_scale
def test_lcmsr_is_sampled_by_its_seed_and_has_a_deterministic_path(scale: int) -> None:
    source = radiograph_of_a_phantom()
    first, again, other, deterministic = (enhance(source, "lcmsr", scale, seed) for seed in (1, 1, 2, None))
    np.testing.assert_array_equal(first.pixels, again.pixels)
    for result in (other, deterministic):
        assert (first.pixels != result.pixels).mean() > 0.9
    for result, seed, code in ((first, 1, "sampled"), (deterministic, None, "deterministic")):
        assert result.provenance is not None
        assert result.provenance.seed == seed
        assert result.provenance.settings["Code"] == code


@every_scale
def test_lcmsr_is_most_wrong_where_it_is_most_uncertain(scale: int) -> None:
    truth = truth_of_a_phantom()
    source = Radiograph(Degradation(scale).expose(truth, np.random.default_rng(1)))
    error = np.abs(enhance(source, "lcmsr", scale).pixels - truth).ravel()
    deviation = uncertainty(source, scale, seeds=4).pixels.ravel()
    assert 0.1 * error.mean() < deviation.mean() < error.mean()
    order = np.argsort(deviation)
    assert error[order[-len(order) // 10 :]].mean() > 2.0 * error[order[: len(order) // 2]].mean()


@pytest.mark.parametrize("method", LEARNED)
@every_scale
def test_learned_methods_are_nearer_to_the_truth_than_interpolation(method: str, scale: int) -> None:
    """On a phantom that no training has seen, with letters and vessels over it."""
    truth = truth_of_a_phantom()
    source = Radiograph(Degradation(scale).expose(truth, np.random.default_rng(1)))
    learned, bicubic = (
        psnr_db(enhance(source, name, scale).pixels[None], truth[None])[0] for name in (method, "bicubic")
    )
    assert learned > bicubic + 0.3


@pytest.mark.parametrize("method", LEARNED)
@every_scale
def test_the_provenance_of_a_learned_method_names_its_weights(method: str, scale: int) -> None:
    real = enhance(Radiograph(np.eye(16, dtype=np.float32)), method, scale).provenance
    assert real is not None
    assert real.method == f"{method} x{scale}"
    assert real.model == f"super-resolution/{method}/x{scale}"
    folder = super_resolution_folder(method, scale)
    assert folder is not None
    assert real.weights_sha256 == weights_sha256(folder)

    origin = Provenance("VCDiT", "radiograph", "tiny", "ab" * 32, seed=4)
    computed = enhance(Radiograph(np.eye(16, dtype=np.float32), provenance=origin), method, scale).provenance
    assert computed is not None
    assert (computed.model, computed.weights_sha256, computed.seed) == ("tiny", "ab" * 32, 4)
    assert computed.settings["EnhancementModel"] == real.model
    assert computed.settings["EnhancementWeightsSHA256"] == real.weights_sha256
    assert computed.settings.get("EnhancementSeed") == ("0" if method == "lcmsr" else None)


def test_a_later_enhancement_says_nothing_of_the_weights_of_an_earlier_one() -> None:
    origin = Radiograph(
        np.eye(16, dtype=np.float32), provenance=Provenance("DRR (siddon)", "CT", settings={"kVp": "80"})
    )
    twice = enhance(enhance(origin, "lcmsr", 2, consistent=True), "lanczos", 2).provenance
    assert twice is not None
    assert set(twice.settings) == {"kVp", "Enhancement", "EnhancedFrom", "DataConsistencyResidual"}
    assert twice.settings["Enhancement"] == "lcmsr x2, lanczos x2"


@pytest.mark.parametrize("method", METHODS)
def test_a_projection_leaves_the_bar_where_it_is(method: str) -> None:
    said: list[tuple[int, int]] = []
    enhance(radiograph_of_a_phantom(), method, consistent=True, on_step=lambda *step: said.append(step))
    parts = [done / total for done, total in said]
    assert parts == sorted(parts)
    assert parts[-1] == 1.0
    assert parts.count(1.0) > 1


@every_scale
def test_uncertainty_is_the_spread_of_results(scale: int) -> None:
    source = radiograph_of_a_phantom()
    results = np.stack([enhance(source, "lcmsr", scale, seed).pixels for seed in (5, 6, 7)])
    said: list[tuple[int, int]] = []
    found = uncertainty(source, scale, 3, 5, on_step=lambda *step: said.append(step))
    np.testing.assert_allclose(found.pixels, results.std(axis=0, ddof=1), atol=1e-6)
    assert found.pixels.max() > 0.0
    assert found.provenance is not None
    assert found.provenance.method == f"uncertainty of lcmsr x{scale}"
    assert found.provenance.settings["Quantity"].startswith("standard deviation over 3 seeds")
    assert said[0] == (0, 3)
    assert said[-1] == (3, 3)


def test_uncertainty_of_consistent_results_is_theirs() -> None:
    source = radiograph_of_a_phantom()
    results = np.stack([enhance(source, "lcmsr", 2, seed, consistent=True).pixels for seed in (0, 1)])
    np.testing.assert_allclose(
        uncertainty(source, 2, 2, consistent=True).pixels, results.std(axis=0, ddof=1), atol=1e-6
    )


def test_uncertainty_lies_where_the_enlarged_image_lies() -> None:
    source = replace(radiograph_of_a_phantom(), pixel_spacing_mm=SPACING, provenance=Provenance("DRR (siddon)", "CT"))
    found, enlarged = uncertainty(source, 2, 2), enhance(source, "lcmsr", 2)
    assert found.pixels.shape == enlarged.pixels.shape
    assert found.pixel_spacing_mm == enlarged.pixel_spacing_mm
    # A map of standard deviations is no DRR.
    assert found.provenance is not None
    assert found.provenance.method.startswith("uncertainty")


@pytest.mark.parametrize("method", LEARNED)
@every_scale
def test_bundled_networks_leave_no_seams(method: str, scale: int) -> None:
    """On the real radiograph, reduced: less than a gray level of 4,096 from the image in one piece."""
    pixels = reduced_cr_radiograph()
    folder = super_resolution_folder(method, scale)
    assert folder is not None
    network = load_network(method, folder, "cpu")
    whole = enlarge(pixels, network, core=512)
    tiled = enlarge(pixels, network, core=64)
    assert 4096.0 * np.abs(tiled - whole).max() <= 1.0


@pytest.mark.parametrize(
    ("method", "seed", "seeds", "said"),
    [
        ("lcmsr", -1, 0, "A seed lies in 0 to 2\\^63 - 1, and -1 does not"),
        ("lcmsr", 0, 1, "An uncertainty map takes 2 to 64 seeds, not 1"),
        ("lcmsr", 0, 65, "An uncertainty map takes 2 to 64 seeds, not 65"),
        ("lanczos", 0, 8, "Only lcmsr has an uncertainty map; 'lanczos' gives the same result with every seed"),
    ],
)
def test_what_cannot_be_asked_for(method: str, seed: int, seeds: int, said: str) -> None:
    with pytest.raises(SVDRRError, match=said):
        check_enhancement(method, 2, seed, seeds)


def test_an_uncertainty_takes_two_seeds() -> None:
    with pytest.raises(SVDRRError, match="An uncertainty map takes 2 to 64 seeds, not 0"):
        uncertainty(Radiograph(np.full((8, 8), 0.5, np.float32)), seeds=0)


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        ([[0.5, np.nan]], "The radiograph holds NaN or infinite pixels"),
        ([[0.5, 1.5]], "A radiograph's pixels must lie in 0 to 1, not in 0.5 to 1.5; scale or clip them"),
        ([[-3, 0]], "not in -3 to 0"),
        ([[]], r"not an array of shape \(1, 0\)"),
        ([0.5, 0.5], r"not an array of shape \(2,\)"),
    ],
)
@pytest.mark.parametrize("make", [enhance, uncertainty])
def test_what_is_no_radiograph(make: Callable[[Radiograph], Radiograph], pixels: list[object], said: str) -> None:
    with pytest.raises(SVDRRError, match=said):
        make(Radiograph(np.array(pixels)))


def test_pixels_of_any_precision() -> None:
    pixels = np.random.default_rng(2).random((20, 20))
    result = enhance(Radiograph(pixels), "regression")
    np.testing.assert_array_equal(result.pixels, enhance(Radiograph(pixels.astype(np.float32)), "regression").pixels)
    assert result.pixels.dtype == np.float32


def test_weights_that_are_missing_or_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "super-resolution" / "regression" / "x2"
    folder.mkdir(parents=True)
    bundled = super_resolution_folder("regression", 2)
    assert bundled is not None
    (folder / "config.json").write_bytes((bundled / "config.json").read_bytes())
    (folder / "diffusion_pytorch_model.safetensors").write_bytes(b"not weights")
    monkeypatch.setenv("SVDRR_MODELS", str(tmp_path))
    source = Radiograph(np.eye(16, dtype=np.float32))
    with pytest.raises(SVDRRError, match=r"The super-resolution model .regression. cannot be loaded"):
        enhance(source, "regression", 2)
    monkeypatch.setattr("svdrr.models.registry._BUNDLED", ())
    with pytest.raises(SVDRRError, match="The weights of 'regression' for scale 4 were not found; set SVDRR_MODELS"):
        enhance(source, "regression", 4)
    assert available_methods() == CLASSICAL


def test_without_its_packages_no_learned_method_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["svdrr.superres.enhance"]  # Its package has a function of that name.
    monkeypatch.setattr(module, "find_spec", lambda package: None if package == "diffusers" else object())
    assert available_methods() == CLASSICAL


def test_weights_that_are_replaced_are_read_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hash in the provenance is that of the network that was used."""
    monkeypatch.setenv("SVDRR_MODELS", str(tmp_path))
    source = radiograph_of_a_phantom()
    results = []
    for channels in (8, 12):
        RegressionNetwork(2, 0.05, channels, 1).save_pretrained(tmp_path / "super-resolution" / "regression" / "x2")
        results.append(enhance(source, "regression", 2))
    assert (results[0].pixels != results[1].pixels).any()
    assert len({result.provenance.weights_sha256 for result in results if result.provenance}) == 2


def test_too_little_memory_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(RegressionNetwork, "forward", fail)
    with pytest.raises(SVDRRError, match="There is not enough memory on the device 'cpu' for super-resolution"):
        enhance(radiograph_of_a_phantom(), "regression", 2)


def truth_of_a_phantom() -> np.ndarray:
    line_integrals = np.full((192, 256), 3.0, np.float32)
    line_integrals += gaussian_filter(np.random.default_rng(6).standard_normal(line_integrals.shape), 12.0) * 20.0
    return to_display(add_overlays(np.maximum(line_integrals, 0.0), np.random.default_rng(7)))


def radiograph_of_a_phantom() -> Radiograph:
    return Radiograph(Degradation(4).expose(truth_of_a_phantom(), np.random.default_rng(1)))


def reduced_cr_radiograph() -> np.ndarray:
    pixels = read_radiograph(Path(str(get_testdata_file("RG1_UNCI.dcm")))).pixels[:1640, :1640]
    return Degradation(8, air_photons=None, gray_scale="logarithmic").expose(pixels, np.random.default_rng(0))
