"""Named settings of the RSNA task: the paper's, and what two CPU cores can train."""

from cxr.presets import DETECTOR_FROM_SCRATCH, Preset

# From scratch without level 2, since the boxes are a third of the image high.
PRESETS = {
    "paper": Preset("the 2nd place's network, 512 pixels, pretrained weights", {}),
    "small": Preset(
        "hundreds of images, two CPU cores, no pretrained weights",
        DETECTOR_FROM_SCRATCH
        | {
            "image_size": 256,
            "epochs": 28,
            "batch_size": 8,
            "lr": 4e-4,
            "pretrain": 1600,
            "paste": 0.4,
            "dropout": 0.5,
            "augmentation": "20",
            "weight_decay": 0.05,
            "tta": "flip+scale",
        },
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
