"""Named settings of both RSNA tasks: the paper's, and what two CPU cores can train."""

from typing import Any

from cxr.presets import DETECTOR_FROM_SCRATCH, LITE, Preset

# Without level 2, since the boxes are a third of the image high.
HUNDREDS_OF_IMAGES = DETECTOR_FROM_SCRATCH | {
    "batch_size": 8,
    "lr": 4e-4,
    "paste": 0.4,
    "dropout": 0.5,
    "augmentation": "20",
    "weight_decay": 0.05,
    "parallel_folds": 2,
}
SMALL: dict[str, Any] = (
    HUNDREDS_OF_IMAGES
    | LITE
    | {"levels": "3-6", "frozen_stages": 2, "epochs": 14, "ema": 0.995, "simplest": True}
)
# The 1st place's simple version has one classifier, an Inception-ResNet-v2 at 256 pixels, trained
# with Adam on 15 times 8,000 images, about six of our epochs. It was pretrained on NIH ChestX-ray14
# and told opacities from all else; here it begins with ImageNet and learns all three classes.
CLASSIFIER: dict[str, Any] = {
    "mask_loss": "bce=1,dice=1",
    "decoder": "blocks",
    "aux_weight": 0.0,
    "label_smoothing": 0.02,
    "clip": 1.0,
    "freeze_epochs": 0,
    "tta": "flip",
}
CLASS_PRESETS = {
    "paper": Preset(
        "the classifier of the 1st place's simple version: Inception-ResNet-v2, 256 pixels",
        CLASSIFIER
        | {
            "encoder": "inceptionresnetv2",
            "image_size": 256,
            "batch_size": 16,
            "lr": 5e-5,
            "epochs": 6,
            "schedule": "cosine",
            "dropout": 0.0,
            "augmentation": "15",
        },
    ),
    "small": Preset(
        "hundreds of images, two CPU cores, ImageNet weights that come along",
        CLASSIFIER
        | LITE
        | {
            "image_size": 256,
            "epochs": 14,
            "batch_size": 8,
            "optimizer": "adamw",
            "weight_decay": 0.05,
            "schedule": "cosine",
            "lr": 4e-4,
            "ema": 0.995,
            "dropout": 0.5,
            "augmentation": "20",
            "frozen_stages": 2,
        },
    ),
    "demo": Preset(
        "synthetic X-rays, some minutes on two CPU cores",
        CLASSIFIER
        | {
            "encoder": "resnet18",
            "weights": "none",
            "size": 256,
            "image_size": 128,
            "epochs": 12,
            "batch_size": 8,
            "optimizer": "adamw",
            "weight_decay": 0.02,
            "schedule": "cosine",
            "lr": 2e-3,
            "ema": 0.99,
            "dropout": 0.2,
            "augmentation": "15",
        },
    ),
}
PRESETS = {
    "paper": Preset("the 2nd place's network, 512 pixels, pretrained weights", {}),
    "modern": Preset(
        "an encoder and a schedule of today, for a GPU; not trained yet",
        {
            "encoder": "tu-tf_efficientnetv2_s.in21k_ft_in1k",
            "levels": "3-7",
            "batch_size": 8,
            "optimizer": "adamw",
            "lr": 2e-4,
            "encoder_lr": 0.5,
            "weight_decay": 0.05,
            "schedule": "cosine",
            "clip": 1.0,
            "ema": 0.999,
            "dropout": 0.5,
            "head_norm": "group",
            "divide_by": "running",
            "global_weight": 0.3,
            "paste": 0.2,
        },
    ),
    "small": Preset(
        "hundreds of images, two CPU cores, ImageNet weights, drawn X-rays first",
        SMALL | {"image_size": 384, "pretrain": 800},
    ),
    "tiny": Preset(
        "the same in half an hour: smaller pictures, no drawn X-rays",
        SMALL | {"image_size": 320, "epochs": 10},
    ),
    "scratch": Preset(
        "hundreds of images, two CPU cores, random weights and drawn X-rays first",
        HUNDREDS_OF_IMAGES
        | {"image_size": 256, "epochs": 28, "pretrain": 1600, "tta": "flip+scale"},
    ),
    "demo": Preset(
        "synthetic X-rays, some minutes on two CPU cores",
        DETECTOR_FROM_SCRATCH
        | {
            "image_size": 192,
            "epochs": 7,
            "batch_size": 8,
            "lr": 5e-4,
            "channels": 64,
            "head_convs": 2,
            "size": 256,
        },
    ),
}
