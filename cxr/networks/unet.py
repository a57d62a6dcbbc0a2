"""Encoder, decoder, a logit for each pixel and, where wanted, one for the image."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from segmentation_models_pytorch.base.initialization import initialize_decoder, initialize_head
from torch import Tensor, nn

from cxr.networks.decoders import DECODERS, aspp_neck, check_decoder
from cxr.networks.encoders import build_encoder, encoder_channels, encoder_maps
from cxr.networks.heads import fill_bias
from cxr.networks.input_scale import input_scale
from cxr.networks.network import Network, batch_norms, check_side, freeze_norms
from cxr.system.errors import InputError

# Random weights begin at 5 % for each pixel, else the first epochs only learn that most show
# nothing.
FIRST_LOGIT = -3.0


class UNet(Network):
    """Gray images (B, 1, S, S), 0 ... 255 -> {'mask': logits (B, 1, S, S), 'label': logits (B,)}.

    There is no 'label' with label_head="none". S may be any multiple of 32, so crops and whole
    images go through the same network; `image_size` is the whole's side.

    load_weights=False leaves random weights for a checkpoint to replace. `pretrained` decides
    whether `frozen_norm` freezes anything: random weights have no statistics worth keeping.
    """

    def __init__(
        self,
        encoder: str,
        weights: str,
        decoder: str,
        label_head: str,
        frozen_norm: bool,
        image_size: int,
        load_weights: bool = True,
    ) -> None:
        super().__init__(image_size, weights != "none", input_scale(encoder))
        check_side(image_size)
        self.frozen_norm = frozen_norm
        source = weights if load_weights else "none"
        self.encoder = build_encoder(encoder, source)
        encoder_maps(self.encoder, encoder, image_size)  # raises where it cannot read such images
        channels = encoder_channels(self.encoder)

        self.neck: nn.Module = nn.Identity()
        if decoder == "aspp":
            self.neck = aspp_neck(channels[-1])
            channels[-1] = 256
        if decoder == "deeplab":
            dilate_encoder(self.encoder, encoder)
        self.decoder = DECODERS[decoder](channels)
        self.mask_head = nn.Conv2d(self.decoder.out_channels, 1, 1)
        self.label_head = build_label_head(label_head, channels[-1])

        initialize_decoder(self.neck)
        initialize_decoder(self.decoder)
        initialize_head(self.mask_head)
        if source == "none":
            fill_bias(self.mask_head, FIRST_LOGIT)
        check_decoder(self, image_size, encoder, decoder)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = list(self.encoder(self.normalise(images)))
        features[-1] = self.neck(features[-1])
        mask = self.mask_head(self.decoder(features)).float()
        outputs = {"mask": F.interpolate(mask, size=images.shape[-2:], mode="bilinear")}
        if self.label_head is not None:
            outputs["label"] = self.label_head(features[-1]).float()
        return outputs

    def train(self, mode: bool = True) -> UNet:
        super().train(mode)
        if self.pretrained and self.frozen_norm:
            freeze_norms(self.encoder)
        return self

    def freeze_encoder(self, frozen: bool) -> None:
        """Without gradients or with them; those of frozen batch norms never come back."""
        super().freeze_encoder(frozen)
        if self.pretrained and self.frozen_norm:
            for norm in batch_norms(self.encoder):
                norm.requires_grad_(False)


def build_label_head(name: str, channels: int) -> nn.Sequential | None:
    """Deepest features (B, C, h, w) -> logits (B,), or None.

    'linear': one layer (4th place). 'double' (2nd place) and 'narrow' (5th place): two layers
    without anything between, with C and with 64 numbers.
    """
    if name == "none":
        return None
    if name == "linear":
        layers = [nn.Linear(channels, 1)]
    else:
        hidden = {"double": channels, "narrow": 64}[name]
        layers = [nn.Linear(channels, hidden), nn.Linear(hidden, 1)]
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), *layers, nn.Flatten(0))


def dilate_encoder(encoder: Any, name: str) -> None:
    """Stride 8 for the deepest features. Raises InputError where the encoder cannot."""
    try:
        encoder.make_dilated(8)
    except (ValueError, NotImplementedError, AttributeError) as error:
        raise InputError(
            f"--encoder {name} cannot be dilated for --decoder deeplab ({error}): choose a ResNet"
        ) from error
