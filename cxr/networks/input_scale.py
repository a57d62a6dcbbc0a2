"""In which scale an encoder's ImageNet weights expect gray values."""

from __future__ import annotations

from typing import NamedTuple

import timm


class InputScale(NamedTuple):
    """Mean and standard deviation of gray values in 0 ... 1 that an encoder's weights expect."""

    mean: float
    std: float


# The mean over the three channels of the usual constants, (0.485, 0.456, 0.406) and (0.229, 0.224,
# 0.225).
IMAGENET_SCALE = InputScale(0.449, 0.226)
INCEPTION_SCALE = InputScale(0.5, 0.5)
# Where pretrainedmodels, from which segmentation-models-pytorch took the weights, says others:
# (124, 117, 104) / 255, and 1 / (0.0167 * 255).
DPN_SCALE = InputScale(0.45098, 0.234825)
SCALES = {
    "inceptionresnetv2": INCEPTION_SCALE,
    "inceptionv4": INCEPTION_SCALE,
    "xception": INCEPTION_SCALE,
    "pnasnet5large": INCEPTION_SCALE,
    "nasnetamobile": INCEPTION_SCALE,
    "dpn": DPN_SCALE,
    "timm-tf_efficientnet_lite": INCEPTION_SCALE,
}  # by the beginning of the name


def input_scale(name: str) -> InputScale:
    """What an encoder's ImageNet weights expect of gray values, the mean over the channels."""
    if name.startswith("tu-"):
        settings = timm.get_pretrained_cfg(name.removeprefix("tu-"))
        if settings is None:
            return IMAGENET_SCALE
        return InputScale(round(sum(settings.mean) / 3, 6), round(sum(settings.std) / 3, 6))
    for beginning, scale in SCALES.items():
        if name.startswith(beginning):
            return scale
    return IMAGENET_SCALE
