"""Bringing any radiograph onto the field of view and gray scale that a model was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy.ndimage import binary_propagation

from svdrr.preparation import propose_margins
from svdrr.radiograph import Radiograph

ASSUMED_FILM_MM = 430.0
"""Longer side of a 35 x 43 cm chest cassette: what a radiograph without pixel spacing is taken to cover."""

SHOWN_PIXELS = 200
"""Rows of the pictures that `beside` makes; two such squares fit into a panel of Slicer."""

_BODY_LEVEL = 0.02  # of the brightest pixel

# Of a radiograph's gray range: what is connected with the image's border and no brighter than this is air.
_AIR_LEVEL = 0.06
# Markers, metal and defects are few pixels, and of extreme gray values.
_TRIMMED = 0.01
# Gray levels are told as well from so many pixels a side.
_ENOUGH_PIXELS = 512
_LEAST_BODY = 0.05


class SourceDomain(Protocol):
    """What `prepare_source` has to know of a model, such as a `svdrr.models.ModelDescription`."""

    @property
    def resolution(self) -> int:
        """Pixels per side."""

    @property
    def field_of_view_mm(self) -> float:
        """Side of the square detector."""

    @property
    def source_gray_levels(self) -> tuple[float, ...]:
        """Evenly spaced quantiles of the training source views inside the body."""


@dataclass(frozen=True)
class OfferedModel:
    """The `SourceDomain` of a model that a backend offers."""

    resolution: int
    field_of_view_mm: float
    source_gray_levels: tuple[float, ...]

    @classmethod
    def of(cls, capability: dict[str, Any]) -> OfferedModel | None:
        """From an entry of the capabilities' "models"; None if the backend is too old to tell."""
        if "source_gray_levels" not in capability:
            return None
        levels = tuple(map(float, capability["source_gray_levels"]))
        return cls(int(capability["resolution"]), float(capability["field_of_view_mm"]), levels)


def body_gray_levels(pixels: NDArray[np.float32], count: int = 33) -> NDArray[np.float64]:
    """`count` evenly spaced quantiles of the pixels that show the body (above the gray level of air)."""
    body = pixels[pixels > _BODY_LEVEL * pixels.max()]
    return np.quantile(body.astype(np.float64), np.linspace(0.0, 1.0, count))


def prepare_source(radiograph: Radiograph, model: SourceDomain) -> NDArray[np.float32]:
    """The model's input (resolution, resolution) in [0, 1], centered, at the model's pixel spacing.

    What lies outside the radiograph is air (0). Unknown pixel spacing: the longer side is taken to be
    `ASSUMED_FILM_MM`. Gray levels of radiographs that are not DRRs are matched, as a monotonic curve, to the
    quantiles of the model's training views; DRRs are on that scale already.
    """
    rows, columns = radiograph.pixels.shape
    assumed = ASSUMED_FILM_MM / max(rows, columns)
    row_mm, column_mm = radiograph.pixel_spacing_mm or (assumed, assumed)
    pixels = radiograph.pixels
    if not radiograph.has_drr_gray_scale:
        pixels = match_gray_levels(pixels, np.asarray(model.source_gray_levels))
    return _resampled(pixels, (row_mm, column_mm), model.field_of_view_mm, model.resolution)


def beside(radiograph: Radiograph, prepared: Radiograph, model: SourceDomain) -> NDArray[np.float32]:
    """A picture (200, 404) for people: a radiograph as it is on the left, and on the right what the model gets of the
    prepared one. Both on the gray scale from 0 to 1; between them a white line.
    """
    rows, columns = radiograph.pixels.shape
    given = prepare_source(prepared, model)
    return np.hstack(
        [
            _resampled(radiograph.pixels, (1.0, 1.0), max(rows, columns), SHOWN_PIXELS),
            np.ones((SHOWN_PIXELS, 4), np.float32),
            _resampled(given, (1.0, 1.0), model.resolution, SHOWN_PIXELS),
        ]
    )


def _resampled(
    pixels: NDArray[np.float32], spacing_mm: tuple[float, float], side_mm: float, count: int
) -> NDArray[np.float32]:
    """A square (count, count) of `side_mm` about the image's center; what lies outside of the image is 0."""
    rows, columns = pixels.shape
    row_mm, column_mm = spacing_mm
    pixel_mm = side_mm / count
    image = sitk.GetImageFromArray(pixels)
    image.SetSpacing((column_mm, row_mm))
    image.SetOrigin((-column_mm * (columns - 1) / 2.0, -row_mm * (rows - 1) / 2.0))
    # Averaging over a new pixel before sampling; without it, fine texture turns into aliasing.
    sigma_mm = 0.5 * np.sqrt(max(pixel_mm**2 - max(row_mm, column_mm) ** 2, 0.0))
    if sigma_mm > 0.0:
        image = sitk.DiscreteGaussian(image, variance=[sigma_mm**2, sigma_mm**2], useImageSpacing=True)
    first = -pixel_mm * (count - 1) / 2.0
    resampled = sitk.Resample(
        image,
        (count, count),
        sitk.Transform(2, sitk.sitkIdentity),
        sitk.sitkLinear,
        (first, first),
        (pixel_mm, pixel_mm),
    )
    return np.clip(sitk.GetArrayFromImage(resampled), 0.0, 1.0)


def match_gray_levels(pixels: NDArray[np.float32], levels: NDArray[np.float64]) -> NDArray[np.float32]:
    """Pixels whose quantiles inside the body are `levels`, evenly spaced; the order of gray values is kept.

    pixels: (rows, columns) in [0, 1], bright bone. The body is what neither `propose_margins` takes for shutters nor
    is air, dark and connected with the border; air becomes 0. Of the quantiles the outermost hundredths are not
    matched, since there are markers and metal, but led on to the last level.
    """
    step = max(1, max(pixels.shape) // _ENOUGH_PIXELS)
    body, air_level = _body(pixels[::step, ::step])
    places = np.linspace(_TRIMMED, 1.0 - _TRIMMED, len(levels))
    own, kept = np.unique(np.quantile(body.astype(np.float64), places), return_index=True)
    matched = np.interp(places, np.linspace(0.0, 1.0, len(levels)), levels)[kept]
    known = own > air_level
    brightest = max(float(pixels.max()), float(own[-1])) + 1e-6
    curve = [air_level, *own[known], brightest], [0.0, *matched[known], levels[-1]]
    return np.interp(pixels, *curve).astype(np.float32)


def _body(pixels: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    """The gray values of the body, and the highest of the air, 0 where there is none."""
    top, bottom, left, right = propose_margins(pixels)
    rows, columns = pixels.shape
    open_field = pixels[top : rows - bottom, left : columns - right]
    low, high = np.percentile(open_field, (0.5, 99.5))
    air_level = float(low + _AIR_LEVEL * (high - low))
    dark = open_field <= air_level
    border = np.ones_like(dark)
    border[1:-1, 1:-1] = False
    air = binary_propagation(dark & border, mask=dark)
    body = open_field[~air]
    if body.size < _LEAST_BODY * open_field.size:
        return open_field.ravel(), 0.0
    return body, air_level if air.any() else 0.0
