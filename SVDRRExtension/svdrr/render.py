"""A CT and a view set in, labelled DRRs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from svdrr.ct import CTVolume
from svdrr.drr import Renderer, render_each, to_display
from svdrr.drr.beam import Beam, monoenergetic
from svdrr.drr.detector import DetectorModel, noise_generator
from svdrr.drr.display import apply_window, check_window
from svdrr.drr.materials import check_material
from svdrr.drr.polyenergetic import make_beam_renderer
from svdrr.errors import SVDRRError
from svdrr.geometry import CArmPose, Detector, View
from svdrr.provenance import Provenance
from svdrr.radiograph import Radiograph

Result = TypeVar("Result")

OUTPUTS = ("log", "linear")
"""Line integrals −ln(I/I₀), or transmission I/I₀."""


@dataclass(frozen=True)
class Imaging:
    """The physics of a DRR and what becomes of its values. The defaults are the gray scale that models know.

    material: as in `svdrr.drr.materials.volume_fractions`. seed: of the detector's noise. output: "log" for line
    integrals of μ, "linear" for transmission. window: of the radiograph's gray values, see
    `svdrr.drr.display.WINDOWS`. SVDRRError for values that there are not.
    """

    beam: Beam = field(default_factory=monoenergetic)
    material: str = "water"
    detector_model: DetectorModel = field(default_factory=DetectorModel)
    seed: int = 0
    output: str = "log"
    window: str = "full"

    def __post_init__(self) -> None:
        check_material(self.material)
        check_window(self.window)
        noise_generator(self.seed, 0)
        if self.output not in OUTPUTS:
            raise SVDRRError(f"Unknown output '{self.output}'; choose one of: {', '.join(OUTPUTS)}.")

    def settings(self) -> dict[str, str]:
        """What the provenance says about all of it."""
        values = "line integrals -ln(I/I0)" if self.output == "log" else "transmission I/I0"
        return {
            **self.beam.settings(),
            "Material": self.material,
            **self.detector_model.settings(),
            "NRRDValues": values,
            "DisplayWindow": self.window,
        }


def require_in_view(corners_ras: NDArray[np.float64], poses: Sequence[CArmPose], detector: Detector) -> None:
    """SVDRRError, with its number, for the first view of which no ray meets the CT: its image would be air.

    corners_ras: `CTVolume.corners_ras`.
    """
    for number, pose in enumerate(poses, start=1):
        if View(pose, detector).misses(corners_ras):
            raise SVDRRError(
                f"View {number} of {len(poses)} ({pose.label}) misses the CT: none of its rays meets it; "
                "check the view's isocenter and distances."
            )


def render_views(
    ct: CTVolume,
    poses: Sequence[CArmPose],
    detector: Detector,
    finish: Callable[[int, Radiograph, NDArray[np.float32]], Result],
    engine: str = "auto",
    source: str = "CT",
    imaging: Imaging | None = None,
) -> Iterator[Result]:
    """Yields ``finish(index, radiograph, values)`` of every pose, in order; see `render_each` for its thread.

    values: what ``imaging.output`` says, float32 (rows, columns), dimensionless. source: what the provenance calls
    the CT; keep patient data out of it. Raises SVDRRError, before any work, for a view that misses the CT.
    """
    require_in_view(ct.corners_ras, poses, detector)
    imaging = imaging or Imaging()
    renderer = make_beam_renderer(ct, imaging.beam, imaging.material, engine)
    yield from render_views_with(renderer, poses, detector, finish, source, imaging)


def render_views_with(
    renderer: Renderer,
    poses: Sequence[CArmPose],
    detector: Detector,
    finish: Callable[[int, Radiograph, NDArray[np.float32]], Result],
    source: str,
    imaging: Imaging,
) -> Iterator[Result]:
    """`render_views` with a renderer at hand, which `make_beam_renderer` made for the beam of `imaging`."""
    provenance = Provenance(
        method=f"DRR ({renderer.name})",
        source=source,
        seed=None if imaging.detector_model.air_photons_per_pixel is None else imaging.seed,
        settings=imaging.settings(),
    )
    views = [View(pose, detector) for pose in poses]

    def one(index: int, ideal: NDArray[np.float32]) -> Result:
        generator = noise_generator(imaging.seed, index)
        line_integrals = imaging.detector_model.expose(ideal, detector.pixel_spacing_mm, generator)
        pixels = apply_window(to_display(line_integrals), imaging.window)
        radiograph = Radiograph(pixels, detector.pixel_spacing_mm, views[index], provenance)
        return finish(index, radiograph, line_integrals if imaging.output == "log" else np.exp(-line_integrals))

    yield from render_each(renderer, views, one)


def render_drrs(
    ct: CTVolume,
    poses: Sequence[CArmPose],
    detector: Detector,
    engine: str = "auto",
    source: str = "CT",
    imaging: Imaging | None = None,
) -> Iterator[tuple[Radiograph, NDArray[np.float32]]]:
    """Yields each pose's radiograph and its values, as `render_views` does."""
    yield from render_views(ct, poses, detector, lambda _, *image: image, engine, source, imaging)
