"""Radiographs are put right as stated: turned, cropped, inverted, with spacing and view that go along."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from svdrr.errors import SVDRRError
from svdrr.geometry import CArmPose, Detector, View
from svdrr.preparation import (
    FAINTEST_EXPOSURE,
    NO_MARGINS,
    Preparation,
    logarithmic,
    looks_inverted,
    prepare,
    propose_margins,
)
from svdrr.provenance import Provenance
from svdrr.radiograph import Radiograph

ROWS, COLUMNS = 20, 30
PIXELS = np.linspace(0.1, 0.9, ROWS * COLUMNS, dtype=np.float32).reshape(ROWS, COLUMNS)
TAKEN = Radiograph(PIXELS, (0.2, 0.5))
LATERAL = CArmPose(90.0, 0.0, (1.0, 2.0, 3.0))


def test_nothing_done_changes_no_pixel() -> None:
    prepared = prepare(TAKEN, Preparation())
    np.testing.assert_array_equal(prepared.pixels, PIXELS)
    assert prepared.pixel_spacing_mm == (0.2, 0.5)
    assert prepared.view == View(CArmPose(), Detector(ROWS, COLUMNS, (0.2, 0.5)))
    assert prepared.provenance is None


def test_a_quarter_turn_is_clockwise_and_takes_the_spacing_along() -> None:
    prepared = prepare(TAKEN, Preparation(quarter_turns=1))
    assert prepared.pixels[0, -1] == PIXELS[0, 0]
    assert prepared.pixels[-1, -1] == PIXELS[0, -1]
    assert prepared.pixel_spacing_mm == (0.5, 0.2)
    assert prepared.view is not None
    assert prepared.view.detector == Detector(COLUMNS, ROWS, (0.5, 0.2))


def test_four_quarter_turns_are_none() -> None:
    image = TAKEN
    for _ in range(4):
        image = prepare(image, Preparation(quarter_turns=1))
    np.testing.assert_array_equal(image.pixels, PIXELS)
    assert image.pixel_spacing_mm == (0.2, 0.5)


def test_it_turns_before_it_flips_and_flips_before_it_crops() -> None:
    prepared = prepare(TAKEN, Preparation(quarter_turns=1, flip=True, margins=(1, 2, 3, 1)))
    np.testing.assert_array_equal(prepared.pixels, PIXELS.T[1:-2, 3:-1])
    assert prepared.view is not None
    assert (prepared.view.detector.rows, prepared.view.detector.columns) == prepared.pixels.shape


def test_inverted_stays_in_range() -> None:
    prepared = prepare(TAKEN, Preparation(invert=True))
    np.testing.assert_array_equal(prepared.pixels, np.float32(1.0) - PIXELS)


def test_a_spacing_is_stated_only_where_it_is_unknown() -> None:
    stated = Preparation(quarter_turns=1, pixel_spacing_mm=(0.3, 0.4))
    assert prepare(TAKEN, stated).pixel_spacing_mm == (0.5, 0.2)
    assert prepare(replace(TAKEN, pixel_spacing_mm=None), stated).pixel_spacing_mm == (0.3, 0.4)


def test_without_any_spacing_there_is_no_view() -> None:
    prepared = prepare(
        replace(TAKEN, pixel_spacing_mm=None), Preparation(source_angles_deg=(90.0, 0.0), isocenter_ras=(1.0, 2.0, 3.0))
    )
    assert prepared.pixel_spacing_mm is None
    assert prepared.view is None


def test_the_stated_source_view_goes_before_the_own_one() -> None:
    own = replace(TAKEN, view=View(CArmPose(10.0), Detector(ROWS, COLUMNS, (0.2, 0.5))))
    assert prepare(own, Preparation()).view == own.view
    stated = prepare(own, Preparation(source_angles_deg=(90.0, 0.0), isocenter_ras=(1.0, 2.0, 3.0))).view
    assert stated is not None
    assert stated.pose == LATERAL


def test_a_crop_off_center_leaves_what_is_seen_on_its_rays() -> None:
    own = replace(TAKEN, view=View(LATERAL, Detector(ROWS, COLUMNS, (0.2, 0.5))))
    prepared = prepare(own, Preparation(margins=(1, 3, 6, 2)))
    assert prepared.pixels.shape == (ROWS - 2, COLUMNS - 4)
    assert own.view is not None
    assert prepared.view is not None
    # The pixel that was at row 9, column 11.
    np.testing.assert_allclose(
        prepared.view.detector_positions([[11 - 2, 9 - 1]]), own.view.detector_positions([[11, 9]]), atol=1e-9
    )
    assert prepared.pixels[8, 9] == PIXELS[9, 11]
    assert (prepared.pixels[:, :4] == 0.0).all()
    assert (prepared.pixels[-2:] == 0.0).all()


def test_the_logarithm_brings_back_line_integrals() -> None:
    """Beer-Lambert by hand: a tenth of the open beam is 2.302585, a thousandth three times that and the end."""
    exposure = np.array([[1.0, 0.1, 0.01, 0.001, 1e-5, 0.0]], np.float32)
    np.testing.assert_allclose(logarithmic(1.0 - exposure)[0], [0.0, 1 / 3, 2 / 3, 1.0, 1.0, 1.0], atol=1e-4)
    assert np.isclose(-np.log(FAINTEST_EXPOSURE), 3 * 2.302585)


def test_it_inverts_before_it_takes_the_logarithm() -> None:
    exposure = np.exp(-7.0 * PIXELS)
    prepared = prepare(replace(TAKEN, pixels=exposure), Preparation(invert=True, linear=True))
    np.testing.assert_allclose(prepared.pixels, np.minimum(7.0 * PIXELS / (3 * 2.302585), 1.0), atol=1e-4)
    drr = replace(TAKEN, provenance=Provenance("DRR (siddon)", "CT"))
    assert not prepare(drr, Preparation(linear=True)).has_drr_gray_scale


@pytest.mark.parametrize("moving", [Preparation(quarter_turns=1), Preparation(quarter_turns=2), Preparation(flip=True)])
def test_a_known_view_is_none_of_an_image_that_is_turned_or_flipped(moving: Preparation) -> None:
    own = replace(TAKEN, view=View(LATERAL, Detector(ROWS, COLUMNS, (0.2, 0.5))))
    prepared = prepare(own, moving)
    assert prepared.view is None
    assert prepared.pixel_spacing_mm is not None
    stated = prepare(own, replace(moving, source_angles_deg=(10.0, 0.0))).view
    assert stated is not None
    assert stated.pose == replace(LATERAL, primary_deg=10.0)
    assert prepare(own, Preparation(quarter_turns=4)).view == own.view


def test_a_view_position_that_is_no_pa_makes_no_view() -> None:
    lateral = replace(TAKEN, view_position="LL")
    prepared = prepare(lateral, Preparation(margins=(1, 1, 1, 1)))
    assert prepared.view is None
    assert prepared.pixel_spacing_mm == (0.2, 0.5)
    assert prepared.view_position == "LL"
    stated = prepare(lateral, Preparation(source_angles_deg=(90.0, 0.0)))
    assert stated.view_position == ""
    assert stated.source_pose == CArmPose(90.0)


def test_a_computed_image_says_that_it_was_moved() -> None:
    drr = replace(TAKEN, provenance=Provenance("DRR (siddon)", "CT", settings={"DisplayWindow": "full"}))
    turned = prepare(drr, Preparation(quarter_turns=3, margins=(1, 0, 2, 0)))
    again = prepare(turned, Preparation(flip=True))
    assert again.provenance is not None
    assert again.provenance.settings == {
        "DisplayWindow": "full",
        "Preparation": "turned 270, cropped 1 0 2 0, flipped",
    }
    assert prepare(drr, Preparation()).provenance == drr.provenance


def test_an_inverted_drr_no_longer_has_its_gray_scale() -> None:
    drr = replace(TAKEN, provenance=Provenance("DRR (siddon)", "CT"))
    assert prepare(drr, Preparation(quarter_turns=2)).has_drr_gray_scale
    inverted = prepare(drr, Preparation(invert=True))
    assert not inverted.has_drr_gray_scale
    assert inverted.provenance is not None


def test_impossible_preparations_are_refused() -> None:
    with pytest.raises(SVDRRError, match="cut off less"):
        prepare(TAKEN, Preparation(margins=(3, 2, 0, 0)))
    with pytest.raises(SVDRRError, match="from 0 on"):
        Preparation(margins=(-1, 0, 0, 0))
    with pytest.raises(SVDRRError, match="two positive numbers"):
        Preparation(pixel_spacing_mm=(0.1, 0.0))


@pytest.mark.parametrize("shutter", [0.0, 1.0])
@pytest.mark.parametrize("margins", [NO_MARGINS, (12, 5, 20, 9), (0, 0, 14, 0), (0, 30, 0, 0)])
def test_shutters_are_found(shutter: float, margins: tuple[int, int, int, int]) -> None:
    rng = np.random.default_rng(1)
    rows, columns = np.mgrid[:150, :120] / 120.0
    image = 0.5 + 0.35 * np.sin(5.0 * rows + 2.0) * np.cos(7.0 * columns)
    top, bottom, left, right = margins
    covered = np.full_like(image, shutter)
    inside = np.s_[top : 150 - bottom, left : 120 - right]
    covered[inside] = image[inside]
    noisy = np.clip(covered + rng.normal(0.0, 0.005, image.shape), 0.0, 1.0).astype(np.float32)
    assert propose_margins(noisy) == margins


@pytest.mark.parametrize("side", ["top", "bottom", "left", "right"])
def test_the_half_shadow_of_a_shutter_is_cut_off(side: str) -> None:
    """A shutter hidden but for its shadow: over 20 lines the open beam fades to a tenth."""
    rows, columns = np.mgrid[:400, :300] / 300.0
    integrals = 2.5 + 1.5 * np.sin(9.0 * rows + 2.0) * np.cos(11.0 * columns)
    shadow = np.interp(np.arange(400), [0, 20], [0.1, 1.0])
    turns = ["top", "left", "bottom", "right"].index(side)
    exposure = np.rot90(np.exp(-integrals), -turns) * shadow[: (400, 300)[turns % 2], None]
    pixels = (np.rot90(-np.log(exposure), turns) / 8.0).astype(np.float32)
    margins = dict(zip(("top", "bottom", "left", "right"), propose_margins(pixels), strict=True))
    assert 12 <= margins.pop(side) <= 20
    assert max(margins.values()) <= 2


def test_a_blank_image_has_no_shutters() -> None:
    assert propose_margins(np.full((40, 40), 0.5, np.float32)) == NO_MARGINS


def test_dark_bone_shows() -> None:
    _, columns = np.mgrid[:40, :40] / 40.0
    bright_spine = np.exp(-(((columns - 0.5) / 0.15) ** 2)).astype(np.float32)
    assert not looks_inverted(bright_spine)
    assert looks_inverted(1.0 - bright_spine)
