"""Super-resolution of a radiograph by method name."""

from __future__ import annotations

from dataclasses import replace

from svdrr.errors import SVDRRError
from svdrr.geometry import Detector, View
from svdrr.provenance import enhanced
from svdrr.radiograph import Radiograph
from svdrr.superres import interpolation

METHODS = interpolation.METHODS
SCALES = (2, 4)


def check_method(method: str, scale: int) -> None:
    """SVDRRError unless `method` and `scale` are on offer."""
    if method not in METHODS:
        raise SVDRRError(f"Unknown super-resolution method '{method}'; choose one of: {', '.join(METHODS)}.")
    if scale not in SCALES:
        raise SVDRRError(f"The scale must be {' or '.join(map(str, SCALES))}, not {scale}.")


def enhance(radiograph: Radiograph, method: str = "lanczos", scale: int = 2) -> Radiograph:
    """The radiograph with `scale` times as many rows and columns over the same physical extent.

    method: one of `METHODS`. Raises SVDRRError for an unknown method or scale.
    """
    check_method(method, scale)
    return Radiograph(
        pixels=interpolation.interpolate(radiograph.pixels, scale, method),
        pixel_spacing_mm=_divided(radiograph.pixel_spacing_mm, scale),
        view=_with_finer_detector(radiograph.view, scale),
        provenance=enhanced(radiograph.provenance, radiograph.pixels_sha256(), method, scale),
        view_position=radiograph.view_position,
    )


def _divided(spacing_mm: tuple[float, float] | None, scale: int) -> tuple[float, float] | None:
    return (spacing_mm[0] / scale, spacing_mm[1] / scale) if spacing_mm else None


def _with_finer_detector(view: View | None, scale: int) -> View | None:
    if view is None:
        return None
    old = view.detector
    row_mm, column_mm = old.pixel_spacing_mm
    detector = Detector(old.rows * scale, old.columns * scale, (row_mm / scale, column_mm / scale))
    return replace(view, detector=detector)
