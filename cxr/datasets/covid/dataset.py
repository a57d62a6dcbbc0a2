"""SIIM-FISABIO-RSNA COVID-19 Detection (Kaggle 2021), as two data sets over the same files.

The classes of the studies, as the 17th place found them
(https://github.com/YousefRabi/covid and the author's article), and the boxes of the opacities. The
folds of both must be the same, as boxes enter the images' scores out of fold.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr.data.duplicates import cluster_report, find_copies, join_groups
from cxr.data.image_table import Tables
from cxr.data.tables import read_table
from cxr.datasets.base import Answer, AnswerRequest, Dataset
from cxr.datasets.covid.files import CLASSES, IMAGES, STUDIES, read_covid, read_covid_sample
from cxr.datasets.covid.submission import (
    IMAGE,
    STUDY,
    ImageScores,
    check_covid_submission,
    format_covid_submission,
    parse_opacities,
    parse_study,
    prevalence,
    read_covid_submission,
)
from cxr.datasets.covid.synthetic import write_covid
from cxr.datasets.foreign_answers import read_coco_results, read_rows
from cxr.methods.base import Labels, Scorer
from cxr.methods.classifier.study_scorer import (
    NO_BOXES,
    StudyAP,
    answer_images,
    gather_evidence,
    with_negatives,
)
from cxr.methods.detector.class_scorer import ClassAP
from cxr.metrics.image_rules import PLAIN, ImageRule
from cxr.metrics.studies import STUDY_CLASSES, study_means
from cxr.plots.duplicate_sheet import write_copies_sheet
from cxr.settings import Settings
from cxr.system.tables import write_csv

BOX_COLUMNS = ["image_id", "x1", "y1", "x2", "y2", "score"]


class CovidFiles(Dataset):
    """What both have in common: files, folds, names."""

    slug = "siim-covid19-detection"
    terms = (
        "SIIM-FISABIO-RSNA COVID-19 Detection, "
        "https://www.kaggle.com/competitions/siim-covid19-detection: images and labels are under "
        "the competition's rules, which one accepts there before the download."
    )
    image_classes = CLASSES
    classes = ("Opacity",)
    expected_files = (STUDIES, IMAGES, "train")
    # 7,597 images of 3187 x 2753 pixels in the mean, two bytes each: if nothing is compressed.
    zip_bytes = int(134e9)
    extracted_bytes = int(134e9)
    groups_by_picture = True

    def read_tables(self, folder: Path, settings: Settings) -> Tables:
        return read_covid(folder, settings.dataset.cleaning)

    def table_settings(self, settings: Settings) -> dict[str, Any]:
        return {"cleaning": settings.dataset.cleaning}

    def write_synthetic(self, folder: Path, n_train: int) -> bool:
        return write_covid(folder, n_train=n_train)

    def group_rows(self, table: pd.DataFrame, folder: Path, notes: list[str]) -> pd.DataFrame:
        """Adds `cluster` (copies, found on the pictures) and `mask_known`.

        The groups are connected components of patients, studies and clusters. Writes copies.png,
        to look at what counts as a copy.
        """
        clusters, pairs = find_copies(table["image_id"], folder / "images")
        write_copies_sheet(folder / "copies.png", table, pairs, folder / "images")
        facts = {
            "hold several patients": table["patient"],
            "several studies": table["study_id"],
            "several classes": table["label"],
        }
        notes.append(cluster_report(clusters, facts))
        groups = join_groups(table["patient"], table["study_id"], clusters)
        mask_known = (table["n_boxes"] > 0) | (table["label"] == 0)  # clipping may have taken boxes
        return table.assign(cluster=clusters, group=groups, mask_known=mask_known)


class CovidStudies(CovidFiles):
    """The class of each study, four of them."""

    title = "SIIM-FISABIO-RSNA COVID-19 studies"
    takes_submissions = True
    answer_name = "submission"
    finding = ("class", "classes")
    box_task = "covid-boxes"

    @cached_property
    def scorer(self) -> Scorer:
        return StudyAP()

    def read_answers(self, path: Path, table: pd.DataFrame) -> Mapping[str, Any]:
        """The probabilities of its study for each image."""
        rows = read_covid_submission(path)
        studies = read_rows(path, rows[rows["id"].str.endswith(STUDY)], parse_study)
        answers = {}
        for image_id, study in zip(table["image_id"], table["study_id"], strict=True):
            if study + STUDY in studies:
                answers[image_id] = studies[study + STUDY]
        return answers

    def write_answer(self, request: AnswerRequest) -> Answer:
        """submission.csv, read again and checked."""
        if request.answers is None:
            return Answer(None)
        run = request.judging.run
        test = read_table(run.task.table("test"))
        train = read_table(run.task.table("train"))
        sample = read_covid_sample(run.task.read_input_folder())
        rule = ImageRule(**request.evaluation.params.get("image_rule", {}))
        table = make_submission(sample, test, train, request.answers, request.further_boxes, rule)
        sizes = dict(
            zip(test["image_id"], zip(test["width"], test["height"], strict=True), strict=True)
        )
        check_covid_submission(table, sample, sizes)
        write_csv(request.judging.folder.submission, table)
        return Answer(request.judging.folder.submission)


def make_submission(
    sample: pd.DataFrame,
    test: pd.DataFrame,
    train: pd.DataFrame,
    answers: Mapping[str, np.ndarray],
    opacities: Mapping[str, tuple[np.ndarray, np.ndarray]],
    rule: ImageRule = PLAIN,
) -> pd.DataFrame:
    """Submission in the order of the sample.

    answers: {image_id: probabilities (C,)} of the test images, and behind them that nothing is
    marked, where that was learned. opacities: {image_id: (boxes (n, 4) in original pixels, scores
    (n,))}, may be empty. rule: what is made of both.
    """
    if not answers:
        return format_covid_submission(sample["id"], {}, {}, prevalence(train))
    answers_of_images = np.array([answers[image_id] for image_id in test["image_id"]])
    classes = len(STUDY_CLASSES)
    learned = np.full(len(test), np.nan)
    if answers_of_images.shape[1] > classes:
        learned = answers_of_images[:, classes]
    ids, means = study_means(test["study_id"], answers_of_images[:, :classes])
    studies = dict(zip(ids, means, strict=True))
    table = test.rename(columns={"study_id": "study"})
    evidence = gather_evidence(table, studies, learned, opacities)
    answered = answer_images(rule, test["image_id"].tolist(), evidence, opacities)
    means = with_negatives(ids.tolist(), means, answered.negatives)
    studies = dict(zip(ids, means, strict=True))
    images = {}
    for image_id in test["image_id"]:
        boxes, scores = answered.opacities.get(image_id, NO_BOXES)
        images[image_id] = ImageScores(boxes, scores, answered.none[image_id])
    return format_covid_submission(sample["id"], studies, images, prevalence(train))


class CovidOpacities(CovidFiles):
    """The boxes of the opacities, a sixth of a submission: the studies take them by --opacities."""

    title = "SIIM-FISABIO-RSNA COVID-19 opacities"
    answer_name = "boxes"

    @cached_property
    def scorer(self) -> Scorer:
        return ClassAP(
            iou=0.5,
            score_name="AP of opacity at IoU 0.5",
            score_meaning=(
                "The boxes of all images are sorted by confidence; the average precision (AP) is "
                "the area under the curve of precision over recall, where a box is right if it "
                "shares more than half of the joint area with a marked one. 1 is perfect. It is "
                "one sixth of the competition's score. Images of positive studies that nobody "
                "marked are not judged."
            ),
        )

    def select_rows(self, table: pd.DataFrame, labels: Labels) -> pd.DataFrame:
        """The rows whose opacities are known, to learn and to judge by.

        An image of a positive study without any box was not marked, which does not mean that it
        shows nothing. Step 04 predicts these images, too, so that the studies get boxes for every
        image.
        """
        del labels
        return table[(table["n_boxes"] > 0) | (table["label"] <= 0)]

    def group_rows(self, table: pd.DataFrame, folder: Path, notes: list[str]) -> pd.DataFrame:
        """As for the studies; says how many images `select_rows` leaves out."""
        table = super().group_rows(table, folder, notes)
        unknown = int((~table["mask_known"]).sum())
        if unknown:
            notes.append(
                f"{unknown} images of positive studies have no box: the detector neither learns "
                "them as empty nor is judged on them, but predicts them"
            )
        return table

    def read_answers(self, path: Path, table: pd.DataFrame) -> Mapping[str, Any]:
        if path.suffix == ".json":
            return read_coco_results(path, table["image_id"].tolist(), self.classes)
        rows = read_covid_submission(path)
        images = rows[rows["id"].str.endswith(IMAGE)]
        images = images.assign(id=images["id"].str.removesuffix(IMAGE))
        return read_rows(path, images, parse_opacities)

    def write_answer(self, request: AnswerRequest) -> Answer:
        """test_boxes.csv: all boxes of the test images in original pixels, best first."""
        if request.answers is None:
            return Answer(None)
        rows = []
        for image_id, detections in request.answers.items():
            for box, score in zip(detections.boxes, detections.scores, strict=True):
                rows.append((image_id, *np.round(box, 1), round(float(score), 6)))
        path = request.judging.folder.path / "test_boxes.csv"
        write_csv(path, pd.DataFrame(rows, columns=BOX_COLUMNS))
        return Answer(path)
