"""Writing a model folder as the registry wants it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline

from svdrr.files import whole_directory
from svdrr.models.registry import DESCRIPTION_FILE


def write_model(folder: Path, pipeline: DiffusionPipeline, description: dict[str, Any]) -> None:
    """The pipeline as safetensors, and its description (the fields of `ModelDescription`) as ``model.json``."""
    with whole_directory(folder) as temporary:
        pipeline.save_pretrained(temporary, safe_serialization=True)
        (temporary / DESCRIPTION_FILE).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
