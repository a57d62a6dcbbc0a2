"""Feature pyramid: maps of one width at all strides on which boxes are looked for."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class Pyramid(nn.Module):
    """C2 .. C5 -> P2 .. P7 (or from P3 on), each with `channels` channels (Lin et al. 2017).

    in_channels: of the encoder's maps at strides 1, 2, 4 ... 32. levels: those of the pyramid, such
    as (3, 4, 5, 6); level v has stride 2^v.
    """

    def __init__(self, in_channels: Sequence[int], channels: int, levels: tuple[int, ...]) -> None:
        super().__init__()
        self.levels = levels
        self.lateral = nn.ModuleDict()
        self.smooth = nn.ModuleDict()
        self.down = nn.ModuleDict()
        for level in range(levels[0], 6):
            self.lateral[str(level)] = nn.Conv2d(in_channels[level], channels, 1)
        for level in range(levels[0], 6):
            self.smooth[str(level)] = nn.Conv2d(channels, channels, 3, padding=1)
        for level in range(6, levels[-1] + 1):
            width = in_channels[5] if level == 6 else channels
            self.down[str(level)] = nn.Conv2d(width, channels, 3, stride=2, padding=1)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Maps [(B, C, h, w)] of the encoder -> those of the levels, the finest first."""
        maps: dict[int, Tensor] = {}

        # From the coarsest of the encoder's maps down: each takes on what the coarser one knows.
        merged = self.lateral["5"](features[5])
        maps[5] = self.smooth["5"](merged)
        for level in range(4, self.levels[0] - 1, -1):
            lateral = self.lateral[str(level)](features[level])
            merged = lateral + F.interpolate(merged, size=lateral.shape[-2:], mode="nearest")
            maps[level] = self.smooth[str(level)](merged)

        # Coarser ones than the encoder has: P6 from C5, P7 from P6.
        for level in range(6, self.levels[-1] + 1):
            source = features[5] if level == 6 else F.relu(maps[level - 1])
            maps[level] = self.down[str(level)](source)
        return [maps[level] for level in self.levels]
