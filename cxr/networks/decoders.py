"""Decoders of the winners of SIIM-ACR Pneumothorax and SIIM COVID-19.

Each turns an encoder's features at strides 1, 2, 4, 8, 16, 32 into one map (B, out_channels, h, w).
That map may be coarser than the image; the network enlarges the logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from segmentation_models_pytorch.decoders.deeplabv3.decoder import ASPP, DeepLabV3PlusDecoder
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from timm.layers import SqueezeExcite
from timm.layers.cbam import CbamModule
from torch import Tensor, nn

from cxr.networks.dry_run import dry_run
from cxr.system.errors import InputError, first_line


class Decoder(Protocol):
    """A module from an encoder's features to one map of `out_channels`."""

    out_channels: int

    def __call__(self, features: Sequence[Tensor]) -> Tensor: ...


def conv_block(in_channels: int, out_channels: int, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def resize_like(x: Tensor, like: Tensor) -> Tensor:
    """The map at the height and width of another one."""
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear")


class Hypercolumn(nn.Module):
    """Maps of equal channels, enlarged to the last one's size, side by side."""

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return torch.cat([resize_like(x, maps[-1]) for x in maps], 1)


class CbamDecoder(nn.Module):
    """3rd place: centre at stride 64, CBAM after each of five steps up, hypercolumn at stride 2."""

    out_channels = 32

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        deepest = channels[-1]
        self.center = nn.Sequential(
            nn.MaxPool2d(2), conv_block(deepest, deepest), conv_block(deepest, deepest // 2)
        )
        self.steps = nn.ModuleList()
        coarse = deepest // 2
        skips = channels[:0:-1]
        for skip, width in zip(skips, (512, 256, 128, 64, 32), strict=True):
            self.steps.append(self.build_step(coarse + skip, width))
            coarse = 32
        self.together = nn.Sequential(Hypercolumn(), conv_block(5 * 32, 64), conv_block(64, 32))

    @staticmethod
    def build_step(in_channels: int, width: int) -> nn.Sequential:
        return nn.Sequential(
            conv_block(in_channels, width),
            conv_block(width, 32),
            CbamModule(32, spatial_kernel_size=1),
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        x = self.center(features[-1])
        maps = []
        for step, skip in zip(self.steps, features[:0:-1], strict=True):
            x = step(torch.cat([resize_like(x, skip), skip], 1))
            maps.append(x)
        return self.together(maps)


class AsppDecoder(nn.Module):
    """5th place: four steps up of 64 channels with squeeze-and-excitation, hypercolumn at stride 2.

    Stands on a neck that has replaced the deepest features by 256 channels.
    """

    out_channels = 32

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        widths = (256, 128, 64)  # of the skips at strides 16, 8, 4
        self.reducers = nn.ModuleList()
        for skip, width in zip(channels[-2:1:-1], widths, strict=True):
            self.reducers.append(nn.Conv2d(skip, width, 1))
        self.steps = nn.ModuleList([self.build_step(channels[-1])])
        for width in widths:
            self.steps.append(self.build_step(64 + width))
        self.together = nn.Sequential(Hypercolumn(), nn.Conv2d(4 * 64, 32, 1), conv_block(32, 32))

    @staticmethod
    def build_step(channels: int) -> nn.Sequential:
        return nn.Sequential(
            SqueezeExcite(channels, rd_ratio=1 / 16),
            conv_block(channels, 64, 1),
            nn.Upsample(scale_factor=2),
            conv_block(64, 64),
            nn.Conv2d(64, 64, 1),
            nn.ReLU(inplace=True),
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        x = self.steps[0](features[-1])
        maps = [x]
        skips = features[-2:1:-1]
        for step, reduce, skip in zip(self.steps[1:], self.reducers, skips, strict=True):
            x = step(torch.cat([x, reduce(skip)], 1))
            maps.append(x)
        return self.together(maps)


class BlocksDecoder(nn.Module):
    """17th place of SIIM COVID-19: five steps up to the image's size, without skips.

    It reads the deepest features alone. 768, 512, 256, 256 and 128 channels above the 1280 of
    EfficientNetV2-L, for other encoders in proportion.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        steps = []
        in_channels = channels[-1]
        for published in (768, 512, 256, 256, 128):
            width = max(8, round(published * channels[-1] / 1280 / 8) * 8)
            steps.append(self.build_step(in_channels, width))
            in_channels = width
        self.steps = nn.Sequential(*steps)
        self.out_channels = in_channels

    @staticmethod
    def build_step(in_channels: int, out_channels: int) -> nn.Sequential:
        return nn.Sequential(
            conv_block(in_channels, out_channels),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return self.steps(features[-1])


class SmpUnetDecoder(UnetDecoder):
    """U-Net decoder of segmentation-models-pytorch, with these channels from coarse to fine."""

    def __init__(self, channels: Sequence[int], widths: Sequence[int], **options: Any) -> None:
        super().__init__(channels, widths, **options)
        # It builds an attention for a skip that the last block does not have.
        self.blocks[-1].attention1 = nn.Identity()
        self.out_channels = widths[-1]


def unet_decoder(channels: Sequence[int]) -> SmpUnetDecoder:
    return SmpUnetDecoder(channels, (256, 128, 64, 32, 16))


def albunet_decoder(channels: Sequence[int]) -> SmpUnetDecoder:
    """1st place: no batch norm, bilinear steps, a block of convolutions at the centre."""
    return SmpUnetDecoder(
        channels,
        (256, 256, 64, 128, 32),
        use_norm=False,
        interpolation_mode="bilinear",
        add_center_block=True,
    )


def plain_decoder(channels: Sequence[int]) -> SmpUnetDecoder:
    return SmpUnetDecoder(channels, (256, 256, 128, 64, 64), use_norm=False)


def scse_decoder(channels: Sequence[int]) -> SmpUnetDecoder:
    """1st place: concurrent spatial and channel squeeze-and-excitation after each step."""
    return SmpUnetDecoder(channels, (384, 256, 128, 64, 32), attention_type="scse")


class DeepLabDecoder(DeepLabV3PlusDecoder):
    """DeepLabV3+ for an encoder of stride 8, as one of the 2nd place's segmenters."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__(
            channels,
            encoder_depth=5,
            out_channels=256,
            atrous_rates=(12, 24, 36),
            output_stride=8,
            aspp_separable=False,
            aspp_dropout=0.5,
        )
        self.out_channels = 256


def aspp_neck(channels: int) -> nn.Sequential:
    """5th place: 512, then 256 channels with dilations 1, 6, 12, 18 and the mean of the image.

    Batches of at least 2.
    """
    return nn.Sequential(
        nn.Conv2d(channels, 512, 1), ASPP(512, 256, (6, 12, 18), separable=False, dropout=0.5)
    )


def check_decoder(network: nn.Module, image_size: int, encoder: str, decoder: str) -> None:
    """Raises InputError where a decoder cannot join the encoder's maps of an image of this side."""
    try:
        dry_run(network, (1, 1, image_size, image_size))
    except Exception as error:  # each decoder complains in its own way
        raise InputError(
            f"--decoder {decoder} cannot join the maps of --encoder {encoder} at {image_size} "
            f"pixels ({first_line(error)}): choose another of the two, such as --decoder unet"
        ) from error


DECODERS: dict[str, Callable[[Sequence[int]], Decoder]] = {
    "unet": unet_decoder,
    "albunet": albunet_decoder,
    "plain": plain_decoder,
    "scse": scse_decoder,
    "cbam": CbamDecoder,
    "aspp": AsppDecoder,
    "deeplab": DeepLabDecoder,
    "blocks": BlocksDecoder,
}
