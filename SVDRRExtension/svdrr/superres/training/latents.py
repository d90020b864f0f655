"""``python -m svdrr.superres.training.latents DIR``: which latents DeltaDiff should work in.

Trains a VQ autoencoder, as the paper has it, and a continuous one, both with latents a quarter as wide, on the images
in DIR, and prints what each makes of true radiographs beside what bicubic interpolation makes of reduced ones. What an
autoencoder loses, no diffusion in its latents brings back.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, ModelMixin, VQModel
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from svdrr.superres.networks import without_normalization
from svdrr.superres.training.__main__ import PHANTOMS, SCHEDULES, SIDE
from svdrr.superres.training.images import build_images, load_images
from svdrr.superres.training.loop import Batch, Training
from svdrr.superres.training.validation import TABLE_HEAD, Case, bicubic, score, validation_cases

STEPS = 2000
SCALE = 4
_LEVELS = 3
_PARTS = {
    "in_channels": 1,
    "out_channels": 1,
    "down_block_types": ("DownEncoderBlock2D",) * _LEVELS,
    "up_block_types": ("UpDecoderBlock2D",) * _LEVELS,
    "block_out_channels": (16, 32, 64),
    "norm_num_groups": 8,
    "mid_block_add_attention": False,
}


def main() -> None:
    """Trains both, and prints the table."""
    parser = argparse.ArgumentParser(description="What autoencoders lose of radiographs.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    seeds = list(range(PHANTOMS))
    build_images(arguments.directory / "images", seeds)
    images = load_images(arguments.directory / "images", seeds)
    cases = validation_cases(arguments.directory / "images", SCALE)
    print(TABLE_HEAD, score(cases, bicubic).row(f"bicubic x{SCALE}"), sep="\n", flush=True)
    twice = validation_cases(arguments.directory / "images", 2)
    print(score(twice, bicubic).row("bicubic x2"), flush=True)
    torch.manual_seed(arguments.seed)
    autoencoders = {
        "VQ, 3 channels, 1,024 codes": VQModel(latent_channels=3, num_vq_embeddings=1024, **_PARTS),
        "continuous, 8 channels": AutoencoderKL(latent_channels=8, **_PARTS),
    }
    for name, autoencoder in autoencoders.items():
        without_normalization(autoencoder)
        schedule = replace(SCHEDULES["autoencoder"], steps=STEPS)
        work = arguments.directory / "latents" / name.replace(" ", "-")
        _train(autoencoder, Training(images, SIDE[SCALE], schedule, work, arguments.seed, "bf16"))
        print(score(cases, partial(_reconstructed, autoencoder)).row(name), flush=True)


def _train(autoencoder: ModelMixin, training: Training) -> None:
    autoencoder.to(memory_format=torch.channels_last)

    def loss(batch: Batch) -> Tensor:
        truth = batch.pairs.truth
        if isinstance(autoencoder, VQModel):
            decoded, commitment = autoencoder(truth, return_dict=False)
            return functional.l1_loss(decoded, truth) + commitment.mean()
        return functional.l1_loss(autoencoder(truth).sample, truth)

    training.run(autoencoder, SCALE, loss)


@torch.no_grad()
def _reconstructed(autoencoder: ModelMixin, case: Case) -> NDArray[np.float32]:
    decoded = autoencoder(torch.from_numpy(case.truth)[None, None]).sample
    return np.clip(decoded[0, 0].numpy(), 0.0, 1.0)


if __name__ == "__main__":
    main()
