"""Data fidelity against an independent detector, and the projection that makes results consistent."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from svdrr.errors import SVDRRError
from svdrr.provenance import Provenance
from svdrr.radiograph import Radiograph
from svdrr.superres import enhance
from svdrr.superres.degradation import gray_scale_of
from svdrr.superres.fidelity import consistent_with, data_fidelity
from svdrr.superres.interpolation import METHODS, interpolate

Floats = NDArray[np.float32]
every_method = pytest.mark.parametrize("method", METHODS)


def reduced(fine: Floats, scale: int) -> Floats:
    """Intensity 1000^(−gray), blurred by a Gaussian of 0.6 large pixels at half its height, and averaged over them."""
    intensity = gaussian_filter(1000.0 ** -fine.astype(np.float64), 0.6 * scale / 2.3548, mode="reflect", truncate=5.0)
    rows, columns = fine.shape
    means = intensity.reshape(rows // scale, scale, columns // scale, scale).mean(axis=(1, 3))
    return (-np.log10(means) / 3.0).astype(np.float32)


def smooth(rows: int, columns: int, seed: int = 0) -> Floats:
    noise = gaussian_filter(np.random.default_rng(seed).standard_normal((rows, columns)), 3.0)
    return (0.5 + 0.1 * noise / noise.std()).clip(0.05, 0.95).astype(np.float32)


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(2, 90), columns=st.integers(2, 20), scale=st.integers(1, 4))
def test_fidelity_is_zero_for_what_a_detector_would_have_measured(rows: int, columns: int, scale: int) -> None:
    fine = smooth(rows * scale, columns * scale)
    assert data_fidelity(fine, reduced(fine, scale)).max_percent < 1e-3


def test_fidelity_finds_what_was_added() -> None:
    """At its place, in percent of the gray range; what is finer than the detector's pixels hardly counts."""
    fine = np.full((32, 48), 0.5, np.float32)
    source = reduced(fine, 2)
    with_nodule = fine.copy()
    with_nodule[12:16, 28:32] += 0.2
    fidelity = data_fidelity(with_nodule, source)
    expected = 100.0 * np.abs(reduced(with_nodule, 2) - source)
    np.testing.assert_allclose(fidelity.difference_percent, expected, atol=1e-3)
    assert fidelity.difference_percent.dtype == np.float32
    assert (fidelity.difference_percent[6:8, 14:16] > 10.0).all()
    assert (fidelity.difference_percent[:4] < 1e-3).all()
    assert fidelity.mean_percent == pytest.approx(expected.mean(), abs=1e-4)
    assert fidelity.max_percent == pytest.approx(expected.max(), abs=1e-3)

    checkered = fine + np.where(np.indices(fine.shape).sum(axis=0) % 2, 0.05, -0.05).astype(np.float32)
    assert data_fidelity(checkered, source).max_percent < 0.1 * fidelity.max_percent


def test_the_verdict_has_both_numbers() -> None:
    fine = np.full((32, 32), 0.5, np.float32)
    fidelity = data_fidelity(fine, fine[::2, ::2] + np.float32(0.03))
    assert fidelity.verdict == (
        "Reduced again, the result differs from the input by 3.000 % of the gray range on average, by 3.00 % at most."
    )


@every_method
def test_fidelity_is_the_same_in_any_orientation(method: str) -> None:
    pixels = np.random.default_rng(4).random((9, 13), dtype=np.float32)
    map_percent = data_fidelity(enhance(Radiograph(pixels), method).pixels, pixels).difference_percent
    turned = np.ascontiguousarray(pixels[::-1].T)
    again = data_fidelity(enhance(Radiograph(turned), method).pixels, turned).difference_percent
    np.testing.assert_allclose(again, map_percent[::-1].T, atol=1e-4)


@every_method
@pytest.mark.parametrize("scale", [2, 4])
def test_the_projection_makes_results_consistent(method: str, scale: int) -> None:
    source = reduced(smooth(40 * scale, 60 * scale), scale)
    enlarged = interpolate(source, scale, method)
    projected = consistent_with(enlarged, source)
    assert data_fidelity(enlarged, source).max_percent > 0.3
    assert data_fidelity(projected, source).max_percent < 100.0 / 4096.0
    assert projected.dtype == np.float32


def test_the_projection_comes_nearer_to_the_truth() -> None:
    truth = smooth(160, 240)
    source = reduced(truth, 4)
    enlarged = interpolate(source, 4, "bicubic")
    before, after = (np.abs(image - truth).mean() for image in (enlarged, consistent_with(enlarged, source)))
    assert after < 0.7 * before


def test_the_projection_keeps_finer_detail_and_what_is_consistent() -> None:
    truth = smooth(80, 80)
    np.testing.assert_array_equal(consistent_with(truth, reduced(truth, 2)), truth)
    detail = np.where(np.indices(truth.shape).sum(axis=0) % 2, 0.02, -0.02).astype(np.float32)
    projected = consistent_with(truth + detail, reduced(truth, 2))
    kept = (projected - truth)[8:-8, 8:-8]
    assert np.mean(kept * detail[8:-8, 8:-8]) == pytest.approx(0.02**2, rel=0.02)


def test_one_place_that_cannot_agree_keeps_no_other_from_it() -> None:
    """Stripes that no detector with such a blur could have measured, in one corner."""
    source = reduced(smooth(160, 160), 2)
    source[:20, :20] = np.indices((20, 20))[1] % 2
    fidelity = data_fidelity(consistent_with(interpolate(source, 2, "lanczos"), source), source)
    assert not fidelity.is_consistent
    assert fidelity.difference_percent[32:, 32:].max() < 100.0 / 4096.0


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(2, 24), columns=st.integers(2, 24), levels=st.integers(2, 9), seed=st.integers(0, 99))
def test_the_projection_makes_nothing_worse_on_average(rows: int, columns: int, levels: int, seed: int) -> None:
    """Of any source, black and white ones among them."""
    generator = np.random.default_rng(seed)
    source = (generator.integers(levels, size=(rows, columns)) / (levels - 1)).astype(np.float32)
    enlarged = generator.random((2 * rows, 2 * columns), np.float32)
    before, after = (data_fidelity(image, source) for image in (enlarged, consistent_with(enlarged, source)))
    assert after.mean_percent <= before.mean_percent


def test_a_drr_is_reduced_in_its_own_gray_scale() -> None:
    line_integrals = 4.0 * smooth(80, 80)
    intensity = gaussian_filter(
        np.exp(-line_integrals.astype(np.float64)), 0.6 * 4 / 2.3548, mode="reflect", truncate=5
    )
    means = intensity.reshape(20, 4, 20, 4).mean(axis=(1, 3))
    source = Radiograph((1.0 - means**0.2).astype(np.float32), provenance=Provenance("DRR (joseph)", "a phantom"))
    truth = 1.0 - np.exp(-0.2 * line_integrals)
    assert data_fidelity(truth, source.pixels, gray_scale_of(source)).max_percent < 1e-3
    assert data_fidelity(truth, source.pixels).max_percent > 1e-2
    near, far = (
        np.abs(enhance(one, consistent=True, scale=4).pixels - truth).mean()
        for one in (source, replace(source, provenance=None))
    )
    assert near < far


def test_the_projection_stays_in_range_and_ends_where_it_cannot_agree() -> None:
    """A source of black and white squares has edges that no detector with such a blur could have measured."""
    source = np.kron(np.indices((4, 5)).sum(0) % 2, np.ones((5, 5))).astype(np.float32)
    rounds: list[tuple[int, int]] = []
    projected = consistent_with(interpolate(source, 2, "lanczos"), source, on_round=lambda *round: rounds.append(round))
    assert rounds == [(number, 30) for number in range(len(rounds))]
    assert 1 <= len(rounds) < 30
    assert projected.min() >= 0.0
    assert projected.max() <= 1.0
    assert np.isfinite(projected).all()


def test_enhancing_consistently_says_so() -> None:
    source = Radiograph(reduced(smooth(80, 80), 2))
    plain, consistent = enhance(source), enhance(source, consistent=True)
    assert plain.provenance is not None
    assert consistent.provenance is not None
    assert "Projection" not in plain.provenance.settings
    assert consistent.provenance.settings["Projection"] == "iterative back-projection"
    fidelity = data_fidelity(consistent.pixels, source.pixels)
    assert consistent.provenance.settings["DataConsistencyResidual"] == (
        f"mean {fidelity.mean_percent:.3f} %, largest {fidelity.max_percent:.2f} % of the gray range"
    )
    assert fidelity.mean_percent < data_fidelity(plain.pixels, source.pixels).mean_percent


@pytest.mark.parametrize("shape", [(8, 13), (8, 9), (2, 3), (0, 0), (12, 12)])
def test_fidelity_needs_an_enlargement(shape: tuple[int, int]) -> None:
    with pytest.raises(SVDRRError, match="is no enlargement of one of 4 x 6 by a whole number"):
        data_fidelity(np.zeros(shape, np.float32), np.zeros((4, 6), np.float32))
