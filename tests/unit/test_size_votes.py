"""Percentiles of the sizes that networks vote for: within a fold, or over all as published."""

import numpy as np
import pytest
import torch

import edge_predict
from cxr.methods.detector.heads import MergedLocations, size_percentiles, vote_shares

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


# --- votes for a box

# Two anchors of 100 x 100 side by side, both of class 0 unless said otherwise.
ANCHORS = torch.tensor([[0.0, 0, 100, 100], [10, 0, 110, 100]])


def votes_of(scores, moved=(), labels=(0, 0)):
    """Shares for two locations. scores: (N, 2). moved: voters whose boxes lie 90 pixels aside."""
    deltas = torch.zeros(len(scores), 2, 4)
    for voter in moved:
        deltas[voter, :, 0] = 9.0  # of a tenth of the width, as boxes are coded
    merged = MergedLocations(
        score=torch.tensor(scores).mean(0),
        label=torch.tensor(labels),
        location=torch.arange(2),
        deltas=deltas,
        category=torch.zeros(3),
        voter_scores=torch.tensor(scores),
    )
    return vote_shares(merged, ANCHORS).tolist()


def test_a_network_votes_where_it_has_a_box():
    """The second and third have one at one of two locations that overlap, the last has none."""
    scores = [[0.9, 0.8], [0.2, 0.0], [0.0, 0.06], [0.05, 0.01]]
    assert votes_of(scores) == [0.75, 0.75]


def test_boxes_elsewhere_or_of_another_class_are_no_votes():
    scores = [[0.9, 0.9], [0.9, 0.9], [0.9, 0.9], [0.9, 0.9], [0.9, 0.9]]
    assert votes_of(scores, moved=[4]) == pytest.approx([0.8, 0.8])
    assert votes_of([[0.9, 0.0], [0.0, 0.9]], labels=(0, 1)) == [0.5, 0.5]


def test_a_network_alone_agrees_with_itself():
    assert votes_of([[0.02, 0.01]]) == [1, 1]
