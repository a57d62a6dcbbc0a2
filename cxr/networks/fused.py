"""What an encoder computes twice, computed once: the same outputs in fewer passes.

Batch norms are folded into the convolutions before them, in prediction once for all, in training in
each step, where their statistics are frozen; and the first convolutions read the gray image itself
instead of three copies of it.
"""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cxr.networks.network import Network

MOST_CHANGE = 1e-3  # of an output, as a share of its largest value: rounding moves it by less


class Watch:
    """Finds out which batch norm reads which convolution, while an image goes through a network.

    A pair is certain only if each of the two is called once; whether something else reads the
    convolution's output, too, is not seen here.
    """

    def __init__(self, network: nn.Module) -> None:
        self.names = {module: name for name, module in network.named_modules()}
        self.made: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # by the address of the output
        self.pairs: list[tuple[nn.Conv2d, _BatchNorm]] = []
        self.calls: dict[nn.Module, int] = {}
        self.handles: list[Any] = []
        for module in self.names:
            if isinstance(module, nn.Conv2d):
                self.handles.append(module.register_forward_hook(self.after_convolution))
            elif isinstance(module, _BatchNorm):
                self.handles.append(module.register_forward_pre_hook(self.before_norm))

    def after_convolution(self, module: Any, _: Any, output: Tensor) -> None:
        self.calls[module] = self.calls.get(module, 0) + 1
        self.made[id(output)] = (module, output)

    def before_norm(self, module: Any, inputs: tuple[Tensor, ...]) -> None:
        self.calls[module] = self.calls.get(module, 0) + 1
        made = self.made.pop(id(inputs[0]), None)  # so that not all maps are held at a time
        if made is not None:
            self.pairs.append((made[0], module))

    def finish(self) -> list[tuple[nn.Conv2d, _BatchNorm]]:
        """The certain pairs."""
        for handle in self.handles:
            handle.remove()
        certain = []
        for conv, norm in self.pairs:
            if self.calls[conv] == self.calls[norm] == 1:
                certain.append((conv, norm))
        return certain


def gray_image(network: Network) -> Tensor:
    """(1, 1, S, S), 0 ... 255, from black to white."""
    side = network.image_size
    device = next(network.parameters()).device
    return torch.linspace(0, 255, side * side, device=device).reshape(1, 1, side, side)


@torch.inference_mode(False)  # weights made in that mode could be used in no other
@torch.no_grad()
def fuse_norms(network: Network) -> int:
    """Fold what can be folded, in place; returns how many. The network must be in evaluation mode.

    Outputs of a gray image are compared before and after: where they differ by more than rounding,
    such as where something else reads a convolution, too, all is put back.
    """
    image = gray_image(network)
    watch = Watch(network)
    before = network(image)
    pairs = watch.finish()
    old: dict[str, nn.Module] = {}
    for conv, norm in pairs:
        conv_name = watch.names[conv]
        norm_name = watch.names[norm]
        old |= {conv_name: conv, norm_name: norm}
        network.set_submodule(conv_name, fuse_conv_bn_eval(conv, norm))
        network.set_submodule(norm_name, rest_of(norm))
    after = network(image)
    if any(differs(after[name], before[name]) for name in before):
        for name, module in old.items():
            network.set_submodule(name, module)
        return 0
    return len(pairs)


@torch.inference_mode(False)
@torch.no_grad()
def read_gray(network: Network) -> bool:
    """Let the encoder read one channel, in place: weights of three equal channels can be added up.

    Returns whether that was done. As with `fuse_norms` nothing is changed where the outputs would
    be others, such as where an encoder does more with its image than convolve it.
    """
    first = [module for module in network.encoder.modules() if reads_colours(module)]
    image = gray_image(network)
    before = network(image)
    old = [conv.weight for conv in first]
    network.input_channels = 1
    for conv in first:
        set_weight(conv, conv.weight.sum(1, keepdim=True))
    try:
        after = network(image)
        is_same = not any(differs(after[name], before[name]) for name in before)
    except RuntimeError:  # something else wants three channels
        is_same = False
    if not is_same:
        network.input_channels = 3
        for conv, weight in zip(first, old, strict=True):
            set_weight(conv, weight)
    return is_same


def reads_colours(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    return isinstance(module, nn.Conv2d) and module.in_channels == 3 and module.groups == 1


def set_weight(conv: nn.Conv2d, weight: Tensor) -> None:
    conv.weight = nn.Parameter(weight)
    conv.in_channels = weight.shape[1]


def rest_of(norm: _BatchNorm) -> nn.Module:
    """What a batch norm does beside normalising: timm's have an activation in them."""
    parts = [getattr(norm, name) for name in ("drop", "act") if hasattr(norm, name)]
    if not parts:
        return nn.Identity()
    return nn.Sequential(*parts).eval()


def differs(values: Tensor, expected: Tensor) -> bool:
    """Whether outputs are further apart than rounding moves them."""
    size = max(1.0, float(expected.abs().max()))
    distance = float((values.float() - expected.float()).abs().max())
    return not distance <= MOST_CHANGE * size


class FoldedConv:
    """Put before a convolution's class: it does what the batch norm behind it would do, too.

    Only while that keeps to its statistics. Weights, names and a `state_dict` stay as they are, and
    both learn as before, since the product of their weights is made anew in each step.
    """

    def forward(self, x: Tensor) -> Tensor:
        conv: Any = self
        norm = conv.folded_norm[0]
        if norm.training:
            return super().forward(x)  # type: ignore[misc]
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        bias = norm.bias - norm.running_mean * scale
        if conv.bias is not None:
            bias = bias + conv.bias * scale
        return conv._conv_forward(x, conv.weight * scale[:, None, None, None], bias)


class FoldedNorm:
    """Put before a batch norm's class: nothing is left to do where the convolution has done it."""

    def forward(self, x: Tensor) -> Tensor:
        norm: Any = self
        if norm.training:
            return super().forward(x)  # type: ignore[misc]
        for name in ("drop", "act"):
            if hasattr(norm, name):
                x = getattr(norm, name)(x)
        return x


def fold_frozen_norms(network: Network) -> int:
    """Let convolutions do the work of batch norms that keep to their statistics, in place.

    Returns how many. As with `fuse_norms` nothing is changed where the outputs would be others.
    """
    was_training = network.training
    network.eval()
    with torch.no_grad():
        image = gray_image(network)
        watch = Watch(network)
        before = network(image)
        old: list[tuple[nn.Module, type[nn.Module]]] = []
        for conv, norm in watch.finish():
            if norm.affine and has_plain_forward(conv):
                old.append((conv, type(conv)))
                old.append((norm, type(norm)))
                # A tuple, so that it is no part of the convolution.
                conv.folded_norm = (norm,)  # type: ignore[assignment]
                put_before(FoldedConv, conv)
                put_before(FoldedNorm, norm)
        after = network(image)
        if any(differs(after[name], before[name]) for name in before):
            for module, its_class in old:
                module.__class__ = its_class
            old = []
    network.train(was_training)
    return len(old) // 2


def has_plain_forward(conv: nn.Conv2d) -> bool:
    """Whether a convolution is one of PyTorch's own, without padding of its own."""
    return type(conv).forward is nn.Conv2d.forward


def put_before(mixin: type, module: nn.Module) -> None:
    """Change the class of a module, whose own comes second."""
    old = type(module)
    module.__class__ = type(f"{mixin.__name__}{old.__name__}", (mixin, old), {})
