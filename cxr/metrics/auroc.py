"""Area under the receiver operating characteristic, and how well probabilities are calibrated."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

BINS = 10


def auroc(positive: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Probability that a positive row has a higher score than a negative one, ties counting half.

    positive (n,) bool, scores (n,), weights (n,): how often each row counts. nan without rows of
    both kinds.
    """
    positive = np.asarray(positive, bool)
    if weights is None:
        weights = np.ones(len(positive))
    weights = np.asarray(weights, float)
    _, places = np.unique(np.asarray(scores), return_inverse=True)
    of_positive = np.bincount(places, weights * positive)
    of_negative = np.bincount(places, weights * ~positive)
    pairs = of_positive.sum() * of_negative.sum()
    if not pairs:
        return math.nan
    below = np.cumsum(of_negative) - of_negative
    return float((of_positive * (below + of_negative / 2)).sum() / pairs)


def calibration_error(positive: ArrayLike, scores: ArrayLike) -> float:
    """Expected calibration error: the mean distance of probability and share of positive rows,
    over BINS bins of equal width, weighted by their rows (Guo et al. 2017, equation 3)."""
    positive = np.asarray(positive, bool)
    scores = np.asarray(scores, float)
    bins = np.clip((scores * BINS).astype(int), 0, BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    truth = np.bincount(bins, positive, minlength=BINS)
    stated = np.bincount(bins, scores, minlength=BINS)
    return float(np.abs(truth - stated).sum() / max(1, counts.sum()))
