"""What a run says of one image: boxes, a mask, or only how likely each class of the image is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cxr.geometry.detections import Detections
from cxr.geometry.masks import encode_runs
from cxr.plots.mask_overlay import draw_classes, draw_mask
from cxr.plots.overlay import draw_overlay, write_overlay
from cxr.plots.panels import BRIGHT, colours_of

MASK_LEVEL = 255  # of a mask's PNG where it is set
CORNERS = ("x1", "y1", "x2", "y2")


@dataclass(frozen=True, eq=False)
class Result(ABC):
    """What all results have in common.

    width, height: the original picture's. shown: the picture to look at, (h, w) uint8 with the same
    aspect, perhaps smaller. probabilities: {class of the whole image: 0 ... 1}; empty where the run
    has learned none. not_frontal_chest: why the image is no frontal chest X-ray by its header, else
    ""; the networks have learned nothing else. study: the StudyInstanceUID of the file, "" where it
    names none; None where the classes of the run are of images.
    """

    width: int
    height: int
    shown: np.ndarray
    probabilities: Mapping[str, float]
    not_frontal_chest: str = field(default="", kw_only=True)
    study: str | None = field(default=None, kw_only=True)

    @abstractmethod
    def overlay(self) -> np.ndarray:
        """RGB picture (h, w, 3) uint8 of the X-ray with what was found in it."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON's own types: {"probabilities": {class: p}, "not_frontal_chest": words,
        "boxes": [...]}, "mask" of masks, and "study" of runs whose classes are of studies.

        A box is {finding, score, above_threshold, x1, y1, x2, y2}, in original pixels.
        """
        probabilities = {name: round(value, 6) for name, value in self.probabilities.items()}
        content: dict[str, Any] = {
            "probabilities": probabilities,
            "not_frontal_chest": self.not_frontal_chest,
            "boxes": [],
        }
        if self.study is not None:
            content["study"] = self.study
        return content

    def mask_picture(self) -> np.ndarray | None:
        """The mask as RGB picture (height, width, 3) in original pixels, white where it is set.

        None where a result is no mask.
        """
        return None

    @property
    @abstractmethod
    def score(self) -> float:
        """How sure the run is of what it found, 0 ... 1; 0 where it found nothing at all."""

    def draw(self, path: str | Path) -> None:
        """Write the overlay as PNG."""
        write_overlay(Path(path), self.overlay())


@dataclass(frozen=True, eq=False)
class BoxResult(Result):
    """Boxes in original pixels, the best first, those with low scores too.

    thresholds: {class: the score above which its boxes count}, in the order of the labels.
    """

    detections: Detections
    thresholds: Mapping[str, float]

    @property
    def class_names(self) -> list[str]:
        """What the labels of the detections are called."""
        return list(self.thresholds)

    @cached_property
    def is_above(self) -> np.ndarray:
        """(n,) bool: whether the score is above the threshold of the box's class."""
        thresholds = np.array(list(self.thresholds.values()))
        return self.detections.scores > thresholds[self.detections.labels.astype(int)]

    @property
    def marked(self) -> Detections:
        """The boxes above their thresholds."""
        return self.detections.take(self.is_above)

    @property
    def score(self) -> float:
        return float(self.detections.scores.max(initial=0))

    def to_dict(self) -> dict[str, Any]:
        boxes = []
        for number in range(len(self.detections)):
            box = {
                "finding": self.class_names[int(self.detections.labels[number])],
                "score": round(float(self.detections.scores[number]), 6),
                "above_threshold": bool(self.is_above[number]),
            }
            corners = self.detections.boxes[number].tolist()
            for name, value in zip(CORNERS, corners, strict=True):
                box[name] = round(value, 2)
            boxes.append(box)
        return super().to_dict() | {"boxes": boxes}

    def overlay(self) -> np.ndarray:
        boxes = [box for box in self.to_dict()["boxes"] if box["above_threshold"]]
        colours = colours_of(self.class_names, BRIGHT)
        return draw_overlay(self.shown, self.width, self.height, boxes, colours)


@dataclass(frozen=True, eq=False)
class MaskResult(Result):
    """A mask in original pixels.

    finding: what it shows. levels (height, width) uint8: probability of each pixel, 255 for 1.
    mask (height, width) uint8 of 0 and 1: after the thresholds of step 05. image_score: probability
    that there is a finding at all.
    """

    finding: str
    levels: np.ndarray
    mask: np.ndarray
    image_score: float

    @property
    def mask_probabilities(self) -> np.ndarray:
        """Probability of each pixel (height, width), float32."""
        return self.levels.astype(np.float32) / 255

    @cached_property
    def area(self) -> int:
        """Pixels of the mask."""
        return int(np.count_nonzero(self.mask))

    @property
    def score(self) -> float:
        return self.image_score

    def to_dict(self) -> dict[str, Any]:
        """`mask`: {finding, score, area, share of the picture, runs, outlines}.

        runs: run lengths as cxr/geometry/masks.py has them, "-1" for none. outlines: closed lines
        [[x, y], ...] around the parts of the mask and their holes.
        """
        mask = {
            "finding": self.finding,
            "score": round(self.image_score, 6),
            "area": self.area,
            "share": round(self.area / self.mask.size, 6),
            "runs": encode_runs(self.mask),
            "outlines": [line.tolist() for line in self.outlines()],
        }
        return super().to_dict() | {"mask": mask}

    def overlay(self) -> np.ndarray:
        words = f"{self.finding} {self.image_score:.2f}"
        return draw_mask(self.shown, self.mask, words, BRIGHT[0])

    def outlines(self) -> list[np.ndarray]:
        """Closed lines (m, 2) of pixels x, y around the parts of the mask and their holes."""
        lines, _ = cv2.findContours(self.mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        return [line[:, 0] for line in lines]

    def mask_picture(self) -> np.ndarray:
        return cv2.cvtColor(self.mask * MASK_LEVEL, cv2.COLOR_GRAY2RGB)


@dataclass(frozen=True, eq=False)
class ClassResult(Result):
    """Only the class probabilities of the whole image."""

    @property
    def best_class(self) -> str:
        """The most probable class."""
        return max(self.probabilities, key=lambda name: self.probabilities[name])

    @property
    def score(self) -> float:
        return float(self.probabilities[self.best_class])

    def overlay(self) -> np.ndarray:
        return draw_classes(self.shown, self.probabilities)
