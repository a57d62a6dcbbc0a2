"""Heads of detectors: towers of convolutions on a pyramid's maps, and one for the whole image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cxr.system.errors import InputError


def build_tower(
    channels: int, convs: int, outputs: int, norm: str, dropout: float = 0.0
) -> nn.Sequential:
    """`convs` 3x3 convolutions, then one with `outputs` channels that starts at zero.

    norm: "group" for groups of 8 channels, or "none".
    """
    layers: list[nn.Module] = []
    for _ in range(convs):
        layers.append(he_init(nn.Conv2d(channels, channels, 3, padding=1)))
        if norm == "group":
            layers.append(nn.GroupNorm(channels // 8, channels))
        layers.append(nn.ReLU(inplace=True))
    last = nn.Conv2d(channels, outputs, 3, padding=1)
    nn.init.zeros_(last.weight)
    fill_bias(last, 0.0)
    return nn.Sequential(*layers, nn.Dropout(dropout), last)


def check_channels(channels: int, norm: str) -> None:
    """Raises InputError for a width that `build_tower` cannot build."""
    if norm == "group" and channels % 8:
        raise InputError(
            f"--channels {channels} cannot be grouped by 8: take a multiple of 8, or "
            "--head-norm none"
        )


def tower_reach(convs: int, norm: str, image_size: int) -> int:
    """Cells on each side of its own on which an output of a tower depends."""
    if norm == "group":  # whose statistics are those of the whole map
        return image_size
    return convs + 1


def he_init(conv: nn.Conv2d) -> nn.Conv2d:
    """PyTorch's own start shrinks the signal in every layer; He's keeps its size through ReLUs."""
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    fill_bias(conv, 0.0)
    return conv


def fill_bias(conv: nn.Conv2d, value: float) -> None:
    if conv.bias is not None:
        nn.init.constant_(conv.bias, value)


class GlobalHead(nn.Module):
    """C5 (B, C, h, w) -> logits of the image classes (B, n). Needs h, w >= 6.

    header_numbers: how many numbers of a file's header its last layer takes in beside the maps; 0:
    none.
    """

    def __init__(
        self, in_channels: int, classes: int, dropout: float, header_numbers: int = 0
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 256, 3)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(512, classes)
        self.of_header: nn.Linear | None = None
        if header_numbers:
            self.of_header = nn.Linear(header_numbers, classes, bias=False)
            nn.init.zeros_(self.of_header.weight)

    def header_logits(self, headers: Tensor) -> Tensor:
        """What headers (B, header_numbers) add to the logits, (B, n); nothing where they are 0.

        As if their numbers stood beside those of the maps in front of the last layer.
        """
        assert self.of_header is not None
        return self.of_header(headers)

    def forward(self, features: Tensor) -> Tensor:
        x = F.relu(self.conv(F.max_pool2d(features, 2)))
        mean = x.mean((2, 3))
        highest = x.amax((2, 3))
        return self.linear(self.dropout(torch.cat([mean, highest], 1)))


def flatten_maps(maps: Sequence[Tensor], width: int) -> Tensor:
    """Maps [(B, n * width, h, w)] -> (B, A, width) float32.

    A runs over maps, rows, columns, then the n outputs of a cell: the order of `make_anchors`.
    """
    rows = [x.permute(0, 2, 3, 1).reshape(len(x), -1, width) for x in maps]
    return torch.cat(rows, 1).float()


def outputs_at(
    tower: nn.Module,
    maps: Sequence[Tensor],
    image: Tensor,
    index: Tensor,
    per_cell: int,
    width: int,
    reach: int,
) -> Tensor:
    """Outputs (n, width) of a tower at places `index` (n,) of images `image` (n,), both on the CPU.

    They are those of `flatten_maps` of the whole maps, [image, index], and are computed in the
    format of the maps; but the tower sees only the part of a map that decides them. That spares
    most of its work: an image has few boxes, and the largest map is for small ones.

    per_cell: outputs of a cell. reach: of the tower, see `tower_reach`.
    """
    dtype = maps[0].dtype
    with torch.autocast(maps[0].device.type, dtype, enabled=dtype != torch.float32):
        patches, position = _run_on_patches(tower, maps, image, index, per_cell, width, reach)
        if not patches:
            # The tower takes part all the same, so that its gradients are zeros as they would be.
            return flatten_maps([tower(maps[-1][:1])], width)[0, :0]
    if maps[0].is_cuda:
        # An index that is not on the device yet makes the host wait for it, once for each use.
        position = position.pin_memory().to(maps[0].device, non_blocking=True)
    return torch.cat(patches)[position]


def _run_on_patches(
    tower: nn.Module,
    maps: Sequence[Tensor],
    image: Tensor,
    index: Tensor,
    per_cell: int,
    width: int,
    reach: int,
) -> tuple[list[Tensor], Tensor]:
    """Outputs [(m, width)] of one patch for each image and map, and where in them each place is."""
    patches: list[Tensor] = []
    patch_start = 0
    map_start = 0
    position = torch.empty_like(index)
    for x in maps:
        shape = (x.shape[-2], x.shape[-1], per_cell)
        map_end = map_start + shape[0] * shape[1] * per_cell
        on_map = ((index >= map_start) & (index < map_end)).nonzero()[:, 0]
        for i in image[on_map].unique().tolist():
            chosen = on_map[image[on_map] == i]
            row, column, output = torch.unravel_index(index[chosen] - map_start, shape)
            rows = _around(row, reach)
            columns = _around(column, reach)
            patch = tower(x[i : i + 1, :, rows, columns])
            cell = (row - rows.start) * patch.shape[-1] + column - columns.start
            position[chosen] = patch_start + cell * per_cell + output
            patches.append(flatten_maps([patch], width)[0])
            patch_start += len(patches[-1])
        map_start = map_end
    return patches, position


def _around(cells: Tensor, reach: int) -> slice:
    """From `reach` cells before the first of some cells (n,) to as many behind the last."""
    return slice(max(0, int(cells.min()) - reach), int(cells.max()) + reach + 1)
