"""What `svdrr doctor` says: of this computer as it is, and of ones that are put on for the test."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from svdrr.backend import doctor
from svdrr.backend.cli_setup import doctor_command, setup_backend_command
from svdrr.backend.doctor import Finding, findings
from svdrr.backend.driver import Gpu, Gpus
from svdrr.errors import SVDRRError

CAPABLE = Gpu("NVIDIA A100", "580.65.06", (8, 0), 40000)
FACTS: dict[str, Any] = {"torch": "2.13.0+cpu", "gpus": [], "problem": ""}


@pytest.fixture(scope="module")
def found() -> list[Finding]:
    return findings()


def command_line() -> typer.Typer:
    app = typer.Typer()
    app.command("doctor")(doctor_command)
    app.command("setup-backend")(setup_backend_command)
    return app


def test_this_computer(found: list[Finding]) -> None:
    sentences = " ".join(finding.sentence for finding in found)
    for part in ("Python 3.", "numpy 2", "numba 0.", "diffusers 0.", "torch 2.", "GB of disk", "demo-256"):
        assert part in sentences
    assert all(finding.ok == (not finding.advice) for finding in found)
    assert all(finding.sentence.endswith(".") for finding in found)


def test_the_command_line_prints_a_line_each_and_exits_with_the_verdict(
    found: list[Finding], monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = Finding(False, "No model was found.", "Copy one.")
    good = [finding for finding in found if finding.ok]
    monkeypatch.setattr("svdrr.backend.cli_setup.findings", lambda *arguments: [*good, missing])
    answer = CliRunner().invoke(command_line(), ["doctor"])
    assert answer.exit_code == 1
    assert "missing  No model was found.\n         Copy one.\n" in answer.stdout
    assert answer.stdout.count("ok       ") == len(good)
    entries = json.loads(CliRunner().invoke(command_line(), ["doctor", "--json"]).stdout)
    assert entries["ok"] is False
    assert entries["findings"][-1] == {"ok": False, "sentence": missing.sentence, "advice": missing.advice}
    monkeypatch.setattr("svdrr.backend.cli_setup.findings", lambda *arguments: good)
    assert CliRunner().invoke(command_line(), ["doctor"]).exit_code == 0


def test_models_and_a_backend_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        doctor, "_probe", lambda environment, names: {**FACTS, "python": "3.9.1", "versions": {}, "numba_keeps": False}
    )
    bad = {finding.sentence: finding.advice for finding in findings(folder=tmp_path, models=tmp_path) if not finding.ok}
    text = " ".join(bad)
    assert f"There is no backend in {tmp_path}; make one with 'svdrr setup-backend {tmp_path}'." in bad
    assert f"No model was found in {tmp_path}." in bad
    assert "Python 3.9.1 is not among those" in text
    assert "'backend', fastapi, pydantic, python-multipart, requests, uvicorn cannot be found" in text
    assert "cannot be kept on the disk" in text


def test_a_model_without_weights(tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "model.json").write_text("{}")
    (finding,) = doctor._model_findings(tmp_path)
    assert not finding.ok
    assert "does not describe a model" in finding.sentence


@pytest.mark.parametrize(
    ("facts", "gpus", "ok", "says"),
    [
        ({}, Gpus(), True, "computes on the CPU"),
        ({"gpus": ["NVIDIA A100"]}, Gpus((CAPABLE,)), True, "computes on NVIDIA A100"),
        ({}, Gpus((CAPABLE,)), False, "installs the build cu130"),
        ({}, Gpus((Gpu("NVIDIA A100", "470.1", (8, 0), 1),)), False, "update it to 525.60.13 or newer"),
        ({}, Gpus(problem="nvidia-smi fails: Driver/library version mismatch"), False, "restart the computer"),
        ({"torch": None, "problem": "OSError: c10.dll"}, Gpus(), False, "torch does not load (OSError: c10.dll)"),
    ],
)
def test_torch_and_the_gpu(facts: dict[str, Any], gpus: Gpus, ok: bool, says: str) -> None:
    finding = doctor._torch_finding({**FACTS, **facts}, gpus)
    assert finding.ok == ok
    assert says in f"{finding.sentence} {finding.advice}"


def test_a_backend_that_cannot_be_reached() -> None:
    (finding,) = findings("http://127.0.0.1:9")
    assert not finding.ok
    assert finding.sentence.endswith(".")


def test_without_a_terminal_the_set_up_asks_for_yes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def planned(folder: Path, torch: str, **arguments: Any) -> Any:
        assert arguments["confirm"]("3 packages, 0.1 GB.")
        return SimpleNamespace(folder=folder, torch="2.13.0")

    monkeypatch.setattr("svdrr.backend.cli_setup.set_up", planned)
    arguments = ["setup-backend", str(tmp_path / "backend")]
    refused = CliRunner().invoke(command_line(), arguments)
    assert isinstance(refused.exception, SVDRRError)
    assert "add --yes" in str(refused.exception)
    agreed = CliRunner().invoke(command_line(), [*arguments, "--yes"])
    assert "3 packages, 0.1 GB." in agreed.stderr
    assert agreed.stdout == f"The backend in {tmp_path / 'backend'} is ready, with torch 2.13.0.\n"
