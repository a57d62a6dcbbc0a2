"""Several X-rays in one picture to learn from: mosaic and mixup for boxes."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from cxr.data.annotated_image import AnnotatedImage
from cxr.images.resize import resize

SHARES = (1.5, 1.5)  # of Beta, from which mixup draws (Zhang et al. 2019, arXiv 1902.04103)


def make_mosaic(pictures: Sequence[AnnotatedImage]) -> AnnotatedImage:
    """Four square pictures of a side at half of it, in two rows (Bochkovskiy et al. 2020)."""
    side = len(pictures[0].image)
    half = side // 2
    image = np.zeros((side, side), np.uint8)
    boxes = []
    for number, picture in enumerate(pictures):
        y, x = half * (number // 2), half * (number % 2)
        image[y : y + half, x : x + half] = resize(picture.image, half)
        boxes.append(picture.boxes * (half / len(picture.image)) + [x, y, x, y])
    labels = np.concatenate([picture.labels for picture in pictures])
    return AnnotatedImage(image, np.concatenate(boxes), labels)


def mix_pictures(
    rng: np.random.Generator, one: AnnotatedImage, other: AnnotatedImage
) -> AnnotatedImage:
    """The weighted mean of two pictures of a size, with the boxes of both."""
    share = rng.beta(*SHARES)
    image = cv2.addWeighted(one.image, share, other.image, 1 - share, 0)
    boxes = np.concatenate([one.boxes, other.boxes])
    return AnnotatedImage(image, boxes, np.concatenate([one.labels, other.labels]))
