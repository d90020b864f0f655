"""What the tests of the server share: one server, radiographs, a CT."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from server_process import Server, server_process

from svdrr.ct import CTVolume


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, models_folder: Path) -> Iterator[Server]:
    """A server for every test that leaves it as it was; its limits are far."""
    with server_process(tmp_path_factory.mktemp("server") / "spool", "--models", str(models_folder)) as running:
        yield running


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """Where a server of the test's own keeps its jobs."""
    return tmp_path / "spool"


@pytest.fixture(scope="session")
def radiograph_pixels() -> np.ndarray:
    """A smooth image with a little noise, float32 (40, 48) in [0, 1]."""
    rows, columns = np.mgrid[:40, :48] / 48.0
    image = 0.5 + 0.4 * np.sin(5.0 * rows) * np.cos(7.0 * columns)
    return np.clip(image + np.random.default_rng(0).normal(0.0, 0.02, image.shape), 0.0, 1.0).astype(np.float32)


@pytest.fixture(scope="session")
def phantom() -> CTVolume:
    """A sphere of soft tissue with a bone in it, in air, turned a little; whole HU."""
    k, j, i = np.mgrid[:20, :32, :32]
    hu = np.full((20, 32, 32), -1000.0, np.float32)
    hu[(k - 9.5) ** 2 * 2.0 + (j - 15.5) ** 2 + (i - 15.5) ** 2 < 144.0] = 40.0
    hu[4:16, 12:18, 14:20] = 700.0
    ijk_to_ras = np.array(
        [[-3.0, 0.2, 0.0, 45.0], [-0.2, -3.0, 0.0, 50.0], [0.0, 0.0, 5.0, -40.0], [0.0, 0.0, 0.0, 1.0]]
    )
    return CTVolume(hu, ijk_to_ras)
