"""Hounsfield units to attenuation, and line integrals to gray values and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svdrr.ct import CTVolume
from svdrr.drr import AttenuationVolume, attenuation, from_display, make_renderer, to_display
from svdrr.drr.attenuation import EFFECTIVE_ENERGY_KEV, water_attenuation_per_mm
from svdrr.errors import SVDRRError
from svdrr.geometry import CArmPose, Detector, View

# No deadline: on a busy machine one slow example is no failure.
quick = settings(max_examples=100, deadline=None)

# Mass attenuation of liquid water, mu/rho in cm²/g at photon energies in keV, as published in NIST's X-Ray
# Mass Attenuation Coefficients, table 4. Water weighs 1 g/cm³, so these are linear attenuations in 1/cm.
NIST_WATER = {
    20.0: 8.096e-1,
    30.0: 3.756e-1,
    40.0: 2.683e-1,
    50.0: 2.269e-1,
    60.0: 2.059e-1,
    80.0: 1.837e-1,
    100.0: 1.707e-1,
    150.0: 1.505e-1,
}


def ct_of(*hu: float) -> CTVolume:
    return CTVolume(np.array(hu, np.float32).reshape(1, 1, -1), np.eye(4))


# --- Attenuation -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("energy_kev", "per_cm"), NIST_WATER.items())
def test_water_has_its_published_attenuation(energy_kev: float, per_cm: float) -> None:
    assert water_attenuation_per_mm(energy_kev) == pytest.approx(per_cm / 10.0, rel=1e-9)


def test_attenuation_falls_with_energy_and_convexly_in_log_log() -> None:
    energies = np.geomspace(20.0, 150.0, 200)
    logs = np.log([water_attenuation_per_mm(energy) for energy in energies])
    assert (np.diff(logs) < 0.0).all()
    assert (np.diff(logs, 2) > -1e-9).all()


def test_default_beam_is_a_chest_beam() -> None:
    # Between the neighbours that NIST tabulates: a default in cm, or at the tube voltage, would be outside.
    assert NIST_WATER[80.0] < 10.0 * water_attenuation_per_mm() < NIST_WATER[60.0]
    assert water_attenuation_per_mm() == water_attenuation_per_mm(EFFECTIVE_ENERGY_KEV)


@pytest.mark.parametrize("energy_kev", [19.999, 150.001, 0.0, -60.0, np.nan, np.inf])
def test_energies_outside_the_table_are_refused(energy_kev: float) -> None:
    with pytest.raises(SVDRRError, match="20 to 150 keV"):
        water_attenuation_per_mm(energy_kev)
    with pytest.raises(SVDRRError, match="20 to 150 keV"):
        attenuation(ct_of(0.0), energy_kev)


@pytest.mark.parametrize("energy_kev", [30.0, EFFECTIVE_ENERGY_KEV, 120.0])
def test_hounsfield_units_scale_water(energy_kev: float) -> None:
    water = water_attenuation_per_mm(energy_kev)
    mu = attenuation(ct_of(0.0, 1000.0, -500.0, 3000.0), energy_kev).mu.ravel()
    np.testing.assert_allclose(mu, water * np.array([1.0, 2.0, 0.5, 4.0]), rtol=1e-6)


def test_air_and_below_is_exactly_nothing() -> None:
    mu = attenuation(ct_of(-1000.0, -1000.5, -1024.0, -2048.0, -3024.0, -999.0)).mu.ravel()
    assert mu[:5].tolist() == [0.0] * 5
    assert mu[5] > 0.0


def test_attenuation_keeps_the_grid_and_the_scan() -> None:
    ct = CTVolume(np.full((2, 3, 4), 40.0, np.float32), np.diag([-0.7, 0.7, 2.5, 1.0]))
    volume = attenuation(ct)
    assert volume.mu.dtype == np.float32
    assert volume.mu.shape == ct.hu.shape
    np.testing.assert_array_equal(volume.ijk_to_ras, ct.ijk_to_ras)
    assert (ct.hu == 40.0).all()


# --- Cropping ----------------------------------------------------------------------------------------------


def embedded_blob() -> AttenuationVolume:
    """Random tissue well inside air, on a flipped, turned, anisotropic grid."""
    mu = np.zeros((14, 12, 10), np.float32)
    mu[3:9, 5:8, 2:9] = np.random.default_rng(1).random((6, 3, 7), np.float32) + 0.1
    mu[5, 6, 4] = 0.0  # a hole stays inside
    angle = np.radians(25.0)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0.0], [np.sin(angle), np.cos(angle), 0.0], [0.0, 0.0, 1.0]])
    ijk_to_ras = np.eye(4)
    ijk_to_ras[:3, :3] = turn @ np.diag([-1.5, 2.0, 3.0])
    ijk_to_ras[:3, 3] = [10.0, -20.0, -15.0]
    return AttenuationVolume(mu, ijk_to_ras)


def test_cropped_is_the_smallest_box_at_the_same_place() -> None:
    volume = embedded_blob()
    cropped = volume.cropped()
    np.testing.assert_array_equal(cropped.mu, volume.mu[3:9, 5:8, 2:9])
    assert cropped.mu.flags.c_contiguous
    np.testing.assert_allclose(
        cropped.ijk_to_ras @ [0.0, 0.0, 0.0, 1.0], volume.ijk_to_ras @ [2.0, 5.0, 3.0, 1.0], atol=1e-12
    )
    np.testing.assert_array_equal(cropped.ijk_to_ras[:3, :3], volume.ijk_to_ras[:3, :3])


def test_cropping_leaves_the_original_alone() -> None:
    volume = embedded_blob()
    before = volume.ijk_to_ras.copy()
    volume.cropped()
    np.testing.assert_array_equal(volume.ijk_to_ras, before)


def test_cropping_keeps_line_integrals() -> None:
    volume = embedded_blob()
    # The renderers crop by themselves; a trace of attenuation in two far corners keeps them from it.
    framed = volume.mu.copy()
    framed[0, 0, 0] = framed[-1, -1, -1] = 1e-12
    view = View(CArmPose(25.0, 15.0, (10.0, 0.0, 5.0)), Detector(24, 32, (2.5, 2.0)))
    whole, cropped = (
        make_renderer(v).render(view) for v in (AttenuationVolume(framed, volume.ijk_to_ras), volume.cropped())
    )
    assert cropped.max() > 5.0
    np.testing.assert_allclose(cropped, whole, atol=1e-5)


def test_cropping_pure_air_keeps_it() -> None:
    air = AttenuationVolume(np.zeros((3, 4, 5), np.float32), np.eye(4))
    assert air.cropped().mu.shape == (3, 4, 5)


# --- Display -----------------------------------------------------------------------------------------------

integrals = st.floats(0.0, 15.0, width=32)


@quick
@given(integrals)
def test_display_round_trip(line_integral: float) -> None:
    shown = to_display(np.array([line_integral]))
    # One float32 step of the gray value, seen through the slope of the inverse, 5·exp(A/5).
    tolerance = 1e-6 * np.exp(line_integral / 5.0) + 1e-6
    assert from_display(shown)[0] == pytest.approx(line_integral, abs=tolerance)


@quick
@given(integrals)
def test_display_round_trip_through_16_bit_files(line_integral: float) -> None:
    stored = np.round(to_display(np.array([line_integral])) * 65535.0).astype(np.uint16)
    half_a_step = 0.5 / 65535.0
    tolerance = 1.01 * half_a_step * 5.0 * np.exp(line_integral / 5.0) + 1e-5
    assert from_display(stored / 65535.0)[0] == pytest.approx(line_integral, abs=tolerance)


@quick
@given(st.floats(0.0, 0.9375, width=32))
def test_gray_round_trip(gray: float) -> None:
    assert to_display(from_display(np.array([gray])))[0] == pytest.approx(gray, abs=1e-6)


def test_display_is_monotonic_within_zero_and_one() -> None:
    shown = to_display(np.linspace(0.0, 40.0, 4001))
    assert shown.dtype == np.float32
    assert (np.diff(shown) > 0.0).all()
    assert shown[0] == 0.0
    assert shown[-1] < 1.0


def test_air_is_exactly_black_both_ways() -> None:
    air = np.zeros((2, 3), np.float32)
    for mapped in (to_display(air), from_display(air)):
        np.testing.assert_array_equal(mapped, air)
        assert not np.signbit(mapped).any()


@pytest.mark.parametrize(
    ("line_integral", "gray"),
    # 1 - exp(-A/5), by hand: the mapping is part of every trained model, so it must not drift.
    [(1.0, 0.18126925), (5.0, 0.63212056), (8.0, 0.79810348)],
)
def test_display_in_numbers(line_integral: float, gray: float) -> None:
    assert to_display(np.array([line_integral]))[0] == pytest.approx(gray, abs=1e-6)


def test_display_keeps_shape_and_input() -> None:
    given_values = np.full((3, 4, 2), 2.0, np.float32)
    assert to_display(given_values).shape == from_display(given_values / 4.0).shape == (3, 4, 2)
    assert (given_values == 2.0).all()
