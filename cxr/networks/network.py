"""What all networks have in common: how images come in, what training and prediction may ask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cxr.networks.input_scale import IMAGENET_SCALE, InputScale
from cxr.system.errors import InputError

STRIDE = 32  # of the coarsest map; sides of images are multiples of it


@runtime_checkable
class Staged(Protocol):
    """An encoder that puts out its last map alone, and can be asked for those of its stages."""

    def stage_maps(self, x: Tensor) -> list[Tensor]: ...


class Network(nn.Module):
    """Base of the detectors, U-Nets and classifiers; a subclass builds `encoder`.

    image_size: side of the whole image in network pixels.
    pretrained: the encoder started from weights worth keeping, which decides what is frozen.
    input_mean, input_std: of gray values in 0 ... 1, as the encoder's weights expect them.
    input_channels: how often the encoder reads the gray image; see `fused.read_gray`.
    cam_layer: puts out the map whose mean the class head reads; None where no class is read from
    one map. Grad-CAM looks there.
    first_stages: parameters of the encoder that never learn, see `freeze_stages`.
    """

    encoder: nn.Module
    # What checkpoints mean that do not say in which scale their weights read gray values; None: the
    # encoder's own.
    unstated_scale: ClassVar[InputScale | None] = IMAGENET_SCALE

    def __init__(
        self, image_size: int, pretrained: bool, scale: InputScale = IMAGENET_SCALE
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.pretrained = pretrained
        self.fold = 0  # whose images it has not learned; set where a checkpoint is loaded
        self.input_mean = scale.mean
        self.input_std = scale.std
        self.input_channels = 3
        self.cam_layer: nn.Module | None = None
        self.first_stages: list[nn.Parameter] = []

    def normalise(self, images: Tensor) -> Tensor:
        """Gray images (B, 1, S, S), 0 ... 255 -> of the encoder, (B, input_channels, S, S)."""
        normalised = (images / 255 - self.input_mean) / self.input_std
        return normalised.expand(-1, self.input_channels, -1, -1)

    @property
    def scale(self) -> InputScale:
        """How gray values are read, as a checkpoint keeps it."""
        return InputScale(self.input_mean, self.input_std)

    def restore_scale(self, stored: Sequence[float] | None) -> None:
        """Read gray values as a checkpoint's weights do: (mean, deviation), None if unstated."""
        scale = self.unstated_scale if stored is None else InputScale(*stored)
        if scale is not None:
            self.input_mean = scale.mean
            self.input_std = scale.std

    def freeze_encoder(self, frozen: bool) -> None:
        """Without gradients or with them; the first stages never have any."""
        self.encoder.requires_grad_(not frozen)
        for parameter in self.first_stages:
            parameter.requires_grad_(False)

    def freeze_stages(self, stages: int) -> None:
        """Let all that makes the map at stride 2^stages, and those before, keep its weights."""
        self.first_stages = stage_parameters(self.encoder, self.image_size, stages)
        for parameter in self.first_stages:
            parameter.requires_grad_(False)

    def prepare_for_prediction(self) -> None:
        """Leave out what only training needs. Nothing here."""


def batch_norms(module: nn.Module) -> list[_BatchNorm]:
    return [child for child in module.modules() if isinstance(child, _BatchNorm)]


def stage_parameters(encoder: nn.Module, image_size: int, stages: int) -> list[nn.Parameter]:
    """Parameters on which an encoder's map at stride 2^stages depends.

    Raises InputError where the encoder has no such map.
    """
    was_training = encoder.training
    encoder.eval()  # no statistics are to be moved
    image = torch.zeros(1, 3, image_size, image_size, device=next(encoder.parameters()).device)
    with torch.enable_grad():
        maps = encoder.stage_maps(image) if isinstance(encoder, Staged) else encoder(image)
        if stages >= len(maps):
            raise InputError(f"--frozen-stages {stages}: the encoder has {len(maps) - 1} stages")
        parameters = [x for x in encoder.parameters() if x.requires_grad]
        gradients = torch.autograd.grad(maps[stages].sum(), parameters, allow_unused=True)
    encoder.train(was_training)
    pairs = zip(parameters, gradients, strict=True)
    return [parameter for parameter, gradient in pairs if gradient is not None]


def freeze_norms(module: nn.Module) -> None:
    """Batch norms of a module keep to their statistics until its next `train()`."""
    for norm in batch_norms(module):
        norm.eval()


def check_side(image_size: int) -> None:
    """Raises InputError for a size that five halvings do not leave whole."""
    if image_size % STRIDE or image_size < 64:
        raise InputError(
            f"--image-size {image_size} does not work: take a multiple of 32, at least 64"
        )
