"""Rendering with a beam: one image of line integrals, or one path length per material and the spectrum over them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from svdrr.ct import CTVolume
from svdrr.drr.attenuation import AttenuationVolume, attenuation
from svdrr.drr.beam import Beam
from svdrr.drr.materials import volume_fractions
from svdrr.drr.renderer import Renderer, make_renderer
from svdrr.geometry import View


class PolyenergeticRenderer:
    """Any engine with a spectrum: it renders millimetres of each material, the beam does the rest."""

    def __init__(self, ct: CTVolume, beam: Beam, material: str, engine: str) -> None:
        # An "attenuation" of 1/mm in the pure material makes a line integral a length in mm.
        self._renderers = {
            name: make_renderer(AttenuationVolume(fraction, ct.ijk_to_ras), engine)
            for name, fraction in volume_fractions(ct.hu, material).items()
            if name == "water" or fraction.any()
        }
        self._beam = beam
        self.name = self._renderers["water"].name
        self.on_cpu_threads = self._renderers["water"].on_cpu_threads

    def render(self, view: View, threads: int | None = None) -> NDArray[np.float32]:
        """−ln of the detector's signal over that without a patient, float32 (rows, columns), dimensionless."""
        return self._beam.line_integrals(
            {name: renderer.render(view, threads) for name, renderer in self._renderers.items()}
        )


def make_beam_renderer(ct: CTVolume, beam: Beam, material: str = "water", engine: str = "auto") -> Renderer:
    """A renderer of what `beam` makes of a CT; `material` as in `attenuation`, `engine` as in `make_renderer`."""
    if len(beam.energies_kev) == 1:
        return make_renderer(attenuation(ct, beam.energies_kev[0], material), engine)
    return PolyenergeticRenderer(ct, beam, material, engine)
