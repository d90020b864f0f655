"""Radiographs: reading what people have, writing 16-bit PNG and float NRRD with their provenance."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from svdrr.errors import SVDRRError
from svdrr.files import whole_file
from svdrr.geometry import View
from svdrr.provenance import Provenance


@dataclass(frozen=True, eq=False)
class Radiograph:
    """One projection image.

    pixels: float32 (rows, columns), row 0 at the top, in [0, 1], bright bone. pixel_spacing_mm: (row, column) at
    the detector, or None where it is unknown. view: pose and detector, where known. provenance: None for an image
    that was taken, not computed.
    """

    pixels: NDArray[np.float32]
    pixel_spacing_mm: tuple[float, float] | None = None
    view: View | None = None
    provenance: Provenance | None = None

    def pixels_sha256(self) -> str:
        """Hash of the pixel values alone: names a source without naming a patient."""
        return hashlib.sha256(np.ascontiguousarray(self.pixels).tobytes()).hexdigest()
