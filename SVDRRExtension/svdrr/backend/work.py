"""What each kind of job does, in the worker's process."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from svdrr.backend.jobs import EnhanceJob, Job, RenderJob, SynthesizeJob
from svdrr.backend.validation import imaging_of, read_pixels
from svdrr.ct import CTVolume
from svdrr.ct.table import remove_table
from svdrr.drr import Renderer
from svdrr.drr.polyenergetic import make_beam_renderer
from svdrr.models.registry import available_model
from svdrr.provenance import Provenance
from svdrr.radiograph import Radiograph
from svdrr.render import render_views_with, require_in_view
from svdrr.superres import enhance, uncertainty
from svdrr.synthesis.sampling import Sampling

if TYPE_CHECKING:
    from svdrr.synthesis.synthesize import Synthesizer

Report = Callable[[str, int, int], None]
"""Called with the stage, and with the finished and the total number of its steps; it raises to cancel."""


@dataclass(frozen=True, eq=False)
class _PreparedCT:
    """key: what it was made from. source: what provenance calls it. corners_ras: as in `CTVolume`."""

    key: tuple[object, ...]
    renderer: Renderer
    source: str
    corners_ras: NDArray[np.float64]


class Workbench:
    """Does one job after the other, and keeps what the next may need: the model, the CT ready for rendering."""

    def __init__(self, device: str, compile_model: bool) -> None:
        self._device, self._compile = device, compile_model
        self._model: tuple[str, Synthesizer] | None = None
        self._ct: _PreparedCT | None = None

    def views(self, job: Job, pixels: Path, report: Report) -> Iterator[Radiograph]:
        """The job's images, each as soon as it is finished. pixels: the job's .npy file, named by its hash."""
        if isinstance(job, RenderJob):
            yield from self._rendered(job, pixels, report)
            return
        image = read_pixels(pixels.read_bytes(), job)
        if isinstance(job, SynthesizeJob):
            yield from self._synthesized(job, image, report)
        elif isinstance(job, EnhanceJob):
            yield from self._enlarged(job, image, report)
        else:
            yield Radiograph(image)

    def _rendered(self, job: RenderJob, pixels: Path, report: Report) -> Iterator[Radiograph]:
        prepared = self._prepared(job, pixels, report)
        require_in_view(prepared.corners_ras, job.poses, job.detector)

        def finish(_: int, radiograph: Radiograph, __: NDArray[np.float32]) -> Radiograph:
            return radiograph

        views = render_views_with(prepared.renderer, job.poses, job.detector, finish, prepared.source, imaging_of(job))
        report("Rendering", 0, len(job.poses))
        for number, radiograph in enumerate(views, start=1):
            yield radiograph
            report("Rendering", number, len(job.poses))

    def _prepared(self, job: RenderJob, pixels: Path, report: Report) -> _PreparedCT:
        """The job's CT; kept while jobs differ in their views only."""
        imaging = imaging_of(job)
        key = (pixels.stem, job.ijk_to_ras, job.remove_table, imaging.beam, job.material, job.engine)
        if self._ct is None or self._ct.key != key:
            self._ct = None
            report("Reading the CT", 0, 0)
            ct = CTVolume(read_pixels(pixels.read_bytes(), job).astype(np.float32), np.array(job.ijk_to_ras))
            source = f"CT with voxels SHA-256 {hashlib.sha256(ct.hu.data).hexdigest()}"
            if job.remove_table:
                report("Removing the table", 0, 0)
                ct, source = remove_table(ct).ct, f"{source}, table removed"
            report("Preparing the CT", 0, 0)
            renderer = make_beam_renderer(ct, imaging.beam, job.material, job.engine)
            self._ct = _PreparedCT(key, renderer, source, ct.corners_ras)
        return self._ct

    def _enlarged(self, job: EnhanceJob, image: NDArray[np.float32], report: Report) -> Iterator[Radiograph]:
        report("Enlarging", 0, 1)
        radiograph = Radiograph(image, job.pixel_spacing_mm, job.view)
        gray_scale = "drr" if job.is_drr else "logarithmic"
        yield enhance(
            radiograph,
            job.method,
            job.scale,
            job.seed,
            job.consistent,
            self._device,
            lambda step, steps: report("Enlarging", step, steps),
            gray_scale,
        )
        if job.uncertainty_seeds:
            yield uncertainty(
                radiograph,
                job.scale,
                job.uncertainty_seeds,
                job.seed or 0,
                self._device,
                job.consistent,
                lambda step, steps: report("Measuring the uncertainty", step, steps),
                gray_scale,
            )

    def _synthesized(self, job: SynthesizeJob, image: NDArray[np.float32], report: Report) -> Iterator[Radiograph]:
        synthesizer = self._synthesizer(job.model, report)
        # Its client knows more about the source, and says it in the provenance of what comes back.
        origin = Provenance("DRR", "client") if job.source_is_drr else None
        yield from synthesizer.views(
            Radiograph(image, job.pixel_spacing_mm, provenance=origin),
            job.poses,
            Sampling.of(synthesizer.model, job.steps, job.guidance, job.seed),
            job.source_pose,
            on_step=lambda step, steps: report("Synthesizing", step, steps),
        )

    def _synthesizer(self, name: str, report: Report) -> Synthesizer:
        if self._model is None or self._model[0] != name:
            # The old model goes first, since two may not fit side by side.
            self._model = None
            report(f"Loading {name}", 0, 0)
            from svdrr.synthesis.synthesize import Synthesizer

            self._model = name, Synthesizer(available_model(name), self._device, self._compile)
        return self._model[1]
