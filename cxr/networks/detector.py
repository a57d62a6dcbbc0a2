"""What the networks of all detectors have in common: encoder, pyramid and three heads."""

from __future__ import annotations

import math
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from cxr.geometry.anchors import parse_levels
from cxr.networks.encoders import build_encoder, check_maps, encoder_channels
from cxr.networks.heads import (
    GlobalHead,
    build_tower,
    check_channels,
    fill_bias,
    flatten_maps,
    outputs_at,
    tower_reach,
)
from cxr.networks.input_scale import input_scale
from cxr.networks.network import Network, freeze_norms
from cxr.networks.pyramid import Pyramid
from cxr.system.errors import InputError

PRIOR = 0.01  # first probability of every location, Lin et al. 2017, section 4.1


class DetectorNetwork(Network):
    """Base of RetinaNet and FCOS, which look at A locations: anchors, or points.

    head_name: value of --head, by which `Detector` knows who understands the outputs.
    per_cell: locations of a cell of a pyramid's map. box_numbers: what the box head says of each.
    anchors: (A, 4) x1 y1 x2 y2 in network pixels, against which boxes are coded.
    positives: of an average image; the loss keeps it up to date.

    load_weights=False leaves random weights for a checkpoint to replace. `pretrained` decides
    whether batch-norm statistics stay frozen in training: small batches spoil good statistics, but
    random weights have none worth keeping.
    """

    head_name: ClassVar[str]
    per_cell: ClassVar[int]
    box_numbers: ClassVar[int]
    anchors: Tensor
    positives: Tensor

    def __init__(
        self,
        encoder: str,
        weights: str,
        levels: str,
        channels: int,
        head_convs: int,
        head_norm: str,
        dropout: float,
        box_classes: int,
        image_classes: int,
        image_size: int,
        load_weights: bool = True,
        header_numbers: int = 0,
    ) -> None:
        super().__init__(image_size, weights != "none", input_scale(encoder))
        self.levels = parse_levels(levels)
        check_levels(image_size, self.levels)
        check_channels(channels, head_norm)
        self.box_classes = box_classes
        self.reach = tower_reach(head_convs, head_norm, image_size)

        self.encoder = build_encoder(encoder, weights if load_weights else "none")
        check_maps(self.encoder, encoder, image_size, self.levels)
        widths = encoder_channels(self.encoder)
        self.pyramid = Pyramid(widths, channels, self.levels)
        scores = self.per_cell * box_classes
        self.score_head = build_tower(channels, head_convs, scores, head_norm, dropout)
        box_outputs = self.per_cell * self.box_numbers
        self.box_head = build_tower(channels, head_convs, box_outputs, head_norm)
        self.global_head = GlobalHead(widths[5], image_classes, dropout, header_numbers)
        fill_bias(cast(nn.Conv2d, self.score_head[-1]), -math.log((1 - PRIOR) / PRIOR))

        self.register_buffer("positives", torch.tensor(10.0))
        self.register_buffer("anchors", self.make_locations(), persistent=False)

    def make_locations(self) -> Tensor:
        """`anchors`, in the order of `flatten_maps`."""
        raise NotImplementedError

    def forward_scores(self, images: Tensor) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Of images uint8 (B, 1, S, S), 'scores': logits (B, A, K) of the box classes, 'category':
        logits (B, n) of the whole image; and the pyramid's maps."""
        # Contiguous in the format that the weights have, which an expanded tensor is not.
        features = self.encoder(self.normalise(images).contiguous())
        maps = self.pyramid(features)
        outputs = {
            "scores": flatten_maps([self.score_head(x) for x in maps], self.box_classes),
            "category": self.global_head(features[5]).float(),
        }
        return outputs, maps

    def add_headers(self, outputs: dict[str, Tensor], headers: Tensor | None) -> dict[str, Tensor]:
        """Outputs with what the headers (B, n) of the files say of the whole image, where this
        network has learned to read them."""
        if headers is None or self.global_head.of_header is None:
            return outputs
        category = outputs["category"]
        added = self.global_head.header_logits(headers.to(category.device, non_blocking=True))
        return outputs | {"category": category + added.float()}

    def box_outputs(self, maps: list[Tensor]) -> Tensor:
        """What the box head says of all locations, (B, A, box_numbers)."""
        return flatten_maps([self.box_head(x) for x in maps], self.box_numbers)

    def box_outputs_at(self, maps: list[Tensor], image: Tensor, location: Tensor) -> Tensor:
        """The same of locations (n,) of images (n,), both on the CPU: (n, box_numbers).

        The box head is a third of the network's work, nearly all of which this spares.
        """
        return outputs_at(
            self.box_head, maps, image, location, self.per_cell, self.box_numbers, self.reach
        )

    def train(self, mode: bool = True) -> DetectorNetwork:
        super().train(mode)
        if self.pretrained:
            freeze_norms(self.encoder)
        return self


def check_levels(image_size: int, levels: tuple[int, ...]) -> None:
    """Raises InputError for levels that do not exist, or an input that their strides do not divide.

    Such an input would break flips and anchors.
    """
    if levels[0] not in (2, 3, 4, 5) or not 5 <= levels[-1] <= 7:
        raise InputError(
            f"--levels {levels[0]}-{levels[-1]} cannot be built: start at 2 to 5 and end at 5 to 7"
        )
    stride = max(2 ** levels[-1], 32)
    if image_size % stride or image_size < 192:
        raise InputError(
            f"--image-size {image_size} does not work with levels up to {levels[-1]}: "
            f"take a multiple of {stride}, at least 192"
        )
