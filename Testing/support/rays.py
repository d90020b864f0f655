"""The rays of a view from its pose's axes alone: nothing here shares code with the engines or projection matrices."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from svdrr.geometry import View


def rays(view: View) -> NDArray[np.float64]:
    """Unit vectors (rows, columns, 3), RAS, from the source to the pixels."""
    right, down = view.pose.image_axes
    row_mm, column_mm = view.detector.pixel_spacing_mm
    columns = (np.arange(view.detector.columns) - (view.detector.columns - 1) / 2.0) * column_mm
    rows = (np.arange(view.detector.rows) - (view.detector.rows - 1) / 2.0) * row_mm
    centers = view.pose.detector_center_ras + columns[None, :, None] * right + rows[:, None, None] * down
    directions = centers - view.pose.source_ras
    return np.asarray(directions / np.linalg.norm(directions, axis=-1, keepdims=True))
