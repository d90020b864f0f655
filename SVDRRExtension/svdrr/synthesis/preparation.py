"""Bringing any radiograph onto the field of view and gray scale that a model was trained on."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from svdrr.models import ModelDescription
from svdrr.radiograph import Radiograph

ASSUMED_FILM_MM = 430.0
"""Longer side of a 35 x 43 cm chest cassette: what a radiograph without pixel spacing is taken to cover."""

_BODY_LEVEL = 0.02  # of the brightest pixel


def body_gray_levels(pixels: NDArray[np.float32], count: int = 33) -> NDArray[np.float64]:
    """`count` evenly spaced quantiles of the pixels that show the body (above the gray level of air)."""
    body = pixels[pixels > _BODY_LEVEL * pixels.max()]
    return np.quantile(body.astype(np.float64), np.linspace(0.0, 1.0, count))


def prepare_source(radiograph: Radiograph, model: ModelDescription) -> NDArray[np.float32]:
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
    model_mm = model.field_of_view_mm / model.resolution

    image = sitk.GetImageFromArray(pixels)
    image.SetSpacing((column_mm, row_mm))
    image.SetOrigin((-column_mm * (columns - 1) / 2.0, -row_mm * (rows - 1) / 2.0))
    # Averaging over a model pixel before sampling; without it, fine texture turns into aliasing.
    sigma_mm = 0.5 * np.sqrt(max(model_mm**2 - max(row_mm, column_mm) ** 2, 0.0))
    if sigma_mm > 0.0:
        image = sitk.DiscreteGaussian(image, variance=[sigma_mm**2, sigma_mm**2], useImageSpacing=True)
    first = -model_mm * (model.resolution - 1) / 2.0
    resampled = sitk.Resample(
        image,
        (model.resolution, model.resolution),
        sitk.Transform(2, sitk.sitkIdentity),
        sitk.sitkLinear,
        (first, first),
        (model_mm, model_mm),
    )
    return np.clip(sitk.GetArrayFromImage(resampled), 0.0, 1.0)


def match_gray_levels(pixels: NDArray[np.float32], levels: NDArray[np.float64]) -> NDArray[np.float32]:
    """Pixels whose quantiles inside the body are `levels`; the order of gray values is kept."""
    own, kept = np.unique(body_gray_levels(pixels, len(levels)), return_index=True)
    return np.interp(pixels, [0.0, *own], [0.0, *levels[kept]]).astype(np.float32)
