"""Saving a trained demo model with everything that its description and its benchmark need."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from svdrr.evaluation.phantoms import MEAN_VIEWS_FILE
from svdrr.files import whole_directory
from svdrr.models.registry import DESCRIPTION_FILE
from svdrr.synthesis.configuration import ModelConfiguration
from svdrr.synthesis.pipeline import SVDRRPipeline
from svdrr.synthesis.preparation import body_gray_levels

FIELD_OF_VIEW_MM = 480.0


def export_model(
    pipeline: SVDRRPipeline, configuration: ModelConfiguration, radiographs: NDArray[np.uint16], folder: Path
) -> None:
    """Writes the pipeline, its description and the mean training views to `folder`, all in half precision.

    Half the size for a rounding far below the model's own error; `pipeline` is left in half precision.
    radiographs: the training views (phantoms, views, pixels, pixels), 16 bit: PA, the 36 simple views, others.
    """
    sources = radiographs[:, 0].astype(np.float32) / np.float32(65535.0)
    description = {
        "name": configuration.name,
        "resolution": configuration.resolution,
        "field_of_view_mm": FIELD_OF_VIEW_MM,
        **configuration.sampling,
        "source_gray_levels": np.round(body_gray_levels(sources), 4).tolist(),
        "trained_on": f"DRRs of {len(radiographs)} procedural thorax phantoms, no patient data",
        "intended_use": "demonstration and software tests; not for diagnosis",
        "license": "Apache-2.0",
    }
    for part in (pipeline.vae, pipeline.vcdit, pipeline.image_encoder):
        part.half()
    with whole_directory(folder) as temporary:
        pipeline.save_pretrained(temporary, safe_serialization=True)
        mean_views = np.round(radiographs[:, 1:37].mean(axis=0)).astype(np.uint16)
        save_file({"mean_views": mean_views}, temporary / MEAN_VIEWS_FILE)
        (temporary / DESCRIPTION_FILE).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
