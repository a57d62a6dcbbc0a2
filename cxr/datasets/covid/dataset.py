"""SIIM-FISABIO-RSNA COVID-19 Detection (Kaggle 2021): the class of each study, four of them.

As the 17th place did it (https://github.com/YousefRabi/covid and the author's article): crops of the lungs, a
classifier that also learns to draw the opacities, four views, the mean over a study's images.
"""

import json

import numpy as np
import torch

from cxr.data.dataset import read_table
from cxr.data.samplers import make_sampler
from cxr.datasets.covid.files import CLASSES, read_sample
from cxr.datasets.covid.submission import check_submission, format_submission, prevalence
from cxr.datasets.covid.tables import CovidTables
from cxr.datasets.submission_ids import input_folder
from cxr.inference.opacity_boxes import fused_boxes
from cxr.methods.classifier.losses import classifier_loss
from cxr.methods.classifier.records import ClassPrediction, StudyCase
from cxr.methods.classifier.study_scorer import NOTHING, evaluate, none_of
from cxr.methods.pseudo_labels import add_classes
from cxr.metrics.studies import STUDY_CLASSES, study_labels, study_means, study_scores
from cxr.networks.classifier import build_classifier
from cxr.system.disk import InputError, write_csv

DETECTOR = "covid-boxes"  # the task whose runs --opacities names
# The 17th place's best single network (experiment 83) and its training, which the variants share. It did not clip
# gradients, so the bound is one that is never reached.
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
# Hundreds of images and no pretrained weights, on two CPU cores. Dice is some ten times the cross-entropy of pixels,
# most of which are easy, so that 1 : 1 weighs about as 1 : 10 does without it.
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


class Covid(CovidTables):
    name = "covid"
    title = "SIIM-FISABIO-RSNA COVID-19 studies"
    answer = "submission"
    score_name = "Mean AP of the four study classes"
    score_meaning = (
        "For every class, the studies are sorted by its probability; the average precision (AP) is the "
        "area under the curve of precision over recall. The score is the mean over the classes: a guess "
        "that ignores the image reaches 0.25, 1 is perfect. The competition also scores the images "
        "without box (none) and the boxes (opacity); these four classes are two thirds of its score."
    )
    by_hand, archives = "", ()
    takes_submissions = True
    finding = ("class", "classes")
    plateau_term = "class"
    kind = ClassPrediction
    tta = ("none", "flip", "flips")
    logged = ("metric", *(f"ap_{name}" for name in STUDY_CLASSES))
    presets = {
        "paper": SEVENTEENTH,
        # A member of its ensemble in the field's usual words: skips, and Dice beside cross-entropy.
        "unet": SEVENTEENTH | {"decoder": "unet", "mask_loss": "bce=1,dice=1", "dropout": 0.2},
        "small": FROM_SCRATCH | {"size": 512, "image_size": 192, "epochs": 24, "lr": 1e-3},
        "demo": FROM_SCRATCH | {"size": 192, "image_size": 128, "epochs": 12, "lr": 2e-3},
    }

    def used_classes(self, config):
        return self.box_classes

    def select(self, table, config):
        """The table of step 02. InputError for a setting that needs a task of masks."""
        if config.unlabelled:
            raise InputError(
                "--unlabelled learns predicted masks, and this task predicts classes: leave it out"
            )
        if config.paste:
            raise InputError("--paste is for tasks of boxes: leave it out")
        return table

    def add_pseudo(self, table, predictions):
        """The training table with the test images of --pseudo and their probabilities."""
        return add_classes(table, predictions)

    def build_model(self, config, load_weights=True):
        return build_classifier(config, len(CLASSES), load_weights)

    def targets(self, config):
        """The losses need no more of a sample than its mask and label."""
        return None

    def sampler(self, table, config, rank, world):
        """The order of the training images; those of studies that are not negative are the positives of --sampling."""
        return make_sampler(table, config, rank, world)

    def network_inputs(self, batch, config):
        """What the network is told in training beside the images: nothing."""
        return ()

    def loss(self, outputs, batch, model, config):
        return classifier_loss(outputs, batch, config)

    def apply_view(self, images, view, model):
        """Images (B, 1, S, S) uint8 -> the same, left-right mirrored if view[1], upside down if view[2]."""
        return images.flip([axis for axis, wanted in zip((-1, -2), view[1:]) if wanted])

    def outputs(self, model, images):
        """What step 04 wants to know of images."""
        return model(images)

    def undo_view(self, outputs, view, model):
        """Raw outputs of a view -> probabilities (B, C): there is nothing to turn back in a class."""
        return outputs["label"].float().softmax(-1)

    def merge(self, outputs):
        """[probabilities (C,)] of each image, the mean over models and views."""
        return list(torch.stack(list(outputs)).mean(0))

    def candidates(self, merged, row, model, config):
        """What step 05 needs of an image."""
        return ClassPrediction(
            row["image_id"], int(row["width"]), int(row["height"]), merged.cpu().numpy()
        )

    def case(self, found, row, fold):
        """An out-of-fold image with its truth, from its row of train.csv."""
        boxes = np.array(json.loads(row["boxes"]), float).reshape(-1, 4)
        return StudyCase(found, row["study_id"], int(row["label"]), boxes, fold, str(row["group"]))

    def quick_predictions(self, outputs, batch, model):
        """{row: probabilities (C,)}; by row and not by study, whose images may share a batch."""
        found = outputs["label"].float().softmax(-1).cpu().numpy()
        return dict(zip(batch["index"].tolist(), found))

    def quick_score(self, predictions, table, config):
        """Mean AP and APs of the studies; nan where the validation images have no study of a class."""
        rows = table.iloc[list(predictions)]
        _, means = study_means(rows["study_id"], list(predictions.values()))
        return study_scores(study_labels(rows["study_id"], rows["label"]), means)

    def opacities(self, config, table):
        """{image_id: (boxes (n, 4) in original pixels, scores (n,))} of --opacities for the rows of a table, out of
        fold where the rows have folds; empty without such runs."""
        which = "valid" if "fold" in table else "test"
        folder = config.working / DETECTOR
        return (
            fused_boxes(folder, config.opacities, which, table, config.predictions)
            if config.opacities
            else {}
        )

    def evaluate(self, config, cases, train):
        return evaluate(config, cases, self.opacities(config, train))

    def write_results(self, config, answers, cases, evaluation, warnings):
        """(path of submission.csv, read again and checked, or None without test predictions, {})."""
        if answers is None:
            return None, {}
        test, train = (read_table(config.task_dir / f"{name}.csv") for name in ("test", "train"))
        sample = read_sample(input_folder(config))
        table = submission_of(sample, test, train, answers, self.opacities(config, test))
        check_submission(
            table, sample, dict(zip(test["image_id"], zip(test["width"], test["height"])))
        )
        write_csv(config.run_dir / "submission.csv", table)
        return config.run_dir / "submission.csv", {}


def submission_of(sample, test, train, answers, opacities):
    """Submission in the order of the sample, of answers {image_id: probabilities (C,)}."""
    if not answers:
        return format_submission(sample["id"], {}, {}, prevalence(train))
    ids, means = study_means(test["study_id"], [answers[image_id] for image_id in test["image_id"]])
    studies = dict(zip(ids, means))
    none = none_of(test.rename(columns={"study_id": "study"}), studies, opacities)
    images = {
        image_id: (*opacities.get(image_id, NOTHING), none[image_id])
        for image_id in test["image_id"]
    }
    return format_submission(sample["id"], studies, images, prevalence(train))
