"""Which predictions to mix, and how much of each: greedy forward search on out-of-fold predictions."""

import numpy as np

STEPS, PATIENCE, GAIN = 200, 20, 1e-4  # the 17th place's of SIIM COVID-19, 2021


def greedy_weights(predictions, score):
    """(weights (M,) that add up to 1, score of the mixture) of predictions (M, n, ...) of M models.

    `score(prediction)` -> number, higher is better. It starts from the best model and mixes in the one that helps most,
    as often as that wins at least GAIN.
    """
    predictions = np.asarray(predictions, float)
    alone = [score(own) for own in predictions]
    weights, reached = np.eye(len(alone))[int(np.argmax(alone))], max(alone)
    while True:
        mixture = np.tensordot(weights, predictions, 1)
        shares = [best_share(mixture, other, score) for other in predictions]
        best = int(np.argmax([found for found, _ in shares]))
        found, share = shares[best]
        if found - reached < GAIN:
            return weights, reached
        weights, reached = (1 - share) * weights + share * np.eye(len(alone))[best], found


def best_share(mixture, other, score):
    """(score, share of `other`) of the best mixture of the two; ends after PATIENCE shares without a better one."""
    best, share, waited = -np.inf, 0.0, 0
    for step in range(1, STEPS):
        found = score((1 - step / STEPS) * mixture + step / STEPS * other)
        if found > best:
            best, share, waited = found, step / STEPS, 0
        else:
            waited += 1
        if waited == PATIENCE:
            break
    return best, share


def mix_out_of_fold(predictions, units, score):
    """(n, ...) predictions, those of each unit mixed with weights that were fitted on the other units.

    predictions (M, n, ...), units (n,); `score(prediction, rows (n,) bool)` judges some of the rows. Scoring these is
    honest, while the score of greedy_weights on the rows it was fitted on flatters.
    """
    predictions, result = np.asarray(predictions, float), np.zeros(np.shape(predictions)[1:])
    for unit in np.unique(units):
        own = units == unit
        weights, _ = greedy_weights(predictions[:, ~own], lambda mixture: score(mixture, ~own))
        result[own] = np.tensordot(weights, predictions[:, own], 1)
    return result
