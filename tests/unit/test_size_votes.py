"""Percentiles of the sizes that networks vote for: within a fold, or over all as published."""

import numpy as np
import pytest
import torch

import edge_predict
from cxr.methods.detector.heads import size_percentiles

# Votes of three networks of fold 0 and two of fold 1, for one box's width and height.
VOTES = [[0.0, 1.0], [1.0, 1.0], [2.0, 1.0], [10.0, 5.0], [12.0, 5.0]]
FOLDS = (0, 0, 0, 1, 1)
# Fold 0: 20 % of 0, 1, 2 is 0.4 and 80 % is 1.6. Fold 1: 10.4 and 11.6.
WITHIN = ([5.4, 3.0], [6.6, 3.0])
# 0, 1, 2, 10, 12: 0.8 and 10.4; 1, 1, 1, 5, 5: 1 and 5.
OVER_ALL = ([0.8, 1.0], [10.4, 5.0])


@pytest.mark.parametrize("size_votes, expected", [("fold", WITHIN), ("all", OVER_ALL)])
def test_both_ways_by_hand(size_votes, expected):
    growth = torch.tensor(VOTES)[:, None]
    percentiles = size_percentiles(growth, FOLDS, size_votes)
    for found, wanted in zip(percentiles, expected, strict=True):
        assert found[0].tolist() == pytest.approx(wanted)


def test_one_fold_is_the_same_either_way():
    growth = torch.rand(6, 4, 2)
    within = size_percentiles(growth, (2,) * 6, "fold")
    over_all = size_percentiles(growth, (2,) * 6, "all")
    for a, b in zip(within, over_all, strict=True):
        assert torch.equal(a, b)


class ExportedRun(edge_predict.Predictor):
    """A predictor of a file without the file."""

    def __init__(self, size_votes):
        self.settings = {"folds": list(FOLDS), "size_votes": size_votes}
        self.models = range(len(FOLDS))
        self.flips = [False]


@pytest.mark.parametrize("size_votes, expected", [("fold", WITHIN), ("all", OVER_ALL)])
def test_edge_predict_does_the_same(size_votes, expected):
    low, high = ExportedRun(size_votes).size_percentiles(np.array(VOTES)[:, None])
    assert low[0].tolist() == pytest.approx(expected[0])
    assert high[0].tolist() == pytest.approx(expected[1])


def test_files_of_older_versions_take_all_votes():
    run = ExportedRun("fold")
    run.settings = {}
    low, _ = run.size_percentiles(np.array(VOTES)[:, None])
    assert low[0].tolist() == pytest.approx(OVER_ALL[0])
