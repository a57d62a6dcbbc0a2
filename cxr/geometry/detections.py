"""Boxes of one image with a class for each: those that are true, and those that were detected, with
scores.

Boxes are x1 y1 x2 y2. Whoever makes them says in which frame they are (cxr/geometry/frames.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cxr.geometry.boxes import clip_boxes


class TrueBoxes(NamedTuple):
    """Ground truth of one image: boxes (n, 4) float64, and labels (n,) int, the class of each."""

    boxes: np.ndarray
    labels: np.ndarray

    @classmethod
    def empty(cls) -> TrueBoxes:
        """No box."""
        return cls(np.zeros((0, 4)), np.zeros(0, int))

    def of_class(self, label: int) -> np.ndarray:
        """Boxes (m, 4) of one class."""
        return self.boxes[self.labels == label]


@dataclass(frozen=True, eq=False)
class Detections:
    """What was detected in one image.

    boxes: (n, 4) float64.
    scores: (n,), higher is surer.
    labels: (n,) int, the class of each box, from 0.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray

    @classmethod
    def empty(cls) -> Detections:
        """No detection."""
        return cls(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, index: np.ndarray | slice) -> Detections:
        """Those at an index: numbers (m,) in this order, a bool mask (n,), or a slice."""
        return Detections(self.boxes[index], self.scores[index], self.labels[index])

    def above(self, thresholds: float | np.ndarray) -> Detections:
        """Those whose score is above one threshold for all, or above that of their class, (K,)."""
        if np.ndim(thresholds):
            thresholds = np.asarray(thresholds)[self.labels]
        return self.take(self.scores > thresholds)

    def of_class(self, label: int) -> Detections:
        """Those of one class."""
        return self.take(self.labels == label)

    def sorted(self) -> Detections:
        """The same by descending score; equal scores keep their order."""
        return self.take(np.argsort(-self.scores, kind="stable"))

    def clipped(self, width: int, height: int) -> Detections:
        """The same with boxes cut at the edges of an image of this size."""
        return Detections(clip_boxes(self.boxes, width, height), self.scores, self.labels)
