"""The simulated detector against closed forms: its transfer of waves, its noise, its digitizer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from svdrr.drr.display import from_display, to_display
from svdrr.errors import SVDRRError
from svdrr.superres.degradation import GRAY_SCALES, Degradation

NO_NOISE = np.random.default_rng(0)


def transmission(radiograph: np.ndarray) -> np.ndarray:
    return np.exp(-from_display(radiograph).astype(np.float64))


@settings(max_examples=20, deadline=None)
@given(scale=st.sampled_from([2, 3, 4]), blur=st.floats(0.2, 1.5), period=st.integers(3, 12))
def test_a_wave_is_passed_by_gauss_and_by_the_width_of_a_pixel(scale: int, blur: float, period: int) -> None:
    """Intensity 0.4 + 0.2·cos comes out with amplitude 0.2 · exp(−2π²σ²f²) · sinc(f); f in periods per large pixel."""
    assume(scale * blur / np.sqrt(8.0 * np.log(2.0)) > 0.8)  # A narrower Gaussian is no longer one when it is sampled.
    count = 40 * period * scale
    wave = np.cos(2.0 * np.pi * (np.arange(count) + 0.5) / (period * scale))
    fine = to_display(-np.log(np.broadcast_to(0.4 + 0.2 * wave, (4 * scale, count))))
    coarse = transmission(Degradation(scale, blur).mean(np.ascontiguousarray(fine)))[0]
    inner = coarse[10 * period : 30 * period]
    at = 2.0 * np.pi * (np.arange(10 * period, 30 * period) + 0.5) / period
    amplitude = 2.0 * (inner - inner.mean()) @ np.cos(at) / len(inner)
    frequency, sigma = 1.0 / period, blur / np.sqrt(8.0 * np.log(2.0))
    # Of `scale` samples instead of an integral over the pixel.
    width = np.sin(np.pi * frequency) / (scale * np.sin(np.pi * frequency / scale))
    expected = 0.2 * np.exp(-2.0 * (np.pi * sigma * frequency) ** 2) * width
    assert amplitude == pytest.approx(expected, abs=2e-4)
    assert inner.mean() == pytest.approx(0.4, abs=1e-5)


def test_noise_is_that_of_the_photons_in_a_large_pixel() -> None:
    """The variance of a line integral is 1/N for N counted photons."""
    line_integral, photons = 2.0, 5e4
    fine = np.full((800, 800), to_display(np.float32(line_integral)), np.float32)
    coarse = from_display(Degradation(4, 0.6, photons, 16).expose(fine, np.random.default_rng(3)))
    assert coarse.mean() == pytest.approx(line_integral, abs=1e-3)
    assert coarse.var() == pytest.approx(1.0 / (photons * np.exp(-line_integral)), rel=0.03)


def test_the_same_generator_gives_the_same_exposure() -> None:
    fine = np.random.default_rng(1).random((32, 48), dtype=np.float32)
    first, second, other = (Degradation(2).expose(fine, np.random.default_rng(seed)) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_the_digitizer_has_so_many_levels(bits: int) -> None:
    fine = np.linspace(0.0, 1.0, 64 * 64, dtype=np.float32).reshape(64, 64)
    levels = Degradation(2, bits=bits).expose(fine, NO_NOISE) * (2**bits - 1)
    np.testing.assert_allclose(levels, np.round(levels), atol=2e-2)
    assert levels.min() >= 0.0


def test_without_noise_exposures_are_the_mean() -> None:
    fine = np.random.default_rng(1).random((32, 48), dtype=np.float32)
    exposed = Degradation(4, air_photons=None, bits=16).expose(fine, NO_NOISE)
    np.testing.assert_allclose(exposed, Degradation(4).mean(fine), atol=1.0 / 65535.0)


@pytest.mark.parametrize("rows", [64 * 2, 64 * 2 + 2, 64 * 5 + 10])
def test_large_images_have_no_seams_where_strips_meet(rows: int) -> None:
    """Turned on its side, the image is cut elsewhere."""
    fine = np.random.default_rng(1).random((rows, 70), dtype=np.float32)
    upright = Degradation(2, 1.5).mean(fine)
    turned = Degradation(2, 1.5).mean(np.ascontiguousarray(fine.T)).T
    np.testing.assert_allclose(upright, turned, atol=2e-6)


@pytest.mark.parametrize("gray_scale", GRAY_SCALES)
def test_white_and_air_stay(gray_scale: str) -> None:
    for gray in (0.0, 0.3, 1.0):
        even = np.full((16, 16), gray, np.float32)
        assert Degradation(2, gray_scale=gray_scale).mean(even) == pytest.approx(gray, abs=1e-6)


def test_gray_scales_weigh_the_parts_of_a_pixel_by_their_intensity() -> None:
    """Of a pixel half in air and half behind 0.4, in closed form; without blur."""
    halves = np.tile(np.array([0.0, 0.4], np.float32), (4, 2))
    for gray_scale, expected in (("drr", 1.0 - (0.5 + 0.5 * 0.6**5) ** 0.2), ("logarithmic", -np.log10(0.5315479) / 3)):
        coarse = Degradation(2, 0.0, gray_scale=gray_scale).mean(halves)
        assert coarse == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"scale": 0}, "The scale of a degradation must be 1 or more, not 0"),
        ({"scale": 2, "bits": 17}, "A digitizer has 8 to 16 bits, not 17"),
        ({"scale": 2, "blur_fwhm_pixels": -1.0}, "blur"),
        ({"scale": 2, "air_photons": 0.0}, "photons"),
        ({"scale": 2, "gray_scale": "film"}, "The gray scale must be one of drr, logarithmic, not 'film'"),
    ],
)
def test_bad_detectors_are_refused(arguments: dict, said: str) -> None:
    with pytest.raises(SVDRRError, match=said):
        Degradation(**arguments)


def test_what_does_not_divide_is_refused() -> None:
    with pytest.raises(SVDRRError, match="An image of 9 x 8 pixels cannot be reduced by 4"):
        Degradation(4).expose(np.zeros((9, 8), np.float32), NO_NOISE)
