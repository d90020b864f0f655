"""Attenuation coefficients, and what a voxel is made of by its Hounsfield units.

Coefficients: J. H. Hubbell and S. M. Seltzer, NISTIR 5632 (NIST Standard Reference Database 126), tables 3 and 4,
with coherent scattering: liquid water, cortical bone (ICRU-44, 1.92 g/cm³), aluminum, air; in data/.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import CubicSpline

from svdrr.errors import SVDRRError

MATERIALS = ("water", "water-bone")
"""What voxels are made of: water of any density, or water up to 100 HU and cortical bone above."""

SOFT_TISSUE_HU = 100.0
"""Where soft tissue ends and skeletal tissue begins.

U. Schneider et al., Phys. Med. Biol. 45(2), 459-478, 2000, section 2.
"""

CT_ENERGY_KEV = 70.0
"""The energy at which a CT at 120 kV has measured its Hounsfield units.

That of the 120 kV spectrum in data/ 20 cm deep in water, 68.5 keV, rounded.
"""


def read_data(name: str) -> dict[str, Any]:
    """A data file of this package."""
    file = resources.files("svdrr.drr") / "data" / name
    data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return data


@cache
def _nist() -> dict[str, Any]:
    return read_data("nist_attenuation.json")


@cache
def _spline(quantity: str, material: str) -> CubicSpline:
    return CubicSpline(np.log(_nist()["energy_kev"]), np.log(_nist()[quantity][material]))


def _per_gram(quantity: str, material: str, energy_kev: ArrayLike) -> NDArray[np.float64]:
    energies = np.asarray(energy_kev, float)
    table = _nist()["energy_kev"]
    outside = energies[~((energies >= table[0]) & (energies <= table[-1]))]
    if outside.size:
        raise SVDRRError(f"The photon energy must lie in {table[0]} to {table[-1]} keV, not {outside.flat[0]:g} keV.")
    return np.exp(_spline(quantity, material)(np.log(energies)))


def attenuation_per_mm(material: str, energy_kev: ArrayLike) -> NDArray[np.float64]:
    """Linear attenuation in 1/mm of "water", "cortical bone" or "aluminum" at 10 to 150 keV, any shape.

    A cubic spline through the table in log-log, within 0.3 % of the tabulated cross-sections between its energies.
    """
    cm2_per_g = _per_gram("mass_attenuation_cm2_per_g", material, energy_kev)
    return cm2_per_g * (_nist()["density_g_per_cm3"][material] / 10.0)


def air_energy_absorption_cm2_per_g(energy_kev: ArrayLike) -> NDArray[np.float64]:
    """Mass energy-absorption coefficient of dry air in cm²/g at 10 to 150 keV: with it, fluence becomes air kerma."""
    return _per_gram("mass_energy_absorption_cm2_per_g", "air", energy_kev)


def check_material(material: str) -> None:
    """SVDRRError unless `material` is one of `MATERIALS`."""
    if material not in MATERIALS:
        raise SVDRRError(f"Unknown material model '{material}'; choose one of: {', '.join(MATERIALS)}.")


def volume_fractions(hu: NDArray[np.float32], material: str) -> dict[str, NDArray[np.float32]]:
    """How much of each voxel is "water" and "cortical bone", as relative density ≥ 0, float32, the shape of `hu`.

    material="water": 1 + HU/1000 of water, nothing below air. "water-bone": the same up to 100 HU; above, a mixture
    by volume of soft tissue (water of density 1.1) and cortical bone, whose share grows linearly from 0 at 100 HU
    to 1 at the bone's own HU, 1000·(μ_bone/μ_water − 1) at `CT_ENERGY_KEV`, about 1560; beyond that, denser bone.
    So the mixture has the CT's own attenuation at the CT's energy, and is continuous and monotone in HU at every
    other. The bilinear scaling of C. Burger et al., Eur. J. Nucl. Med. 29(7), 922-927, 2002, with the soft-tissue
    limit of Schneider et al. instead of 0 HU, so that muscle and blood hold no bone.
    """
    check_material(material)
    density = np.maximum(hu * np.float32(1e-3) + np.float32(1.0), np.float32(0.0))
    if material == "water":
        return {"water": density}
    soft = np.float32(1.0 + SOFT_TISSUE_HU / 1000.0)
    bone = np.float32(attenuation_per_mm("cortical bone", CT_ENERGY_KEV) / attenuation_per_mm("water", CT_ENERGY_KEV))
    share = np.clip((density - soft) / (bone - soft), np.float32(0.0), np.float32(1.0))
    return {
        "water": np.minimum(density, soft) * (np.float32(1.0) - share),
        "cortical bone": share * np.maximum(density / bone, np.float32(1.0)),
    }
