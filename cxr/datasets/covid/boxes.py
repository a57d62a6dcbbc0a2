"""SIIM-FISABIO-RSNA COVID-19 Detection (Kaggle 2021): the boxes of opacities, found by the RSNA task's RetinaNet.

A part of a submission only: the task of the studies takes its boxes in with --opacities.
"""

import numpy as np
import pandas as pd

from cxr.datasets.covid.tables import CovidTables
from cxr.inference.opacity_boxes import FLOOR, NMS_IOU
from cxr.methods.detector.class_scorer import (
    evaluate,
    make_rule,
    plain_rule,
    plain_score,
    quick_scores,
)
from cxr.methods.detector.method import FROM_SCRATCH, DetectionTask
from cxr.system.disk import write_csv

COLUMNS = ["image_id", "x1", "y1", "x2", "y2", "score"]


class CovidBoxes(CovidTables, DetectionTask):
    name = "covid-boxes"
    title = "SIIM-FISABIO-RSNA COVID-19 opacities"
    answer = "boxes"
    takes_submissions = False  # without the studies it would be a sixth of one
    score_name = "AP of opacity at IoU 0.5"
    score_meaning = (
        "The boxes of all images are sorted by confidence; the average precision (AP) is the area under "
        "the curve of precision over recall, where a box is right if it shares more than half of the "
        "joint area with a marked one. 1 is perfect. It is one sixth of the competition's score. Images "
        "of positive studies that nobody marked are not judged."
    )
    nms_iou = NMS_IOU
    floor = FLOOR
    most = 300
    # The stored size and the number of folds are those of the task of the studies: copies are found on the stored
    # pictures, and the folds must agree. A quarter of the RSNA's images, so twice its epochs. From scratch without
    # level 2 as there: an opacity is a large part of a lung.
    presets = {
        "paper": {"size": 640, "folds": 5, "epochs": 24},
        "small": FROM_SCRATCH
        | {
            "encoder": "resnet18",
            "size": 512,
            "image_size": 256,
            "epochs": 50,
            "batch_size": 8,
            "lr": 4e-4,
        },
        "demo": FROM_SCRATCH
        | {
            "encoder": "resnet18",
            "size": 192,
            "image_size": 192,
            "epochs": 9,
            "batch_size": 8,
            "lr": 5e-4,
            "channels": 64,
            "head_convs": 2,
        },
    }

    def select(self, table, config):
        """The rows whose opacities are known, to learn and to judge by.

        An image of a positive study without any box was not marked, which does not mean that it shows nothing. Step 04
        predicts these images, too, so that the task of the studies gets boxes for every image.
        """
        table = super().select(table, config)
        return table[(table["n_boxes"] > 0) | (table["label"] <= 0)].drop(
            columns="mask_known", errors="ignore"
        )

    def group_rows(self, table, folder, notes):
        """As the task of the studies does it; says how many images `select` leaves out."""
        table = super().group_rows(table, folder, notes)
        unknown = int((~table["mask_known"]).sum())
        notes += (
            [
                f"{unknown} images of positive studies have no box: the detector neither learns them as empty nor is "
                "judged on them, but predicts them"
            ]
            if unknown
            else []
        )
        return table

    def quick_score(self, predictions, table, config):
        return quick_scores(predictions, table, self.box_classes)

    def evaluate(self, config, cases, train):
        return evaluate(config, cases, train, self.box_classes, self.nms_iou)

    def rule(self, params, config):
        return make_rule(params, self.box_classes, self.nms_iou)

    def write_results(self, config, answers, cases, evaluation, warnings):
        """(path of test_boxes.csv: all boxes of the test images in original pixels, best first, whatever their score;
        None without test predictions, {})."""
        if answers is None:
            return None, {}
        rows = [
            (image_id, *np.round(box, 1), round(float(score), 6))
            for image_id, (boxes, scores, _) in answers.items()
            for box, score in zip(boxes, scores)
        ]
        write_csv(config.run_dir / "test_boxes.csv", pd.DataFrame(rows, columns=COLUMNS))
        return config.run_dir / "test_boxes.csv", {}

    def plain_rule(self, params, config):
        return plain_rule(params, self.box_classes)

    def plain_score(self, truth, found, config):
        return plain_score(truth, found, self.box_classes)
