"""Blur and quantum noise of the detector."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from svdrr.ct import CTVolume
from svdrr.drr.beam import tube_beam
from svdrr.drr.detector import DetectorModel, noise_generator
from svdrr.errors import SVDRRError
from svdrr.geometry import CArmPose, Detector
from svdrr.render import Imaging, render_drrs

quick = settings(max_examples=30, deadline=None)


def exposed(
    line_integrals: NDArray[np.floating],
    model: DetectorModel,
    spacing_mm: tuple[float, float] = (1.0, 1.0),
    seed: int = 0,
) -> NDArray[np.float64]:
    image = model.expose(line_integrals.astype(np.float32), spacing_mm, noise_generator(seed, 0))
    assert image.dtype == np.float32
    return image.astype(float)


def ball() -> CTVolume:
    z, y, x = np.mgrid[-8:9, -8:9, -8:9]
    hu = np.where(x**2 + y**2 + z**2 < 49, 40.0, -1000.0).astype(np.float32)
    ijk_to_ras = np.diag([10.0, 10.0, 10.0, 1.0])
    ijk_to_ras[:3, 3] = -80.0
    return CTVolume(hu, ijk_to_ras)


# --- Noise -------------------------------------------------------------------------------------------------


@quick
@given(st.floats(0.0, 3.0), st.sampled_from([2_000.0, 30_000.0, 1e6]), st.integers(0, 2**32))
def test_noise_has_the_variance_of_counting(line_integral: float, photons: float, seed: int) -> None:
    image = exposed(np.full((200, 200), line_integral), DetectorModel(photons), seed=seed)
    counted = photons * np.exp(-line_integral)
    # The delta method's next term is 1.5/N²; five standard errors of a variance and of a mean over 40,000 pixels.
    assert image.var() == pytest.approx(1.0 / counted, rel=5.0 * np.sqrt(2.0 / 40_000.0) + 2.0 / counted)
    assert image.mean() == pytest.approx(line_integral + 0.5 / counted, abs=5.0 / np.sqrt(40_000.0 * counted) + 1e-6)


def test_noise_is_white() -> None:
    image = exposed(np.full((300, 300), 1.0), DetectorModel(10_000.0, blur_fwhm_mm=3.0))
    noise = image - image.mean()
    for neighbors in ((noise[1:] * noise[:-1]), (noise[:, 1:] * noise[:, :-1])):
        assert abs(neighbors.mean()) < 5.0 / 300.0 * noise.var()


def test_a_pixel_without_photons_counts_half_of_one() -> None:
    image = exposed(np.full((4, 4), 60.0), DetectorModel(1_000.0))
    np.testing.assert_allclose(image, np.log(2_000.0), rtol=1e-6)


def test_noise_belongs_to_the_view_and_the_seed() -> None:
    def draws(seed: int, view: int) -> list[float]:
        return noise_generator(seed, view).random(4).tolist()

    assert draws(3, 5) == draws(3, 5)
    assert len({tuple(draws(seed, view)) for seed in range(4) for view in range(4)}) == 16


def test_noise_of_a_view_depends_on_no_other_view() -> None:
    imaging = Imaging(detector_model=DetectorModel(500.0), seed=4)
    poses = [CArmPose(angle) for angle in (0.0, 20.0, 40.0, 60.0)]
    detector = Detector.square(32)
    all_four = [values for _, values in render_drrs(ball(), poses, detector, imaging=imaging)]
    first_two = [values for _, values in render_drrs(ball(), poses[:2], detector, imaging=imaging)]
    np.testing.assert_array_equal(all_four[:2], first_two)
    (same_pose_twice,) = {
        bool((first == second).all())
        for (_, first), (_, second) in [render_drrs(ball(), [poses[0]] * 2, detector, imaging=imaging)]
    }
    assert not same_pose_twice


# --- Blur --------------------------------------------------------------------------------------------------


@quick
@given(st.floats(2.5, 8.0), st.sampled_from([(1.0, 1.0), (0.5, 1.0), (1.0, 0.7)]))
def test_blur_is_a_gaussian_of_its_width_in_millimeters(fwhm_mm: float, spacing_mm: tuple[float, float]) -> None:
    transmission = np.full((121, 121), 1e-8)
    transmission[60, 60] = 1.0
    image = exposed(-np.log(transmission), DetectorModel(blur_fwhm_mm=fwhm_mm), spacing_mm)
    spread = np.exp(-image) - 1e-8
    assert spread.sum() == pytest.approx(1.0, rel=1e-3)
    expected = (fwhm_mm / 2.35482) ** 2
    for axis, step_mm in enumerate(spacing_mm):
        profile = spread.sum(axis=1 - axis)
        positions = (np.arange(121) - 60) * step_mm
        assert profile @ positions**2 / profile.sum() == pytest.approx(expected, rel=0.02)


def test_the_edge_of_a_slab_falls_within_the_full_width() -> None:
    """A Gaussian of FWHM w takes a step from 12 % to 88 % over w: ±1.1774 σ."""
    transmission = np.where(np.arange(200) < 100, 0.2, 1.0)
    image = exposed(-np.log(np.tile(transmission, (20, 1))), DetectorModel(blur_fwhm_mm=2.0), (0.1, 0.1))
    step = (np.exp(-image[10]) - 0.2) / 0.8
    # The step is half a pixel before pixel 100.
    np.testing.assert_allclose(np.interp([89.5, 99.5, 109.5], np.arange(200), step), [0.1195, 0.5, 0.8805], atol=2e-3)


def test_blur_keeps_the_signal_up_to_the_edges() -> None:
    line_integrals = np.random.default_rng(1).random((40, 50)) * 4.0
    image = exposed(line_integrals, DetectorModel(blur_fwhm_mm=5.0))
    assert np.exp(-image).mean() == pytest.approx(np.exp(-line_integrals).mean(), rel=1e-6)
    assert image.std() < 0.3 * line_integrals.std()


def test_blur_mixes_intensities_not_line_integrals() -> None:
    transmission = np.tile([1.0, np.exp(-6.0)], (200, 100))
    image = exposed(-np.log(transmission), DetectorModel(blur_fwhm_mm=10.0))
    np.testing.assert_allclose(image[100, 95:105], -np.log((1.0 + np.exp(-6.0)) / 2.0), atol=1e-3)


def test_the_ideal_detector_changes_nothing() -> None:
    line_integrals = np.random.default_rng(1).random((5, 6)).astype(np.float32)
    np.testing.assert_array_equal(
        DetectorModel().expose(line_integrals, (1.0, 1.0), noise_generator(0, 0)), line_integrals
    )


# --- What is refused, what is recorded ---------------------------------------------------------------------


@pytest.mark.parametrize("photons", [0.0, -1.0, np.nan, np.inf, 1.1e12])
def test_impossible_photons_are_refused(photons: float) -> None:
    with pytest.raises(SVDRRError, match=r"photons per pixel must lie above 0 and up to 1e12"):
        DetectorModel(photons)


@pytest.mark.parametrize("blur", [-0.1, np.nan, np.inf, 50.1])
def test_impossible_blur_is_refused(blur: float) -> None:
    with pytest.raises(SVDRRError, match="blur must lie in 0 to 50 mm"):
        DetectorModel(blur_fwhm_mm=blur)


def test_impossible_imaging_is_refused() -> None:
    with pytest.raises(SVDRRError, match="seed must not be negative, not -1"):
        Imaging(seed=-1)
    with pytest.raises(SVDRRError, match="Unknown output 'both'; choose one of: log, linear"):
        Imaging(output="both")
    with pytest.raises(SVDRRError, match="Unknown material model 'lead'"):
        Imaging(material="lead")
    with pytest.raises(SVDRRError, match="Unknown display window 'lung'"):
        Imaging(window="lung")


def test_everything_is_in_the_provenance() -> None:
    imaging = Imaging(tube_beam(90), "water-bone", DetectorModel(900.0, 0.4), 7, "linear", "bone")
    ((radiograph, values),) = render_drrs(ball(), [CArmPose()], Detector.square(16), imaging=imaging)
    assert radiograph.provenance is not None
    assert radiograph.provenance.seed == 7
    assert radiograph.provenance.settings == {
        "TubeVoltage": "90 kV",
        "Spectrum": "tungsten anode of 12 degrees, 2.5 mm Al, SpekPy 2.5.4; energy-integrating detector",
        "HalfValueLayer": f"{tube_beam(90).half_value_layer_mm_al():.2f} mm Al",
        "EffectiveEnergy": f"{tube_beam(90).effective_energy_kev():.1f} keV before the patient",
        "Material": "water-bone",
        "Scatter": "none: primary radiation only",
        "AirPhotonsPerPixel": "900",
        "DetectorBlurFWHM": "0.4 mm",
        "NRRDValues": "transmission I/I0",
        "DisplayWindow": "bone",
    }
    assert values.mean() > 0.3  # most of it is air


def test_linear_output_is_transmission() -> None:
    ((_, log),) = render_drrs(ball(), [CArmPose()], Detector.square(32))
    ((_, linear),) = render_drrs(ball(), [CArmPose()], Detector.square(32), imaging=Imaging(output="linear"))
    assert linear.max() == 1.0
    np.testing.assert_allclose(-np.log(linear), log, atol=1e-5)
