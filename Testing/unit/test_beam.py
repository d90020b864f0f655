"""Spectra, their half-value layers, and what they make of slabs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svdrr.ct import CTVolume
from svdrr.drr.beam import Beam, monoenergetic, tube_beam
from svdrr.drr.materials import CT_ENERGY_KEV, attenuation_per_mm, read_data
from svdrr.drr.polyenergetic import make_beam_renderer
from svdrr.errors import SVDRRError
from svdrr.geometry import CArmPose, Detector, View

quick = settings(max_examples=50, deadline=None)

VOLTAGES = [40, 55, 70, 81, 100, 120, 150]
BONE_HU = 1000.0 * float(
    attenuation_per_mm("cortical bone", CT_ENERGY_KEV) / attenuation_per_mm("water", CT_ENERGY_KEV) - 1.0
)
# Straight down, so that every ray of the small detector runs nearly along the slabs' normal.
VIEW = View(CArmPose(0.0), Detector(3, 3, (0.01, 0.01)))


def slabs(*millimeters_and_hu: tuple[float, float]) -> CTVolume:
    """Slabs one behind the other from posterior to anterior, in voxels of 100 x 1 x 100 mm."""
    rows = [hu for millimeters, hu in millimeters_and_hu for _ in range(round(millimeters))]
    hu = np.array(rows, np.float32)[None, :, None]
    ijk_to_ras = np.diag([100.0, 1.0, 100.0, 1.0])
    ijk_to_ras[1, 3] = -len(rows) / 2.0
    return CTVolume(hu, ijk_to_ras)


def rendered(ct: CTVolume, beam: Beam, material: str, engine: str = "siddon") -> float:
    return float(make_beam_renderer(ct, beam, material, engine).render(VIEW)[1, 1])


def closed_form(beam: Beam, water_mm: float, bone_mm: float) -> float:
    """Beer-Lambert's law summed over the spectrum, in double precision."""
    water, bone = (attenuation_per_mm(name, beam.energies_kev) for name in ("water", "cortical bone"))
    return float(-np.log(np.array(beam.signal) @ np.exp(-water * water_mm - bone * bone_mm)))


# --- Spectra -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kvp", range(40, 151))
def test_spectra_end_at_the_tube_voltage(kvp: int) -> None:
    beam = tube_beam(kvp)
    assert beam.kvp == kvp
    assert kvp - 2.0 <= beam.energies_kev[-1] - 1.0 < kvp
    assert min(beam.signal) >= 0.0
    assert beam.signal[-1] > 0.0
    assert sum(beam.signal) == pytest.approx(1.0)


@pytest.mark.parametrize("kvp", VOLTAGES)
def test_half_value_layers_are_those_that_spekpy_computes(kvp: int) -> None:
    # SpekPy: bins of 0.5 keV and the coefficients of PENELOPE; here 2 keV and NIST's.
    stated = read_data("tube_spectra.json")["hvl_mm_al"][str(kvp)]
    assert tube_beam(kvp).half_value_layer_mm_al() == pytest.approx(stated, rel=0.015)


def test_half_value_layers_are_those_of_real_tubes() -> None:
    # 21 CFR 1020.30 (2001): with 2.5 mm Al and more, no diagnostic tube may have less, mm Al at kV. A tube with no
    # filter beyond that lies a little above.
    for kvp, least in ((80, 2.3), (100, 2.7), (120, 3.2), (150, 4.1)):
        assert least < tube_beam(kvp).half_value_layer_mm_al() < 1.35 * least


def test_characteristic_lines_of_tungsten() -> None:
    """K alpha at 58.0 and 59.3 keV, above the K edge's 69.5 kV only."""
    for kvp, expected in ((69, False), (100, True)):
        fluence = np.array(tube_beam(kvp).signal) / np.array(tube_beam(kvp).energies_kev)
        energies = np.array(tube_beam(kvp).energies_kev)
        alpha = fluence[(energies > 57.0) & (energies < 60.0)].max()
        around = fluence[(energies == 53.0) | (energies == 63.0)].max()
        assert (alpha > 1.5 * around) == expected


@pytest.mark.parametrize("kvp", VOLTAGES)
def test_effective_energy_has_the_half_value_layer(kvp: int) -> None:
    beam = tube_beam(kvp)
    energy = beam.effective_energy_kev()
    assert attenuation_per_mm("aluminum", energy) * beam.half_value_layer_mm_al() == pytest.approx(np.log(2.0))
    assert monoenergetic(energy).half_value_layer_mm_al() == pytest.approx(beam.half_value_layer_mm_al())


def test_photons_of_one_energy_in_numbers() -> None:
    # NIST, aluminum at 60 keV: 0.2778 cm²/g, 2.699 g/cm³.
    assert monoenergetic(60.0).half_value_layer_mm_al() == pytest.approx(10.0 * np.log(2.0) / (0.2778 * 2.699))
    assert monoenergetic(60.0).effective_energy_kev() == 60.0


def test_the_energy_of_a_ct_is_that_of_120_kv_in_20_cm_of_water() -> None:
    beam = tube_beam(120)
    mu = attenuation_per_mm("water", beam.energies_kev)
    arrives = np.array(beam.signal) * np.exp(-mu * 200.0)
    low, high = attenuation_per_mm("water", [CT_ENERGY_KEV + 2.0, CT_ENERGY_KEV - 2.0])
    assert low < arrives @ mu / arrives.sum() < high


@pytest.mark.parametrize("kvp", [39, 151, 0, -80, 80.5, np.nan, np.inf])
def test_other_tube_voltages_are_refused(kvp: float) -> None:
    with pytest.raises(SVDRRError, match="whole number of kV from 40 to 150"):
        tube_beam(kvp)  # type: ignore[arg-type]


@pytest.mark.parametrize("energy_kev", [9.9, 150.1, 0.0, -60.0, np.nan, np.inf])
def test_other_energies_are_refused(energy_kev: float) -> None:
    with pytest.raises(SVDRRError, match="10 to 150 keV"):
        monoenergetic(energy_kev)


# --- Line integrals ----------------------------------------------------------------------------------------

lengths = st.floats(0.0, 800.0, width=32)


@quick
@given(st.sampled_from(VOLTAGES), lengths, st.floats(0.0, 100.0, width=32))
def test_line_integrals_are_beer_lambert_over_the_spectrum(kvp: int, water_mm: float, bone_mm: float) -> None:
    beam = tube_beam(kvp)
    paths = {"water": np.array([[water_mm]], np.float32), "cortical bone": np.array([[bone_mm]], np.float32)}
    assert beam.line_integrals(paths)[0, 0] == pytest.approx(closed_form(beam, water_mm, bone_mm), rel=2e-6, abs=2e-6)


@quick
@given(st.floats(10.0, 150.0), lengths)
def test_one_energy_makes_line_integrals_linear(energy_kev: float, water_mm: float) -> None:
    path = np.array([[water_mm]], np.float32)
    expected = attenuation_per_mm("water", energy_kev) * water_mm
    assert monoenergetic(energy_kev).line_integrals({"water": path})[0, 0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kvp", VOLTAGES)
def test_the_beam_hardens(kvp: int) -> None:
    depths = np.linspace(0.0, 400.0, 81, dtype=np.float32)
    integrals = tube_beam(kvp).line_integrals({"water": depths})
    assert integrals[0] == 0.0
    assert not np.signbit(integrals[0])
    assert (np.diff(integrals) > 0.0).all()
    assert (np.diff(integrals.astype(float), 2) < 0.0)[:20].all()


# --- Slabs through the engine ------------------------------------------------------------------------------


@pytest.mark.parametrize("material", ["water", "water-bone"])
@pytest.mark.parametrize("beam", [monoenergetic(60.0), tube_beam(80)], ids=["60 keV", "80 kV"])
def test_a_slab_of_water(beam: Beam, material: str) -> None:
    assert rendered(slabs((200.0, 0.0)), beam, material) == pytest.approx(closed_form(beam, 200.0, 0.0), rel=1e-5)


@pytest.mark.parametrize("beam", [monoenergetic(60.0), tube_beam(80)], ids=["60 keV", "80 kV"])
def test_a_slab_of_bone_in_water(beam: Beam) -> None:
    ct = slabs((80.0, 0.0), (20.0, BONE_HU), (60.0, 0.0))
    assert rendered(ct, beam, "water-bone") == pytest.approx(closed_form(beam, 140.0, 20.0), rel=1e-5)
    dense_water = closed_form(beam, 140.0 + 20.0 * (1.0 + BONE_HU / 1000.0), 0.0)
    assert rendered(ct, beam, "water") == pytest.approx(dense_water, rel=1e-5)
    assert dense_water < 0.97 * closed_form(beam, 140.0, 20.0)


def test_slabs_in_numbers() -> None:
    # NIST at 60 keV: water 0.2059 cm²/g, bone 0.3148 cm²/g of 1.92 g/cm³; 14 cm and 2 cm.
    ct = slabs((80.0, 0.0), (20.0, BONE_HU), (60.0, 0.0))
    assert rendered(ct, monoenergetic(60.0), "water-bone") == pytest.approx(
        0.2059 * 14.0 + 0.3148 * 1.92 * 2.0, rel=1e-5
    )


def test_the_reference_engine_sees_the_same_spectrum() -> None:
    ct = slabs((40.0, 0.0), (20.0, BONE_HU))
    ours, reference = (rendered(ct, tube_beam(70), "water-bone", engine) for engine in ("siddon", "diffdrr"))
    assert ours == pytest.approx(reference, rel=1e-4)


def test_a_spectrum_keeps_air_at_zero() -> None:
    image = make_beam_renderer(slabs((30.0, -1000.0), (30.0, -1024.0)), tube_beam(120), "water-bone").render(VIEW)
    np.testing.assert_array_equal(image, np.zeros((3, 3)))


def test_unknown_materials_are_refused() -> None:
    for beam in (monoenergetic(), tube_beam(120)):
        with pytest.raises(SVDRRError, match="Unknown material model"):
            make_beam_renderer(slabs((30.0, 0.0)), beam, "lead")
