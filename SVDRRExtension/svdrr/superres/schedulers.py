"""Noise-free residual shifting of DeltaDiff as a diffusers scheduler, and LCMSR's consistency scheduler."""

from __future__ import annotations

import torch
from diffusers import ConfigMixin, LCMScheduler, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from torch import Tensor


def lcmsr_scheduler() -> LCMScheduler:
    """1,000 timesteps, β from 0.0015 to 0.0155 [lcmsr, III-B], prediction of the code, LCM's boundary scalings."""
    return LCMScheduler(
        num_train_timesteps=1000,
        beta_start=0.0015,
        beta_end=0.0155,
        beta_schedule="linear",
        prediction_type="sample",
        clip_sample=False,
    )


class DeltaDiffScheduler(SchedulerMixin, ConfigMixin):
    """From an interpolated image y to x₀ in a few steps that shift the residual, without any noise [deltadiff].

    The paper's equations 4 to 6 contradict each other; these are consistent, and exact where the model is:
    x_t = x₀ + η_t·(y − x₀), and x_{t−1} = (η_{t−1}/η_t)·x_t + (α_t/η_t)·x̂₀ with α_t = η_t − η_{t−1}, η₀ = 0.

    η_t = s_t², where s_t grows from s₁ = min(m/κ, m) to `s_end` by the power p of (t − 1)/(T − 1) in the exponent
    (ResShift's schedule with the paper's 4 steps). start_at_input: η_T = 1, so that training begins where sampling
    does, at y itself; the paper's own η_T is s_end², 0.98.
    """

    order = 1

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 4,
        power: float = 0.3,
        min_noise_level: float = 0.2,
        kappa: float = 2.0,
        s_end: float = 0.99,
        start_at_input: bool = True,
    ) -> None:
        first = min(min_noise_level / kappa, min_noise_level)
        steps = torch.arange(num_train_timesteps, dtype=torch.float64)
        exponents = (steps / max(num_train_timesteps - 1, 1)) ** power
        eta = (first * (s_end / first) ** exponents) ** 2
        if num_train_timesteps == 1:
            eta[:] = s_end**2
        if start_at_input:
            eta[-1] = 1.0
        self.eta = torch.cat([torch.zeros(1, dtype=torch.float64), eta])
        self.timesteps = torch.arange(num_train_timesteps, 0, -1)

    def add_residual(self, truth: Tensor, given: Tensor, timesteps: Tensor) -> Tensor:
        """x_t of x₀ = `truth` and y = `given`, any latents (batch, …); timesteps (batch,) from 1 to T."""
        eta = self.eta.to(truth.device)[timesteps].to(truth.dtype)
        return truth + eta.reshape(-1, *[1] * (truth.ndim - 1)) * (given - truth)

    def step(self, model_output: Tensor, timestep: Tensor | int, sample: Tensor) -> SchedulerOutput:
        """x_{t−1} from the model's x̂₀ (`model_output`) and x_t (`sample`)."""
        now, before = self.eta[int(timestep)].item(), self.eta[int(timestep) - 1].item()
        return SchedulerOutput((before / now) * sample + ((now - before) / now) * model_output)
