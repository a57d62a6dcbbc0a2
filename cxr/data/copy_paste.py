"""Findings of one X-ray put onto another: pictures to learn from that nobody had to take.

After "Simple copy-paste is a strong data augmentation" (Ghiasi et al. 2021), but with soft edges
and only brightening, as a dense lung does, since boxes have no outlines and a dark patch would
show where it was cut.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from cxr.data.annotated_image import AnnotatedImage

EDGE = 0.1  # softness of a patch's edge, a standard deviation: share of the box's shorter side
# Gray values that a patch must add in the mean; behind the heart or on a white lung it adds none.
VISIBLE = 6.0


def draw_findings(
    rng: np.random.Generator, donor: AnnotatedImage, taken: np.ndarray
) -> AnnotatedImage:
    """The donor, half the time mirrored, with the boxes to paste: each half the time, at least one.

    The sides of the chest are drawn anew, since a network that sees few pictures learns that what
    is on one side is on the other, too. Boxes that meet one of those that are there already,
    `taken` (m, 4), are left out.
    """
    image = donor.image
    boxes = donor.boxes
    if rng.random() < 0.5:
        image = image[:, ::-1]
        boxes = _mirrored_boxes(boxes, image.shape[1])
    chosen = rng.random(len(boxes)) < 0.5
    chosen[rng.integers(len(boxes))] = True
    chosen &= ~meet(boxes, taken).any(1)
    return AnnotatedImage(image, boxes[chosen], donor.labels[chosen])


def _mirrored_boxes(boxes: np.ndarray, width: int) -> np.ndarray:
    """Boxes (n, 4) of a picture of this width, after it was flipped left-right."""
    x1, y1, x2, y2 = boxes.T
    return np.stack([width - x2, y1, width - x1, y2], 1)


def meet(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(n, m): which of boxes (n, 4) and others (m, 4) have an area in common."""
    begins_before_end = boxes[:, None, :2] < others[None, :, 2:]
    ends_after_begin = others[None, :, :2] < boxes[:, None, 2:]
    return np.all(begins_before_end & ends_after_begin, axis=2)


def paste_findings(target: AnnotatedImage, donor: AnnotatedImage) -> AnnotatedImage:
    """The target with those boxes of the donor that show up, and with what they hold.

    Both pictures are (S, S). The donor is brought to the mean and deviation of the target first.
    Where a box adds less than VISIBLE, it is not pasted.
    """
    image = target.image
    gain = np.maximum(exposed_like(donor.image, image) - image, 0)
    kept = []
    weights = []
    for i, box in enumerate(donor.boxes):
        weight = soft_box(box, image.shape)
        if (weight * gain).sum() > VISIBLE * weight.sum():
            kept.append(i)
            weights.append(weight)
    if kept:
        brightened = image + np.max(weights, axis=0) * gain
        image = np.clip(np.rint(brightened), 0, 255).astype(np.uint8)
    return replace(
        target,
        image=image,
        boxes=np.concatenate([target.boxes, donor.boxes[kept]]),
        labels=np.concatenate([target.labels, donor.labels[kept]]),
    )


def exposed_like(picture: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The picture (H, W), float32, with the mean and deviation of the other one."""
    mean, deviation = _mean_and_deviation(picture)
    wanted_mean, wanted_deviation = _mean_and_deviation(other)
    scale = wanted_deviation / max(deviation, 1.0)
    return (picture.astype(np.float32) - mean) * scale + wanted_mean


def _mean_and_deviation(picture: np.ndarray) -> tuple[float, float]:
    mean, deviation = cv2.meanStdDev(picture)
    return float(mean[0, 0]), float(deviation[0, 0])


def soft_box(box: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Weights (H, W) float32: 1 within a box (4,), falling to 0 about its edges."""
    x1, y1, x2, y2 = np.rint(box).astype(int)
    weight = np.zeros(shape, np.float32)
    weight[y1:y2, x1:x2] = 1
    sigma = max(0.5, EDGE * min(x2 - x1, y2 - y1))
    return cv2.GaussianBlur(weight, (0, 0), sigma)
