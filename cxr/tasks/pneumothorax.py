"""SIIM-ACR Pneumothorax Segmentation (Kaggle 2019): masks of pneumothoraces, one or none for an image."""

from pathlib import Path

from cxr.disk import read_json, write_csv
from cxr.mask_scoring import evaluate
from cxr.synthetic_pneumothorax import write_pneumothorax
from cxr.tasks.mask_task import MaskTask
from cxr.tasks.pneumothorax_files import (
    CLASSES,
    TRAIN_IMAGES,
    check_submission,
    format_submission,
    read_sample,
    read_tables,
)

# All places worked at up to 1,024 pixels and stored that; five folds for all, so that one step 02 serves every preset.
WINNERS = {"size": 1024, "folds": 5, "freeze_epochs": 0, "probability_size": 512}
# The first of four stages; README tells the sequence.
FIRST = WINNERS | {"image_size": 512, "batch_size": 2, "lr": 1e-4, "weight_decay": 5e-6, "schedule": "metric",
                   "epochs": 50, "patience": 10, "clip": 0.1, "sampling": "share", "positive_share": 0.8,
                   "augmentation": "first", "rule": "first", "component": 100}
SECOND = WINNERS | {"encoder": "se_resnext50_32x4d", "lr": 5e-4, "schedule": "restarts", "clip": 1e9, "tta": "none",
                    "augmentation": "second", "rule": "second"}
PRESETS = {
    "first-albunet": FIRST | {"encoder": "resnet34", "decoder": "albunet", "mask_loss": "bce=3,dice=1,focal=4"},
    "first-resnet50": FIRST | {"encoder": "resnet50", "decoder": "plain", "mask_loss": "bce=2,dice=1,focal=2"},
    "first-scse": FIRST | {"encoder": "se_resnext50_32x4d", "decoder": "scse", "mask_loss": "bce=3,dice=1,focal=4"},
    "second-classifier": SECOND | {"label_head": "double", "mask_loss": "label=1,label_focal=1,bce=1",
                                   "image_size": 768, "batch_size": 16, "epochs": 34},
    "second-segmenter": SECOND | {"sampling": "positives", "mask_loss": "squared_dice=1", "image_size": 1024,
                                  "batch_size": 4, "epochs": 44},
    "third": WINNERS | {"encoder": "se_resnext50_32x4d", "decoder": "cbam", "mask_loss": "lovasz=1", "image_size": 576,
                        "batch_size": 9, "lr": 1e-4, "schedule": "constant", "clip": 1.0, "epochs": 20, "ema": 0.99,
                        "sampling": "balanced", "augmentation": "third", "rule": "third"},
    "fourth": WINNERS | {"encoder": "resnet34", "decoder": "plain", "encoder_norm": "frozen", "label_head": "linear",
                         "mask_loss": "bce=2.7,dice=0.9,label=0.1", "image_size": 768, "batch_size": 8, "lr": 7.5e-5,
                         "weight_decay": 1e-5, "schedule": "waves", "epochs": 60, "clip": 0.5, "keep": 4,
                         "sampling": "share", "positive_share": 0.8, "positive_share_end": 0.22,
                         "augmentation": "fourth", "rule": "fourth"},
    "fifth": WINNERS | {"encoder": "se_resnext50_32x4d", "decoder": "aspp", "label_head": "narrow",
                        "mask_loss": "bce=1024,label=1", "image_size": 1024, "batch_size": 16, "lr": 3e-4,
                        "weight_decay": 1e-4, "schedule": "constant", "epochs": 40, "clip": 10.0,
                        "sampling": "balanced", "augmentation": "fifth", "rule": "fifth"},
}
# Tens to hundreds of images and no pretrained weights, on two CPU cores.
FROM_SCRATCH = {"encoder": "resnet18", "weights": "none", "label_head": "linear", "mask_loss": "bce=3,dice=1,label=0.3",
                "optimizer": "adamw", "weight_decay": 0.02, "schedule": "cosine", "clip": 1.0, "ema": 0.99,
                "augmentation": "15", "batch_size": 8, "sampling": "share", "positive_share": 0.6}


class Pneumothorax(MaskTask):
    name = "pneumothorax"
    slug = "siim-acr-pneumothorax-segmentation"
    title = "SIIM-ACR Pneumothorax Segmentation"
    answer = "submission"
    score_name = "Mean Dice of the images"
    score_meaning = ("For each image twice the pixels that the predicted and the marked area share, divided by the sum of "
                     "both areas; 1 where nothing is marked and nothing predicted, 0 where only one of them is empty. "
                     "Most images show no pneumothorax, so an answer that never marks anything scores high: look at "
                     "how far the system is above it.")
    class_names, box_classes = CLASSES, ("Pneumothorax",)
    expected_files = (TRAIN_IMAGES,)
    takes_submissions = True
    by_hand = ("Kaggle gives the test images and labels of this competition, the training images are on mirrors: the "
               "Kaggle data set jesperdramsch/siim-acr-pneumothorax-segmentation-data, or Academic Torrents "
               f"6ef7c6d039e85152c4d0f31d83fa70edc4aba088. Put {TRAIN_IMAGES}, stage_2_train.csv and stage_2_images "
               "into {folder} and run the same command again; or add --demo to use synthetic data")
    zip_bytes, extracted_bytes = int(2e9), int(4e9)
    logged = ("metric", "all_empty", "dice_positive", "sensitivity", "specificity")
    presets = PRESETS | {
        "paper": PRESETS["first-albunet"],
        "small": FROM_SCRATCH | {"size": 512, "image_size": 256, "epochs": 40, "lr": 1e-3},
        "demo": FROM_SCRATCH | {"size": 256, "image_size": 128, "epochs": 12, "lr": 2e-3},
    }
    read_tables = staticmethod(read_tables)
    write_synthetic = staticmethod(write_pneumothorax)

    def evaluate(self, config, cases, train):
        return evaluate(config, cases, len(train))

    def write_results(self, config, answers, cases, evaluation, warnings):
        """(path of submission.csv, read again and checked, or None without test predictions, {})."""
        if answers is None:
            return None, {}
        ids = read_sample(Path(read_json(config.task_dir / "preprocess.json")["input"])) or list(answers)
        absent = len(set(ids) - answers.keys())
        if absent:
            warnings.append(f"{absent} images of the sample submission have no picture and get no mask.")
        table = format_submission(ids, answers)
        check_submission(table, ids)
        write_csv(config.run_dir / "submission.csv", table)
        return config.run_dir / "submission.csv", {}
