"""Findings of one X-ray put onto another: pictures to learn from that nobody had to take.

After "Simple copy-paste is a strong data augmentation" (Ghiasi et al. 2021), but with soft edges and only brightening,
as a dense lung does, since boxes have no outlines and a dark patch would show where it was cut.
"""

import cv2
import numpy as np

EDGE = 0.1  # softness of a patch's edge, a standard deviation: share of the box's shorter side
VISIBLE = 6.0  # gray values that a patch must add in the mean; behind the heart or on a white lung it adds nothing


def draw_findings(rng, donor, boxes, labels, taken):
    """(donor, boxes, labels) to paste: half the time mirrored, each box half the time, one at least.

    The sides of the chest are drawn anew, since a network that sees few pictures learns that what is on one side is on
    the other, too. Boxes that meet one of those that are there already, `taken` (m, 4), are left out.
    """
    if rng.random() < 0.5:
        donor, boxes = (
            donor[:, ::-1],
            np.stack(
                [
                    donor.shape[1] - boxes[:, 2],
                    boxes[:, 1],
                    donor.shape[1] - boxes[:, 0],
                    boxes[:, 3],
                ],
                1,
            ),
        )
    chosen = rng.random(len(boxes)) < 0.5
    chosen[rng.integers(len(boxes))] = True
    chosen &= ~meet(boxes, taken).any(1)
    return donor, boxes[chosen], labels[chosen]


def meet(boxes, others):
    """(n, m): which boxes have an area in common."""
    return (
        (boxes[:, None, :2] < others[None, :, 2:]) & (others[None, :, :2] < boxes[:, None, 2:])
    ).all(2)


def paste_findings(image, donor, boxes, labels):
    """(image, boxes, labels) with those boxes of another picture that show up, and what they hold.

    Both pictures uint8 (S, S); boxes (n, 4) in pixels, labels (n,). The donor is brought to the mean and deviation of
    the image first. Where a box adds less than VISIBLE, it is not pasted.
    """
    gain = np.maximum(exposed_like(donor, image) - image, 0)
    weights = [soft_box(box, image.shape) for box in boxes]
    kept = [i for i, weight in enumerate(weights) if (weight * gain).sum() > VISIBLE * weight.sum()]
    if kept:
        image = np.clip(
            np.rint(image + np.max([weights[i] for i in kept], axis=0) * gain), 0, 255
        ).astype(np.uint8)
    return image, boxes[kept], labels[kept]


def exposed_like(picture, other):
    """The picture, float32, with the mean and deviation of the other one."""
    (own_mean, own_spread), (mean, spread) = (
        (float(x[0, 0]) for x in cv2.meanStdDev(one)) for one in (picture, other)
    )
    return (picture.astype(np.float32) - own_mean) * (spread / max(own_spread, 1.0)) + mean


def soft_box(box, shape):
    """Weights (H, W) float32: 1 within a box (4,), falling to 0 about its edges."""
    x1, y1, x2, y2 = np.rint(box).astype(int)
    weight = np.zeros(shape, np.float32)
    weight[y1:y2, x1:x2] = 1
    return cv2.GaussianBlur(weight, (0, 0), max(0.5, EDGE * min(x2 - x1, y2 - y1)))
