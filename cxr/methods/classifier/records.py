"""The class probabilities of an image, as step 04 keeps them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(eq=False)
class ClassPrediction:
    """What is kept of one image, merged over models and views.

    width, height: original pixels. category: (C,) probabilities of the classes. none: probability
    that nothing is marked in the image; nan of a network that has not learned it.
    """

    image_id: str
    width: int
    height: int
    category: np.ndarray
    none: float = math.nan

    @staticmethod
    def columns(predictions: Sequence[ClassPrediction]) -> dict[str, np.ndarray]:
        """Arrays of some predictions, for one file."""
        return {
            "image_id": np.array([p.image_id for p in predictions]),
            "frame": np.array([(p.width, p.height) for p in predictions]),
            "category": np.array([p.category for p in predictions], np.float32),
            "none": np.array([p.none for p in predictions], np.float32),
        }

    @classmethod
    def rows(cls, part: Mapping[str, np.ndarray]) -> Iterator[ClassPrediction]:
        """Yield the predictions of what `columns` gave."""
        count = len(part["image_id"])
        # Of an older version, which wrote none.
        nones = part["none"] if "none" in part else np.full(count, np.nan)
        for i, image_id in enumerate(part["image_id"]):
            width, height = part["frame"][i]
            category = part["category"][i]
            yield cls(str(image_id), int(width), int(height), category, float(nones[i]))


@dataclass(frozen=True, eq=False)
class StudyCase:
    """One out-of-fold image with the class of its study, its fold and its patient.

    boxes: true ones (n, 4), x1 y1 x2 y2 in original pixels.
    """

    prediction: ClassPrediction
    study: str
    label: int
    boxes: np.ndarray
    fold: int
    group: str
