"""Boxes of many images pooled by class: the score of each and whether it hit, which is all that the
measures need."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from cxr.geometry.detections import Detections, TrueBoxes
from cxr.metrics.average_precision import average_precision_at, cumulate_hits
from cxr.metrics.froc import recall_at_rates
from cxr.metrics.matching import ranked_hits

RATES = (0.05, 0.1, 0.2)  # false positives per image, of ChestX-Det10's own measure
# eval.py of ChestX-Det10 takes the corner x2 y2 as a pixel inside the box.
LAST_PIXEL = np.array([0, 0, 1, 1])


class Counts(NamedTuple):
    """Boxes that are kept and right, kept and false, and true boxes that are missed: arrays (t,) or
    numbers."""

    true_positives: np.ndarray
    false_positives: np.ndarray
    missed: np.ndarray


class ClassCurve(NamedTuple):
    """Arrays (k,) by descending score."""

    recall: np.ndarray
    precision: np.ndarray
    false_positives_per_image: np.ndarray


class _ImageBoxes(NamedTuple):
    """Detections of one image, each (m,): number of the image, class, score, whether it hit, and
    whether it hit by the data set's own rule."""

    image: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    hits: np.ndarray
    official_hits: np.ndarray


@dataclass
class BoxPool:
    """Grows by one image at a time; the lists have an entry for each image."""

    class_count: int
    iou_threshold: float  # a hit overlaps a true box by more than this
    ids: list[str] = field(default_factory=list)
    folds: list[int] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    true_counts: list[np.ndarray] = field(default_factory=list)  # (K,) true boxes of each class
    _boxes: list[_ImageBoxes] = field(default_factory=list)

    def add(
        self, image_id: str, fold: int, group: str, true: TrueBoxes, detections: Detections
    ) -> None:
        """Take in an image. Detections are by descending score; both in the same frame."""
        hits = np.zeros(len(detections), bool)
        official_hits = np.zeros(len(detections), bool)
        for label in range(self.class_count):
            of_class = detections.labels == label
            predicted_boxes = detections.boxes[of_class]
            true_boxes = true.of_class(label)
            hits[of_class] = ranked_hits(true_boxes, predicted_boxes, self.iou_threshold)
            official_hits[of_class] = ranked_hits(
                true_boxes + LAST_PIXEL, predicted_boxes + LAST_PIXEL, self.iou_threshold
            )
        image = np.full(len(detections), len(self.ids))
        self._boxes.append(
            _ImageBoxes(image, detections.labels, detections.scores, hits, official_hits)
        )
        self.ids.append(image_id)
        self.folds.append(fold)
        self.groups.append(group)
        self.true_counts.append(np.bincount(true.labels, minlength=self.class_count))

    def of_class(self, label: int | None) -> ClassRanking:
        """Ranking of a class; None: of the boxes of all classes together."""
        columns = [np.concatenate(column) for column in zip(*self._boxes, strict=True)]
        pooled = _ImageBoxes(*columns)
        # Sorted once here, since a bootstrap sorts again and again.
        order = np.argsort(-pooled.scores, kind="stable")
        true_counts = np.array(self.true_counts)
        if label is None:
            true_of_image = true_counts.sum(1)
        else:
            true_of_image = true_counts[:, label]
            order = order[pooled.labels[order] == label]
        return ClassRanking(
            true_of_image,
            pooled.image[order],
            pooled.scores[order],
            pooled.hits[order],
            pooled.official_hits[order],
        )

    def classes(self) -> list[ClassRanking]:
        """A ranking for each class, in the order of the labels."""
        return [self.of_class(label) for label in range(self.class_count)]


@dataclass(frozen=True, eq=False)
class ClassRanking:
    """The boxes of one class, of all images.

    true_counts: (images,) numbers of true boxes. The others have an entry for each predicted box,
    by descending score: image, its number; scores; hits, bool; official_hits, bool, hits by the
    data set's own rule.
    """

    true_counts: np.ndarray
    image: np.ndarray
    scores: np.ndarray
    hits: np.ndarray
    official_hits: np.ndarray

    def only(self, keep: np.ndarray) -> ClassRanking:
        """The same of the images with keep (images,) True; the others keep their number and have no
        boxes."""
        kept = keep[self.image]
        return ClassRanking(
            np.where(keep, self.true_counts, 0),
            self.image[kept],
            self.scores[kept],
            self.hits[kept],
            self.official_hits[kept],
        )

    def average_precision(self, weights: np.ndarray | None = None) -> float:
        """Average precision; weights (images,) say how often each image counts. nan without a true
        box."""
        if weights is None:
            weights = np.ones(len(self.true_counts))
        points = cumulate_hits(self.hits, self.scores, weights[self.image])
        return average_precision_at(points, (weights * self.true_counts).sum())

    def recalls(self) -> np.ndarray:
        """Recall (r,) at RATES, by the data set's own rule."""
        points = cumulate_hits(self.official_hits, self.scores)
        return recall_at_rates(points, self.true_counts.sum(), len(self.true_counts), RATES)

    def counts(self, thresholds: ArrayLike) -> Counts:
        """Counts, each (t,), when the boxes whose score is above a threshold are kept; thresholds
        (t,)."""
        kept = np.searchsorted(-self.scores, -np.asarray(thresholds), side="left")
        true_positives = np.concatenate([[0], self.hits.cumsum()])[kept]
        missed = self.true_counts.sum() - true_positives
        return Counts(true_positives, kept - true_positives, missed)

    def curve(self) -> ClassCurve:
        """Precision-recall curve and false positives per image; recall is nan without a true
        box."""
        points = cumulate_hits(self.hits, self.scores)
        positives = self.true_counts.sum() or np.nan
        kept = points.true_positives + points.false_positives
        images = max(1, len(self.true_counts))
        return ClassCurve(
            points.true_positives / positives,
            points.true_positives / kept,
            points.false_positives / images,
        )


def rank_rows(positive: ArrayLike, scores: ArrayLike) -> ClassRanking:
    """Ranking of rows that as a whole are of a class or not, positive (n,) bool, with scores (n,).

    The boxes of such rows are all the same, so that each positive row is hit whatever its score.
    """
    positive = np.asarray(positive, bool)
    scores = np.asarray(scores)
    order = np.argsort(-scores, kind="stable")
    hits = positive[order]
    return ClassRanking(positive.astype(int), order, scores[order], hits, hits)


def f1(
    true_positives: int | np.ndarray, false_positives: int | np.ndarray, missed: int | np.ndarray
) -> np.ndarray:
    """2 TP / (2 TP + FP + FN) of counts of any shape; nan where there is nothing to find and
    nothing was predicted."""
    doubled = 2 * np.asarray(true_positives)
    total = np.asarray(doubled + false_positives + missed, float)
    return np.divide(doubled, total, out=np.full(total.shape, np.nan), where=total > 0)
