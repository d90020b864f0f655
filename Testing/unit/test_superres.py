"""Enlarged radiographs lie where the small ones lay, to a hundredth of a pixel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svdrr.errors import SVDRRError
from svdrr.geometry import CArmPose, Detector, View
from svdrr.provenance import Provenance
from svdrr.radiograph import Radiograph
from svdrr.superres import METHODS, SCALES, check_method, enhance
from svdrr.superres.fidelity import data_fidelity

SPACING = (0.7, 0.31)
every_method = pytest.mark.parametrize("method", METHODS)
every_scale = pytest.mark.parametrize("scale", SCALES)


def test_methods_on_offer() -> None:
    assert METHODS == ("bicubic", "lanczos")
    assert SCALES == (2, 4)


@every_method
@every_scale
@pytest.mark.parametrize("axis", [0, 1])
def test_a_ramp_keeps_its_place(method: str, scale: int, axis: int) -> None:
    count = 25
    ramp = np.broadcast_to(np.linspace(0.1, 0.9, count, dtype=np.float32), (18, count))
    step = 0.8 / (count - 1)
    pixels = np.ascontiguousarray(ramp if axis == 1 else ramp.T)
    enlarged = enhance(Radiograph(pixels), method, scale).pixels
    enlarged = enlarged if axis == 1 else enlarged.T
    assert enlarged.shape == (18 * scale, count * scale)
    positions = (np.arange(count * scale) + 0.5) / scale - 0.5
    inside = (positions > 3) & (positions < count - 4)  # the filters reach 3 pixels far
    off_pixels = (enlarged[:, inside] - (0.1 + step * positions[inside])) / step
    # Lanczos ripples about a ramp; what counts is that it does not lean to one side.
    assert abs(off_pixels.mean()) < 0.002
    assert np.abs(off_pixels).max() < {"bicubic": 0.002, "lanczos": 0.03}[method]


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


def test_fidelity_is_zero_where_nothing_was_changed() -> None:
    pixels = np.random.default_rng(2).random((7, 11), dtype=np.float32)
    for scale in (1, 2, 3):
        fidelity = data_fidelity(np.kron(pixels, np.ones((scale, scale), np.float32)), pixels)
        assert fidelity.mean_percent == pytest.approx(0.0, abs=1e-5)


def test_fidelity_finds_what_was_added() -> None:
    """The mean of each block counts, in percent of the gray range, at the place where it differs."""
    pixels = np.full((4, 6), 0.5, np.float32)
    enlarged = np.kron(pixels, np.ones((2, 2), np.float32))
    enlarged[3, 4] += 0.4
    # A detail whose mean is zero is what super-resolution may add.
    enlarged[6, 0] += 0.2
    enlarged[6, 1] -= 0.2
    fidelity = data_fidelity(enlarged, pixels)
    expected = np.zeros((4, 6))
    expected[1, 2] = 10.0
    np.testing.assert_allclose(fidelity.difference_percent, expected, atol=1e-5)
    assert fidelity.difference_percent.dtype == np.float32
    assert fidelity.mean_percent == pytest.approx(10.0 / 24, abs=1e-5)
    assert fidelity.max_percent == pytest.approx(10.0, abs=1e-5)


@every_method
def test_fidelity_is_the_same_in_any_orientation(method: str) -> None:
    pixels = np.random.default_rng(4).random((9, 13), dtype=np.float32)
    map_percent = data_fidelity(enhance(Radiograph(pixels), method).pixels, pixels).difference_percent
    turned = np.ascontiguousarray(pixels[::-1].T)
    again = data_fidelity(enhance(Radiograph(turned), method).pixels, turned).difference_percent
    np.testing.assert_allclose(again, map_percent[::-1].T, atol=1e-4)


@pytest.mark.parametrize("shape", [(8, 13), (8, 9), (2, 3), (0, 0), (12, 12)])
def test_fidelity_needs_an_enlargement(shape: tuple[int, int]) -> None:
    with pytest.raises(SVDRRError, match="is no enlargement of one of 4 x 6 by a whole number"):
        data_fidelity(np.zeros(shape, np.float32), np.zeros((4, 6), np.float32))
