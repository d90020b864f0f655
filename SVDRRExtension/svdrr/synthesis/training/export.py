"""Saving a trained demo model with everything that its description needs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from svdrr.models.write import write_model
from svdrr.synthesis.configuration import ModelConfiguration
from svdrr.synthesis.pipeline import SVDRRPipeline
from svdrr.synthesis.preparation import body_gray_levels

FIELD_OF_VIEW_MM = 480.0


def export_model(
    pipeline: SVDRRPipeline, configuration: ModelConfiguration, sources: NDArray[np.uint16], folder: Path
) -> None:
    """Writes the pipeline and its description to `folder`, in half precision.

    Half the size for a rounding far below the model's own error. sources: the PA radiographs that it was trained on
    (phantoms, pixels, pixels), 16 bit.
    """
    gray_levels = body_gray_levels(sources.astype(np.float32) / np.float32(65535.0))
    description = {
        "name": configuration.name,
        "resolution": configuration.resolution,
        "field_of_view_mm": FIELD_OF_VIEW_MM,
        **configuration.sampling,
        "source_gray_levels": np.round(gray_levels, 4).tolist(),
        "trained_on": f"DRRs of {len(sources)} procedural thorax phantoms, no patient data",
        "intended_use": "demonstration and software tests; not for diagnosis",
        "license": "Apache-2.0",
    }
    parts: dict[str, Any] = {
        name: copy.deepcopy(part).half() if isinstance(part, nn.Module) else part
        for name, part in pipeline.components.items()
    }
    write_model(folder, SVDRRPipeline(**parts), description)
