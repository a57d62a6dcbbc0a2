"""What a scorer hands to the diagrams of the report: values that are drawn together.

The curves of average_precision.py, froc.py and pooled_boxes.py are handed on as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class PrecisionRecallCurve(NamedTuple):
    """Arrays (k,) by descending score."""

    recall: Sequence[float] | np.ndarray
    precision: Sequence[float] | np.ndarray


class OperatingPoint(NamedTuple):
    """Where the chosen settings lie on the curves, over all images."""

    recall: float
    precision: float
    false_positives_per_image: float


class SensitivityLine(NamedTuple):
    """One parameter moved, all others at their chosen values.

    values: (n,) numbers, words or yes and no.
    scores: (n,) the score with each of them, nan where it is not known.
    chosen: the value that is used.
    """

    values: Sequence[Any]
    scores: Sequence[float]
    chosen: Any


class Reliability(NamedTuple):
    """Scores of images and what is true of them; both (n,)."""

    scores: np.ndarray
    positive: np.ndarray  # bool: whether the image has a finding


class SizedScores(NamedTuple):
    """The images with a finding; both (n,)."""

    areas: np.ndarray  # of the finding, in pixels of the original
    scores: np.ndarray  # Dice
