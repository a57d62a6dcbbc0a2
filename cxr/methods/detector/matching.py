"""Which anchors of an image are positive or ignored. Needs no network, so the loader's processes do it."""

import torch

from cxr.geometry.anchors import encode_boxes
from cxr.geometry.boxes import box_iou

POSITIVE, NEGATIVE = 0.5, 0.4  # IoU with a true box


class Matcher:
    """Anchors (A, 4) -> callable on the boxes (n, 4) and classes (n,) of an image.

    An anchor belongs to the box it overlaps most; it is positive from IoU 0.5, ignored from 0.4, else negative. The IoU
    of two boxes is at most the ratio of their areas, so each box is compared with anchors of its own size only.
    """

    def __init__(self, anchors):
        area = (anchors[:, 2:] - anchors[:, :2]).prod(1)
        classes = (
            6 * area.log2()
        ).round()  # three scales in an octave of length are six in four octaves of area
        self.sizes = [
            (float(area[same].mean()), same, anchors[same])
            for same in ((classes == c).nonzero()[:, 0] for c in classes.unique())
        ]
        self.anchors = anchors

    def __call__(self, boxes, labels):
        """{positive (p,): anchors, goal (p, 4): their deltas, positive_label (p,): their class, ignored (q,)}."""
        anchor, box, overlap = self.overlaps(boxes)
        best = overlap.argsort(descending=True, stable=True)
        anchor, first = unique_first(anchor[best])
        box, overlap = box[best][first], overlap[best][first]
        positive = overlap >= POSITIVE
        anchors, owner = anchor[positive], box[positive]
        return {
            "positive": anchors,
            "goal": encode_boxes(boxes[owner], self.anchors[anchors]),
            "positive_label": labels[owner],
            "ignored": anchor[~positive],
        }

    def overlaps(self, boxes):
        """(anchor, box, IoU), each (m,): all pairs with an IoU of at least NEGATIVE."""
        found = [
            (torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long), torch.zeros(0))
        ]
        for number, box in enumerate(boxes):
            own = float((box[2:] - box[:2]).prod())
            for area, index, anchors in self.sizes:
                if min(area, own) >= 0.99 * NEGATIVE * max(area, own):
                    overlap = box_iou(anchors, box[None])[:, 0]
                    near = (overlap >= NEGATIVE).nonzero()[:, 0]
                    found.append((index[near], torch.full_like(near, number), overlap[near]))
        return tuple(torch.cat(part) for part in zip(*found))


def unique_first(values):
    """(distinct values in rising order, index of the first occurrence of each) of integers (n,)."""
    order = values.argsort(stable=True)
    ranked = values[order]
    new = torch.ones_like(ranked, dtype=torch.bool)
    new[1:] = ranked[1:] != ranked[:-1]
    return ranked[new], order[new]
