"""Detections: what is kept, in which order, and that none is a case like any other."""

import numpy as np
import pytest

from cxr.geometry.detections import Detections

BOXES = np.array([[0, 0, 10, 20], [-5, 2, 8, 40], [1, 1, 2, 2], [3, 3, 9, 9]], float)
SCORES = np.array([0.5, 0.9, 0.2, 0.5])
LABELS = np.array([1, 0, 0, 2])


@pytest.fixture
def detections():
    return Detections(BOXES, SCORES, LABELS)


def test_one_threshold_for_all_is_strict(detections):
    kept = detections.above(0.5)
    assert len(kept) == 1
    assert kept.boxes.tolist() == [[-5, 2, 8, 40]]
    assert kept.scores.tolist() == [0.9]
    assert kept.labels.tolist() == [0]


def test_a_threshold_for_each_class(detections):
    """0.9 and 0.2 against 0.1, 0.5 against 0.5 (not above), 0.5 against 0.4."""
    kept = detections.above(np.array([0.1, 0.5, 0.4]))
    assert kept.scores.tolist() == [0.9, 0.2, 0.5]
    assert kept.labels.tolist() == [0, 0, 2]


def test_thresholds_in_a_list(detections):
    assert len(detections.above([0.1, 0.5, 0.4])) == 3


def test_of_class(detections):
    assert detections.of_class(0).scores.tolist() == [0.9, 0.2]
    assert len(detections.of_class(7)) == 0


def test_sorted_keeps_the_order_of_equal_scores(detections):
    ranked = detections.sorted()
    assert ranked.scores.tolist() == [0.9, 0.5, 0.5, 0.2]
    assert ranked.labels.tolist() == [0, 1, 2, 0]
    np.testing.assert_array_equal(ranked.boxes, BOXES[[1, 0, 3, 2]])


def test_clipped_at_the_edges(detections):
    clipped = detections.clipped(width=9, height=30)
    assert clipped.boxes.tolist() == [[0, 0, 9, 20], [0, 2, 8, 30], [1, 1, 2, 2], [3, 3, 9, 9]]
    assert clipped.scores.tolist() == SCORES.tolist()


@pytest.mark.parametrize(
    "index", [np.array([0, 2]), np.array([True, False, True, False]), slice(0, 3, 2)]
)
def test_take(detections, index):
    taken = detections.take(index)
    assert taken.scores.tolist() == [0.5, 0.2]
    assert taken.labels.tolist() == [1, 0]
    np.testing.assert_array_equal(taken.boxes, BOXES[[0, 2]])


def test_no_detections():
    empty = Detections.empty()
    assert len(empty) == 0
    assert empty.boxes.shape == (0, 4)
    for same in (
        empty.above(0.5),
        empty.above(np.array([0.5, 0.5])),
        empty.of_class(0),
        empty.sorted(),
        empty.clipped(10, 10),
    ):
        assert len(same) == 0
        assert same.boxes.shape == (0, 4)
