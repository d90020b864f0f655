"""Where the weights are, what they are, and what they may be used for."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svdrr.errors import SVDRRError

DESCRIPTION_FILE = "model.json"
BASELINES_FOLDER = "baselines"
SUPER_RESOLUTION_FOLDER = "super-resolution"
_log = logging.getLogger(__name__)
# In the source tree, and in an installed extension, where the package lies beside the modules.
_BUNDLED = tuple(Path(__file__).resolve().parents[level] / "Resources" / "Models" for level in (3, 2))


@dataclass(frozen=True)
class ModelDescription:
    """What a model folder's ``model.json`` says.

    resolution: pixels per side. field_of_view_mm: side of the square detector that the model was trained on.
    source_gray_levels: evenly spaced quantiles of its training source views inside the body, for bringing real
    radiographs to the same gray scale. sampling: default steps and guidance.
    """

    name: str
    folder: Path
    resolution: int
    field_of_view_mm: float
    num_inference_steps: int
    guidance_scale: float
    source_gray_levels: tuple[float, ...]
    trained_on: str
    intended_use: str
    license: str

    def weights_bytes(self) -> int:
        """Size of the weights on disk, in bytes."""
        return sum(file.stat().st_size for file in self.folder.rglob("*.safetensors"))

    def weights_sha256(self) -> str:
        """`weights_sha256` of its folder."""
        return weights_sha256(self.folder)


def weights_sha256(folder: Path) -> str:
    """One hash over every safetensors file of a model's folder, in the order of their relative paths."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.safetensors")):
        digest.update(file.relative_to(folder).as_posix().encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def model_folders() -> list[Path]:
    """Folders that hold models: those in the environment variable SVDRR_MODELS, then the bundled ones."""
    return [folder.parent for place in _places() for folder in sorted(place.glob(f"*/{DESCRIPTION_FILE}"))]


def baseline_file(name: str) -> Path:
    """A file of what models are measured against, which lies beside the models; SVDRRError if it is not there."""
    for place in _places():
        if (place / BASELINES_FOLDER / name).is_file():
            return place / BASELINES_FOLDER / name
    raise SVDRRError(
        f"The file '{BASELINES_FOLDER}/{name}', which evaluation needs, was not found beside the models; "
        "set SVDRR_MODELS to the folder Resources/Models of SVDRR."
    )


def super_resolution_folder(method: str, scale: int) -> Path | None:
    """Where the weights of a super-resolution method are, the first of all places; None if there are none."""
    folders = [place / SUPER_RESOLUTION_FOLDER / method / f"x{scale}" for place in _places()]
    return next((folder for folder in folders if (folder / "config.json").is_file()), None)


def _places() -> list[Path]:
    listed = [Path(entry) for entry in os.environ.get("SVDRR_MODELS", "").split(os.pathsep) if entry]
    return [place for place in [*listed, *_BUNDLED] if place.is_dir()]


def available_models() -> list[ModelDescription]:
    """Every model that can be found, the first of each name; one that is damaged does not hide the others."""
    by_name: dict[str, ModelDescription] = {}
    for folder in model_folders():
        try:
            description = read_description(folder)
        except SVDRRError as error:
            _log.warning("%s", error)
        else:
            by_name.setdefault(description.name, description)
    return list(by_name.values())


def find_model(name: str) -> ModelDescription:
    """The model called `name`, or the one in the folder `name`; SVDRRError that lists the choices if there is none."""
    folder = Path(name)
    if (folder / DESCRIPTION_FILE).is_file():
        return read_description(folder)
    try:
        return available_model(name)
    except SVDRRError:
        if (folder / "model" / DESCRIPTION_FILE).is_file():
            raise SVDRRError(f"'{name}' is the folder of a training run; its model is '{folder / 'model'}'.") from None
        if folder.is_dir():
            raise SVDRRError(f"The folder '{name}' holds no {DESCRIPTION_FILE}; give the folder of a model.") from None
        raise


def available_model(name: str) -> ModelDescription:
    """The model called `name`, never the one in a folder; SVDRRError that lists the choices if there is none."""
    models = {description.name: description for description in available_models()}
    if name not in models:
        choices = ", ".join(models) or "none found; set SVDRR_MODELS to a folder of models"
        raise SVDRRError(f"Unknown model '{name}'; available: {choices}.")
    return models[name]


def read_description(folder: Path) -> ModelDescription:
    """The description of the model in `folder`; SVDRRError if its ``model.json`` is not one."""
    try:
        entries: dict[str, Any] = json.loads((folder / DESCRIPTION_FILE).read_text(encoding="utf-8"))
        for name, kind in (("resolution", int), ("field_of_view_mm", float), ("guidance_scale", float)):
            entries[name] = kind(entries[name])
        entries["source_gray_levels"] = tuple(map(float, entries["source_gray_levels"]))
        return ModelDescription(folder=folder, **entries)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise SVDRRError(f"'{folder / DESCRIPTION_FILE}' does not describe a model ({error}).") from None
