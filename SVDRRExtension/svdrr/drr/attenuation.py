"""From Hounsfield units to linear attenuation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from svdrr.ct import CTVolume
from svdrr.drr.materials import attenuation_per_mm, volume_fractions

EFFECTIVE_ENERGY_KEV = 73.0
"""The monoenergetic beam whose half-value layer is that of a 120 kV chest beam behind the patient.

IEC 61267:2005, radiation quality RQA 9: 11.6 mm Al; NIST's aluminum coefficients put that at 72.6, here 73 keV.
"""


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


def attenuation(ct: CTVolume, energy_kev: float = EFFECTIVE_ENERGY_KEV, material: str = "water") -> AttenuationVolume:
    """Linear attenuation of a CT for photons of 10 to 150 keV.

    material="water": μ = μ_water(E)·(1 + HU/1000), clipped at 0 below air. "water-bone": bone attenuates as bone
    does, above all at low energies; see `svdrr.drr.materials.volume_fractions`.
    """
    fractions = volume_fractions(ct.hu, material)
    mu = fractions["water"]
    mu *= np.float32(attenuation_per_mm("water", energy_kev))
    if "cortical bone" in fractions:
        mu += fractions["cortical bone"] * np.float32(attenuation_per_mm("cortical bone", energy_kev))
    return AttenuationVolume(mu, ct.ijk_to_ras)
