"""``python -m svdrr.synthesis.training DIR``: the run that made the bundled demo models.

It climbs the paper's ladder in small: one VAE, a tiny one that takes its place, one 3D-lifting regressor, VCDiT at 128
pixels, from its weights at 256, and from that one the model for few steps. Each stage keeps what it has made in DIR;
started again, the run goes on where it was.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderTiny

from svdrr.models import find_model
from svdrr.synthesis.configuration import load_configuration, make_vae
from svdrr.synthesis.synthesize import load_pipeline
from svdrr.synthesis.training.consistency import distill, few_step_configuration
from svdrr.synthesis.training.export import export_model
from svdrr.synthesis.training.lifting import train_lifting
from svdrr.synthesis.training.phantom_latents import phantom_latents
from svdrr.synthesis.training.phantom_views import build_phantom_views, load_phantom_views
from svdrr.synthesis.training.record import keep_record
from svdrr.synthesis.training.vae import train_tiny_vae, train_vae
from svdrr.synthesis.training.vcdit import begin_from, train_vcdit

RUNGS = ("demo-128", "demo-256")
VAE_PHANTOMS = 150


def main() -> None:
    """Renders the phantoms, trains all stages, and saves the models as DIR/NAME/model."""
    parser = argparse.ArgumentParser(description="Train the demo models on procedural phantoms.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--from", dest="start", default="demo-256", help="model whose weights training begins with")
    parser.add_argument("--phantoms", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    directory: Path = arguments.directory
    seeds = range(arguments.phantoms)
    views = directory / "views"
    largest = load_configuration(RUNGS[-1])

    build_phantom_views(views, seeds, largest.resolution)
    pipeline = load_pipeline(find_model(arguments.start))
    for part in (pipeline.vcdit, pipeline.image_encoder):
        part.float()
    if not (directory / "vae").exists():
        radiographs = load_phantom_views(views, seeds[:VAE_PHANTOMS]).radiographs
        torch.manual_seed(arguments.seed)
        large = make_vae(largest)
        train_vae(largest, large, radiographs, directory / "train-vae", arguments.seed)
        tiny = train_tiny_vae(largest, large, radiographs, directory / "train-tiny-vae", arguments.seed)
        tiny.save_pretrained(directory / "vae")
    lifting = train_lifting(views, seeds, directory / "lifting")
    stages = {
        "vae": directory / "train-vae",
        "tiny-vae": directory / "train-tiny-vae",
        "lifting": directory / "lifting",
    }
    pipeline.register_modules(vae=AutoencoderTiny.from_pretrained(directory / "vae"), lifting=lifting)

    for rung in RUNGS:
        configuration = load_configuration(rung)
        latents = phantom_latents(
            pipeline.vae,
            views,
            seeds,
            configuration.resolution,
            directory / rung,
            configuration.vcdit["back_projection_mm"],
            lifting,
        )
        pipeline = begin_from(configuration, pipeline)
        train_vcdit(configuration, pipeline, latents, directory / rung / "train", arguments.seed)
        export_model(pipeline, configuration, latents.sources[:, 0], directory / rung / "model")
        stages[f"vcdit-{configuration.resolution}"] = directory / rung / "train"
        keep_record(directory / rung / "model", stages)
    one_step = few_step_configuration(largest)
    few_steps = distill(pipeline, largest, latents, directory / one_step.name / "train", arguments.seed)
    export_model(few_steps, one_step, latents.sources[:, 0], directory / one_step.name / "model")
    stages["consistency"] = directory / one_step.name / "train"
    keep_record(directory / one_step.name / "model", stages)


if __name__ == "__main__":
    main()
