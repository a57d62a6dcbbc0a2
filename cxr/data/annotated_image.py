"""A picture together with what is known to be in it, as augmentation and copy-paste change it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class AnnotatedImage:
    """A gray picture, its boxes and its mask.

    image: (H, W) uint8. boxes: (n, 4) float64, x1 y1 x2 y2 in pixels of `image`. labels: (n,)
    int64, classes of the boxes. mask: uint8 of 0 and 1 that shows the same as the picture, but may
    have another size (the original's), or None.
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    mask: np.ndarray | None = None
