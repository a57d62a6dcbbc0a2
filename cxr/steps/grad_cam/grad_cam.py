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


def energy_share_of_box(heat: np.ndarray, box: tuple[int, int, int, int]) -> float:
    """Share of the sum of a map (h, w) inside a box x1 y1 x2 y2 of whole pixels of the map.

    nan for an empty map. A map that does not depend on the place has there the share of the area.
    """
    x1, y1, x2, y2 = box
    return share_of_total(heat[y1:y2, x1:x2], heat)


def energy_share_of_mask(heat: np.ndarray, mask: np.ndarray) -> float:
    """The same inside a mask (h, w)."""
    return share_of_total(heat[mask.astype(bool)], heat)


def share_of_total(inside: np.ndarray, heat: np.ndarray) -> float:
    """Sum of the values inside over that of the whole map; nan where that is 0."""
    total = heat.sum(dtype=float)
    if total <= 0:
        return float("nan")
    return float(inside.sum(dtype=float) / total)
