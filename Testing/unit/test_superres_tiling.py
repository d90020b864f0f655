"""Images in tiles are images in one piece."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from svdrr.superres.interpolation import interpolate
from svdrr.superres.learned import enlarge
from svdrr.superres.networks import LCMSR, DeltaDiff, RegressionNetwork
from svdrr.superres.tiling import enlarge_in_tiles, padded_shape

Floats = NDArray[np.float32]


def blurred_and_larger(tile: Floats, corner: tuple[int, int]) -> Floats:
    """Looks 2 + 3 pixels far."""
    return interpolate(uniform_filter(tile, 5, mode="constant"), 2, "lanczos")


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 70), columns=st.integers(1, 70), core=st.sampled_from([8, 12, 32]))
def test_any_size_is_covered_without_seams(rows: int, columns: int, core: int) -> None:
    pixels = np.random.default_rng(rows).random((rows, columns), dtype=np.float32)
    tiled = enlarge_in_tiles(blurred_and_larger, pixels, 2, core, 8)
    whole = enlarge_in_tiles(blurred_and_larger, pixels, 2, 128, 8)
    assert tiled.shape == (2 * rows, 2 * columns)
    np.testing.assert_allclose(tiled, whole, atol=1e-6)


def test_a_margin_too_narrow_would_show() -> None:
    pixels = np.random.default_rng(1).random((64, 64), dtype=np.float32)
    tiled, whole = (enlarge_in_tiles(blurred_and_larger, pixels, 2, core, 4) for core in (16, 64))
    assert np.abs(tiled - whole).max() > 1e-3


def test_edges_are_mirrored() -> None:
    """So that a constant image stays one up to its edges."""
    tiled = enlarge_in_tiles(blurred_and_larger, np.full((21, 30), 0.5, np.float32), 2, 16, 8)
    np.testing.assert_allclose(tiled, 0.5, atol=1e-6)


def test_tiles_know_where_they_are_in_the_padded_image() -> None:
    rows, columns = 50, 30
    places = np.add.outer(1000 * np.arange(100), np.arange(100)).astype(np.float32)
    height, width = padded_shape(rows, columns, 8)
    assert (height, width) == (68, 48)

    def placed(tile: Floats, corner: tuple[int, int]) -> Floats:
        part = places[corner[0] : corner[0] + tile.shape[0], corner[1] : corner[1] + tile.shape[1]]
        assert part.shape == tile.shape
        return part

    tiled = enlarge_in_tiles(placed, np.zeros((rows, columns), np.float32), 1, 16, 8)
    np.testing.assert_array_equal(tiled, places[8 : 8 + rows, 8 : 8 + columns])


def test_progress_rises_and_an_exception_from_it_ends_the_work() -> None:
    said = []
    enlarge_in_tiles(blurred_and_larger, np.zeros((30, 20), np.float32), 2, 16, 8, lambda *step: said.append(step))
    assert said == [(number, 4) for number in range(5)]

    class CancelledError(Exception):
        pass

    def cancel(step: int, steps: int) -> None:
        said.append((step, steps))
        if step == 1:
            raise CancelledError

    said.clear()
    with pytest.raises(CancelledError):
        enlarge_in_tiles(blurred_and_larger, np.zeros((30, 20), np.float32), 2, 16, 8, cancel)
    assert said == [(0, 4), (1, 4)]


def untrained(name: str, scale: int) -> RegressionNetwork | LCMSR | DeltaDiff:
    """Small networks that look as far as they can: all weights random, none fading out."""
    torch.manual_seed(scale)
    network: RegressionNetwork | LCMSR | DeltaDiff
    if name == "regression":
        network = RegressionNetwork(scale, 0.05, channels=8, blocks=2)
    elif name == "lcmsr":
        network = LCMSR(scale, 0.05, 8, 1, (8, 8), 8, 8, 2, 1)
    else:
        network = DeltaDiff(scale, 0.05, (8, 8))
    for parameter in network.parameters():
        if parameter.ndim == 4:
            torch.nn.init.kaiming_normal_(parameter)
    return network.eval()


@pytest.mark.parametrize("name", ["regression", "lcmsr", "deltadiff"])
@pytest.mark.parametrize("scale", [2, 4])
def test_networks_look_no_farther_than_a_margin(name: str, scale: int) -> None:
    """Nothing is normalized over the image: with a margin as wide as they look, tiles are exact."""
    pixels = np.random.default_rng(5).random((90, 101), dtype=np.float32)
    network = untrained(name, scale)
    tiled = enlarge(pixels, network, 3, core=32, margin=160)
    whole = enlarge(pixels, network, 3, core=160, margin=160)
    assert tiled.shape == (90 * scale, 101 * scale)
    assert whole.std() > 0.05
    np.testing.assert_allclose(tiled, whole, atol=1e-4)


def test_the_seed_is_that_of_the_whole_image() -> None:
    pixels = np.random.default_rng(5).random((40, 40), dtype=np.float32)
    network = untrained("lcmsr", 4)
    first, again, other, without = (enlarge(pixels, network, seed) for seed in (1, 1, 2, None))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    assert np.abs(first - without).max() > 1e-3


def test_every_step_of_every_tile_is_told() -> None:
    pixels = np.zeros((30, 20), np.float32)
    said: list[tuple[int, int]] = []
    enlarge(pixels, untrained("deltadiff", 2), on_step=lambda *step: said.append(step), core=16, margin=8)
    assert said[0] == (0, 16)
    assert said[-1] == (16, 16)
    assert [step for step, _ in said] == sorted(step for step, _ in said)
    assert {step for step, _ in said} == set(range(17))
