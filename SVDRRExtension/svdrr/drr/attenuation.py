"""From Hounsfield units to linear attenuation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from svdrr.ct import CTVolume
from svdrr.drr.materials import attenuation_per_mm, volume_fractions
from svdrr.errors import SVDRRError

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
        """The smallest box that holds all attenuation, not a copy; every exact line integral stays the same."""
        planes = [np.flatnonzero(self.mu.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
        if planes[0].size == 0:
            return self
        box = tuple(slice(occupied[0], occupied[-1] + 1) for occupied in planes)
        start_ijk = [axis.start for axis in reversed(box)]
        ijk_to_ras = self.ijk_to_ras.copy()
        ijk_to_ras[:3, 3] += self.ijk_to_ras[:3, :3] @ start_ijk
        return AttenuationVolume(self.mu[box], ijk_to_ras)

    def require_outside(self, point_ras: NDArray[np.float64]) -> None:
        """SVDRRError if the X-ray source at `point_ras` (3,) lies within the volume's bounds, as no tube does."""
        point_ijk = (np.linalg.inv(self.ijk_to_ras) @ np.append(point_ras, 1.0))[:3]
        if np.all((point_ijk >= -0.5) & (point_ijk <= np.array(self.mu.shape[::-1]) - 0.5)):
            raise SVDRRError(
                "The X-ray source lies inside the CT; raise the source-to-isocenter distance or move the isocenter."
            )


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
