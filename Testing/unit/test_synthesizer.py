"""Sampling in batches, when memory runs out, and on devices; no GPU is needed.

Where a test says that memory is not enough, a hook raises PyTorch's error for it, with a real message, on a CPU.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentences import assert_one_sentence
from transformers.utils import logging as transformers_logging

from svdrr.errors import SVDRRError
from svdrr.geometry import CArmPose, relative_view_encoding
from svdrr.radiograph import Radiograph
from svdrr.synthesis.pipeline import decode_latents
from svdrr.synthesis.sampling import MAX_SEED, Sampling
from svdrr.synthesis.synthesize import Synthesizer, choose_device, choose_dtype, default_batch_size

ANGLES = (-60.0, -30.0, 30.0, 60.0, 90.0)
POSES = [CArmPose(angle) for angle in ANGLES]
VIEWS = [relative_view_encoding(CArmPose(), pose) for pose in POSES]
STEPS = 2
OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.11 GiB of which …"


def load_tiny() -> Synthesizer:
    synthesizer = Synthesizer("tiny", device="cpu")
    # Small outputs would hide differences between conditions.
    output = synthesizer.pipeline.vcdit.transformer.proj_out.weight
    output.data.copy_(0.2 * torch.randn(output.shape, generator=torch.Generator().manual_seed(3)))
    return synthesizer


@pytest.fixture
def synthesizer(models: Path) -> Synthesizer:
    return load_tiny()


@pytest.fixture(scope="module")
def radiograph() -> Radiograph:
    return Radiograph(np.random.default_rng(0).random((32, 32), np.float32), (15.0, 15.0))


@pytest.fixture
def gpu_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU of 10 GB, on which this process holds 4 GB and another one 3 GB."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(2e9), int(10e9)))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: int(5e9))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: int(4e9))


@pytest.fixture
def limit(gpu_figures: None) -> Iterator[Callable[[torch.nn.Module, Callable[[torch.Tensor], bool]], list[int]]]:
    """Makes a module run out of memory for inputs that do not fit; returns the batch sizes that it was called with."""
    handles = []

    def limit(module: torch.nn.Module, fits: Callable[[torch.Tensor], bool]) -> list[int]:
        sizes: list[int] = []

        def hook(module: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
            sizes.append(len(arguments[0]))
            if not fits(arguments[0]):
                raise torch.OutOfMemoryError(OUT_OF_MEMORY)

        handles.append(module.register_forward_pre_hook(hook))
        return sizes

    yield limit
    for handle in handles:
        handle.remove()


def sample(synthesizer: Synthesizer, batch_size: int, **options: Any) -> np.ndarray:
    source = np.random.default_rng(0).random((32, 32), np.float32)
    return synthesizer.pipeline(source, VIEWS, STEPS, 1.5, batch_size=batch_size, **options)


def test_batches_of_every_size_agree(synthesizer) -> None:
    expected = sample(synthesizer, 1)
    assert np.abs(expected[0] - expected[1]).max() > 1e-3, "the views must differ for this test to tell anything"
    for batch_size in (2, 3, 5, 8):
        np.testing.assert_allclose(sample(synthesizer, batch_size), expected, atol=1e-4)


def test_batches_are_halved_until_they_fit_and_stay_so(synthesizer, limit) -> None:
    expected = sample(synthesizer, 1)
    # Guided, each view takes two rows.
    sizes = limit(synthesizer.pipeline.vcdit, lambda noised: len(noised) <= 4)
    seen: list[tuple[int, int]] = []
    views = sample(synthesizer, 8, on_step=lambda *step: seen.append(step))
    np.testing.assert_allclose(views, expected, atol=1e-4)
    assert sizes == [10] + [4] * 2 * STEPS + [2] * STEPS
    assert seen == [(2, 10), (4, 10), (6, 10), (8, 10), (9, 10), (10, 10)]


def test_progress_never_goes_back_when_a_later_step_does_not_fit(synthesizer, limit) -> None:
    calls = []

    def fits(noised: torch.Tensor) -> bool:
        calls.append(len(noised))
        return len(calls) != STEPS

    limit(synthesizer.pipeline.vcdit, fits)
    seen: list[tuple[int, int]] = []
    sample(synthesizer, 4, on_step=lambda *step: seen.append(step))
    assert calls == [8, 8, 4, 4, 4, 4, 2, 2]
    finished = [step for step, _ in seen]
    assert finished == sorted(finished)
    assert seen[-1] == (10, 10)


def test_one_view_that_does_not_fit_gets_one_sentence_with_figures(synthesizer, limit, radiograph) -> None:
    limit(synthesizer.pipeline.vcdit, lambda noised: False)
    # 4 GB held and 2.50 GiB asked for; 2 GB free, 1 GB cached and the 4 GB.
    sentence = r"One view at 32 x 32 needs at least 6\.7 GB of .*, and 7\.0 GB are free .*CPU\."
    with pytest.raises(SVDRRError, match=sentence):
        synthesizer.synthesize(radiograph, POSES)


def test_a_decoder_that_runs_out_of_memory_works_in_tiles_from_then_on(synthesizer, limit) -> None:
    pipeline = synthesizer.pipeline
    # The tiny model's own latents, 4 x 4, are too small to be cut with an overlap.
    pipeline.vcdit.register_to_config(sample_size=8)
    latent = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        whole = decode_latents(pipeline.vae, latent)
        sizes = limit(pipeline.vae.decoder, lambda latents: latents.shape[-1] <= 4)
        tiled = pipeline._tiled_if_needed(decode_latents, latent)
        assert len(sizes) == 1 + 3 * 3
        pipeline._tiled_if_needed(decode_latents, latent)
    assert len(sizes) == 1 + 2 * 3 * 3, "the whole image must not be tried again"
    assert tiled.shape == whole.shape == (1, 64, 64)


def test_a_decoder_that_has_no_room_even_for_tiles_gets_the_sentence(synthesizer, limit, radiograph) -> None:
    limit(synthesizer.pipeline.vae.decoder, lambda latents: False)
    with pytest.raises(SVDRRError, match="One view at 32 x 32 needs at least"):
        synthesizer.synthesize(radiograph, POSES)


def test_views_come_before_the_end(synthesizer, radiograph) -> None:
    seen: list[tuple[int, int]] = []
    views = synthesizer.views(radiograph, POSES, on_step=lambda *step: seen.append(step), batch_size=2)
    first = next(views)
    assert first.view is not None
    assert first.view.pose == POSES[0]
    assert first.provenance is not None
    assert seen[-1] == (4, 10)
    assert [view.view.pose for view in views if view.view] == POSES[1:]
    assert seen[-1] == (10, 10)


def test_synthesize_is_all_of_the_views(synthesizer, radiograph) -> None:
    listed = synthesizer.synthesize(radiograph, POSES, batch_size=2)
    for one, other in zip(listed, synthesizer.views(radiograph, POSES, batch_size=2), strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)
    assert synthesizer.synthesize(radiograph, []) == []


def test_a_cancelled_job_leaves_the_synthesizer_as_it_was(synthesizer, radiograph) -> None:
    class CancelledError(Exception):
        pass

    def cancel(finished: int, total: int) -> None:
        if finished > 4:
            raise CancelledError

    before = synthesizer.synthesize(radiograph, POSES, batch_size=2)
    views = synthesizer.views(radiograph, POSES, on_step=cancel, batch_size=2)
    assert len([next(views), next(views)]) == 2
    with pytest.raises(CancelledError):
        next(views)
    after = synthesizer.synthesize(radiograph, POSES, batch_size=2)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)


def test_the_source_is_encoded_once_for_all_views(synthesizer, limit) -> None:
    sizes = [limit(part, lambda pixels: True) for part in (synthesizer.pipeline.vae.encoder,)]
    sizes.append(limit(synthesizer.pipeline.image_encoder, lambda pixels: True))
    sample(synthesizer, 2)
    assert sizes == [[1], [1]]


def test_a_source_is_encoded_again_only_when_it_is_another(synthesizer, limit, radiograph) -> None:
    other = Radiograph(radiograph.pixels[::-1].copy(), radiograph.pixel_spacing_mm)
    encoded = limit(synthesizer.pipeline.vae.encoder, lambda pixels: True)
    first, again, of_other, back = (
        synthesizer.synthesize(source, POSES[:1])[0].pixels for source in (radiograph, radiograph, other, radiograph)
    )
    assert encoded == [1, 1, 1]
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, back)
    assert np.abs(first - of_other).max() > 1e-3


def test_bfloat16_makes_the_same_views_to_its_precision(synthesizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, but on a CPU."""
    expected = sample(synthesizer, 2)
    monkeypatch.setattr("svdrr.synthesis.synthesize.choose_dtype", lambda device: torch.bfloat16)
    half = load_tiny()
    assert (half.pipeline.vcdit.dtype, half.pipeline.image_encoder.dtype) == (torch.bfloat16, torch.bfloat16)
    assert half.pipeline.vae.dtype == torch.float32
    views = sample(half, 2)
    assert views.dtype == np.float32
    assert 0.0 < np.abs(views - expected).mean() < 0.01


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_of_nothing_is_refused(synthesizer, batch_size: int) -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        sample(synthesizer, batch_size)


# devices


@pytest.mark.parametrize("gpus", [0, 1, 2])
def test_devices(monkeypatch: pytest.MonkeyPatch, gpus: int) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type == ("cuda" if gpus else "cpu")
    for name, needed in (("cuda", 1), ("cuda:0", 1), ("cuda:1", 2)):
        if gpus >= needed:
            assert choose_device(name) == torch.device(name)
        else:
            with pytest.raises(SVDRRError, match=f"There is no device '{name}' .* cpu{', cuda:0' * gpus}\\.$"):
                choose_device(name)


@pytest.mark.parametrize("name", ["", "gpu", "cuda:", "cuda:-1", "mps", "cpu\n"])
def test_unknown_devices(models: Path, name: str) -> None:
    with pytest.raises(SVDRRError, match=re.escape(f"Unknown device '{name}'; choose auto, cpu")):
        Synthesizer("tiny", device=name)


def test_a_model_that_the_device_cannot_take_gets_one_sentence(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def to(*arguments: object) -> None:
        raise torch.OutOfMemoryError(OUT_OF_MEMORY)

    monkeypatch.setattr("svdrr.synthesis.pipeline.SVDRRPipeline.to", to)
    with pytest.raises(
        SVDRRError, match=r"'tiny' cannot be put on the device 'cpu' \(CUDA out of memory\); close .*\.$"
    ):
        Synthesizer("tiny", device="cpu")


def test_precision_and_batch_follow_the_device(monkeypatch: pytest.MonkeyPatch, gpu_figures: None) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda:0")
    for capability, dtype in (((7, 5), torch.float32), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        assert choose_dtype(gpu) == dtype
    assert choose_dtype(cpu) == torch.float32
    assert default_batch_size(cpu, 128) == 4
    # With 3 GB free: for the small as many as are worth it, for the largest as many as fit, and one at least.
    assert [default_batch_size(gpu, side) for side in (128, 512, 1024, 4096)] == [16, 11, 2, 1]


@pytest.mark.parametrize("part", ["vcdit", "vae", "image_encoder"])
def test_a_model_whose_weights_are_no_numbers_gets_one_sentence(synthesizer, radiograph, part: str) -> None:
    for weights in getattr(synthesizer.pipeline, part).parameters():
        weights.data.fill_(np.nan)
    with pytest.raises(SVDRRError, match=r"'tiny' makes images without numbers .* weights are damaged") as refusal:
        synthesizer.synthesize(radiograph, POSES)
    assert_one_sentence(refusal.value)


def test_transformers_shows_no_bars_of_its_own(models: Path) -> None:
    transformers_logging.enable_progress_bar()
    Synthesizer("tiny", device="cpu")
    assert not transformers_logging.is_progress_bar_enabled()


@pytest.mark.parametrize("seed", [-1, 2**63, 10**23])
def test_seeds_that_no_generator_takes(seed: int) -> None:
    with pytest.raises(SVDRRError, match=r"must lie in 0 to 2\^63 - 1, not"):
        Sampling(1, 1.0, seed)


def test_the_largest_seed(synthesizer, radiograph) -> None:
    (view,) = synthesizer.synthesize(radiograph, POSES[:1], Sampling(1, 1.0, MAX_SEED))
    assert view.provenance.seed == MAX_SEED


@pytest.mark.parametrize("chosen", [False, True])
def test_compiled_code_outlives_the_process(models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen) -> None:
    """Compiling itself waits for the first view, and takes too long for a test."""
    before = tmp_path / "chosen" if chosen else Path(tempfile.gettempdir()) / "torchinductor_somebody"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(before))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    synthesizer = Synthesizer("tiny", device="cpu", compile=True)
    assert synthesizer.pipeline.vcdit._compiled_call_impl is not None
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(before if chosen else tmp_path / "inductor")
