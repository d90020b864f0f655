"""The training loop: it learns, and a run that was interrupted ends where an uninterrupted one does."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from svdrr.errors import SVDRRError
from svdrr.synthesis.configuration import Schedule, load_configuration
from svdrr.synthesis.pipeline import image_tokens
from svdrr.synthesis.training.loop import saved_states, train
from svdrr.synthesis.training.phantom_views import training_poses, view_encodings
from svdrr.synthesis.training.vcdit import train_vcdit

SCHEDULE = Schedule(steps=40, batch_size=8, learning_rate=1e-2, warmup_steps=5, ema_decay=0.9)


def _network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.SiLU(), torch.nn.Linear(16, 1))


def _loss_at(network: torch.nn.Module, stop_at: int | None = None):
    def loss_at(step: int) -> torch.Tensor:
        if step == stop_at:
            raise KeyboardInterrupt
        inputs = torch.from_numpy(np.random.default_rng(step).standard_normal((8, 4)).astype(np.float32))
        return functional.mse_loss(network(inputs), inputs.sum(dim=1, keepdim=True))

    return loss_at


def _losses(directory: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (directory / "log.jsonl").read_text().splitlines()]


def test_an_interrupted_run_ends_in_the_same_weights(tmp_path) -> None:
    whole = _network()
    train(whole, _loss_at(whole), SCHEDULE, tmp_path / "whole", save_every=10)

    broken = _network()
    with pytest.raises(KeyboardInterrupt):
        train(broken, _loss_at(broken, stop_at=27), SCHEDULE, tmp_path / "broken", save_every=10)
    resumed = _network()
    train(resumed, _loss_at(resumed), SCHEDULE, tmp_path / "broken", save_every=10)

    for expected, actual in zip(whole.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(actual, expected, rtol=0.0, atol=0.0)
    assert _losses(tmp_path / "broken")[-1] == _losses(tmp_path / "whole")[-1]


def test_training_lowers_the_loss_and_keeps_two_states(tmp_path) -> None:
    network = _network()
    train(network, _loss_at(network), dataclasses.replace(SCHEDULE, steps=200), tmp_path, save_every=20)
    losses = _losses(tmp_path)
    assert losses[-1] < 0.3 * losses[0]
    assert [state.name for state in saved_states(tmp_path)] == ["step-0000180", "step-0000200"]


def test_a_loss_that_is_no_number_stops_with_a_sentence(tmp_path) -> None:
    network = _network()
    with pytest.raises(SVDRRError, match="lower the learning rate"):
        train(network, lambda step: network(torch.full((1, 4), float("nan"))).sum(), SCHEDULE, tmp_path)


def test_vcdit_learns_which_latent_belongs_to_which_view(tmp_path) -> None:
    """Two views with opposite latents: in pure noise nothing but the condition says which one is wanted."""
    demo = load_configuration("demo-128")
    small = dataclasses.replace(
        demo,
        vcdit={**demo.vcdit, "sample_size": 4, "num_layers": 2, "num_attention_heads": 2, "image_embedding_dim": 64},
        image_encoder={**demo.image_encoder, "image_size": 32, "hidden_size": 64},
        training={"vcdit": Schedule(steps=100, batch_size=16, learning_rate=3e-3, warmup_steps=10, ema_decay=0.9)},
    )
    latents = np.ones((4, 2, 4, 4, 4), np.float32)
    latents[:, 1] = -1.0
    encodings = np.tile(np.array([[0, 0, 1, 0], [0, 1, 0, 0]], np.float32), (4, 1, 1))
    sources = np.full((4, 32, 32), 20000, np.uint16)
    vcdit, encoder = train_vcdit(small, sources, latents, encodings, tmp_path, seed=0)
    with torch.no_grad():
        tokens = image_tokens(encoder, torch.from_numpy(sources[:2].astype(np.float32) / 65535.0))
        condition = vcdit.condition(tokens, torch.from_numpy(encodings[0]))
        noise = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0)).expand(2, -1, -1, -1)
        # At the last timestep the velocity is minus the clean latent, but for 0.6 % of noise.
        velocity = vcdit(noise, torch.tensor([999, 999]), torch.from_numpy(latents[:2, 0]), condition)
    assert velocity[0].mean() < -0.5
    assert velocity[1].mean() > 0.5


def test_training_views_start_with_pa_and_stay_the_same_for_a_seed() -> None:
    poses = training_poses(5, (0.0, 0.0, 0.0))
    assert len(poses) == 60
    assert poses[0].label == "PA"
    assert poses == training_poses(5, (0.0, 0.0, 0.0)) != training_poses(6, (0.0, 0.0, 0.0))
    np.testing.assert_allclose(view_encodings(5)[0], [0.0, 0.0, 1.0, 0.0], atol=1e-7)
