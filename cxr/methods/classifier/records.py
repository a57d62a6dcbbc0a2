"""The class probabilities of an image, as step 04 keeps them."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


@dataclass(eq=False)
class ClassPrediction:
    """What is kept of one image, merged over models and views."""

    image_id: str
    width: int  # original pixels
    height: int
    category: np.ndarray  # (C,) probabilities of the classes

    @staticmethod
    def columns(predictions):
        """Arrays of a list of predictions, for one file."""
        return {
            "image_id": np.array([p.image_id for p in predictions]),
            "frame": np.array([(p.width, p.height) for p in predictions]),
            "category": np.array([p.category for p in predictions], np.float32),
        }

    @classmethod
    def rows(cls, part):
        """Yield the predictions of what `columns` gave."""
        for image_id, frame, category in zip(part["image_id"], part["frame"], part["category"]):
            yield cls(str(image_id), *map(int, frame), category)


class StudyCase(NamedTuple):
    """One image with the class of its study, its true boxes (n, 4) in original pixels, fold and patient."""

    found: ClassPrediction
    study: str
    label: int
    boxes: np.ndarray
    fold: int
    group: str
