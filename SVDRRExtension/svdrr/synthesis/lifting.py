"""A small 3D-lifting regressor: one radiograph to an attenuation volume, in the manner of XraySyn.

XraySyn (Peng et al., AAAI 2021) lifts a radiograph to 3D by a network and projects that again, differentiably. So does
this one, at a size that one CPU core trains in an hour. It says where along each ray of the radiograph the measured
attenuation lies, so that the volume gives back the radiograph that it was made from by construction:

    μ(u, v, w) = A(u, v) · p(w | u, v) / s(u, v)

with A the line integral measured at the place (u, v) of the detector, p the part of it that the network puts into the
w-th layer of depth, and s the length in mm of the ray in one layer.
"""

from __future__ import annotations

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from svdrr.drr import AttenuationVolume, from_display
from svdrr.geometry import CArmPose
from svdrr.synthesis.back_projection import back_project

FIELD_OF_VIEW_MM = 480.0
DEPTH_MM = 360.0
"""The layers fill this depth, half of it on each side of the isocenter."""
LAYERS = 80
INPUT_PIXELS = 96
_FINEST_MM = 3.0


class LiftingNetwork(ModelMixin, ConfigMixin):
    """U-Net that takes radiographs (batch, n, n) in [0, 1] of a 480 mm detector to p (batch, LAYERS, 48, 48).

    The first layer is the nearest to the source; over the layers p adds up to 1.
    """

    @register_to_config
    def __init__(self) -> None:
        super().__init__()
        widths = (32, 72, 128, 192)
        self.stem = nn.Conv2d(3, widths[0], 5, stride=2, padding=2)
        self.down = nn.ModuleList(_block(*pair) for pair in zip((widths[0], *widths), widths, strict=False))
        self.up = nn.ModuleList(
            _block(below + here, here) for below, here in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.layers = nn.Conv2d(widths[0], LAYERS, 1)

    def forward(self, radiographs: Tensor) -> Tensor:
        """p of each radiograph."""
        size = (INPUT_PIXELS, INPUT_PIXELS)
        values = functional.interpolate(radiographs[:, None], size, mode="bilinear", antialias=True)
        along = torch.linspace(-1.0, 1.0, INPUT_PIXELS).to(values)
        rows, columns = (place.expand(len(values), 1, -1, -1) for place in torch.meshgrid(along, along, indexing="ij"))
        values = self.stem(torch.cat([values, rows, columns], dim=1))
        seen = []
        for number, block in enumerate(self.down):
            values = block(functional.avg_pool2d(values, 2) if number else values)
            seen.append(values)
        for block, here in zip(self.up, seen[-2::-1], strict=True):
            values = functional.interpolate(values, scale_factor=2.0, mode="bilinear")
            values = block(torch.cat([values, here], dim=1))
        return _smooth_in_depth(self.layers(values)).softmax(dim=1)


def _smooth_in_depth(logits: Tensor) -> Tensor:
    """Gaussian of σ 2 layers, 9 mm: what differs from layer to layer alone would be streaks in the lateral views."""
    along = torch.arange(-6.0, 7.0).to(logits)
    kernel = torch.exp(-0.5 * (along / 2.0) ** 2)
    columns = logits.permute(0, 2, 3, 1).flatten(0, 2)[:, None]
    smooth = functional.conv1d(functional.pad(columns, (6, 6), mode="replicate"), (kernel / kernel.sum())[None, None])
    batch, layers, height, width = logits.shape
    return smooth.reshape(batch, height, width, layers).permute(0, 3, 1, 2)


def _block(inside: int, outside: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3, padding=1),
        nn.GroupNorm(8, outside),
        nn.SiLU(),
        nn.Conv2d(outside, outside, 3, padding=1),
        nn.GroupNorm(8, outside),
        nn.SiLU(),
    )


def lifted_attenuation(line_integrals: Tensor, parts: Tensor, points: Tensor) -> Tensor:
    """μ in 1/mm at points of the source's frustum, differentiable; 0 outside of it.

    line_integrals: A (batch, n, n) of the source view. parts: p (batch, layers, h, w). points: (batch, N, 3), as of
    `frustum_coordinates`. Returns (batch, N).
    """
    u, v, _ = points.unbind(dim=-1)
    measured = functional.grid_sample(line_integrals[:, None], points[:, :, None, :2], align_corners=False)
    share = functional.grid_sample(parts[:, None], points[:, :, None, None, :], align_corners=False)
    half_side = 0.5 * FIELD_OF_VIEW_MM / CArmPose().source_to_detector_mm
    length_mm = DEPTH_MM / parts.shape[1] * torch.sqrt(1.0 + (half_side**2) * (u**2 + v**2))
    return measured[:, 0, :, 0] * share[:, 0, :, 0, 0] / length_mm


def frustum_coordinates(points_ras: NDArray[np.float32], source: CArmPose) -> NDArray[np.float32]:
    """(..., 3) in [-1, 1] within the frustum of the source view: along its columns, its rows, and its layers.

    points_ras: (..., 3), RAS mm, the isocenter of `source` being anywhere.
    """
    right, down, forward = (axis.astype(np.float32) for axis in (*source.image_axes, source.detector_direction))
    ray = points_ras - source.source_ras.astype(np.float32)
    depth = ray @ forward
    on_detector = source.source_to_detector_mm / (0.5 * FIELD_OF_VIEW_MM) / depth
    layer = (depth - source.source_to_isocenter_mm) / (0.5 * DEPTH_MM)
    return np.stack([ray @ right * on_detector, ray @ down * on_detector, layer], axis=-1)


def attenuation_volume(radiograph: NDArray[np.float32], parts: NDArray[np.float32]) -> AttenuationVolume:
    """The lifted volume on a grid about the origin, which is the isocenter of the source view, PA.

    radiograph: (n, n) in [0, 1] of a 480 mm detector. parts: p (layers, h, w). Voxels are as large as the pixels are
    at the isocenter, but no smaller than 3 mm.
    """
    pose = CArmPose()
    voxel_mm = max(
        _FINEST_MM, FIELD_OF_VIEW_MM / len(radiograph) * pose.source_to_isocenter_mm / pose.source_to_detector_mm
    )
    line_integrals = torch.from_numpy(from_display(radiograph))[None]
    half = [0.5 * extent for extent in (FIELD_OF_VIEW_MM, DEPTH_MM, FIELD_OF_VIEW_MM)]
    right, anterior, superior = (np.arange(-side, side + 1.0, voxel_mm).astype(np.float32) for side in half)
    mu = np.empty((len(superior), len(anterior), len(right)), np.float32)
    for number, height in enumerate(superior):
        plane = np.stack(np.meshgrid(right, anterior, height), axis=-1).reshape(-1, 3)
        points = torch.from_numpy(frustum_coordinates(plane, pose))[None]
        values = lifted_attenuation(line_integrals, torch.from_numpy(parts)[None], points)
        mu[number] = values.numpy().reshape(mu.shape[1:])
    ijk_to_ras = np.diag([voxel_mm, voxel_mm, voxel_mm, 1.0])
    ijk_to_ras[:3, 3] = [-side for side in half]
    return AttenuationVolume(mu, ijk_to_ras)


@torch.no_grad()
def lift(network: LiftingNetwork, radiograph: NDArray[np.float32]) -> AttenuationVolume:
    """What the network makes of a PA radiograph (n, n) in [0, 1] of a 480 mm detector."""
    given = torch.from_numpy(np.ascontiguousarray(radiograph, np.float32)).to(network.device)
    return attenuation_volume(radiograph, network(given[None])[0].cpu().numpy())


def likely_volume(
    radiograph: NDArray[np.float32], field_of_view_mm: float, lifting: LiftingNetwork | None
) -> AttenuationVolume:
    """What a PA radiograph (n, n) in [0, 1] is likely the picture of, about the origin: lifted, or back-projected.

    field_of_view_mm: side of the detector; of `FIELD_OF_VIEW_MM` where there is a network.
    """
    return back_project(radiograph, field_of_view_mm) if lifting is None else lift(lifting, radiograph)
