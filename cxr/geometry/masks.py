"""Masks as run lengths and pixels: reading, writing, merging, cleaning, comparing.

A mask is a uint8 array (height, width) of 0 and 1. Run lengths are those of the SIIM-ACR Pneumothorax competition:
pairs "gap length", where a gap counts from the end of the run before, column by column; "-1" is the empty mask. (The
run lengths of most other competitions count from the first pixel.)
"""

import cv2
import numpy as np

from cxr.images.resize import resize

EMPTY = "-1"


def decode_runs(text, height, width):
    """Mask of run lengths. ValueError where they are no pairs of numbers or leave the picture."""
    if text.strip() in (EMPTY, ""):
        return np.zeros((height, width), np.uint8)
    runs = np.array(text.split(), np.int64)
    if len(runs) % 2:
        raise ValueError(f"{len(runs)} numbers are no pairs of gap and length")
    ends = runs.cumsum()
    if runs.min() < 0 or ends[-1] > height * width:
        raise ValueError(f"the runs leave the picture of {width} x {height} pixels")
    first, last = (
        int(runs[0]) // height,
        -(-int(ends[-1]) // height),
    )  # only the columns from first to last are filled
    runs[0] -= first * height
    lit = np.arange(len(runs) + 1, dtype=np.uint8) & 1
    columns = np.repeat(lit, np.append(runs, last * height - ends[-1]))
    mask = np.zeros((height, width), np.uint8)
    if len(columns):  # OpenCV turns many times faster than an assignment of the transposed array
        mask[:, first:last] = cv2.transpose(columns.reshape(last - first, height))
    return mask


def encode_runs(mask):
    """Run lengths of a mask (height, width), whose pixels count where they are not 0."""
    mask = np.asarray(mask, bool).view(np.uint8)
    first, _, width, _ = cv2.boundingRect(mask)
    if not width:
        return EMPTY
    flat = cv2.transpose(mask[:, first : first + width]).ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    edges = np.concatenate([[0] * int(flat[0]), edges, [len(flat)] * int(flat[-1])]).astype(
        np.int64
    )
    return " ".join(map(str, np.diff(edges + first * len(mask), prepend=0).tolist()))


def merge(texts, height, width):
    """Run lengths of the pixels that at least one of several masks has: regions of an image may overlap."""
    texts = list(texts)
    if len(texts) == 1:
        return encode_runs(
            decode_runs(texts[0], height, width)
        )  # one form of a mask, whatever zero lengths the source has
    return encode_runs(np.bitwise_or.reduce([decode_runs(text, height, width) for text in texts]))


def resize_mask(mask, size):
    """Mask at (size, size): the pixels of which at least half were in it."""
    return (resize(255 * mask, size) > 127).view(np.uint8)


def remove_small(mask, smallest):
    """The parts of a mask whose outline encloses more than `smallest` pixels, their holes filled.

    As the 1st place cleaned up; the outline goes through the centres of the pixels at the edge. 0 changes nothing.
    """
    if smallest <= 0:
        return mask
    outlines = [line for line in find_outlines(mask) if cv2.contourArea(line) > smallest]
    return cv2.drawContours(np.zeros_like(mask), outlines, -1, 1, cv2.FILLED)


def find_outlines(mask):
    """Outer outline of each connected part of a mask, arrays (n, 1, 2) of pixel numbers x, y."""
    return cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]


def dice(true, predicted):
    """2 |A and B| / (|A| + |B|) of two masks; 1 where both are empty, so 0 where one is."""
    total = np.count_nonzero(true) + np.count_nonzero(predicted)
    return 2 * np.count_nonzero(np.logical_and(true, predicted)) / total if total else 1.0


def counts_above(picture, mask=None):
    """(256,) numbers of pixels of a uint8 picture above each value, inside a mask if one is given.

    Exact up to 2^24 pixels, where OpenCV's histogram in float32 ends.
    """
    histogram = cv2.calcHist([picture], [0], mask, [256], [0, 256]).ravel().astype(np.int64)
    return histogram.sum() - histogram.cumsum()
