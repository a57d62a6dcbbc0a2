"""Named settings of the RSNA task: the paper's, and what two CPU cores can train."""

from cxr.presets import DETECTOR_FROM_SCRATCH, LITE, Preset

# Without level 2, since the boxes are a third of the image high.
HUNDREDS_OF_IMAGES = DETECTOR_FROM_SCRATCH | {
    "batch_size": 8,
    "lr": 4e-4,
    "paste": 0.4,
    "dropout": 0.5,
    "augmentation": "20",
    "weight_decay": 0.05,
}
PRESETS = {
    "paper": Preset("the 2nd place's network, 512 pixels, pretrained weights", {}),
    "small": Preset(
        "hundreds of images, two CPU cores, ImageNet weights that come along",
        HUNDREDS_OF_IMAGES
        | LITE
        | {
            "image_size": 384,
            "levels": "3-6",
            "frozen_stages": 2,
            "epochs": 14,
            "ema": 0.995,
        },
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
