"""Live previews through a real backend process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import slicer.util
from backend_environment import write_backend_environment

from svdrr.backend import client as client_module
from svdrr.ct import CTVolume
from svdrr.errors import SVDRRError
from svdrr.geometry import CArmPose
from svdrr.mrml import ct_to_node
from svdrr.mrml.backend import BackendChoice, stop_local_backends
from svdrr.mrml.drr import PREVIEW_PIXELS, CTSource, DRRSettings
from svdrr.mrml.preview import LivePreview, picture
from svdrr.mrml.task import Steps, wait
from svdrr.radiograph import Radiograph

SETTINGS = DRRSettings(remove_table=False, air_photons_per_pixel=100.0)


@pytest.fixture(scope="module")
def choice(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackendChoice]:
    yield BackendChoice(environment=write_backend_environment(tmp_path_factory.mktemp("backend")))
    stop_local_backends()


@pytest.fixture
def node() -> Any:
    hu = np.random.default_rng(3).integers(-1000, 1000, (64, 96, 96)).astype(np.float32)
    return ct_to_node(CTVolume(hu, np.diag([3.0, 3.0, 4.0, 1.0]) + 0.0), "CT")


class Previews:
    """Of a CT node, by what a backend makes of them; `seen` are the views that have come."""

    def __init__(self, node: Any, choice: BackendChoice) -> None:
        self.seen: list[Radiograph] = []
        self.preview, self._source, self._node, self._choice = LivePreview(), CTSource(), node, choice

    def want(self, *angles: float, isocenter: tuple[float, float, float] = (140.0, 140.0, 120.0)) -> None:
        pose = CArmPose(*angles, isocenter_ras=isocenter)
        self.preview.want(self._source.preview_steps(self._node, pose, SETTINGS), self._choice)

    def steps(self) -> Steps[None]:
        return self.preview.steps(self._see)

    def _see(self, view: Radiograph, seconds: float) -> None:
        assert 0.0 < seconds < 60.0
        self.seen.append(view)


def test_only_the_newest_is_rendered_and_the_ct_goes_once(
    node: Any, choice: BackendChoice, monkeypatch: pytest.MonkeyPatch, scene: Any
) -> None:
    sent = []
    encode = client_module.to_npy

    def to_npy(array: np.ndarray) -> bytes:
        sent.append(array.shape)
        return encode(array)

    monkeypatch.setattr(client_module, "to_npy", to_npy)
    previews = Previews(node, choice)
    for angle in range(20):
        previews.want(float(angle), 0.0)
    modified = scene.GetMTime()

    steps = previews.steps()
    for angle in range(20, 40):
        next(steps)
        previews.want(float(angle), 0.0)
    wait(steps)
    seen = previews.seen
    assert [view.view.pose.primary_deg for view in seen if view.view] == [19.0, 39.0]
    assert seen[0].pixels.shape == (PREVIEW_PIXELS, PREVIEW_PIXELS)
    assert seen[0].provenance is not None
    assert seen[0].provenance.seed is None

    for angle in range(5):
        previews.want(0.0, float(angle))
        wait(previews.steps())
    assert len(seen) == 7
    assert sent == [(64, 96, 96)]
    # Nothing in the scene, nor of it, has changed.
    assert scene.GetMTime() == modified
    previews.preview.close()


def test_a_preview_that_fails_says_why_and_the_next_works(node: Any, choice: BackendChoice) -> None:
    previews = Previews(node, choice)
    previews.want(0.0, 0.0, isocenter=(9000.0, 0.0, 0.0))
    with pytest.raises(SVDRRError, match="misses the CT"):
        wait(previews.steps())
    previews.want(0.0, 0.0)
    wait(previews.steps())
    slicer.util.arrayFromVolume(node)[4:] = -1000
    slicer.util.arrayFromVolumeModified(node)
    previews.want(0.0, 0.0)
    wait(previews.steps())
    before, after = previews.seen
    assert before.pixels.mean() > 2.0 * after.pixels.mean()
    previews.preview.close()
    previews.preview.close()


def test_a_backend_that_has_ended_is_started_again(node: Any, choice: BackendChoice) -> None:
    previews = Previews(node, choice)
    for number in range(2):
        previews.want(float(number), 0.0)
        wait(previews.steps())
    stop_local_backends()
    previews.want(9.0, 0.0)
    with pytest.raises(SVDRRError, match="The backend on this computer has ended; the next job starts it again"):
        wait(previews.steps())
    previews.want(9.0, 0.0)
    wait(previews.steps())
    assert len(previews.seen) == 3
    previews.preview.close()


def test_a_picture_is_a_gray_map() -> None:
    pixels = np.array([[0.0, 0.5, 1.0], [0.25, 0.75, 0.1]], np.float32)
    assert picture(Radiograph(pixels)) == b"P5 3 2 255\n" + bytes([0, 128, 255, 64, 191, 26])
