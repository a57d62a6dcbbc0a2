"""Named settings of the lungs task."""

from cxr.presets import Preset

# Some dozens of images and no pretrained weights: large warps, and the average of the weights.
FROM_SCRATCH = {
    "encoder": "resnet18",
    "weights": "none",
    "decoder": "unet",
    "mask_loss": "bce=1,dice=1",
    "optimizer": "adamw",
    "weight_decay": 0.02,
    "schedule": "cosine",
    "clip": 1.0,
    "ema": 0.99,
    "augmentation": "20",
    "batch_size": 4,
    "keep": 1,
    "rule": "third",
    "image_size": 96,
}

PRESETS = {
    # What the 3rd place of SIIM-ACR Pneumothorax cropped with: U-Net with CBAM, 256 pixels.
    "paper": Preset(
        "the 3rd place's U-Net that found the lungs, 256 pixels",
        {
            "encoder": "resnet34",
            "decoder": "cbam",
            "mask_loss": "lovasz=1",
            "image_size": 256,
            "epochs": 30,
            "batch_size": 16,
            "lr": 1e-4,
            "schedule": "constant",
            "clip": 1.0,
            "augmentation": "third",
            "freeze_epochs": 0,
            "rule": "third",
        },
    ),
    "small": Preset(
        "dozens of images, two CPU cores, no pretrained weights",
        FROM_SCRATCH | {"epochs": 16, "lr": 2e-3},
    ),
    "demo": Preset(
        "synthetic X-rays, some minutes on two CPU cores",
        FROM_SCRATCH | {"epochs": 8, "lr": 1e-3, "size": 256},
    ),
}
