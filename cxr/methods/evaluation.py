"""What a task finds out about its out-of-fold predictions: all that step 05 prints, writes and draws; and the rule for
new images that follows from it."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field

import pandas as pd


@dataclass(frozen=True)
class Boxes:
    """Boxes of images as {image_id: array}: corners (n, 4) in original pixels, classes (n,), scores (n,).

    Where findings are masks, each connected part has its box and in `outlines` its outline, (m, 2) x, y.
    """

    corners: dict = field(default_factory=dict)
    labels: dict = field(default_factory=dict)
    scores: dict = field(default_factory=dict)
    outlines: dict = field(default_factory=dict)

    def put(self, image_id, corners, labels, scores=None):
        self.corners[image_id], self.labels[image_id], self.scores[image_id] = (
            corners,
            labels,
            scores,
        )


@dataclass(frozen=True)
class Rule:
    """How the candidates of any image become boxes, with what step 05 fitted.

    `detect(candidates)` -> (boxes (n, 4), scores (n,) in 0 ... 1 falling, labels (n,)), low scores too.
    `thresholds`: {box class: the score above which its boxes count}, in the order of the labels.
    """

    detect: Callable
    thresholds: dict


@dataclass(frozen=True)
class Evaluation:
    """The honest estimate and how it came about.

    `images`: one row per judged image: image_id, fold, score (nan: does not count), n_true, n_pred, best_score and
    predicted (class of the whole image). `detect(candidates)` -> (boxes, scores, labels) with the final parameters.
    `baselines`: (name, score, (low, high) or None). `folds`: (fold, score, parameters fitted on other images).
    `sensitivity`: {parameter: (values, scores, chosen value)}. `pr`: (recall, precision) and `froc`: (false boxes per
    image, recall), arrays of equal length; `operating`: (recall, precision, false boxes per image) or None.
    `figures`: {words: number}, printed beside the score. `reliability`: (image scores (n,), whether the image has a
    finding (n,)). `sized`: (true area in pixels (n,), score (n,)) of the images with a finding.
    """

    score: float
    interval: tuple
    counted: int  # images that count in the score
    params: dict  # fitted on all images, for the test set
    detect: Callable
    images: pd.DataFrame
    how: (
        str  # a sentence: on which images the score was measured and where its parameters come from
    )
    _: KW_ONLY
    true: Boxes
    predicted: Boxes
    baselines: list
    sensitivity: dict
    folds: list
    pr: tuple | None = None
    froc: tuple | None = None
    operating: tuple | None = None
    figures: dict = field(default_factory=dict)
    reliability: tuple | None = None
    sized: tuple | None = None
    image_score: str = "score"  # what `images.score` is, for a caption
    words: dict = field(
        default_factory=dict
    )  # sentences of the report in place of those about boxes
    searched: str = ""  # what was searched and how to read `sensitivity`
    results: dict = field(default_factory=dict)  # further entries of results.json
    notes: list = field(default_factory=list)  # sentences for the reader
    class_rows: list = field(
        default_factory=list
    )  # a dict for each box class, where the score is made of classes
    class_curves: dict = field(
        default_factory=dict
    )  # {class: (recall, precision, false boxes per image)}
