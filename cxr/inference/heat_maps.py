"""Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391): what in a picture speaks for its class.

A classifier here returns a dictionary with the class logits (B, C) under `label`, and its
`cam_layer` is the module whose output is the last feature map, which the class head reads.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from cxr.geometry.crops import crop_at
from cxr.geometry.lung_box import paste


class ClassLogits(nn.Module):
    """The network as grad-cam wants it, which fails on dictionaries: images -> logits (B, C)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)["label"]


@dataclass(frozen=True, eq=False)
class HeatMaps:
    """Of B images: maps float32 (B, S, S) in 0 ... 1 and class probabilities (B, C)."""

    maps: np.ndarray
    probabilities: np.ndarray


def compute_heat_maps(
    network: Any, images: Tensor, classes: Iterable[int] | None = None
) -> HeatMaps:
    """Heat maps of images (B, 1, S, S), 0 ... 255, in network pixels.

    A map is of the given class (B,) of its image, by default of the one that the network calls it.
    Computed in fp32, with gradients, which come from the images, so that frozen weights do not
    matter.
    """
    images = images.float().requires_grad_()
    targets = None
    if classes is not None:
        targets = [ClassifierOutputTarget(int(label)) for label in classes]
    logits = ClassLogits(network).eval()
    with (
        torch.enable_grad(),
        torch.autocast(images.device.type, enabled=False),
        GradCAM(model=logits, target_layers=[network.cam_layer]) as cam,
    ):
        maps = cam(input_tensor=images, targets=targets)
        probabilities = cam.outputs.detach().softmax(-1).cpu().numpy()
    return HeatMaps(maps.astype(np.float32), probabilities)


def put_back(
    heat: np.ndarray, crop: tuple[int, int, int, int] | None, width: int, height: int, side: int
) -> np.ndarray:
    """A map of a network's input on the whole stored picture (side, side); 0 outside of a crop.

    crop: x1 y1 x2 y2 of the width x height original that the network saw; None: all of it.
    """
    place = (0, 0, side, side)
    if crop is not None:
        place = crop_at(crop, width, height, side)
    return paste(heat, place, side, side)
