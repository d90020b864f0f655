"""The differentiable reference: DiffDRR's Siddon ray tracer on torch.

V. Gopalakrishnan and P. Golland, CLIP workshop at MICCAI 2022, https://github.com/eigenvivek/DiffDRR.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from diffdrr.renderers import Siddon
from numpy.typing import NDArray

from svdrr.drr.attenuation import AttenuationVolume
from svdrr.errors import SVDRRError
from svdrr.geometry import View

PATCH_SIZE = 64


def line_integrals(
    mu: torch.Tensor, ijk_to_ras: NDArray[np.float64], view: View, patch_size: int = PATCH_SIZE
) -> torch.Tensor:
    """Line integrals (rows, columns), differentiable with respect to `mu`.

    mu: (slices, rows, columns), 1/mm. ijk_to_ras: (4, 4). patch_size: rays are traced `patch_size`² at a time,
    which bounds the memory to about 50 kB per ray of one patch. DiffDRR integrates whole lines, also behind the
    source, so this raises SVDRRError where the source plane cuts the volume or lies beyond it.
    """
    corners_ijk = [[i, j, k, 1.0] for k, j, i in product(*((-0.5, size - 0.5) for size in mu.shape))]
    if (view.projection_matrix @ ijk_to_ras @ np.transpose(corners_ijk))[2].min() <= 0.0:
        raise SVDRRError(
            "The engine 'diffdrr' needs the whole CT in front of the X-ray source; "
            "raise the source-to-isocenter distance or use the engine 'siddon'."
        )
    ras_to_ijk = np.linalg.inv(ijk_to_ras)
    columns, rows = np.meshgrid(np.arange(view.detector.columns), np.arange(view.detector.rows))
    pixels = np.stack([columns.ravel(), rows.ravel(), np.zeros(rows.size), np.ones(rows.size)])
    pixels_ras = view.pixel_to_ras @ pixels
    lengths = np.linalg.norm(pixels_ras[:3].T - view.pose.source_ras, axis=1)
    source_ijk = (ras_to_ijk @ np.append(view.pose.source_ras, 1.0))[:3]
    target_ijk = (ras_to_ijk @ pixels_ras)[:3].T

    source = torch.as_tensor(source_ijk[None, None]).to(mu)
    targets = torch.as_tensor(target_ijk[None]).to(mu)
    ray_lengths = torch.as_tensor(lengths[None, None]).to(mu)
    siddon = Siddon()
    volume = mu.permute(2, 1, 0)
    patches = [
        siddon(volume, source, target, length)
        for target, length in zip(
            targets.split(patch_size**2, dim=1), ray_lengths.split(patch_size**2, dim=2), strict=True
        )
    ]
    return torch.cat(patches, dim=-1).reshape(view.detector.rows, view.detector.columns)


class DiffDRRRenderer:
    """DiffDRR behind the renderer interface. Rays end where the volume ends, not at the detector."""

    name = "diffdrr"
    on_cpu_threads = False

    def __init__(self, volume: AttenuationVolume) -> None:
        self._whole = volume
        self._volume = volume.cropped()
        self._mu = torch.from_numpy(self._volume.mu)

    @torch.no_grad()
    def render(self, view: View, threads: int | None = None) -> NDArray[np.float32]:
        """Line integrals of μ, float32 (rows, columns), dimensionless."""
        self._whole.require_outside(view.pose.source_ras)
        return line_integrals(self._mu, self._volume.ijk_to_ras, view).numpy()
