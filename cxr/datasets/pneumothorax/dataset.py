"""SIIM-ACR Pneumothorax Segmentation (Kaggle 2019): masks of pneumothoraces."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from cxr.data.image_table import Tables
from cxr.datasets.base import Answer, AnswerRequest, Dataset
from cxr.datasets.foreign_answers import read_rows
from cxr.datasets.nih_patients import COLLECTION, find_mapping, read_public_names
from cxr.datasets.pneumothorax.files import (
    CLASSES,
    COLUMNS,
    MAPPING,
    MAPPING_COLUMNS,
    TRAIN_IMAGES,
    check_mask_submission,
    format_mask_submission,
    read_pneumothorax,
    read_runs_csv,
    read_sample_ids,
)
from cxr.datasets.pneumothorax.synthetic import write_pneumothorax
from cxr.methods.base import Scorer
from cxr.methods.segmenter.scorer import Dice
from cxr.settings import Settings
from cxr.system.tables import write_csv


class Pneumothorax(Dataset):
    slug = "siim-acr-pneumothorax-segmentation"
    title = "SIIM-ACR Pneumothorax Segmentation"
    terms = (
        "SIIM-ACR Pneumothorax Segmentation, "
        "https://www.kaggle.com/competitions/siim-acr-pneumothorax-segmentation: labels and images "
        "are under the competition's rules, the images also where a mirror gives them."
    )
    image_classes = CLASSES
    classes = ("Pneumothorax",)
    expected_files = (TRAIN_IMAGES,)
    takes_submissions = True
    answer_name = "submission"
    collection = COLLECTION
    finding = ("region", "regions")
    by_hand = (
        "Kaggle gives the test images and labels of this competition, the training images are on "
        "mirrors: the Kaggle data set jesperdramsch/siim-acr-pneumothorax-segmentation-data, or "
        f"Academic Torrents 6ef7c6d039e85152c4d0f31d83fa70edc4aba088. Put {TRAIN_IMAGES}, "
        "stage_2_train.csv and stage_2_images into {folder} and run the same command again; or add "
        "--demo to use synthetic data"
    )
    zip_bytes = int(2e9)
    extracted_bytes = int(4e9)

    @cached_property
    def scorer(self) -> Scorer:
        return Dice(
            "For each image twice the pixels that the predicted and the marked area share, divided "
            "by the sum of both areas; 1 where nothing is marked and nothing predicted, 0 where "
            "only one is empty. Most images show no pneumothorax, so an answer that never marks "
            "anything scores high: look at how far the system is above it.",
            logged=("metric", "all_empty", "dice_positive", "sensitivity", "specificity"),
        )

    def read_tables(self, folder: Path, settings: Settings) -> Tables:
        del settings
        return read_pneumothorax(folder)

    def public_names(self, folder: Path) -> dict[str, str]:
        return read_public_names(find_mapping(folder, (MAPPING,)), MAPPING_COLUMNS)

    def read_answers(self, path: Path, table: pd.DataFrame) -> Mapping[str, Any]:
        del table
        submission = read_runs_csv(path, may_be_empty=True)
        return read_rows(path, submission[COLUMNS], str)

    def write_synthetic(self, folder: Path, n_train: int) -> bool:
        return write_pneumothorax(folder, n_train=n_train)

    def write_answer(self, request: AnswerRequest) -> Answer:
        """submission.csv, checked against the ids of the sample submission."""
        if request.answers is None:
            return Answer(None)
        run = request.judging.run
        ids = read_sample_ids(run.task.read_input_folder()) or list(request.answers)
        absent = len(set(ids) - request.answers.keys())
        if absent:
            request.warnings.append(
                f"{absent} images of the sample submission have no picture and get no mask."
            )
        table = format_mask_submission(ids, request.answers)
        check_mask_submission(table, ids)
        write_csv(request.judging.folder.submission, table)
        return Answer(request.judging.folder.submission)
