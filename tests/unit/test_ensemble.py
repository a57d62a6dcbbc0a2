"""Greedy ensemble: weights add up, useless models stay out, the honest variant never sees what it mixes."""

import numpy as np
import pytest

from cxr.methods.ensemble import GAIN, PATIENCE, best_share, greedy_weights, mix_out_of_fold


def models(noises, rows=400, seed=0):
    """(truth (n,), predictions (M, n)): the truth and independent noise of these deviations."""
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal(rows)
    return truth, np.array([truth + rng.normal(0, noise, rows) for noise in noises])


def test_weights_of_independent_errors():
    """The mean squared error of a mixture is lowest with weights inverse to the variances."""
    truth, predictions = models([0.5, 0.5, 1.0], rows=20000)
    weights, reached = greedy_weights(predictions, lambda mixture: -np.mean((mixture - truth) ** 2))
    assert weights.sum() == pytest.approx(1) and (weights >= 0).all()
    np.testing.assert_allclose(weights, [4 / 9, 4 / 9, 1 / 9], atol=0.03)
    assert reached == pytest.approx(-1 / 9, rel=0.05)


def test_noise_is_left_out():
    truth, predictions = models([0.3, 30, 30])
    weights, _ = greedy_weights(predictions, lambda mixture: -np.abs(mixture - truth).mean())
    assert weights[0] > 0.98


def test_one_model_and_equal_models():
    assert greedy_weights(np.ones((1, 3)), np.sum) == (np.ones(1), 3)
    weights, reached = greedy_weights(np.ones((3, 2, 4)), np.mean)
    np.testing.assert_array_equal(weights, [1, 0, 0])
    assert reached == 1


def test_small_gains_end_the_search():
    score = {0: 0.5, 1: 0.5 + GAIN / 2}
    weights, _ = greedy_weights(
        np.eye(2), lambda mixture: score[int(mixture[1] > 0 and mixture[0] > 0)]
    )
    np.testing.assert_array_equal(weights, [1, 0])


def test_patience():
    asked = []
    best_share(
        np.zeros(1),
        np.ones(1),
        lambda mixture: asked.append(float(mixture[0])) or -abs(mixture[0] - 0.1),
    )
    assert (
        len(asked) == 20 + PATIENCE
        and best_share(np.zeros(1), np.ones(1), lambda m: -abs(m[0] - 0.1))[1] == 0.1
    )


def test_mixed_without_seeing_the_truth_of_the_unit():
    """Among many models of pure noise the fitted mixture looks good and the honest one does not."""
    rng = np.random.default_rng(0)
    truth, units, predictions = (
        rng.standard_normal(60),
        np.arange(60) % 3,
        rng.standard_normal((12, 60)),
    )

    def score(mixture, rows=slice(None)):
        return np.corrcoef(mixture, truth[rows])[0, 1]

    _, flattered = greedy_weights(predictions, score)
    assert flattered > 0.2 and score(mix_out_of_fold(predictions, units, score)) < 0.1


def test_rows_of_a_unit_do_not_touch_its_own_mixture():
    truth, predictions = models([0.5, 0.6, 0.7], rows=90)
    units = np.arange(90) % 3
    mixed = [
        mix_out_of_fold(
            predictions, units, lambda mixture, rows, t=t: -np.mean((mixture - t[rows]) ** 2)
        )
        for t in (truth, np.where(units == 1, -truth, truth))
    ]
    np.testing.assert_array_equal(mixed[0][units == 1], mixed[1][units == 1])
    assert (mixed[0] != mixed[1]).any()
