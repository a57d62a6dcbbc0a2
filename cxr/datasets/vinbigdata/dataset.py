"""VinBigData Chest X-ray Abnormalities Detection (Kaggle 2021): boxes of fourteen findings.

Each training image was marked by three of 17 readers (VinDr-CXR, arXiv 2012.15029).
"""

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
from cxr.datasets.vinbigdata import files
from cxr.datasets.vinbigdata.synthetic import write_vinbigdata
from cxr.methods.base import Scorer
from cxr.methods.detector.class_scorer import ClassAP
from cxr.settings import Settings
from cxr.system.tables import write_csv


class VinBigData(Dataset):
    slug = "vinbigdata-chest-xray-abnormalities-detection"
    title = "VinBigData chest X-ray abnormalities"
    terms = (
        "VinBigData Chest X-ray Abnormalities Detection (VinDr-CXR, arXiv 2012.15029), "
        "https://www.kaggle.com/competitions/vinbigdata-chest-xray-abnormalities-detection: images "
        "and labels are under the competition's rules, which one accepts there before the download."
    )
    image_classes = files.CLASSES
    classes = files.FINDINGS
    expected_files = ("train", "test", "train.csv", "sample_submission.csv")
    # 18,000 images of some 11 MB each.
    zip_bytes = int(206e9)
    extracted_bytes = int(206e9)
    takes_submissions = True
    answer_name = "submission"

    @cached_property
    def scorer(self) -> Scorer:
        return ClassAP(iou=0.4)

    def read_tables(self, folder: Path, settings: Settings) -> Tables:
        return files.read_vinbigdata(folder, settings.dataset.readers == "fused")

    def table_settings(self, settings: Settings) -> dict[str, Any]:
        return {"readers": settings.dataset.readers}

    def read_answers(self, path: Path, table: pd.DataFrame) -> Mapping[str, Any]:
        if path.suffix == ".json":
            return read_coco_results(path, table["image_id"].tolist(), self.classes)
        return read_rows(path, files.read_vinbigdata_submission(path), files.parse_findings)

    def write_synthetic(self, folder: Path, n_train: int) -> bool:
        return write_vinbigdata(folder, n_train=n_train)

    def write_answer(self, request: AnswerRequest) -> Answer:
        """submission.csv, checked against the ids of the sample submission.

        The competition judges "no finding" as a class of its own, so an image of which no box
        reaches the threshold of its class is said to show nothing; of the others, all boxes count.
        """
        if request.answers is None:
            return Answer(None)
        run = request.judging.run
        ids = files.read_sample_order(run.task.read_input_folder())
        thresholds = np.array(list(request.evaluation.params["threshold"].values()))
        positive = {}
        for image_id, detections in request.answers.items():
            if len(detections.above(thresholds)):
                positive[image_id] = detections
        table = files.format_vinbigdata_submission(ids, positive)
        files.check_vinbigdata_submission(table, ids)
        write_csv(request.judging.folder.submission, table)
        return Answer(request.judging.folder.submission)
