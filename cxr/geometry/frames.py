"""The three frames of an image, and how boxes go from one to another.

original: the picture as the file of the data set holds it, of any width and height. The tables of
    step 02 (boxes, masks, crops), the records of step 04 and every answer are in its pixels.
stored: the PNG that step 02 writes into working/<task>/images, a square to which the original was
    stretched.
network: what a network sees, a square that the loader or a predictor scales the stored picture to.
    Anchors and the raw outputs of networks are in its pixels.

Each frame holds the whole picture, so going from one to another is plain scaling, by one factor for
x and one for y. Where a picture is cut to a crop first, the crop takes the place of the picture:
boxes are shifted into it (`shift_boxes` in cxr/geometry/crops.py), and its width and height are
those of the frame. In training the way from stored to network is one warp with the augmentation in
it (`warp_boxes` in cxr/geometry/boxes.py). Out of the network the heads of the detector and the
segmenter go straight to original pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Frame:
    """The pixels that boxes are measured in, and the size of the picture in them."""

    name: Literal["original", "stored", "network"]
    width: int
    height: int


def convert_boxes(boxes: np.ndarray, source: Frame, target: Frame) -> np.ndarray:
    """Boxes (..., 4) x1 y1 x2 y2 of one image, from the pixels of `source` to those of `target`."""
    x_scale = target.width / source.width
    y_scale = target.height / source.height
    return boxes * np.array([x_scale, y_scale, x_scale, y_scale])
