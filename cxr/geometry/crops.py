"""Crops: one stored box of whole pixels gives the crop of a picture, the crop of its mask and the shift of its boxes.

A crop is (x1, y1, x2, y2), four ints, x2 and y2 excluded, inside its picture. Whatever is cut or shifted uses the same
four numbers, so picture, mask and boxes cannot drift apart.
"""

import numpy as np

from cxr.geometry.boxes import clip_boxes

MARGIN, PIXELS = (
    0.02,
    10,
)  # box x 1.02 + 10 pixels, half of it on each side: the 17th place's of SIIM COVID-19, 2021


def crop_around(found, width, height, margin=MARGIN, pixels=PIXELS):
    """(crop, fallback) of the box that a lung finder gave, in pixels of a picture of this size, with a margin.

    `found`: four numbers, or None where nothing was found. Edges outside the picture are cut, the others stay where
    they are. The crop is the whole picture and fallback True where nothing of the box lies in it.
    """
    whole, size = (0, 0, width, height), np.array([width, height])
    if found is None or not np.isfinite(found).all() or not inside(found, width, height):
        return whole, True
    low, high = np.asarray(found, float).reshape(2, 2)
    grown = (margin * (high - low) + pixels) / 2
    low, high = np.floor(np.clip(low - grown, 0, size)), np.ceil(np.clip(high + grown, 0, size))
    return tuple(int(edge) for edge in (*low, *high)), False


def inside(box, width, height):
    """Whether a box has an area within a picture of this size."""
    x1, y1, x2, y2 = clip_boxes(np.asarray(box, float), width, height)
    return bool(x2 > x1 and y2 > y1)


def crop_at(crop, width, height, side):
    """The crop of a picture (width, height) in pixels of the same picture stored at `side`, its one side or width and
    height, rounded outwards."""
    scale = np.array(side) / np.array([width, height])
    low, high = np.floor(crop[:2] * scale + 1e-9), np.ceil(crop[2:] * scale - 1e-9)
    return tuple(int(edge) for edge in (*low, *high))


def cut(picture, crop):
    """The crop of a picture or mask (height, width, ...), as a view. ValueError where it leaves the picture."""
    x1, y1, x2, y2 = crop
    height, width = picture.shape[:2]
    if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
        raise ValueError(
            f"the crop {crop} is empty or leaves the picture of {width} x {height} pixels"
        )
    return picture[y1:y2, x1:x2]


def shift_boxes(boxes, crop):
    """(boxes in pixels of the crop, cut at its edges; (n,) bool which of `boxes` (n, 4) have an area there)."""
    x1, y1, x2, y2 = crop
    boxes = clip_boxes(np.asarray(boxes, float).reshape(-1, 4) - [x1, y1, x1, y1], x2 - x1, y2 - y1)
    kept = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    return boxes[kept], kept


def fill_boxes(boxes, width, height):
    """Mask uint8 (height, width) of 0 and 1: pixels whose centre lies in one of the boxes (n, 4)."""
    mask = np.zeros((height, width), np.uint8)
    edges = np.ceil(
        clip_boxes(np.asarray(boxes, float).reshape(-1, 4), width, height) - 0.5
    ).astype(int)
    for x1, y1, x2, y2 in edges:
        mask[y1:y2, x1:x2] = 1
    return mask
