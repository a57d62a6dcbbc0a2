"""Decoders of the winners of SIIM-ACR Pneumothorax and SIIM COVID-19: encoder features -> one map of `out_channels`.

`features` are those of an encoder at strides 1, 2, 4, 8, 16, 32. A decoder's map may be coarser than the image; the
network enlarges the logits.
"""

import torch
import torch.nn.functional as F
from segmentation_models_pytorch.decoders.deeplabv3.decoder import ASPP, DeepLabV3PlusDecoder
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from timm.layers import SqueezeExcite
from timm.layers.cbam import CbamModule
from torch import nn


def conv(in_channels, out_channels, kernel=3):
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def enlarge(x, like, mode="bilinear"):
    return F.interpolate(x, size=like.shape[-2:], mode=mode)


class Hypercolumn(nn.Module):
    """Maps of equal channels, enlarged to the last one's size, side by side."""

    def forward(self, maps):
        return torch.cat([enlarge(x, maps[-1]) for x in maps], 1)


class CbamDecoder(nn.Module):
    """3rd place: centre at stride 64, CBAM after each of five steps up, hypercolumn at stride 2."""

    out_channels = 32

    def __init__(self, channels):
        super().__init__()
        deepest = channels[-1]
        self.center = nn.Sequential(
            nn.MaxPool2d(2), conv(deepest, deepest), conv(deepest, deepest // 2)
        )
        above = [deepest // 2, 32, 32, 32, 32]
        self.steps = nn.ModuleList(
            nn.Sequential(
                conv(coarse + skip, width), conv(width, 32), CbamModule(32, spatial_kernel_size=1)
            )
            for coarse, skip, width in zip(
                above, channels[:0:-1], (512, 256, 128, 64, 32), strict=True
            )
        )
        self.together = nn.Sequential(Hypercolumn(), conv(5 * 32, 64), conv(64, 32))

    def forward(self, features):
        x, maps = self.center(features[-1]), []
        for step, skip in zip(self.steps, features[:0:-1]):
            x = step(torch.cat([enlarge(x, skip), skip], 1))
            maps.append(x)
        return self.together(maps)


class AsppDecoder(nn.Module):
    """5th place: four steps up of 64 channels with squeeze-and-excitation, hypercolumn at stride 2.

    Stands on a neck that has replaced the deepest features by 256 channels.
    """

    out_channels = 32

    def __init__(self, channels):
        super().__init__()
        widths = (256, 128, 64)  # of the skips at strides 16, 8, 4
        self.reducers = nn.ModuleList(
            nn.Conv2d(c, w, 1) for c, w in zip(channels[-2:1:-1], widths, strict=True)
        )
        self.steps = nn.ModuleList(self.step(c) for c in (channels[-1], *(64 + w for w in widths)))
        self.together = nn.Sequential(Hypercolumn(), nn.Conv2d(4 * 64, 32, 1), conv(32, 32))

    @staticmethod
    def step(channels):
        return nn.Sequential(
            SqueezeExcite(channels, rd_ratio=1 / 16),
            conv(channels, 64, 1),
            nn.Upsample(scale_factor=2),
            conv(64, 64),
            nn.Conv2d(64, 64, 1),
            nn.ReLU(inplace=True),
        )

    def forward(self, features):
        skips = [reduce(x) for reduce, x in zip(self.reducers, features[-2:1:-1])]
        maps = [self.steps[0](features[-1])]
        for step, skip in zip(self.steps[1:], skips):
            maps.append(step(torch.cat([maps[-1], skip], 1)))
        return self.together(maps)


class BlocksDecoder(nn.Module):
    """17th place of SIIM COVID-19: from the deepest features alone, without skips, five steps up to the image's size.

    768, 512, 256, 256 and 128 channels above the 1280 of EfficientNetV2-L, for other encoders in proportion.
    """

    def __init__(self, channels):
        super().__init__()
        widths = [
            max(8, round(width * channels[-1] / 1280 / 8) * 8)
            for width in (768, 512, 256, 256, 128)
        ]
        self.steps = nn.Sequential(
            *(self.step(*pair) for pair in zip([channels[-1], *widths], widths))
        )
        self.out_channels = widths[-1]

    @staticmethod
    def step(coarse, fine):
        return nn.Sequential(
            conv(coarse, fine), nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        )

    def forward(self, features):
        return self.steps(features[-1])


def smp_unet(*widths, **options):
    """smp's decoder, of these channels from coarse to fine."""

    def build(channels):
        decoder = UnetDecoder(channels, widths, **options)
        decoder.blocks[
            -1
        ].attention1 = nn.Identity()  # smp builds it for a skip that the last block does not have
        decoder.out_channels = widths[-1]
        return decoder

    return build


def deeplab(channels):
    """DeepLabV3+ for an encoder of stride 8, as one of the 2nd place's segmenters."""
    decoder = DeepLabV3PlusDecoder(
        channels, 5, 256, (12, 24, 36), 8, aspp_separable=False, aspp_dropout=0.5
    )
    decoder.out_channels = 256
    return decoder


def aspp_neck(channels):
    """5th place: 512 -> 256 channels with dilations 1, 6, 12, 18 and the mean of the image. Batches of at least 2."""
    return nn.Sequential(
        nn.Conv2d(channels, 512, 1), ASPP(512, 256, (6, 12, 18), separable=False, dropout=0.5)
    )


DECODERS = {
    "unet": smp_unet(256, 128, 64, 32, 16),
    "albunet": smp_unet(
        256, 256, 64, 128, 32, use_norm=False, interpolation_mode="bilinear", add_center_block=True
    ),
    "plain": smp_unet(256, 256, 128, 64, 64, use_norm=False),
    "scse": smp_unet(384, 256, 128, 64, 32, attention_type="scse"),
    "cbam": CbamDecoder,
    "aspp": AsppDecoder,
    "deeplab": deeplab,
    "blocks": BlocksDecoder,
}
