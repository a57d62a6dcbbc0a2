"""SIIM-ACR Pneumothorax Segmentation (Kaggle 2019): masks of pneumothoraces, one or none for an image."""

from cxr.datasets.pneumothorax.files import (
    CLASSES,
    TRAIN_IMAGES,
    check_submission,
    format_submission,
    read_sample,
    read_tables,
)
from cxr.datasets.pneumothorax.presets import PRESETS
from cxr.datasets.pneumothorax.synthetic import write_pneumothorax
from cxr.datasets.submission_ids import input_folder
from cxr.methods.segmenter.method import MaskTask
from cxr.methods.segmenter.scorer import evaluate
from cxr.system.disk import write_csv

# Tens to hundreds of images and no pretrained weights, on two CPU cores.
FROM_SCRATCH = {
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


class Pneumothorax(MaskTask):
    name = "pneumothorax"
    slug = "siim-acr-pneumothorax-segmentation"
    title = "SIIM-ACR Pneumothorax Segmentation"
    answer = "submission"
    score_name = "Mean Dice of the images"
    score_meaning = (
        "For each image twice the pixels that the predicted and the marked area share, divided by the sum "
        "of both areas; 1 where nothing is marked and nothing predicted, 0 where only one is empty. "
        "Most images show no pneumothorax, so an answer that never marks anything scores high: look at "
        "how far the system is above it."
    )
    class_names, box_classes = CLASSES, ("Pneumothorax",)
    expected_files = (TRAIN_IMAGES,)
    takes_submissions = True
    by_hand = (
        "Kaggle gives the test images and labels of this competition, the training images are on mirrors: the "
        "Kaggle data set jesperdramsch/siim-acr-pneumothorax-segmentation-data, or Academic Torrents "
        f"6ef7c6d039e85152c4d0f31d83fa70edc4aba088. Put {TRAIN_IMAGES}, stage_2_train.csv and stage_2_images "
        "into {folder} and run the same command again; or add --demo to use synthetic data"
    )
    zip_bytes, extracted_bytes = int(2e9), int(4e9)
    logged = ("metric", "all_empty", "dice_positive", "sensitivity", "specificity")
    presets = PRESETS | {
        "paper": PRESETS["first-albunet"],
        "small": FROM_SCRATCH
        | {"size": 512, "image_size": 192, "epochs": 24, "batch_size": 4, "lr": 1e-3},
        "demo": FROM_SCRATCH
        | {"size": 256, "image_size": 96, "epochs": 8, "batch_size": 8, "lr": 2e-3},
    }
    read_tables = staticmethod(read_tables)
    write_synthetic = staticmethod(write_pneumothorax)

    def evaluate(self, config, cases, train):
        return evaluate(config, cases, len(train))

    def write_results(self, config, answers, cases, evaluation, warnings):
        """(path of submission.csv, read again and checked, or None without test predictions, {})."""
        if answers is None:
            return None, {}
        ids = read_sample(input_folder(config)) or list(answers)
        absent = len(set(ids) - answers.keys())
        if absent:
            warnings.append(
                f"{absent} images of the sample submission have no picture and get no mask."
            )
        table = format_submission(ids, answers)
        check_submission(table, ids)
        write_csv(config.run_dir / "submission.csv", table)
        return config.run_dir / "submission.csv", {}
