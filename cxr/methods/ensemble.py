"""Which predictions to mix, and how much of each: greedy search on out-of-fold predictions."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

# The 17th place's of SIIM COVID-19, 2021.
STEPS = 200  # shares that are tried are multiples of 1 / STEPS
PATIENCE = 20  # shares without a better one after which the search for a share ends
GAIN = 1e-4  # what a further model has to win


class MixtureWeights(NamedTuple):
    """Weights (M,) of M models, which add up to 1, and the score of their mixture."""

    weights: np.ndarray
    score: float


class BestShare(NamedTuple):
    """The best mixture of two predictions: its score, and the share of the second."""

    score: float
    share: float


def greedy_weights(predictions: ArrayLike, score: Callable[[np.ndarray], float]) -> MixtureWeights:
    """Weights for predictions (M, n, ...) of M models.

    score: of a prediction (n, ...), higher is better. The search starts from the best model and
    mixes in the one that helps most, as often as that wins at least GAIN.
    """
    predictions = np.asarray(predictions, float)

    def score_weights(weights: np.ndarray) -> float:
        return score(np.tensordot(weights, predictions, 1))

    return search_weights(len(predictions), score_weights)


def search_weights(
    count: int,
    score: Callable[[np.ndarray], float],
    steps: int = STEPS,
    patience: int = PATIENCE,
) -> MixtureWeights:
    """The same for `count` models whose mixture only `score` can make, of its weights (count,).

    steps: shares that are tried are multiples of 1 / steps. patience: shares without a better one.
    """
    models = np.eye(count)
    single_scores = [score(model) for model in models]
    weights = models[int(np.argmax(single_scores))]
    reached = max(single_scores)
    while True:
        candidates = [best_share(weights, model, score, steps, patience) for model in models]
        best = int(np.argmax([candidate.score for candidate in candidates]))
        if candidates[best].score - reached < GAIN:
            return MixtureWeights(weights, reached)
        reached, share = candidates[best]
        weights = (1 - share) * weights + share * models[best]


def best_share(
    mixture: np.ndarray,
    prediction: np.ndarray,
    score: Callable[[np.ndarray], float],
    steps: int = STEPS,
    patience: int = PATIENCE,
) -> BestShare:
    """The best mixture of the two; ends after `patience` shares without a better one."""
    best = BestShare(-np.inf, 0.0)
    waited = 0
    for step in range(1, steps):
        share = step / steps
        share_score = score((1 - share) * mixture + share * prediction)
        if share_score > best.score:
            best = BestShare(share_score, share)
            waited = 0
        else:
            waited += 1
        if waited == patience:
            break
    return best


def mix_out_of_fold(
    predictions: ArrayLike,
    units: np.ndarray,
    score: Callable[[np.ndarray, np.ndarray], float],
) -> np.ndarray:
    """Mixed predictions (n, ...), those of each unit with weights that were fitted on the others.

    predictions: (M, n, ...) of M models.
    units: (n,), what is held out together.
    score: of the predictions of some rows, and these rows, (n,) bool.

    To score these is honest, while the score that greedy_weights reaches on the rows it was fitted
    on flatters.
    """
    predictions = np.asarray(predictions, float)
    mixed = np.zeros(predictions.shape[1:])
    for unit in np.unique(units):
        held_out = units == unit
        fitted_on = ~held_out

        def score_fitted(mixture: np.ndarray, rows: np.ndarray = fitted_on) -> float:
            return score(mixture, rows)

        weights, _ = greedy_weights(predictions[:, fitted_on], score_fitted)
        mixed[held_out] = np.tensordot(weights, predictions[:, held_out], 1)
    return mixed
