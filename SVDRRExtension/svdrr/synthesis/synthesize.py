"""One radiograph in, labelled novel views out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from diffusers.utils.logging import disable_progress_bar

from svdrr.errors import SVDRRError
from svdrr.geometry import CArmPose, Detector, View, relative_view_encoding
from svdrr.models import ModelDescription, find_model
from svdrr.provenance import Provenance
from svdrr.radiograph import Radiograph
from svdrr.synthesis.pipeline import SVDRRPipeline
from svdrr.synthesis.preparation import prepare_source

MAX_STEPS = 1000


@dataclass(frozen=True)
class Sampling:
    """How views are sampled: denoising steps, guidance scale (1 is none), and the seed of the noise."""

    num_inference_steps: int
    guidance_scale: float
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.num_inference_steps <= MAX_STEPS:
            raise SVDRRError(f"The number of steps must lie in 1 to {MAX_STEPS}, not {self.num_inference_steps}.")
        if not 0.0 <= self.guidance_scale <= 50.0:
            raise SVDRRError(f"The guidance scale must lie in 0 to 50, not {self.guidance_scale:g}.")
        if self.seed < 0:
            raise SVDRRError(f"The seed must not be negative, and {self.seed} is.")

    @classmethod
    def default(cls, model: ModelDescription) -> Sampling:
        """What the model's description recommends."""
        return cls(model.num_inference_steps, model.guidance_scale)


class Synthesizer:
    """A loaded model that makes views; keep it to make more."""

    def __init__(self, model: str | ModelDescription) -> None:
        self.model = find_model(model) if isinstance(model, str) else model
        disable_progress_bar()
        try:
            pipeline = SVDRRPipeline.from_pretrained(self.model.folder, local_files_only=True, use_safetensors=True)
        except Exception as error:  # whatever diffusers, safetensors and torch raise for a damaged file
            raise SVDRRError(
                f"The model '{self.model.name}' cannot be loaded; files in {self.model.folder} are missing or damaged."
            ) from error
        # Weights are stored in half precision, in which a CPU is slow.
        for part in (pipeline.vae, pipeline.vcdit, pipeline.image_encoder):
            part.float()
        self.pipeline = pipeline.to("cuda" if torch.cuda.is_available() else "cpu")
        self._weights_sha256 = self.model.weights_sha256()

    def synthesize(
        self,
        radiograph: Radiograph,
        poses: Sequence[CArmPose],
        sampling: Sampling | None = None,
        source_pose: CArmPose | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> list[Radiograph]:
        """One synthetic radiograph per pose, at the model's resolution, each with its view and provenance.

        source_pose: where the radiograph was taken from; by default its own view, or else PA about the origin.
        on_step: called with the finished and the total number of denoising steps.
        """
        sampling = sampling or Sampling.default(self.model)
        source_pose = source_pose or (radiograph.view.pose if radiograph.view else CArmPose())
        source = prepare_source(radiograph, self.model)
        images = self.pipeline(
            source,
            [relative_view_encoding(source_pose, pose) for pose in poses],
            num_inference_steps=sampling.num_inference_steps,
            guidance_scale=sampling.guidance_scale,
            seed=sampling.seed,
            on_step=on_step,
        )
        provenance = Provenance(
            method="VCDiT",
            source=f"{_kind(radiograph)} with pixels SHA-256 {radiograph.pixels_sha256()}",
            model=self.model.name,
            weights_sha256=self._weights_sha256,
            seed=sampling.seed,
            settings={
                "Steps": str(sampling.num_inference_steps),
                "Guidance": f"{sampling.guidance_scale:g}",
                "SourceView": source_pose.label,
            },
        )
        detector = Detector.square(self.model.resolution, self.model.field_of_view_mm)
        return [
            Radiograph(image, detector.pixel_spacing_mm, View(pose, detector), provenance)
            for image, pose in zip(images, poses, strict=True)
        ]


def _kind(radiograph: Radiograph) -> str:
    """What a source image is, so that a view made from a computed image does not pass for one made from a real one."""
    return f"computed image ({radiograph.provenance.method})" if radiograph.provenance else "radiograph"
