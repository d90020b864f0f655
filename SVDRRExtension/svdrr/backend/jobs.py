"""What a backend can be asked to do, and what it says while it does it. Plain data, for the server and its clients."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from svdrr.errors import SVDRRError
from svdrr.geometry import CArmPose, Detector, View

API = "v1"
MAX_VIEWS = 2000
MAX_DETECTOR_PIXELS = 4096
MAX_SEED = 2**63 - 1

Row = tuple[float, float, float, float]
Spacing = tuple[float, float]
State = Literal["queued", "running", "done", "failed"]


@dataclass(frozen=True)
class RenderJob:
    """DRRs of a CT; its pixels are HU, int16 or float32 (k, j, i).

    ijk_to_ras: rows of the (4, 4) matrix of `svdrr.ct.CTVolume`. energy_kev or kvp: one of them, or neither for the
    default energy. air_photons_per_pixel: quantum noise, or None. blur_mm: full width at half maximum at the
    detector. The rest is as in `svdrr.render.Imaging` and `svdrr.drr.make_renderer`.
    """

    ijk_to_ras: tuple[Row, Row, Row, Row]
    poses: tuple[CArmPose, ...]
    detector: Detector
    energy_kev: float | None = None
    kvp: int | None = None
    material: str = "water"
    air_photons_per_pixel: float | None = None
    blur_mm: float = 0.0
    seed: int = 0
    window: str = "full"
    remove_table: bool = False
    engine: str = "auto"
    pixels_sha256: str | None = None
    kind: Literal["render"] = "render"

    def __post_init__(self) -> None:
        matrix = np.array(self.ijk_to_ras)
        if (
            not np.all(np.isfinite(matrix))
            or (matrix[3] != (0.0, 0.0, 0.0, 1.0)).any()
            or not 1e-12 <= abs(np.linalg.det(matrix[:3, :3])) < np.inf
        ):
            raise SVDRRError(
                "A CT's ijk_to_ras must be an invertible 4 x 4 matrix of finite numbers with the last row 0, 0, 0, 1."
            )
        if self.energy_kev is not None and self.kvp is not None:
            raise SVDRRError("A beam has one energy or a tube voltage, not both.")
        _require_views(self.poses)
        _require_detector(self.detector)
        _require_seed(self.seed)


@dataclass(frozen=True)
class SynthesizeJob:
    """Novel views of a radiograph; its pixels are float32 (rows, columns) in [0, 1], bright bone.

    source_pose: where it was taken from. source_is_drr: whether it has the gray scale of `svdrr.drr.to_display`, which
    the gray levels of other radiographs are matched to. steps, guidance: by default what the model recommends.
    pixel_spacing_mm: (row, column) at the detector, or None where unknown.
    """

    poses: tuple[CArmPose, ...]
    source_pose: CArmPose
    model: str
    steps: int | None = None
    guidance: float | None = None
    seed: int = 0
    pixel_spacing_mm: Spacing | None = None
    source_is_drr: bool = False
    pixels_sha256: str | None = None
    kind: Literal["synthesize"] = "synthesize"

    def __post_init__(self) -> None:
        _require_views(self.poses)
        _require_spacing(self.pixel_spacing_mm)
        _require_seed(self.seed)


@dataclass(frozen=True)
class EnhanceJob:
    """A radiograph with more pixels; its pixels are float32 (rows, columns) in [0, 1].

    seed, consistent: as in `svdrr.superres.enhance`. uncertainty_seeds: over how many seeds the uncertainty map is made
    that comes as a second image, LCMSR's only, or 0 for none. view: where known. is_drr: whether it has the gray scale
    of `svdrr.drr.to_display`.
    """

    method: str
    scale: int
    seed: int | None = 0
    consistent: bool = False
    uncertainty_seeds: int = 0
    pixel_spacing_mm: Spacing | None = None
    view: View | None = None
    is_drr: bool = False
    pixels_sha256: str | None = None
    kind: Literal["enhance"] = "enhance"

    def __post_init__(self) -> None:
        _require_spacing(self.pixel_spacing_mm)
        if self.seed is not None:
            _require_seed(self.seed)
        if self.view is not None:
            _require_detector(self.view.detector)


@dataclass(frozen=True)
class EchoJob:
    """The radiograph itself: shows that the way there and back is open, and how long it takes."""

    pixels_sha256: str | None = None
    kind: Literal["echo"] = "echo"


Job = RenderJob | SynthesizeJob | EnhanceJob | EchoJob


@dataclass(frozen=True)
class JobStatus:
    """A job as it stands.

    stage: what is going on, in words. step, steps: of the stage, 0 of 0 where it has none. eta_s: seconds left, where
    known. position: jobs before this one. attempt: 2 after a worker died. message: why it failed.
    """

    id: str
    kind: str
    state: State
    stage: str
    step: int
    steps: int
    eta_s: float | None
    views_done: int
    views_total: int
    position: int
    attempt: int
    message: str

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in ("done", "failed")


def job_to_json(job: Job) -> dict[str, Any]:
    """The JSON object that a server reads back into the same job."""
    return asdict(job)


def view_count(job: Job) -> int:
    """How many images the job will make."""
    if isinstance(job, RenderJob | SynthesizeJob):
        return len(job.poses)
    return 2 if isinstance(job, EnhanceJob) and job.uncertainty_seeds else 1


def _require_views(poses: tuple[CArmPose, ...]) -> None:
    if not 1 <= len(poses) <= MAX_VIEWS:
        raise SVDRRError(f"A job makes 1 to {MAX_VIEWS:,} views, not {len(poses):,}; split the set.")


def _require_detector(detector: Detector) -> None:
    if max(detector.rows, detector.columns) > MAX_DETECTOR_PIXELS:
        raise SVDRRError(
            f"A detector has at most {MAX_DETECTOR_PIXELS} x {MAX_DETECTOR_PIXELS} pixels, "
            f"not {detector.rows} x {detector.columns}."
        )


def _require_spacing(spacing_mm: Spacing | None) -> None:
    if spacing_mm is not None and not (np.all(np.isfinite(spacing_mm)) and min(spacing_mm) > 0.0):
        raise SVDRRError(f"A pixel spacing is two positive numbers in mm, not {spacing_mm}.")


def _require_seed(seed: int) -> None:
    if not 0 <= seed <= MAX_SEED:
        raise SVDRRError(f"A seed lies in 0 to 2^63 - 1, and {seed} does not.")
