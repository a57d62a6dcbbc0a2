"""Which predicted boxes of an image hit a true one: the two rules of the field.

Boxes are arrays (n, 4) x1 y1 x2 y2 in one frame, predicted ones by descending score.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike

from cxr.geometry.boxes import box_iou
from cxr.geometry.detections import Detections

SAME_PLACE = 0.5  # IoU from which on two networks speak of one finding


def pairwise_iou(predicted: ArrayLike, true: ArrayLike) -> np.ndarray:
    """Intersection over union (m, n), in float64, of boxes (m, 4) with boxes (n, 4); 0 for two
    boxes without area."""
    predicted_boxes = torch.from_numpy(np.asarray(predicted, np.float64).reshape(-1, 4))
    true_boxes = torch.from_numpy(np.asarray(true, np.float64).reshape(-1, 4))
    return np.nan_to_num(box_iou(predicted_boxes, true_boxes).numpy())


def scores_at(asked: Detections, answer: Detections) -> np.ndarray:
    """What `answer` says of each box (n,) that is asked: the best score of its boxes of the same
    class whose IoU with it is at least SAME_PLACE, 0 without any."""
    if not len(answer):
        return np.zeros(len(asked))
    is_same = pairwise_iou(asked.boxes, answer.boxes) >= SAME_PLACE
    is_same &= asked.labels[:, None] == answer.labels
    return np.where(is_same, answer.scores, 0.0).max(axis=1)


def greedy_hits(overlap: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Which predictions hit, (..., m, t) bool, for IoU (..., m, n) and thresholds (t,).

    In the order of the rows, a prediction takes the free true box of highest IoU if that IoU is
    above the threshold.
    """
    *several, predicted_count, true_count = overlap.shape
    hits = np.zeros((*several, predicted_count, len(thresholds)), bool)
    free = np.ones((*several, len(thresholds), true_count), bool)
    close = overlap.max(axis=-1, initial=0) > thresholds.min()
    for i in np.flatnonzero(close.any(axis=tuple(range(len(several))))):
        available = np.where(free, overlap[..., i, None, :], -1.0)
        hits[..., i, :] = available.max(axis=-1) > thresholds
        taken = np.arange(true_count) == available.argmax(axis=-1)[..., None]
        free &= ~(taken & hits[..., i, :, None])
    return hits


def ranked_hits(true: np.ndarray, predicted: np.ndarray, iou_threshold: float) -> np.ndarray:
    """Which predictions (m, 4) hit, (m,) bool, by the rule of PASCAL VOC 2010.

    A prediction belongs to the true box of highest IoU. The first one of each true box that is
    above the threshold is a hit, further ones are false. (`greedy_hits` would let them fall back on
    the next true box.)
    """
    hits = np.zeros(len(predicted), bool)
    if not len(true) or not len(predicted):
        return hits
    overlap = pairwise_iou(predicted, true)
    close = np.flatnonzero(overlap.max(axis=1) > iou_threshold)
    best_true = overlap[close].argmax(axis=1)
    _, first = np.unique(best_true, return_index=True)
    hits[close[first]] = True
    return hits
