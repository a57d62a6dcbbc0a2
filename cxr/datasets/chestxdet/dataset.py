"""ChestX-Det10: boxes of nine or ten findings in NIH X-rays (arXiv 2006.10550, challenge 2010.10298).

https://github.com/Deepwise-AILab/ChestX-Det10-Dataset
"""

import numpy as np

from cxr.data.dataset import read_table, scaled_boxes
from cxr.datasets.chestxdet.files import CLASSES, FINDINGS, read_tables
from cxr.datasets.chestxdet.results import is_kept, write_results
from cxr.datasets.chestxdet.synthetic import write_chestxdet
from cxr.methods.detector.class_scorer import (
    evaluate,
    make_rule,
    plain_rule,
    plain_score,
    quick_scores,
    score_boxes,
)
from cxr.methods.detector.method import FROM_SCRATCH, DetectionTask


class ChestXDet(DetectionTask):
    name = "chestxdet"
    slug = "chestx-det10"
    title = "ChestX-Det10 findings"
    answer = "results"
    takes_submissions = False
    score_name = "Mean AP at IoU 0.5"
    score_meaning = (
        "For every finding, its boxes in all images are sorted by confidence; the average precision (AP) "
        "is the area under the curve of precision over recall, where a box is right if it shares at least "
        "half of the joint area with a marked one. The score is the mean over the findings. 1 is perfect."
    )
    class_names, box_classes = CLASSES, FINDINGS
    expected_files, archives = ("train.json", "train_data"), ("train_data", "test_data")
    by_hand = (
        "ChestX-Det10 is not on Kaggle: download train_data.zip and test_data.zip (addresses in the README of "
        "https://github.com/Deepwise-AILab/ChestX-Det10-Dataset), train.json and test.json of that repository, "
        "put all four into {folder} and run the same command again; or add --demo to use synthetic data"
    )
    nms_iou = 0.5  # findings of a class may lie side by side; the usual value of RetinaNet
    most = 300  # times ten classes
    # The course report's RetinaNet: no class of the whole image, flips and small warps. At small sizes with level 2,
    # whose anchors begin at 16 pixels: a fracture would fit none of the others.
    presets = {
        "paper": {
            "classes": 9,
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
        "small": FROM_SCRATCH
        | {
            "classes": 9,
            "encoder": "resnet18",
            "image_size": 320,
            "epochs": 50,
            "batch_size": 8,
            "lr": 4e-4,
            "levels": "2-5",
            "channels": 64,
            "head_convs": 2,
        },
        "demo": FROM_SCRATCH
        | {
            "classes": 9,
            "encoder": "resnet18",
            "image_size": 256,
            "epochs": 9,
            "batch_size": 8,
            "lr": 5e-4,
            "levels": "2-5",
            "channels": 64,
            "head_convs": 2,
            "size": 256,
        },
    }
    read_tables = staticmethod(read_tables)
    write_synthetic = staticmethod(write_chestxdet)

    def select(self, table, config):
        """The rows with the boxes of the used classes; images that had only others show no finding."""
        table = super().select(table, config)
        return table.assign(
            label=np.where(table["label"] < 0, -1, table["n_boxes"] > 0).astype(int)
        )

    def quick_score(self, predictions, table, config):
        return quick_scores(predictions, table, self.used_classes(config))

    def evaluate(self, config, cases, train):
        return evaluate(config, cases, train, self.used_classes(config), self.nms_iou)

    def rule(self, params, config):
        return make_rule(params, self.used_classes(config), self.nms_iou)

    def write_results(self, config, answers, cases, evaluation, warnings):
        """Results of the validation and the test images: (path of the latter if there are any, else of the former,
        scores of the test images where they are labelled)."""
        valid = {case.candidates.image_id: evaluation.detect(case.candidates) for case in cases()}
        train, test = (
            self.select(read_table(config.task_dir / f"{name}.csv"), config)
            for name in ("train", "test")
        )
        kept = {key: is_kept(found, evaluation.predicted, key) for key, found in valid.items()}
        write_results(
            config.run_dir / "valid_results",
            valid,
            kept,
            train[train["image_id"].isin(valid.keys())],
        )
        if not answers:
            return config.run_dir / "valid_results", {}
        thresholds = np.array(list(evaluation.params["threshold"].values()))
        kept = {key: found[1] > thresholds[found[2].astype(int)] for key, found in answers.items()}
        write_results(config.run_dir / "test_results", answers, kept, test)
        if (test["label"] < 0).any():
            return config.run_dir / "test_results", {}
        truth = {
            row["image_id"]: scaled_boxes(row, row["width"], row["height"])
            for _, row in test.iterrows()
        }
        return config.run_dir / "test_results", {
            "test": score_boxes(truth, answers, self.used_classes(config))
        }

    def plain_rule(self, params, config):
        return plain_rule(params, self.used_classes(config))

    def plain_score(self, truth, found, config):
        return plain_score(truth, found, self.used_classes(config))
