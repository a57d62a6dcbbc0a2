"""Greedy ensemble: weights add up, useless models stay out, the honest variant never sees what it
mixes."""

import numpy as np
import pytest

from cxr.methods.ensemble import GAIN, PATIENCE, best_share, greedy_weights, mix_out_of_fold


def draw_models(noises, rows=400, seed=0):
    """The truth (n,), and predictions (M, n): the truth with independent noise of these
    deviations."""
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal(rows)
    predictions = [truth + rng.normal(0, noise, rows) for noise in noises]
    return truth, np.array(predictions)


def negative_squared_error(prediction, truth):
    return -np.mean((prediction - truth) ** 2)


def test_weights_of_independent_errors():
    """The mean squared error of a mixture is lowest with weights inverse to the variances."""
    truth, predictions = draw_models([0.5, 0.5, 1.0], rows=20000)
    weights, reached = greedy_weights(
        predictions, lambda mixture: negative_squared_error(mixture, truth)
    )
    assert weights.sum() == pytest.approx(1)
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights, [4 / 9, 4 / 9, 1 / 9], atol=0.03)
    assert reached == pytest.approx(-1 / 9, rel=0.05)


def test_noise_is_left_out():
    truth, predictions = draw_models([0.3, 30, 30])
    weights, _ = greedy_weights(predictions, lambda mixture: -np.abs(mixture - truth).mean())
    assert weights[0] > 0.98


def test_one_model():
    assert greedy_weights(np.ones((1, 3)), np.sum) == (np.ones(1), 3)


def test_equal_models():
    weights, reached = greedy_weights(np.ones((3, 2, 4)), np.mean)
    np.testing.assert_array_equal(weights, [1, 0, 0])
    assert reached == 1


def test_small_gains_end_the_search():
    def score(mixture):
        return 0.5 + GAIN / 2 if mixture.all() else 0.5

    weights, _ = greedy_weights(np.eye(2), score)
    np.testing.assert_array_equal(weights, [1, 0])


def test_patience():
    """The best share is 0.1, the 20th that is tried."""
    tried = []

    def score(mixture):
        tried.append(float(mixture[0]))
        return -abs(mixture[0] - 0.1)

    assert best_share(np.zeros(1), np.ones(1), score).share == 0.1
    assert len(tried) == 20 + PATIENCE


def test_mixed_without_seeing_the_truth_of_the_unit():
    """Among many models of pure noise the fitted mixture looks good and the honest one does not."""
    rng = np.random.default_rng(0)
    truth = rng.standard_normal(60)
    units = np.arange(60) % 3
    predictions = rng.standard_normal((12, 60))

    def score(mixture, rows=slice(None)):
        return np.corrcoef(mixture, truth[rows])[0, 1]

    _, flattered = greedy_weights(predictions, score)
    assert flattered > 0.2
    assert score(mix_out_of_fold(predictions, units, score)) < 0.1


def test_rows_of_a_unit_do_not_touch_its_own_mixture():
    truth, predictions = draw_models([0.5, 0.6, 0.7], rows=90)
    units = np.arange(90) % 3

    def mix(truth):
        return mix_out_of_fold(
            predictions,
            units,
            lambda mixture, rows: negative_squared_error(mixture, truth[rows]),
        )

    mixed = mix(truth)
    mixed_otherwise = mix(np.where(units == 1, -truth, truth))
    np.testing.assert_array_equal(mixed[units == 1], mixed_otherwise[units == 1])
    assert (mixed != mixed_otherwise).any()
