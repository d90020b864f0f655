"""A radiograph as people have it, put right: upright, bright bone, cropped, with pixel spacing and source view."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from svdrr.errors import SVDRRError
from svdrr.geometry import CArmPose, Detector, View
from svdrr.provenance import Provenance
from svdrr.radiograph import Radiograph

Margins = tuple[int, int, int, int]
"""Pixels to cut off at the top, bottom, left and right."""

NO_MARGINS: Margins = (0, 0, 0, 0)

_LEAST_PIXELS = 16
# A line of pixels that differ by no more than this part of the gray range lies behind a shutter; noise does not count.
_SHUTTER_CONTRAST = 0.04
_SHUTTER_PERCENTILES = (2.0, 98.0)
# In a shutter's half-shadow, which is this part of the image wide or wider, nearly all pixels of a line are brighter
# than those so much further in.
_SHADOW_WIDTH = 0.02
_SHADOWED_PIXELS = 0.9
# Shadows farther in than this part of the image are none of shutters.
_SHADOW_DEPTH = 0.125

FAINTEST_EXPOSURE = 1e-3
"""Part of the open beam below which a detector shows noise: about 7 optical depths."""


@dataclass(frozen=True)
class Preparation:
    """What is done to a radiograph, in this order, see `prepare`.

    quarter_turns: by 90 degrees, clockwise. flip: left and right change places. margins: to cut off from the image as
    it is then. invert: dark becomes bright. linear: the gray values, with bright bone, fall in proportion to the
    exposure, and are made logarithmic, see `logarithmic`. pixel_spacing_mm: (row, column) of the image as it is then,
    used where the radiograph's own is unknown. source_angles_deg: (primary, secondary) of the pose that it was taken
    from, and isocenter_ras: RAS mm, of that pose; None for those of the radiograph's own view, or of PA about the
    origin where it has none.
    """

    quarter_turns: int = 0
    flip: bool = False
    margins: Margins = NO_MARGINS
    invert: bool = False
    linear: bool = False
    pixel_spacing_mm: tuple[float, float] | None = None
    source_angles_deg: tuple[float, float] | None = None
    isocenter_ras: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        if min(self.margins) < 0:
            raise SVDRRError(f"The margins to cut off are numbers of pixels from 0 on, not {self.margins}.")
        spacing = self.pixel_spacing_mm
        if spacing is not None and not (np.isfinite(spacing).all() and min(spacing) > 0.0):
            raise SVDRRError(f"A pixel spacing is two positive numbers in mm, not {spacing}.")


def source_pose(radiograph: Radiograph, preparation: Preparation) -> CArmPose:
    """Where the radiograph was taken from, as far as is known or stated; else PA about the origin."""
    pose = radiograph.view.pose if radiograph.view else CArmPose()
    if preparation.source_angles_deg is not None:
        primary_deg, secondary_deg = preparation.source_angles_deg
        pose = replace(pose, primary_deg=primary_deg, secondary_deg=secondary_deg)
    if preparation.isocenter_ras is not None:
        pose = replace(pose, isocenter_ras=preparation.isocenter_ras)
    return pose


def prepare(radiograph: Radiograph, preparation: Preparation) -> Radiograph:
    """The radiograph with everything done to it. It has a view wherever its pixel spacing is known, and its pose.

    The pose is unknown, unless it is stated, of a radiograph whose view position is neither PA nor AP, and of one that
    knows its view, but is turned or flipped: no view of ours is upside down or mirrored.
    What is left of a crop is centered, but for a radiograph that knows its view: a view's detector is centered on the
    central ray, so there a crop off center is filled up with air (0) to the smallest image about the same center.
    SVDRRError if hardly anything would be left.
    """
    turned = preparation.quarter_turns % 2 == 1
    moved = preparation.quarter_turns % 4 != 0 or preparation.flip
    stated = preparation.source_angles_deg is not None
    posed = stated or not (moved if radiograph.view else radiograph.view_position)
    pixels = np.rot90(radiograph.pixels, -preparation.quarter_turns)
    if preparation.flip:
        pixels = pixels[:, ::-1]
    if preparation.invert:
        pixels = np.float32(1.0) - pixels
    if preparation.linear:
        pixels = logarithmic(pixels)
    pixels = _cropped(pixels, preparation.margins, keep_center=radiograph.view is not None)

    spacing = radiograph.pixel_spacing_mm
    spacing = (spacing[::-1] if turned else spacing) if spacing else preparation.pixel_spacing_mm
    view = None
    if spacing is not None and posed:
        rows, columns = pixels.shape
        view = View(source_pose(radiograph, preparation), Detector(rows, columns, spacing))
    pixels = np.ascontiguousarray(pixels, np.float32)
    provenance = _provenance(radiograph.provenance, preparation)
    return Radiograph(pixels, spacing, view, provenance, "" if stated else radiograph.view_position)


def logarithmic(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Gray values in [0, 1] that rise with the attenuation, from ones that fall in proportion to the exposure.

    pixels: 1 − I/I₀, any shape, bright bone. By Beer-Lambert −ln(I/I₀) is the line integral of μ; it is divided by its
    value at `FAINTEST_EXPOSURE`, and what is fainter becomes 1.
    """
    exposure = np.maximum(1.0 - pixels, np.float32(FAINTEST_EXPOSURE))
    return np.asarray(np.log(exposure) / np.float32(np.log(FAINTEST_EXPOSURE)), np.float32)


def propose_margins(pixels: NDArray[np.float32]) -> Margins:
    """What the collimator's shutters cover, as far as it shows: at each border, the lines of one even gray, and those
    in a shutter's half-shadow, which grow brighter towards the border all along.

    pixels: (rows, columns), bright bone. A proposal for people to look at: shutters that are tilted, or marked all
    over, are missed.
    """
    # Every fourth pixel of a line tells as much, and a radiograph has millions.
    low, high = np.percentile(pixels[::4, ::4], (0.5, 99.5))
    limit = _SHUTTER_CONTRAST * float(high - low)
    return (*_covered_lines(pixels[:, ::4], limit), *_covered_lines(pixels.T[:, ::4], limit))


def looks_inverted(pixels: NDArray[np.float32]) -> bool:
    """Whether bone seems to be dark: the middle third of the columns is darker than those beside.

    In views of the trunk, from all sides, spine and mediastinum lie in the middle, lungs and air beside. A guess from
    the gray values, for people to decide.
    """
    third = pixels.shape[1] // 3
    beside = np.concatenate([pixels[:, :third], pixels[:, -third:]], axis=1)
    return bool(pixels[:, third:-third].mean() < beside.mean())


def _cropped(pixels: NDArray[np.float32], margins: Margins, keep_center: bool) -> NDArray[np.float32]:
    top, bottom, left, right = margins
    rows, columns = pixels.shape
    if rows - top - bottom < _LEAST_PIXELS or columns - left - right < _LEAST_PIXELS:
        raise SVDRRError(
            f"Of {rows} x {columns} pixels, the crop leaves fewer than {_LEAST_PIXELS} x {_LEAST_PIXELS}; cut off less."
        )
    if not keep_center:
        return pixels[top : rows - bottom, left : columns - right]
    filled = np.zeros_like(pixels)
    inside = np.s_[top : rows - bottom, left : columns - right]
    filled[inside] = pixels[inside]
    vertical, horizontal = min(top, bottom), min(left, right)
    return filled[vertical : rows - vertical, horizontal : columns - horizontal]


def _provenance(origin: Provenance | None, preparation: Preparation) -> Provenance | None:
    """That of a computed image says if its gray scale and its frame are no longer those of its method."""
    if origin is None:
        return None
    settings = dict(origin.settings)
    done = [name for name, is_done in (("inverted", preparation.invert), ("logarithm", preparation.linear)) if is_done]
    if done:
        settings["DisplayWindow"] = ", ".join(done)
    turn = 90 * (preparation.quarter_turns % 4)
    steps = [f"turned {turn}"] * (turn > 0) + ["flipped"] * preparation.flip
    if preparation.margins != NO_MARGINS:
        steps.append("cropped " + " ".join(map(str, preparation.margins)))
    if steps:
        earlier = [settings["Preparation"]] if "Preparation" in settings else []
        settings["Preparation"] = ", ".join(earlier + steps)
    return replace(origin, settings=settings)


def _covered_lines(pixels: NDArray[np.float32], limit: float) -> tuple[int, int]:
    """How many rows at the top and at the bottom are even or in half-shadow; none where all are even."""
    low, high = np.percentile(pixels, _SHUTTER_PERCENTILES, axis=1)
    even = high - low <= limit
    if even.all():
        return 0, 0
    top, bottom = even | _in_half_shadow(pixels, limit), even[::-1] | _in_half_shadow(pixels[::-1], limit)
    return int(np.argmin(top)), int(np.argmin(bottom))


def _in_half_shadow(pixels: NDArray[np.float32], limit: float) -> NDArray[np.bool_]:
    """Which rows, counted from the top, are in the half-shadow of a shutter there."""
    width = max(2, round(_SHADOW_WIDTH * len(pixels)))
    depth = min(round(_SHADOW_DEPTH * len(pixels)), len(pixels) - width)
    brighter = pixels[:depth] > pixels[width : depth + width] + np.float32(limit / 2.0)
    shadowed = np.zeros(len(pixels), bool)
    shadowed[:depth] = brighter.mean(axis=1) >= _SHADOWED_PIXELS
    return shadowed
