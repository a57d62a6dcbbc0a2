"""Bootstrap intervals: as wide as they must be, patients drawn whole, uncounted images left out."""

import numpy as np
import pytest

from cxr.metrics.bootstrap import bootstrap_interval


def test_interval_is_that_of_the_normal_distribution():
    """Mean +- 1.96 standard errors."""
    scores = np.random.default_rng(0).uniform(size=400)
    error = 1.96 * scores.std() / 20
    expected = (scores.mean() - error, scores.mean() + error)
    assert bootstrap_interval(scores, seed=1) == pytest.approx(expected, abs=0.15 * error)


def test_interval_depends_on_the_seed_alone():
    scores = np.random.default_rng(0).uniform(size=400)
    assert bootstrap_interval(scores, seed=1) == bootstrap_interval(scores, seed=1)
    assert bootstrap_interval(scores, seed=1) != bootstrap_interval(scores, seed=2)


def test_uncounted_images_are_left_out():
    assert bootstrap_interval([0.25, np.nan, 0.25]) == (0.25, 0.25)


def test_groups_are_drawn_whole():
    """Each patient has one image of 0 and one of 1, so every draw of whole patients has the mean
    1/2."""
    assert bootstrap_interval([0, 1, 0, 1], ["a", "a", "b", "b"]) == (0.5, 0.5)
    low, high = bootstrap_interval([0, 1, 0, 1])
    assert low < 0.5 < high


def test_where_nothing_counts_there_is_no_interval():
    assert np.isnan(bootstrap_interval([np.nan])).all()
    assert np.isnan(bootstrap_interval([])).all()
