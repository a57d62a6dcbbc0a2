"""How much faster than plain loops are run lengths read and written, and is the triplet rule
searched?

    python benchmarks/masks.py                              12,000 images, as many as SIIM-ACR
                                                            Pneumothorax has
    python benchmarks/masks.py --images 50 --rounds 1       some seconds

To reach: 20 times. The loops take hours, so they are timed on some of the images and combinations,
and multiplied.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from reference import plain_decode, plain_encode, plain_triplets
from timing import Row, arguments, at_least, duration, measure, show

from cxr.geometry.masks import EMPTY, decode_runs, encode_runs
from cxr.methods.segmenter.rules import GRIDS, MeasuredImages, measure_picture

SIDE = 1024
POSITIVE_SHARE = 0.22
LOOPED = 8  # images that the loops are timed on
LOOPED_ENCODINGS = 2
GRID = GRIDS["first"]
# The triplets that the loops are timed on.
TOPS = (0.6, 0.75)
MASK_AREAS = (0, 1000)
BOTTOMS = (0.3, 0.4)


@dataclass(frozen=True)
class DrawnImage:
    """A true mask, its run lengths, and a picture of probabilities (uint8, 255 for 1)."""

    mask: np.ndarray
    runs: str
    picture: np.ndarray


def random_mask(rng: np.random.Generator) -> np.ndarray:
    """A crescent of 14,000 pixels on average, as the real ones."""
    x, y = rng.integers(300, 700, 2).tolist()
    axes = rng.integers(80, 250, 2).tolist()
    outer = np.zeros((SIDE, SIDE), np.uint8)
    inner = np.zeros((SIDE, SIDE), np.uint8)
    cv2.ellipse(outer, (x, y), axes, 0, 0, 360, 1, -1)
    cv2.ellipse(inner, (x + 30, y + 30), axes, 0, 0, 360, 1, -1)
    return outer & (1 - inner)


def random_picture(rng: np.random.Generator, true_mask: np.ndarray) -> np.ndarray:
    """Probabilities that are high where the true mask is, blurred."""
    noise = cv2.resize(rng.random((32, 32), dtype=np.float32), (SIDE, SIDE))
    blurred = cv2.GaussianBlur(true_mask.astype(np.float32), (0, 0), 9)
    probabilities = np.clip(0.7 * blurred + 0.4 * noise, 0, 1)
    return (255 * probabilities).astype(np.uint8)


def draw_images(rng: np.random.Generator, count: int) -> list[DrawnImage]:
    masks = [random_mask(rng) for _ in range(count)]
    pictures = [random_picture(rng, mask) for mask in masks]
    images = []
    for mask, picture in zip(masks, pictures, strict=True):
        images.append(DrawnImage(mask, encode_runs(mask), picture))
    return images


def measure_all(images: Sequence[DrawnImage]) -> np.ndarray:
    """Counts of pixels of each image, as the search wants them."""
    return np.array([measure_picture(image.picture, image.mask, GRID) for image in images])


def loop_triplets(images: Sequence[DrawnImage]) -> np.ndarray:
    """Mean Dice of some triplets by the reference."""
    pictures = [image.picture for image in images]
    masks = [image.mask for image in images]
    return plain_triplets(pictures, masks, TOPS, MASK_AREAS, BOTTOMS)


def check(images: Sequence[DrawnImage]) -> None:
    for image in images:
        decoded = decode_runs(image.runs, SIDE, SIDE)
        assert np.array_equal(plain_decode(image.runs, SIDE, SIDE), decoded)
        assert plain_encode(image.mask) == encode_runs(image.mask) == image.runs
    counts = measure_all(images)
    heads = np.zeros(len(images))
    means = MeasuredImages(GRID, counts, heads).sums()[0] / len(images)
    top_index = [GRID.top.index(top) for top in TOPS]
    area_index = [GRID.area.index(area) for area in MASK_AREAS]
    bottom_index = [GRID.bottom.index(bottom) for bottom in BOTTOMS]
    looped = means[np.ix_(top_index, area_index, bottom_index)]
    np.testing.assert_allclose(looped, loop_triplets(images), atol=1e-9)


def decode_all(texts: Sequence[str]) -> None:
    for text in texts:
        decode_runs(text, SIDE, SIDE)


def encode_all(masks: Sequence[np.ndarray]) -> None:
    for mask in masks:
        encode_runs(mask)


def plain_decode_all(images: Sequence[DrawnImage]) -> None:
    for image in images:
        plain_decode(image.runs, SIDE, SIDE)


def plain_encode_all(images: Sequence[DrawnImage]) -> None:
    for image in images:
        plain_encode(image.mask)


def both_rows(words: str, plain: float, ours: float) -> list[Row]:
    return [
        Row(f"{words}: loops", duration(plain), 1),
        at_least(f"{words}: ours", duration(ours), plain / ours, 20),
    ]


def main() -> None:
    args = arguments(__doc__, images=12000, rounds=1)
    images = draw_images(np.random.default_rng(0), LOOPED)
    check(images)

    # As many images as asked for; the first are positive and repeat the drawn ones.
    positives = round(POSITIVE_SHARE * args.images)
    empty = np.zeros((SIDE, SIDE), np.uint8)
    texts = [EMPTY] * args.images
    masks = [empty] * args.images
    for k in range(positives):
        texts[k] = images[k % LOOPED].runs
        masks[k] = images[k % LOOPED].mask
    counts = measure_all(images)[np.arange(args.images) % LOOPED]
    measured_images = MeasuredImages(GRID, counts, np.zeros(args.images))

    seconds = measure(
        {
            "decode": lambda: decode_all(texts),
            "encode": lambda: encode_all(masks),
            "plain decode": lambda: plain_decode_all(images),
            "plain encode": lambda: plain_encode_all(images[:LOOPED_ENCODINGS]),
            "count": lambda: measure_all(images),
            "search": measured_images.sums,
            "plain search": lambda: loop_triplets(images),
        },
        args.rounds,
    )
    # What was timed on some is multiplied.
    combinations = int(np.prod(GRID.shape))
    looped_combinations = len(TOPS) * len(MASK_AREAS) * len(BOTTOMS)
    plain_decoding = seconds["plain decode"] * positives / LOOPED
    plain_encoding = seconds["plain encode"] * args.images / LOOPED_ENCODINGS
    plain_search = seconds["plain search"] * args.images / LOOPED
    plain_search *= combinations / looped_combinations
    our_search = seconds["count"] * args.images / LOOPED + seconds["search"]
    show(
        f"{args.images:,} masks of {SIDE} x {SIDE} pixels, {positives:,} of them not empty",
        [
            *both_rows("reading run lengths", plain_decoding, seconds["decode"]),
            *both_rows("writing them", plain_encoding, seconds["encode"]),
            *both_rows(f"Dice of {combinations:,} triplets", plain_search, our_search),
            Row("of the search, the table alone", duration(seconds["search"])),
        ],
    )


if __name__ == "__main__":
    main()
