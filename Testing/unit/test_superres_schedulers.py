"""DeltaDiff's scheduler is exact where its model is; LCMSR's consistency function keeps its boundary."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from svdrr.superres.networks import LCMSR
from svdrr.superres.schedulers import DeltaDiffScheduler

every_schedule = pytest.mark.parametrize(
    "scheduler",
    [
        DeltaDiffScheduler(),
        DeltaDiffScheduler(num_train_timesteps=1),
        DeltaDiffScheduler(num_train_timesteps=15, power=2.0),
        DeltaDiffScheduler(start_at_input=False),
    ],
    ids=["default", "one step", "fifteen steps", "the paper's eta"],
)


def images(seed: int) -> torch.Tensor:
    return torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_schedule_of_the_paper() -> None:
    expected = [0.0, 0.010, 0.2705, 0.5797, 0.9801]
    assert DeltaDiffScheduler(start_at_input=False).eta.tolist() == pytest.approx(expected, abs=5e-5)
    assert DeltaDiffScheduler().eta.tolist() == pytest.approx([*expected[:-1], 1.0], abs=5e-5)


@every_schedule
def test_it_grows_from_nothing(scheduler: DeltaDiffScheduler) -> None:
    assert scheduler.eta[0] == 0.0
    assert (scheduler.eta.diff() > 0.0).all()
    assert scheduler.eta[-1] <= 1.0


@every_schedule
def test_a_true_prediction_leads_back_to_the_truth(scheduler: DeltaDiffScheduler) -> None:
    """f = x₀: every step lands on the way that was taken forward, and the last one on x₀ itself."""
    truth, given = images(1), images(2)
    count = len(scheduler.timesteps)
    sample = scheduler.add_residual(truth, given, torch.full((3,), count))
    for timestep in scheduler.timesteps:
        sample = scheduler.step(truth, timestep, sample).prev_sample
        forward = truth
        if timestep > 1:
            forward = scheduler.add_residual(truth, given, torch.full((3,), int(timestep) - 1))
        torch.testing.assert_close(sample, forward, rtol=0.0, atol=1e-12)
    torch.testing.assert_close(sample, truth, rtol=0.0, atol=1e-12)


def test_sampling_starts_at_the_input() -> None:
    truth, given = images(1), images(2)
    torch.testing.assert_close(DeltaDiffScheduler().add_residual(truth, given, torch.full((3,), 4)), given)


def test_timesteps_may_differ_in_a_batch() -> None:
    scheduler, truth, given = DeltaDiffScheduler(), images(1), images(2)
    mixed = scheduler.add_residual(truth, given, torch.tensor([1, 4, 2]))
    for index, timestep in enumerate((1, 4, 2)):
        alone = scheduler.add_residual(truth, given, torch.full((3,), timestep))
        torch.testing.assert_close(mixed[index], alone[index])


def test_a_wrong_prediction_is_mended_by_later_ones() -> None:
    """The last prediction alone decides: η₀ = 0, so nothing is left of x_1."""
    scheduler, truth, wrong = DeltaDiffScheduler(), images(1), images(3)
    sample = images(2)
    for timestep in scheduler.timesteps:
        sample = scheduler.step(truth if timestep == 1 else wrong, timestep, sample).prev_sample
    torch.testing.assert_close(sample, truth)


def test_a_saved_scheduler_is_the_same(tmp_path: Path) -> None:
    saved = DeltaDiffScheduler(num_train_timesteps=6, kappa=1.5, start_at_input=False)
    saved.save_pretrained(tmp_path)
    assert DeltaDiffScheduler.from_pretrained(tmp_path).eta.tolist() == saved.eta.tolist()


def test_at_timestep_zero_the_consistency_function_is_the_identity() -> None:
    network = LCMSR(4, 0.005, 8, 1, (8, 8), 8, 8, 1, 1).eval()
    torch.nn.init.normal_(network.unet.conv_out.weight)
    code, condition = (torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    with torch.no_grad():
        at_zero = network.consistent(code, condition, torch.tensor([0, 0]))
        later = network.consistent(code, condition, torch.tensor([0, 500]))
    torch.testing.assert_close(at_zero, code)
    torch.testing.assert_close(later[0], code[0])
    assert (later[1] - code[1]).abs().max() > 0.1


def test_the_noise_schedule_is_the_paper_s() -> None:
    kept = LCMSR(4, 0.005, 8, 1, (8, 8), 8, 8, 1, 1).scheduler.alphas_cumprod
    assert len(kept) == 1000
    assert kept[0].item() == pytest.approx(1.0 - 0.0015)
    # By how much one step with predicted noise would amplify its error.
    assert torch.sqrt((1.0 - kept[-1]) / kept[-1]).item() == pytest.approx(72.0, rel=0.02)
