"""Search of the post-processing on out-of-fold predictions with the exact metric, and its honest
estimate.

Every image is visited once; what is kept are sums over images for each combination of parameters,
so memory does not grow with the number of images, and any choice of folds to fit on is a sum of
those sums.
"""

from __future__ import annotations

import math
import zlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from cxr.methods.detector.records import (
    NO_SHRINK,
    BoxCase,
    Params,
    count_above_half,
    gated_scores,
    merge_overlaps,
    scale_boxes,
    usable_detections,
)
from cxr.metrics.kaggle_map import image_score, prefix_scores

NEARBY = 0.2  # share of a threshold; on some hundred images the score is no smoother than that
PARTS = 8  # of a fold; even, since the halves of a lone fold are every second of them
OUTER_AXES = ("votes", "lone", "nms_iou")  # each value needs a suppression of its own
AXES = (
    *OUTER_AXES,
    *("percentile_shrink", "scale", "merge", "gate_by", "gate", "half", "threshold"),
)

# The answer that looks at nothing: (confidence, box x1 y1 x2 y2 in original pixels) for each box.
ConstantGuess = Sequence[tuple[float, tuple[float, float, float, float]]]


class FittingUnit(NamedTuple):
    """Images that are always fitted on or held out together.

    part: below PARTS, the same for all images of a patient.
    """

    fold: int
    part: int
    test_like: bool


def unit_of(case: BoxCase) -> FittingUnit:
    # A checksum, since Python's own hash of a text differs from process to process.
    patient = case.group or case.candidates.image_id
    part = zlib.crc32(patient.encode()) % PARTS
    return FittingUnit(int(case.fold), part, bool(case.test_like))


@dataclass(frozen=True)
class Grid:
    """Values to combine, the plainest first, because ties go to the first.

    Both shrinks are combined freely: 30 pairs cost little and either can be the better imitation of
    the labels. base: holds what is not searched.
    """

    percentile_shrink: tuple[float, ...] = (NO_SHRINK, 0.0, 0.8, 1.6, 2.4)  # 1.6 was published
    scale: tuple[float, ...] = (1.0, 0.95, 0.9, 0.875, 0.85, 0.8)  # 0.875 was published
    merge: tuple[str, ...] = ("nms", "wbf")
    gate: tuple[bool, ...] = (False, True)
    half: tuple[bool, ...] = (False, True)
    # Published: up to 2, for lower scores.
    threshold: tuple[float, ...] = tuple(round(0.05 * step, 2) for step in range(1, 81))
    base: Params = field(default_factory=Params)
    nms_iou: tuple[float, ...] = (Params.nms_iou,)
    votes: tuple[float, ...] = (Params.votes,)
    lone: tuple[float, ...] = (Params.lone,)
    gate_by: tuple[str, ...] = (Params.gate_by,)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(self.values(axis)) for axis in AXES)

    def values(self, axis: str) -> tuple[Any, ...]:
        """The values of a parameter."""
        return getattr(self, axis)

    def params(self, index: Sequence[int]) -> Params:
        """The Params at an index of one integer for each axis."""
        chosen = {}
        for axis, i in zip(AXES, index, strict=True):
            chosen[axis] = self.values(axis)[i]
        return replace(self.base, **chosen)

    def index(self, params: Params) -> tuple[int, ...]:
        """Inverse of `params`; ValueError where a value is not in the grid."""
        return tuple(self.values(axis).index(getattr(params, axis)) for axis in AXES)


@dataclass(frozen=True)
class Tally:
    """For each unit the sum of image scores and the number of counted images, (2, *grid.shape)."""

    grid: Grid
    tables: dict[FittingUnit, np.ndarray]

    def only(self, **values: Sequence[Any]) -> Tally:
        """The same search over fewer values: `only(gate=(False,))`. ValueError where a value is not
        in the grid."""
        unknown = values.keys() - set(AXES)
        if unknown:
            raise ValueError(f"{sorted(unknown)} are not searched; the parameters are {AXES}")
        fewer: dict[str, Any] = {axis: tuple(chosen) for axis, chosen in values.items()}
        grid = replace(self.grid, **fewer)
        index: list[Sequence[int]] = [range(2)]
        for axis in AXES:
            all_values = self.grid.values(axis)
            index.append([all_values.index(value) for value in grid.values(axis)])
        tables = {unit: table[np.ix_(*index)] for unit, table in self.tables.items()}
        return Tally(grid, tables)

    def means(self, units: Collection[FittingUnit] | None = None) -> np.ndarray:
        """Mean score of each combination, grid.shape, over the images of these units (default:
        all); 0 where no image counts."""
        total = np.zeros((2, *self.grid.shape))
        for unit, table in self.tables.items():
            if units is None or unit in units:
                total += table
        sums, counts = total
        return np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0)


@dataclass(frozen=True)
class Outcome:
    """What a search found, and how good that is.

    final: parameters fitted on all images. held_out: {unit: those fitted without its images}.
    score: the mean over the held-out images, each with the parameters fitted without it; counted:
    their number. score_test_like: the same over the test-like ones among them, nan
    without any.
    """

    final: Params
    held_out: dict[FittingUnit, Params]
    score: float
    counted: int
    score_test_like: float

    def params_for(self, case: BoxCase) -> Params | None:
        """Parameters that were not fitted on this image; None where all were."""
        return self.held_out.get(unit_of(case))


def kept_counts(scores: np.ndarray, category_gates: Sequence[float], grid: Grid) -> np.ndarray:
    """Number of boxes kept for each (gate_by, gate, half, threshold).

    scores: merged ones (n,), descending. category_gates: of each `gate_by` of the grid.
    """
    counts = np.empty(grid.shape[-4:], int)
    thresholds = np.array(grid.threshold)
    above_half = count_above_half(scores)
    for b, category_gate in enumerate(category_gates):
        for g, gate in enumerate(grid.gate):
            final = gated_scores(scores, category_gate, gate)
            kept = np.searchsorted(-final, -thresholds, side="left")  # final > threshold, strictly
            for h, half in enumerate(grid.half):
                counts[b, g, h] = kept
                if half:
                    counts[b, g, h] = np.minimum(kept, above_half)
    return counts


def combination_scores(case: BoxCase, grid: Grid, gate_weights: Sequence[float]) -> np.ndarray:
    """Score of one image for every combination, grid.shape; nan where it does not count.

    One matching per size and merge; gate, half and threshold only say how many of the boxes remain.
    """
    category_gates = [case.candidates.gate(gate_weights, gate_by) for gate_by in grid.gate_by]
    by_suppression = []
    for votes, lone, nms_iou in product(grid.votes, grid.lone, grid.nms_iou):
        base = replace(grid.base, votes=votes, lone=lone, nms_iou=nms_iou)
        by_suppression.append(scores_of_suppression(case, replace(grid, base=base), category_gates))
    return np.stack(by_suppression).reshape(grid.shape)


def scores_of_suppression(case: BoxCase, grid: Grid, category_gates: Sequence[float]) -> np.ndarray:
    """The same for the one set of OUTER_AXES that the grid's base has, of the other axes."""
    candidates = case.candidates
    true_boxes = case.true.boxes
    scales = np.reshape(grid.scale, (-1, 1, 1))
    scores = np.empty(grid.shape[len(OUTER_AXES) :])
    for s, shrink in enumerate(grid.percentile_shrink):
        usable = usable_detections(candidates, replace(grid.base, percentile_shrink=shrink))
        if not len(true_boxes):
            # Then only the best score counts, and no merge or scale changes it.
            counts = kept_counts(usable.scores[:1], category_gates, grid)
            scores[s] = np.where(counts > 0, 0.0, np.nan)
            continue
        for m, merge in enumerate(grid.merge):
            merged = merge_overlaps(usable, candidates, replace(grid.base, merge=merge))
            scaled = scale_boxes(merged.boxes, scales, candidates.width, candidates.height)
            prefix = prefix_scores(true_boxes, scaled)
            scores[s, :, m] = prefix[:, kept_counts(merged.scores, category_gates, grid)]
    return scores


def search(cases: Iterable[BoxCase], grid: Grid, gate_weights: Sequence[float]) -> Tally:
    """Tally of some cases, read once."""
    tables: dict[FittingUnit, np.ndarray] = defaultdict(lambda: np.zeros((2, *grid.shape)))
    for case in cases:
        scores = combination_scores(case, grid, gate_weights)
        counted = ~np.isnan(scores)
        tables[unit_of(case)] += np.stack([np.where(counted, scores, 0.0), counted])
    return Tally(grid, dict(tables))


def fit(tally: Tally, units: Collection[FittingUnit] | None = None) -> Params:
    """The best Params for the images of these units (default: all).

    The mean over all thresholds within NEARBY of one is compared, not the single value: with few
    positive images the score jumps from threshold to threshold, and a lone peak does not return on
    other images.
    """
    smooth = tally.means(units) @ threshold_weights(tally.grid).T
    return tally.grid.params(best_index(smooth))


def threshold_weights(grid: Grid) -> np.ndarray:
    """(T, T) how much each threshold counts in the smoothed score of each."""
    threshold = np.array(grid.threshold)
    near = np.abs(threshold - threshold[:, None]) <= NEARBY * threshold[:, None]
    return near / near.sum(1, keepdims=True)


def best_index(smooth: np.ndarray) -> tuple[int, ...]:
    """Where smoothed scores, grid.shape, are highest.

    Among ties the plainest values win and then the middle threshold; so without any image to fit on
    the result is the plainest.
    """
    tied = np.argwhere(smooth >= smooth.max() - 1e-9)  # in the order of the grid
    plainest = (tied[:, :-1] == tied[0, :-1]).all(axis=1)
    tied = tied[plainest]
    return tuple(tied[len(tied) // 2].tolist())


# Fits parameters on the images of some units, by default of all.
Choose = Callable[[Tally, Collection[FittingUnit] | None], Params]


def judge(tally: Tally, final: Params, held_out: dict[FittingUnit, Params]) -> Outcome:
    """Outcome with the scores of each unit under the parameters held out for it."""
    total = np.zeros(2)
    test_like = np.zeros(2)
    for unit, params in held_out.items():
        index: tuple[Any, ...] = (slice(None), *tally.grid.index(params))
        score_and_count = tally.tables[unit][index]
        total += score_and_count
        if unit.test_like:
            test_like += score_and_count
    return Outcome(
        final=final,
        held_out=held_out,
        score=float(total[0] / max(1, total[1])),
        counted=int(total[1]),
        score_test_like=float(test_like[0] / test_like[1]) if test_like[1] else math.nan,
    )


def nested(tally: Tally, choose: Choose = fit) -> Outcome:
    """Outcome with the parameters of each fold fitted on the other folds.

    choose: fits them. Where there is one fold only, its two halves by patient take the place of
    folds.
    """
    single_fold = len({unit.fold for unit in tally.tables}) < 2
    numbers = {}
    for unit in tally.tables:
        numbers[unit] = unit.part % 2 if single_fold else unit.fold
    fitted = {}
    for number in set(numbers.values()):
        others = [unit for unit in tally.tables if numbers[unit] != number]
        fitted[number] = choose(tally, others)
    held_out = {unit: fitted[number] for unit, number in numbers.items()}
    return judge(tally, choose(tally, None), held_out)


def transfer(tally: Tally, choose: Choose = fit) -> Outcome:
    """Outcome with the parameters fitted on the test-like images and scored on all others.

    choose: fits them. Raises ValueError where no image is test-like.
    """
    test_like = [unit for unit in tally.tables if unit.test_like]
    if not test_like:
        raise ValueError("no image is marked test_like: fit on the folds instead")
    final = choose(tally, test_like)
    held_out = {unit: final for unit in tally.tables if not unit.test_like}
    return judge(tally, final, held_out)


def sensitivity(tally: Tally, best: Params) -> dict[str, list[tuple[Any, float]]]:
    """{parameter: [(value, mean score over all images), ...]} with the other parameters held at
    `best`, of the parameters that have several values."""
    means = tally.means()
    index = tally.grid.index(best)
    lines = {}
    for number, axis in enumerate(AXES):
        if len(tally.grid.values(axis)) == 1:
            continue
        line: list[Any] = list(index)
        line[number] = slice(None)
        scores = means[tuple(line)]
        lines[axis] = list(zip(tally.grid.values(axis), scores.tolist(), strict=True))
    return lines


def constant_scores(true_boxes: Iterable[np.ndarray], guess: ConstantGuess) -> np.ndarray:
    """Score of each image (nan where not counted) when all get the same boxes: the baseline that
    looks at nothing. true_boxes: of each image, (n, 4)."""
    descending = sorted(guess, key=lambda pair: -pair[0])
    boxes = np.array([box for _, box in descending], float).reshape(-1, 4)
    return np.array([image_score(true, boxes) for true in true_boxes])
