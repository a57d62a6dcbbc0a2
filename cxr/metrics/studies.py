"""Judging studies that belong to one of four classes, and images that have boxes or none: the score
of SIIM-FISABIO-RSNA COVID-19 Detection, 2021, which is the mean of six VOC 2010 average precisions.

A class of a study, and `none` of an image, is a box of one pixel, so its average precision is that
of a ranking.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from cxr.geometry.detections import Detections, TrueBoxes
from cxr.metrics.average_precision import Row, class_average_precisions
from cxr.metrics.bootstrap import Interval, class_intervals
from cxr.metrics.means import mean_known
from cxr.metrics.pooled_boxes import LAST_PIXEL, ClassRanking, rank_rows

STUDY_CLASSES = ("negative", "typical", "indeterminate", "atypical")
ALL_CLASSES = (*STUDY_CLASSES, "none", "opacity")  # what a submission says of studies and of images
NONE = ALL_CLASSES.index("none")
OPACITY = ALL_CLASSES.index("opacity")
STUDY_SHARE = len(STUDY_CLASSES) / len(ALL_CLASSES)  # of the competition's score
ONE_PIXEL = (0.0, 0.0, 1.0, 1.0)
# As threshold: IoU >= 0.5, the rule of COCO; the competition's is > 0.5.
AT_LEAST_HALF = float(np.nextafter(0.5, 0))


class StudyMeans(NamedTuple):
    """ids of the studies (k,), sorted, and their probabilities (k, C)."""

    ids: np.ndarray
    probabilities: np.ndarray


def study_means(study_ids: ArrayLike, probabilities: ArrayLike) -> StudyMeans:
    """Mean over the images of each study, of probabilities (n, C) of images and their studies
    (n,)."""
    means = pd.DataFrame(np.asarray(probabilities)).groupby(np.asarray(study_ids)).mean()
    return StudyMeans(means.index.to_numpy(), means.to_numpy())


def study_labels(study_ids: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """Class (k,) of each study, sorted by id, of images with classes (n,). ValueError where images
    of one study disagree."""
    by_study = pd.Series(np.asarray(labels)).groupby(np.asarray(study_ids))
    distinct = by_study.nunique()
    if (distinct > 1).any():
        raise ValueError(f"images of study {distinct.idxmax()} have different classes")
    return by_study.first().to_numpy()


def study_rankings(labels: np.ndarray, probabilities: np.ndarray) -> list[ClassRanking]:
    """A ranking for each study class, of labels (k,) and probabilities (k, C)."""
    rankings = []
    for label in range(len(STUDY_CLASSES)):
        rankings.append(rank_rows(labels == label, probabilities[:, label]))
    return rankings


def study_scores(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """{"metric": mean AP, "ap_<class>": ...} of studies with classes (k,) and probabilities (k, C).

    A guess that ignores the image reaches the share of each class, 0.25 in the mean.
    """
    precisions = {}
    rankings = study_rankings(labels, probabilities)
    for name, ranking in zip(STUDY_CLASSES, rankings, strict=True):
        precisions[f"ap_{name}"] = ranking.average_precision()
    return {"metric": mean_known(list(precisions.values())), **precisions}


def study_intervals(
    labels: np.ndarray, probabilities: np.ndarray, patients: ArrayLike
) -> list[Interval]:
    """95 % intervals of the AP of each study class and, last, of their mean; patients (k,) are
    drawn whole."""
    return class_intervals(study_rankings(labels, probabilities), patients)


def study_answer(probabilities: ArrayLike) -> Detections:
    """Detections of a study: all its classes, each with its probability (C,)."""
    count = len(STUDY_CLASSES)
    boxes = np.tile(ONE_PIXEL, (count, 1))
    return Detections(boxes, np.asarray(probabilities, float), np.arange(count))


def image_answer(boxes: ArrayLike, scores: ArrayLike, none: float) -> Detections:
    """Detections of an image: its opacities (n, 4) with scores (n,), and `none` with its score."""
    opacities = np.asarray(boxes, float).reshape(-1, 4)
    return Detections(
        np.concatenate([opacities, [ONE_PIXEL]]),
        np.append(np.asarray(scores, float), none),
        np.append(np.full(len(opacities), OPACITY), NONE),
    )


def study_truth(label: int) -> TrueBoxes:
    """Truth of a study: its class."""
    return TrueBoxes(np.array([ONE_PIXEL]), np.array([label]))


def image_truth(boxes: ArrayLike) -> TrueBoxes:
    """Truth of an image: its opacities (n, 4), or `none` where there are none of them."""
    opacities = np.asarray(boxes, float).reshape(-1, 4)
    if not len(opacities):
        return TrueBoxes(np.array([ONE_PIXEL]), np.array([NONE]))
    return TrueBoxes(opacities, np.full(len(opacities), OPACITY))


def competition_scores(
    true: Mapping[Row, TrueBoxes],
    answers: Mapping[Row, Detections],
    iou_threshold: float = 0.5,
    last_pixel: bool = False,
) -> dict[str, float]:
    """{"metric": mean over the six classes, "ap_<class>": ...} of rows, studies and images alike,
    as made by the four functions above. A class without truth counts 0.

    The rule of the overlap may be changed to what other tools count: AT_LEAST_HALF, or
    `last_pixel`, corners x2 y2 that are pixels of the box, as in VOC's own program.
    """
    if last_pixel:
        true = {row: TrueBoxes(one.boxes + LAST_PIXEL, one.labels) for row, one in true.items()}
        answers = {
            row: Detections(one.boxes + LAST_PIXEL, one.scores, one.labels)
            for row, one in answers.items()
        }
    aps = class_average_precisions(true, answers, ALL_CLASSES, iou_threshold)
    mean = np.nan_to_num(list(aps.values())).mean()
    return {"metric": float(mean), **{f"ap_{name}": ap for name, ap in aps.items()}}
