"""Six classes of studies and images: golden values, libraries, a slow plain version; means over a
study; none."""

import math
from typing import NamedTuple

import numpy as np
import pytest
from coco import coco_average_precision
from sklearn.metrics import average_precision_score

from cxr.datasets.prediction_strings import parse_predictions
from cxr.geometry.detections import TrueBoxes
from cxr.metrics.studies import (
    ALL_CLASSES,
    AT_LEAST_HALF,
    NONE,
    STUDY_CLASSES,
    competition_scores,
    image_answer,
    image_truth,
    study_answer,
    study_intervals,
    study_labels,
    study_means,
    study_scores,
    study_truth,
)

# The tiny set of the specification, section 2.
TRUTH = {
    "s1": "negative 1 0 0 1 1",
    "s2": "typical 1 0 0 1 1",
    "s3": "typical 1 0 0 1 1",
    "s4": "indeterminate 1 0 0 1 1",
    "s5": "atypical 1 0 0 1 1",
    "i1": "none 1 0 0 1 1",
    "i2": "opacity 1 0 0 100 100 opacity 1 200 200 300 300",
    "i3": "opacity 1 50 50 150 150",
}
ANSWER = {
    "s1": "negative .9 0 0 1 1 typical .1 0 0 1 1",
    "s2": "negative .2 0 0 1 1 typical .7 0 0 1 1",
    "s3": "typical .4 0 0 1 1 indeterminate .5 0 0 1 1",
    "s4": "typical .6 0 0 1 1 indeterminate .3 0 0 1 1",
    "s5": "atypical .2 0 0 1 1 typical .5 0 0 1 1",
    "i1": "none .8 0 0 1 1 opacity .3 10 10 50 50",
    "i2": "none .1 0 0 1 1 opacity .9 0 0 100 90 opacity .4 210 210 300 300 "
    "opacity .35 0 0 100 100",
    "i3": "none .6 0 0 1 1 opacity .5 50 50 150 100",
}


def read_answer(texts):
    return {row: parse_predictions(text, ALL_CLASSES) for row, text in texts.items()}


def read_truth(texts):
    truth = {}
    for row, answer in read_answer(texts).items():
        truth[row] = TrueBoxes(answer.boxes, answer.labels)
    return truth


def list_aps(scores):
    return [scores[f"ap_{name}"] for name in ALL_CLASSES]


def test_golden_values():
    scores = competition_scores(read_truth(TRUTH), read_answer(ANSWER))
    np.testing.assert_allclose(list_aps(scores), [1, 0.75, 0.5, 1, 1, 0.5555556], atol=1e-7)
    assert scores["metric"] == pytest.approx(0.8009259, abs=1e-7)


def test_golden_value_where_half_is_enough():
    scores = competition_scores(read_truth(TRUTH), read_answer(ANSWER), AT_LEAST_HALF)
    assert scores["metric"] == pytest.approx(0.875)
    assert scores["ap_opacity"] == pytest.approx(1)


def test_last_pixel_belongs_to_a_box():
    """(101 * 51) / (101 * 101) is above a half."""
    scores = competition_scores(read_truth(TRUTH), read_answer(ANSWER), last_pixel=True)
    assert scores["ap_opacity"] == pytest.approx(1)


def test_truth_against_itself():
    expected = {"metric": 1, **{f"ap_{name}": 1 for name in ALL_CLASSES}}
    assert competition_scores(read_truth(TRUTH), read_answer(TRUTH)) == expected


@pytest.mark.parametrize("descending", [False, True])
def test_sample_submission_scores_the_prevalence(descending):
    """Ties are one point: each study `negative 1` and each image `none 1` has the share of these as
    AP, whatever the order."""
    truth = {}
    answer = {}
    for row in sorted(TRUTH, reverse=descending):
        truth[row] = TRUTH[row]
        answer[row] = "negative 1 0 0 1 1" if row.startswith("s") else "none 1 0 0 1 1"
    scores = competition_scores(read_truth(truth), read_answer(answer))
    np.testing.assert_allclose(list_aps(scores), [1 / 5, 0, 0, 0, 1 / 3, 0])
    assert scores["metric"] == pytest.approx((1 / 5 + 1 / 3) / 6)


def test_a_missing_row_is_refused():
    answer = dict(ANSWER)
    answer.pop("s4")
    with pytest.raises(ValueError, match="s4"):
        competition_scores(read_truth(TRUTH), read_answer(answer))


def test_a_further_row_is_refused():
    answer = {**ANSWER, "i9": ANSWER["i1"]}
    with pytest.raises(ValueError, match="i9"):
        competition_scores(read_truth(TRUTH), read_answer(answer))


class DrawnCase(NamedTuple):
    """labels (k,) and probabilities (k, 4) of studies; true_boxes (n, 4) and answers (boxes,
    scores, none) of images."""

    labels: np.ndarray
    probabilities: np.ndarray
    true_boxes: list
    answers: list


def draw_case(seed, ties, apart=0):
    """120 studies and 60 images; with `ties`, scores are rounded to one digit.

    The true boxes of an image overlap unless they are set `apart` by some 110 pixels.
    """
    rng = np.random.default_rng(seed)
    labels = rng.choice(4, 120, p=[0.28, 0.47, 0.17, 0.08])
    probabilities = rng.dirichlet(np.ones(4), 120) + 0.3 * np.eye(4)[labels]
    digits = 1 if ties else 15
    true_boxes = []
    answers = []
    for _ in range(60):
        corners = rng.uniform(0, 60, (rng.integers(0, 4), 2))
        corners = corners + apart * np.arange(len(corners))[:, None]
        boxes = np.hstack([corners, corners + rng.uniform(20, 40, corners.shape)])
        moved = boxes + np.tile(rng.normal(0, 5, (len(boxes), 2)), 2)
        guess = np.concatenate([moved, boxes[:1] + np.tile(rng.normal(0, 9, 2), 2)])
        guess = guess[rng.random(len(guess)) < 0.8]
        scores = rng.random(len(guess))
        none = rng.random() + 0.5 * (len(boxes) == 0)
        true_boxes.append(boxes)
        answers.append((guess, np.round(scores, digits), round(none, digits)))
    return DrawnCase(labels, np.round(probabilities, digits), true_boxes, answers)


def make_rows(case):
    """{row: TrueBoxes} and {row: Detections} of the studies and images of a case."""
    truth = {}
    answers = {}
    for k, label in enumerate(case.labels):
        truth[f"s{k}"] = study_truth(label)
        answers[f"s{k}"] = study_answer(case.probabilities[k])
    for k, boxes in enumerate(case.true_boxes):
        truth[f"i{k}"] = image_truth(boxes)
        answers[f"i{k}"] = image_answer(*case.answers[k])
    return truth, answers


def plain_iou(a, b):
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    a_area = (a[2] - a[0]) * (a[3] - a[1])
    b_area = (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (a_area + b_area - width * height)


def plain_ap(truth, answers, label):
    """The rule of the specification, step by step, ties as one threshold."""
    positives = sum(len(one.of_class(label)) for one in truth.values())
    pooled = []
    for row, answer in answers.items():
        of_class = answer.of_class(label)
        for box, score in zip(of_class.boxes, of_class.scores, strict=True):
            pooled.append((score, row, box))
    pooled.sort(key=lambda entry: -entry[0])

    used = set()
    points = []
    for number, (score, row, box) in enumerate(pooled, start=1):
        overlaps = [plain_iou(box, true_box) for true_box in truth[row].of_class(label)]
        best = (row, int(np.argmax(overlaps))) if overlaps else None
        if overlaps and max(overlaps) > 0.5:
            used.add(best)
        if number == len(pooled) or pooled[number][0] < score:
            points.append((len(used) / positives, len(used) / number))

    area = 0.0
    reached = 0.0
    for place, (recall, _) in enumerate(points):
        best_precision = max(precision for _, precision in points[place:])
        area += (recall - reached) * best_precision
        reached = recall
    return area


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_against_a_slow_plain_version(seed, ties):
    truth, answers = make_rows(draw_case(seed, ties))
    expected = [plain_ap(truth, answers, label) for label in range(6)]
    scores = competition_scores(truth, answers)
    np.testing.assert_allclose(list_aps(scores), expected, atol=1e-12)
    assert min(expected) > 0.1
    assert max(expected) < 0.99


@pytest.mark.parametrize("seed", range(4))
def test_against_pycocotools(seed):
    """No IoU is exactly a half here, so its >= is the competition's >. A second hit on a true box
    may take another one there, so the true boxes are apart."""
    truth, answers = make_rows(draw_case(seed, ties=False, apart=110))
    expected = [coco_average_precision(truth, answers, label) for label in range(6)]
    scores = competition_scores(truth, answers)
    np.testing.assert_allclose(list_aps(scores), expected, atol=1e-9)


@pytest.mark.parametrize("ties", [False, True])
def test_studies_against_scikit_learn(ties):
    """scikit-learn does not make the precision descending, so it is lower, by little."""
    case = draw_case(0, ties)
    scores = study_scores(case.labels, case.probabilities)
    for label, name in enumerate(STUDY_CLASSES):
        reference = average_precision_score(case.labels == label, case.probabilities[:, label])
        assert -1e-9 < scores[f"ap_{name}"] - reference < 0.05


def test_studies_against_scikit_learn_where_precision_is_descending():
    """The same, ties included."""
    positive = np.array([1, 1, 1, 0, 0, 1, 0, 0])
    ranked = np.array([0.9, 0.8, 0.8, 0.6, 0.5, 0.4, 0.3, 0.1])
    scores = study_scores(np.where(positive, 2, 0), np.tile(ranked[:, None], 4))
    expected = average_precision_score(positive, ranked)
    assert scores["ap_indeterminate"] == pytest.approx(expected)


@pytest.mark.parametrize("ties", [False, True])
def test_studies_alone_score_as_in_the_whole(ties):
    case = draw_case(3, ties)
    whole = competition_scores(*make_rows(case))
    alone = study_scores(case.labels, case.probabilities)
    for name in STUDY_CLASSES:
        assert alone[f"ap_{name}"] == pytest.approx(whole[f"ap_{name}"])
    mean = np.mean([whole[f"ap_{name}"] for name in STUDY_CLASSES])
    assert alone["metric"] == pytest.approx(mean)


def test_guess_that_ignores_the_image():
    labels = np.array([0, 0, 1, 1, 1, 1, 2, 3])
    scores = study_scores(labels, np.tile([0.3, 0.4, 0.2, 0.1], (8, 1)))
    assert [scores[f"ap_{name}"] for name in STUDY_CLASSES] == [0.25, 0.5, 0.125, 0.125]
    assert scores["metric"] == 0.25


def test_class_without_a_study():
    labels = np.array([0, 1])
    probabilities = np.eye(4)[labels]
    scores = study_scores(labels, probabilities)
    assert scores["metric"] == 1
    assert math.isnan(scores["ap_atypical"])
    assert study_intervals(labels, probabilities, ["a", "b"])[-1] == (1, 1)


def test_only_the_best_class_costs_precision():
    """Pitfall: with one class of each study, the others' hits are never found."""
    case = draw_case(1, ties=False)
    truth = {}
    whole = {}
    best = {}
    for k, probabilities in enumerate(case.probabilities):
        truth[k] = study_truth(case.labels[k])
        whole[k] = study_answer(probabilities)
        best[k] = whole[k].take([probabilities.argmax()])
    whole_score = competition_scores(truth, whole)["metric"]
    assert competition_scores(truth, best)["metric"] < whole_score - 0.02


def test_interval_redraws_patients():
    """Copies of a patient add no certainty."""
    case = draw_case(2, ties=False)
    patients = np.arange(120)
    alone = study_intervals(case.labels, case.probabilities, patients)
    low, high = alone[-1]
    assert len(alone) == 5
    assert low < study_scores(case.labels, case.probabilities)["metric"] < high

    copies = study_intervals(
        np.repeat(case.labels, 4),
        np.repeat(case.probabilities, 4, axis=0),
        np.repeat(patients, 4),
    )
    np.testing.assert_allclose(copies[-1], alone[-1], atol=0.03)


def test_study_is_the_mean_of_its_images():
    """Pitfall: two images of a study in a batch overwrote one another in a dict."""
    probabilities = np.array([[0.8, 0.2], [0.1, 0.9], [0.4, 0.6], [0.3, 0.7]])
    ids, means = study_means(["b", "a", "b", "b"], probabilities)
    assert ids.tolist() == ["a", "b"]
    np.testing.assert_allclose(means, [[0.1, 0.9], [0.5, 0.5]])


def test_images_of_a_study_have_one_class():
    assert study_labels(["b", "a", "b", "b"], [2, 0, 2, 2]).tolist() == [0, 2]
    with pytest.raises(ValueError, match="study b"):
        study_labels(["b", "a", "b"], [2, 0, 1])


def test_no_study():
    ids, means = study_means([], np.zeros((0, 4)))
    assert len(ids) == 0
    assert means.shape == (0, 4)
    assert math.isnan(study_scores(np.zeros(0, int), means)["metric"])


def test_image_without_boxes_is_none():
    boxes, labels = image_truth([])
    assert boxes.tolist() == [[0, 0, 1, 1]]
    assert labels.tolist() == [NONE]
    answer = image_answer(np.zeros((0, 4)), [], 0.3)
    assert answer.boxes.tolist() == [[0, 0, 1, 1]]
    assert answer.scores.tolist() == [0.3]
    assert answer.labels.tolist() == [NONE]
