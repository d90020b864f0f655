"""DRRs on a GPU: nanodrr's trilinear ray marcher on torch.

V. Gopalakrishnan, https://github.com/eigenvivek/nanodrr: one fused kernel on CUDA, grid sampling elsewhere.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from nanodrr.camera import make_k_inv
from nanodrr.data import Subject
from nanodrr.drr import render
from numpy.typing import NDArray

from svdrr.drr.attenuation import AttenuationVolume
from svdrr.geometry import View

LEAST_SAMPLES = 500
"""Per ray, inside the volume: nanodrr's default. Larger volumes get one for every voxel of their longest axis."""

SAMPLES_AT_ONCE = {"cpu": 2**21, "cuda": 2**27}
"""Rows are rendered in bands. Grid sampling takes about 20 bytes per sample, so this bounds it to 40 MB on a CPU. On a
GPU it is 3 GB, but only where the fused kernel, which stores no samples, is missing or the volume too large for it.
"""


def _subject(volume: AttenuationVolume, device: torch.device) -> Subject:
    """The volume as nanodrr holds one, with μ as it is and without a label map."""
    size = np.array(volume.mu.shape[::-1], float)
    # What torch's grid_sample calls -1 and 1 are the outer faces of the first and of the last voxel.
    voxel_to_grid = np.eye(4)
    voxel_to_grid[:3, :3] = np.diag(2.0 / size)
    voxel_to_grid[:3, 3] = 1.0 / size - 1.0
    voxel_to_world, world_to_voxel, to_grid = (
        torch.as_tensor(matrix, dtype=torch.float32)
        for matrix in (volume.ijk_to_ras, np.linalg.inv(volume.ijk_to_ras), voxel_to_grid)
    )
    return Subject(
        torch.from_numpy(volume.mu)[None, None],
        torch.zeros(1, 1, 1, 1, 1),
        voxel_to_world,
        world_to_voxel,
        to_grid,
        isocenter=torch.zeros(3),
        max_label=0,
        convert_to_mu=False,
    ).to(device)


class NanoDRRRenderer:
    """nanodrr behind the renderer interface: on `device`, by default CUDA where torch finds it, else the CPU.

    It interpolates between voxel centers, so that edges are softer than the exact engines', by up to a voxel.
    Rays start at the source and end where the volume ends, not at the detector.
    """

    name = "nanodrr"
    on_cpu_threads = False

    def __init__(self, volume: AttenuationVolume, device: str | None = None) -> None:
        self._whole = volume
        volume = volume.cropped()
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._subject = _subject(volume, self._device)
        self._samples = max(LEAST_SAMPLES, max(volume.mu.shape) + 1)
        faces_ijk = ((-1.0, float(size)) for size in reversed(volume.mu.shape))
        self._corners_ras = volume.ijk_to_ras @ np.transpose([[*corner, 1.0] for corner in product(*faces_ijk)])

    @torch.no_grad()
    def render(self, view: View, threads: int | None = None) -> NDArray[np.float32]:
        """Line integrals of μ, float32 (rows, columns), dimensionless."""
        self._whole.require_outside(view.pose.source_ras)
        right, down = view.pose.image_axes
        # nanodrr's camera has its axes along columns, rows and depth. Seen from the detector, that is a
        # left-handed frame, which is fine: nanodrr needs an isometry, not a rotation.
        camera_to_ras = np.eye(4)
        camera_to_ras[:3] = np.column_stack([right, down, view.pose.detector_direction, view.pose.source_ras])
        rt_inv = torch.as_tensor(camera_to_ras[None], dtype=torch.float32, device=self._device)

        # nanodrr ends its rays in a plane at this depth; beyond the volume, it cuts nothing off.
        depths = (view.projection_matrix @ self._corners_ras)[2]
        end = torch.tensor([max(view.pose.source_to_detector_mm, 1.01 * depths.max())], device=self._device).float()

        rows, columns = view.detector.rows, view.detector.columns
        band = max(1, SAMPLES_AT_ONCE[self._device.type] // (self._samples * columns))
        image = np.empty((rows, columns), np.float32)
        for first in range(0, rows, band):
            count = min(band, rows - first)
            drr = render(self._subject, self._k_inv(view, first, count), rt_inv, end, count, columns, self._samples)
            image[first : first + count] = drr[0, 0].cpu().numpy()
        return image

    def _k_inv(self, view: View, first_row: int, row_count: int) -> torch.Tensor:
        """The inverse intrinsic matrix (1, 3, 3) of some rows: a lower detector about the same central ray."""
        row_mm, column_mm = view.detector.pixel_spacing_mm
        above_center = (view.detector.rows - row_count) / 2.0 - first_row
        return make_k_inv(
            view.pose.source_to_detector_mm,
            column_mm,
            row_mm,
            x0=0.0,
            y0=above_center * row_mm,
            height=row_count,
            width=view.detector.columns,
            dtype=torch.float32,
            device=self._device,
        )
