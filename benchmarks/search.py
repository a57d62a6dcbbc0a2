"""How much faster is the search of the post-processing than the plain loops over parameters, images and thresholds?

    python benchmarks/search.py                                                     2,000 images
    python benchmarks/search.py --images 60 --sampled-images 6 --sampled-combinations 8    a quick try

To reach: at least 50 times as fast with 500 or more combinations, and each grid in under 2 minutes. The loops take
days, so they run on images and combinations drawn at random and their time is scaled up linearly; there both must find
the same score for every combination.
"""

import math
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from timing import Row, arguments, at_least, duration, measure, show  # noqa: E402

from cxr.datasets.rsna.dataset import Rsna  # noqa: E402
from cxr.methods.detector.records import NO_SHRINK, Candidates, detect  # noqa: E402
from cxr.methods.detector.search import Case, Grid, search  # noqa: E402
from cxr.metrics.kaggle_map import IOU_THRESHOLDS  # noqa: E402

FRAME, FLOOR = 1024, 0.01  # pixels of an RSNA image; score below which step 04 keeps no anchor
MOST_SECONDS = 120
# The published values and their absence: the least grid that is worth a search, and the hardest one to be faster on.
PUBLISHED = Grid(
    percentile_shrink=(NO_SHRINK, 1.6),
    scale=(1.0, 0.875),
    threshold=tuple(round(0.1 * step, 1) for step in range(1, 21)),
)


def draw_case(rng, number):
    """An image as step 04 leaves it: 50 to 1,000 anchors crowd around a few places, on one image in four opacities."""
    found = int(rng.integers(1, 4)) if number % 4 == 0 else 0
    size = rng.uniform(120, 420, (found + int(rng.integers(3, 9)), 2))
    centre = rng.uniform(size / 2, FRAME - size / 2)
    peak = np.concatenate([rng.beta(4, 4, found), rng.beta(1, 12, len(size) - found)])
    place = rng.integers(len(size), size=int(np.exp(rng.uniform(*np.log([50, 1000])))))
    score = FLOOR * np.maximum(peak[place] / FLOOR, 1.05) ** (
        rng.random(len(place)) ** 2
    )  # most of them are low
    order = np.argsort(-score)
    place, score = place[order], score[order]
    moved = centre[place] + rng.normal(0, 0.15, (len(place), 2)) * size[place]
    votes = size[place] * np.exp(rng.normal(0, 0.25, (len(place), 2)))
    spread = np.exp(rng.uniform(0, 0.15, (len(place), 2)))
    parts = (
        rng.dirichlet((1, 2, 5) if found else (4, 4, 1)),
        moved,
        votes / spread,
        votes * spread,
        score,
    )
    candidates = Candidates(
        f"image-{number:06d}",
        FRAME,
        FRAME,
        *(part.astype(np.float32) for part in parts),
        np.zeros(len(place), np.int16),
    )
    boxes = np.concatenate([centre - size / 2, centre + size / 2], axis=1)[:found]
    return Case(candidates, boxes, number % 4)


def loops(cases, grid, indices):
    """Mean score of each combination, the plain way: decode, merge, shrink, gate, cut off and match, over and over.

    The boxes are those of `detect`, which is what a submission gets; the score is worked out without cxr.metrics.
    """
    means = []
    for index in indices:
        params = grid.params(index)
        scores = [
            loop_score(
                case.boxes.tolist(), detect(case.candidates, params, Rsna.gate_weights)[0].tolist()
            )
            for case in cases
        ]
        counted = [score for score in scores if score is not None]
        means.append(sum(counted) / max(1, len(counted)))
    return means


def loop_score(true, predicted):
    """The competition's score of one image by its definition; None where it does not count."""
    if not true:
        return 0.0 if predicted else None
    total = 0.0
    for threshold in IOU_THRESHOLDS.tolist():
        free, hits = list(true), 0
        for box in predicted:
            overlap, best = max(
                ((loop_iou(box, other), other) for other in free), default=(0.0, None)
            )
            if overlap > threshold:
                free.remove(best)
                hits += 1
        total += hits / (len(true) + len(predicted) - hits)
    return total / len(IOU_THRESHOLDS)


def loop_iou(one, other):
    width = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return width * height / (areas - width * height)


def compare(cases, grid, args, rng):
    """(seconds of our search over all, seconds of the loops over the drawn share, part of the work that this is)."""
    some = [cases[i] for i in rng.choice(len(cases), args.sampled_images, replace=False)]
    drawn = rng.choice(math.prod(grid.shape), args.sampled_combinations, replace=False)
    indices = list(zip(*(axis.tolist() for axis in np.unravel_index(drawn, grid.shape))))
    means = search(some, grid, Rsna.gate_weights).means()
    np.testing.assert_allclose(
        [means[index] for index in indices], loops(some, grid, indices), atol=1e-12
    )
    seconds = measure(
        {
            "ours": lambda: search(cases, grid, Rsna.gate_weights),
            "loops": lambda: loops(some, grid, indices),
        },
        args.rounds,
    )
    return (
        seconds["ours"],
        seconds["loops"],
        len(some) * len(indices) / (len(cases) * math.prod(grid.shape)),
    )


def main():
    args = arguments(__doc__, images=2000, sampled_images=40, sampled_combinations=100, rounds=1)
    rng = np.random.default_rng(0)
    cases = [draw_case(rng, number) for number in range(args.images)]
    rows = []
    for name, grid in {"published values": PUBLISHED, "whole grid": Grid()}.items():
        ours, plain, part = compare(cases, grid, args, rng)
        title = f"{name}, {math.prod(grid.shape):,} combinations"
        scaled = f"{plain / part / 3600:.3g} h, scaled up from {duration(plain)} for {part:.1e} of the work"
        rows += [
            Row(f"{title}: reference, loops", scaled, 1),
            at_least(
                f"{title}: ours",
                f"{duration(ours)}, {duration(ours / len(cases))} an image",
                plain / part / ours,
                50,
            ),
            Row(
                "the same for 2,000 images",
                duration(ours / len(cases) * 2000),
                None,
                f"under {MOST_SECONDS} s",
                ours / len(cases) * 2000 < MOST_SECONDS,
            ),
        ]
    show(
        f"Search of the post-processing over {args.images:,} images, a quarter with opacities",
        rows,
        "fp64",
    )


if __name__ == "__main__":
    main()
