"""Docs/reproduce-the-paper.md: its commands exist with their options, and its arithmetic is right."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
import typer
from torch.utils.flop_counter import FlopCounterMode

from svdrr.cli import app
from svdrr.synthesis.configuration import load_configuration, make_scheduler, make_vae
from svdrr.synthesis.vcdit import VCDiT

TEXT = (Path(__file__).resolve().parents[2] / "Docs" / "reproduce-the-paper.md").read_text(encoding="utf-8")
LINES = [line for block in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines() if line]


def parsed(line: str) -> str:
    """The name of the command that the line calls; the parser's own error if it has no such arguments and options."""
    words = shlex.split(line)
    words = words[words.index("svdrr") + 1 :]
    command, name = typer.main.get_command(app), "svdrr"
    while hasattr(command, "commands"):
        name, *words = words
        command = command.commands[name]
    command.make_context(name, list(words))
    return name


def test_there_are_the_steps_that_the_text_promises() -> None:
    names = [parsed(line) for line in LINES]
    assert names == [
        *("build", "verify", "build", "import-pixart"),
        *["train"] * 5,
        *("evaluate", "evaluate", "synthesize"),
    ]


@pytest.mark.parametrize("wrong", ["svdrr train --nonsense 1 data run", "svdrr dataset build", "svdrr evaluate model"])
def test_the_parser_refuses_what_does_not_exist(wrong: str) -> None:
    with pytest.raises(Exception, match=r"No such option|Missing"):
        parsed(wrong)


@pytest.mark.parametrize("name", ["paper-256", "paper-512", "paper-1024"])
def test_the_hours_follow_from_the_configuration_and_counted_operations(name: str) -> None:
    (row,) = [line for line in TEXT.splitlines() if line.startswith(f"| {name} |")]
    tflop, batch, steps, passes, eflop, hours = (float(cell.replace(",", "")) for cell in row.split("|")[2:-1])
    configuration = load_configuration(name)
    schedule = configuration.training["vcdit"]
    assert (batch, steps) == (schedule.batch_size, schedule.steps)
    assert passes == 3 + schedule.gradient_checkpointing
    side = configuration.vcdit["sample_size"]
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        latent = torch.empty(1, 4, side, side)
        VCDiT(**configuration.vcdit)(latent, torch.empty(1, dtype=torch.long), latent, torch.empty(1, 257, 1152))
    counted = counter.get_total_flops() / 1e12
    assert tflop == pytest.approx(counted, abs=0.005)
    assert eflop == pytest.approx(counted * passes * batch * steps / 1e6, abs=0.06)
    assert hours == pytest.approx(eflop * 1e6 / 400.0 / 3600.0, abs=0.06)


def test_the_disk_is_the_sum_of_its_parts() -> None:
    """Of 889 CTs the shards, of the 873 that are trained on the latents, with 1,500 views each."""
    rows = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in TEXT.splitlines() if line.startswith("| ")}
    units = {"kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}

    def sizes(row: str) -> list[float]:
        cells = [cell.split() for cell in rows[row]]
        return [float(number) * units[unit] for number, unit in cells]

    (latents,) = [row for row in rows if row.startswith("latents")]
    for side, png, shards, encoded in zip(
        (256, 512, 1024), sizes("a PNG"), sizes("shards"), sizes(latents), strict=True
    ):
        assert shards == pytest.approx(889 * 1500 * png, rel=0.005)
        assert encoded == pytest.approx(873 * 1500 * 4 * (side // 8) ** 2 * 2, rel=0.03)
    total = sum(sizes("shards") + sizes(latents)) / 1e12
    of_256 = (sizes("shards")[0] + sizes(latents)[0]) / 1e12
    assert f"| Disk | {total:.1f} TB for all three sizes (below), {of_256:.2f} TB for 256 pixels alone" in TEXT


def test_the_noise_s_error_is_magnified_as_is_said() -> None:
    scheduler = make_scheduler(load_configuration("paper-256"))
    kept = scheduler.alphas_cumprod[-1].item()
    assert (1.0 / kept) ** 0.5 == pytest.approx(160.0, rel=0.02)
    assert "magnified 160 times" in TEXT


def test_encoding_costs_what_is_said() -> None:
    configuration = load_configuration("paper-256")
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        make_vae(configuration).encode(torch.empty(1, 3, 256, 256))
    assert counter.get_total_flops() / 1e12 == pytest.approx(0.27, abs=0.005)
    assert "0.27, 1.12 and 4.88 TFLOP" in TEXT
