"""The network as training calls it: compiled, and joined with those of the other processes."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cxr.methods.base import Method
from cxr.networks.network import Network
from cxr.settings import Settings
from cxr.system.runtime import Runtime


class JoinedNetwork:
    """Wraps a model for training, anew whenever other parameters learn.

    DistributedDataParallel waits for a gradient of each parameter that learned when it was made, so
    it cannot be kept while the encoder is frozen and later learns.
    """

    def __init__(
        self, model: Network, method: Method, settings: Settings, runtime: Runtime
    ) -> None:
        self.model = model
        self.method = method
        self.settings = settings
        self.runtime = runtime
        self.compiled: nn.Module = model
        if settings.machine.compile:
            self.compiled = torch.compile(model)  # type: ignore[assignment]
        self.learning: list[bool] = []
        self.wrapped: nn.Module | None = None

    def now(self) -> nn.Module:
        """What a step calls, for the parameters that learn at present."""
        if self.runtime.world == 1:
            return self.compiled
        learning = [parameter.requires_grad for parameter in self.model.parameters()]
        if self.wrapped is None or learning != self.learning:
            self.learning = learning
            self.wrapped = None  # its hooks go before others come
            search = bool(idle_parameters(self.model, self.method, self.settings))
            self.wrapped = DistributedDataParallel(self.compiled, find_unused_parameters=search)
        return self.wrapped


def idle_parameters(model: Network, method: Method, settings: Settings) -> list[str]:
    """Names of the parameters that learn and get no gradient from any output the loss reads.

    Where there are some, each step must search for them, which costs a pass over the graph. No
    preset has one; a head whose loss is left out has, or an encoder with layers that no map needs.
    """
    was_training = model.training
    model.eval()  # no statistics are to be moved, and nothing is drawn
    learning = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            learning[name] = parameter
    side = model.image_size
    device = next(model.parameters()).device
    with torch.enable_grad():
        outputs = model(torch.zeros(1, 1, side, side, device=device))
        for name in method.idle_outputs(settings):
            outputs.pop(name, None)
        total = torch.stack([values.float().sum() for values in outputs.values()]).sum()
        gradients = torch.autograd.grad(total, list(learning.values()), allow_unused=True)
    model.train(was_training)
    pairs = zip(learning, gradients, strict=True)
    return [name for name, gradient in pairs if gradient is None]
