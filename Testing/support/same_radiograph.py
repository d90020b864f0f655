"""Equality of radiographs, bit for bit."""

from __future__ import annotations

import numpy as np

from svdrr.radiograph import Radiograph


def assert_same(result: Radiograph, expected: Radiograph) -> None:
    np.testing.assert_array_equal(result.pixels, expected.pixels)
    assert result.pixels.dtype == np.float32
    assert result.pixel_spacing_mm == expected.pixel_spacing_mm
    assert result.view == expected.view
    assert result.provenance == expected.provenance
