"""What a scorer finds out about out-of-fold predictions: all that step 05 prints, writes and draws;
and the rule for new images that follows from it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from cxr.geometry.detections import Detections
from cxr.metrics.bootstrap import Interval
from cxr.metrics.curves import (
    OperatingPoint,
    PrecisionRecallCurve,
    Reliability,
    SensitivityLine,
    SizedScores,
)
from cxr.metrics.froc import FrocCurve
from cxr.metrics.pooled_boxes import ClassCurve


def held_out_units(folds: ArrayLike, groups: ArrayLike) -> np.ndarray:
    """What is fitted on or held out together, (n,), of images with folds (n,) and patients (n,):
    the folds, or the two halves by patient of a single fold."""
    folds = np.asarray(folds)
    if len(np.unique(folds)) > 1:
        return folds
    patients = np.unique(np.asarray(groups, str), return_inverse=True)[1]
    return patients % 2


def json_number(value: float) -> float | None:
    """A number for a JSON file, which has no nan."""
    if math.isnan(value):
        return None
    return float(value)


@dataclass(frozen=True)
class Boxes:
    """Boxes of images, true or predicted, as {image_id: array}.

    corners: (n, 4) x1 y1 x2 y2 in original pixels.
    labels: (n,) int, box classes.
    scores: (n,), or None of true boxes.
    outlines: where findings are masks, the outline of each box's connected part, a list of (m, 2)
        pixel numbers x, y.
    """

    corners: dict[str, np.ndarray] = field(default_factory=dict)
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    scores: dict[str, np.ndarray | None] = field(default_factory=dict)
    outlines: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def put(
        self,
        image_id: str,
        corners: np.ndarray,
        labels: np.ndarray,
        scores: np.ndarray | None = None,
    ) -> None:
        """Take in the boxes of an image."""
        self.corners[image_id] = corners
        self.labels[image_id] = labels
        self.scores[image_id] = scores

    def put_detections(self, image_id: str, detections: Detections) -> None:
        """Take in what was detected in an image."""
        self.put(image_id, detections.boxes, detections.labels, detections.scores)


@dataclass(frozen=True)
class Rule:
    """How what step 04 keeps of any image becomes an answer, with what step 05 fitted.

    detect: of a detector's candidates Detections by descending score 0 ... 1, low scores too, in
        original pixels; else as `Evaluation.detect`.
    thresholds: {box class: the score above which its boxes count}, in the order of the labels;
        empty where there are no boxes.
    """

    detect: Callable[[Any], Any]
    thresholds: dict[str, float]


class Baseline(NamedTuple):
    """A score to compare with, such as that of a guess that does not look at the image."""

    name: str
    score: float
    interval: Interval | None


class FoldResult(NamedTuple):
    """Score of a fold's images under parameters that were fitted on the other folds."""

    fold: int
    score: float
    params: dict[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """The honest estimate and how it came about.

    score, interval: of the images that count, under parameters that were not fitted on them.
    counted: the number of these images.
    params: fitted on all images, for new ones; the content of params.json.
    detect: what these parameters make of a prediction of step 04: Detections, the run lengths of a
        mask, or the probabilities of the image classes, as the scorer's method has it.
    images: a row for each judged image: image_id, fold, group, score (nan: does not count), n_true,
        n_pred, best_score and predicted, the class of the whole image.
    how: a sentence that says on which images the score was measured and where its parameters come
        from.
    fit_on: where these parameters come from, in the words of cxr/methods/wording.py.
    true, predicted: the boxes of the judged images.
    """

    score: float
    interval: Interval
    counted: int
    params: dict[str, Any]
    detect: Callable[[Any], Any]
    images: pd.DataFrame
    how: str
    _: KW_ONLY
    true: Boxes
    predicted: Boxes
    baselines: list[Baseline]
    sensitivity: dict[str, SensitivityLine]  # by parameter
    folds: list[FoldResult]

    # Boxes: curves, and where the rule lies on them.
    pr: PrecisionRecallCurve | None = None
    froc: FrocCurve | None = None
    operating: OperatingPoint | None = None
    # A score that is made of classes: facts of each class, with its name, for a table; its curve.
    class_rows: list[dict[str, Any]] = field(default_factory=list)
    class_curves: dict[str, ClassCurve] = field(default_factory=dict)
    # Masks: scores of images, and of findings by their size.
    reliability: Reliability | None = None
    sized: SizedScores | None = None

    figures: dict[str, float] = field(default_factory=dict)  # {words: number} beside the score
    results: dict[str, Any] = field(default_factory=dict)  # further entries of results.json
    fit_on: str = "folds"
    can_confuse: bool = True  # an image has one of the image classes, not several
    hit_score: float = 0.0  # above it the finding of an image counts as found
    image_score: str = "score"  # what `images.score` is, for a caption
    words: dict[str, str] = field(default_factory=dict)  # in place of sentences about boxes
    searched: str = ""  # what was searched and how to read `sensitivity`
    notes: list[str] = field(default_factory=list)  # sentences for the reader
