"""Search of the post-processing on out-of-fold predictions with the exact metric, and its honest estimate.

Every image is visited once; what is kept are sums over images for each combination of parameters, so memory does not
grow with the number of images, and any choice of folds to fit on is a sum of those sums.
"""

import zlib
from collections import defaultdict
from dataclasses import dataclass, field, replace
from itertools import product
from typing import NamedTuple

import numpy as np

from cxr.methods.detector.records import (
    NO_SHRINK,
    Candidates,
    Params,
    above_half,
    gated_scores,
    merge_boxes,
    scale_boxes,
    usable_boxes,
)
from cxr.metrics.kaggle_map import image_score, prefix_scores

NEARBY = 0.2  # share of a threshold; on some hundred images the score is no smoother than that
AXES = ("percentile_shrink", "scale", "merge", "gate", "half", "threshold")


class Part(NamedTuple):
    """Images that are always fitted on or held out together."""

    fold: int
    half: int
    test_like: bool


class Case(NamedTuple):
    """One image of the search: its candidates, its true boxes (n, 4) and where it belongs."""

    candidates: Candidates
    boxes: np.ndarray
    fold: int
    test_like: bool = False
    group: str = ""  # patient; images without one are their own group
    labels: np.ndarray = np.zeros(0, int)  # classes (n,) of the true boxes

    @property
    def part(self):
        # A checksum, since Python's own hash of a text differs from process to process.
        half = zlib.crc32((self.group or self.candidates.image_id).encode()) % 2
        return Part(int(self.fold), half, bool(self.test_like))


@dataclass(frozen=True)
class Grid:
    """Values to combine, the plainest first, because ties go to the first. `base` holds what is not searched.

    Both shrinks are combined freely: 30 pairs cost little and either can be the better imitation of the labels.
    """

    percentile_shrink: tuple = (NO_SHRINK, 0.0, 0.8, 1.6, 2.4)  # 1.6 was published
    scale: tuple = (1.0, 0.95, 0.9, 0.875, 0.85, 0.8)  # 0.875 was published
    merge: tuple = ("nms", "wbf")
    gate: tuple = (False, True)
    half: tuple = (False, True)
    threshold: tuple = tuple(
        round(0.05 * step, 2) for step in range(1, 81)
    )  # published: up to 2, for lower scores
    base: Params = field(default_factory=Params)

    @property
    def shape(self):
        return tuple(len(getattr(self, axis)) for axis in AXES)

    def params(self, index):
        """The Params at an index of six integers."""
        return replace(
            self.base, **{axis: getattr(self, axis)[i] for axis, i in zip(AXES, index, strict=True)}
        )

    def index(self, params):
        """Inverse of `params`; ValueError where a value is not in the grid."""
        return tuple(getattr(self, axis).index(getattr(params, axis)) for axis in AXES)


@dataclass(frozen=True)
class Tally:
    """For each part the sum of image scores and the number of counted images, (2, *grid.shape)."""

    grid: Grid
    parts: dict

    def only(self, **values):
        """The same search over fewer values: `only(gate=(False,))`. ValueError where a value is not in the grid."""
        unknown = values.keys() - set(AXES)
        if unknown:
            raise ValueError(f"{sorted(unknown)} are not searched; the parameters are {AXES}")
        grid = replace(self.grid, **{axis: tuple(some) for axis, some in values.items()})
        picks = [
            [getattr(self.grid, axis).index(value) for value in getattr(grid, axis)]
            for axis in AXES
        ]
        return Tally(
            grid, {part: table[np.ix_(range(2), *picks)] for part, table in self.parts.items()}
        )

    def means(self, keep=lambda part: True):
        """Mean score of each combination, grid.shape, over the parts with `keep(part)`; 0 where no image counts."""
        sums, counts = sum(
            (table for part, table in self.parts.items() if keep(part)),
            np.zeros((2, *self.grid.shape)),
        )
        return np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0)


@dataclass(frozen=True)
class Outcome:
    """`held_out[part]`: the parameters that were fitted without the images of that part; `final`: fitted on all.

    `score` is the mean over the held-out images, each with the parameters fitted without it, `counted` their number,
    `score_test_like` the same over the test-like ones among them.
    """

    final: Params
    held_out: dict
    score: float
    counted: int
    score_test_like: float

    def params_for(self, case):
        """Parameters that were not fitted on this image; None where all were."""
        return self.held_out.get(case.part)


def kept_counts(scores, category_gate, grid):
    """Number of boxes kept for each (gate, half, threshold), of merged scores (n,) sorted falling."""
    counts = np.empty(grid.shape[3:], int)
    for (g, gate), (h, half) in product(enumerate(grid.gate), enumerate(grid.half)):
        final = gated_scores(scores, category_gate, gate)
        kept = np.searchsorted(
            -final, -np.array(grid.threshold), side="left"
        )  # final > threshold, strictly
        counts[g, h] = np.minimum(kept, above_half(scores)) if half else kept
    return counts


def combination_scores(case, grid, gate_weights):
    """Score of one image for every combination, grid.shape; nan where it does not count.

    One matching per size and merge; gate, half and threshold only say how many of the boxes remain.
    """
    candidates, scales = case.candidates, np.reshape(grid.scale, (-1, 1, 1))
    values = np.empty(grid.shape)
    category_gate = float(np.dot(candidates.category, gate_weights))
    for s, shrink in enumerate(grid.percentile_shrink):
        usable = usable_boxes(candidates, replace(grid.base, percentile_shrink=shrink))
        if not len(case.boxes):  # then only the best score counts, and no merge or scale changes it
            best = usable[1][:1]
            values[s] = np.where(kept_counts(best, category_gate, grid) > 0, 0.0, np.nan)
            continue
        for m, merge in enumerate(grid.merge):
            boxes, scores, _ = merge_boxes(candidates, *usable, replace(grid.base, merge=merge))
            scaled = scale_boxes(boxes, scales, candidates.width, candidates.height)
            prefix = prefix_scores(case.boxes, scaled)
            values[s, :, m] = prefix[:, kept_counts(scores, category_gate, grid)]
    return values


def search(cases, grid, gate_weights):
    """Tally of an iterable of Case, read once."""
    parts = defaultdict(lambda: np.zeros((2, *grid.shape)))
    for case in cases:
        values = combination_scores(case, grid, gate_weights)
        counted = ~np.isnan(values)
        parts[case.part] += np.stack([np.where(counted, values, 0.0), counted])
    return Tally(grid, dict(parts))


def fit(tally, keep=lambda part: True):
    """The best Params over the parts with `keep(part)`.

    The mean over all thresholds within NEARBY of one is compared, not the single value: with few positive images the
    score jumps from threshold to threshold, and a lone peak does not return on other images. Among ties the plainest
    values win and then the middle threshold; so without any image to fit on the result is the plainest.
    """
    threshold = np.array(tally.grid.threshold)
    near = np.abs(threshold - threshold[:, None]) <= NEARBY * threshold[:, None]
    smooth = tally.means(keep) @ (near / near.sum(1, keepdims=True)).T
    tied = np.argwhere(smooth >= smooth.max() - 1e-9)  # in the order of the grid
    tied = tied[(tied[:, :-1] == tied[0, :-1]).all(axis=1)]
    return tally.grid.params(tied[len(tied) // 2])


def judge(tally, final, held_out):
    """Outcome with the scores of each part under the parameters held out for it."""

    def total(test_like):
        tables = [
            tally.parts[part][(slice(None), *tally.grid.index(params))]
            for part, params in held_out.items()
            if part.test_like >= test_like
        ]
        return sum(tables, np.zeros(2))

    (score, counted), (like, like_counted) = total(False), total(True)
    return Outcome(
        final,
        held_out,
        float(score / max(1, counted)),
        int(counted),
        float(like / max(1, like_counted)),
    )


def nested(tally):
    """Outcome with the parameters of each fold fitted on the other folds.

    Where there is one fold only, its two halves by patient take the place of folds.
    """
    single = len({part.fold for part in tally.parts}) < 2
    name = (lambda part: part.half) if single else (lambda part: part.fold)
    fitted = {
        unit: fit(tally, lambda part: name(part) != unit)
        for unit in {name(part) for part in tally.parts}
    }
    return judge(tally, fit(tally), {part: fitted[name(part)] for part in tally.parts})


def transfer(tally):
    """Outcome with the parameters fitted on the test-like images and scored on all others.

    Raises ValueError where no image is test-like.
    """
    if not any(part.test_like for part in tally.parts):
        raise ValueError("no image is marked test_like: fit on the folds instead")
    final = fit(tally, lambda part: part.test_like)
    return judge(tally, final, {part: final for part in tally.parts if not part.test_like})


def sensitivity(tally, best):
    """{parameter: [(value, mean score over all images), ...]} with the other parameters held at `best`."""
    means, index = tally.means(), tally.grid.index(best)
    lines = (means[(*index[:i], slice(None), *index[i + 1 :])] for i in range(len(AXES)))
    return {
        axis: list(zip(getattr(tally.grid, axis), line.tolist())) for axis, line in zip(AXES, lines)
    }


def constant_scores(true_boxes, constant):
    """Score of each image (nan where not counted) when all get the same boxes: the baseline that looks at nothing.

    `true_boxes` is an iterable of (n, 4); `constant` a list of (confidence, (x1, y1, x2, y2)).
    """
    boxes = np.array(
        [box for _, box in sorted(constant, key=lambda pair: -pair[0])], float
    ).reshape(-1, 4)
    return np.array([image_score(true, boxes) for true in true_boxes])
