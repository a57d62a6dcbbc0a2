"""Named settings of the ChestX-Det10 task."""

from cxr.presets import DETECTOR_FROM_SCRATCH, Preset

# Findings of a class may lie side by side, so they are suppressed at RetinaNet's usual IoU; and
# there are ten classes, so fewer anchors of each are kept.
FINDINGS = {"nms_iou": 0.5, "candidates": 300, "classes": 9}

# At small sizes with level 2, whose anchors begin at 16 pixels: a fracture would fit none of the
# others.
SMALL_NETWORK = (
    DETECTOR_FROM_SCRATCH
    | FINDINGS
    | {"levels": "2-5", "channels": 64, "head_convs": 2, "batch_size": 8}
)

PRESETS = {
    # The course report's RetinaNet: no class of the whole image, flips and small warps.
    "paper": Preset(
        "RetinaNet-101, P3-P7, 1024 pixels, nine classes",
        FINDINGS
        | {
            "encoder": "resnet101",
            "levels": "3-7",
            "size": 1024,
            "image_size": 1024,
            "epochs": 10,
            "batch_size": 2,
            "global_weight": 0.0,
            "dropout": 0.0,
            "augmentation": "15",
        },
    ),
    "small": Preset(
        "hundreds of images, two CPU cores, no pretrained weights",
        SMALL_NETWORK | {"image_size": 320, "epochs": 50, "lr": 4e-4},
    ),
    "demo": Preset(
        "synthetic X-rays, some minutes on two CPU cores",
        SMALL_NETWORK | {"image_size": 256, "epochs": 9, "lr": 5e-4, "size": 256},
    ),
}
