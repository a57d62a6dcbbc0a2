"""Encoder, a head for the class of the image and, for training only, one that draws where the findings are.

`--decoder blocks` on `tu-tf_efficientnetv2_l.in21k_ft_in1k` is the 17th place's of SIIM COVID-19 2021.
"""

import timm
import torch.nn.functional as F
from segmentation_models_pytorch.base.initialization import initialize_decoder, initialize_head
from torch import nn

from cxr.networks.decoders import DECODERS
from cxr.networks.encoders import build_encoder, build_trunk
from cxr.networks.retinanet import IMAGENET_MEAN, IMAGENET_STD
from cxr.networks.unet import START, check_size


def build_classifier(config, classes, load_weights=True):
    """Classifier of the settings. load_weights=False leaves random weights for a checkpoint to replace."""
    model = Classifier(
        config.encoder,
        config.weights if load_weights else "none",
        config.decoder,
        config.aux_weight > 0,
        classes,
        config.dropout,
        config.image_size,
    )
    model.pretrained = config.weights != "none"
    return model


class Classifier(nn.Module):
    """Gray images (B, 1, S, S), 0..255 -> {'label': logits (B, classes), 'mask': logits (B, 1, S, S)}.

    Both heads read the encoder's last map; other decoders than `blocks` see its finer ones, too. There is no 'mask'
    without `auxiliary` or after `drop_auxiliary`. `cam_layer` puts out the map whose mean the class head reads.
    """

    def __init__(self, encoder, weights, decoder, auxiliary, classes, dropout, image_size):
        super().__init__()
        check_size(image_size)
        self.image_size, self.pretrained = image_size, weights != "none"
        self.mean, self.std = gray_constants(encoder)
        whole = encoder.startswith("tu-") and decoder == "blocks"
        self.encoder = (build_trunk if whole else build_encoder)(encoder, weights)
        channels = list(self.encoder.out_channels)
        self.cam_layer = nn.Identity()
        self.label_head = nn.Sequential(nn.Dropout(dropout), nn.Linear(channels[-1], classes))
        self.decoder = self.mask_head = None
        if auxiliary:
            self.decoder = DECODERS[decoder](channels)
            self.mask_head = nn.Conv2d(self.decoder.out_channels, 1, 1)
            initialize_decoder(self.decoder)
            initialize_head(self.mask_head)
            nn.init.constant_(self.mask_head.bias, START)

    def forward(self, images):
        x = (images / 255 - self.mean) / self.std
        features = list(self.encoder(x.expand(-1, 3, -1, -1)))
        features[-1] = self.cam_layer(features[-1])
        outputs = {"label": self.label_head(features[-1].mean((2, 3))).float()}
        if self.decoder is not None:
            mask = self.mask_head(self.decoder(features)).float()
            outputs["mask"] = F.interpolate(mask, size=images.shape[-2:], mode="bilinear")
        return outputs

    def drop_auxiliary(self):
        """Leave out what only training needs."""
        self.decoder = self.mask_head = None

    def freeze_encoder(self, frozen):
        self.encoder.requires_grad_(not frozen)


def gray_constants(encoder):
    """(mean, standard deviation) of gray values in 0..1 that an encoder's ImageNet weights expect."""
    settings = (
        timm.get_pretrained_cfg(encoder.removeprefix("tu-")) if encoder.startswith("tu-") else None
    )
    if settings is None:
        return IMAGENET_MEAN, IMAGENET_STD
    return sum(settings.mean) / 3, sum(settings.std) / 3
