import csv
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr.metrics.average_precision import average_precision, precision_recall
from cxr.metrics.bootstrap import bootstrap_interval
from cxr.metrics.froc import froc
from cxr.metrics.kaggle_map import image_score, kaggle_map, prefix_scores
from cxr.metrics.matching import pairwise_iou, ranked_hits
from cxr.metrics.means import mean_score

DATA = Path(
    os.environ.get(
        "CXR_SHARED_DATA", Path(__file__).resolve().parents[2].parent / "shared" / "data"
    )
)
LABELS = DATA / "rsna-pneumonia-detection-challenge" / "stage_2_train_labels.csv"
CONSTANT = np.array([[203, 335, 203 + 236, 335 + 359], [594, 328, 594 + 250, 328 + 396]], float)


def slow_iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inter = max(width, 0.0) * max(height, 0.0)
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


def slow_score(true, pred):
    """One image, one box after the other; None where the image is left out."""
    if not true:
        return 0.0 if pred else None
    scores = []
    for threshold in (0.40, 0.45, 0.50, 0.55, 0.60, 0.65, 0.70, 0.75):
        free = list(true)
        for box in pred:
            if free:
                best = max(free, key=lambda other: slow_iou(box, other))
                if slow_iou(box, best) > threshold:
                    free.remove(best)
        tp = len(true) - len(free)
        scores.append(tp / (tp + (len(pred) - tp) + len(free)))
    return sum(scores) / len(scores)


def boxes(at_most):
    # A coarse grid makes equal overlaps, and overlaps of exactly a threshold, common.
    corner, size = st.integers(0, 6), st.integers(2, 8)
    box = st.tuples(corner, corner, size, size).map(
        lambda b: tuple(map(float, (b[0], b[1], b[0] + b[2], b[1] + b[3])))
    )
    return st.lists(box, max_size=at_most)


@settings(max_examples=200, deadline=None)
@given(boxes(4), boxes(8))
def test_every_prefix_equals_the_slow_score(true, pred):
    fast = prefix_scores(np.array(true).reshape(-1, 4), np.array(pred).reshape(-1, 4))
    slow = [slow_score(true, pred[:k]) for k in range(len(pred) + 1)]
    np.testing.assert_allclose(
        fast, [np.nan if score is None else score for score in slow], atol=1e-12
    )


def test_prefix_scores_by_hand():
    true = np.array([[0, 0, 10, 10], [20, 0, 30, 10]], float)
    pred = np.array(
        [[20, 0, 30, 5.7], [50, 50, 60, 60], [0, 0, 10, 10]], float
    )  # IoU 0.57, miss, 1
    # 4 of 8 thresholds lie below 0.57: 1/2; then with a false one 1/3; then 2/3 below it and 1/4 above it.
    np.testing.assert_allclose(
        prefix_scores(true, pred), [0, 4 / 8 / 2, 4 / 8 / 3, (4 * 2 / 3 + 4 / 4) / 8]
    )


def test_several_sizes_at_once_are_each_on_its_own():
    rng = np.random.default_rng(0)
    true, pred = rng.uniform(0, 20, (3, 4)), rng.uniform(0, 20, (6, 9, 4))
    true[:, 2:] += 40
    pred[..., 2:] += 40
    each = np.array([prefix_scores(true, one) for one in pred])
    np.testing.assert_array_equal(prefix_scores(true, pred), each)
    assert each.max() > 0.1
    assert prefix_scores(true, pred[:, :0]).shape == (6, 1)
    np.testing.assert_array_equal(prefix_scores(true[:0], pred)[:, :2], [[np.nan, 0]] * 6)


def test_a_taken_true_box_sends_a_prediction_to_the_next_best():
    true = np.array([[0, 0, 10, 10], [0, 0, 10, 8]], float)
    pred = np.array([[0, 0, 10, 10], [0, 0, 10, 10]], float)
    # The second overlaps the second true box with 0.8 > 0.75, so both hit at all thresholds.
    assert image_score(true, pred) == 1.0


def test_an_overlap_equal_to_the_threshold_is_no_hit():
    true, half = np.array([[0, 0, 10, 10]], float), np.array([[0, 0, 10, 5]], float)
    assert image_score(true, half) == 2 / 8  # 0.40 and 0.45, not 0.50


def test_float32_predictions_are_compared_in_float64():
    true = np.array([[0, 0, 10, 10]], np.float32)
    np.testing.assert_array_equal(pairwise_iou(true, true), [[1.0]])
    assert pairwise_iou(true, true).dtype == np.float64


def test_boxes_without_area_do_not_make_nan():
    point = np.array([[5, 5, 5, 5]], float)
    np.testing.assert_array_equal(pairwise_iou(point, point), [[0.0]])


def test_images_without_true_boxes():
    assert np.isnan(image_score(np.zeros((0, 4)), np.zeros((0, 4))))
    assert image_score(np.zeros((0, 4)), CONSTANT) == 0.0
    assert mean_score([np.nan, 0.5, 0.0]) == 0.25
    assert mean_score([np.nan]) == 0.0 == mean_score([])


def test_map_counts_missing_predictions_as_none_and_refuses_strangers():
    true = {"a": CONSTANT, "b": np.zeros((0, 4)), "c": CONSTANT}
    assert kaggle_map(true, {"a": CONSTANT}) == 0.5
    with pytest.raises(ValueError, match="stranger"):
        kaggle_map(true, {"stranger": CONSTANT})


@pytest.fixture(scope="module")
def sample():
    if not LABELS.is_file():
        pytest.skip(f"{LABELS} is absent: set CXR_SHARED_DATA")
    true = {}
    with LABELS.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            found = true.setdefault(row["patientId"], [])
            if row["Target"] == "1":
                x, y, width, height = (float(row[key]) for key in ("x", "y", "width", "height"))
                found.append((x, y, x + width, y + height))
    return {key: np.array(found).reshape(-1, 4) for key, found in true.items()}


def shrunk(boxes, factor):
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2 * factor
    return np.concatenate([centre - half, centre + half], axis=1)


def counted(true, pred):
    return sum(bool(len(boxes) or len(pred.get(key, ()))) for key, boxes in true.items())


def test_golden_values_of_the_sample(sample):
    positive = {key for key, boxes in sample.items() if len(boxes)}
    assert (len(sample), len(positive)) == (600, 189)
    assert kaggle_map(sample, sample) == 1.0
    assert kaggle_map(sample, {key: shrunk(boxes, 0.875) for key, boxes in sample.items()}) == 1.0
    small = {key: shrunk(boxes, 0.8) for key, boxes in sample.items()}
    assert (
        kaggle_map(sample, small) == pytest.approx(0.625, abs=1e-12)
        and counted(sample, small) == 189
    )
    everywhere = dict.fromkeys(sample, CONSTANT)
    assert kaggle_map(sample, everywhere) == pytest.approx(0.0370139, abs=5e-8)
    assert counted(sample, everywhere) == 600
    assert kaggle_map(sample, dict.fromkeys(positive, CONSTANT)) == pytest.approx(
        0.1175044, abs=5e-8
    )


TRUE = [
    np.array([[0, 0, 100, 100], [200, 200, 300, 300]], float),
    np.array([[50, 50, 150, 150]], float),
    np.zeros((0, 4)),
]
PRED = [
    np.array([[0, 0, 100, 90], [210, 210, 300, 300], [0, 0, 100, 100]], float),
    np.array([[50, 50, 150, 100]], float),
    np.array([[10, 10, 50, 50]], float),
]
SCORES = [np.array([0.9, 0.4, 0.35]), np.array([0.5]), np.array([0.3])]


def test_average_precision_by_hand():
    # .9 hit, .5 miss (IoU is exactly 0.5), .4 hit, .35 second hit on a taken box, .3 on an empty image:
    # precision 1 up to recall 1/3, 2/3 up to 2/3, nothing after.
    assert average_precision(TRUE, PRED, SCORES) == pytest.approx(5 / 9)
    # Below 0.5 the second also hits, so all three are found by the third prediction.
    assert average_precision(TRUE, PRED, SCORES, 0.49) == pytest.approx(1.0)


def test_average_precision_of_extremes():
    assert average_precision(TRUE, TRUE, [np.ones(len(t)) for t in TRUE]) == 1.0
    nothing = [np.zeros((0, 4))] * 3
    assert average_precision(TRUE, nothing, [np.zeros(0)] * 3) == 0.0
    assert np.isnan(average_precision(nothing, PRED, SCORES))
    assert np.isnan(average_precision([], [], []))


def test_a_prediction_whose_best_true_box_is_taken_is_false_for_average_precision():
    true = np.array([[0, 0, 10, 10], [0, 0, 10, 8]], float)
    np.testing.assert_array_equal(
        ranked_hits(true, np.array([[0, 0, 10, 10]] * 2), 0.5), [True, False]
    )


def test_precision_recall_and_froc_by_hand():
    precision, recall, score = precision_recall(TRUE, PRED, SCORES)
    np.testing.assert_allclose(score, [0.9, 0.5, 0.4, 0.35, 0.3])
    np.testing.assert_allclose(precision, [1, 1 / 2, 2 / 3, 2 / 4, 2 / 5])
    np.testing.assert_allclose(recall, np.array([1, 1, 2, 2, 2]) / 3)
    false_per_image, recall = froc(TRUE, PRED, SCORES)
    np.testing.assert_allclose(false_per_image, np.array([0, 1, 1, 2, 3]) / 3)
    np.testing.assert_allclose(recall, np.array([1, 1, 2, 2, 2]) / 3)


def test_equal_scores_are_one_operating_point_whatever_the_order_of_images():
    flat = [np.full(len(s), 0.5) for s in SCORES]
    forward = precision_recall(TRUE, PRED, flat)
    backward = precision_recall(TRUE[::-1], PRED[::-1], flat[::-1])
    for curve in (forward, backward):
        np.testing.assert_allclose(curve, [[2 / 5], [2 / 3], [0.5]])


def test_boxes_without_their_scores_are_refused():
    with pytest.raises(ValueError, match="5 boxes but 4 scores"):
        precision_recall(TRUE, PRED, [*SCORES[:2], np.zeros(0)])


def test_a_score_of_zero_is_a_prediction():
    assert froc(TRUE, PRED, [np.zeros(len(s)) for s in SCORES])[0] == pytest.approx([1.0])


def test_curves_of_nothing():
    precision, recall, score = precision_recall([], [], [])
    assert len(precision) == len(recall) == len(score) == 0
    assert [len(part) for part in froc([], [], [])] == [0, 0]


def test_bootstrap_interval():
    scores = np.random.default_rng(0).uniform(size=400)
    low, high = bootstrap_interval(scores, seed=1)
    # Mean +- 1.96 standard errors.
    error = 1.96 * scores.std() / 20
    assert (low, high) == pytest.approx(
        (scores.mean() - error, scores.mean() + error), abs=0.15 * error
    )
    assert bootstrap_interval(scores, seed=1) == (low, high)
    assert bootstrap_interval(scores, seed=2) != (low, high)


def test_bootstrap_leaves_out_uncounted_images_and_draws_groups_whole():
    assert bootstrap_interval([0.25, np.nan, 0.25]) == (0.25, 0.25)
    # Each patient has one image of 0 and one of 1, so every draw of whole patients has the mean 1/2.
    assert bootstrap_interval([0, 1, 0, 1], ["a", "a", "b", "b"]) == (0.5, 0.5)
    low, high = bootstrap_interval([0, 1, 0, 1])
    assert low < 0.5 < high
    assert np.isnan(bootstrap_interval([np.nan])).all() and np.isnan(bootstrap_interval([])).all()
