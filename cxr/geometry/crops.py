"""Crops: one box of whole pixels gives the crop of a picture, the crop of its mask and the shift of
its boxes.

A crop is (x1, y1, x2, y2), four ints, x2 and y2 excluded, inside its picture. Whatever is cut or
shifted uses the same four numbers, so picture, mask and boxes cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from cxr.geometry.boxes import clip_boxes

Crop = tuple[int, int, int, int]

# The box x 1.02 + 10 pixels, half of it on each side: the 17th place's of SIIM COVID-19, 2021.
MARGIN = 0.02
PIXELS = 10


class CropOrWhole(NamedTuple):
    """A crop, and whether it is the whole picture for want of a better one."""

    crop: Crop
    fallback: bool


class ShiftedBoxes(NamedTuple):
    """Boxes (k, 4) in pixels of a crop, and which of the n boxes they were, (n,) bool."""

    boxes: np.ndarray
    kept: np.ndarray


def crop_around(
    box: Sequence[float] | np.ndarray | None,
    width: int,
    height: int,
    margin: float = MARGIN,
    pixels: float | np.ndarray = PIXELS,
) -> CropOrWhole:
    """The crop around a box x1 y1 x2 y2 in a picture of this size, of which both are in the pixels.

    The box grows by a share `margin` of its size and by `pixels`, one number or those of x and y.
    Edges outside the picture are cut, the others stay where they are. The crop is the whole picture
    where there is no box, or nothing of it lies in the picture.
    """
    if box is None or not has_area_in(box, width, height):
        return CropOrWhole((0, 0, width, height), True)
    low, high = np.asarray(box, float).reshape(2, 2)
    size = np.array([width, height])
    half_margin = (margin * (high - low) + pixels) / 2
    x1, y1 = np.floor(np.clip(low - half_margin, 0, size))
    x2, y2 = np.ceil(np.clip(high + half_margin, 0, size))
    return CropOrWhole((int(x1), int(y1), int(x2), int(y2)), False)


def has_area_in(box: ArrayLike, width: int, height: int) -> bool:
    """Whether a box x1 y1 x2 y2 of finite numbers has an area within a picture of this size."""
    if not np.isfinite(box).all():
        return False
    x1, y1, x2, y2 = clip_boxes(np.asarray(box, float), width, height)
    return bool(x2 > x1 and y2 > y1)


def crop_at(crop: Crop, width: int, height: int, side: int | tuple[int, int]) -> Crop:
    """The crop of a picture (width, height) in pixels of the same picture at another size, rounded
    outwards.

    side: of a square, or width and height.
    """
    scale = np.array(side) / np.array([width, height])
    x1, y1 = np.floor(crop[:2] * scale + 1e-9)
    x2, y2 = np.ceil(crop[2:] * scale - 1e-9)
    return int(x1), int(y1), int(x2), int(y2)


def cut(picture: np.ndarray, crop: Crop) -> np.ndarray:
    """The crop of a picture or mask (height, width, ...), as a view. ValueError where it leaves the
    picture."""
    x1, y1, x2, y2 = crop
    height, width = picture.shape[:2]
    if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
        raise ValueError(
            f"the crop {crop} is empty or leaves the picture of {width} x {height} pixels"
        )
    return picture[y1:y2, x1:x2]


def shift_boxes(boxes: ArrayLike, crop: Crop) -> ShiftedBoxes:
    """Boxes (n, 4) of a picture in pixels of its crop, cut at the crop's edges; those without an
    area there are left out."""
    x1, y1, x2, y2 = crop
    shifted = np.asarray(boxes, float).reshape(-1, 4) - [x1, y1, x1, y1]
    clipped = clip_boxes(shifted, x2 - x1, y2 - y1)
    is_wide = clipped[:, 2] > clipped[:, 0]
    is_high = clipped[:, 3] > clipped[:, 1]
    kept = is_wide & is_high
    return ShiftedBoxes(clipped[kept], kept)


def fill_boxes(boxes: ArrayLike, width: int, height: int) -> np.ndarray:
    """Mask uint8 (height, width) of 0 and 1: pixels whose centre lies in a box of boxes (n, 4)."""
    clipped = clip_boxes(np.asarray(boxes, float).reshape(-1, 4), width, height)
    mask = np.zeros((height, width), np.uint8)
    for x1, y1, x2, y2 in np.ceil(clipped - 0.5).astype(int):
        mask[y1:y2, x1:x2] = 1
    return mask
