"""Small DRRs while a slider moves: always of the newest position, never a queue of old ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import slicer

from svdrr.backend.client import ArrivedView, BackendClient, RunningJob
from svdrr.errors import SVDRRError
from svdrr.geometry import CArmPose
from svdrr.mrml.backend import BackendChoice, client_of, require_success
from svdrr.mrml.drr import CTSource, DRRSettings
from svdrr.mrml.task import Progress, Steps
from svdrr.radiograph import Radiograph

PREVIEW_PIXELS = 128


@dataclass(frozen=True, eq=False)
class _Wanted:
    node: slicer.vtkMRMLScalarVolumeNode
    pose: CArmPose
    settings: DRRSettings
    choice: BackendChoice


class LivePreview:
    """Renders what was wanted last. source: where the CT's voxels are kept.

    While a preview is at work, only the newest position waits; those between are never rendered. The backend keeps the
    CT's pixels, because each preview's job is held there until the next one has named them.
    """

    def __init__(self, source: CTSource) -> None:
        self._source = source
        self._wanted: _Wanted | None = None
        self._held: RunningJob | None = None
        self._client: tuple[BackendChoice, BackendClient] | None = None

    def want(
        self, node: slicer.vtkMRMLScalarVolumeNode, pose: CArmPose, settings: DRRSettings, choice: BackendChoice
    ) -> None:
        """Have this view rendered next, instead of any that is waiting; by `steps`, if they are at work, too.

        The preview has `PREVIEW_PIXELS` a side on the same detector, and no quantum noise, whose look is that of the
        pixels' size.
        """
        small = replace(settings, detector_pixels=PREVIEW_PIXELS, air_photons_per_pixel=None)
        self._wanted = _Wanted(node, pose, small, choice)

    def steps(self, on_view: Callable[[Radiograph], None]) -> Steps[None]:
        """Steps that render until nothing is wanted any more. SVDRRError with the reason if that fails."""
        while self._wanted is not None:
            wanted, self._wanted = self._wanted, None
            client = yield from self._client_of(wanted.choice)
            request = wanted.settings.request((yield from self._source.steps(wanted.node)), [wanted.pose])
            job = client.start(request, hold=True)
            # Not before: with its last job the backend would drop the pixels.
            before, self._held = self._held, job
            try:
                yield from _take(client, job, on_view)
            except SVDRRError:
                self._client = None
                raise
            finally:
                if before is not None:
                    before.cancel()
                if not job.finished:
                    job.cancel()

    def close(self) -> None:
        """Want nothing any more, and have the backend forget the CT."""
        self._wanted = self._client = None
        held, self._held = self._held, None
        if held is not None:
            held.cancel()

    def _client_of(self, choice: BackendChoice) -> Steps[BackendClient]:
        """Kept from preview to preview, because each step of the way to it is a part of what a preview may take."""
        if self._client is None or self._client[0] != choice:
            self._client = choice, (yield from client_of(choice))
        return self._client[1]


def _take(client: BackendClient, job: RunningJob, on_view: Callable[[Radiograph], None]) -> Steps[None]:
    progress = Progress("Rendering the preview")
    while not job.finished:
        for event in job.poll():
            if isinstance(event, ArrivedView):
                on_view(event.radiograph)
            else:
                progress = Progress.of_job(event)
        yield progress
    require_success(client, job)


def picture(radiograph: Radiograph) -> bytes:
    """A file that Qt reads without a library: the portable gray map of the pixels, 8 bits deep."""
    rows, columns = radiograph.pixels.shape
    gray: Any = (radiograph.pixels * 255.0 + 0.5).astype("uint8")
    return b"P5 %d %d 255\n" % (columns, rows) + gray.tobytes()
