"""The networks of super-resolution, all of them convolutions whose output at a place depends on its surroundings alone.

None normalizes over the image or looks at all of it, so that a part of an image is enlarged as it would be in the whole
(see `svdrr.superres.tiling`); networks for super-resolution do better without normalization anyway (Lim et al., EDSR,
2017). All take the radiograph (batch, 1, h, w) in [0, 1] and its bicubic enlargement (batch, 1, h·scale, w·scale), and
learn what is to be added to the latter, in units of `residual_scale`, about its standard deviation.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import ConfigMixin, ModelMixin, UNet2DModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.unets.unet_2d_blocks import AutoencoderTinyBlock
from torch import Tensor, nn
from torch.nn import functional

from svdrr.superres.schedulers import DeltaDiffScheduler, lcmsr_scheduler

CODE_PIXELS = 4
"""How many pixels of the enlarged image a latent code of LCMSR is wide ("f4")."""
CODE_CHANNELS = 4


class Distillation(nn.Module):
    """Information multi-distillation block: at each of three convolutions a quarter of the channels is kept aside.

    Written from the description of Hui et al. (IMDN, 2019), without its attention, which looks at the whole image.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.kept = channels // 4
        passed = channels - self.kept
        inside = (channels, passed, passed)
        self.refine = nn.ModuleList([nn.Conv2d(count, channels, 3, padding=1) for count in inside])
        self.last = nn.Conv2d(passed, self.kept, 3, padding=1)
        self.fuse = nn.Conv2d(channels, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Features (batch, channels, h, w)."""
        kept, passed = [], features
        for convolution in self.refine:
            refined = functional.leaky_relu(convolution(passed), 0.05)
            kept.append(refined[:, : self.kept])
            passed = refined[:, self.kept :]
        kept.append(self.last(passed))
        return features + self.fuse(torch.cat(kept, dim=1))


class RegressionNetwork(ModelMixin, ConfigMixin):
    """The plain network that the others are measured against: that of IMDN, trained with L1."""

    @register_to_config
    def __init__(self, scale: int, residual_scale: float, channels: int = 64, blocks: int = 6) -> None:
        super().__init__()
        self.shallow = nn.Conv2d(1, channels, 3, padding=1)
        self.distillations = nn.ModuleList([Distillation(channels) for _ in range(blocks)])
        self.gather = nn.Sequential(
            nn.Conv2d(channels * blocks, channels, 1),
            nn.LeakyReLU(0.05),
            nn.Conv2d(channels, channels, 3, padding=1),
        )
        self.enlarge = _pixel_shuffle(channels, scale)

    def forward(self, reduced: Tensor, interpolated: Tensor) -> Tensor:
        """The enlarged radiograph (batch, 1, h·scale, w·scale)."""
        shallow = features = self.shallow(_centered(reduced))
        stages = []
        for block in self.distillations:
            features = block(features)
            stages.append(features)
        residual = self.enlarge(self.gather(torch.cat(stages, dim=1)) + shallow)
        return interpolated + self.config.residual_scale * residual


class LCMSR(ModelMixin, ConfigMixin):
    """Latent consistency model for super-resolution [lcmsr]: residual autoencoder, conditional network, denoiser.

    The codes are divided by `code_std`, so that they have unit variance. For speed on a CPU, the encoders begin with
    a space-to-depth in place of the paper's strided convolutions.
    """

    @register_to_config
    def __init__(
        self,
        scale: int,
        residual_scale: float,
        encoder_channels: int = 48,
        encoder_blocks: int = 2,
        unet_channels: tuple[int, int] = (32, 64),
        side_channels: int = 32,
        branch_channels: int = 48,
        units: int = 4,
        blocks_per_unit: int = 2,
    ) -> None:
        super().__init__()
        self.encoder = CodeEncoder(2, 2 * CODE_CHANNELS, encoder_channels, encoder_blocks)
        self.conditional = CodeEncoder(1, CODE_CHANNELS, encoder_channels, encoder_blocks)
        self.unet = local_unet(2 * CODE_CHANNELS, CODE_CHANNELS, unet_channels)
        self.decoder = ResidualDecoder(scale, side_channels, branch_channels, units, blocks_per_unit)
        self.register_buffer("code_std", torch.ones(CODE_CHANNELS))
        self.scheduler = lcmsr_scheduler()

    def posterior(self, truth: Tensor, interpolated: Tensor) -> DiagonalGaussianDistribution:
        """The distribution of the residual code z [eq. 1], (batch, CODE_CHANNELS, H/4, W/4), not yet divided."""
        difference = (truth - interpolated) / self.config.residual_scale
        return DiagonalGaussianDistribution(self.encoder(torch.cat([difference, _centered(interpolated)], dim=1)))

    def code(self, truth: Tensor, interpolated: Tensor) -> Tensor:
        """The code of unit variance that training the consistency model aims at."""
        return self.posterior(truth, interpolated).mode() / self._per_channel(self.code_std)

    def decode(self, reduced: Tensor, interpolated: Tensor, code: Tensor) -> Tensor:
        """The enlarged radiograph [eq. 2] of a code of unit variance."""
        residual = self.decoder(_centered(reduced), code * self._per_channel(self.code_std))
        return interpolated + self.config.residual_scale * residual

    def condition(self, interpolated: Tensor) -> Tensor:
        """c [eq. 5]: what the enlargement says of the code, which is the code of the deterministic path."""
        return self.conditional(_centered(interpolated))

    def consistent(self, noised: Tensor, condition: Tensor, timestep: Tensor) -> Tensor:
        """f [eq. 8], with a denoiser that predicts the code itself: at t = T an error of predicted noise would be
        amplified by √((1 − ᾱ)/ᾱ), 72."""
        predicted = self.unet(torch.cat([noised, condition], dim=1), timestep).sample
        skip, out = self.scheduler.get_scalings_for_boundary_condition_discrete(timestep.float()[:, None, None, None])
        return skip * noised + out * predicted

    def sampled(self, noise: Tensor, condition: Tensor) -> Tensor:
        """A code (batch, CODE_CHANNELS, H/4, W/4) from nothing but noise of its shape, in one step: f at t = T."""
        last = torch.full((len(noise),), self.scheduler.config.num_train_timesteps - 1, device=noise.device)
        return self.consistent(noise, condition, last)

    def forward(self, reduced: Tensor, interpolated: Tensor, noise: Tensor | None = None) -> Tensor:
        """The enlarged radiograph, in one step from `noise` (batch, CODE_CHANNELS, H/4, W/4), or of the condition."""
        code = self.condition(interpolated)
        if noise is not None:
            code = self.sampled(noise, code)
        return self.decode(reduced, interpolated, code)

    def _per_channel(self, values: Tensor) -> Tensor:
        return values[:, None, None]


class CodeEncoder(nn.Module):
    """Images (batch, images, H, W) to (batch, outside, H/4, W/4)."""

    def __init__(self, images: int, outside: int, channels: int, blocks: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.PixelUnshuffle(CODE_PIXELS),
            nn.Conv2d(images * CODE_PIXELS**2, channels, 3, padding=1),
            *[AutoencoderTinyBlock(channels, channels, "relu") for _ in range(blocks)],
            nn.Conv2d(channels, outside, 3, padding=1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """The code, or its mean and logarithm of variance."""
        code: Tensor = self.layers(images)
        return code


class ResidualDecoder(nn.Module):
    """Code and radiograph to the residual, by a branch for the code and one for super-resolution [lcmsr, fig. 2]."""

    def __init__(self, scale: int, side_channels: int, channels: int, units: int, blocks_per_unit: int) -> None:
        super().__init__()
        self.code_to_pixels = CODE_PIXELS // scale
        self.first_side = nn.Conv2d(CODE_CHANNELS, side_channels, 3, padding=1)
        self.sides = nn.ModuleList([AutoencoderTinyBlock(side_channels, side_channels, "relu") for _ in range(units)])
        self.to_branch = nn.ModuleList(
            [nn.Conv2d(side_channels, channels * self.code_to_pixels**2, 1) for _ in range(units)]
        )
        self.shallow = nn.Conv2d(1, channels, 3, padding=1)
        self.units = nn.ModuleList([_Refinement(channels, blocks_per_unit) for _ in range(units)])
        self.enlarge = _pixel_shuffle(channels, scale)

    def forward(self, reduced: Tensor, code: Tensor) -> Tensor:
        """Residual (batch, 1, h·scale, w·scale)."""
        side = self.first_side(code)
        shallow = features = self.shallow(reduced)
        for step, to_branch, unit in zip(self.sides, self.to_branch, self.units, strict=True):
            side = step(side)
            features = unit(features + functional.pixel_shuffle(to_branch(side), self.code_to_pixels))
        residual: Tensor = self.enlarge(features + shallow)
        return residual


class _Refinement(nn.Module):
    """Feature-refinement unit: distillation blocks in a row, all of whose outputs are compressed into one."""

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Distillation(channels) for _ in range(blocks)])
        self.compress = nn.Conv2d(channels * blocks, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        stages = [features]
        for block in self.blocks:
            stages.append(block(stages[-1]))
        return features + self.compress(torch.cat(stages[1:], dim=1))


class DeltaDiff(ModelMixin, ConfigMixin):
    """Residual-only diffusion without noise [deltadiff], in latents that lose nothing.

    The latents are the pixels, `scale` x `scale` of them to the channels of one: autoencoders that were tried in their
    place lose more than bicubic interpolation does (``python -m svdrr.superres.training.latents``).
    """

    @register_to_config
    def __init__(
        self,
        scale: int,
        residual_scale: float,
        unet_channels: tuple[int, int] = (64, 128),
        num_steps: int = 4,
        start_at_input: bool = True,
    ) -> None:
        super().__init__()
        channels = scale**2
        self.unet = local_unet(2 * channels + 1, channels, unet_channels)
        self.scheduler = DeltaDiffScheduler(num_train_timesteps=num_steps, start_at_input=start_at_input)

    def predicted(self, shifted: Tensor, reduced: Tensor, given: Tensor, timestep: Tensor) -> Tensor:
        """The network's x̂₀, latents of the truth, from those on the way x_t and those of the interpolation y."""
        unit = self.config.residual_scale
        values = torch.cat([(shifted - given) / unit, _centered(given), _centered(reduced)], dim=1)
        return given + unit * self.unet(values, timestep).sample

    def encode(self, image: Tensor) -> Tensor:
        """Latents (batch, scale², h, w)."""
        return functional.pixel_unshuffle(image, self.config.scale)

    def forward(self, reduced: Tensor, interpolated: Tensor, on_step: Callable[[], None] | None = None) -> Tensor:
        """The enlarged radiograph (batch, 1, h·scale, w·scale), in all steps of the scheduler.

        on_step: called after each; an exception from it ends the work.
        """
        latents = given = self.encode(interpolated)
        for timestep in self.scheduler.timesteps:
            predicted = self.predicted(latents, reduced, given, timestep.expand(len(given)).to(given.device))
            latents = self.scheduler.step(predicted, timestep, latents).prev_sample
            if on_step is not None:
                on_step()
        return functional.pixel_shuffle(latents, self.config.scale)


def local_unet(inside: int, outside: int, channels: tuple[int, ...]) -> UNet2DModel:
    """A U-Net of diffusers without attention, whose group norms, over the whole image, are left out."""
    unet = UNet2DModel(
        in_channels=inside,
        out_channels=outside,
        down_block_types=("DownBlock2D",) * len(channels),
        up_block_types=("UpBlock2D",) * len(channels),
        block_out_channels=channels,
        layers_per_block=1,
        add_attention=False,
        norm_num_groups=1,
    )
    without_normalization(unet)
    # As in other residual networks, nothing is added at first.
    nn.init.zeros_(unet.conv_out.weight)
    return unet


def without_normalization(network: nn.Module) -> None:
    """Replaces every group norm by nothing, in place."""
    for name, part in network.named_children():
        if isinstance(part, nn.GroupNorm):
            setattr(network, name, nn.Identity())
        else:
            without_normalization(part)


def _pixel_shuffle(channels: int, scale: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, scale**2, 3, padding=1), nn.PixelShuffle(scale))


def _centered(image: Tensor) -> Tensor:
    return 2.0 * image - 1.0
