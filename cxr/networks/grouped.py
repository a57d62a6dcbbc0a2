"""Grouped convolutions with few channels a group, trained in fewer groups on a CPU in bf16.

oneDNN's backward pass of such a convolution in bf16 reaches hardly any rate. With zeros between
groups that are merged it is a usual one: several times the arithmetic in a part of the time (128
channels in 32 groups, 3 x 3, 128 x 128: 79 ms; in 8 groups of 16 channels 15 ms, on two cores with
AMX).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cxr.networks.fused import has_plain_forward, put_before

CHANNELS = 16  # of a group, below which groups are merged; with 32 a step was slower


class MergedGroups:
    """Put before a convolution's class: fewer groups where a gradient is wanted, else as it was.

    Forward alone the groups as they are were faster.
    """

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        conv: Any = self
        if not x.requires_grad or conv.padding_mode != "zeros":
            return super()._conv_forward(x, weight, bias)  # type: ignore[misc]
        factor = CHANNELS // weight.shape[1]
        merged = merge_groups(weight, conv.groups, factor)
        groups = conv.groups // factor
        return F.conv2d(x, merged, bias, conv.stride, conv.padding, conv.dilation, groups)


def merge_groups(weight: Tensor, groups: int, factor: int) -> Tensor:
    """Weights (O, I, h, w) of a convolution in `groups` as those (O, factor * I, h, w) of the same
    in groups / factor: zero between what were different groups."""
    outputs, inputs, height, width = weight.shape
    blocks = weight.view(groups // factor, factor, outputs // groups, 1, inputs, height, width)
    own = torch.eye(factor, device=weight.device, dtype=weight.dtype)
    spread = blocks * own.view(1, factor, 1, factor, 1, 1, 1)
    return spread.reshape(outputs, factor * inputs, height, width)


def train_in_merged_groups(network: nn.Module) -> int:
    """Change the class of a network's convolutions with few channels a group, in place.

    Returns their number. Weights, names and a `state_dict` stay as they are.
    """
    changed = 0
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and has_small_groups(module):
            put_before(MergedGroups, module)
            changed += 1
    return changed


def has_small_groups(conv: nn.Conv2d) -> bool:
    """Whether its groups have 2 to 8 channels and can be merged evenly."""
    channels = conv.in_channels // conv.groups
    if (
        not has_plain_forward(conv)
        or conv.groups == 1
        or not 1 < channels < CHANNELS
        or CHANNELS % channels
    ):
        return False
    return conv.groups % (CHANNELS // channels) == 0
