"""What is asked of a backend, made from radiographs and CTs. Only pixels, spacing and poses are in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdrr.backend.arrays import npy_sha256
from svdrr.backend.jobs import EchoJob, EnhanceJob, Job, RenderJob, SynthesizeJob
from svdrr.ct import CTVolume
from svdrr.errors import SVDRRError
from svdrr.geometry import CArmPose, Detector
from svdrr.provenance import enhanced, source_text
from svdrr.radiograph import Radiograph


@dataclass(frozen=True, eq=False)
class Request:
    """A job with its pixels, and what to put back into its results.

    job: as in `svdrr.backend.jobs`. pixels: what the job needs, float32 (rows, columns), or int16 or float32
    (k, j, i). restore: gives each result what has never left this computer, such as where its source came from; the
    backend only saw a radiograph. pixels_sha256: of the pixels' .npy file, where it is known already, see `hashed`.
    """

    job: Job
    pixels: NDArray[Any]
    restore: Callable[[Radiograph], Radiograph]
    pixels_sha256: str | None = None

    def hashed(self) -> Request:
        """The same with its hash. Requests that `dataclasses.replace` makes of it, for other jobs with the same pixels,
        need not read a whole CT again to know whether the backend has it.
        """
        return replace(self, pixels_sha256=npy_sha256(self.pixels))


def synthesis_request(
    radiograph: Radiograph,
    poses: Sequence[CArmPose],
    model: str,
    steps: int | None = None,
    guidance: float | None = None,
    seed: int = 0,
    source_pose: CArmPose | None = None,
) -> Request:
    """Novel views, as `svdrr.synthesis.synthesize.Synthesizer.synthesize` makes them here.

    model: its name on the backend. source_pose: where the radiograph was taken from; by default
    `Radiograph.source_pose`. SVDRRError for values out of range.
    """
    source_pose = source_pose or radiograph.source_pose
    job = SynthesizeJob(
        poses=tuple(poses),
        source_pose=source_pose,
        model=model,
        steps=steps,
        guidance=guidance,
        seed=seed,
        pixel_spacing_mm=radiograph.pixel_spacing_mm,
        source_is_drr=radiograph.has_drr_gray_scale,
    )
    source = source_text(radiograph.provenance, radiograph.pixels_sha256())

    def restore(view: Radiograph) -> Radiograph:
        labelled = _labelled(view)
        assert labelled.provenance is not None
        return replace(labelled, provenance=replace(labelled.provenance, source=source))

    return Request(job, radiograph.pixels, restore)


def render_request(ct: CTVolume, poses: Sequence[CArmPose], detector: Detector, **settings: Any) -> Request:
    """DRRs of a CT, as `svdrr.render.render_drrs` makes them here. settings: the other fields of `RenderJob`.

    SVDRRError for values out of range.
    """
    rows = tuple((float(x), float(y), float(z), float(w)) for x, y, z, w in ct.ijk_to_ras)
    job = RenderJob(rows, tuple(poses), detector, **settings)  # type: ignore[arg-type]
    return Request(job, _smallest(ct.hu), _labelled)


def enhancement_request(
    radiograph: Radiograph,
    method: str = "lanczos",
    scale: int = 2,
    seed: int | None = 0,
    consistent: bool = False,
    uncertainty_seeds: int = 0,
) -> Request:
    """The radiograph with more pixels, as `svdrr.superres.enhance` makes it here.

    uncertainty_seeds: for a second image, as `svdrr.superres.uncertainty` makes it over so many seeds; 0 for none.
    SVDRRError for values out of range.
    """
    job = EnhanceJob(
        method,
        scale,
        seed,
        consistent,
        uncertainty_seeds,
        radiograph.pixel_spacing_mm,
        radiograph.view,
        radiograph.has_drr_gray_scale,
    )
    origin = radiograph.provenance

    def restore(view: Radiograph) -> Radiograph:
        labelled = replace(_labelled(view), view_position=radiograph.view_position)
        assert labelled.provenance is not None
        if origin is None or labelled.provenance.method.startswith("uncertainty"):
            return labelled
        return replace(labelled, provenance=enhanced(origin, labelled.provenance))

    return Request(job, radiograph.pixels, restore)


def echo_request(radiograph: Radiograph) -> Request:
    """The radiograph there and back again."""
    return Request(EchoJob(), radiograph.pixels, lambda echo: replace(radiograph, pixels=echo.pixels))


def _labelled(view: Radiograph) -> Radiograph:
    """The view, which must say that it was computed."""
    if view.provenance is None:
        raise SVDRRError("The backend has sent an image that does not say how it was computed; it is not used.")
    return view


def _smallest(hu: NDArray[np.float32]) -> NDArray[Any]:
    """HU as int16, half the bytes on the way, where that loses nothing, not even the sign of a zero; else as it is."""
    with np.errstate(invalid="ignore"):
        whole = hu.astype(np.int16)
    lossless = np.array_equal(whole.astype(np.float32).view(np.int32), np.ascontiguousarray(hu).view(np.int32))
    return whole if lossless else hu
