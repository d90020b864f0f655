"""VCDiT's initial weights from PixArt-Sigma, the SDXL VAE and CLIP, key by key [sv-drr, 3.2 and 4.2]."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import PixArtTransformer2DModel
from safetensors.torch import load_file
from torch import Tensor, nn

from svdrr.errors import SVDRRError, counted
from svdrr.synthesis.configuration import ModelConfiguration, make_pipeline, networks_without_weights
from svdrr.synthesis.pipeline import SVDRRPipeline
from svdrr.synthesis.vcdit import VCDiT

_Weights = dict[str, Tensor]
_Shapes = dict[str, torch.Size]

# What each folder's config.json must say, since shapes alone do not show it; None: what our configuration says.
# Entries that are absent have these values, which are the defaults of the libraries that wrote the folder.
_PIXART = {
    "num_layers": None,
    "num_attention_heads": None,
    "attention_head_dim": None,
    "patch_size": None,
    "in_channels": 4,
    "out_channels": 8,
    "attention_bias": True,
    "activation_fn": "gelu-approximate",
    "norm_type": "ada_norm_single",
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
    "num_embeds_ada_norm": 1000,
}
_VAE = {
    "block_out_channels": None,
    "layers_per_block": None,
    "latent_channels": None,
    "norm_num_groups": None,
    "scaling_factor": None,
    "act_fn": "silu",
}
_CLIP = {
    "hidden_size": None,
    "intermediate_size": None,
    "num_hidden_layers": None,
    "num_attention_heads": None,
    "image_size": None,
    "patch_size": None,
    "num_channels": 3,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}

# Of CLIP's two towers only that for images is used, and its position numbers are no weights.
_NOT_OF_THE_IMAGE_TOWER = ("text_model.", "text_projection.", "visual_projection.", "logit_scale")
_POSITION_NUMBERS = "embeddings.position_ids"
# What the attention of an AutoencoderKL was called before diffusers 0.15.
_FORMER_VAE_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


def import_pixart(configuration: ModelConfiguration, pixart: Path, vae: Path, clip: Path) -> SVDRRPipeline:
    """The pipeline of `configuration` with the weights in three local folders, in float32.

    pixart: ``config.json`` and safetensors of diffusers' `PixArtTransformer2DModel`, or a folder whose ``transformer``
    is that; likewise vae (`AutoencoderKL`, ``vae``) and clip (`CLIPVisionModel` or `CLIPModel`, ``image_encoder``).
    Of the transformer, all weights are taken but ``caption_projection``, which `VCDiT.view_projection` replaces.
    For a source latent of zeros the result predicts the noise that PixArt predicts from the same tokens.
    SVDRRError that names keys or configuration entries if anything is left over, missing or of another shape, or is no
    finite floating-point number.
    """
    if configuration.image_encoder["class"] != "CLIPVisionModel":
        raise SVDRRError(f"The configuration '{configuration.name}' is not made of PixArt and CLIP; choose another.")
    # All three folders are looked at before the first is read.
    our_vae, our_vcdit, our_clip = networks_without_weights(configuration)
    read_pixart = _read(pixart, "transformer", "diffusion_pytorch_model", _PIXART, our_vcdit.config)
    read_vae = _read(vae, "vae", "diffusion_pytorch_model", _VAE, our_vae.config)
    read_clip = _read(clip, "image_encoder", "model", _CLIP, our_clip.config.to_dict())

    # The view's part of the projection is all that begins at random.
    torch.manual_seed(0)
    pipeline = make_pipeline(configuration)
    weights = {name: value for name, value in read_pixart().items() if not name.startswith("caption_projection.")}
    _require(_pixart_shapes(pipeline.vcdit), weights, pixart)
    _fill(pipeline.vcdit.transformer, vcdit_weights(weights, pipeline.vcdit.config.patch_size), pixart)
    _fill(pipeline.vae, _renamed(read_vae()), vae)
    _fill(pipeline.image_encoder, _image_tower(read_clip(), pipeline.image_encoder), clip)
    return pipeline


def _pixart_shapes(vcdit: VCDiT) -> _Shapes:
    """What a PixArt-Sigma transformer of the same depth and width consists of, but for ``caption_projection``."""
    with torch.device("meta"):
        pixart = PixArtTransformer2DModel.from_config(
            vcdit.transformer.config, in_channels=_PIXART["in_channels"], out_channels=_PIXART["out_channels"]
        )
    return _shapes(pixart.state_dict())


def vcdit_weights(pixart: _Weights, patch_size: int) -> _Weights:
    """The weights of VCDiT's transformer from those of a PixArt-Sigma transformer without ``caption_projection``.

    The patch convolution gets as many input channels again, with zero weights, for the source latent. Of the output
    projection, ordered (patch row, patch column, channel), the first half of the channels is the noise and stays; the
    other half, a variance, is dropped [Chen et al., PixArt-Sigma; Nichol and Dhariwal, 2021].
    """
    weights = dict(pixart)
    convolution = weights["pos_embed.proj.weight"]
    weights["pos_embed.proj.weight"] = torch.cat([convolution, torch.zeros_like(convolution)], dim=1)
    for name in ("proj_out.weight", "proj_out.bias"):
        by_channel = weights[name].unflatten(0, (patch_size**2, -1))
        weights[name] = by_channel[:, : by_channel.shape[1] // 2].flatten(0, 1).clone()
    return weights


def untrained_description(configuration: ModelConfiguration) -> dict[str, Any]:
    """What ``model.json`` says of the imported model."""
    return {
        "name": f"{configuration.name}-untrained",
        "resolution": configuration.resolution,
        "field_of_view_mm": 480.0,
        **configuration.sampling,
        # No radiographs, so no gray levels to match: a real radiograph gets evenly distributed ones.
        "source_gray_levels": np.round(np.linspace(0.0, 1.0, 33), 4).tolist(),
        "trained_on": "photographs and paintings (PixArt-Sigma); untrained for X-rays",
        "intended_use": "the beginning of training; its images mean nothing; not for diagnosis",
        "license": "that of the imported PixArt, VAE and CLIP weights",
    }


def _fill(model: nn.Module, weights: _Weights, folder: Path) -> None:
    """The weights in the model's place, in float32."""
    _require(_shapes(model.state_dict()), weights, folder)
    model.load_state_dict({name: value.float() for name, value in weights.items()}, assign=True)


def _require(wanted: _Shapes, weights: _Weights, folder: Path) -> None:
    """SVDRRError, which names keys, unless keys and shapes are exactly those wanted."""
    given = _shapes(weights)
    for problem, names in (
        ("lack", wanted.keys() - given.keys()),
        ("hold, beside what is needed,", given.keys() - wanted.keys()),
        ("have in another shape", {name for name in wanted.keys() & given.keys() if wanted[name] != given[name]}),
    ):
        if names:
            named = ", ".join(sorted(names)[:3]) + ", …" * (len(names) > 3)
            raise SVDRRError(
                f"The weights in {folder} {problem} {counted(len(names), 'key')}: {named}; "
                "they are not of the architecture that is needed."
            )


def _shapes(weights: _Weights) -> _Shapes:
    return {name: value.shape for name, value in weights.items()}


def _renamed(weights: _Weights) -> _Weights:
    def renamed(name: str) -> str:
        for former, present in _FORMER_VAE_NAMES.items():
            name = name.replace(former, present)
        return name

    return {renamed(name): value for name, value in weights.items()}


def _image_tower(weights: _Weights, encoder: nn.Module) -> _Weights:
    """The weights of CLIP's image tower, named as this version of transformers names them."""
    prefix = "vision_model."
    own = prefix if any(name.startswith(prefix) for name in encoder.state_dict()) else ""
    return {
        own + name.removeprefix(prefix): value
        for name, value in weights.items()
        if not name.startswith(_NOT_OF_THE_IMAGE_TOWER) and not name.endswith(_POSITION_NUMBERS)
    }


def _read(folder: Path, part: str, stem: str, needed: dict[str, Any], ours: dict[str, Any]) -> Callable[[], _Weights]:
    """What reads the weights of a folder, after its configuration has been compared with the needed one."""
    expected = {name: ours[name] if value is None else value for name, value in needed.items()}
    place = folder / part if (folder / part).is_dir() else folder
    try:
        entries = json.loads((place / "config.json").read_text(encoding="utf-8"))
        # A whole CLIP describes its two towers one by one.
        entries = entries.get("vision_config", entries)
        wrong = [name for name, value in expected.items() if entries.get(name, value) != value]
    except (OSError, ValueError, AttributeError):
        raise SVDRRError(f"{place} has no readable config.json; give a folder as on Hugging Face.") from None
    if wrong:
        name = wrong[0]
        raise SVDRRError(f"The {name} of {place} is {entries[name]}, and {expected[name]} is needed.")
    files = _weight_files(place, stem)
    return lambda: _load(files)


def _weight_files(place: Path, stem: str) -> list[Path]:
    index = place / f"{stem}.safetensors.index.json"
    names = [f"{stem}.safetensors"]
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError):
            raise SVDRRError(f"'{index}' is damaged; download it again.") from None
    missing = [name for name in names if Path(name).name != name or not (place / name).is_file()]
    if missing:
        raise SVDRRError(f"There is no {missing[0]} in {place}; weights are read from safetensors alone.")
    return [place / name for name in names]


def _load(files: list[Path]) -> _Weights:
    weights: _Weights = {}
    for file in files:
        try:
            tensors = load_file(file)
        except Exception as error:  # safetensors' own
            raise SVDRRError(f"'{file}' is damaged or no safetensors file; download it again.") from error
        for name, value in tensors.items():
            _require_finite(name, value, file)
        weights |= tensors
    return weights


def _require_finite(name: str, value: Tensor, file: Path) -> None:
    if name.endswith(_POSITION_NUMBERS):
        return
    if not value.is_floating_point():
        kind = str(value.dtype).removeprefix("torch.")
        raise SVDRRError(f"The tensor '{name}' of '{file}' is of {kind} instead of floating-point numbers; replace it.")
    if not value.float().isfinite().all():
        raise SVDRRError(f"The tensor '{name}' of '{file}' has values that are not finite; download it again.")
