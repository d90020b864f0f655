"""What a detector with larger pixels makes of a radiograph: the degradation that super-resolution undoes.

It is X-ray's own, not photography's: intensities are blurred by the scintillator, collected by larger pixels, counted
as photons, and digitized. Scale, blur, exposure and bits are all that is assumed; there is no sharpening and no JPEG.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from svdrr.drr.detector import DetectorModel
from svdrr.drr.display import from_display, to_display
from svdrr.errors import SVDRRError
from svdrr.preparation import FAINTEST_EXPOSURE
from svdrr.radiograph import Radiograph

BITS = range(8, 17)
OPEN_BEAM_PHOTONS_PER_MM2 = 3.1e6
"""Of a chest radiograph, about: 100 µGy beside the patient, of which 1 to 5 µGy are left behind, with the 31,000
photons per mm² and µGy of the beam quality RQA 9 (IEC 62220-1-1)."""
_WHITE = np.float32(-math.log(FAINTEST_EXPOSURE))


def _from_logarithmic(gray: NDArray[np.float32]) -> NDArray[np.float32]:
    """Line integrals, of which `svdrr.preparation.logarithmic` makes such gray values."""
    return _WHITE * gray


def _to_logarithmic(line_integrals: NDArray[np.float32]) -> NDArray[np.float32]:
    return line_integrals / _WHITE


GRAY_SCALES = {"drr": (from_display, to_display), "logarithmic": (_from_logarithmic, _to_logarithmic)}
"""Line integrals from gray values, and back: those of `svdrr.drr.to_display`, and proportional to line integrals.

The latter suits radiographs whose display mapping is unknown.
"""


def gray_scale_of(radiograph: Radiograph) -> str:
    """Which of `GRAY_SCALES` to take for it."""
    return "drr" if radiograph.has_drr_gray_scale else "logarithmic"


_STRIP_ROWS = 64
# Of a Gaussian, which the detector cuts off at 5 standard deviations, in full widths at half maximum.
_BLUR_REACH = 5.0 / 2.355
_NO_NOISE = np.random.default_rng(0)


@dataclass(frozen=True)
class Degradation:
    """A detector whose pixels are `scale` times as wide and as high.

    blur_fwhm_pixels: full width at half maximum of the point spread, in the widths of its pixels; 0.6 has a modulation
    transfer of 0.53 at the pixels' Nyquist frequency, to which their width adds a factor of 0.64. air_photons: mean
    count of a pixel in the open beam, or None for no noise, see `OPEN_BEAM_PHOTONS_PER_MM2`; 10⁶ is a pixel of 0.57 mm.
    bits: of the digitizer, 8 to 16, over the gray range. gray_scale: one of `GRAY_SCALES`. SVDRRError for values out
    of range.
    """

    scale: int
    blur_fwhm_pixels: float = 0.6
    air_photons: float | None = 1e6
    bits: int = 12
    gray_scale: str = "drr"

    def __post_init__(self) -> None:
        if self.scale < 1:
            raise SVDRRError(f"The scale of a degradation must be 1 or more, not {self.scale}.")
        if self.bits not in BITS:
            raise SVDRRError(f"A digitizer has {BITS[0]} to {BITS[-1]} bits, not {self.bits}.")
        if self.gray_scale not in GRAY_SCALES:
            raise SVDRRError(f"The gray scale must be one of {', '.join(GRAY_SCALES)}, not '{self.gray_scale}'.")
        self._scintillator()
        self._counter()

    def _scintillator(self) -> DetectorModel:
        # In the pixels that are there before: what the detector calls mm is one of them.
        return DetectorModel(blur_fwhm_mm=self.blur_fwhm_pixels * self.scale)

    def _counter(self) -> DetectorModel:
        return DetectorModel(self.air_photons)

    def expose(self, pixels: NDArray[np.float32], generator: np.random.Generator) -> NDArray[np.float32]:
        """The radiograph (rows, columns) in [0, 1], bright bone, that it takes of one (rows·scale, columns·scale).

        SVDRRError if the scale does not divide the image.
        """
        counted = self._counter().expose(self._arriving(pixels), (1.0, 1.0), generator)
        levels = np.float32(2**self.bits - 1)
        return np.round(np.clip(self._shown(counted), 0.0, 1.0) * levels) / levels

    def mean(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """What `expose` gives on average over many exposures, before it is digitized."""
        return self._shown(self._arriving(pixels))

    def _shown(self, line_integrals: NDArray[np.float32]) -> NDArray[np.float32]:
        return GRAY_SCALES[self.gray_scale][1](line_integrals)

    def _arriving(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Line integrals (rows, columns) that the mean intensity in each large pixel stands for."""
        rows, columns = pixels.shape
        if rows % self.scale or columns % self.scale:
            raise SVDRRError(
                f"An image of {rows} x {columns} pixels cannot be reduced by {self.scale}; cut off the rest first."
            )
        measured, _ = GRAY_SCALES[self.gray_scale]
        arriving = np.empty((rows // self.scale, columns // self.scale), np.float32)
        # In strips: a large image as float64 would take gigabytes.
        halo = math.ceil(_BLUR_REACH * self.blur_fwhm_pixels) * self.scale
        height = _STRIP_ROWS * self.scale
        for first in range(0, rows, height):
            start, end = max(0, first - halo), min(rows, first + height + halo)
            blurred = self._scintillator().expose(measured(pixels[start:end]), (1.0, 1.0), _NO_NOISE)
            inner = np.exp(-blurred[first - start : first - start + height].astype(np.float64))
            means = inner.reshape(-1, self.scale, columns // self.scale, self.scale).mean(axis=(1, 3))
            arriving[first // self.scale : (first + height) // self.scale] = -np.log(means)
        return arriving
