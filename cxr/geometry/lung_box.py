"""Where the lungs are: a box from a map of probabilities, and a map put back into it (3rd place of SIIM-ACR
Pneumothorax).

Boxes are whole pixels x1 y1 x2 y2, the last outside, of the original picture.
"""

import cv2
import numpy as np

from cxr.geometry.crops import crop_around

FRAME = 1024  # pixels; sizes below are those in a picture of this side
SMALLEST_PART, MARGIN, SMALLEST_BOX = 2000 / FRAME**2, 40 / FRAME, (300 / FRAME) ** 2


def lung_box(probability, width, height):
    """Box around all parts above one half that are large enough, with a margin; the whole picture where that is small.

    probability (h, w): a map of the whole picture at any size, uint8 up to 255 or floats up to 1.
    """
    whole = (0, 0, width, height)
    half = 127 if probability.dtype == np.uint8 else 0.5
    count, labels, stats, _ = cv2.connectedComponentsWithStats(
        (probability > half).astype(np.uint8)
    )
    parts = [
        stats[k]
        for k in range(1, count)
        if stats[k, cv2.CC_STAT_AREA] >= SMALLEST_PART * probability.size
    ]
    if not parts:
        return whole
    left, top, wide, high = np.array(parts)[:, :4].T
    corners = np.array([left.min(), top.min(), (left + wide).max(), (top + high).max()], float)
    scale = np.array([width, height] * 2) / np.tile(probability.shape[::-1], 2)
    margin = 2 * MARGIN * np.array([width, height])  # half of it on each side
    (x1, y1, x2, y2), _ = crop_around(corners * scale, width, height, 0, margin)
    return (x1, y1, x2, y2) if (x2 - x1) * (y2 - y1) >= SMALLEST_BOX * width * height else whole


def paste(part, box, width, height):
    """Map (height, width) that holds `part` (any size) inside a box and is 0 outside."""
    x1, y1, x2, y2 = box
    whole = np.zeros((height, width), part.dtype)
    whole[y1:y2, x1:x2] = cv2.resize(part, (x2 - x1, y2 - y1), interpolation=cv2.INTER_LINEAR)
    return whole
