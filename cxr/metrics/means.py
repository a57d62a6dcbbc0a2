"""Means over values of which some are not defined (nan)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def mean_score(scores: ArrayLike) -> float:
    """Mean over the images that count (not nan); 0 where none does."""
    mean = mean_known(scores)
    return 0.0 if np.isnan(mean) else mean


def mean_known(values: ArrayLike) -> float:
    """Mean of the values that are numbers; nan where none is."""
    values = np.asarray(values, float)
    known = values[~np.isnan(values)]
    if not len(known):
        return float("nan")
    return float(known.mean())
