"""Opacity boxes of SIIM-FISABIO-RSNA COVID-19 Detection: a companion of the study classifier, which it gives its boxes.

The RSNA RetinaNet on this competition's boxes. Low scores are kept, since they cost nothing in an average precision
(the 1st place kept all above 0.0005).
"""

import numpy as np
import pandas as pd

from cxr.class_scoring import evaluate, make_rule, plain_rule, plain_score, quick_scores
from cxr.disk import write_csv
from cxr.synthetic_covid import write_covid
from cxr.tasks.covid_files import CLASSES, IMAGES, STUDIES, read_tables
from cxr.tasks.detection_task import FROM_SCRATCH, DetectionTask

COLUMNS = ("image_id", "x1", "y1", "x2", "y2", "score", "above_threshold")


class CovidBoxes(DetectionTask):
    name = "covid-boxes"
    slug = "siim-covid19-detection"
    title = "SIIM-FISABIO-RSNA COVID-19 opacities"
    answer = "results"
    takes_submissions = False  # the classifier's submission takes these boxes in
    score_name = "AP of opacities at IoU above 0.5"
    score_meaning = ("The boxes of all images are sorted by confidence; the average precision (AP) is the area under "
                     "the curve of precision over recall, where a box is right if it shares more than half of the "
                     "joint area with a marked one. It is a sixth of the competition's score. 1 is perfect.")
    class_names, box_classes = CLASSES, ("Opacity",)
    expected_files = (STUDIES, IMAGES, "train")
    zip_bytes, extracted_bytes = int(81e9), int(128e9)
    nms_iou = 0.5  # RetinaNet's usual value: a second guess at the same place costs little in an average precision
    floor = 0.001
    presets = {
        "paper": {"folds": 5},
        "small": FROM_SCRATCH | {"encoder": "resnet18", "image_size": 192, "epochs": 50, "batch_size": 8, "lr": 4e-4},
        "demo": FROM_SCRATCH | {"encoder": "resnet18", "image_size": 192, "epochs": 9, "batch_size": 8, "lr": 5e-4,
                                "channels": 64, "head_convs": 2, "size": 192},
    }
    read_tables = staticmethod(read_tables)
    write_synthetic = staticmethod(write_covid)

    def select(self, table, config):
        """Without the images of positive studies that have no box: nobody marked them, so they are not learned as
        empty, nor judged. Step 04 predicts them all the same."""
        return super().select(table[table["mask_known"]].drop(columns="mask_known"), config)

    def quick_score(self, predictions, table, config):
        return quick_scores(predictions, table, self.used_classes(config))

    def evaluate(self, config, cases, train):
        return evaluate(config, cases, train, self.used_classes(config), self.nms_iou)

    def rule(self, params, config):
        return make_rule(params, self.used_classes(config), self.nms_iou)

    def write_results(self, config, answers, cases, evaluation, warnings):
        """(path of test_boxes.csv, boxes in original pixels whatever their score, or None without test predictions,
        {})."""
        if answers is None:
            return None, {}
        [threshold] = evaluation.params["threshold"].values()
        rows = [(image_id, *np.round(box, 1), round(float(score), 6), bool(score > threshold))
                for image_id, (boxes, scores, _) in answers.items() for box, score in zip(boxes, scores)]
        path = config.run_dir / "test_boxes.csv"
        write_csv(path, pd.DataFrame(rows, columns=list(COLUMNS)))
        return path, {}

    def plain_rule(self, params, config):
        return plain_rule(params, self.used_classes(config))

    def plain_score(self, truth, found, config):
        return plain_score(truth, found, self.used_classes(config))
