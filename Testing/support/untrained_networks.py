"""Super-resolution networks that have learned nothing: small and fast, in the folders that the real ones have."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from svdrr.models.registry import SUPER_RESOLUTION_FOLDER
from svdrr.superres import SCALES
from svdrr.superres.networks import LCMSR, DeltaDiff, RegressionNetwork


def write_untrained_networks(models: Path) -> Path:
    """Every learned method at every scale, in a folder for SVDRR_MODELS, which is returned."""
    torch.manual_seed(5)
    for scale in SCALES:
        regression = RegressionNetwork(scale, 0.05, channels=8, blocks=1)
        lcmsr = LCMSR(
            scale,
            0.05,
            encoder_channels=8,
            encoder_blocks=1,
            unet_channels=(8, 8),
            side_channels=8,
            branch_channels=8,
            units=1,
            blocks_per_unit=1,
        )
        deltadiff = DeltaDiff(scale, 0.05, unet_channels=(8, 8))
        for unet in (lcmsr.unet, deltadiff.unet):
            # It is zero at first, and then neither noise nor steps make a difference.
            nn.init.normal_(unet.conv_out.weight, std=0.5)
        for method, network in (("regression", regression), ("lcmsr", lcmsr), ("deltadiff", deltadiff)):
            network.half().save_pretrained(models / SUPER_RESOLUTION_FOLDER / method / f"x{scale}")
    return models
