"""Masks as run lengths and pixels: reading, writing, merging, cleaning, comparing.

A mask is a uint8 array (height, width) of 0 and 1. Run lengths are those of the SIIM-ACR
Pneumothorax competition: pairs "gap length", where a gap counts from the end of the run before,
column by column; "-1" is the empty mask. (The run lengths of most other competitions count from the
first pixel.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike

from cxr.images.resize import resize

EMPTY = "-1"


def decode_runs(text: str, height: int, width: int) -> np.ndarray:
    """Mask (height, width) of run lengths. ValueError where they are no pairs of numbers or leave
    the picture."""
    mask = np.zeros((height, width), np.uint8)
    if text.strip() in (EMPTY, ""):
        return mask
    runs = np.array(text.split(), np.int64)
    if len(runs) % 2:
        raise ValueError(f"{len(runs)} numbers are no pairs of gap and length")
    end = int(runs.sum())
    if runs.min() < 0 or end > height * width:
        raise ValueError(f"the runs leave the picture of {width} x {height} pixels")

    # Only the columns from `first` to `last` are filled: a mask is small.
    first = int(runs[0]) // height
    last = -(-end // height)
    if first == last:
        return mask
    runs[0] -= first * height
    lengths = np.append(runs, last * height - end)
    lit = np.arange(len(lengths), dtype=np.uint8) & 1
    columns = np.repeat(lit, lengths).reshape(last - first, height)
    # OpenCV turns many times faster than an assignment of the transposed array.
    mask[:, first:last] = cv2.transpose(columns)
    return mask


def encode_runs(mask: ArrayLike) -> str:
    """Run lengths of a mask (height, width), whose pixels count where they are not 0."""
    lit = np.asarray(mask, bool).view(np.uint8)
    first, _, width, _ = cv2.boundingRect(lit)
    if not width:
        return EMPTY
    columns = cv2.transpose(lit[:, first : first + width]).ravel()
    edges = np.flatnonzero(columns[1:] != columns[:-1]) + 1
    if columns[0]:
        edges = np.insert(edges, 0, 0)
    if columns[-1]:
        edges = np.append(edges, len(columns))
    gaps_and_lengths = np.diff(edges + first * len(lit), prepend=0)
    return " ".join(map(str, gaps_and_lengths.tolist()))


def merge_runs(texts: Iterable[str], height: int, width: int) -> str:
    """Run lengths of the pixels that at least one of several masks has: regions of an image may
    overlap. They are written anew, so a mask has one form whatever zero lengths its source has."""
    merged = np.zeros((height, width), np.uint8)
    for text in texts:
        merged |= decode_runs(text, height, width)
    return encode_runs(merged)


def resize_mask(mask: np.ndarray, size: int) -> np.ndarray:
    """Mask at (size, size): the pixels of which at least half were in it."""
    return (resize(255 * mask, size) > 127).view(np.uint8)


def remove_small(mask: np.ndarray, smallest: int) -> np.ndarray:
    """The parts of a mask whose outline encloses more than `smallest` pixels, their holes filled.

    As the 1st place of SIIM-ACR cleaned up; the outline goes through the centres of the pixels at
    the edge. 0 changes nothing.
    """
    if smallest <= 0:
        return mask
    large = [outline for outline in find_outlines(mask) if cv2.contourArea(outline) > smallest]
    return cv2.drawContours(np.zeros_like(mask), large, -1, 1, cv2.FILLED)


def find_outlines(mask: np.ndarray) -> Sequence[np.ndarray]:
    """Outer outline of each connected part of a mask, arrays (n, 1, 2) of pixel numbers x, y."""
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return outlines


def dice(true: np.ndarray, predicted: np.ndarray) -> float:
    """2 |A and B| / (|A| + |B|) of two masks; 1 where both are empty, so 0 where one is."""
    total = np.count_nonzero(true) + np.count_nonzero(predicted)
    if not total:
        return 1.0
    return 2 * np.count_nonzero(np.logical_and(true, predicted)) / total


def counts_above(picture: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Numbers of pixels (256,) of a uint8 picture above each value, inside a mask if one is given.

    Exact up to 2^24 pixels, where OpenCV's histogram in float32 ends.
    """
    histogram = cv2.calcHist([picture], [0], mask, [256], [0, 256])
    counts = histogram.ravel().astype(np.int64)
    return counts.sum() - counts.cumsum()
