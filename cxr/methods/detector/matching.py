"""Which anchors of an image are positive or ignored.

Needs no network, so the processes of the loader do it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cxr.geometry.anchors import encode_boxes
from cxr.geometry.boxes import box_iou

POSITIVE = 0.5  # IoU with a true box from which an anchor is positive
NEGATIVE = 0.4  # IoU below which it is negative


class _AnchorGroup(NamedTuple):
    """The anchors of one area: that area, their numbers (m,), and themselves (m, 4)."""

    area: float
    numbers: Tensor
    anchors: Tensor


class _Overlaps(NamedTuple):
    """Pairs of an anchor and a box, each (m,): their numbers, and their IoU."""

    anchor: Tensor
    box: Tensor
    iou: Tensor


class Matcher:
    """Target maker for anchors (A, 4): called with the boxes (n, 4) and classes (n,) of an image.

    An anchor belongs to the box it overlaps most; it is positive from IoU 0.5, ignored from 0.4,
    else negative. The IoU of two boxes is at most the ratio of their areas, so each box is compared
    with anchors of its own size only. Boxes and anchors are x1 y1 x2 y2 in network pixels.
    """

    def __init__(self, anchors: Tensor) -> None:
        self.anchors = anchors
        self.groups: list[_AnchorGroup] = []
        area = (anchors[:, 2:] - anchors[:, :2]).prod(1)
        # Three scales in an octave of length are six in four octaves of area.
        size_class = (6 * area.log2()).round()
        for each in size_class.unique():
            numbers = (size_class == each).nonzero()[:, 0]
            mean_area = float(area[numbers].mean())
            self.groups.append(_AnchorGroup(mean_area, numbers, anchors[numbers]))

    def __call__(self, boxes: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """{positive: (p,) numbers of the positive anchors, goal: (p, 4) the deltas that move them
        onto their boxes, positive_label: (p,) their classes, ignored: (q,) numbers of those}."""
        pairs = self._overlaps(boxes)
        best = pairs.iou.argsort(descending=True, stable=True)
        anchor, first = unique_first(pairs.anchor[best])
        box = pairs.box[best][first]
        positive = pairs.iou[best][first] >= POSITIVE
        positive_anchor = anchor[positive]
        owner = box[positive]
        return {
            "positive": positive_anchor,
            "goal": encode_boxes(boxes[owner], self.anchors[positive_anchor]),
            "positive_label": labels[owner],
            "ignored": anchor[~positive],
        }

    def _overlaps(self, boxes: Tensor) -> _Overlaps:
        """All pairs with an IoU of at least NEGATIVE."""
        no_number = torch.zeros(0, dtype=torch.long)
        anchor = [no_number]
        owner = [no_number]
        iou = [torch.zeros(0)]
        for number, box in enumerate(boxes):
            box_area = float((box[2:] - box[:2]).prod())
            for group in self.groups:
                if min(group.area, box_area) < 0.99 * NEGATIVE * max(group.area, box_area):
                    continue
                overlap = box_iou(group.anchors, box[None])[:, 0]
                near = (overlap >= NEGATIVE).nonzero()[:, 0]
                anchor.append(group.numbers[near])
                owner.append(torch.full_like(near, number))
                iou.append(overlap[near])
        return _Overlaps(torch.cat(anchor), torch.cat(owner), torch.cat(iou))


def unique_first(values: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct values in ascending order, and where each occurs first, of integers (n,)."""
    order = values.argsort(stable=True)
    ranked = values[order]
    is_new = torch.ones_like(ranked, dtype=torch.bool)
    is_new[1:] = ranked[1:] != ranked[:-1]
    return ranked[is_new], order[is_new]
