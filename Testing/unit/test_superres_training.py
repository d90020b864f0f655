"""What super-resolution is trained on, and that training learns, resumes, and leaves what is read back."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import ModelMixin
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from svdrr.drr import to_display
from svdrr.errors import SVDRRError
from svdrr.superres.interpolation import interpolate
from svdrr.superres.learned import NETWORKS, enlarge, load_network
from svdrr.superres.networks import LCMSR, DeltaDiff, RegressionNetwork
from svdrr.superres.training import images as training_images
from svdrr.superres.training import lcmsr as lcmsr_training
from svdrr.superres.training import loop as training_loop
from svdrr.superres.training.__main__ import begin_from, begin_from_state, save
from svdrr.superres.training.crops import draw_pairs
from svdrr.superres.training.deltadiff import train_deltadiff
from svdrr.superres.training.lcmsr import train_autoencoder, train_consistency, train_decoder
from svdrr.superres.training.loop import Training
from svdrr.superres.training.overlays import _HOW_OFTEN, Draw, _chord, _deposit, add_overlays
from svdrr.superres.training.regression import train_regression
from svdrr.synthesis.configuration import Schedule

SHAPE = (96, 128)


# Images


def test_a_cylinder_has_the_area_of_its_cross_section() -> None:
    """Chords across a straight vessel add up to πr²."""
    for radius in (1.0, 2.5, 6.3):
        image = np.zeros((60, 200), np.float32)
        _deposit(image, np.array([30.2, -20.0]), np.array([30.2, 220.0]), radius, lambda d, r=radius: _chord(d, r))
        np.testing.assert_allclose(image.sum(axis=0)[50:150], np.pi * radius**2, rtol=0.02)


def test_where_pieces_meet_nothing_is_counted_twice() -> None:
    whole, pieces = np.zeros((2, 40, 80), np.float32)
    ends = [np.array([20.0, column]) for column in (10.0, 40.0, 70.0)]
    _deposit(whole, ends[0], ends[2], 3.0, lambda distance: _chord(distance, 3.0))
    for start, end in pairwise(ends):
        _deposit(pieces, start, end, 3.0, lambda distance: _chord(distance, 3.0))
    np.testing.assert_allclose(pieces, whole, atol=1e-4)


@pytest.mark.parametrize("draw", _HOW_OFTEN, ids=lambda draw: draw.__name__)
def test_every_kind_of_structure_shows_and_comes_again_with_its_seed(draw: Draw) -> None:
    drawn = [draw(SHAPE, np.random.default_rng(seed)) for seed in range(8)]
    assert all(image.shape == SHAPE and np.isfinite(image).all() for image in drawn)
    assert sum(image.std() > 1e-4 for image in drawn) >= 6
    np.testing.assert_array_equal(drawn[3], draw(SHAPE, np.random.default_rng(3)))


def test_overlays_keep_line_integrals_positive_and_the_original_as_it_was() -> None:
    original = np.full(SHAPE, 0.02, np.float32)
    drawn = add_overlays(original, np.random.default_rng(2))
    assert drawn.min() >= 0.0
    assert drawn.std() > 0.01
    assert (original == np.float32(0.02)).all()


def test_images_of_a_phantom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PA and others, on detectors of different sizes, with the body in them; the same from the same seed."""
    monkeypatch.setattr(training_images, "PIXELS", 64)
    monkeypatch.setattr(training_images, "SPACING_MM", 6.0)
    first, other = training_images.training_image_set(3), training_images.training_image_set(4)
    assert first.shape == (4, 64, 64)
    assert first.dtype == np.uint16
    assert (first[:, 16:48, 16:48].mean(axis=(1, 2)) > 0.2 * 65535).all()
    np.testing.assert_array_equal(first, training_images.training_image_set(3))
    assert (first != other).mean() > 0.5


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint16]:
    """Two images of structure alone."""
    generator = np.random.default_rng(11)
    line_integrals = [add_overlays(np.full((160, 160), 2.0, np.float32), generator) for _ in range(2)]
    return np.round(to_display(np.stack(line_integrals)) * 65535.0).astype(np.uint16)


@pytest.mark.parametrize("scale", [2, 4])
def test_pairs_are_an_image_and_what_a_detector_makes_of_it(images: NDArray[np.uint16], scale: int) -> None:
    pairs = draw_pairs(images, scale, 12, (1,), range(5))
    assert pairs.reduced.shape == (5, 1, 12, 12)
    assert pairs.truth.shape == pairs.interpolated.shape == (5, 1, 12 * scale, 12 * scale)
    means = torch.nn.functional.avg_pool2d(pairs.truth, scale)
    assert (means - pairs.reduced).abs().mean() < 0.02 < pairs.truth.std()
    for reduced, interpolated in zip(pairs.reduced[:, 0], pairs.interpolated[:, 0], strict=True):
        again = interpolate(reduced.numpy(), scale, "bicubic")
        inner = slice(4 * scale, -4 * scale)  # Around a crop there was more to interpolate from.
        np.testing.assert_allclose(interpolated.numpy()[inner, inner], again[inner, inner], atol=1e-5)
    again = draw_pairs(images, scale, 12, (1,), range(5))
    torch.testing.assert_close(again.truth, pairs.truth, rtol=0.0, atol=0.0)
    # A process that draws a part of the batch draws the same samples.
    part = draw_pairs(images, scale, 12, (1,), (1, 3))
    torch.testing.assert_close(part.reduced, pairs.reduced[[1, 3]], rtol=0.0, atol=0.0)


def test_what_a_step_draws_is_not_what_its_samples_are_made_of(images: NDArray[np.uint16], tmp_path: Path) -> None:
    """numpy pads seeds with zeros: (5, 3) and (5, 3, 0) are one stream."""
    batch = Training(images, 12, SCHEDULE, tmp_path, seed=5).draw(2, step=3)
    drawn = batch.generator.random()
    assert all(drawn != np.random.default_rng((5, 3, *number)).random() for number in ((), (0,), (1,)))


# Training

SCHEDULE = Schedule(steps=6, batch_size=2, learning_rate=1e-3, warmup_steps=1, ema_decay=0.9)
Train = Callable[..., None]
STAGES: dict[str, tuple[Callable[[], ModelMixin], Train]] = {
    "regression": (lambda: RegressionNetwork(2, 0.01, 8, 1), train_regression),
    "autoencoder": (lambda: LCMSR(2, 0.01, 8, 1, (8, 8), 8, 8, 1, 1), train_autoencoder),
    "consistency": (lambda: LCMSR(2, 0.01, 8, 1, (8, 8), 8, 8, 1, 1), train_consistency),
    "decoder": (lambda: LCMSR(2, 0.01, 8, 1, (8, 8), 8, 8, 1, 1), train_decoder),
    "deltadiff": (lambda: DeltaDiff(2, 0.01, (8, 8)), train_deltadiff),
}
every_stage = pytest.mark.parametrize("stage", STAGES)


class KilledError(Exception):
    """What ends a training in its middle."""


def trained(stage: str, images: NDArray[np.uint16], work: Path, on_step: Callable[[int, int], None] | None = None):
    make, train = STAGES[stage]
    torch.manual_seed(2)
    network = make()
    train(network, Training(images, 16, SCHEDULE, work, seed=5, on_step=on_step))
    return network


@every_stage
def test_a_killed_training_goes_on_as_if_nothing_had_happened(
    stage: str, images: NDArray[np.uint16], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from svdrr.synthesis.training import loop

    monkeypatch.setattr(loop.train, "__defaults__", (2, *loop.train.__defaults__[1:]))  # A state every second step.
    straight = trained(stage, images, tmp_path / "straight").state_dict()

    def kill(step: int, steps: int) -> None:
        if step == 3:
            raise KilledError

    with pytest.raises(KilledError):
        trained(stage, images, tmp_path / "killed", kill)
    resumed = trained(stage, images, tmp_path / "killed").state_dict()
    for name, value in straight.items():
        torch.testing.assert_close(resumed[name], value, rtol=1e-5, atol=1e-6, msg=name)
    torch.manual_seed(2)
    untrained = STAGES[stage][0]().state_dict()
    assert any((untrained[name] != value).any() for name, value in straight.items())


def test_each_stage_of_lcmsr_leaves_the_parts_of_the_other(images: NDArray[np.uint16], tmp_path: Path) -> None:
    torch.manual_seed(2)
    before = STAGES["consistency"][0]().state_dict()
    parts = {
        "autoencoder": ("encoder.", "decoder.", "code_std"),
        "consistency": ("conditional.", "unet."),
        "decoder": ("decoder.",),
    }
    for stage, its_own in parts.items():
        after = trained(stage, images, tmp_path / stage).state_dict()
        changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
        assert changed
        assert all(name.startswith(its_own) for name in changed)


def test_codes_have_unit_variance_after_the_first_stage(images: NDArray[np.uint16], tmp_path: Path) -> None:
    network = trained("autoencoder", images, tmp_path)
    pairs = draw_pairs(images, 2, 16, (5, SCHEDULE.steps), range(64))  # Those that the training took for it.
    with torch.no_grad():
        codes = network.code(pairs.truth, pairs.interpolated)
    assert codes.std(dim=(0, 2, 3)).tolist() == pytest.approx([1.0] * 4, rel=1e-3)


def test_an_autoencoder_whose_codes_say_nothing_is_noticed(images: NDArray[np.uint16], tmp_path: Path) -> None:
    network = STAGES["autoencoder"][0]()
    torch.nn.init.zeros_(network.encoder.layers[-1].weight)
    schedule = Schedule(steps=1, batch_size=1, learning_rate=1e-9, warmup_steps=0, ema_decay=0.0)
    with pytest.raises(SVDRRError, match="The autoencoder has collapsed: its codes are the same for all images"):
        train_autoencoder(network, Training(images, 16, schedule, tmp_path, seed=5))


def test_the_next_scale_begins_from_the_first_stage(images: NDArray[np.uint16], tmp_path: Path) -> None:
    first = trained("autoencoder", images, tmp_path)
    other = STAGES["autoencoder"][0]()
    begin_from_state(other, tmp_path)
    begun, ended = other.state_dict(), first.state_dict()
    for name, value in ended.items():
        if name.startswith(("encoder.", "decoder.")):
            torch.testing.assert_close(begun[name], value, rtol=0.0, atol=0.0)
    assert any((begun[name] != value).any() for name, value in ended.items() if name.startswith("unet."))
    begin_from_state(other, tmp_path / "nothing")


def test_the_target_is_the_average_of_the_weights(
    images: NDArray[np.uint16], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """θ⁻ ← μθ⁻ + (1 − μ)θ, algorithm 1 of [lcmsr]: what `train` is given follows, and is not trained itself."""
    seen = {}

    def watch(model: LCMSR, loss_at: Callable[[int], torch.Tensor], *_: object, target: LCMSR, **__: object) -> None:
        seen["same"] = all(torch.equal(value, target.state_dict()[name]) for name, value in model.state_dict().items())
        seen["apart"] = target is not model
        before = loss_at(0)
        target.unet.conv_out.bias.data += 1.0
        seen["matters"] = (loss_at(0) - before).abs().item()

    monkeypatch.setattr(training_loop, "train", watch)
    monkeypatch.setattr(lcmsr_training, "SEGMENTS", (50,))
    trained("consistency", images, tmp_path)
    assert seen["same"]
    assert seen["apart"]
    assert seen["matters"] > 0.01


@pytest.mark.parametrize("method", NETWORKS)
def test_a_saved_network_is_read_back_and_begins_another(method: str, tmp_path: Path) -> None:
    torch.manual_seed(4)
    stage = "consistency" if method == "lcmsr" else method
    network = STAGES[stage][0]().eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "log.jsonl").write_text('{"step": 19, "loss": 0.5}\n')
    pixels = np.random.default_rng(1).random((24, 20), dtype=np.float32)
    before = enlarge(pixels, network)
    save(network, tmp_path / "model", {"stage": tmp_path / "work"})
    read = load_network(method, tmp_path / "model", "cpu")
    np.testing.assert_allclose(enlarge(pixels, read), before, atol=1.0 / 4096.0)
    assert (tmp_path / "model" / "training.png").exists()

    torch.manual_seed(5)
    other_scale = type(network)(**{**network.config, "scale": 4})
    begin_from(other_scale, tmp_path / "model")
    taken = dict(other_scale.named_parameters())
    same = [name for name, value in read.named_parameters() if torch.equal(value, taken[name].float())]
    assert 0.6 < len(same) / len(taken) < 1.0


def test_regression_learns_what_a_detector_blurs(tmp_path: Path) -> None:
    """In a few small steps it is better than the interpolation that it begins with."""
    smooth = gaussian_filter(np.random.default_rng(3).standard_normal((1, 256, 256)), (0.0, 6.0, 6.0))
    shapes = np.where(smooth > 0.0, 30000, 20000).astype(np.uint16)
    torch.manual_seed(0)
    network = RegressionNetwork(2, 0.01, 16, 1)
    schedule = Schedule(steps=300, batch_size=4, learning_rate=5e-3, warmup_steps=5, ema_decay=0.9)
    train_regression(network, Training(shapes, 24, schedule, tmp_path, seed=1))
    pairs = draw_pairs(shapes, 2, 24, (100,), range(32))
    with torch.no_grad():
        learned = (network(pairs.reduced, pairs.interpolated) - pairs.truth).abs().mean()
    assert learned < 0.96 * (pairs.interpolated - pairs.truth).abs().mean()


@pytest.mark.parametrize("spread", [0.0, lcmsr_training.SPREAD])
def test_samples_learn_to_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spread: float) -> None:
    """By their common score alone: with nothing but their errors, the decoder goes on to ignore what differs."""
    monkeypatch.setattr(lcmsr_training, "SPREAD", spread)
    noise = np.random.default_rng(3).standard_normal((1, 256, 256))
    smooth, fine = (gaussian_filter(noise, (0.0, sigma, sigma)) for sigma in (12.0, 0.7))
    images = np.where(smooth > 0.0, 25000 + 4000 * fine, 25000).astype(np.uint16)
    torch.manual_seed(0)
    network = LCMSR(2, 0.02, 8, 1, (8, 8), 16, 16, 1, 1)
    torch.nn.init.normal_(network.unet.conv_out.weight, std=0.3)
    torch.nn.init.zeros_(network.decoder.first_side.weight)
    schedule = Schedule(steps=100, batch_size=4, learning_rate=5e-3, warmup_steps=5, ema_decay=0.9)
    train_decoder(network, Training(images, 24, schedule, tmp_path, seed=1))
    pairs = draw_pairs(images, 2, 24, (100,), range(32))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        one, other = (
            network(pairs.reduced, pairs.interpolated, torch.randn(32, 4, 12, 12, generator=generator))
            for _ in range(2)
        )
    apart, wrong = (one - other).abs().mean(), (one - pairs.truth).abs().mean()
    assert (apart > 0.05 * wrong) == (spread > 0.0)
