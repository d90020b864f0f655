"""Evaluation: methods, cases and statistics against known truth, and what `svdrr evaluate` leaves behind."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from test_cli import Run, contents, svdrr  # noqa: F401
from torch import nn

from svdrr.ct import CTVolume
from svdrr.ct.body import body_center_ras
from svdrr.ct.io import read_ct, write_volume
from svdrr.ct.phantoms import ThoraxOptions, thorax_phantom
from svdrr.ct.table import remove_table
from svdrr.dataset.build import build_dataset
from svdrr.dataset.settings import make_settings
from svdrr.drr import AttenuationVolume, make_renderer, to_display
from svdrr.errors import SVDRRError
from svdrr.evaluation.baselines import back_projection, copy_source, lifting, mean_drr
from svdrr.evaluation.benchmark import ALL, OBLIQUE, Benchmark, Case, benchmark
from svdrr.evaluation.evaluate import cases_of
from svdrr.evaluation.lpips import load_lpips
from svdrr.evaluation.metrics import psnr_db, ssim
from svdrr.evaluation.plots import _groups, plot_examples
from svdrr.evaluation.report import estimates, table, write_results
from svdrr.evaluation.statistics import over_volumes
from svdrr.evaluation.volumes import one_ct, open_volumes
from svdrr.geometry import CArmPose, Detector, View
from svdrr.geometry.viewsets import hemisphere_views, simple_views, views_document
from svdrr.models import find_model
from svdrr.provenance import Provenance
from svdrr.render import render_drrs
from svdrr.synthesis.lifting import DEPTH_MM, LAYERS, LiftingNetwork, attenuation_volume, frustum_coordinates
from svdrr.synthesis.training.lifting import ray_points, rendered

ORIGIN = (0.0, 0.0, 0.0)
PIXELS = 64
WATER_PER_MM = 0.019
OBLIQUES = [CArmPose(*angles) for angles in ((-60.0, 0.0), (45.0, 0.0), (90.0, 0.0), (20.0, 35.0))]


def projected(volume: AttenuationVolume, poses: list[CArmPose], pixels: int = PIXELS) -> NDArray[np.float32]:
    """Line integrals by the exact engine."""
    renderer = make_renderer(volume, "siddon")
    return np.stack([renderer.render(View(pose, Detector.square(pixels))) for pose in poses])


def body(inside: object) -> AttenuationVolume:
    """Water where `inside` of right, anterior and superior (mm from the isocenter) is true; voxels of 4 mm."""
    places = np.arange(-178.0, 179.0, 4.0)
    superior, anterior, right = np.meshgrid(places, places, places, indexing="ij")
    ijk_to_ras = np.diag([4.0, 4.0, 4.0, 1.0])
    ijk_to_ras[:3, 3] = places[0]
    assert callable(inside)
    return AttenuationVolume(np.float32(WATER_PER_MM) * inside(right, anterior, superior), ijk_to_ras)


# Methods


def test_back_projection_gives_an_elliptic_cylinder_back() -> None:
    """Its assumption is true of this body; the margin is what a silhouette in steps of pixels leaves open."""

    def cylinder(right: NDArray, anterior: NDArray, superior: NDArray) -> NDArray:
        return (((right - 20.0) / 130.0) ** 2 + (anterior / 91.0) ** 2 < 1.0) & (np.abs(superior) < 120.0)

    views = to_display(projected(body(cylinder), [CArmPose(), *OBLIQUES]))
    made = back_projection(views[0])([CArmPose(), *OBLIQUES])
    assert psnr_db(made[:1], views[:1]).min() > 40.0
    assert psnr_db(made[1:], views[1:]).min() > 25.0
    assert (psnr_db(made[1:], views[1:]) > psnr_db(copy_source(views[0])(OBLIQUES), views[1:]) + 5.0).all()


@pytest.fixture(scope="module")
def lifted_blobs() -> tuple[AttenuationVolume, NDArray[np.float32], NDArray[np.float32]]:
    """(body of two balls off every axis, its PA view, and the true parts of each ray in each layer)."""

    def balls(right: NDArray, anterior: NDArray, superior: NDArray) -> NDArray:
        first = np.hypot(np.hypot(right - 60.0, anterior - 40.0), superior - 50.0) < 45.0
        return first | (np.hypot(np.hypot(right + 50.0, anterior + 60.0), superior + 40.0) < 35.0)

    volume = body(balls)
    source = to_display(projected(volume, [CArmPose()])[0])
    # The volume in the frustum: voxels scattered into (layer, row, column), each with its share of the ray.
    indices = np.argwhere(volume.mu > 0.0)
    points = indices[:, ::-1] * 4.0 + volume.ijk_to_ras[:3, 3]
    fine = (points[:, None] + np.random.default_rng(0).uniform(-2.0, 2.0, (1, 60, 3))).reshape(-1, 3)
    places = frustum_coordinates(fine.astype(np.float32), CArmPose())[:, ::-1]
    size = np.array([LAYERS, PIXELS, PIXELS])
    cells = np.floor((places + 1.0) / 2.0 * size).astype(int)
    parts = np.full(size, 1e-6)
    np.add.at(parts, tuple(cells.T), 1.0)
    return volume, source, (parts / parts.sum(axis=0)).astype(np.float32)


def test_a_volume_lifted_with_the_true_parts_projects_as_the_truth(
    lifted_blobs: tuple[AttenuationVolume, NDArray[np.float32], NDArray[np.float32]],
) -> None:
    """Left, right, up, down, front and back: two balls off every axis leave nothing to symmetry."""
    volume, source, parts = lifted_blobs
    truth = projected(volume, OBLIQUES)
    made = projected(attenuation_volume(source, parts), OBLIQUES)
    for image, true in zip(made, truth, strict=True):
        assert np.corrcoef(image.ravel(), true.ravel())[0, 1] > 0.98
        np.testing.assert_allclose(image.sum(), true.sum(), rtol=0.02)


def test_the_differentiable_projection_agrees_with_the_exact_one(
    lifted_blobs: tuple[AttenuationVolume, NDArray[np.float32], NDArray[np.float32]],
) -> None:
    volume, source, parts = lifted_blobs
    every = np.arange(PIXELS)
    for pose, true in zip(OBLIQUES, projected(volume, OBLIQUES), strict=True):
        points = frustum_coordinates(ray_points(pose, PIXELS, every, every), CArmPose())
        line_integrals = -5.0 * torch.log1p(-torch.from_numpy(source))[None]
        share = torch.from_numpy(parts)[None].requires_grad_()
        made = rendered(line_integrals, share, torch.from_numpy(points)[None])
        assert np.corrcoef(made.detach().numpy().ravel(), true.ravel())[0, 1] > 0.98
        np.testing.assert_allclose(made.detach().sum(), true.sum(), rtol=0.02)
        (gradient,) = torch.autograd.grad(made.sum(), share)
        assert np.isfinite(gradient.numpy()).all()
        assert gradient.abs().max() > 0.0


def test_the_lifting_network_gives_the_source_back_whatever_its_weights() -> None:
    torch.manual_seed(0)
    phantom = thorax_phantom(5, ThoraxOptions(spacing_mm=8.0)).ct
    centered = CTVolume(phantom.hu, phantom.ijk_to_ras.copy())
    centered.ijk_to_ras[:3, 3] -= phantom.isocenter_ras
    mu = AttenuationVolume(np.float32(WATER_PER_MM) * np.maximum(1.0 + centered.hu / 1000.0, 0.0), centered.ijk_to_ras)
    source = to_display(projected(mu, [CArmPose()], 128))
    with torch.no_grad():
        (parts,) = LiftingNetwork()(torch.from_numpy(source)).numpy()
    assert parts.shape[0] == LAYERS
    np.testing.assert_allclose(parts.sum(axis=0), 1.0, rtol=1e-5)
    back = to_display(projected(attenuation_volume(source[0], parts), [CArmPose()], 128))
    assert psnr_db(back, source).item() > 35.0
    assert DEPTH_MM / LAYERS < 5.0


def test_the_trained_baselines_are_worth_their_names() -> None:
    """On a held-out phantom: lifting knows more than even back-projection, and that more than a copy."""
    poses = [CArmPose(*angles) for angles in ((-90.0, 0.0), (-45.0, 0.0), (60.0, 0.0), (30.0, 30.0))]
    (case,) = cases_of(open_volumes("phantoms:1", some_model(128), poses))
    by_method = {
        method.__name__: psnr_db(method(case.source)(poses), case.truth)
        for method in (lifting, back_projection, mean_drr, copy_source)
    }
    assert (by_method["lifting"] > by_method["back_projection"] + 1.5).all()
    assert (by_method["back_projection"] > by_method["copy_source"] + 2.0).all()
    assert (by_method["mean_drr"] > 18.0).all()


# Benchmark


def test_a_perfect_method_is_perfect_and_every_view_is_its_own() -> None:
    poses = hemisphere_views(80, ORIGIN)[1:]
    truth = np.random.default_rng(0).random((2, len(poses), 16, 16)).astype(np.float32)
    cases = [Case(str(number), truth[number, 0], truth[number]) for number in range(2)]
    seen = []

    def known(source: NDArray[np.float32]) -> object:
        (number,) = (index for index in range(2) if source is cases[index].source)
        return lambda asked: np.stack([truth[number, poses.index(pose)] for pose in asked])

    methods = {"known": known, "copy": copy_source}
    result = benchmark(cases, poses, methods, {"PSNR": psnr_db, "SSIM": ssim}, lambda: seen.append(1))
    assert np.isposinf(result.values["PSNR"]["known"]).all()
    np.testing.assert_allclose(result.values["SSIM"]["known"], 1.0)
    copied = -10.0 * np.log10(((truth - truth[:, :1]) ** 2).mean(axis=(2, 3))[:, 1:])
    np.testing.assert_allclose(result.values["PSNR"]["copy"][:, 1:], copied, rtol=1e-5)
    assert len(seen) == 2 * 2 * len(poses)


def test_oblique_views_are_far_from_the_source_in_any_direction() -> None:
    poses = [CArmPose(*angles) for angles in ((29.0, 0.0), (-30.0, 0.0), (0.0, 31.0), (0.0, -29.0), (25.0, 25.0))]
    values = np.arange(5.0)[None]
    oblique = Benchmark(("a",), tuple(poses), {"PSNR": {"model": values}}).oblique()
    assert oblique.values["PSNR"]["model"].tolist() == [[1.0, 2.0, 4.0]]
    assert [pose.label for pose in oblique.poses] == [poses[index].label for index in (1, 2, 4)]


def test_intervals_are_those_of_independent_volumes() -> None:
    """Against the normal theory, and views that say the same thing many times narrow nothing."""
    per_volume = np.random.default_rng(1).normal(20.0, 3.0, (60, 1))
    half = 1.96 * per_volume.std() / math.sqrt(len(per_volume))
    once = over_volumes(per_volume)
    assert once.low is not None
    assert once.high is not None
    assert once.mean - once.low == pytest.approx(half, rel=0.05)
    assert once.high - once.mean == pytest.approx(half, rel=0.05)
    assert over_volumes(np.repeat(per_volume, 300, axis=1)).low == pytest.approx(once.low)
    assert over_volumes(per_volume[:4]).low is None


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    samples = np.random.default_rng(2).normal(0.0, 1.0, (150, 16, 1))
    held = [found.low <= 0.0 <= found.high for found in map(over_volumes, samples) if found.low is not None]
    assert 0.85 < np.mean(held) < 0.99


# Cases


@pytest.fixture(scope="module")
def phantom_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    ct = thorax_phantom(7, ThoraxOptions(spacing_mm=10.0)).ct
    path = tmp_path_factory.mktemp("cts") / "ct.nii.gz"
    write_volume(path, ct.hu, ct.ijk_to_ras)
    return path


@pytest.fixture(scope="module")
def data_set(phantom_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sets") / "set"
    views = "sweep:-90:90:30"
    build_dataset([phantom_file], out, make_settings(views, "32", "joseph", split="0,0,1"), views, "joseph")
    return out


def some_model(resolution: int = 32, side_mm: float = 480.0) -> object:
    return SimpleNamespace(name="tiny", resolution=resolution, field_of_view_mm=side_mm)


def test_a_ct_is_seen_about_the_body_s_middle_and_a_data_set_as_it_was_built(
    phantom_file: Path, data_set: Path
) -> None:
    ct = read_ct(phantom_file)
    angles = (0.0, 60.0, -30.0)
    poses = [CArmPose(angle) for angle in angles[1:]]
    for data, center_ras in ((phantom_file, body_center_ras(ct)), (data_set, ct.isocenter_ras)):
        (case,) = cases_of(open_volumes(str(data), some_model(), poses))
        about = [CArmPose(angle, isocenter_ras=center_ras) for angle in angles]
        drrs = [drr.pixels for drr, _ in render_drrs(remove_table(ct).ct, about, Detector.square(32), "joseph")]
        np.testing.assert_allclose([case.source, *case.truth], drrs, atol=2e-5)
        assert np.abs(case.truth[0] - case.truth[1]).max() > 0.1
        assert "ct.nii" not in case.name
    assert np.linalg.norm(np.subtract(body_center_ras(ct), ct.isocenter_ras)) > 5.0


def test_data_sets_that_do_not_fit_are_refused(data_set: Path, phantom_file: Path, tmp_path: Path) -> None:
    poses = [CArmPose(30.0)]
    for model, asked, words in (
        (some_model(), [CArmPose(45.0)], "lacks the view LAO 45°"),
        (some_model(resolution=64), poses, "needs images of 64 pixels"),
        (some_model(side_mm=400.0), poses, "side of 480 mm and that of 'tiny' one of 400 mm"),
    ):
        with pytest.raises(SVDRRError, match=words):
            open_volumes(str(data_set), model, asked)
    training = tmp_path / "training"
    settings = make_settings("sweep:0:30:30", "32", "joseph", split="1,0,0")
    build_dataset([phantom_file], training, settings, "sweep:0:30:30", "joseph")
    with pytest.raises(SVDRRError, match="no CT in its test part"):
        open_volumes(str(training), some_model(), poses)


def test_what_the_model_was_not_made_for_is_no_volume(phantom_file: Path, data_set: Path, tmp_path: Path) -> None:
    poses = [CArmPose(30.0)]
    with pytest.raises(SVDRRError, match=r"phantoms has a side of 480 mm and that of 'tiny' one of 400 mm"):
        open_volumes("phantoms:1", some_model(side_mm=400.0), poses)
    folder = tmp_path / "cts"
    folder.mkdir()
    with pytest.raises(SVDRRError, match="no CT in"):
        open_volumes(str(folder), some_model(), poses)
    (folder / "ct.nrrd").write_text("damaged")
    with pytest.raises(SVDRRError, match=r"ct\.nrrd"):
        open_volumes(str(folder), some_model(), poses)
    (folder / "other.nii.gz").write_bytes(phantom_file.read_bytes())
    several = open_volumes(str(folder), some_model(), poses)
    assert (len(several.volumes), several.description) == (2, "2 CTs, tables removed")
    (case,) = cases_of(replace(several, volumes=several.volumes[1:]))
    assert case.truth.shape == (1, 32, 32)
    with pytest.raises(SVDRRError, match=r"cts"):
        open_volumes(str(folder), some_model(), poses, one_ct(None))


def test_a_data_set_is_seen_from_where_it_was_built(data_set: Path) -> None:
    (own,) = open_volumes(str(data_set), some_model()).volumes
    source, *views = own.render(range(own.views))
    assert [view.view.pose.primary_deg for view in (source, *views)] == [0, -90, -60, -30, 30, 60, 90]
    (case,) = cases_of(open_volumes(str(data_set), some_model(), [CArmPose(60.0), CArmPose(-90.0)]))
    np.testing.assert_array_equal(case.source, source.pixels)
    np.testing.assert_array_equal(case.truth, [views[4].pixels, views[0].pixels])


# LPIPS


def lpips_weights() -> dict[str, torch.Tensor]:
    """Random weights under the names of the package lpips."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((1, 0, 64, 3, 11), (2, 3, 192, 64, 5), (3, 6, 384, 192, 3), (4, 8, 256, 384, 3), (5, 10, 256, 256, 3))
    weights = {}
    for number, index, outside, inside, side in shapes:
        scale = (2.0 / (inside * side * side)) ** 0.5
        weight = scale * torch.randn(outside, inside, side, side, generator=generator)
        weights[f"net.slice{number}.{index}.weight"] = weight
        weights[f"net.slice{number}.{index}.bias"] = 0.1 * torch.randn(outside, generator=generator)
        weights[f"lin{number - 1}.model.1.weight"] = torch.rand(1, outside, 1, 1, generator=generator)
    return weights


def test_lpips_is_that_of_the_paper(tmp_path: Path) -> None:
    """Against AlexNet's feature layers as torchvision has them, with random weights, and equation 1."""
    weights = lpips_weights()
    save_file(weights, tmp_path / "alex.safetensors")
    layers = nn.Sequential(
        *(nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(), nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
    )
    state = {name.split(".", 2)[2]: tensor for name, tensor in weights.items() if name.startswith("net")}
    layers.load_state_dict(state)
    images = torch.rand(2, 2, 96, 96, generator=torch.Generator().manual_seed(1))
    expected = torch.zeros(2)
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    values = [((2.0 * image[:, None].repeat(1, 3, 1, 1) - 1.0).movedim(1, 3) - shift) / scale for image in images]
    values = [value.movedim(3, 1) for value in values]
    taken = iter(range(5))
    with torch.no_grad():
        for layer in layers:
            values = [layer(value) for value in values]
            if isinstance(layer, nn.ReLU):
                one, other = (nn.functional.normalize(value, dim=1, eps=1e-10) for value in values)
                linear = weights[f"lin{next(taken)}.model.1.weight"]
                expected += ((one - other) ** 2 * linear).sum(dim=1).mean(dim=(1, 2))
    measured = load_lpips(tmp_path / "alex.safetensors")(images[0].numpy(), images[1].numpy())
    np.testing.assert_allclose(measured, expected.numpy(), rtol=1e-4)
    np.testing.assert_allclose(load_lpips(tmp_path / "alex.safetensors")(images[0].numpy(), images[0].numpy()), 0.0)


def test_other_files_are_no_lpips(tmp_path: Path) -> None:
    weights = lpips_weights()
    (tmp_path / "text").write_text("no weights")
    save_file({**weights, "lin2.model.1.weight": torch.ones(1, 5, 1, 1)}, tmp_path / "shape")
    save_file({name: tensor for name, tensor in weights.items() if "slice4" not in name}, tmp_path / "lacking")
    for name in ("text", "shape", "lacking", "nothing"):
        with pytest.raises(SVDRRError, match=r"weights of lpips\.LPIPS"):
            load_lpips(tmp_path / name)


# Report


def some_result() -> dict[str, Benchmark]:
    """The model is better than the other by exactly 2 dB in every view, and worse in LPIPS."""
    generator = np.random.default_rng(0)
    psnr, distance = generator.uniform(15.0, 30.0, (5, 36)), generator.uniform(0.1, 0.4, (5, 36))
    values = {"PSNR (dB)": {"m": psnr + 2.0, "other": psnr}, "LPIPS": {"m": distance + 0.1, "other": distance}}
    return {"simple": Benchmark(tuple("abcde"), tuple(simple_views(ORIGIN)), values)}


def test_the_table_tells_the_better_one_and_pairs_the_volumes() -> None:
    result = some_result()
    text = table(result, "m", {"PSNR (dB)": "p", "LPIPS": "l"}, frozenset({"LPIPS"}), {"Data": "x"})
    rows = [line for line in text.splitlines() if line.startswith(("| m |", "| other |"))]
    oblique_model, oblique_other, gains = (row.split(" | ") for row in rows[:3])
    assert oblique_model[1].startswith("**")
    assert not oblique_model[2].startswith("**")
    assert oblique_other[2].startswith("**")
    assert gains[1:] == ["+2.00 [+2.00, +2.00]", "+0.100 [+0.100, +0.100] |"]
    assert "n = 5 volumes" in text
    assert "not for diagnosis" in text
    assert text.count("PSNR (dB) ↑ | LPIPS ↓ |") == 4


def test_where_every_view_is_oblique_there_is_one_table() -> None:
    result = {name: whole.oblique() for name, whole in some_result().items()}
    text = table(result, "m", {"PSNR (dB)": "p", "LPIPS": "l"}, frozenset({"LPIPS"}), {})
    assert text.count("| method |") == 1
    assert "## simple: all views (26), each at least 30° from the source view\n" in text


def test_a_heading_is_wide_as_its_picture_and_the_file_says_what_it_holds(tmp_path: Path) -> None:
    title = "some-model: CT with voxels SHA-256 0123456789abcdef, table removed"
    provenance = Provenance("test", title, "some-model", "f" * 64, 1)
    for columns in (1, 2, 5):
        rows = {name: np.zeros((columns, 32, 32), np.float32) for name in ("true DRR", "some-model")}
        plot_examples(rows, ["PA"] * columns, title, tmp_path / "examples.png", provenance)
        with Image.open(tmp_path / "examples.png") as image:
            assert image.text.items() >= provenance.attributes().items()
            gray = np.asarray(image.convert("L"))
        assert (gray[:, 0] == 255).all()
        assert (gray[:, -1] == 255).all()


def test_views_are_drawn_at_their_angles() -> None:
    """Where they are averaged in bins, too: one at 20° is not drawn at 15°."""
    angles_deg = np.array([(-90.0, 0.0), (43.0, 0.0), (50.0, 0.0), (30.0, 20.0)])
    for number, expected, sizes in ((0, [-90.0, 30.0, 46.5], [1, 1, 2]), (1, [0.0, 20.0], [3, 1])):
        places, groups = _groups(angles_deg, number)
        assert places.tolist() == expected
        assert [np.count_nonzero(group) for group in groups] == sizes


def test_the_rows_of_the_csv_give_the_figures(tmp_path: Path) -> None:
    result = some_result()
    write_results(tmp_path / "results.csv", result)
    with (tmp_path / "results.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5 * 36 * 2
    chosen = [float(row["PSNR (dB)"]) for row in rows if row["method"] == "m" and abs(float(row["primary_deg"])) >= 30]
    figures = estimates(result, "m")["simple"]["at least 30° from the source view"]
    assert figures["views"] == 26
    assert figures["methods"]["m"]["PSNR (dB)"]["mean"] == pytest.approx(np.mean(chosen), rel=1e-5)


# Command


def test_the_command_leaves_whole_results(svdrr: Run, phantom_file: Path, tmp_path: Path) -> None:  # noqa: F811
    out = tmp_path / "out"
    options = ("--views", "sweep:-60:60:30", "--views", "hemisphere:7", "--steps", 1, "--json")
    done = svdrr("evaluate", "tiny", phantom_file, out, *options)
    assert done.code == 0, done.err
    plots = {"sweep-60-60-30_over_primary.png", "hemisphere-7_over_primary.png", "hemisphere-7_over_secondary.png"}
    names = {path.name for path in out.iterdir()}
    assert names == {"results.csv", "table.md", "figures.json", "examples.png", *plots}
    figures = json.loads((out / "figures.json").read_text(encoding="utf-8"))
    assert figures == json.loads(done.out)
    # PA, the source view, is in both view sets, and is not measured.
    assert {name: parts["all views"]["views"] for name, parts in figures["estimates"].items()} == {
        "sweep:-60:60:30": 4,
        "hemisphere:7": 6,
    }
    methods = figures["estimates"]["hemisphere:7"]["all views"]["methods"]
    assert list(methods) == ["tiny", "3D lifting", "back-projection", "mean DRR", "copy source"]
    numbers = [entry["mean"] for method in methods.values() for name, entry in method.items() if name != "difference"]
    assert np.isfinite(numbers).all()
    text = (out / "table.md").read_text(encoding="utf-8")
    assert "NOT LPIPS" in text
    for name in ("examples.png", *plots):
        with Image.open(out / name) as image:
            assert image.text["SVDRR.Synthetic"] == "SYNTHETIC, not for diagnosis"
    assert phantom_file.name not in text


def test_the_fid_has_its_own_tables(
    svdrr: Run,  # noqa: F811
    phantom_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Measured with a network of one feature, the mean of the image, so that the FID is easily told from the rest."""

    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unit = nn.Parameter(torch.ones(()))

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return self.unit * values.mean(dim=(1, 2, 3))[:, None]

    monkeypatch.setattr("svdrr.evaluation.evaluate.load_inception", lambda path: Mean())
    out = tmp_path / "out"
    options = ("--views", "sweep:-60:60:15", "--views", "list.json", "--steps", 1, "--fid", "weights")
    (tmp_path / "list.json").write_text(views_document([{"primary_deg": 10}, {"primary_deg": 20}]))
    monkeypatch.chdir(tmp_path)
    done = svdrr("evaluate", "tiny", phantom_file, out, *options)
    assert done.code == 0, done.err
    said = "10 views of 1 volume measured by 5 methods, without PA, the source view; read "
    assert done.out == f"{said}{out / 'table.md'}.\n"
    document = json.loads((out / "figures.json").read_text(encoding="utf-8"))["estimates"]
    oblique, every = (document["sweep:-60:60:15"][part]["FID"] for part in (OBLIQUE, ALL))
    assert (oblique["images"], every["images"]) == (6, 8)
    assert OBLIQUE not in document["list.json"]
    assert document["list.json"][ALL]["FID"]["images"] == 2
    poses = [CArmPose(angle) for angle in (-60.0, -45.0, -30.0, 30.0, 45.0, 60.0)]
    (case,) = cases_of(open_volumes(str(phantom_file), find_model("tiny"), poses))
    # Copies of one image: only the truth varies.
    apart = 2.0 * (case.truth.mean(axis=(1, 2)) - case.source.mean())
    assert oblique["by_method"]["copy source"] == pytest.approx(apart.mean() ** 2 + apart.var(ddof=1), rel=1e-3)
    text = (out / "table.md").read_text(encoding="utf-8")
    for count in (6, 8, 2):
        assert text.count(f"| method | FID ↓ (n = {count}) |\n") == 1
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## sweep:-60:60:15: views at least 30° from the source view (6 of 8)",
        "## sweep:-60:60:15: all views (8)",
        "## list.json: all views (2)",
        "## Definitions",
    ]
    assert f"{every['by_method']['3D lifting']:.2f}" in text
    assert "biased upward" in text
    assert "FID" not in (out / "results.csv").read_text(encoding="utf-8")
    done = svdrr("evaluate", "tiny", phantom_file, tmp_path / "one", "--views", "sweep:0:40:40", "--fid", "weights")
    assert (done.code, done.out) == (2, "")
    assert "'sweep:0:40:40' has one (at least 30° from the source view)" in done.err


def test_what_is_wrong_with_data_or_views_is_said_before_torch_is_loaded(models: Path, tmp_path: Path) -> None:
    """Which takes many times as long as the sentence."""
    for command, *options in (
        ("evaluate", "tiny", "phantoms:0", "out"),
        ("evaluate", "tiny", "phantoms:1", "out", "--views", "hemisphere:0"),
        ("reader-study", "make", "tiny", "phantoms:x", "out"),
    ):
        code = f"import sys; sys.argv[1:] = {[command, *options]!r}; from svdrr.cli import main\n"
        code += "try: main()\nexcept SystemExit as stop: print(stop.code, 'torch' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.stdout == "2 False\n", done.stderr


def test_a_run_that_cannot_be_leaves_nothing(svdrr: Run, phantom_file: Path, tmp_path: Path) -> None:  # noqa: F811
    for arguments, words in (
        (("nope", phantom_file), "Unknown model 'nope'"),
        (("tiny", "phantoms:none"), "Give 1 to 10,000 phantoms"),
        (("tiny", "phantoms:0"), "Give 1 to 10,000 phantoms"),
        (("tiny", phantom_file, "--views", "hemisphere:0"), "A hemisphere needs 1 to 100,000 views"),
        (("tiny", phantom_file, "--views", "foo"), "Unknown view set 'foo'"),
        (("tiny", phantom_file, "--views", "hemisphere:1"), "The only view is PA"),
        (("tiny", phantom_file, "--lpips", phantom_file), "is no safetensors file"),
        (("tiny", phantom_file, "--fid", phantom_file), "is no safetensors file"),
        (("tiny", tmp_path / "nothing"), "nothing"),
    ):
        done = svdrr("evaluate", *arguments[:2], tmp_path / "out", *arguments[2:])
        assert (done.code, done.out) == (2, "")
        assert words in done.err
    assert contents(tmp_path) == {}
