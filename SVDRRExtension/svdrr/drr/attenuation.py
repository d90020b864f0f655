"""From Hounsfield units to linear attenuation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from svdrr.ct import CTVolume
from svdrr.errors import SVDRRError

EFFECTIVE_ENERGY_KEV = 73.0
"""The monoenergetic beam whose half-value layer is that of a 120 kV chest beam behind the patient.

IEC 61267:2005, radiation quality RQA 9: 11.6 mm Al; NIST's aluminum coefficients put that at 73 keV.
"""

# Mass attenuation coefficients of liquid water with coherent scattering, keV -> cm²/g.
# J. H. Hubbell and S. M. Seltzer, NISTIR 5632, table 4.
_WATER_KEV = np.array([20.0, 30.0, 40.0, 50.0, 60.0, 80.0, 100.0, 150.0])
_WATER_CM2_PER_G = np.array([0.8096, 0.3756, 0.2683, 0.2269, 0.2059, 0.1837, 0.1707, 0.1505])


@dataclass(frozen=True, eq=False)
class AttenuationVolume:
    """Linear attenuation on a CT's grid.

    mu: float32 (slices, rows, columns), 1/mm, not negative. ijk_to_ras: as in `CTVolume`.
    """

    mu: NDArray[np.float32]
    ijk_to_ras: NDArray[np.float64]

    def cropped(self) -> AttenuationVolume:
        """The smallest box that holds all attenuation; every line integral stays the same."""
        (box,) = ndimage.find_objects(self.mu > 0.0, max_label=1) or (None,)
        if box is None:
            return self
        start_ijk = [axis.start for axis in reversed(box)]
        ijk_to_ras = self.ijk_to_ras.copy()
        ijk_to_ras[:3, 3] += self.ijk_to_ras[:3, :3] @ start_ijk
        return AttenuationVolume(np.ascontiguousarray(self.mu[box]), ijk_to_ras)


def water_attenuation_per_mm(energy_kev: float = EFFECTIVE_ENERGY_KEV) -> float:
    """Linear attenuation of water in 1/mm at 20 to 150 keV, by log-log interpolation of NISTIR 5632, table 4."""
    if not _WATER_KEV[0] <= energy_kev <= _WATER_KEV[-1]:
        raise SVDRRError(f"The effective energy must lie in 20 to 150 keV, not {energy_kev:g} keV.")
    cm2_per_g = np.exp(np.interp(np.log(energy_kev), np.log(_WATER_KEV), np.log(_WATER_CM2_PER_G)))
    return float(cm2_per_g) / 10.0


def attenuation(ct: CTVolume, energy_kev: float = EFFECTIVE_ENERGY_KEV) -> AttenuationVolume:
    """μ = μ_water(E)·(1 + HU/1000), clipped at 0 below air."""
    mu = np.maximum(ct.hu * np.float32(1e-3) + np.float32(1.0), np.float32(0.0))
    mu *= np.float32(water_attenuation_per_mm(energy_kev))
    return AttenuationVolume(mu, ct.ijk_to_ras)
