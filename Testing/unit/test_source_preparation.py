"""What a model gets of a radiograph: on its gray scale whatever the detector, the collimator and the markers did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.data import get_testdata_file

from svdrr.ct.phantoms import ThoraxOptions, thorax_phantom
from svdrr.drr import from_display
from svdrr.geometry import CArmPose, Detector, View
from svdrr.images import read_radiograph
from svdrr.preparation import Preparation, logarithmic, prepare, propose_margins
from svdrr.provenance import Provenance
from svdrr.radiograph import Radiograph
from svdrr.synthesis.preparation import OfferedModel, beside, body_gray_levels, match_gray_levels, prepare_source
from svdrr.synthesis.training.phantom_views import render_phantom

Image = NDArray[np.float32]
SPACING = Detector.square(256).pixel_spacing_mm


@pytest.fixture(scope="module")
def drr() -> Image:
    """The PA view of a phantom, 256 x 256, on the gray scale of DRRs, about the middle of its volume."""
    volume = thorax_phantom(1_000_003, ThoraxOptions(spacing_mm=2.25)).ct
    return render_phantom(1_000_003, lambda _: [CArmPose(isocenter_ras=volume.isocenter_ras)], 256)[0]


@pytest.fixture(scope="module")
def model(drr: Image) -> OfferedModel:
    """One that was trained on this phantom, so that what comes out has to be this phantom's DRR."""
    return OfferedModel(64, 480.0, tuple(body_gray_levels(drr).tolist()))


def film(drr: Image) -> Image:
    """As a CR shows it: logarithmic, on a curve of its own, air not at 0."""
    integrals = from_display(drr)
    return (0.1 + 0.8 * (integrals / integrals.max()) ** 0.7).astype(np.float32)


def with_noise(image: Image) -> Image:
    return np.clip(image + np.random.default_rng(1).normal(0.0, 0.004, image.shape), 0.0, 1.0).astype(np.float32)


def with_markers(image: Image) -> Image:
    marked = image.copy()
    marked[20:26, 20:32] = marked[180:184, 100:120] = 1.0
    return marked


def with_shutters(gray: float) -> Callable[[Image], Image]:
    def covered(image: Image) -> Image:
        shut = np.full_like(image, gray)
        shut[12:-20, 25:-8] = image[12:-20, 25:-8]
        return shut

    return covered


def with_saturated_air(image: Image) -> Image:
    return np.maximum(image - np.float32(0.13), 0.0)


CHANGES: dict[str, Callable[[Image], Image]] = {
    "as it is": lambda image: image,
    "noise": with_noise,
    "markers": with_markers,
    "bright shutters": with_shutters(1.0),
    "dark shutters": with_shutters(0.0),
    "saturated air": with_saturated_air,
    "all": lambda image: with_noise(with_shutters(1.0)(with_markers(with_saturated_air(image)))),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_film_of_a_phantom_becomes_its_drr(drr: Image, model: OfferedModel, change: str) -> None:
    """The gray values inside of the body come back, whatever covers a part of the film or is written on it."""
    changed = CHANGES[change](film(drr))
    matched = match_gray_levels(changed, np.asarray(model.source_gray_levels))
    untouched = np.abs(CHANGES[change](film(drr)) - film(drr)) < 0.15
    inside = (drr > 0.1) & untouched
    error = np.abs(matched - drr)[inside]
    # Where shutters hide a part of the body, its quantiles are others; a twentieth of the gray scale is left over.
    limit = 0.06 if "shutters" in change or change == "all" else 0.02
    assert np.median(error) < limit / 5.0, np.median(error)
    assert np.quantile(error, 0.95) < limit, np.quantile(error, 0.95)
    beside_body = (drr == 0.0) & untouched
    assert np.median(matched[beside_body]) < 0.02


def test_the_order_of_gray_values_is_kept_and_none_leaves_the_levels(drr: Image, model: OfferedModel) -> None:
    changed = CHANGES["all"](film(drr))
    matched = match_gray_levels(changed, np.asarray(model.source_gray_levels))
    order = np.argsort(changed.ravel(), kind="stable")
    assert (np.diff(matched.ravel()[order]) >= 0.0).all()
    assert matched.min() >= 0.0
    assert matched.max() <= model.source_gray_levels[-1] + 1e-6


def test_log_and_linear_signals_of_one_exposure_give_one_source(drr: Image, model: OfferedModel) -> None:
    integrals = from_display(drr)
    linear = Radiograph((1.0 - np.exp(-integrals)).astype(np.float32), SPACING)
    log = Radiograph((integrals / np.log(1000.0)).clip(0.0, 1.0).astype(np.float32), SPACING)
    from_linear = prepare_source(prepare(linear, Preparation(linear=True)), model)
    np.testing.assert_allclose(from_linear, prepare_source(log, model), atol=2e-3)
    np.testing.assert_allclose(logarithmic(linear.pixels), log.pixels, atol=1e-3)


def test_a_drr_goes_to_the_model_as_it_is(drr: Image, model: OfferedModel) -> None:
    view = View(CArmPose(), Detector.square(256))
    own = Radiograph(drr, SPACING, view, Provenance("DRR (joseph)", "phantom"))
    given = prepare_source(own, model)
    np.testing.assert_allclose(given, drr.reshape(64, 4, 64, 4).mean(axis=(1, 3)), atol=0.03)


def test_a_blank_film_stays_blank(model: OfferedModel) -> None:
    given = prepare_source(Radiograph(np.full((40, 50), 0.4, np.float32)), model)
    assert np.isfinite(given).all()
    assert np.ptp(given[20:44, 20:44]) < 1e-6


def test_the_real_radiograph_has_the_gray_levels_of_the_training(model: OfferedModel) -> None:
    path = get_testdata_file("RG1_UNCI.dcm")
    assert path is not None
    taken = read_radiograph(Path(path))
    margins = propose_margins(taken.pixels)
    # The shadows of the collimator, at the top and on the right.
    assert 20 <= margins[0] <= 60
    assert margins[1:3] == (0, 0)
    assert 4 <= margins[3] <= 50
    given = prepare_source(prepare(taken, Preparation(margins=margins)), model)
    levels = np.quantile(given[given > 0.02], (0.25, 0.5, 0.75))
    np.testing.assert_allclose(levels, np.quantile(model.source_gray_levels, (0.25, 0.5, 0.75)), atol=0.05)
    # Air beside the neck, and the spine.
    rows, columns = given.shape
    assert given[: rows // 2, columns // 2 - 3 : columns // 2 + 3].mean() > given[:, 16:24].mean()


def test_the_picture_shows_what_goes_in_and_what_comes_out(drr: Image, model: OfferedModel) -> None:
    model = replace(model, resolution=50)
    taken = Radiograph(film(drr)[20:176, 28:228], SPACING)
    prepared = prepare(taken, Preparation(invert=True))
    picture = beside(taken, prepared, model)
    assert picture.shape == (200, 404)
    assert (picture[:, 200:204] == 1.0).all()
    # 156 of 200 rows: 22 rows of nothing above and below.
    assert (picture[:21, :200] == 0.0).all()
    np.testing.assert_allclose(picture[22:178, :200], taken.pixels, atol=1e-5)
    # Enlarged, edges are a little softer.
    enlarged = picture[:, 204:].reshape(50, 4, 50, 4).mean(axis=(1, 3))
    assert np.abs(enlarged - prepare_source(prepared, model)).mean() < 0.01


def test_an_old_backend_does_not_say_what_its_models_get() -> None:
    entry = {"resolution": 64, "field_of_view_mm": 480.0}
    assert OfferedModel.of(entry) is None
    assert OfferedModel.of({**entry, "source_gray_levels": [0, 1]}) == OfferedModel(64, 480.0, (0.0, 1.0))
