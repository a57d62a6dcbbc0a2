"""Kaggle's "mean average precision at different intersection over union thresholds": the score of
the RSNA Pneumonia Detection Challenge, 2018.

An image's score is TP / (TP + FP + FN) as a mean over thresholds of the IoU; the score is the mean
over images. An image with neither true nor predicted boxes is left out, which nan says here.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from cxr.metrics.matching import greedy_hits, pairwise_iou
from cxr.metrics.means import mean_score

IOU_THRESHOLDS = np.array([0.40, 0.45, 0.50, 0.55, 0.60, 0.65, 0.70, 0.75])  # the competition's


def prefix_scores(true: ArrayLike, predicted: ArrayLike) -> np.ndarray:
    """Scores (..., m + 1) of one image with true boxes (n, 4) when only the first 0 ... m of the
    predicted boxes (..., m, 4) are kept; these are x1 y1 x2 y2, by descending score.

    The matching of the first k boxes is the first k of the matching, so one pass gives every k.
    Without true boxes the score is nan for none of the predicted boxes, else 0.
    """
    true = np.asarray(true)
    predicted = np.asarray(predicted, np.float64)
    if predicted.ndim == 1:  # an empty list
        predicted = predicted.reshape(0, 4)
    *several, predicted_count, _ = predicted.shape
    kept = np.arange(predicted_count + 1)
    if not len(true):
        scores = np.where(kept == 0, np.nan, 0.0)
        return np.broadcast_to(scores, (*several, len(kept)))

    overlap = pairwise_iou(predicted, true).reshape(*several, predicted_count, len(true))
    hits = greedy_hits(overlap, IOU_THRESHOLDS)
    none_kept = np.zeros((*several, 1, len(IOU_THRESHOLDS)))
    true_positives = np.concatenate([none_kept, hits.cumsum(axis=-2)], axis=-2)
    # TP + FP + FN = true + predicted - TP
    union = len(true) + kept[:, None] - true_positives
    return (true_positives / union).mean(axis=-1)


def image_score(true: ArrayLike, predicted: ArrayLike) -> float:
    """Score of one image, 0 ... 1, from true boxes (n, 4) and predicted ones (m, 4) by descending
    score; nan where it has neither."""
    return float(prefix_scores(true, predicted)[-1])


def kaggle_map(true: Mapping[str, np.ndarray], predicted: Mapping[str, np.ndarray]) -> float:
    """The competition's score from {image_id: boxes (n, 4)}; an image without predictions may be
    absent from `predicted`. Raises ValueError for predictions of an unknown image."""
    unknown = predicted.keys() - true.keys()
    if unknown:
        raise ValueError(
            f"{len(unknown)} images with predictions are not among the true ones, "
            f"such as {min(unknown)}"
        )
    scores = [image_score(boxes, predicted.get(key, ())) for key, boxes in true.items()]
    return mean_score(scores)
