"""One radiograph in, labelled novel views out."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from diffusers.utils import logging as diffusers_logging
from numpy.typing import NDArray
from transformers.utils import logging as transformers_logging

from svdrr.devices import choose_device, put_on
from svdrr.errors import SVDRRError
from svdrr.geometry import CArmPose, Detector, View, relative_view_encoding
from svdrr.models import ModelDescription, find_model
from svdrr.provenance import Provenance, source_text
from svdrr.radiograph import Radiograph
from svdrr.synthesis.pipeline import EncodedSource, SVDRRPipeline, free_gpu_memory
from svdrr.synthesis.preparation import prepare_source
from svdrr.synthesis.sampling import Sampling

# On a GPU, a batch ends where more views would only make the first result, and a cancel, wait longer.
_MOST_VIEWS = 16
_MOST_PIXELS = 2048**2
_BYTES_PER_PIXEL = 1024
_VIEWS_ON_CPU = 4


def choose_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware has it, which NVIDIA's has since Ampere; not float16, in which the VAE overflows."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0):
        return torch.bfloat16
    return torch.float32


def default_batch_size(device: torch.device, resolution: int) -> int:
    """How many views are made at once on `device`.

    On a GPU as many as its free memory holds at 1 KiB per pixel, four times what the paper's transformer takes in
    bfloat16, but no more than 16, or than 2048 x 2048 pixels hold. On a CPU 4: larger batches are no faster there.
    """
    if device.type == "cpu":
        return _VIEWS_ON_CPU
    fitting = free_gpu_memory(device) // (_BYTES_PER_PIXEL * resolution**2)
    return max(1, min(_MOST_VIEWS, _MOST_PIXELS // resolution**2, fitting))


def load_pipeline(model: ModelDescription) -> SVDRRPipeline:
    """The model's networks on the CPU, as precise as they are saved; SVDRRError if a file is missing or damaged."""
    for logging in (diffusers_logging, transformers_logging):
        logging.disable_progress_bar()
    try:
        return SVDRRPipeline.from_pretrained(model.folder, local_files_only=True, use_safetensors=True)
    except Exception as error:  # whatever diffusers, safetensors and torch raise for a damaged file
        raise SVDRRError(
            f"The model '{model.name}' cannot be loaded; files in {model.folder} are missing or damaged."
        ) from error


class Synthesizer:
    """A loaded model that makes views; keep it to make more.

    device: see `choose_device`. compile: let ``torch.compile`` make the transformer faster; the first batch then takes
    minutes, and less in later processes.
    """

    def __init__(self, model: str | ModelDescription, device: str = "auto", compile: bool = False) -> None:
        self.model = find_model(model) if isinstance(model, str) else model
        self.device = choose_device(device)
        pipeline = load_pipeline(self.model)
        # Not by `from_pretrained`, whose argument for it has another name in each version, nor by `to`, which warns.
        for part in (pipeline.vcdit, pipeline.image_encoder):
            part.bfloat16() if choose_dtype(self.device) == torch.bfloat16 else part.float()
        # The 8 bits of a bfloat16 would show as bands in a radiograph of 16.
        pipeline.vae.float()
        if self.device.type == "cpu":
            # The layout that convolutions on a CPU are fastest in.
            pipeline.vae.to(memory_format=torch.channels_last)
        if pipeline.lifting is not None:
            pipeline.lifting.float()
        self.pipeline = put_on(self.device, pipeline, f"The model '{self.model.name}'")
        if compile:
            _keep_compiled_code()
            self.pipeline.vcdit.compile()
        self._weights_sha256 = self.model.weights_sha256()
        self._last_source: tuple[NDArray[np.float32], EncodedSource] | None = None

    def synthesize(
        self,
        radiograph: Radiograph,
        poses: Sequence[CArmPose],
        sampling: Sampling | None = None,
        source_pose: CArmPose | None = None,
        on_step: Callable[[int, int], None] | None = None,
        batch_size: int | None = None,
    ) -> list[Radiograph]:
        """All that `views` yields."""
        return list(self.views(radiograph, poses, sampling, source_pose, on_step, batch_size))

    def views(
        self,
        radiograph: Radiograph,
        poses: Sequence[CArmPose],
        sampling: Sampling | None = None,
        source_pose: CArmPose | None = None,
        on_step: Callable[[int, int], None] | None = None,
        batch_size: int | None = None,
    ) -> Iterator[Radiograph]:
        """Yields one synthetic radiograph per pose, as soon as its batch is done, with its view and provenance.

        They have the model's resolution. source_pose: where the radiograph was taken from; by default
        `Radiograph.source_pose`. on_step: called with the finished and the total number of denoising steps, each view's
        counted; it may raise to cancel. batch_size: see `default_batch_size`. SVDRRError if the memory is not
        enough for one view, or if the model's results are no numbers.
        """
        sampling = sampling or Sampling.of(self.model)
        source_pose = source_pose or radiograph.source_pose
        batches = self.pipeline.views(
            self._encoded(prepare_source(radiograph, self.model)),
            [relative_view_encoding(source_pose, pose) for pose in poses],
            num_inference_steps=sampling.num_inference_steps,
            guidance_scale=sampling.guidance_scale,
            seed=sampling.seed,
            batch_size=batch_size or default_batch_size(self.device, self.model.resolution),
            on_step=on_step,
        )
        provenance = Provenance(
            method="VCDiT",
            source=source_text(radiograph.provenance, radiograph.pixels_sha256()),
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
        for image, pose in zip(chain.from_iterable(batches), poses, strict=True):
            if not np.isfinite(image).all():
                raise SVDRRError(
                    f"The model '{self.model.name}' makes images without numbers (NaN or infinite): its weights are "
                    "damaged; copy or train it again, or take another model."
                )
            yield Radiograph(image, detector.pixel_spacing_mm, View(pose, detector), provenance)

    def _encoded(self, source: NDArray[np.float32]) -> EncodedSource:
        """The last one's are kept: a slider that moves asks for view after view of the same radiograph."""
        if self._last_source is None or not np.array_equal(self._last_source[0], source):
            self._last_source = source, self.pipeline.encode_source(source)
        return self._last_source[1]


def _keep_compiled_code() -> None:
    """Compiled code goes to PyTorch's cache folder instead of the temporary one; where the user chose one, to that."""
    variable = "TORCHINDUCTOR_CACHE_DIR"
    # Whoever imports diffusers finds the variable set to this default of PyTorch.
    default = os.path.join(tempfile.gettempdir(), "torchinductor_")
    if os.environ.get(variable, default).startswith(default):
        os.environ[variable] = str(Path(torch.hub.get_dir()).with_name("inductor"))
