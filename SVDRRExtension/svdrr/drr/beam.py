"""The X-ray beam: photons of one energy, or the spectrum of a tube voltage."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from svdrr.drr.attenuation import EFFECTIVE_ENERGY_KEV
from svdrr.drr.materials import air_energy_absorption_cm2_per_g, attenuation_per_mm, read_data
from svdrr.errors import SVDRRError


@dataclass(frozen=True)
class Beam:
    """What the detector sees without a patient; made by `monoenergetic` and `tube_beam`.

    energies_kev: ascending, 10 to 150. signal: each energy's part of the detector's signal, sum 1. kvp: the tube
    voltage in kV, None for photons of one energy.
    """

    energies_kev: tuple[float, ...]
    signal: tuple[float, ...]
    kvp: int | None = None

    def half_value_layer_mm_al(self) -> float:
        """Millimetres of aluminum that halve the air kerma (IEC 61267)."""
        kerma = np.array(self.signal) * air_energy_absorption_cm2_per_g(self.energies_kev)
        mu = attenuation_per_mm("aluminum", self.energies_kev)
        return float(brentq(lambda mm: kerma @ np.exp(-mu * mm) / kerma.sum() - 0.5, 0.0, 100.0))

    def effective_energy_kev(self) -> float:
        """The energy, keV, of the monoenergetic beam with the same half-value layer in aluminum."""
        if len(self.energies_kev) == 1:
            return self.energies_kev[0]
        mu = math.log(2.0) / self.half_value_layer_mm_al()
        return float(brentq(lambda energy: attenuation_per_mm("aluminum", energy) - mu, 10.0, 150.0))

    def line_integrals(self, paths_mm: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        """A = −ln Σ signal(E)·exp(−Σ μ_m(E)·L_m), dimensionless: what the detector measures, with beam hardening.

        paths_mm: L of "water" and "cortical bone", float32, of one shape, as millimetres of that material at its
        own density. For one energy this is Σ μ_m·L_m. Air is exactly 0.
        """
        mu = {material: attenuation_per_mm(material, self.energies_kev).astype(np.float32) for material in paths_mm}
        (shape,) = {path.shape for path in paths_mm.values()}
        # The hardest photons are taken out of the sum, which then cannot vanish however thick the patient is.
        hardest = _summed(paths_mm, {material: values[-1] for material, values in mu.items()}, shape)
        passed = np.zeros(shape, np.float32)
        in_air = np.float32(0.0)
        for index, signal in enumerate(np.array(self.signal, np.float32)):
            softer = {material: values[index] - values[-1] for material, values in mu.items()}
            passed += signal * np.exp(-_summed(paths_mm, softer, shape))
            in_air += signal
        return hardest - np.log(passed / in_air)

    def settings(self) -> dict[str, str]:
        """What the provenance says about the beam."""
        if self.kvp is None:
            return {"EffectiveEnergy": f"{self.energies_kev[0]:g} keV"}
        return {
            "TubeVoltage": f"{self.kvp} kV",
            "Spectrum": "tungsten anode of 12 degrees, 2.5 mm Al, SpekPy 2.5.4; energy-integrating detector",
            "HalfValueLayer": f"{self.half_value_layer_mm_al():.2f} mm Al",
            "EffectiveEnergy": f"{self.effective_energy_kev():.1f} keV before the patient",
        }


def monoenergetic(energy_kev: float = EFFECTIVE_ENERGY_KEV) -> Beam:
    """Photons of one energy, 10 to 150 keV: no beam hardening. SVDRRError for other energies."""
    if not 10.0 <= energy_kev <= 150.0:
        raise SVDRRError(f"The photon energy must lie in 10 to 150 keV, not {energy_kev:g} keV.")
    return Beam((float(energy_kev),), (1.0,))


@cache
def _tube_spectra() -> dict[str, Any]:
    return read_data("tube_spectra.json")


def tube_beam(kvp: int) -> Beam:
    """The spectrum of a tube voltage, a whole number of kV from 40 to 150, behind a tungsten anode and 2.5 mm Al.

    Spectra: SpekPy (G. Poludniowski et al., Med. Phys. 48(7), 3630-3637, 2021), in bins of 2 keV; the data file
    says how they were made. The detector absorbs every photon and integrates its energy. There is no further
    filter and no scatter. SVDRRError for other voltages.
    """
    data = _tube_spectra()
    if not 40 <= kvp <= 150 or kvp != int(kvp):
        raise SVDRRError(f"The tube voltage must be a whole number of kV from 40 to 150, not {kvp:g}.")
    fluence = np.array(data["fluence"][str(int(kvp))])
    energies = data["first_bin_center_kev"] + data["bin_width_kev"] * np.arange(len(fluence))
    signal = fluence * energies
    return Beam(tuple(energies.tolist()), tuple((signal / signal.sum()).tolist()), int(kvp))


def _summed(
    paths_mm: Mapping[str, NDArray[np.float32]], mu: Mapping[str, np.float32], shape: tuple[int, ...]
) -> NDArray[np.float32]:
    total = np.zeros(shape, np.float32)
    for material, path in paths_mm.items():
        total += mu[material] * path
    return total
