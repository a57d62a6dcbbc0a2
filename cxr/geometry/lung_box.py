"""Where the lungs are: a box from a map of probabilities, and a map put back into it (3rd place of
SIIM-ACR Pneumothorax).

Boxes are crops (cxr/geometry/crops.py) in original pixels.
"""

from __future__ import annotations

import cv2
import numpy as np

from cxr.geometry.crops import Crop, crop_around

SIDE = 1024  # pixels; the sizes below are those in a picture of this side
SMALLEST_PART = 2000 / SIDE**2  # share of the picture's area
MARGIN = 40 / SIDE  # on each side, share of the picture's width or height
SMALLEST_BOX = (300 / SIDE) ** 2  # share of the picture's area


def lung_box(probability: np.ndarray, width: int, height: int) -> Crop:
    """Box around all parts above one half that are large enough, with a margin; the whole picture
    where that is small.

    probability: (h, w), a map of the whole picture at any size, uint8 up to 255 or floats up to 1.
    width, height: of the original.
    """
    whole = (0, 0, width, height)
    half = 127 if probability.dtype == np.uint8 else 0.5
    above_half = (probability > half).astype(np.uint8)
    _, _, parts, _ = cv2.connectedComponentsWithStats(above_half)
    parts = parts[1:]  # the first is the background
    areas = parts[:, cv2.CC_STAT_AREA]
    parts = parts[areas >= SMALLEST_PART * probability.size]
    if not len(parts):
        return whole

    # In pixels of the map, then of the original.
    left = parts[:, cv2.CC_STAT_LEFT]
    top = parts[:, cv2.CC_STAT_TOP]
    right = left + parts[:, cv2.CC_STAT_WIDTH]
    bottom = top + parts[:, cv2.CC_STAT_HEIGHT]
    corners = np.array([left.min(), top.min(), right.max(), bottom.max()], float)
    size = np.array([width, height])
    scale = np.tile(size / probability.shape[::-1], 2)
    both_margins = 2 * MARGIN * size
    crop, _ = crop_around(corners * scale, width, height, margin=0, pixels=both_margins)

    x1, y1, x2, y2 = crop
    if (x2 - x1) * (y2 - y1) < SMALLEST_BOX * width * height:
        return whole
    return crop


def paste(inner: np.ndarray, box: Crop, width: int, height: int) -> np.ndarray:
    """Map (height, width) that holds a map `inner`, of any size, inside a box and is 0 outside."""
    x1, y1, x2, y2 = box
    size = (x2 - x1, y2 - y1)
    whole = np.zeros((height, width), inner.dtype)
    whole[y1:y2, x1:x2] = cv2.resize(inner, size, interpolation=cv2.INTER_LINEAR)
    return whole
