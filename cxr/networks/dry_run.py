"""What a network's maps will be, found out when it is built: shapes only, nothing is computed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call


def dry_run(module: nn.Module, shape: tuple[int, ...]) -> Any:
    """What a module in evaluation mode gives for zeros of this shape, for its shapes.

    Raises whatever the module raises for such an input.
    """
    was_training = [child for child in module.modules() if child.training]
    module.eval()
    try:
        with torch.no_grad():
            return _run(module, shape)
    finally:
        for child in was_training:
            child.training = True


def _run(module: nn.Module, shape: tuple[int, ...]) -> Any:
    tensors: dict[str, Tensor] = dict(module.named_parameters()) | dict(module.named_buffers())
    on_meta = {name: tensor.to("meta") for name, tensor in tensors.items()}
    try:
        return functional_call(module, on_meta, (torch.zeros(shape, device="meta"),))
    except Exception:
        # Some modules make tensors on the CPU in between, which do not mix with shapes alone.
        device = next(iter(tensors.values())).device
        if device.type == "meta":
            raise
        return module(torch.zeros(shape, device=device))
