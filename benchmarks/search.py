"""How much faster is the search of the post-processing than the plain loops over parameters, images
and thresholds?

    python benchmarks/search.py                 2,000 images
    python benchmarks/search.py --images 60 --sampled-images 6 --sampled-combinations 8
                                                a quick try

To reach: at least 50 times as fast with 500 or more combinations, and each grid in under 2 minutes.
The loops take days, so they run on images and combinations drawn at random and their time is scaled
up linearly; there both must find the same score for every combination.
"""

from __future__ import annotations

import math
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from timing import Row, arguments, at_least, duration, measure, show

from cxr.datasets.rsna.dataset import GATE_WEIGHTS
from cxr.geometry.detections import TrueBoxes
from cxr.methods.detector.records import NO_SHRINK, BoxCase, Candidates, detect
from cxr.methods.detector.search import Grid, search
from cxr.metrics.kaggle_map import IOU_THRESHOLDS

FRAME = 1024  # pixels of an RSNA image
FLOOR = 0.01  # score below which step 04 keeps no anchor
FOLDS = 4
MOST_SECONDS = 120
# The published values and their absence: the least grid that is worth a search, and the hardest one
# to be faster on.
PUBLISHED = Grid(
    percentile_shrink=(NO_SHRINK, 1.6),
    scale=(1.0, 0.875),
    threshold=tuple(round(0.1 * step, 1) for step in range(1, 21)),
)

Box = list[float]  # x1 y1 x2 y2 in pixels
Index = tuple[int, ...]  # of a combination in a grid


def draw_case(rng: np.random.Generator, number: int) -> BoxCase:
    """An image as step 04 leaves it: 50 to 1,000 anchors crowd around a few places, on one image in
    four opacities."""
    opacities = 0
    if number % FOLDS == 0:
        opacities = int(rng.integers(1, 4))
    place_count = opacities + int(rng.integers(3, 9))
    size = rng.uniform(120, 420, (place_count, 2))
    centre = rng.uniform(size / 2, FRAME - size / 2)
    opacity_peaks = rng.beta(4, 4, opacities)
    other_peaks = rng.beta(1, 12, place_count - opacities)
    peak = np.concatenate([opacity_peaks, other_peaks])

    # The anchors: where they are, and their scores, most of which are low.
    log_anchors = rng.uniform(np.log(50), np.log(1000))
    anchors = int(np.exp(log_anchors))
    place = rng.integers(place_count, size=anchors)
    above_floor = np.maximum(peak[place] / FLOOR, 1.05)
    score = FLOOR * above_floor ** (rng.random(anchors) ** 2)
    order = np.argsort(-score)
    place = place[order]
    score = score[order]

    # What the models say of them.
    shift = rng.normal(0, 0.15, (anchors, 2))
    moved = centre[place] + shift * size[place]
    growth = rng.normal(0, 0.25, (anchors, 2))
    votes = size[place] * np.exp(growth)
    spread = np.exp(rng.uniform(0, 0.15, (anchors, 2)))
    category = rng.dirichlet((1, 2, 5) if opacities else (4, 4, 1))
    candidates = Candidates(
        image_id=f"image-{number:06d}",
        width=FRAME,
        height=FRAME,
        category=category.astype(np.float32),
        centre=moved.astype(np.float32),
        size20=(votes / spread).astype(np.float32),
        size80=(votes * spread).astype(np.float32),
        score=score.astype(np.float32),
        label=np.zeros(anchors, np.int16),
    )
    boxes = np.concatenate([centre - size / 2, centre + size / 2], axis=1)[:opacities]
    return BoxCase(candidates, TrueBoxes(boxes, np.zeros(opacities, int)), number % FOLDS)


# ------------------------------------------------------------------------- the reference


def loop_means(cases: Sequence[BoxCase], grid: Grid, indices: Sequence[Index]) -> list[float]:
    """Mean score of each combination, the plain way: decode, merge, shrink, gate, cut off and
    match, over and over.

    The boxes are those of `detect`, which is what a submission gets; the score is worked out
    without cxr.metrics.
    """
    means = []
    for index in indices:
        params = grid.params(index)
        counted = []
        for case in cases:
            detections = detect(case.candidates, params, GATE_WEIGHTS)
            score = loop_score(case.true.boxes.tolist(), detections.boxes.tolist())
            if score is not None:
                counted.append(score)
        means.append(sum(counted) / max(1, len(counted)))
    return means


def loop_score(true: list[Box], predicted: list[Box]) -> float | None:
    """The competition's score of one image by its definition; None where it does not count."""
    if not true:
        return 0.0 if predicted else None
    total = 0.0
    for threshold in IOU_THRESHOLDS.tolist():
        hits = loop_hits(true, predicted, threshold)
        total += hits / (len(true) + len(predicted) - hits)
    return total / len(IOU_THRESHOLDS)


def loop_hits(true: list[Box], predicted: list[Box], threshold: float) -> int:
    """How many predicted boxes, in their order, find a true one that is still free."""
    free = list(true)
    hits = 0
    for box in predicted:
        best_overlap = 0.0
        best: Box = []
        for other in free:
            overlap = loop_iou(box, other)
            if overlap > best_overlap:
                best_overlap = overlap
                best = other
        if best_overlap > threshold:
            free.remove(best)
            hits += 1
    return hits


def loop_iou(one: Box, other: Box) -> float:
    left, top, right, bottom = one
    other_left, other_top, other_right, other_bottom = other
    width = max(0.0, min(right, other_right) - max(left, other_left))
    height = max(0.0, min(bottom, other_bottom) - max(top, other_top))
    shared = width * height
    area = (right - left) * (bottom - top)
    other_area = (other_right - other_left) * (other_bottom - other_top)
    return shared / (area + other_area - shared)


# -------------------------------------------------------------------------- measurement


class Compared(NamedTuple):
    """Seconds of our search over all, and of the loops over `share` of the work."""

    ours: float
    loops: float
    share: float

    @property
    def scaled_loops(self) -> float:
        """Seconds that the loops would take for all of it."""
        return self.loops / self.share


def compare(
    cases: Sequence[BoxCase], grid: Grid, args: Namespace, rng: np.random.Generator
) -> Compared:
    """Both times, after a check that both find the same scores."""
    combinations = math.prod(grid.shape)
    drawn_images = rng.choice(len(cases), args.sampled_images, replace=False)
    drawn_cases = [cases[i] for i in drawn_images]
    drawn = rng.choice(combinations, args.sampled_combinations, replace=False)
    axes = [axis.tolist() for axis in np.unravel_index(drawn, grid.shape)]
    indices = list(zip(*axes, strict=True))

    means = search(drawn_cases, grid, GATE_WEIGHTS).means()
    our_means = [means[index] for index in indices]
    np.testing.assert_allclose(our_means, loop_means(drawn_cases, grid, indices), atol=1e-12)

    seconds = measure(
        {
            "ours": lambda: search(cases, grid, GATE_WEIGHTS),
            "loops": lambda: loop_means(drawn_cases, grid, indices),
        },
        args.rounds,
    )
    share = len(drawn_cases) * len(indices) / (len(cases) * combinations)
    return Compared(seconds["ours"], seconds["loops"], share)


def grid_rows(name: str, grid: Grid, images: int, compared: Compared) -> list[Row]:
    title = f"{name}, {math.prod(grid.shape):,} combinations"
    scaled = compared.scaled_loops
    ours = compared.ours
    for_2000 = ours / images * 2000
    return [
        Row(
            f"{title}: reference, loops",
            f"{scaled / 3600:.3g} h, scaled up from {duration(compared.loops)} for "
            f"{compared.share:.1e} of the work",
            1,
        ),
        at_least(
            f"{title}: ours",
            f"{duration(ours)}, {duration(ours / images)} an image",
            scaled / ours,
            50,
        ),
        Row(
            "the same for 2,000 images",
            duration(for_2000),
            None,
            f"under {MOST_SECONDS} s",
            for_2000 < MOST_SECONDS,
        ),
    ]


def main() -> None:
    args = arguments(__doc__, images=2000, sampled_images=40, sampled_combinations=100, rounds=1)
    rng = np.random.default_rng(0)
    cases = [draw_case(rng, number) for number in range(args.images)]
    rows: list[Row] = []
    for name, grid in {"published values": PUBLISHED, "whole grid": Grid()}.items():
        compared = compare(cases, grid, args, rng)
        rows += grid_rows(name, grid, len(cases), compared)
    show(
        f"Search of the post-processing over {args.images:,} images, a quarter with opacities",
        rows,
        "fp64",
    )


if __name__ == "__main__":
    main()
