"""Free-response operating characteristic: recall against false positives per image."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from cxr.metrics.average_precision import OperatingPoints, PerImage, operating_points


class FrocCurve(NamedTuple):
    """Arrays (k,) by descending score."""

    false_positives_per_image: np.ndarray
    recall: np.ndarray


def froc(
    true: PerImage, predicted: PerImage, scores: PerImage, iou_threshold: float = 0.5
) -> FrocCurve:
    """Curve of lists over images: true boxes (n, 4), predicted boxes (m, 4) by descending score,
    scores (m,). Recall is nan where no true box exists."""
    points = operating_points(true, predicted, scores, iou_threshold)
    positives = sum(map(len, true)) or np.nan
    images = max(1, len(true))
    return FrocCurve(points.false_positives / images, points.true_positives / positives)


def recall_at_rates(
    points: OperatingPoints, positives: float, images: int, rates: ArrayLike
) -> np.ndarray:
    """Highest recall (r,) with at most so many false positives per image, rates (r,); nan without
    positives.

    This is the sensitivity of ChestX-Det10's eval.py, which takes the left one of two neighbouring
    points of the curve, too.
    """
    rates = np.asarray(rates)
    if not positives:
        return np.full(len(rates), np.nan)
    per_image = points.false_positives / images
    allowed = np.searchsorted(per_image, rates + 1e-12, side="right")
    true_positives = np.concatenate([[0.0], points.true_positives])
    return true_positives[allowed] / positives
