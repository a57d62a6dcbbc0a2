"""RSNA Pneumonia Detection Challenge (Kaggle 2018): boxes of lung opacities, classes of images."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr.data.image_table import Tables
from cxr.datasets.base import Answer, AnswerRequest, Dataset
from cxr.datasets.foreign_answers import read_coco_results, read_rows
from cxr.datasets.nih_patients import COLLECTION
from cxr.datasets.rsna.files import (
    BOX_CLASSES,
    CLASSES,
    check_rsna_submission,
    format_rsna_submission,
    parse_rsna_boxes,
    read_rsna,
    read_rsna_sample,
    read_rsna_submission,
)
from cxr.datasets.rsna.synthetic import write_rsna
from cxr.geometry.detections import Detections
from cxr.methods.base import Scorer
from cxr.methods.detector.image_scorer import RsnaMap
from cxr.methods.evaluation import Boxes
from cxr.settings import Settings
from cxr.system.tables import write_csv

# How much each image class speaks for boxes; the 2nd place's values.
GATE_WEIGHTS = (0.0, 0.1, 1.0)
# The best single answer that ignores the image: the two boxes of the mean positive image.
CONSTANT_GUESS = ((0.6, (203, 335, 439, 694)), (0.5, (594, 328, 844, 724)))


class Rsna(Dataset):
    slug = "rsna-pneumonia-detection-challenge"
    title = "RSNA Pneumonia Detection"
    terms = (
        "RSNA Pneumonia Detection Challenge, "
        "https://www.kaggle.com/competitions/rsna-pneumonia-detection-challenge: images and labels "
        "are under the competition's rules, which one accepts there before the download."
    )
    image_classes = CLASSES
    classes = BOX_CLASSES
    expected_files = (
        "stage_2_train_images",
        "stage_2_test_images",
        "stage_2_train_labels.csv",
        "stage_2_detailed_class_info.csv",
        "stage_2_sample_submission.csv",
    )
    zip_bytes = int(3.7e9)
    extracted_bytes = int(3.8e9)
    takes_submissions = True
    answer_name = "submission"
    collection = COLLECTION

    @cached_property
    def scorer(self) -> Scorer:
        return RsnaMap(GATE_WEIGHTS, CONSTANT_GUESS)

    def read_tables(self, folder: Path, settings: Settings) -> Tables:
        del settings
        return read_rsna(folder)

    def read_answers(self, path: Path, table: pd.DataFrame) -> Mapping[str, Any]:
        if path.suffix == ".json":
            return read_coco_results(path, table["image_id"].tolist(), self.classes)
        return read_rows(path, read_rsna_submission(path), read_detections)

    def write_synthetic(self, folder: Path, n_train: int) -> bool:
        return write_rsna(folder, n_train=n_train)

    def write_answer(self, request: AnswerRequest) -> Answer:
        """submission.csv, checked against the sample submission."""
        if request.answers is None:
            return Answer(None)
        run = request.judging.run
        sample = read_rsna_sample(run.task.read_input_folder())
        boxes = {}
        predicted = Boxes()
        for image_id, detections in request.answers.items():
            boxes[image_id] = (detections.boxes, detections.scores)
            predicted.put_detections(image_id, detections)
        table = format_rsna_submission(list(sample["patientId"]), boxes)
        check_rsna_submission(table, sample)

        absent = len(set(sample["patientId"]) - request.answers.keys())
        if absent:
            request.warnings.append(
                f"{absent} images of the sample submission have no picture and get no boxes."
            )
        write_csv(request.judging.folder.submission, table)
        return Answer(request.judging.folder.submission, predicted=predicted)


def read_detections(text: str) -> Detections:
    """The boxes of a PredictionString. ValueError where it is malformed."""
    boxes, scores = parse_rsna_boxes(text)
    return Detections(boxes, scores, np.zeros(len(boxes), int))
