"""The commands with --backend, against the real server: what comes back is what they make here."""

from __future__ import annotations

import json
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from server_process import TOKEN, Server

from svdrr.ct.io import write_volume
from svdrr.ct.phantoms import ThoraxOptions, thorax_phantom
from svdrr.images import read_radiograph, write_png
from svdrr.radiograph import Radiograph

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def token(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n", encoding="utf-8")
    return file


@pytest.fixture
def image(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(1).random((40, 50), dtype=np.float32)
    path = tmp_path / "image.png"
    write_png(path, Radiograph(pixels, (0.5, 0.4)))
    return path


def svdrr(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "svdrr", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)


def assert_same_image(theirs: Path, ours: Path) -> None:
    there, here = read_radiograph(theirs), read_radiograph(ours)
    np.testing.assert_array_equal(there.pixels, here.pixels)
    assert (there.view, there.pixel_spacing_mm) == (here.view, here.pixel_spacing_mm)
    assert there.provenance is not None
    assert here.provenance is not None
    assert (there.provenance.source, there.provenance.settings) == (here.provenance.source, here.provenance.settings)


def test_enhance(server: Server, token: Path, image: Path, tmp_path: Path) -> None:
    here = svdrr("enhance", image, tmp_path / "here.png", "--scale", 2)
    there = svdrr(
        "enhance", image, tmp_path / "there.png", "--scale", 2, "--backend", server.url, "--token-file", token
    )
    assert (here.returncode, there.returncode) == (0, 0), there.stderr
    assert_same_image(tmp_path / "there.png", tmp_path / "here.png")


def test_synthesize(server: Server, token: Path, image: Path, models: Path, tmp_path: Path) -> None:
    options = ("--model", "tiny", "--views", "sweep:0:40:20", "--seed", 3, "--json")
    here = svdrr("synthesize", image, tmp_path / "here", *options)
    there = svdrr("synthesize", image, tmp_path / "there", *options, "--backend", server.url, "--token-file", token)
    assert (here.returncode, there.returncode) == (0, 0), there.stderr
    assert {**json.loads(there.stdout), "outdir": ""} == {**json.loads(here.stdout), "outdir": ""}
    for name in ("synthetic_00000.png", "synthetic_00002.png"):
        assert_same_image(tmp_path / "there" / name, tmp_path / "here" / name)


def test_render(server: Server, token: Path, tmp_path: Path) -> None:
    ct = thorax_phantom(7, ThoraxOptions(spacing_mm=6.0)).ct
    write_volume(tmp_path / "ct.nrrd", ct.hu, ct.ijk_to_ras)
    options = ("--views", "hemisphere:3", "--size", 32, "--engine", "siddon", "--photons", 1e4, "--seed", 5)
    here = svdrr("render", tmp_path / "ct.nrrd", tmp_path / "here", *options)
    there = svdrr(
        "render", tmp_path / "ct.nrrd", tmp_path / "there", *options, "--backend", server.url, "--token-file", token
    )
    assert (here.returncode, there.returncode) == (0, 0), there.stderr
    for index in range(3):
        assert_same_image(tmp_path / "there" / f"drr_{index:05d}.png", tmp_path / "here" / f"drr_{index:05d}.png")


def test_what_goes_wrong_is_one_sentence_and_leaves_nothing(
    server: Server, token: Path, image: Path, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("x" * 20, encoding="utf-8")
    for arguments, words in (
        (("--backend", server.url, "--token-file", wrong), "token"),
        (("--backend", server.url, "--token-file", tmp_path / "none"), "cannot be read"),
        (("--backend", "http://127.0.0.1:9", "--token-file", token), "No server runs"),
        (("--backend", server.url, "--token-file", token, "--model", "nonsense"), "Unknown model 'nonsense'"),
    ):
        failed = svdrr("synthesize", image, tmp_path / "out", *arguments)
        assert failed.returncode == 2
        assert words in failed.stderr
        assert len(failed.stderr.strip().splitlines()) == 1
        assert not (tmp_path / "out").exists()


def test_doctor_looks_at_a_backend(server: Server, token: Path) -> None:
    found = svdrr("doctor", "--backend", server.url, "--token-file", token)
    assert found.returncode == 0, found.stdout
    assert "no GPU" in found.stdout


def test_serve_makes_a_token_that_only_its_user_can_read(tmp_path: Path) -> None:
    file = tmp_path / "token"
    # The port is no port, so it ends before it listens.
    failed = svdrr("serve", "--token-file", file, "--port", 99999, "--spool", tmp_path / "spool")
    assert failed.returncode == 2
    assert "99999" in failed.stderr
    assert len(file.read_text(encoding="utf-8").strip()) >= 32
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("page", ["README.md", "Docs/backend.md"])
def test_the_documentation_runs(
    server: Server, token: Path, image: Path, page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its Python, word for word but for the port of the test's server, and two views instead of 36."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "svdrr.backend" in block]
    image.rename(tmp_path / "chest.png")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks:
        code = block.replace("http://127.0.0.1:8650", server.url).replace('"simple"', '"sweep:0:10:10"')
        names["views"] = None
        exec(code, names)
        assert [view.provenance.model for view in names["views"]] == ["demo-256", "demo-256"]
