"""Depthwise convolutions of a CPU training in bf16, computed in fp32.

oneDNN's backward pass of a depthwise convolution in bf16 takes about ten times as long as in fp32
(240 channels, 5 x 5, 48 x 48: 577 and 37 ms on two cores with AMX).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Fp32Depthwise:
    """Put before a convolution's class: fp32 where a gradient is wanted, else as it was."""

    def forward(self, x: Tensor) -> Tensor:
        convolve: Any = super().forward  # type: ignore[misc]
        if not x.requires_grad:
            return convolve(x)
        with torch.autocast(x.device.type, enabled=False):
            return convolve(x.float()).to(x.dtype)


def train_depthwise_in_fp32(network: nn.Module) -> int:
    """Change the class of a network's depthwise convolutions, in place. Returns their number.

    Weights, names and a `state_dict` stay as they are, and a copy of the network is changed, too.
    """
    changed = 0
    classes: dict[type, type] = {}
    for module in network.modules():
        if not isinstance(module, nn.Conv2d) or not is_depthwise(module):
            continue
        old = type(module)
        if old not in classes:
            classes[old] = type(f"Fp32{old.__name__}", (Fp32Depthwise, old), {})
        module.__class__ = classes[old]
        changed += 1
    return changed


def is_depthwise(conv: nn.Conv2d) -> bool:
    """Whether each channel has a filter of its own."""
    return 1 < conv.groups == conv.in_channels
