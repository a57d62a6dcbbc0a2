"""Encoder, decoder, a logit for each pixel and, where wanted, one for the image."""

import torch.nn.functional as F
from segmentation_models_pytorch.base.initialization import initialize_decoder, initialize_head
from torch import nn

from cxr.networks.decoders import DECODERS, aspp_neck
from cxr.networks.encoders import build_encoder
from cxr.networks.retinanet import IMAGENET_MEAN, IMAGENET_STD
from cxr.system.disk import InputError

START = -3.0  # random weights begin at 5 % for each pixel, else the first epochs only learn that most show nothing


def build_segmenter(config, load_weights=True):
    """Segmenter of the settings. load_weights=False leaves random weights for a checkpoint to replace."""
    model = Segmenter(
        config.encoder,
        config.weights if load_weights else "none",
        config.decoder,
        config.label_head,
        config.encoder_norm == "frozen",
        config.image_size,
    )
    model.pretrained = config.weights != "none"
    return model


class Segmenter(nn.Module):
    """Gray images (B, 1, S, S), 0..255 -> {'mask': logits (B, 1, S, S), 'label': logits (B,) if there is such a head}.

    S may be any multiple of 32, so crops and whole images go through the same network; `image_size` is the whole's.
    `pretrained` decides whether `frozen_norm` freezes anything: random weights have no statistics worth keeping.
    """

    def __init__(self, encoder, weights, decoder, label_head, frozen_norm, image_size):
        super().__init__()
        check_size(image_size)
        self.image_size, self.pretrained, self.frozen_norm = (
            image_size,
            weights != "none",
            frozen_norm,
        )
        self.encoder = build_encoder(encoder, weights)
        channels = list(self.encoder.out_channels)
        self.neck = nn.Identity()
        if decoder == "aspp":
            self.neck, channels[-1] = aspp_neck(channels[-1]), 256
        if decoder == "deeplab":
            dilate(self.encoder, encoder)
        self.decoder = DECODERS[decoder](channels)
        self.mask_head = nn.Conv2d(self.decoder.out_channels, 1, 1)
        self.label_head = make_label_head(label_head, channels[-1])
        initialize_decoder(self.neck)
        initialize_decoder(self.decoder)
        initialize_head(self.mask_head)
        if not self.pretrained:
            nn.init.constant_(self.mask_head.bias, START)

    def forward(self, images):
        x = (images / 255 - IMAGENET_MEAN) / IMAGENET_STD
        features = list(self.encoder(x.expand(-1, 3, -1, -1)))
        features[-1] = self.neck(features[-1])
        mask = self.mask_head(self.decoder(features)).float()
        outputs = {"mask": F.interpolate(mask, size=images.shape[-2:], mode="bilinear")}
        if self.label_head is not None:
            outputs["label"] = self.label_head(features[-1]).float()
        return outputs

    def train(self, mode=True):
        super().train(mode)
        if self.pretrained and self.frozen_norm:
            freeze_norms(self.encoder)
        return self

    def freeze_encoder(self, frozen):
        """Without gradients or with them; those of frozen batch norms never come back."""
        self.encoder.requires_grad_(not frozen)
        if self.pretrained and self.frozen_norm:
            for norm in norms(self.encoder):
                norm.requires_grad_(False)


def norms(module):
    return [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def freeze_norms(module):
    """Batch norms of a module keep to their statistics until its next `train()`."""
    for norm in norms(module):
        norm.eval()


def make_label_head(kind, channels):
    """Deepest features (B, C, h, w) -> logits (B,): 'linear' (4th place), or two layers without anything between, with
    C ('double', 2nd place) or 64 ('narrow', 5th place) numbers; None for 'none'."""
    hidden = {"none": None, "linear": 0, "double": channels, "narrow": 64}[kind]
    if hidden is None:
        return None
    layers = (
        [nn.Linear(channels, hidden), nn.Linear(hidden, 1)] if hidden else [nn.Linear(channels, 1)]
    )
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), *layers, nn.Flatten(0))


def dilate(encoder, name):
    """Stride 8 for the deepest features. Raises InputError where the encoder cannot."""
    try:
        encoder.make_dilated(8)
    except (ValueError, NotImplementedError, AttributeError) as error:
        raise InputError(
            f"--encoder {name} cannot be dilated for --decoder deeplab ({error}): choose a ResNet"
        ) from error


def check_size(image_size):
    if image_size % 32 or image_size < 64:
        raise InputError(
            f"--image-size {image_size} does not work: take a multiple of 32, at least 64"
        )
