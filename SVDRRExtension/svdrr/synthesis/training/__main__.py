"""``python -m svdrr.synthesis.training DIR``: the run that made the bundled demo model.

Each stage keeps what it has made in DIR; started again, the run goes on where it was.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from diffusers import AutoencoderKL
from numpy.typing import NDArray

from svdrr.synthesis.configuration import load_configuration, make_scheduler
from svdrr.synthesis.pipeline import SVDRRPipeline
from svdrr.synthesis.training.export import export_model
from svdrr.synthesis.training.phantom_views import build_phantom_views, load_phantom_views, view_encodings
from svdrr.synthesis.training.vae import sharpen_decoder, train_vae
from svdrr.synthesis.training.vcdit import cache_latents, train_vcdit

VAE_PHANTOMS = 320
VCDIT_VIEWS = 30
"""Views per phantom for VCDiT: encoding all 60 would cost as much time as half of its training."""


def main() -> None:
    """Renders the phantoms, trains the VAE, then VCDiT, and saves the pipeline as DIR/model."""
    parser = argparse.ArgumentParser(description="Train the demo model on procedural phantoms.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--config", default="demo-128")
    parser.add_argument("--phantoms", type=int, default=800)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    configuration = load_configuration(arguments.config)
    directory: Path = arguments.directory
    seeds = range(arguments.phantoms)

    views = directory / "views"
    vae_folder = directory / "vae"
    if not vae_folder.exists():
        vae_seeds = seeds[:VAE_PHANTOMS]
        build_phantom_views(views, vae_seeds, configuration.resolution)
        vae = train_vae(configuration, load_phantom_views(views, vae_seeds), directory / "train-vae", arguments.seed)
        vae.save_pretrained(vae_folder)
    vae = AutoencoderKL.from_pretrained(vae_folder)

    build_phantom_views(views, seeds, configuration.resolution)
    radiographs = load_phantom_views(views, seeds)
    chosen = np.stack([_chosen_views(seed, radiographs.shape[1]) for seed in seeds])
    encodings = np.stack([view_encodings(seed) for seed in seeds])
    each = np.arange(len(seeds))[:, None]
    latents = cache_latents(vae, radiographs[each, chosen], directory / "latents.npy")
    vcdit, encoder = train_vcdit(
        configuration, radiographs[:, 0], latents, encodings[each, chosen], directory / "train-vcdit", arguments.seed
    )
    sharpen_decoder(configuration, vae, radiographs[each, chosen], latents, directory / "train-decoder", arguments.seed)
    pipeline = SVDRRPipeline(vae=vae, vcdit=vcdit, image_encoder=encoder, scheduler=make_scheduler(configuration))
    export_model(pipeline, configuration, radiographs, directory / "model")


def _chosen_views(seed: int, count: int) -> NDArray[np.int64]:
    """PA, which is view 0, and a seeded choice of the others."""
    others = np.random.default_rng(seed).choice(np.arange(1, count), VCDIT_VIEWS - 1, replace=False)
    return np.concatenate([[0], np.sort(others)])


if __name__ == "__main__":
    main()
