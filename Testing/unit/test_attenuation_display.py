"""Hounsfield units to attenuation, and line integrals to gray values and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sentences import assert_one_sentence

from svdrr.ct import CTVolume
from svdrr.ct.io import write_volume
from svdrr.ct.phantoms import ThoraxOptions, thorax_phantom
from svdrr.drr import AttenuationVolume, attenuation, from_display, make_renderer, to_display
from svdrr.drr.attenuation import EFFECTIVE_ENERGY_KEV
from svdrr.drr.display import WINDOWS, apply_window, remove_window
from svdrr.drr.materials import CT_ENERGY_KEV, attenuation_per_mm
from svdrr.errors import SVDRRError
from svdrr.geometry import CArmPose, Detector, View
from svdrr.images import read_radiograph

README = Path(__file__).parents[2] / "README.md"

# No deadline: on a busy machine one slow example is no failure.
quick = settings(max_examples=100, deadline=None)

# Mass attenuation, mu/rho in cm²/g at photon energies in keV, as published in NIST's X-Ray Mass Attenuation
# Coefficients, tables 3 and 4, and the densities of its tables 1 and 2 in g/cm³.
NIST_KEV = np.array([10, 15, 20, 30, 40, 50, 60, 80, 100, 150])
NIST = {
    "water": [5.329, 1.673, 0.8096, 0.3756, 0.2683, 0.2269, 0.2059, 0.1837, 0.1707, 0.1505],
    "cortical bone": [28.51, 9.032, 4.001, 1.331, 0.6655, 0.4242, 0.3148, 0.2229, 0.1855, 0.1480],
    "aluminum": [26.23, 7.955, 3.441, 1.128, 0.5685, 0.3681, 0.2778, 0.2018, 0.1704, 0.1378],
}
DENSITY = {"water": 1.0, "cortical bone": 1.92, "aluminum": 2.699}

# The same between the table's energies, from an independent tabulation: W. T. Elam, B. D. Ravel and J. R. Sieber,
# Radiat. Phys. Chem. 63(2), 2002, through the package xraydb, with ICRU-44's composition of cortical bone.
ELAM_KEV = np.array([12, 17, 25, 35, 45, 55, 70, 73, 90, 120, 135])
ELAM = {
    "water": [3.126, 1.203, 0.5082, 0.3075, 0.2436, 0.2149, 0.1929, 0.1898, 0.1766, 0.1614, 0.1556],
    "cortical bone": [17.03, 6.33, 2.158, 0.9061, 0.5189, 0.3601, 0.257, 0.245, 0.2008, 0.1656, 0.1557],
    "aluminum": [15.34, 5.513, 1.836, 0.7696, 0.4466, 0.3151, 0.2301, 0.2202, 0.1833, 0.1533, 0.1446],
}


def nist_per_mm(material: str, energy_kev: float) -> float:
    return NIST[material][NIST_KEV.tolist().index(energy_kev)] * DENSITY[material] / 10.0


def ct_of(*hu: float) -> CTVolume:
    return CTVolume(np.array(hu, np.float32).reshape(1, 1, -1), np.eye(4))


# --- What is refused ---------------------------------------------------------------------------------------

AIR = np.full((3, 4, 5), -1000.0, np.float32)


def changed(array: NDArray[Any], index: tuple[int, ...], value: float) -> NDArray[Any]:
    array = array.copy()
    array[index] = value
    return array


@pytest.mark.parametrize(
    ("hu", "affine", "reason"),
    [
        (changed(AIR, (1, 2, 3), np.nan), np.eye(4), "finite"),
        (changed(AIR, (1, 2, 3), np.inf), np.eye(4), "finite"),
        (changed(AIR, (1, 2, 3), -np.inf), np.eye(4), "finite"),
        (AIR[:0], np.eye(4), r"with voxels, not float32 \(0, 4, 5\)"),
        (AIR[0], np.eye(4), "float32 array"),
        (AIR.astype(np.float64), np.eye(4), "not float64"),
        (AIR.tolist(), np.eye(4), "not list"),
        (None, np.eye(4), "not NoneType"),
        (AIR, np.eye(3), "4 x 4"),
        (AIR, np.eye(4).tolist(), "4 x 4"),
        (AIR, np.eye(4).astype(str), "finite numbers"),
        (AIR, changed(np.eye(4), (0, 3), np.nan), "finite numbers"),
        (AIR, changed(np.eye(4), (0, 0), np.inf), "finite numbers"),
        (AIR, changed(np.eye(4), (0, 0), 0.0), "invertible"),
        (AIR, changed(np.eye(4), (3, 0), 1.0), "last row 0, 0, 0, 1"),
        (AIR, 2.0 * np.eye(4), "last row 0, 0, 0, 1"),
    ],
)
def test_what_is_no_ct_is_refused(hu: Any, affine: Any, reason: str) -> None:
    with pytest.raises(SVDRRError, match=reason) as refusal:
        CTVolume(hu, affine)
    assert_one_sentence(refusal.value)


def test_a_renderer_of_something_else_is_refused() -> None:
    for volume in (AIR, ct_of(0.0)):
        with pytest.raises(SVDRRError, match=f"needs an AttenuationVolume.*not {type(volume).__name__}") as refusal:
            make_renderer(volume)  # type: ignore[arg-type]
        assert str(refusal.value).endswith(".")


def test_the_corners_of_a_ct_are_those_of_its_outer_voxels() -> None:
    ct = CTVolume(AIR, np.diag([2.0, -3.0, 4.0, 1.0]))
    corners = ct.corners_ras
    assert corners.shape == (8, 3)
    np.testing.assert_array_equal(corners.min(axis=0), [-1.0, -10.5, -2.0])
    np.testing.assert_array_equal(corners.max(axis=0), [9.0, 1.5, 10.0])
    np.testing.assert_allclose(corners.mean(axis=0), ct.isocenter_ras)


# --- README ------------------------------------------------------------------------------------------------


def test_the_example_in_the_readme_works_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = README.read_text(encoding="utf-8").partition("\n## DRRs\n")[2].partition("\n## ")[0]
    code = section.partition("```python\n")[2].partition("```")[0]
    ct = thorax_phantom(1, ThoraxOptions(spacing_mm=10.0, table=True)).ct
    write_volume(tmp_path / "ct.nii.gz", ct.hu, ct.ijk_to_ras)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, README, "exec"), {})
    radiograph = read_radiograph(tmp_path / "drr.png")
    assert radiograph.pixels.shape == (512, 512)
    assert radiograph.pixels.max() > 0.3
    assert radiograph.provenance is not None
    assert radiograph.view is not None
    assert radiograph.view.pose.label == "LAO 30° CRAN 10°"


# --- Attenuation -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("material", NIST)
def test_materials_have_their_published_attenuation(material: str) -> None:
    expected = np.array(NIST[material]) * DENSITY[material] / 10.0
    np.testing.assert_allclose(attenuation_per_mm(material, NIST_KEV), expected, rtol=1e-9)


@pytest.mark.parametrize("material", ELAM)
def test_materials_between_the_energies_of_the_table(material: str) -> None:
    expected = np.array(ELAM[material]) * DENSITY[material] / 10.0
    np.testing.assert_allclose(attenuation_per_mm(material, ELAM_KEV), expected, rtol=3e-3)


@pytest.mark.parametrize("material", NIST)
def test_attenuation_falls_with_energy(material: str) -> None:
    assert (np.diff(attenuation_per_mm(material, np.linspace(10.0, 150.0, 1000))) < 0.0).all()


def test_default_beam_is_a_chest_beam() -> None:
    # Between the neighbours that NIST tabulates: a default in cm, or at the tube voltage, would be outside.
    (mu,) = attenuation(ct_of(0.0)).mu.ravel()
    assert nist_per_mm("water", 80) < mu < nist_per_mm("water", 60)
    # RQA 9: 11.6 mm of aluminum halve it.
    assert np.exp(-11.6 * attenuation_per_mm("aluminum", EFFECTIVE_ENERGY_KEV)) == pytest.approx(0.5, abs=0.005)


@pytest.mark.parametrize("energy_kev", [9.999, 150.001, 0.0, -60.0, np.nan, np.inf])
def test_energies_outside_the_table_are_refused(energy_kev: float) -> None:
    with pytest.raises(SVDRRError, match="10 to 150 keV"):
        attenuation_per_mm("aluminum", [60.0, energy_kev])
    with pytest.raises(SVDRRError, match="10 to 150 keV"):
        attenuation(ct_of(0.0), energy_kev)


@pytest.mark.parametrize("energy_kev", [30.0, EFFECTIVE_ENERGY_KEV, 120.0])
def test_hounsfield_units_scale_water(energy_kev: float) -> None:
    water = attenuation_per_mm("water", energy_kev)
    mu = attenuation(ct_of(0.0, 1000.0, -500.0, 3000.0), energy_kev).mu.ravel()
    np.testing.assert_allclose(mu, water * np.array([1.0, 2.0, 0.5, 4.0]), rtol=1e-6)


# --- Water and bone ----------------------------------------------------------------------------------------

BONE_HU = 1000.0 * float(attenuation_per_mm("cortical bone", 70.0) / attenuation_per_mm("water", 70.0) - 1.0)
hounsfield = st.floats(-1024.0, 4000.0, width=32)
energies = st.floats(10.0, 150.0)


def mu_of(hu: float, energy_kev: float, material: str) -> float:
    return float(attenuation(ct_of(hu), energy_kev, material).mu[0, 0, 0])


@pytest.mark.parametrize("energy_kev", [20, 40, 60, 100, 150])
def test_bone_attenuates_as_nist_says(energy_kev: int) -> None:
    bone = nist_per_mm("cortical bone", energy_kev)
    assert mu_of(BONE_HU, energy_kev, "water-bone") == pytest.approx(bone, rel=1e-5)
    # Half of it, in dense soft tissue: in the middle between 100 HU and the bone's.
    half = (1.1 * nist_per_mm("water", energy_kev) + bone) / 2.0
    assert mu_of((100.0 + BONE_HU) / 2.0, energy_kev, "water-bone") == pytest.approx(half, rel=1e-5)
    # What attenuates the CT's photons twice as much is twice as dense.
    assert mu_of(1000.0 + 2.0 * BONE_HU, energy_kev, "water-bone") == pytest.approx(2.0 * bone, rel=1e-5)


@quick
@given(st.floats(-1024.0, 100.0, width=32), energies)
def test_soft_tissue_is_water_in_both_models(hu: float, energy_kev: float) -> None:
    assert mu_of(hu, energy_kev, "water-bone") == pytest.approx(mu_of(hu, energy_kev, "water"), rel=1e-5)


@quick
@given(hounsfield)
def test_at_the_energy_of_the_ct_the_models_agree(hu: float) -> None:
    assert mu_of(hu, CT_ENERGY_KEV, "water-bone") == pytest.approx(mu_of(hu, CT_ENERGY_KEV, "water"), rel=2e-6)


@quick
@given(hounsfield, st.floats(0.0, 500.0), energies)
def test_water_and_bone_are_monotone_and_continuous(hu: float, step: float, energy_kev: float) -> None:
    first, second = (mu_of(value, energy_kev, "water-bone") for value in (hu, hu + step))
    steepest = attenuation_per_mm("cortical bone", energy_kev) / 1000.0
    assert -1e-6 * first <= second - first <= step * steepest + 1e-5 * second


def test_bone_weighs_more_below_the_energy_of_the_ct_and_less_above() -> None:
    assert mu_of(800.0, 40.0, "water-bone") > 1.2 * mu_of(800.0, 40.0, "water")
    assert mu_of(800.0, 120.0, "water-bone") < 0.95 * mu_of(800.0, 120.0, "water")


def test_unknown_materials_are_refused() -> None:
    with pytest.raises(SVDRRError, match="Unknown material model 'lead'; choose one of: water, water-bone"):
        attenuation(ct_of(0.0), 60.0, "lead")


# --- Air ---------------------------------------------------------------------------------------------------


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
    assert cropped.mu.base is not None
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
        make_renderer(v, "siddon").render(view) for v in (AttenuationVolume(framed, volume.ijk_to_ras), volume)
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


def test_white_comes_back_finite() -> None:
    white, before = from_display(np.array([1.0, 1.0 - 2.0**-24]))
    assert white == before == pytest.approx(5.0 * 24.0 * np.log(2.0), rel=1e-6)
    assert to_display(np.array([white]))[0] < 1.0


# --- Windows -----------------------------------------------------------------------------------------------


def test_the_full_window_is_the_display_mapping() -> None:
    gray = to_display(np.linspace(0.0, 40.0, 1001))
    np.testing.assert_array_equal(apply_window(gray, "full"), gray)
    np.testing.assert_array_equal(remove_window(gray, "full"), gray)


@pytest.mark.parametrize("window", sorted(set(WINDOWS) - {"full"}))
def test_windows_run_from_black_to_white_between_their_line_integrals(window: str) -> None:
    lower, upper = WINDOWS[window]
    shown = apply_window(to_display(np.array([0.0, lower, upper, 2.0 * upper])), window)
    np.testing.assert_allclose(shown, [0.0, 0.0, 1.0, 1.0], atol=1e-6)
    assert shown.min() >= 0.0
    assert shown.max() <= 1.0
    middle = np.array([(1.0 - np.exp(-lower / 5.0) + 1.0 - np.exp(-upper / 5.0)) / 2.0])
    assert apply_window(middle, window)[0] == pytest.approx(0.5, abs=1e-6)


@quick
@given(st.sampled_from(sorted(WINDOWS)), st.floats(0.0, 1.0, width=32))
def test_windows_round_trip(window: str, shown: float) -> None:
    gray = remove_window(np.array([shown]), window)
    assert apply_window(gray, window)[0] == pytest.approx(shown, abs=1e-6)


def test_what_a_window_clips_comes_back_as_its_limits() -> None:
    gray = to_display(np.array([0.1, 30.0]))
    back = from_display(remove_window(apply_window(gray, "bone"), "bone"))
    np.testing.assert_allclose(back, WINDOWS["bone"], rtol=1e-5)


def test_noise_in_air_is_black() -> None:
    assert apply_window(to_display(np.array([-0.1])), "full")[0] == 0.0


def test_unknown_windows_are_refused() -> None:
    for function in (apply_window, remove_window):
        with pytest.raises(SVDRRError, match="Unknown display window 'lung'; choose one of: full, chest"):
            function(np.zeros((2, 2)), "lung")
