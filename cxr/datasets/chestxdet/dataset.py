"""ChestX-Det10: boxes of nine or ten findings in NIH X-rays.

arXiv 2006.10550, challenge 2010.10298,
https://github.com/Deepwise-AILab/ChestX-Det10-Dataset
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr.data.dataset import boxes_in_frame
from cxr.data.image_table import Tables
from cxr.data.tables import keep_classes, read_table
from cxr.datasets.base import Answer, AnswerRequest, Dataset
from cxr.datasets.chestxdet.files import CLASSES, FINDINGS, read_chestxdet
from cxr.datasets.chestxdet.results import above_fitted_thresholds, write_chestxdet_results
from cxr.datasets.chestxdet.synthetic import write_chestxdet
from cxr.datasets.foreign_answers import read_coco_results
from cxr.datasets.nih_patients import COLLECTION
from cxr.geometry.frames import Frame
from cxr.methods.base import Labels
from cxr.methods.detector.class_scorer import ClassAP
from cxr.methods.evaluation import Boxes
from cxr.settings import Settings


class ChestXDet(Dataset):
    slug = "chestx-det10"
    title = "ChestX-Det10 findings"
    terms = (
        "ChestX-Det10 (arXiv 2006.10550), NIH X-rays with boxes, "
        "https://github.com/Deepwise-AILab/ChestX-Det10-Dataset: the terms are those of that "
        "repository and of the NIH's X-rays."
    )
    image_classes = CLASSES
    classes = FINDINGS
    expected_files = ("train.json", "train_data")
    archives = ("train_data", "test_data")
    answer_name = "results"
    collection = COLLECTION
    by_hand = (
        "ChestX-Det10 is not on Kaggle: download train_data.zip and test_data.zip (addresses in "
        "the README of https://github.com/Deepwise-AILab/ChestX-Det10-Dataset), train.json and "
        "test.json of that repository, put all four into {folder} and run the same command again; "
        "or add --demo to use synthetic data"
    )

    @cached_property
    def scorer(self) -> ClassAP:
        return ClassAP(iou=0.5)

    def read_tables(self, folder: Path, settings: Settings) -> Tables:
        del settings
        return read_chestxdet(folder)

    def write_synthetic(self, folder: Path, n_train: int) -> bool:
        return write_chestxdet(folder, n_train=n_train)

    def read_answers(self, path: Path, table: pd.DataFrame) -> Mapping[str, Any]:
        return read_coco_results(path, table["image_id"].tolist(), self.classes)

    def select_rows(self, table: pd.DataFrame, labels: Labels) -> pd.DataFrame:
        """Images that had only boxes of unused classes show no finding."""
        table = keep_classes(table, len(labels.classes))
        has_finding = np.where(table["label"] < 0, -1, table["n_boxes"] > 0)
        return table.assign(label=has_finding.astype(int))

    def write_answer(self, request: AnswerRequest) -> Answer:
        """Results of the validation and the test images in the data set's own format.

        The path is that of the test images' if there are any. Where they are labelled, their
        scores go to results.json under `test`.
        """
        folder = request.judging.folder.path
        labels = request.judging.labels
        valid_table = request.judging.table
        valid = {}
        valid_kept = {}
        for case in request.cases():
            image_id = case.candidates.image_id
            valid[image_id] = request.evaluation.detect(case.candidates)
            valid_kept[image_id] = above_fitted_thresholds(
                valid[image_id], request.evaluation.predicted, image_id
            )
        valid_table = valid_table[valid_table["image_id"].isin(valid.keys())]
        write_chestxdet_results(folder / "valid_results", valid, valid_kept, valid_table)
        if not request.answers:
            return Answer(folder / "valid_results")

        thresholds = np.array(list(request.evaluation.params["threshold"].values()))
        test_table = self.select_rows(read_table(request.judging.run.task.table("test")), labels)
        test_kept = {}
        predicted = Boxes()
        for image_id, detections in request.answers.items():
            test_kept[image_id] = detections.scores > thresholds[detections.labels.astype(int)]
            predicted.put_detections(image_id, detections.above(thresholds))
        write_chestxdet_results(folder / "test_results", request.answers, test_kept, test_table)
        if (test_table["label"] < 0).any():
            return Answer(folder / "test_results", predicted=predicted)

        truth = {}
        true = Boxes()
        for _, row in test_table.iterrows():
            original = Frame("original", row["width"], row["height"])
            marked = boxes_in_frame(row, original)
            truth[row["image_id"]] = marked
            true.put(row["image_id"], marked.boxes, marked.labels)
        scores = self.scorer.score_boxes(truth, request.answers, labels)
        results = {"test": scores}
        return Answer(folder / "test_results", results, true=true, predicted=predicted)
