"""A CT and a view set in, labelled DRRs out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from svdrr.ct import CTVolume
from svdrr.drr import attenuation, make_renderer, to_display
from svdrr.drr.attenuation import EFFECTIVE_ENERGY_KEV
from svdrr.geometry import CArmPose, Detector, View
from svdrr.images import Radiograph
from svdrr.provenance import Provenance


def render_drrs(
    ct: CTVolume, poses: Sequence[CArmPose], detector: Detector, engine: str = "siddon", source: str = "CT"
) -> Iterator[tuple[Radiograph, NDArray[np.float32]]]:
    """Yields each pose's radiograph and its line integrals of μ, float32 (rows, columns), dimensionless.

    source: what the provenance calls the CT; keep patient data out of it.
    """
    renderer = make_renderer(attenuation(ct), engine)
    provenance = Provenance(
        method=f"DRR ({renderer.name})", source=source, settings={"EffectiveEnergy": f"{EFFECTIVE_ENERGY_KEV:g} keV"}
    )
    for pose in poses:
        view = View(pose, detector)
        line_integrals = renderer.render(view)
        radiograph = Radiograph(to_display(line_integrals), detector.pixel_spacing_mm, view, provenance)
        yield radiograph, line_integrals
