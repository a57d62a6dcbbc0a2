"""Age, sex and view of a patient as numbers that a network can take in.

The 4th place of the RSNA Pneumonia Detection Challenge gave them to the last layer of its
classifier.
"""

from __future__ import annotations

import math

import numpy as np

HEADER_NUMBERS = 4  # in `header_numbers`
OLDEST = 100.0  # years; more is a typing error, and counts as unknown
SEXES = {"M": 1.0, "F": -1.0}
VIEWS = {"AP": 1.0, "PA": -1.0}  # lying and standing, which says how sick someone is


def header_numbers(age: object, sex: object, view: object) -> np.ndarray:
    """(HEADER_NUMBERS,) float32: age from -1 to 1, whether it is known, sex, view.

    age: years. What is unknown, or no such value, is 0.
    """
    years = age if isinstance(age, int | float | np.number) else math.nan
    known = bool(0 <= years <= OLDEST)  # false for nan
    centred = 2 * float(years) / OLDEST - 1 if known else 0.0
    numbers = (centred, float(known), SEXES.get(str(sex), 0.0), VIEWS.get(str(view), 0.0))
    return np.array(numbers, np.float32)
