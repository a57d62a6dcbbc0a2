"""Named settings of both COVID-19 tasks, and the one setting that their data set reads."""

from __future__ import annotations

from dataclasses import dataclass

from cxr.presets import DETECTOR_FROM_SCRATCH, Preset
from cxr.settings import DatasetSettings, setting


@dataclass(frozen=True)
class CovidSettings(DatasetSettings):
    """Which images of the studies are used."""

    cleaning: str = setting(
        "B",
        "images of COVID-19 studies that step 02 leaves out: B those without box beside a boxed "
        "one, A all without box of positive studies, C all of studies with several images",
        choices=("B", "A", "C"),
    )


# The 17th place's best single network (experiment 83) and its training, which the variants share.
# It did not clip gradients, so the bound is one that is never reached.
SEVENTEENTH = {
    "encoder": "tu-tf_efficientnetv2_l.in21k_ft_in1k",
    "decoder": "blocks",
    "mask_loss": "bce=1",
    "dropout": 0.0,
    "size": 640,
    "image_size": 448,
    "epochs": 10,
    "batch_size": 16,
    "folds": 5,
    "optimizer": "sgd",
    "lr": 1e-2,
    "weight_decay": 1e-5,
    "schedule": "cosine",
    "clip": 1e6,
    "freeze_epochs": 0,
    "augmentation": "seventeenth",
    "keep": 1,
    "tta": "flips",
}

# Hundreds of images and no pretrained weights, on two CPU cores. Dice is some ten times the
# cross-entropy of pixels, most of which are easy, so 1 : 1 weighs about as 1 : 10 does without it.
FROM_SCRATCH = {
    "encoder": "resnet18",
    "weights": "none",
    "decoder": "blocks",
    "mask_loss": "bce=1,dice=1",
    "aux_weight": 1.0,
    "dropout": 0.2,
    "optimizer": "adamw",
    "weight_decay": 0.02,
    "schedule": "cosine",
    "clip": 1.0,
    "ema": 0.99,
    "freeze_epochs": 0,
    "augmentation": "15",
    "batch_size": 8,
    "tta": "flip",
}

STUDY_PRESETS = {
    "paper": Preset("the 17th place's best single network, EfficientNetV2-L", SEVENTEENTH),
    # A member of its ensemble in the field's usual words: skips, and Dice beside cross-entropy.
    "unet": Preset(
        "a member of its ensemble: a U-Net of the same encoder",
        SEVENTEENTH | {"decoder": "unet", "mask_loss": "bce=1,dice=1", "dropout": 0.2},
    ),
    "small": Preset(
        "hundreds of images, two CPU cores, no pretrained weights",
        FROM_SCRATCH | {"size": 512, "image_size": 192, "epochs": 24, "lr": 1e-3},
    ),
    "demo": Preset(
        "synthetic studies, some minutes on two CPU cores",
        FROM_SCRATCH | {"size": 192, "image_size": 128, "epochs": 12, "lr": 2e-3},
    ),
}

# False boxes of low confidence cost next to no average precision, so more anchors are kept; the
# opacities of one lung seldom overlap, though more often than the RSNA's.
OPACITIES = {"nms_iou": 0.4, "candidate_floor": 0.001, "candidates": 300}

# The stored size and the number of folds are those of the task of the studies: copies are found on
# the stored pictures, and the folds must agree. A quarter of the RSNA's images, so twice its
# epochs. From scratch without level 2 as there: an opacity is a large part of a lung.
BOX_PRESETS = {
    "paper": Preset(
        "the RSNA task's network on the opacities",
        OPACITIES | {"size": 640, "folds": 5, "epochs": 24},
    ),
    "small": Preset(
        "hundreds of images, two CPU cores, no pretrained weights",
        DETECTOR_FROM_SCRATCH
        | OPACITIES
        | {"size": 512, "image_size": 256, "epochs": 50, "batch_size": 8, "lr": 4e-4},
    ),
    "demo": Preset(
        "synthetic studies, some minutes on two CPU cores",
        DETECTOR_FROM_SCRATCH
        | OPACITIES
        | {
            "size": 192,
            "image_size": 192,
            "epochs": 9,
            "batch_size": 8,
            "lr": 5e-4,
            "channels": 64,
            "head_convs": 2,
        },
    ),
}
