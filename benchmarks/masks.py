"""How much faster than plain loops are run lengths read and written, and is the triplet rule searched?

    python benchmarks/masks.py                                       12,000 images, as many as SIIM-ACR Pneumothorax has
    python benchmarks/masks.py --images 50 --rounds 1                some seconds

To reach: 20 times. The loops take hours, so they are timed on some of the images and combinations, and multiplied.
"""

import sys
from collections import deque
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from reference import plain_decode, plain_encode, plain_triplets  # noqa: E402
from timing import Row, arguments, at_least, duration, measure, show  # noqa: E402

from cxr.geometry.masks import EMPTY, decode_runs, encode_runs  # noqa: E402
from cxr.methods.segmenter.rules import GRIDS, Measured  # noqa: E402
from cxr.methods.segmenter.rules import measure as count  # noqa: E402

SIDE, POSITIVE_SHARE = 1024, 0.22
LOOPED = 8  # images that the loops are timed on
TRIPLETS = (0.6, 0.75), (0, 1000), (0.3, 0.4)
GRID = GRIDS["first"]


def random_mask(rng):
    """A crescent of 14,000 pixels on average, as the real ones."""
    outer, inner = np.zeros((SIDE, SIDE), np.uint8), np.zeros((SIDE, SIDE), np.uint8)
    centre, axes = rng.integers(300, 700, 2).tolist(), rng.integers(80, 250, 2).tolist()
    cv2.ellipse(outer, centre, axes, 0, 0, 360, 1, -1)
    cv2.ellipse(inner, (centre[0] + 30, centre[1] + 30), axes, 0, 0, 360, 1, -1)
    return outer & (1 - inner)


def random_picture(rng, true):
    """Probabilities that are high where the true mask is, blurred."""
    noise = cv2.resize(rng.random((32, 32), dtype=np.float32), (SIDE, SIDE))
    blurred = cv2.GaussianBlur(true.astype(np.float32), (0, 0), 9)
    return (255 * np.clip(0.7 * blurred + 0.4 * noise, 0, 1)).astype(np.uint8)


def check(texts, masks, pictures):
    for text, mask in zip(texts, masks):
        assert np.array_equal(plain_decode(text, SIDE, SIDE), decode_runs(text, SIDE, SIDE))
        assert plain_encode(mask) == encode_runs(mask) == text
    counts = np.array([count(*pair, GRID) for pair in zip(pictures, masks)])
    means = Measured(GRID, counts, np.zeros(len(counts))).sums()[0] / len(counts)
    picked = np.ix_(
        *(
            [list(axis).index(v) for v in values]
            for axis, values in zip((GRID.top, GRID.area, GRID.bottom), TRIPLETS)
        )
    )
    np.testing.assert_allclose(means[picked], plain_triplets(pictures, masks, *TRIPLETS), atol=1e-9)


def main():
    args = arguments(__doc__, images=12000, rounds=1)
    rng = np.random.default_rng(0)
    masks = [random_mask(rng) for _ in range(LOOPED)]
    texts, pictures = (
        [encode_runs(mask) for mask in masks],
        [random_picture(rng, mask) for mask in masks],
    )
    check(texts, masks, pictures)
    positives = round(POSITIVE_SHARE * args.images)
    all_texts = [texts[k % LOOPED] if k < positives else EMPTY for k in range(args.images)]
    empty = np.zeros((SIDE, SIDE), np.uint8)
    counts = np.array([count(*pair, GRID) for pair in zip(pictures, masks)])
    table = Measured(GRID, counts[np.arange(args.images) % LOOPED], np.zeros(args.images))
    found = measure(
        {
            "decode": lambda: deque((decode_runs(text, SIDE, SIDE) for text in all_texts), maxlen=0),
            "encode": lambda: deque(
                (encode_runs(masks[k % LOOPED] if k < positives else empty) for k in range(args.images)),
                0,
            ),
            "plain decode": lambda: [plain_decode(text, SIDE, SIDE) for text in texts],
            "plain encode": lambda: [plain_encode(mask) for mask in masks[:2]],
            "count": lambda: [count(*pair, GRID) for pair in zip(pictures, masks)],
            "search": table.sums,
            "plain search": lambda: plain_triplets(pictures, masks, *TRIPLETS),
        },
        args.rounds,
    )
    combinations = int(np.prod(GRID.shape))
    looped = int(np.prod([len(values) for values in TRIPLETS]))
    plain = {
        "decode": found["plain decode"] * positives / LOOPED,
        "encode": found["plain encode"] * args.images / 2,
        "search": found["plain search"] * args.images / LOOPED * combinations / looped,
    }
    ours = {
        "decode": found["decode"],
        "encode": found["encode"],
        "search": found["count"] * args.images / LOOPED + found["search"],
    }
    rows = [
        row
        for name, words in (
            ("decode", "reading run lengths"),
            ("encode", "writing them"),
            ("search", f"Dice of {combinations:,} triplets"),
        )
        for row in (
            Row(f"{words}: loops", duration(plain[name]), 1),
            at_least(f"{words}: ours", duration(ours[name]), plain[name] / ours[name], 20),
        )
    ]
    show(
        f"{args.images:,} masks of {SIDE} x {SIDE} pixels, {positives:,} of them not empty",
        [*rows, Row("of the search, the table alone", duration(found["search"]))],
    )


if __name__ == "__main__":
    main()
