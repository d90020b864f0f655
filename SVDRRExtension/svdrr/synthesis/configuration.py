"""Named model configurations: architecture, sampling defaults and training schedule."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from diffusers import AutoencoderKL, DPMSolverMultistepScheduler
from transformers import CLIPVisionConfig, CLIPVisionModel

from svdrr.errors import SVDRRError
from svdrr.synthesis.pipeline import SVDRRPipeline
from svdrr.synthesis.vcdit import RadiographEncoder, VCDiT

_FOLDER = Path(__file__).parent / "configurations"


@dataclass(frozen=True)
class Schedule:
    """How one network is trained: AdamW with linear warm-up, and an exponential moving average of the weights.

    batch_size: of all processes together. decay: of the learning rate after the warm-up. gradient_checkpointing:
    compute activations twice instead of keeping them.
    """

    steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int
    ema_decay: float
    decay: Literal["cosine", "constant"] = "cosine"
    gradient_checkpointing: bool = False


@dataclass(frozen=True)
class ModelConfiguration:
    """One of the shipped configurations; the dictionaries are the keyword arguments of the parts' classes."""

    name: str
    resolution: int
    vae: dict[str, Any]
    vcdit: dict[str, Any]
    image_encoder: dict[str, Any]
    scheduler: dict[str, Any]
    sampling: dict[str, Any]
    training: dict[str, Schedule]


def configuration_names() -> list[str]:
    """``demo-128``, ``paper-256``, …"""
    return sorted((path.stem for path in _FOLDER.glob("*.json")), key=lambda name: (len(name), name))


def load_configuration(name: str) -> ModelConfiguration:
    """The shipped configuration `name`, or the one in the file `name` (.json); SVDRRError if there is none."""
    file = Path(name) if name.endswith(".json") else _FOLDER / f"{name}.json"
    if file.parent == _FOLDER and name not in configuration_names():
        choices = ", ".join(configuration_names())
        raise SVDRRError(f"Unknown configuration '{name}'; choose one of: {choices}, or give a .json file.")
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
        training = {part: Schedule(**schedule) for part, schedule in entries.pop("training").items()}
        return ModelConfiguration(name=file.stem, training=training, **entries)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise SVDRRError(f"'{file}' is not a model configuration ({error}).") from None


def make_vae(configuration: ModelConfiguration) -> AutoencoderKL:
    """The VAE with random weights."""
    return AutoencoderKL(**configuration.vae)


def make_image_encoder(configuration: ModelConfiguration) -> RadiographEncoder | CLIPVisionModel:
    """The image encoder with random weights."""
    arguments = dict(configuration.image_encoder)
    if arguments.pop("class") == "CLIPVisionModel":
        return CLIPVisionModel(CLIPVisionConfig(**arguments))
    return RadiographEncoder(**arguments)


def make_scheduler(configuration: ModelConfiguration) -> DPMSolverMultistepScheduler:
    """DPM-Solver++ of second order on PixArt's linear noise schedule."""
    return DPMSolverMultistepScheduler(**configuration.scheduler)


def make_pipeline(configuration: ModelConfiguration) -> SVDRRPipeline:
    """The whole pipeline with random weights."""
    return SVDRRPipeline(
        vae=make_vae(configuration),
        vcdit=VCDiT(**configuration.vcdit),
        image_encoder=make_image_encoder(configuration),
        scheduler=make_scheduler(configuration),
    )
