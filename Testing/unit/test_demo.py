"""The main job, end to end, on the real CT and the real radiograph, with the bundled model."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svdrr.models import find_model
from svdrr.provenance import SYNTHETIC_LABEL

REOPEN = """
import json, sys
import slicer, slicer.util
from svdrr.mrml import ct_from_node, new_scene, views_from_sequence
scene = new_scene()
assert scene.ReadFromMRB(sys.argv[1])
browsers = slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode")
print(json.dumps({
    "ct": ct_from_node(slicer.util.getNode("Chest CT, table removed")).hu.shape,
    "views": {b.GetName(): [view.view.pose.label for view in views_from_sequence(b)] for b in browsers},
    "names": [node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")],
}))
"""


@pytest.fixture(scope="module")
def outdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run of ``svdrr demo``, in a process of its own so that the peak memory is its own."""
    outdir = tmp_path_factory.mktemp("demo") / "demo"
    done = subprocess.run([sys.executable, "-m", "svdrr.cli", "demo", str(outdir)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return outdir


@pytest.fixture(scope="module")
def report(outdir: Path) -> dict[str, Any]:
    return json.loads((outdir / "report.json").read_text())


def test_only_the_three_results_are_left(outdir: Path) -> None:
    assert sorted(path.name for path in outdir.iterdir()) == ["report.html", "report.json", "scene.mrb"]


def test_the_table_goes_and_the_body_stays(report: dict[str, Any]) -> None:
    table = report["table"]
    assert table["residual_voxels"] == table["body_voxels_changed"] == table["organ_voxels_changed"] == 0


def test_the_default_engine_agrees_with_diffdrr(report: dict[str, Any]) -> None:
    assert report["drr"]["ncc_vs_diffdrr"] >= 0.999


def test_the_model_beats_the_trivial_baselines_on_held_out_phantoms(report: dict[str, Any]) -> None:
    phantom = report["synthesis"]["phantom"]
    assert phantom["psnr_gain_over_copy_db"] >= 2.0
    assert phantom["psnr_gain_over_mean_db"] >= 0.5


def test_the_real_ct_is_reported_with_both_baselines(report: dict[str, Any]) -> None:
    real_ct = report["synthesis"]["real_ct"]
    for name in ("psnr", "psnr_copy", "psnr_mean", "ssim", "ssim_copy", "ssim_mean"):
        assert np.isfinite(real_ct[name])
    assert report["peak_memory_gb"] < 6.0


def test_the_page_is_self_contained_and_says_synthetic(outdir: Path) -> None:
    page = (outdir / "report.html").read_text(encoding="utf-8")
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert SYNTHETIC_LABEL in page
    assert page.count("· SYNTHETIC</figcaption>") == 16


def test_the_scene_opens_with_ct_radiographs_and_sequences(outdir: Path) -> None:
    done = subprocess.run([sys.executable, "-c", REOPEN, str(outdir / "scene.mrb")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    scene = json.loads(done.stdout.splitlines()[-1])
    assert scene["ct"] == [133, 512, 512]
    labels = ["right lateral", "RAO 60°", "RAO 45°", "RAO 30°", "LAO 30°", "LAO 45°", "LAO 60°", "left lateral"]
    assert list(scene["views"].values()) == [labels] * 3
    assert sum("(synthetic)" in name for name in scene["views"]) == 2
    assert {"PA of the CT (DRR)", "Chest radiograph"} <= set(scene["names"])


def test_the_model_card_and_the_size_of_the_weights() -> None:
    folder = find_model("demo-256").folder
    assert "not for" in (folder / "README.md").read_text(encoding="utf-8")
    assert sum(file.stat().st_size for file in folder.rglob("*.safetensors")) <= 30e6
