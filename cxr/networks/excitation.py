"""Squeeze and excitation of a CPU training in bf16, without copies of the maps.

Autocast averages a map in fp32, so it is copied, and its gradient comes back in another memory
format, in which adding it to the other one is slow. Here the map is read as it is, and both
gradients are added in one pass.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cxr.networks.fused import put_before


class Excitation(torch.autograd.Function):
    """A map (B, C, h, w) times sigmoid(W2 relu(W1 m + b1) + b2), where m are its means.

    weights: W1 (D, C, 1, 1), b1 (D,), W2 (C, D, 1, 1), b2 (C,), of two convolutions.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights: Tensor) -> Tensor:
        down, down_bias, up, up_bias = weights
        with torch.autocast(x.device.type, enabled=False):
            means = x.mean((2, 3)).to(down.dtype)
            hidden = F.relu(F.linear(means, down.flatten(1), down_bias))
            shares = torch.sigmoid(F.linear(hidden, up.flatten(1), up_bias))
            ctx.save_for_backward(x, means, hidden, shares, down, up)
            return x * on_map(shares, x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        (gradient,) = gradients
        x, means, hidden, shares, down, up = ctx.saved_tensors
        of_shares = (gradient * x).sum((2, 3), dtype=shares.dtype)
        of_up = of_shares * shares * (1 - shares)  # before the sigmoid
        of_down = (of_up @ up.flatten(1)) * (hidden > 0)  # before the ReLU
        of_means = of_down @ down.flatten(1) / x[0, 0].numel()
        return (
            torch.addcmul(on_map(of_means, x), gradient, on_map(shares, x)),
            (of_down.t() @ means).view_as(down),
            of_down.sum(0),
            (of_up.t() @ hidden).view_as(up),
            of_up.sum(0),
        )


def on_map(values: Tensor, x: Tensor) -> Tensor:
    """Values (B, C) as (B, C, 1, 1) in the number format of a map."""
    return values.to(x.dtype)[:, :, None, None]


def excite(x: Tensor, down: nn.Conv2d, up: nn.Conv2d) -> Tensor:
    """`Excitation` with the weights of a block's two convolutions, which have biases."""
    return Excitation.apply(x, down.weight, down.bias, up.weight, up.bias)


class FastSqueeze:
    """Put before the class of an SENet's block: `Excitation` where a gradient is wanted."""

    def forward(self, x: Tensor) -> Tensor:
        block: Any = self
        if not x.requires_grad:
            return super().forward(x)  # type: ignore[misc]
        return excite(x, block.fc1, block.fc2)


class FastDoubleSqueeze:
    """The same for the block of a decoder that also weighs the places of a map (scSE)."""

    def forward(self, x: Tensor) -> Tensor:
        block: Any = self
        if not x.requires_grad:
            return super().forward(x)  # type: ignore[misc]
        _, down, _, up, _ = block.cSE
        return excite(x, down, up) + x * block.sSE(x)


# By the names of the parts that a block has, since the packages that build it have moved it about.
FASTER = {
    ("avg_pool", "fc1", "fc2", "relu", "sigmoid"): FastSqueeze,
    ("cSE", "sSE"): FastDoubleSqueeze,
}


def train_excitation_in_one_pass(network: nn.Module) -> int:
    """Change the class of a network's blocks of squeeze and excitation, in place.

    Returns their number. Weights, names and a `state_dict` stay as they are.
    """
    changed = 0
    for module in network.modules():
        parts = tuple(sorted(name for name, _ in module.named_children()))
        if parts in FASTER:
            put_before(FASTER[parts], module)
            changed += 1
    return changed
