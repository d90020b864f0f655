"""``python -m svdrr.superres.training.ablations DIR``: the papers' ablations, x4, in small.

DIR: of ``python -m svdrr.superres.training``, with the trained models for x4. All variants of LCMSR take its
autoencoder; all variants of DeltaDiff go on from its weights. All of a method take the same number of steps, a fraction
of those of the models themselves, and are measured on validation phantoms. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import ModelMixin
from numpy.typing import NDArray

from svdrr.superres.learned import enlarge
from svdrr.superres.networks import LCMSR, DeltaDiff
from svdrr.superres.training.__main__ import PHANTOMS, RESIDUAL_SCALE, SCHEDULES, SIDE, begin_from
from svdrr.superres.training.deltadiff import train_deltadiff
from svdrr.superres.training.images import build_images, load_images
from svdrr.superres.training.lcmsr import train_consistency, train_decoder
from svdrr.superres.training.loop import Training
from svdrr.superres.training.validation import TABLE_HEAD, Case, bicubic, score, validation_cases

SCALE = 4
STEPS = {"consistency": 1000, "decoder": 300, "deltadiff": 1000}
LCMSR_VARIANTS: dict[str, dict[str, Any]] = {
    "LCMSR": {},
    "LCMSR without KD loss": {"distillation": False},
    "LCMSR without consistency loss": {"consistency": False},
}
DELTADIFF_VARIANTS: dict[str, dict[str, Any]] = {
    "DeltaDiff, T = 4": {},
    "DeltaDiff, T = 1": {"num_steps": 1},
    "DeltaDiff, T = 4, η of the paper": {"start_at_input": False},
}


def main() -> None:
    """Trains what is not trained yet, and prints the table."""
    parser = argparse.ArgumentParser(description="The ablations of LCMSR and DeltaDiff on phantom radiographs.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--variant", choices=[*LCMSR_VARIANTS, *DELTADIFF_VARIANTS], action="append", help="all")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    directory: Path = arguments.directory
    seeds = list(range(PHANTOMS))
    build_images(directory / "images", seeds)
    images = load_images(directory / "images", seeds)
    cases = validation_cases(directory / "images", SCALE)
    print(TABLE_HEAD, score(cases, bicubic).row("bicubic"), sep="\n", flush=True)
    for name in arguments.variant or [*LCMSR_VARIANTS, *DELTADIFF_VARIANTS]:
        torch.manual_seed(arguments.seed)
        work = directory / "ablations" / name.replace(" ", "-")
        train = _train_lcmsr if name in LCMSR_VARIANTS else _train_deltadiff
        network = train(name, images, directory, work, arguments.seed).eval().requires_grad_(False)
        print(score(cases, _by(network, 0)).row(name), flush=True)
        if isinstance(network, LCMSR):
            print(score(cases, _by(network, None)).row(f"{name}, deterministic"), flush=True)


def _train_lcmsr(name: str, images: NDArray[np.uint16], directory: Path, work: Path, seed: int) -> ModelMixin:
    """A new conditional network and denoiser on the trained autoencoder."""
    trained = LCMSR.from_pretrained(directory / "lcmsr" / f"x{SCALE}").float()
    network = LCMSR(SCALE, RESIDUAL_SCALE[SCALE])
    network.encoder, network.decoder, network.code_std = trained.encoder, trained.decoder, trained.code_std
    network.to(memory_format=torch.channels_last)
    train_consistency(network, _training("consistency", images, work, seed), **LCMSR_VARIANTS[name])
    train_decoder(network, _training("decoder", images, work / "decoder", seed))
    return network


def _train_deltadiff(name: str, images: NDArray[np.uint16], directory: Path, work: Path, seed: int) -> ModelMixin:
    network = DeltaDiff(SCALE, RESIDUAL_SCALE[SCALE], **DELTADIFF_VARIANTS[name])
    begin_from(network, directory / "deltadiff" / f"x{SCALE}")
    network.to(memory_format=torch.channels_last)
    train_deltadiff(network, _training("deltadiff", images, work, seed))
    return network


def _training(stage: str, images: NDArray[np.uint16], work: Path, seed: int) -> Training:
    return Training(images, SIDE[SCALE], replace(SCHEDULES[stage], steps=STEPS[stage]), work, seed, "bf16")


def _by(network: ModelMixin, seed: int | None) -> Callable[[Case], NDArray[np.float32]]:
    return lambda case: enlarge(case.reduced, network, seed)


if __name__ == "__main__":
    main()
