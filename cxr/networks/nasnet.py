"""PNASNet-5-Large and NASNet-A-Mobile of pretrainedmodels, up to their last maps.

Both are in the figure of Gabruseva et al. 2020 that compares encoders, and neither
segmentation-models-pytorch nor, for the mobile one, timm has them. Their first convolution does not
pad, so the map at stride 2 lacks a row and a column; the others are whole.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class PnasnetLarge(nn.Module):
    """Images (B, 3, H, W) -> maps at strides 1, 2, 4 ... 32."""

    out_channels = (3, 96, 270, 1080, 2160, 4320)

    def __init__(self) -> None:
        super().__init__()
        # On import this takes half a gigabyte and a second in each process.
        from pretrainedmodels.models.pnasnet import PNASNet5Large

        self.network: Any = PNASNet5Large(num_classes=1)
        del self.network.last_linear

    def forward(self, images: Tensor) -> list[Tensor]:
        network = self.network
        stem = network.conv_0(images)
        stem_0 = network.cell_stem_0(stem)
        before = stem_0
        x = network.cell_stem_1(stem, stem_0)

        # Each cell reads the two before it; cells 4 and 8 halve the map.
        maps = [images, stem, stem_0]
        for number in range(12):
            if number in (4, 8):
                maps.append(x)
            cell = getattr(network, f"cell_{number}")
            after = cell(before, x)
            before = x
            x = after
        return [*maps, x]


class NasnetMobile(nn.Module):
    """Images (B, 3, H, W) -> maps at strides 1, 2, 4 ... 32."""

    out_channels = (3, 32, 44, 264, 528, 1056)

    def __init__(self) -> None:
        super().__init__()
        # On import this takes half a gigabyte and a second in each process.
        from pretrainedmodels.models.nasnet_mobile import NASNetAMobile

        self.network: Any = NASNetAMobile(num_classes=1)
        del self.network.last_linear

    def forward(self, images: Tensor) -> list[Tensor]:
        network = self.network
        stem = network.conv0(images)
        stem_0 = network.cell_stem_0(stem)
        before = stem_0
        x = network.cell_stem_1(stem, stem_0)

        # Each cell reads the two before it; the two reductions halve the map.
        maps = [images, stem, stem_0]
        for numbers, reduction in (
            ((0, 1, 2, 3), network.reduction_cell_0),
            ((6, 7, 8, 9), network.reduction_cell_1),
            ((12, 13, 14, 15), None),
        ):
            for number in numbers:
                cell = getattr(network, f"cell_{number}")
                after = cell(x, before)
                before = x
                x = after
            maps.append(x)
            if reduction is not None:
                after = reduction(x, before)
                before = x
                x = after
        return maps
