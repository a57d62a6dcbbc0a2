"""Gray pictures to other sizes, the same way at every step from the file to the network."""

from __future__ import annotations

import cv2
import numpy as np


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """(height, width) uint8 to (size, size), the aspect not kept.

    Area averaging where it shrinks, since that does not alias.
    """
    if image.shape == (size, size):
        return image
    height, width = image.shape
    grows = height <= size and width <= size
    interpolation = cv2.INTER_LINEAR if grows else cv2.INTER_AREA
    return cv2.resize(image, (size, size), interpolation=interpolation)


def shrink(image: np.ndarray, longest: int) -> np.ndarray:
    """(height, width) with its longer side at most `longest` pixels, the aspect kept."""
    scale = longest / max(image.shape)
    if scale >= 1:
        return image
    height = max(1, round(image.shape[0] * scale))
    width = max(1, round(image.shape[1] * scale))
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
