"""Requests from outside, made into jobs or refused in one sentence."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError

from svdrr.backend.arrays import from_npy
from svdrr.backend.jobs import EnhanceJob, Job, RenderJob, SynthesizeJob
from svdrr.drr.beam import monoenergetic, tube_beam
from svdrr.drr.detector import DetectorModel
from svdrr.drr.renderer import check_engine
from svdrr.errors import SVDRRError
from svdrr.models.registry import available_model
from svdrr.render import Imaging
from svdrr.superres import check_enhancement
from svdrr.synthesis.sampling import Sampling

MAX_RADIOGRAPH_SIDE = 8192
MAX_CT_SIDE = 2048
_MIN_SIDE = 16

_JOBS: TypeAdapter[Job] = TypeAdapter(Annotated[Job, Field(discriminator="kind")])


def job_schema() -> dict[str, Any]:
    """JSON schema of every kind of job."""
    return _JOBS.json_schema(ref_template="#/components/schemas/{model}")


def read_job(text: str | bytes) -> Job:
    """The job that a JSON object describes; SVDRRError for unknown fields, wrong types and values out of range."""
    try:
        return _JOBS.validate_json(text, strict=True, extra="forbid")
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or "as a whole"
        raise SVDRRError(f"The job cannot be read: {where}: {first['msg']}.") from None


def imaging_of(job: RenderJob) -> Imaging:
    """The physics that the job asks for; SVDRRError for values out of range."""
    beam = (
        tube_beam(job.kvp)
        if job.kvp is not None
        else monoenergetic(job.energy_kev)
        if job.energy_kev is not None
        else monoenergetic()
    )
    detector_model = DetectorModel(job.air_photons_per_pixel, job.blur_mm)
    return Imaging(beam, job.material, detector_model, job.seed, "log", job.window)


def require_possible(job: Job) -> None:
    """SVDRRError for what can be known to fail before it has waited in a queue."""
    if isinstance(job, RenderJob):
        check_engine(job.engine)
        imaging_of(job)
    elif isinstance(job, SynthesizeJob):
        Sampling.of(available_model(job.model), job.steps, job.guidance, job.seed)
    elif isinstance(job, EnhanceJob):
        check_enhancement(job.method, job.scale, job.seed, job.uncertainty_seeds)


def read_pixels(data: bytes, job: Job) -> NDArray[Any]:
    """The pixels that come with a job, checked; SVDRRError where they are not what the job needs."""
    if isinstance(job, RenderJob):
        hu = from_npy(data, ("int16", "float32"), 3)
        _require_sides(hu, MAX_CT_SIDE)
        _require_finite(hu)
        return hu
    pixels = from_npy(data, ("float32",), 2)
    _require_sides(pixels, MAX_RADIOGRAPH_SIDE)
    _require_finite(pixels)
    if pixels.min() < 0.0 or pixels.max() > 1.0:
        raise SVDRRError("The pixels of a radiograph must lie in 0 to 1.")
    if isinstance(job, EnhanceJob) and job.view is not None:
        rows, columns = job.view.detector.rows, job.view.detector.columns
        if pixels.shape != (rows, columns):
            raise SVDRRError(f"The pixels {pixels.shape} do not fit the view's detector of {rows} x {columns}.")
    return pixels


def _require_sides(pixels: NDArray[Any], most: int) -> None:
    if max(pixels.shape) > most or min(pixels.shape[-2:]) < _MIN_SIDE:
        shape = " x ".join(map(str, pixels.shape))
        raise SVDRRError(f"The pixels must have {_MIN_SIDE} to {most} rows and columns, not {shape}.")


def _require_finite(pixels: NDArray[Any]) -> None:
    if not np.all(np.isfinite(pixels)):
        raise SVDRRError("The pixels hold values that are not numbers (NaN or infinite).")
