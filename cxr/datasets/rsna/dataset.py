"""RSNA Pneumonia Detection Challenge (Kaggle 2018), as two data sets over the same files.

The boxes of lung opacities, and the classes of the images, whose runs can gate the boxes. The folds
of both are the same, as they are dealt by the same rows, patients and classes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr.data.image_table import Tables
from cxr.datasets.base import Answer, AnswerRequest, Dataset
from cxr.datasets.foreign_answers import read_coco_results, read_rows
from cxr.datasets.rsna.files import (
    BOX_CLASSES,
    CLASSES,
    check_rsna_submission,
    format_rsna_submission,
    parse_rsna_boxes,
    read_rsna,
    read_rsna_names,
    read_rsna_sample,
    read_rsna_submission,
)
from cxr.datasets.rsna.synthetic import write_rsna
from cxr.geometry.detections import Detections
from cxr.methods.base import Scorer
from cxr.methods.classifier.image_scorer import ImageAP
from cxr.methods.detector.image_scorer import RsnaMap
from cxr.methods.evaluation import Boxes
from cxr.settings import Settings
from cxr.system.tables import write_csv

# How much each image class speaks for boxes; the 2nd place's values.
GATE_WEIGHTS = (0.0, 0.1, 1.0)
# The best single answer that ignores the image: the two boxes of the mean positive image.
CONSTANT_GUESS = ((0.6, (203, 335, 439, 694)), (0.5, (594, 328, 844, 724)))


PROBABILITIES = "test_classes.csv"


class RsnaFiles(Dataset):
    """What both have in common: files, folds, names."""

    slug = "rsna-pneumonia-detection-challenge"
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

    def read_tables(self, folder: Path, settings: Settings) -> Tables:
        del settings
        return read_rsna(folder)

    def public_names(self, folder: Path) -> dict[str, str]:
        return read_rsna_names(folder)

    def write_synthetic(self, folder: Path, n_train: int) -> bool:
        return write_rsna(folder, n_train=n_train)


class Rsna(RsnaFiles):
    """The boxes of the opacities."""

    title = "RSNA Pneumonia Detection"
    takes_submissions = True
    answer_name = "submission"
    gate_task = "rsna-classes"

    @cached_property
    def scorer(self) -> Scorer:
        return RsnaMap(GATE_WEIGHTS, CONSTANT_GUESS)

    def read_answers(self, path: Path, table: pd.DataFrame) -> Mapping[str, Any]:
        if path.suffix == ".json":
            return read_coco_results(path, table["image_id"].tolist(), self.classes)
        return read_rows(path, read_rsna_submission(path), read_detections)

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


class RsnaClasses(RsnaFiles):
    """The class of each image, three of them: for runs that gate the boxes (--gate)."""

    title = "RSNA Pneumonia Detection classes"
    answer_name = "classes"
    finding = ("class", "classes")

    @cached_property
    def scorer(self) -> Scorer:
        return ImageAP()

    def read_tables(self, folder: Path, settings: Settings) -> Tables:
        """The same rows; what each image has, class by class, and that its boxes are all there
        is."""
        tables = super().read_tables(folder, settings)
        one_of_them = np.eye(len(CLASSES), dtype=int).tolist()
        findings = [json.dumps(one_of_them[label]) for label in tables.train["label"]]
        train = tables.train.assign(findings=findings, mask_known=True)
        return tables._replace(train=train)

    def write_answer(self, request: AnswerRequest) -> Answer:
        """test_classes.csv: the probability of each class."""
        if request.answers is None:
            return Answer(None)
        table = pd.DataFrame.from_dict(dict(request.answers), orient="index", columns=list(CLASSES))
        path = request.judging.folder.path / PROBABILITIES
        write_csv(path, table.round(6).rename_axis("image_id").reset_index())
        return Answer(path)


def read_detections(text: str) -> Detections:
    """The boxes of a PredictionString. ValueError where it is malformed."""
    boxes, scores = parse_rsna_boxes(text)
    return Detections(boxes, scores, np.zeros(len(boxes), int))
