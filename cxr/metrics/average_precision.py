"""Average precision of boxes that are pooled over images, as PASCAL VOC 2010 counts it.

`true`, `predicted` and `scores` are lists over images: true boxes (n, 4), predicted boxes (m, 4) by
descending score, and their scores (m,). Boxes are x1 y1 x2 y2 in one frame for each image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from cxr.geometry.detections import Detections, TrueBoxes
from cxr.metrics.matching import ranked_hits

Row = TypeVar("Row")
PerImage = Sequence[np.ndarray]  # an array for each image
COCO_IOUS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))


class OperatingPoints(NamedTuple):
    """What is counted when all boxes of at least a score are kept: arrays (k,), a point for each
    distinct score, descending."""

    scores: np.ndarray
    true_positives: np.ndarray
    false_positives: np.ndarray


class PrecisionRecall(NamedTuple):
    """Precision-recall curve: arrays (k,) by descending score."""

    precision: np.ndarray
    recall: np.ndarray
    scores: np.ndarray


def cumulate_hits(
    hits: np.ndarray, scores: np.ndarray, weights: float | np.ndarray = 1.0
) -> OperatingPoints:
    """Points of pooled boxes with hits (n,) and scores (n,). Equal scores are one point, so the
    order of the boxes does not matter.

    A box counts as often as its weight says: the number of draws of its image in a bootstrap.
    """
    order = np.argsort(-scores, kind="stable")
    hits = hits[order]
    scores = scores[order]
    weights = np.broadcast_to(weights, scores.shape)[order]
    last = np.flatnonzero(np.diff(scores, append=-np.inf))  # of each run of equal scores
    true_positives = (weights * hits).cumsum()
    false_positives = (weights * (1 - hits)).cumsum()
    return OperatingPoints(scores[last], true_positives[last], false_positives[last])


def operating_points(
    true: PerImage, predicted: PerImage, scores: PerImage, iou_threshold: float = 0.5
) -> OperatingPoints:
    """Points of the boxes of all images. ValueError where boxes and scores differ in number."""
    hits = [np.empty(0)]
    for true_boxes, predicted_boxes in zip(true, predicted, strict=True):
        hits.append(ranked_hits(true_boxes, predicted_boxes, iou_threshold))
    pooled_hits = np.concatenate(hits)
    pooled_scores = np.concatenate([np.empty(0), *scores])
    if len(pooled_hits) != len(pooled_scores):
        raise ValueError(f"{len(pooled_hits)} boxes but {len(pooled_scores)} scores")
    return cumulate_hits(pooled_hits, pooled_scores)


def precision_recall(
    true: PerImage, predicted: PerImage, scores: PerImage, iou_threshold: float = 0.5
) -> PrecisionRecall:
    """Precision-recall curve of the boxes of all images; recall is nan where no true box exists."""
    points = operating_points(true, predicted, scores, iou_threshold)
    kept = points.true_positives + points.false_positives
    positives = sum(map(len, true)) or np.nan
    return PrecisionRecall(
        points.true_positives / kept, points.true_positives / positives, points.scores
    )


def average_precision(
    true: PerImage, predicted: PerImage, scores: PerImage, iou_threshold: float = 0.5
) -> float:
    """Area under the precision-recall curve of the boxes of all images; nan where no true box
    exists."""
    points = operating_points(true, predicted, scores, iou_threshold)
    return average_precision_at(points, sum(map(len, true)))


def coco_average_precision(true: PerImage, predicted: PerImage, scores: PerImage) -> float:
    """Mean average precision over the overlaps COCO_IOUS; nan where no true box exists.

    COCO reads the curve at 101 recalls; here it is the whole area under it.
    """
    precisions = [average_precision(true, predicted, scores, iou) for iou in COCO_IOUS]
    return float(np.mean(precisions))


def average_precision_at(points: OperatingPoints, positives: float) -> float:
    """Average precision of operating points where there are `positives` true boxes; nan where there
    are none.

    The area under the curve at all its points, with precision made descending (VOC 2010).
    """
    if not positives:
        return float("nan")
    kept = points.true_positives + points.false_positives
    counted = kept > 0  # with weights a box may count nothing
    true_positives = points.true_positives[counted]
    precision = true_positives / kept[counted]
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    steps = np.diff(true_positives / positives, prepend=0.0)
    return float(np.sum(steps * envelope))


def class_average_precisions(
    true: Mapping[Row, TrueBoxes],
    detections: Mapping[Row, Detections],
    names: Sequence[str],
    iou_threshold: float = 0.5,
) -> dict[str, float]:
    """{name: average precision of the class}, classes in the order of their labels; nan for a class
    without a true box.

    ValueError where truth and detections are not of the same rows: a missing one would hide false
    boxes, a further one true ones.
    """
    one_sided = true.keys() ^ detections.keys()
    if one_sided:
        raise ValueError(f"{min(map(str, one_sided))} has either truth or predictions, not both")
    ranked = {row: of_row.sorted() for row, of_row in detections.items()}
    result = {}
    for label, name in enumerate(names):
        true_boxes = []
        predicted_boxes = []
        scores = []
        for row, of_row in true.items():
            of_class = ranked[row].of_class(label)
            true_boxes.append(of_row.of_class(label))
            predicted_boxes.append(of_class.boxes)
            scores.append(of_class.scores)
        result[name] = average_precision(true_boxes, predicted_boxes, scores, iou_threshold)
    return result
