"""Named model configurations: architecture, sampling defaults and training schedule."""

from __future__ import annotations

import inspect
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler
from transformers import CLIPVisionConfig, CLIPVisionModel

from svdrr.errors import SVDRRError
from svdrr.synthesis.pipeline import SVDRRPipeline
from svdrr.synthesis.sampling import Sampling
from svdrr.synthesis.vcdit import RadiographEncoder, VCDiT

_FOLDER = Path(__file__).parent / "configurations"
_TRAINED = ("vae", "tiny_vae", "vcdit", "consistency")
# The schedulers know more; training does not.
_PREDICTION = {"prediction_type": Literal["epsilon", "v_prediction"]}
_IN_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    NoneType: "null",
    list: "a list",
    dict: "a group of entries",
}


@dataclass(frozen=True)
class Schedule:
    """How one network is trained: AdamW with linear warm-up, and an exponential moving average of the weights.

    batch_size: of all processes together. decay: of the learning rate after the warm-up. gradient_checkpointing:
    compute activations twice instead of keeping them. SVDRRError if a number makes no sense.
    """

    steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int
    ema_decay: float
    decay: Literal["cosine", "constant"] = "cosine"
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size) < 1:
            raise SVDRRError("The numbers of steps and of samples in a batch must be above 0.")
        if self.warmup_steps < 0:
            raise SVDRRError(f"The number of warm-up steps must not be negative, and {self.warmup_steps} is.")
        if not (self.learning_rate > 0.0 and math.isfinite(self.learning_rate)):
            raise SVDRRError(f"The learning rate must be above 0, not {self.learning_rate:g}.")
        if not 0.0 <= self.ema_decay < 1.0:
            raise SVDRRError(f"The decay of the averaged weights must lie in 0 to below 1, not {self.ema_decay:g}.")
        if self.decay not in ("cosine", "constant"):
            raise SVDRRError(f"The learning rate's decay must be cosine or constant, not '{self.decay}'.")


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
    """The shipped configuration `name`, or the one in the file `name` (.json).

    SVDRRError if there is none, or if no model can be made or trained by its entries, of which it names one.
    """
    file = Path(name) if name.endswith(".json") else _FOLDER / f"{name}.json"
    if file.parent == _FOLDER and name not in configuration_names():
        choices = ", ".join(configuration_names())
        raise SVDRRError(f"Unknown configuration '{name}'; choose one of: {choices}, or give a .json file.")
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SVDRRError(f"'{file}' is not a model configuration ({error.strerror}); give another file.") from None
    except ValueError:
        raise SVDRRError(f"'{file}' is not a model configuration: it is no JSON; correct it.") from None
    try:
        configuration = _checked(file.stem, entries)
        _require_that_parts_fit(configuration)
    except SVDRRError as error:
        raise SVDRRError(f"'{file}' is not a model configuration: {error}") from None
    return configuration


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


def networks_without_weights(
    configuration: ModelConfiguration,
) -> tuple[AutoencoderKL, VCDiT, RadiographEncoder | CLIPVisionModel]:
    """VAE, VCDiT and image encoder on PyTorch's meta device, where they take neither time nor memory."""
    with torch.device("meta"):
        return make_vae(configuration), VCDiT(**configuration.vcdit), make_image_encoder(configuration)


# Checks


def _checked(name: str, entries: Any) -> ModelConfiguration:
    """The configuration, once every entry of its file is known and of the kind that is needed."""
    if not isinstance(entries, dict):
        raise SVDRRError("it holds no entries; correct it.")
    parts = {field.name: dict for field in fields(ModelConfiguration) if field.name not in ("name", "resolution")}
    _check_entries("", entries, {"resolution": int, **parts}, required=["resolution", *parts])
    _check_entries("vae.", entries["vae"], _parameters(AutoencoderKL))
    _check_entries("vcdit.", entries["vcdit"], _parameters(VCDiT))
    _check_image_encoder(entries["image_encoder"])
    _check_entries("scheduler.", entries["scheduler"], _parameters(DPMSolverMultistepScheduler) | _PREDICTION)
    sampling = {"num_inference_steps": int, "guidance_scale": float}
    _check_entries("sampling.", entries["sampling"], sampling, required=sampling)
    _check_entries("training.", entries["training"], dict.fromkeys(_TRAINED, dict))
    needed = [field.name for field in fields(Schedule) if field.default is MISSING]
    for part, schedule in entries["training"].items():
        _check_entries(f"training.{part}.", schedule, _parameters(Schedule), required=needed)
    with _naming("sampling"):
        Sampling(**entries["sampling"])
    training = {}
    for part, schedule in entries["training"].items():
        with _naming(f"training.{part}"):
            training[part] = Schedule(**schedule)
    return ModelConfiguration(name=name, **{**entries, "training": training})


def _check_image_encoder(entries: dict[str, Any]) -> None:
    known = {"class": Literal["CLIPVisionModel", "RadiographEncoder"]}
    _check_entries("image_encoder.", {key: entries[key] for key in known if key in entries}, known, required=known)
    parameters = _parameters(CLIPVisionConfig if entries["class"] == "CLIPVisionModel" else RadiographEncoder)
    _check_entries("image_encoder.", entries, known | parameters)


def _check_entries(
    group: str, entries: Mapping[str, Any], kinds: Mapping[str, Any], required: Iterable[str] = ()
) -> None:
    """SVDRRError unless the entries are among those of `kinds`, and of the annotated kind."""
    for name in entries:
        if name not in kinds:
            raise SVDRRError(f"the entry '{group}{name}' is unknown; remove it.")
    for name in required:
        if name not in entries:
            raise SVDRRError(f"the entry '{group}{name}' is missing; add it.")
    for name, value in entries.items():
        if not _is_of(kinds[name], value):
            raise SVDRRError(f"the entry '{group}{name}' must be {_in_words(kinds[name])}, not {json.dumps(value)}.")


def _parameters(part: type) -> dict[str, Any]:
    """The names of what a class is made with, and their annotations; some of CLIP's cannot be evaluated."""
    parameters = inspect.signature(part, eval_str=part is not CLIPVisionConfig).parameters
    return {name: parameter.annotation for name, parameter in parameters.items()}


def _is_of(kind: Any, value: Any) -> bool:
    """Whether a JSON value is of an annotated kind; True where nothing is known of the kind."""
    if kind is inspect.Parameter.empty or isinstance(kind, str):
        return True
    if get_origin(kind) in (Union, UnionType):
        return any(_is_of(choice, value) for choice in get_args(kind))
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if kind is float:
        return type(value) in (int, float) and abs(value) <= sys.float_info.max
    return type(value) is _json_kind(kind)


def _in_words(kind: Any) -> str:
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(map(_in_words, get_args(kind)))
    if get_origin(kind) is Literal:
        return " or ".join(map(str, get_args(kind)))
    return _IN_WORDS.get(_json_kind(kind), "an array")


def _json_kind(kind: Any) -> Any:
    """What JSON has in place of a tuple."""
    return list if get_origin(kind) in (list, tuple) else kind


@contextmanager
def _naming(group: str) -> Iterator[None]:
    try:
        yield
    except SVDRRError as error:
        sentence = str(error)
        raise SVDRRError(f"in '{group}', {sentence[0].lower()}{sentence[1:]}") from None


def _require_that_parts_fit(configuration: ModelConfiguration) -> None:
    """SVDRRError unless all parts can be made, and one takes what another gives."""
    try:
        vae, vcdit, encoder = networks_without_weights(configuration)
        # Where the caller has chosen the meta device, too: a scheduler computes its timesteps at once.
        with torch.device("cpu"):
            scheduler = make_scheduler(configuration)
            scheduler.set_timesteps(configuration.sampling["num_inference_steps"])
        pipeline = SVDRRPipeline(vae=vae, vcdit=vcdit, image_encoder=encoder, scheduler=scheduler)
    except Exception as error:  # whatever diffusers and transformers raise for numbers that do not go together
        reason = " ".join(str(error).split())
        raise SVDRRError(f"no model can be made by its entries ({reason}); correct them.") from error
    for names, first, second in (
        ("the resolution and that of vae and vcdit", configuration.resolution, pipeline.resolution),
        ("'latent_channels' of vae and vcdit", vae.config.latent_channels, vcdit.config.latent_channels),
        (
            "'hidden_size' of image_encoder and 'image_embedding_dim' of vcdit",
            encoder.config.hidden_size,
            vcdit.config.image_embedding_dim,
        ),
    ):
        if first != second:
            raise SVDRRError(f"{names} must be equal, not {first} and {second}.")
