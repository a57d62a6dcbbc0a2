"""Average precision, recall at few false positives and thresholds of several classes, by hand and against pycocotools."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from coco import coco_average_precision

from cxr.config import Config
from cxr.geometry.detections import Detections, TrueBoxes
from cxr.methods.detector import class_scorer as class_scoring
from cxr.methods.detector.class_scorer import (
    constant_guess,
    fit_threshold,
    quick_scores,
    score_boxes,
)
from cxr.methods.detector.records import Candidates
from cxr.methods.detector.search import Case
from cxr.metrics.average_precision import OperatingPoints
from cxr.metrics.froc import recall_at_rates
from cxr.metrics.means import mean_known
from cxr.metrics.pooled_boxes import BoxPool, f1
from cxr.system.errors import InputError

NONE = (np.zeros((0, 4)), np.zeros(0, int))


def truth(*boxes):
    """(boxes, labels) of (label, x1, y1, x2, y2)."""
    return (
        (np.array([b[1:] for b in boxes], float), np.array([b[0] for b in boxes], int))
        if boxes
        else NONE
    )


def found(*boxes):
    """(boxes, scores, labels) of (label, score, x1, y1, x2, y2), falling."""
    boxes = sorted(boxes, key=lambda b: -b[1])
    return (
        np.array([b[2:] for b in boxes], float).reshape(-1, 4),
        np.array([b[1] for b in boxes], float),
        np.array([b[0] for b in boxes], int),
    )


# Ten images; class 0 has three true boxes, class 1 has one, class 2 none.
TRUE = {
    "a": truth((0, 0, 0, 100, 100), (1, 0, 0, 100, 100)),
    "b": truth((0, 50, 50, 150, 150), (0, 300, 300, 400, 400)),
    **{name: NONE for name in "cdefghij"},
}
FOUND = {
    "a": found((0, 0.9, 0, 0, 100, 90), (1, 0.2, 0, 0, 100, 100), (1, 0.8, 500, 500, 600, 600)),
    "b": found(
        (0, 0.5, 50, 50, 150, 90), (0, 0.4, 300, 300, 400, 390), (0, 0.3, 305, 300, 400, 400)
    ),
    "c": found((0, 0.35, 0, 0, 50, 50), (2, 0.7, 0, 0, 9, 9)),
    **{name: found() for name in "defghij"},
}


def pooled(true=TRUE, predicted=FOUND, count=3):
    pool = BoxPool(count)
    for number, name in enumerate(true):
        detections = Detections(*predicted[name])
        pool.add(name, number % 2, name, TrueBoxes(*true[name]), detections)
    return pool


def test_average_precision_of_each_class_by_hand():
    """Class 0 by falling score: hit, miss (IoU 0.4), hit, miss (empty image), second hit on a taken box: 2 of 3 found,
    precision 1 up to recall 1/3 and 2/3 up to 2/3. Class 1: a miss, then the hit: precision 1/2 at recall 1."""
    first, second, third = pooled().classes()
    assert first.average_precision() == pytest.approx(
        1 / 3 + 2 / 3 / 3
    ) and second.average_precision() == pytest.approx(0.5)
    assert math.isnan(third.average_precision()), (
        "a class without true boxes has no average precision"
    )
    assert mean_known(
        [first.average_precision(), second.average_precision(), third.average_precision()]
    ) == pytest.approx((5 / 9 + 1 / 2) / 2)
    assert math.isnan(mean_known([math.nan])) and math.isnan(mean_known([]))


def test_weights_count_images_as_often_as_they_were_drawn():
    """Image b twice, c not at all: the same as a set that holds b twice and not c."""
    weights = np.array([1, 2, 0, 1, 1, 1, 1, 1, 1, 1])
    true, predicted = ({**part, "b2": part["b"]} for part in (TRUE, FOUND))
    twice = pooled({k: v for k, v in true.items() if k != "c"}, predicted)
    for k in (0, 1):
        assert pooled().of_class(k).average_precision(weights) == pytest.approx(
            twice.of_class(k).average_precision()
        )


def test_recall_at_false_positives_per_image_by_hand():
    """Ten images, so 0.05 allows no false box, 0.1 one and 0.2 two. Class 0: hit, false, hit, false, false: 1/3 before
    the first false one, 2/3 from the next on. Class 1: the false box comes first."""
    first, second, third = pooled().classes()
    np.testing.assert_allclose(first.recalls(), [1 / 3, 2 / 3, 2 / 3])
    np.testing.assert_allclose(second.recalls(), [0, 1, 1])
    assert np.isnan(third.recalls()).all()
    nothing = OperatingPoints(np.zeros(0), np.zeros(0), np.zeros(0))
    np.testing.assert_allclose(recall_at_rates(nothing, 3, 10, [0.1]), [0])


def test_recall_takes_the_last_pixel_in_as_the_data_sets_own_evaluation():
    """20 x 10 against 10 x 10 from the same corner: IoU 0.5, which is no hit, and with the last pixel 121 / 231."""
    pool = pooled({"a": truth((0, 0, 0, 10, 10))}, {"a": found((0, 0.9, 0, 0, 20, 10))}, 1)
    assert pool.of_class(0).average_precision() == 0 and pool.of_class(0).recalls().tolist() == [
        1,
        1,
        1,
    ]


def own_evaluation(true, predicted, rate):
    """Recall of one class as eval.py of the data set defines it, written down again: the curve is walked box by box."""
    rows = sorted(
        (
            (score, name, box)
            for name, (boxes, scores, _) in predicted.items()
            for box, score in zip(boxes, scores)
        ),
        key=lambda row: -row[0],
    )
    taken, hits, false, best = set(), 0, 0, 0.0
    for _, name, box in rows:
        overlaps = [inclusive_iou(box, other) for other in true[name][0]]
        place = (name, int(np.argmax(overlaps))) if overlaps else None
        if overlaps and max(overlaps) >= 0.5 and place not in taken:
            taken.add(place)
            hits += 1
        else:
            false += 1
        if false / len(true) > rate:
            break
        best = hits / sum(len(boxes) for boxes, _ in true.values())
    return best


def inclusive_iou(one, other):
    width, height = (
        max(0, min(one[2 + k], other[2 + k]) - max(one[k], other[k]) + 1) for k in (0, 1)
    )
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (one, other)]
    return width * height / (sum(areas) - width * height)


def random_set(seed, images=40, classes=3):
    """True boxes that do not touch each other, since libraries differ in what a box may fall back on; predictions near
    them and elsewhere."""
    rng = np.random.default_rng(seed)
    true, predicted = {}, {}
    for number in range(images):
        cells = rng.permutation(16)[: rng.integers(0, 6)]
        corner = np.stack([cells % 4 * 100, cells // 4 * 100], 1) + rng.uniform(
            0, 10, (len(cells), 2)
        )
        boxes = np.hstack([corner, corner + rng.uniform(35, 85, (len(cells), 2))])
        labels = rng.integers(0, classes, len(cells))
        moved = boxes + rng.normal(0, 6, boxes.shape)
        other = rng.uniform(0, 300, (4, 2))
        moved = np.vstack(
            [moved, moved[:2] + 1, np.hstack([other, other + rng.uniform(20, 90, (4, 2))])]
        )
        kinds = np.concatenate([labels, labels[:2], rng.integers(0, classes, 4)])
        scores = rng.uniform(0, 1, len(moved))
        order = np.argsort(-scores)
        assert (moved[:, 2:] > moved[:, :2]).all()  # the library leaves out boxes of negative area
        true[str(number)], predicted[str(number)] = (
            (boxes, labels),
            (moved[order], scores[order], kinds[order]),
        )
    return true, predicted


@pytest.mark.parametrize("seed", range(5))
def test_recall_agrees_with_the_data_sets_own_evaluation(seed):
    true, predicted = random_set(
        seed, images=37, classes=1
    )  # of 37 images no rate is a whole number of boxes
    expected = [own_evaluation(true, predicted, rate) for rate in (0.05, 0.1, 0.2)]
    np.testing.assert_allclose(pooled(true, predicted, 1).of_class(0).recalls(), expected)


@pytest.mark.parametrize("seed", range(6))
def test_average_precision_agrees_with_pycocotools(seed):
    true, predicted = random_set(seed)
    classes = pooled(true, predicted).classes()
    truth_of = {name: TrueBoxes(*one) for name, one in true.items()}
    detections_of = {name: Detections(*one) for name, one in predicted.items()}
    expected = [coco_average_precision(truth_of, detections_of, k) for k in range(3)]
    np.testing.assert_allclose([one.average_precision() for one in classes], expected, atol=1e-9)
    assert 0.05 < min(expected) < max(expected) < 0.95  # no trivial agreement


def test_f1_and_counts_by_hand():
    first = pooled().of_class(0)
    tp, fp, missed = first.counts(
        [0.95, 0.6, 0.5, 0.39, 0.1]
    )  # a box on the threshold is not above it
    assert (tp.tolist(), fp.tolist(), missed.tolist()) == (
        [0, 1, 1, 2, 2],
        [0, 0, 0, 1, 3],
        [3, 2, 2, 1, 1],
    )
    np.testing.assert_allclose(f1(tp, fp, missed), [0, 2 / 4, 2 / 4, 4 / 6, 4 / 8])
    assert math.isnan(f1(0, 0, 0)) and f1(0, 2, 0) == 0


def test_threshold_is_the_one_of_the_highest_f1():
    """Hits score 0.8 and above, false boxes 0.3 and below: any threshold between is best, the middle one is taken."""
    one = truth((0, 0, 0, 100, 100))
    true = {str(k): one for k in range(10)}
    predicted = {
        str(k): found((0, 0.8 + 0.01 * k, 0, 0, 100, 100), (0, 0.3 - 0.02 * k, 300, 0, 400, 99))
        for k in range(10)
    }
    assert 0.5 <= fit_threshold(pooled(true, predicted, 1).of_class(0)) <= 0.6
    nothing = pooled({"a": NONE}, {"a": found((0, 0.9, 0, 0, 9, 9))}, 1).of_class(0)
    assert fit_threshold(nothing) == class_scoring.THRESHOLDS[-1]


def rows(true):
    return pd.DataFrame(
        [
            {
                "image_id": name,
                "fold": number % 2,
                "width": 1024,
                "height": 1024,
                "n_boxes": len(boxes),
                "boxes": json.dumps(boxes.tolist()),
                "box_labels": json.dumps(labels.tolist()),
            }
            for number, (name, (boxes, labels)) in enumerate(true.items())
        ]
    )


def test_constant_guess_is_the_mean_box_of_the_other_folds():
    """Folds of two images; fold 1's mean box is the true one of fold 0, and half of its images have the class."""
    true = {
        "a": truth((0, 0, 0, 100, 100)),
        "b": truth((0, 0, 0, 90, 100), (0, 0, 0, 110, 100)),
        "c": truth((0, 0, 0, 100, 100)),
        "d": NONE,
    }
    pool = pooled(true, {name: found() for name in true}, 2)
    first, second = constant_guess(rows(true), pool, np.array(pool.folds))
    assert first.scores.tolist() == [1, 1, 0.5, 0.5] and first.hits.tolist() == [
        True,
        False,
        True,
        True,
    ]
    assert math.isnan(second.average_precision()) and len(second.scores) == 0


def test_scores_after_an_epoch():
    table = rows({"a": TRUE["a"], "b": TRUE["b"]})
    predictions = {
        k: tuple(part / 2 if part.ndim == 2 else part for part in FOUND[name])
        + (512,)  # half the size
        for k, name in enumerate("ab")
    }
    result = quick_scores(predictions, table, ("one", "two", "three"))
    assert list(result) == ["metric", "ap_one", "ap_two", "ap_three"] and math.isnan(
        result["ap_three"]
    )
    assert result["ap_one"] == pytest.approx(5 / 9) and result["metric"] == pytest.approx(
        (5 / 9 + 1 / 2) / 2
    )


def case(name, number, true=TRUE, predicted=FOUND):
    boxes, scores, labels = predicted[name]
    centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    candidates = Candidates(
        name, 1024, 1024, np.array([0.5, 0.5]), centre, size, size, scores, labels
    )
    return Case(candidates, true[name][0], number % 2, False, name, true[name][1])


def evaluation(true=TRUE, predicted=FOUND, names=("one", "two", "three"), **settings):
    return class_scoring.evaluate(
        Config(task="tiny", **settings),
        lambda: (case(name, number, true, predicted) for number, name in enumerate(true)),
        rows(true),
        names,
        0.5,
    )


def test_evaluation_of_the_hand_made_set():
    done = evaluation()
    # The suppression at IoU 0.5 has already removed the second box on the taken one; the AP stays.
    assert done.score == pytest.approx((5 / 9 + 1 / 2) / 2) and done.counted == 10
    assert done.results["ap"] == {"one": pytest.approx(5 / 9), "two": 0.5, "three": None}
    assert done.results["recall"]["one"] == pytest.approx(
        {"0.05": 1 / 3, "0.1": 2 / 3, "0.2": 2 / 3}
    )
    assert done.results["avgrecall"] == pytest.approx(
        np.mean([(1 / 3 + 0) / 2, (2 / 3 + 1) / 2, (2 / 3 + 1) / 2])
    )
    assert done.notes == [
        "No judged image has a true box of three: their average precision and recall are not defined "
        "and are left out of the means."
    ]
    assert done.interval[0] <= done.score <= done.interval[1]
    assert json.loads(json.dumps(done.results, allow_nan=False))["ap"]["three"] is None
    assert set(done.params["threshold"]) == {"one", "two", "three"} and set(done.class_curves) == {
        "one",
        "two",
    }
    assert [fold for fold, _, _ in done.folds] == [0, 1] and done.baselines[0][
        0
    ] == "constant guess"


def test_thresholds_of_a_fold_do_not_depend_on_its_own_images():
    before = evaluation()
    true = TRUE | {"b": NONE}  # of fold 1
    after = evaluation(true)
    thresholds = [{fold: fitted for fold, _, fitted in one.folds} for one in (before, after)]
    assert thresholds[0][1] == thresholds[1][1]


def test_evaluation_of_perfect_and_of_no_predictions():
    perfect = {
        name: (boxes, np.linspace(0.9, 0.8, len(boxes)), labels)
        for name, (boxes, labels) in TRUE.items()
    }
    assert evaluation(TRUE, perfect, ("one", "two")).score == 1.0
    nothing = evaluation(TRUE, {name: found() for name in TRUE}, ("one", "two"))
    assert nothing.score == 0.0 and nothing.operating is None and not nothing.images.n_pred.any()


def test_there_is_no_test_like_part():
    with pytest.raises(InputError, match="tiny has no images like the test set"):
        evaluation(fit_on="testlike")


def test_scores_of_the_test_set():
    result = score_boxes(TRUE, FOUND, ("one", "two", "three"))
    assert result["score"] == pytest.approx((5 / 9 + 1 / 2) / 2) and result["n_images"] == 10
    assert result["ap"]["three"] is None and result["mean_recall"]["0.2"] == pytest.approx(
        (2 / 3 + 1) / 2
    )
