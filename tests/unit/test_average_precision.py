"""Average precision, precision-recall and FROC of pooled boxes, by hand."""

import numpy as np
import pytest

from cxr.metrics.average_precision import (
    average_precision,
    coco_average_precision,
    precision_recall,
)
from cxr.metrics.froc import froc
from cxr.metrics.matching import ranked_hits

# Three images, by descending score: .9 hits, .5 misses (IoU is exactly 0.5), .4 hits, .35 is a
# second hit on a taken box, .3 is on an image without true boxes.
TRUE = [
    np.array([[0, 0, 100, 100], [200, 200, 300, 300]], float),
    np.array([[50, 50, 150, 150]], float),
    np.zeros((0, 4)),
]
PREDICTED = [
    np.array([[0, 0, 100, 90], [210, 210, 300, 300], [0, 0, 100, 100]], float),
    np.array([[50, 50, 150, 100]], float),
    np.array([[10, 10, 50, 50]], float),
]
SCORES = [np.array([0.9, 0.4, 0.35]), np.array([0.5]), np.array([0.3])]
NOTHING = [np.zeros((0, 4))] * 3


def same_score(score):
    return [np.full(len(scores), score) for scores in SCORES]


def test_average_precision_by_hand():
    """Precision 1 up to recall 1/3, 2/3 up to 2/3, nothing after."""
    assert average_precision(TRUE, PREDICTED, SCORES) == pytest.approx(5 / 9)


def test_cocos_mean_over_overlaps():
    """A box of IoU 0.9 is a hit at the eight overlaps below: 0.50, 0.55, ... 0.85."""
    true = [np.array([[0, 0, 100, 100]], float)]
    predicted = [np.array([[0, 0, 100, 90]], float)]
    assert coco_average_precision(true, predicted, [np.array([0.5])]) == pytest.approx(0.8)


def test_average_precision_at_a_lower_overlap():
    """Below 0.5 the second also hits, so all three are found by the third prediction."""
    assert average_precision(TRUE, PREDICTED, SCORES, 0.49) == pytest.approx(1.0)


def test_average_precision_of_extremes():
    assert average_precision(TRUE, TRUE, [np.ones(len(boxes)) for boxes in TRUE]) == 1.0
    assert average_precision(TRUE, NOTHING, [np.zeros(0)] * 3) == 0.0
    assert np.isnan(average_precision(NOTHING, PREDICTED, SCORES))
    assert np.isnan(average_precision([], [], []))


def test_a_prediction_whose_best_true_box_is_taken_is_false():
    true = np.array([[0, 0, 10, 10], [0, 0, 10, 8]], float)
    predicted = np.array([[0, 0, 10, 10], [0, 0, 10, 10]], float)
    np.testing.assert_array_equal(ranked_hits(true, predicted, 0.5), [True, False])


def test_precision_recall_by_hand():
    precision, recall, scores = precision_recall(TRUE, PREDICTED, SCORES)
    np.testing.assert_allclose(scores, [0.9, 0.5, 0.4, 0.35, 0.3])
    np.testing.assert_allclose(precision, [1, 1 / 2, 2 / 3, 2 / 4, 2 / 5])
    np.testing.assert_allclose(recall, np.array([1, 1, 2, 2, 2]) / 3)


def test_froc_by_hand():
    false_positives_per_image, recall = froc(TRUE, PREDICTED, SCORES)
    np.testing.assert_allclose(false_positives_per_image, np.array([0, 1, 1, 2, 3]) / 3)
    np.testing.assert_allclose(recall, np.array([1, 1, 2, 2, 2]) / 3)


def test_equal_scores_are_one_operating_point_whatever_the_order_of_images():
    scores = same_score(0.5)
    forward = precision_recall(TRUE, PREDICTED, scores)
    backward = precision_recall(TRUE[::-1], PREDICTED[::-1], scores[::-1])
    np.testing.assert_allclose(forward, [[2 / 5], [2 / 3], [0.5]])
    np.testing.assert_allclose(backward, [[2 / 5], [2 / 3], [0.5]])


def test_boxes_without_their_scores_are_refused():
    with pytest.raises(ValueError, match="5 boxes but 4 scores"):
        precision_recall(TRUE, PREDICTED, [*SCORES[:2], np.zeros(0)])


def test_a_score_of_zero_is_a_prediction():
    curve = froc(TRUE, PREDICTED, same_score(0.0))
    assert curve.false_positives_per_image == pytest.approx([1.0])


def test_curves_of_nothing():
    curve = precision_recall([], [], [])
    assert [len(values) for values in curve] == [0, 0, 0]
    assert [len(values) for values in froc([], [], [])] == [0, 0]
