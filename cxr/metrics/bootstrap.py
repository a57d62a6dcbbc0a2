"""95 % intervals by redrawing patients, since images of one patient are not independent."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from cxr.metrics.means import mean_known
from cxr.metrics.pooled_boxes import ClassRanking

Interval = tuple[float, float]

DRAWS = 1000
PERCENTILES = (2.5, 97.5)
UNKNOWN: Interval = (math.nan, math.nan)


def bootstrap_interval(
    scores: ArrayLike, groups: ArrayLike | None = None, draws: int = DRAWS, seed: int = 0
) -> Interval:
    """Interval of the mean of scores (n,) of images, of which those that are nan do not count;
    (nan, nan) where none counts.

    groups: (n,) patients, which are drawn whole; without them each image is drawn by itself.
    """
    scores = np.asarray(scores, float)
    if groups is None:
        patients = np.arange(len(scores))
    else:
        patients = np.unique(np.asarray(groups), return_inverse=True)[1]
    counted = ~np.isnan(scores)
    if not counted.any():
        return UNKNOWN

    totals = np.bincount(patients, np.where(counted, scores, 0))
    counts = np.bincount(patients, counted)
    generator = np.random.default_rng(seed)
    means = []
    for _ in range(draws):
        drawn = generator.integers(len(totals), size=len(totals))
        if counts[drawn].any():
            means.append(totals[drawn].sum() / counts[drawn].sum())
    return _interval(np.array(means))


def class_intervals(
    rankings: Sequence[ClassRanking], groups: ArrayLike, draws: int = DRAWS, seed: int = 0
) -> list[Interval]:
    """Intervals of the average precision of each class and, last, of their mean.

    groups: (images,) patients, which are drawn whole. (nan, nan) for a class without a true box.
    """

    def scores(weights: np.ndarray) -> list[float]:
        precisions = [ranking.average_precision(weights) for ranking in rankings]
        return [*precisions, mean_known(precisions)]

    return redrawn_intervals(groups, scores, draws, seed)


def redrawn_intervals(
    groups: ArrayLike,
    scores: Callable[[np.ndarray], Sequence[float]],
    draws: int = DRAWS,
    seed: int = 0,
) -> list[Interval]:
    """Interval of each of some scores of images, which say how often each image counts (images,).

    groups: (images,) patients, which are drawn whole. (nan, nan) for a score that never is defined.
    """
    patients = np.unique(np.array(groups, str), return_inverse=True)[1]
    count = patients.max() + 1
    generator = np.random.default_rng(seed)
    drawn_scores = []
    for _ in range(draws):
        drawn = generator.integers(count, size=count)
        weights = np.bincount(drawn, minlength=count)[patients]
        drawn_scores.append(scores(weights))
    return [_interval(column) for column in np.array(drawn_scores).T]


def _interval(values: np.ndarray) -> Interval:
    """Percentiles of drawn values (n,), of which those that are nan do not count."""
    known = values[~np.isnan(values)]
    if not len(known):
        return UNKNOWN
    low, high = np.percentile(known, PERCENTILES)
    return float(low), float(high)
