"""The detector: blur and quantum noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from svdrr.errors import SVDRRError

SCATTER_FREE = "none: primary radiation only"
"""What the provenance says about scatter."""

_FWHM_PER_SIGMA = 2.0 * math.sqrt(2.0 * math.log(2.0))


@dataclass(frozen=True)
class DetectorModel:
    """Blur and quantum noise of an otherwise ideal detector. There is no scatter: only primary photons arrive.

    air_photons_per_pixel: mean count of a pixel that nothing shadows, above 0 to 1e12, None for no noise; IEC
    62220-1-1 (RQA 9) has about 31,000 photons per mm² and µGy. blur_fwhm_mm: full width at half maximum of the
    Gaussian point spread on the detector, 0 to 50 mm. The default is the ideal detector, which changes nothing.
    """

    air_photons_per_pixel: float | None = None
    blur_fwhm_mm: float = 0.0

    def __post_init__(self) -> None:
        photons = self.air_photons_per_pixel
        if photons is not None and not 0.0 < photons <= 1e12:
            raise SVDRRError(f"The photons per pixel must lie above 0 and up to 1e12, not {photons:g}.")
        if not 0.0 <= self.blur_fwhm_mm <= 50.0:
            raise SVDRRError(f"The detector blur must lie in 0 to 50 mm, not {self.blur_fwhm_mm:g} mm.")

    def expose(
        self,
        line_integrals: NDArray[np.float32],
        pixel_spacing_mm: tuple[float, float],
        generator: np.random.Generator,
    ) -> NDArray[np.float32]:
        """The line integrals that this detector measures, float32 (rows, columns): −ln of the detected I/I₀.

        Intensities are blurred, then counted; so noise is white, and that of every pixel its own. Counts are
        Poisson, and a pixel without any counts as half a photon. Noise in air falls on both sides of 0.
        pixel_spacing_mm: (row, column).
        """
        if self.air_photons_per_pixel is None and self.blur_fwhm_mm == 0.0:
            return line_integrals
        transmission = np.exp(-line_integrals.astype(np.float64))
        if self.blur_fwhm_mm > 0.0:
            sigma = [self.blur_fwhm_mm / _FWHM_PER_SIGMA / spacing for spacing in pixel_spacing_mm]
            # Mirrored at the edges, so that no signal is lost there.
            transmission = ndimage.gaussian_filter(transmission, sigma, mode="reflect", truncate=5.0)
        if self.air_photons_per_pixel is not None:
            counts = generator.poisson(transmission * self.air_photons_per_pixel)
            transmission = np.maximum(counts, 0.5) / self.air_photons_per_pixel
        return (-np.log(transmission)).astype(np.float32)

    def settings(self) -> dict[str, str]:
        """What the provenance says about the detector."""
        settings = {"Scatter": SCATTER_FREE}
        if self.air_photons_per_pixel is not None:
            settings["AirPhotonsPerPixel"] = f"{self.air_photons_per_pixel:g}"
        if self.blur_fwhm_mm > 0.0:
            settings["DetectorBlurFWHM"] = f"{self.blur_fwhm_mm:g} mm"
        return settings


def noise_generator(seed: int, view_index: int) -> np.random.Generator:
    """The random numbers of one view, whichever others are rendered. seed: not negative, else SVDRRError."""
    if seed < 0:
        raise SVDRRError(f"The seed must not be negative, not {seed}.")
    return np.random.default_rng([seed, view_index])
