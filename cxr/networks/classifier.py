"""Encoder, a head for the class of the image and, in training, one that draws the findings.

`--decoder blocks` on `tu-tf_efficientnetv2_l.in21k_ft_in1k` is the 17th place's of SIIM COVID-19
2021.
"""

from __future__ import annotations

import torch.nn.functional as F
from segmentation_models_pytorch.base.initialization import initialize_decoder, initialize_head
from torch import Tensor, nn

from cxr.networks.decoders import DECODERS, Decoder, check_decoder
from cxr.networks.encoders import build_encoder, build_trunk, check_last_map, encoder_channels
from cxr.networks.heads import fill_bias
from cxr.networks.input_scale import input_scale
from cxr.networks.network import Network, check_side
from cxr.networks.unet import FIRST_LOGIT


class ImageClassifier(Network):
    """Gray images (B, 1, S, S), 0 ... 255 -> {'label', 'none', 'mask'}.

    label: logits (B, classes). none: logits (B,) that nothing is marked in the image, with
    `none_output` only. mask: logits (B, 1, S, S), with `auxiliary` only and until
    `prepare_for_prediction`. multilabel: each class has a probability of its own. Both heads read
    the encoder's last map; other decoders than `blocks` see its finer ones, too.
    load_weights=False leaves random weights for a checkpoint to replace.
    """

    cam_layer: nn.Module
    unstated_scale = None

    def __init__(
        self,
        encoder: str,
        weights: str,
        decoder: str,
        auxiliary: bool,
        classes: int,
        dropout: float,
        image_size: int,
        load_weights: bool = True,
        multilabel: bool = False,
        none_output: bool = False,
    ) -> None:
        super().__init__(image_size, weights != "none", input_scale(encoder))
        check_side(image_size)
        self.multilabel = multilabel
        self.classes = classes
        source = weights if load_weights else "none"
        if encoder.startswith("tu-") and decoder == "blocks":
            self.encoder = build_trunk(encoder, source)
        else:
            self.encoder = build_encoder(encoder, source)
        check_last_map(self.encoder, encoder, image_size)
        channels = encoder_channels(self.encoder)
        self.cam_layer = nn.Identity()
        self.label_head = nn.Sequential(nn.Dropout(dropout), nn.Linear(channels[-1], classes))

        self.decoder: Decoder | None = None
        self.mask_head: nn.Conv2d | None = None
        if auxiliary:
            self.decoder = DECODERS[decoder](channels)
            self.mask_head = nn.Conv2d(self.decoder.out_channels, 1, 1)
            initialize_decoder(self.decoder)
            initialize_head(self.mask_head)
            fill_bias(self.mask_head, FIRST_LOGIT)
        self.none_head: nn.Sequential | None = None
        check_decoder(self, image_size, encoder, decoder)
        if none_output:  # last, so that all other weights begin as they do without it
            self.none_head = nn.Sequential(nn.Dropout(dropout), nn.Linear(channels[-1], 1))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = list(self.encoder(self.normalise(images)))
        features[-1] = self.cam_layer(features[-1])
        pooled = features[-1].mean((2, 3))
        outputs = {"label": self.label_head(pooled).float()}
        if self.none_head is not None:
            outputs["none"] = self.none_head(pooled)[:, 0].float()
        if self.decoder is not None and self.mask_head is not None:
            mask = self.mask_head(self.decoder(features)).float()
            outputs["mask"] = F.interpolate(mask, size=images.shape[-2:], mode="bilinear")
        return outputs

    def probabilities(self, logits: Tensor) -> Tensor:
        """Of the classes, (B, C), from the output 'label'."""
        return logits.sigmoid() if self.multilabel else logits.softmax(-1)

    def prepare_for_prediction(self) -> None:
        """Leave out the auxiliary head, which only training needs."""
        self.decoder = None
        self.mask_head = None
