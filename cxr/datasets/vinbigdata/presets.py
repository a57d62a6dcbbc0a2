"""Named settings of the VinBigData task, and the one setting that its data set reads."""

from __future__ import annotations

from dataclasses import dataclass

from cxr.presets import DETECTOR_FROM_SCRATCH, Preset
from cxr.settings import DatasetSettings, setting


@dataclass(frozen=True)
class VinBigDataSettings(DatasetSettings):
    """What becomes of the three readers' boxes."""

    readers: str = setting(
        "fused",
        "boxes that step 02 keeps: fused, those of all readers by weighted boxes fusion, or all",
        choices=("fused", "all"),
    )


# Findings may lie side by side, so boxes of a class are suppressed only where the competition would
# take them for the same finding; and there are fourteen classes, so fewer anchors of each are kept.
FOURTEEN_CLASSES = {"nms_iou": 0.4, "candidates": 300}
# With level 2 at small sizes, whose anchors begin at 16 pixels: calcifications would fit no other.
NARROW = {"levels": "2-5", "channels": 64, "head_convs": 2, "batch_size": 8}
SMALL_NETWORK = DETECTOR_FROM_SCRATCH | FOURTEEN_CLASSES | NARROW

LARGE = {"encoder": "resnet101", "levels": "3-7", "size": 1024, "image_size": 1024}

PRESETS = {
    "paper": Preset("RetinaNet-101, P3-P7, 1024 pixels", FOURTEEN_CLASSES | LARGE),
    "small": Preset(
        "hundreds of images, two CPU cores, no pretrained weights",
        SMALL_NETWORK | {"image_size": 320, "epochs": 50, "lr": 4e-4},
    ),
    "demo": Preset(
        "synthetic X-rays, some minutes on two CPU cores",
        SMALL_NETWORK | {"image_size": 256, "size": 256, "epochs": 9, "lr": 5e-4},
    ),
}
