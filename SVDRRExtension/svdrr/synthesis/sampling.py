"""How views are sampled, without the libraries that do it."""

from __future__ import annotations

from dataclasses import dataclass

from svdrr.errors import SVDRRError
from svdrr.models import ModelDescription

MAX_STEPS = 1000
MAX_SEED = 2**63 - 1
"""What PyTorch's generators and the backend's jobs take."""


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
        if not 0 <= self.seed <= MAX_SEED:
            raise SVDRRError(f"The seed must lie in 0 to 2^63 - 1, not {self.seed}.")

    @classmethod
    def of(
        cls, model: ModelDescription, steps: int | None = None, guidance: float | None = None, seed: int = 0
    ) -> Sampling:
        """What is asked for, and where it is None what the model's description recommends."""
        return cls(
            model.num_inference_steps if steps is None else steps,
            model.guidance_scale if guidance is None else guidance,
            seed,
        )
