"""Boxes of many images pooled by class: the score of each and whether it hit, which is all that the measures need."""

from dataclasses import dataclass, field

import numpy as np

from cxr.metrics.boxes import area, cumulated, ranked_hits, recall_at

IOU = 0.5
RATES = (0.05, 0.1, 0.2)  # false positives per image, of ChestX-Det10's own measure
LAST_PIXEL = np.array(
    [0, 0, 1, 1]
)  # eval.py of ChestX-Det10 takes the corner x2 y2 as a pixel inside the box


@dataclass
class Pool:
    """Grows by one image at a time; the lists have an entry for each."""

    count: int  # classes
    ids: list = field(default_factory=list)
    folds: list = field(default_factory=list)
    groups: list = field(default_factory=list)
    true: list = field(default_factory=list)  # (K,) numbers of true boxes of each class
    parts: list = field(
        default_factory=list
    )  # (image, label, score, hit, hit by eval.py), each (m,)

    def add(self, image_id, fold, group, true, predicted):
        """`true`: (boxes (n, 4), labels (n,)); `predicted`: (boxes (m, 4), scores (m,) falling, labels (m,))."""
        boxes, scores, labels = predicted
        hits, own = np.zeros(len(boxes), bool), np.zeros(len(boxes), bool)
        for k in range(self.count):
            here, there = labels == k, true[1] == k
            hits[here] = ranked_hits(true[0][there], boxes[here], IOU)
            own[here] = ranked_hits(true[0][there] + LAST_PIXEL, boxes[here] + LAST_PIXEL, IOU)
        image = np.full(len(boxes), len(self.ids))
        self.ids.append(image_id)
        self.folds.append(fold)
        self.groups.append(group)
        self.true.append(np.bincount(true[1], minlength=self.count))
        self.parts.append((image, labels, scores, hits, own))

    def of_class(self, label):
        """Class of a class; None: of all classes together."""
        image, labels, scores, hits, own = (np.concatenate(part) for part in zip(*self.parts))
        here = np.argsort(-scores, kind="stable")  # once, since a bootstrap sorts again and again
        here = here if label is None else here[labels[here] == label]
        true = np.array(self.true)
        return Class(
            true.sum(1) if label is None else true[:, label],
            image[here],
            scores[here],
            hits[here],
            own[here],
        )

    def classes(self):
        return [self.of_class(k) for k in range(self.count)]


@dataclass(frozen=True)
class Class:
    """Boxes of one class: `true` (images,) true boxes; the others have an entry for each predicted box, best first."""

    true: np.ndarray
    image: np.ndarray
    scores: np.ndarray
    hits: np.ndarray
    own: np.ndarray  # hits by the data set's own rule

    def only(self, keep):
        """The same of the images with keep (images,) True; the others keep their place and have no boxes."""
        here = keep[self.image]
        return Class(
            np.where(keep, self.true, 0),
            self.image[here],
            self.scores[here],
            self.hits[here],
            self.own[here],
        )

    def ap(self, weights=None):
        """Average precision; `weights` (images,) say how often each image counts. nan without a true box."""
        weights = np.ones(len(self.true)) if weights is None else weights
        _, tp, fp = cumulated(self.hits, self.scores, weights[self.image])
        return area(tp, fp, (weights * self.true).sum())

    def recalls(self):
        """Recall (r,) at RATES, by the data set's own rule."""
        _, tp, fp = cumulated(self.own, self.scores)
        return recall_at(tp, fp, self.true.sum(), len(self.true), RATES)

    def counts(self, thresholds):
        """(true positives, false positives, missed), each (t,), of the boxes whose score is above the threshold."""
        bins = np.searchsorted(-self.scores, -np.asarray(thresholds), side="left")
        tp = np.concatenate([[0], self.hits.cumsum()])[bins]
        return tp, bins - tp, self.true.sum() - tp

    def curve(self):
        """(recall, precision, false positives per image), each (k,), by falling score."""
        _, tp, fp = cumulated(self.hits, self.scores)
        return tp / (self.true.sum() or np.nan), tp / (tp + fp), fp / max(1, len(self.true))


def ranking(positive, scores):
    """Class of rows that as a whole are (`positive` (n,) bool) or are not of a class, with a score (n,) for each.

    The boxes of such rows are all the same, so that each positive row is hit whatever its score.
    """
    order = np.argsort(-np.asarray(scores), kind="stable")
    hits = np.asarray(positive, bool)[order]
    return Class(np.asarray(positive, int), order, np.asarray(scores)[order], hits, hits)


def f1(tp, fp, missed):
    """2 TP / (2 TP + FP + FN); nan where there is nothing to find and nothing was found."""
    total = np.asarray(2 * tp + fp + missed, float)
    return np.divide(2 * tp, total, out=np.full(total.shape, np.nan), where=total > 0)
