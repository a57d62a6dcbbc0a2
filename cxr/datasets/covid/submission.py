"""Submissions of SIIM-FISABIO-RSNA COVID-19 Detection: one row for each study and each image.

A study has its four classes and an image `none`, all with the box 0 0 1 1; the boxes of `opacity`
are in pixels of the original image.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from cxr.datasets.prediction_strings import (
    find_box_fault,
    format_predictions,
    parse_predictions,
)
from cxr.datasets.submission_ids import check_ids
from cxr.geometry.detections import Detections
from cxr.metrics.studies import (
    ALL_CLASSES,
    NONE,
    ONE_PIXEL,
    OPACITY,
    STUDY_CLASSES,
    image_answer,
    study_answer,
)
from cxr.system.errors import InputError
from cxr.system.tables import read_csv

COLUMNS = ["id", "PredictionString"]
STUDY = "_study"  # ends of the ids
IMAGE = "_image"


class ImageScores(NamedTuple):
    """Opacities of an image and how sure it has none.

    boxes: (n, 4) x1 y1 x2 y2 in original pixels. scores: (n,).
    """

    boxes: np.ndarray
    scores: np.ndarray
    none: float


class Prior(NamedTuple):
    """What is said of a study (probabilities (4,)) and of an image without a prediction."""

    study: np.ndarray
    none: float


def read_covid_submission(path: Path) -> pd.DataFrame:
    """COLUMNS of a submission file as text; the competition's page calls the first one Id."""
    table = read_csv(Path(path), COLUMNS, may_be_empty=True, rename={"Id": "id"})
    return table.fillna("")


def prevalence(train: pd.DataFrame) -> Prior:
    """Share of the studies of each class, and of the images without box, of a training table."""
    labels = train.drop_duplicates("study_id")["label"]
    counts = np.bincount(labels, minlength=len(STUDY_CLASSES))
    without_box = (train["n_boxes"] == 0).mean()
    return Prior(counts / len(labels), float(without_box))


def format_covid_submission(
    ids: Iterable[str],
    studies: Mapping[str, np.ndarray],
    images: Mapping[str, ImageScores],
    prior: Prior,
) -> pd.DataFrame:
    """Table of COLUMNS in the order of the ids.

    studies: {study_id: probabilities (4,)}. images: {image_id: scores}. What has no prediction,
    such as a broken file, gets the prior.
    """
    ids = list(ids)
    nothing = ImageScores(np.zeros((0, 4)), np.zeros(0), prior.none)
    texts = []
    for row_id in ids:
        if row_id.endswith(STUDY):
            probabilities = studies.get(row_id.removesuffix(STUDY), prior.study)
            answer = study_answer(probabilities)
        else:
            image = images.get(row_id.removesuffix(IMAGE), nothing)
            answer = image_answer(image.boxes, image.scores, image.none)
        texts.append(format_predictions(answer, ALL_CLASSES))
    return pd.DataFrame({"id": ids, "PredictionString": texts}, dtype=str)


def parse_study(text: str) -> np.ndarray:
    """Probabilities (4,) of the classes of a study. ValueError where one is missing."""
    answer = parse_predictions(text, ALL_CLASSES)
    if sorted(answer.labels) != list(range(len(STUDY_CLASSES))):
        raise ValueError(f"it does not have {', '.join(STUDY_CLASSES)} once each")
    return answer.scores[np.argsort(answer.labels)]


def parse_opacities(text: str) -> Detections:
    """Boxes of opacities of an image, the only class of boxes. ValueError where it is malformed."""
    answer = parse_predictions(text, ALL_CLASSES)
    opacities = answer.of_class(OPACITY)
    return Detections(opacities.boxes, opacities.scores, np.zeros(len(opacities), int))


def check_covid_submission(
    table: pd.DataFrame, sample: pd.DataFrame, sizes: Mapping[str, tuple[int, int]]
) -> None:
    """Raises InputError naming the first id that is wrong.

    Ids and order must be the sample's; each study has its four classes and each image `none` once;
    confidences are in (0, 1]; opacities lie in their image. sizes: {image_id: (width, height)} as
    far as they are known.
    """
    if list(table.columns) != COLUMNS:
        raise InputError(
            f"the submission has the columns {', '.join(table.columns)}, not {', '.join(COLUMNS)}"
        )
    check_ids(list(table["id"]), list(sample["id"]))
    for row_id, text in zip(table["id"], table["PredictionString"], strict=True):
        size = sizes.get(row_id.removesuffix(IMAGE), (np.inf, np.inf))
        fault = find_covid_fault(row_id, text, size)
        if fault:
            raise InputError(f"the submission is wrong for {row_id}: {fault}")


def find_covid_fault(row_id: str, text: str, size: tuple[float, float]) -> str:
    """What is wrong with a row, "" if nothing is. size: width and height of its image."""
    try:
        answer = parse_predictions(text, ALL_CLASSES)
    except ValueError as error:
        return f"its PredictionString is malformed ({error})"
    is_opacity = answer.labels == OPACITY
    if not (answer.boxes[~is_opacity] == ONE_PIXEL).all():
        return "a class that has no place has another box than 0 0 1 1"
    is_study = row_id.endswith(STUDY)
    wanted = list(range(len(STUDY_CLASSES))) if is_study else [NONE]
    placeless = sorted(answer.labels[~is_opacity])
    if placeless != wanted or (is_study and is_opacity.any()):
        names = [ALL_CLASSES[label] for label in wanted]
        return f"it does not have {', '.join(names)} once each"

    return find_box_fault(answer.boxes, answer.scores, *size)
