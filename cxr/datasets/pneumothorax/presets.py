"""The five winning systems of SIIM-ACR Pneumothorax as settings.

Network, loss, sampling, schedule, augmentation and rule are those of the winners' code and texts.
Where a place trained in several steps, its preset is the first one and `pneumothorax_places.py`
runs all.
"""

from typing import Any

from cxr.presets import Preset

# All worked at up to 1,024 pixels. They made 4 to 10 folds, of images; five here, of patients, so
# that one step 02 serves every preset. No place froze its encoder in the first epoch.
WINNERS: dict[str, Any] = {"size": 1024, "folds": 5, "freeze_epochs": 0, "probability_size": 512}

# 1st: Adam, clipped at 0.1, the rate falls when the validation score stands still; an epoch is four
# fifths positive at first. Images of 512 pixels, 1,024 from the second step on (resnet50:
# throughout).
FIRST: dict[str, Any] = WINNERS | {
    "image_size": 512,
    "batch_size": 2,
    "lr": 1e-4,
    "weight_decay": 5e-6,
    "clip": 0.1,
    "schedule": "metric",
    "epochs": 50,
    "patience": 10,
    "sampling": "share",
    "positive_share": 0.8,
    "augmentation": "first",
    "rule": "first",
    "component": 100,
}

# 2nd: warm restarts every five epochs and a tail of four; nothing is clipped, no flips in
# prediction. What was merged were the averaged weights of the last epochs and ends of cycles; here
# it is the predictions of the last epochs.
SECOND: dict[str, Any] = WINNERS | {
    "encoder": "se_resnext50_32x4d",
    "decoder": "unet",
    "lr": 5e-4,
    "clip": 1e9,
    "schedule": "restarts",
    "cycle": 5,
    "augmentation": "second",
    "tta": "none",
    "rule": "second",
}

PLACES: dict[str, dict[str, Any]] = {
    "first-albunet": FIRST
    | {"encoder": "resnet34", "decoder": "albunet", "mask_loss": "bce=3,dice=1,focal=4"},
    "first-resnet50": FIRST
    | {
        "encoder": "resnet50",
        "decoder": "plain",
        "mask_loss": "bce=2,dice=1,focal=2",
        "image_size": 1024,
    },
    "first-scse": FIRST
    | {"encoder": "se_resnext50_32x4d", "decoder": "scse", "mask_loss": "bce=3,dice=1,focal=4"},
    # Is there a pneumothorax? The mask helps to learn it, and is not used.
    "second-classifier": SECOND
    | {
        "label_head": "double",
        "mask_loss": "label=1,label_focal=1,bce=1",
        "image_size": 768,
        "batch_size": 16,
        "lr_min": 1e-5,
        "epochs": 34,
        "keep": 4,
    },
    # Where is it? Learned from images that have one.
    "second-segmenter": SECOND
    | {
        "mask_loss": "squared_dice=1",
        "sampling": "positives",
        "image_size": 1024,
        "batch_size": 4,
        "lr_min": 1e-6,
        "epochs": 44,
        "keep": 4,
    },
    # Batches of 9 were 3 on each of three GPUs.
    "third": WINNERS
    | {
        "encoder": "se_resnext50_32x4d",
        "decoder": "cbam",
        "mask_loss": "lovasz=1",
        "image_size": 576,
        "batch_size": 9,
        "lr": 1e-4,
        "schedule": "constant",
        "clip": 1.0,
        "epochs": 20,
        "ema": 0.99,
        "ema_from": 7,
        "sampling": "balanced",
        "augmentation": "third",
        "rule": "third",
    },
    # Learns crops of 512 of 768 pixels (in the augmentation) and predicts whole images.
    "fourth": WINNERS
    | {
        "encoder": "resnet34",
        "decoder": "plain",
        "encoder_norm": "frozen",
        "label_head": "linear",
        "mask_loss": "bce=2.7,dice=0.9,label=0.1",
        "image_size": 768,
        "batch_size": 8,
        "lr": 7.5e-5,
        "weight_decay": 1e-5,
        "schedule": "waves",
        "cycle": 8,
        "lr_min": 1e-6,
        "epochs": 60,
        "clip": 0.5,
        "keep": 4,
        "sampling": "share",
        "positive_share": 0.8,
        "positive_share_end": 0.22,
        "augmentation": "fourth",
        "rule": "fourth",
    },
    # --unlabelled FOLDER of NIH images adds the mean teacher. Published: the weights after 25,000
    # to 34,000 steps.
    "fifth": WINNERS
    | {
        "encoder": "se_resnext50_32x4d",
        "decoder": "aspp",
        "label_head": "narrow",
        "mask_loss": "bce=1024,label=1",
        "image_size": 1024,
        "batch_size": 16,
        "lr": 3e-4,
        "weight_decay": 1e-4,
        "schedule": "constant",
        "epochs": 45,
        "clip": 10.0,
        "sampling": "balanced",
        "augmentation": "fifth",
        "rule": "fifth",
    },
}

# Tens to hundreds of images and no pretrained weights, on two CPU cores.
FROM_SCRATCH: dict[str, Any] = {
    "encoder": "resnet18",
    "weights": "none",
    "label_head": "linear",
    "mask_loss": "bce=3,dice=1,label=0.3",
    "optimizer": "adamw",
    "weight_decay": 0.02,
    "schedule": "cosine",
    "clip": 1.0,
    "ema": 0.99,
    "augmentation": "15",
    "sampling": "share",
    "positive_share": 0.6,
}

GLOSSES = {
    "first-albunet": "1st place's AlbuNet on ResNet-34",
    "first-resnet50": "1st place's U-Net on ResNet-50",
    "first-scse": "1st place's scSE U-Net on SE-ResNeXt-50",
    "second-classifier": "2nd place: is there a pneumothorax?",
    "second-segmenter": "2nd place: where is it? learned from positives",
    "third": "3rd place's U-Net with CBAM, symmetric Lovasz loss",
    "fourth": "4th place's U-Net with a label head, crops of 512",
    "fifth": "5th place's U-Net with ASPP; --unlabelled adds its mean teacher",
}

PRESETS = {name: Preset(GLOSSES[name], values) for name, values in PLACES.items()} | {
    "paper": Preset(GLOSSES["first-albunet"], PLACES["first-albunet"]),
    "small": Preset(
        "hundreds of images, two CPU cores, no pretrained weights",
        FROM_SCRATCH | {"size": 512, "image_size": 192, "epochs": 24, "batch_size": 4, "lr": 1e-3},
    ),
    "demo": Preset(
        "synthetic X-rays, some minutes on two CPU cores",
        FROM_SCRATCH | {"size": 256, "image_size": 96, "epochs": 8, "batch_size": 8, "lr": 2e-3},
    ),
}
