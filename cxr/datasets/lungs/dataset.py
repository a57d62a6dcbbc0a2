"""Lung fields in frontal chest X-rays, learned from pictures with masks such as Montgomery County and Shenzhen.

Jaeger et al. 2014, https://doi.org/10.3978/j.issn.2223-4292.2014.11.20. Other tasks crop their images by what is found.
"""

import pandas as pd

from cxr.datasets.lungs.files import CLASSES, IMAGES, MASKS, read_tables
from cxr.datasets.lungs.synthetic import write_lungs
from cxr.geometry.masks import EMPTY
from cxr.methods.segmenter.method import MaskTask
from cxr.methods.segmenter.scorer import evaluate
from cxr.system.disk import write_csv

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
}


class Lungs(MaskTask):
    name = "lungs"
    slug = "lung-masks"
    title = "Lung fields"
    answer = "results"
    score_name = "Mean Dice of the images"
    score_meaning = (
        "For each image twice the pixels that the predicted and the marked lungs share, divided by the "
        "sum of both areas; the mean over the images. 1 is perfect."
    )
    class_names, box_classes = CLASSES, ("Lung",)
    expected_files = (IMAGES, MASKS)
    by_hand = (
        "Lung masks are not of a Kaggle competition: put frontal X-rays as PNG files into {folder}/cxr and "
        "masks of the same names into {folder}/masks (Montgomery County and Shenzhen of the U.S. National "
        "Library of Medicine), and run the same command again; or add --demo to use synthetic data"
    )
    logged = ("metric",)
    presets = {
        # What the 3rd place of SIIM-ACR Pneumothorax cropped with: U-Net with CBAM, 256 pixels.
        "paper": {
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
        "small": FROM_SCRATCH | {"image_size": 96, "epochs": 16, "lr": 2e-3},
        "demo": FROM_SCRATCH | {"image_size": 96, "epochs": 8, "lr": 1e-3, "size": 256},
    }
    read_tables = staticmethod(read_tables)
    write_synthetic = staticmethod(write_lungs)

    def evaluate(self, config, cases, train):
        return evaluate(config, cases, len(train))

    def write_results(self, config, answers, cases, evaluation, warnings):
        """(path of a csv of the test images' masks as run lengths, or None without test predictions, {})."""
        if answers is None:
            return None, {}
        path = config.run_dir / "test_masks.csv"
        write_csv(
            path,
            pd.DataFrame(
                {"image_id": list(answers), "mask": [text or EMPTY for text in answers.values()]}
            ),
        )
        return path, {}
