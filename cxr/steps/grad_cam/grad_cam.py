"""Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391): which places of a picture speak for the class that it is called.

A classifier here returns a dictionary with the class logits (B, C) under `label`, and its `cam_layer` is the module
whose output is the last feature map, which the class head reads.
"""

import numpy as np
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn


class ClassLogits(nn.Module):
    """The network as grad-cam wants it, which fails on dictionaries: images -> class logits (B, C)."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return self.network(images)["label"]


def heat_maps(network, images, classes=None):
    """(maps float32 (B, S, S) in 0 ... 1, probabilities (B, C)) of images (B, 1, S, S), 0 ... 255.

    The map is of the given class (B,) of each image, by default of the one that the network calls it. In fp32, with
    gradients, which come from the images, so that frozen weights do not matter.
    """
    images = images.float().requires_grad_()
    targets = None if classes is None else [ClassifierOutputTarget(int(k)) for k in classes]
    with torch.enable_grad(), torch.autocast(images.device.type, enabled=False):
        with GradCAM(model=ClassLogits(network).eval(), target_layers=[network.cam_layer]) as cam:
            maps = cam(input_tensor=images, targets=targets)
            probabilities = cam.outputs.detach().softmax(-1).cpu().numpy()
    return maps.astype(np.float32), probabilities


def energy_share(heat, where):
    """Share of the sum of a map (h, w) inside a box x1 y1 x2 y2 of whole pixels or a mask (h, w); nan for an empty map.

    A map that knows nothing of the place has there the share of the area.
    """
    if np.shape(where) == (4,):
        x1, y1, x2, y2 = where
        inside = heat[y1:y2, x1:x2].sum(dtype=float)
    else:
        inside = heat[np.asarray(where, bool)].sum(dtype=float)
    total = heat.sum(dtype=float)
    return float(inside / total) if total > 0 else float("nan")
