"""The view-conditioned diffusion transformer (VCDiT) and the demo model's image encoder [sv-drr, 3.2]."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from diffusers import ConfigMixin, ModelMixin, PixArtTransformer2DModel
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput
from torch import Tensor, nn

RELATIVE_VIEW_DIM = 4


class VCDiT(ModelMixin, ConfigMixin):
    """Denoises a target-view latent, given the source latent, image tokens and the relative view.

    A PixArt transformer with AdaLN-single whose patch embedding takes the noised target latent and the source
    latent, channel-concatenated, and whose cross-attention reads the image tokens, each with the relative view
    appended, through one shared linear projection.

    back_projection_mm: beyond the paper, for small models: side of the detector for which the source is back-projected
    and seen from the target (`svdrr.synthesis.back_projection`); the latent of that is concatenated, too. None: not.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 32,
        patch_size: int = 2,
        num_layers: int = 28,
        num_attention_heads: int = 16,
        attention_head_dim: int = 72,
        latent_channels: int = 4,
        image_embedding_dim: int = 1024,
        interpolation_scale: float = 0.5,
        back_projection_mm: float | None = None,
    ) -> None:
        super().__init__()
        inner_dim = num_attention_heads * attention_head_dim
        self.transformer = PixArtTransformer2DModel(
            sample_size=sample_size,
            patch_size=patch_size,
            num_layers=num_layers,
            num_attention_heads=num_attention_heads,
            attention_head_dim=attention_head_dim,
            in_channels=latent_channels * (2 if back_projection_mm is None else 3),
            out_channels=latent_channels,
            cross_attention_dim=inner_dim,
            caption_channels=None,
            interpolation_scale=interpolation_scale,
            use_additional_conditions=False,
        )
        # As in zero123: the image part starts as the identity, so that training begins at the encoder's tokens.
        self.view_projection = nn.Linear(image_embedding_dim + RELATIVE_VIEW_DIM, inner_dim)
        nn.init.eye_(self.view_projection.weight[:, :image_embedding_dim])
        nn.init.zeros_(self.view_projection.bias)

    def condition(self, image_tokens: Tensor, relative_views: Tensor) -> Tensor:
        """Cross-attention tokens (batch, tokens, inner_dim); the null condition is zeros of this shape.

        image_tokens: (batch, tokens, image_embedding_dim). relative_views: (batch, 4), see
        `svdrr.geometry.relative_view_encoding`.
        """
        views = relative_views[:, None].expand(-1, image_tokens.shape[1], -1)
        projected: Tensor = self.view_projection(torch.cat([image_tokens, views], dim=-1))
        return projected

    def forward(self, noised: Tensor, timestep: Tensor, given_latents: Tensor, condition: Tensor) -> Tensor:
        """The noise (or the velocity, as the scheduler's configuration says), shaped like `noised`.

        noised: (batch, latent_channels, sample_size, sample_size). given_latents: that of the source, and behind it in
        the channels that of the back-projection where the model has one. All are scaled by the VAE's scaling factor.
        timestep: (batch,). condition: from `condition`.
        """
        output: Tensor = self.transformer(
            torch.cat([noised, given_latents], dim=1), encoder_hidden_states=condition, timestep=timestep
        ).sample
        return output


@dataclass
class RadiographEncoderOutput(BaseOutput):
    """last_hidden_state: (batch, tokens, hidden_size), named as in CLIP."""

    last_hidden_state: Tensor


class RadiographEncoder(ModelMixin, ConfigMixin):
    """A small convolutional stand-in for CLIP's vision tower, trained with the demo model.

    One token per 16 x 16 pixels, with a learned position.
    """

    @register_to_config
    def __init__(self, image_size: int = 128, num_channels: int = 1, hidden_size: int = 192) -> None:
        super().__init__()
        widths = [num_channels, 32, 64, 128, hidden_size]
        stages: list[nn.Module] = []
        for index, (inner, outer) in enumerate(pairwise(widths)):
            if index:
                stages += [nn.GroupNorm(16, inner), nn.SiLU()]
            stages.append(nn.Conv2d(inner, outer, kernel_size=4, stride=2, padding=1))
        self.stages = nn.Sequential(*stages)
        self.positions = nn.Parameter(0.02 * torch.randn(1, (image_size // 16) ** 2, hidden_size))
        self.norm = nn.LayerNorm(hidden_size)

    def forward(self, pixel_values: Tensor) -> RadiographEncoderOutput:
        """pixel_values: (batch, num_channels, image_size, image_size) in [-1, 1]."""
        features = self.stages(pixel_values).flatten(2).transpose(1, 2)
        return RadiographEncoderOutput(last_hidden_state=self.norm(features + self.positions))
