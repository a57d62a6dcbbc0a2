"""The simplest rule that is as good as the best one, as far as the images can tell.

Every idea of the search (gate, shrink, fusion ...) is one more thing that fits the images it was
found on. So the one with the fewest ideas is taken whose score lies within one standard error of
the best one's (the rule of Breiman et al. 1984, "Classification and regression trees", 3.4.3).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from cxr.methods.detector.records import Params
from cxr.methods.detector.search import (
    AXES,
    FittingUnit,
    Tally,
    best_index,
    threshold_weights,
)

# The axes of each idea, which is left out where all of them have their first value.
IDEAS = (
    ("votes",),
    ("lone",),
    ("nms_iou",),
    ("percentile_shrink", "scale"),
    ("merge",),
    ("gate_by", "gate"),
    ("half",),
)


class Candidate(NamedTuple):
    """The best rule with no other ideas than some.

    ideas: number of these. score: smoothed, as the search compares it. place: index into the grid.
    """

    ideas: int
    score: float
    place: tuple[int, ...]


def fit_simplest(tally: Tally, units: Collection[FittingUnit] | None = None) -> Params:
    """As `search.fit`, but the fewest ideas within one standard error of the best."""
    chosen_units = list(tally.tables if units is None else units)
    weights = threshold_weights(tally.grid)
    smooth = tally.means(chosen_units) @ weights.T
    best = best_index(smooth)
    for candidate in sorted(
        candidates_of(tally, smooth), key=lambda each: (each.ideas, -each.score)
    ):
        error = error_of_difference(tally, chosen_units, weights, best, candidate.place)
        if smooth[best] - candidate.score <= error:
            return tally.grid.params(candidate.place)
    return tally.grid.params(best)


def candidates_of(tally: Tally, smooth: np.ndarray) -> Iterator[Candidate]:
    """Yield the best rule of every set of ideas that the grid has."""
    searched = []
    for idea in IDEAS:
        if any(len(tally.grid.values(axis)) > 1 for axis in idea):
            searched.append(idea)
    for count in range(len(searched) + 1):
        for chosen in combinations(searched, count):
            axes = {"threshold", *(axis for idea in chosen for axis in idea)}
            part = tuple(slice(None) if axis in axes else slice(1) for axis in AXES)
            index = best_index(smooth[part])
            yield Candidate(count, float(smooth[index]), index)


def error_of_difference(
    tally: Tally,
    units: Sequence[FittingUnit],
    weights: np.ndarray,
    one: tuple[int, ...],
    other: tuple[int, ...],
) -> float:
    """Standard error of the difference of two smoothed scores of the same images.

    By the jackknife over the units: each is left out in turn (Efron and Tibshirani 1993, 11.5).
    """
    count = len(units)
    if count < 2:
        return 0.0
    curves = []
    for index in (one, other):
        curve: tuple[Any, ...] = (slice(None), *index[:-1])
        of_units = np.array([tally.tables[unit][curve] for unit in units])
        without_one = of_units.sum(0) - of_units  # (units, 2, thresholds)
        sums = without_one[:, 0]
        counts = without_one[:, 1]
        means = np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0)
        curves.append(means @ weights[index[-1]])
    difference = curves[0] - curves[1]
    spread = ((difference - difference.mean()) ** 2).sum()
    return float(np.sqrt(spread * (count - 1) / count))
