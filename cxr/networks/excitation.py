"""Squeeze and excitation of a CPU training in bf16, without copies of the maps.

Autocast averages a map in fp32, so it is copied, and its gradient comes back in another memory
format, in which adding it to the other one is slow: an eighth of a step of SE-ResNeXt-101. Here the
map is read as it is, and both gradients are added in one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cxr.networks.fused import put_before

Gate = Callable[[Tensor], Tensor]  # of the means (B, C, 1, 1) of a map: the shares of its channels


class Excitation(torch.autograd.Function):
    """excite() with a gradient of its own: that of a map is share * gradient + that of its mean."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Gate, *weights: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False), torch.enable_grad():
            means = x.detach().mean((2, 3), keepdim=True).float().requires_grad_()
            shares = gate(means)
        ctx.save_for_backward(x, *weights)
        ctx.small = (means, shares)  # (B, C, 1, 1), with the graph between them
        return x * shares.detach().to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        x, *weights = ctx.saved_tensors
        means, shares = ctx.small
        of_shares = (gradient * x).sum((2, 3), keepdim=True, dtype=shares.dtype)
        of_means, *of_weights = torch.autograd.grad(shares, (means, *weights), of_shares)
        of_cell = (of_means / x[0, 0].numel()).to(x.dtype)
        of_map = torch.addcmul(of_cell, gradient, shares.detach().to(x.dtype))
        return of_map, None, *of_weights


def excite(x: Tensor, gate: Gate, weights: Sequence[nn.Parameter]) -> Tensor:
    """A map (B, C, h, w) times gate(its means). weights: all that gate computes with."""
    learning = [weight for weight in weights if weight.requires_grad]
    return Excitation.apply(x, gate, *learning)


class FastSqueeze:
    """Put before the class of an SENet's block: `Excitation` where a gradient is wanted."""

    def forward(self, x: Tensor) -> Tensor:
        block: Any = self
        if not x.requires_grad:
            return super().forward(x)  # type: ignore[misc]

        def gate(means: Tensor) -> Tensor:
            return block.sigmoid(block.fc2(block.relu(block.fc1(means))))

        return excite(x, gate, list(block.parameters()))


class FastDoubleSqueeze:
    """The same for the block of a decoder that also weighs the places of a map (scSE)."""

    def forward(self, x: Tensor) -> Tensor:
        block: Any = self
        if not x.requires_grad:
            return super().forward(x)  # type: ignore[misc]
        gate = block.cSE[1:]  # without its average
        return excite(x, gate, list(gate.parameters())) + x * block.sSE(x)


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
