"""Writing a model folder as the registry wants it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline

from svdrr.errors import SVDRRError
from svdrr.files import whole_directory
from svdrr.models.registry import DESCRIPTION_FILE


def require_new_folder(folder: Path) -> None:
    """SVDRRError, before any work, unless `folder` can become a model's: a missing or empty one in one that exists."""
    if not folder.parent.is_dir():
        raise SVDRRError(f"Cannot write {folder}: the folder {folder.parent} does not exist; create it first.")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise SVDRRError(f"Cannot write {folder}: it exists and is no empty folder; choose a new one.")


def write_model(folder: Path, pipeline: DiffusionPipeline, description: dict[str, Any]) -> None:
    """The pipeline as safetensors, and its description (the fields of `ModelDescription`) as ``model.json``."""
    with whole_directory(folder) as temporary:
        pipeline.save_pretrained(temporary, safe_serialization=True)
        for config in temporary.rglob("*.json"):
            _forget_origin(config)
        (temporary / DESCRIPTION_FILE).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")


def _forget_origin(config: Path) -> None:
    """Drops what diffusers notes beyond the part itself, such as the path on the author's computer."""
    entries = json.loads(config.read_text(encoding="utf-8"))
    entries.pop("_name_or_path", None)
    if entries.get("_class_name") == "AutoencoderTiny":
        # diffusers notes it a second time, under a name that it warns of when it reads it back.
        entries.pop("block_out_channels", None)
    config.write_text(json.dumps(entries, indent=2, sort_keys=True) + "\n", encoding="utf-8")
