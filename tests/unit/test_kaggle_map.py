"""Kaggle's score of boxes: against a slow plain version, by hand, golden values of the sample."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr.metrics.kaggle_map import image_score, kaggle_map, prefix_scores
from cxr.metrics.matching import pairwise_iou
from cxr.metrics.means import mean_score

BESIDE = Path(__file__).resolve().parents[2].parent / "shared" / "data"
DATA = Path(os.environ.get("CXR_SHARED_DATA", BESIDE))
LABELS = DATA / "rsna-pneumonia-detection-challenge" / "stage_2_train_labels.csv"
CONSTANT = np.array([[203, 335, 203 + 236, 335 + 359], [594, 328, 594 + 250, 328 + 396]], float)
NO_BOXES = np.zeros((0, 4))


def slow_iou(a, b):
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0.0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0.0)
    a_area = (a[2] - a[0]) * (a[3] - a[1])
    b_area = (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (a_area + b_area - width * height)


def slow_score(true, predicted):
    """One image, one box after the other; nan where the image is left out."""
    if not true:
        return 0.0 if predicted else np.nan
    scores = []
    for threshold in (0.40, 0.45, 0.50, 0.55, 0.60, 0.65, 0.70, 0.75):
        free = list(true)
        for box in predicted:
            if not free:
                break
            overlaps = [slow_iou(box, other) for other in free]
            best = int(np.argmax(overlaps))
            if overlaps[best] > threshold:
                free.pop(best)
        true_positives = len(true) - len(free)
        false_positives = len(predicted) - true_positives
        scores.append(true_positives / (true_positives + false_positives + len(free)))
    return sum(scores) / len(scores)


def lists_of_boxes(at_most):
    # A coarse grid makes equal overlaps, and overlaps of exactly a threshold, common.
    corner = st.integers(0, 6)
    size = st.integers(2, 8)
    box = st.tuples(corner, corner, size, size).map(
        lambda b: (float(b[0]), float(b[1]), float(b[0] + b[2]), float(b[1] + b[3]))
    )
    return st.lists(box, max_size=at_most)


@settings(max_examples=200, deadline=None)
@given(lists_of_boxes(4), lists_of_boxes(8))
def test_every_prefix_equals_the_slow_score(true, predicted):
    fast = prefix_scores(np.array(true).reshape(-1, 4), np.array(predicted).reshape(-1, 4))
    slow = [slow_score(true, predicted[:k]) for k in range(len(predicted) + 1)]
    np.testing.assert_allclose(fast, slow, atol=1e-12)


def test_prefix_scores_by_hand():
    """IoU 0.57, a miss, IoU 1. Four of eight thresholds lie below 0.57: 1/2; then with a false box
    1/3; then 2/3 below it and 1/4 above it."""
    true = np.array([[0, 0, 10, 10], [20, 0, 30, 10]], float)
    predicted = np.array([[20, 0, 30, 5.7], [50, 50, 60, 60], [0, 0, 10, 10]], float)
    expected = [0, 4 / 8 / 2, 4 / 8 / 3, (4 * 2 / 3 + 4 / 4) / 8]
    np.testing.assert_allclose(prefix_scores(true, predicted), expected)


def test_several_sizes_at_once_are_each_on_its_own():
    rng = np.random.default_rng(0)
    true = rng.uniform(0, 20, (3, 4))
    predicted = rng.uniform(0, 20, (6, 9, 4))
    true[:, 2:] += 40
    predicted[..., 2:] += 40
    each = np.array([prefix_scores(true, boxes) for boxes in predicted])
    np.testing.assert_array_equal(prefix_scores(true, predicted), each)
    assert each.max() > 0.1
    assert prefix_scores(true, predicted[:, :0]).shape == (6, 1)
    without_true = prefix_scores(true[:0], predicted)
    np.testing.assert_array_equal(without_true[:, :2], [[np.nan, 0]] * 6)


def test_a_taken_true_box_sends_a_prediction_to_the_next_best():
    """The second overlaps the second true box with 0.8 > 0.75, so both hit at all thresholds."""
    true = np.array([[0, 0, 10, 10], [0, 0, 10, 8]], float)
    predicted = np.array([[0, 0, 10, 10], [0, 0, 10, 10]], float)
    assert image_score(true, predicted) == 1.0


def test_an_overlap_equal_to_the_threshold_is_no_hit():
    true = np.array([[0, 0, 10, 10]], float)
    half = np.array([[0, 0, 10, 5]], float)
    assert image_score(true, half) == 2 / 8  # 0.40 and 0.45, not 0.50


def test_float32_predictions_are_compared_in_float64():
    true = np.array([[0, 0, 10, 10]], np.float32)
    overlap = pairwise_iou(true, true)
    np.testing.assert_array_equal(overlap, [[1.0]])
    assert overlap.dtype == np.float64


def test_boxes_without_area_do_not_make_nan():
    point = np.array([[5, 5, 5, 5]], float)
    np.testing.assert_array_equal(pairwise_iou(point, point), [[0.0]])


def test_images_without_true_boxes():
    assert np.isnan(image_score(NO_BOXES, NO_BOXES))
    assert image_score(NO_BOXES, CONSTANT) == 0.0


def test_mean_over_the_images_that_count():
    assert mean_score([np.nan, 0.5, 0.0]) == 0.25
    assert mean_score([np.nan]) == 0.0
    assert mean_score([]) == 0.0


def test_map_counts_missing_predictions_as_none_and_refuses_strangers():
    true = {"a": CONSTANT, "b": NO_BOXES, "c": CONSTANT}
    assert kaggle_map(true, {"a": CONSTANT}) == 0.5
    with pytest.raises(ValueError, match="stranger"):
        kaggle_map(true, {"stranger": CONSTANT})


@pytest.fixture(scope="module")
def sample():
    """{image_id: true boxes (n, 4)} of the sample data."""
    if not LABELS.is_file():
        pytest.skip(f"{LABELS} is absent: set CXR_SHARED_DATA")
    boxes = {}
    with LABELS.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            of_image = boxes.setdefault(row["patientId"], [])
            if row["Target"] == "1":
                x, y, width, height = (float(row[key]) for key in ("x", "y", "width", "height"))
                of_image.append((x, y, x + width, y + height))
    return {key: np.array(of_image).reshape(-1, 4) for key, of_image in boxes.items()}


def shrink(boxes, factor):
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]) / 2 * factor
    return np.concatenate([centre - half, centre + half], axis=1)


def shrink_all(sample, factor):
    return {key: shrink(boxes, factor) for key, boxes in sample.items()}


def count_judged(true, predicted):
    """Images that have true or predicted boxes."""
    return sum(len(boxes) + len(predicted[key]) > 0 for key, boxes in true.items())


def test_golden_values_of_truth_and_of_shrunk_truth(sample):
    assert len(sample) == 600
    assert sum(len(boxes) > 0 for boxes in sample.values()) == 189
    assert kaggle_map(sample, sample) == 1.0
    assert kaggle_map(sample, shrink_all(sample, 0.875)) == 1.0
    small = shrink_all(sample, 0.8)
    assert kaggle_map(sample, small) == pytest.approx(0.625, abs=1e-12)
    assert count_judged(sample, small) == 189


def test_golden_values_of_a_constant_guess(sample):
    everywhere = dict.fromkeys(sample, CONSTANT)
    assert kaggle_map(sample, everywhere) == pytest.approx(0.0370139, abs=5e-8)
    assert count_judged(sample, everywhere) == 600
    positive = [key for key, boxes in sample.items() if len(boxes)]
    of_positives = kaggle_map(sample, dict.fromkeys(positive, CONSTANT))
    assert of_positives == pytest.approx(0.1175044, abs=5e-8)
