"""How doubtful an answer is: by itself, and by how far the networks of several folds disagree.

The second is what one more label would tell about the networks (Houlsby et al. 2011, BALD, arXiv
1112.5745): where every network is unsure for itself, as of a blurred image, they do not disagree.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

SMALLEST = 1e-9  # probability, so that a logarithm can be taken


class Doubt(NamedTuple):
    """Of one image, in bits: 0 is none, 1 the most.

    entropy: of the merged answer. disagreement: between the answers of the folds; None where there
    are not several.
    """

    entropy: float
    disagreement: float | None


def entropy(probability: ArrayLike) -> np.ndarray:
    """Doubt of a yes or no, 0 (sure) to 1 (one half), in bits."""
    p = np.clip(np.asarray(probability, float), SMALLEST, 1 - SMALLEST)
    return -(p * np.log2(p) + (1 - p) * np.log2(1 - p))


def disagreement(probabilities: ArrayLike) -> np.ndarray:
    """Entropy of the mean less the mean entropy, (...), of what M folds say, (M, ...)."""
    by_fold = np.asarray(probabilities, float)
    difference = entropy(by_fold.mean(axis=0)) - entropy(by_fold).mean(axis=0)
    return np.maximum(difference, 0)


def largest_doubt(merged: np.ndarray, by_fold: ArrayLike) -> Doubt:
    """Of K questions those of the most doubtful one; none without any question.

    merged: probabilities (K,) of yes. by_fold: the same (M, K) of M folds.
    """
    own = float(entropy(merged).max(initial=0))
    of_folds = np.asarray(by_fold, float)
    if len(of_folds) < 2:
        return Doubt(own, None)
    return Doubt(own, float(disagreement(of_folds).max(initial=0)))
