"""The simplest rule within one standard error of the best."""

import numpy as np
import pytest
from test_search import hand_tally

from cxr.methods.detector.search import FittingUnit, best_index, fit, nested, threshold_weights
from cxr.methods.detector.simplest import error_of_difference, fit_simplest

UNITS = [FittingUnit(number // 2, number % 2, False) for number in range(8)]
PLAIN, SHRUNK = -0.5, 1.6


def tally_of(gains):
    """0.5 for the plain rule in each unit, and so much more for the other one."""
    tables = {}
    for unit, gain in zip(UNITS, gains, strict=True):
        tables[unit] = [[0.5] * 3, [0.5 + gain] * 3]
    return hand_tally(tables)


def test_a_gain_that_may_be_chance_is_left():
    tally = tally_of([0.1, -0.08] * 4)
    assert fit(tally).percentile_shrink == SHRUNK
    assert fit_simplest(tally).percentile_shrink == PLAIN
    assert nested(tally, choose=fit_simplest).final.percentile_shrink == PLAIN


def test_a_small_gain_that_is_there_everywhere_is_taken():
    tally = tally_of([0.01, 0.011] * 4)
    assert fit_simplest(tally).percentile_shrink == SHRUNK
    outcome = nested(tally, choose=fit_simplest)
    assert outcome.score == pytest.approx(0.5105)


def test_the_error_is_that_of_a_mean_of_units():
    """Units of as many images each: the spread of their differences over the root of their
    number."""
    gains = np.array([0.1, -0.05, 0.02, 0.0, 0.07, 0.03, -0.02, 0.05])
    tally = tally_of(gains)
    weights = threshold_weights(tally.grid)
    best = best_index(tally.means() @ weights.T)
    axis = len(best) - 1
    plain = tuple(0 if number < axis else index for number, index in enumerate(best))
    error = error_of_difference(tally, UNITS, weights, best, plain)
    assert error == pytest.approx(gains.std(ddof=1) / np.sqrt(8))
    assert error_of_difference(tally, UNITS[:1], weights, best, plain) == 0.0


def test_without_units_the_plainest():
    tally = tally_of([0.1] * 8)
    assert fit_simplest(tally, []).percentile_shrink == PLAIN
