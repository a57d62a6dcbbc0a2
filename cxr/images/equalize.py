"""Contrast-limited adaptive histogram equalisation (CLAHE) of stored pictures.

The 4th place of the RSNA Pneumonia Detection Challenge did it to all its images, and the 1st place
to those of some classifiers.
"""

from __future__ import annotations

import cv2
import numpy as np

TILES = (8, 8)  # of a picture, each equalised by itself and blended with its neighbours


def equalize(picture: np.ndarray, clip_limit: float) -> np.ndarray:
    """A gray picture (h, w) uint8 with its contrast spread out tile by tile.

    clip_limit: how many times the even share of pixels a gray value may have, which bounds how much
    noise is spread out; 0: the picture as it is.
    """
    if not clip_limit:
        return picture
    return cv2.createCLAHE(clipLimit=clip_limit, tileGridSize=TILES).apply(picture)
