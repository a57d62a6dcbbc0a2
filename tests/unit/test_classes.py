"""Average precision, recall at few false positives and thresholds of several classes, by hand and
against pycocotools."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from coco import coco_average_precision

from cxr.geometry.detections import Detections, TrueBoxes
from cxr.method_settings import DetectorSettings
from cxr.methods.base import Judging, Labels
from cxr.methods.detector.class_scorer import THRESHOLDS, ClassAP, all_detections, fit_threshold
from cxr.methods.detector.records import BoxCase, Candidates, QuickDetections
from cxr.metrics.average_precision import OperatingPoints
from cxr.metrics.froc import recall_at_rates
from cxr.metrics.means import mean_known
from cxr.metrics.pooled_boxes import BoxPool, f1
from cxr.run_folder import RunFolder
from cxr.settings import make_settings
from cxr.system.errors import InputError

NONE = TrueBoxes.empty()
NO_DETECTION = Detections.empty()
LABELS = Labels(("one", "two", "three"), ("none", "finding"))
TWO_LABELS = Labels(("one", "two"), ("none", "finding"))


def truth(*boxes):
    """TrueBoxes of (label, x1, y1, x2, y2)."""
    corners = [box[1:] for box in boxes]
    labels = [box[0] for box in boxes]
    return TrueBoxes(np.array(corners, float), np.array(labels, int))


def detections_of(*boxes):
    """Detections of (label, score, x1, y1, x2, y2), by descending score."""
    corners = np.array([box[2:] for box in boxes], float)
    scores = np.array([box[1] for box in boxes], float)
    labels = np.array([box[0] for box in boxes], int)
    return Detections(corners, scores, labels).sorted()


# Ten images; class 0 has three true boxes, class 1 has one, class 2 none.
TRUE = dict.fromkeys("abcdefghij", NONE)
TRUE["a"] = truth((0, 0, 0, 100, 100), (1, 0, 0, 100, 100))
TRUE["b"] = truth((0, 50, 50, 150, 150), (0, 300, 300, 400, 400))
PREDICTED = dict.fromkeys("abcdefghij", NO_DETECTION)
PREDICTED["a"] = detections_of(
    (0, 0.9, 0, 0, 100, 90),
    (1, 0.2, 0, 0, 100, 100),
    (1, 0.8, 500, 500, 600, 600),
)
PREDICTED["b"] = detections_of(
    (0, 0.5, 50, 50, 150, 90),
    (0, 0.4, 300, 300, 400, 390),
    (0, 0.3, 305, 300, 400, 400),
)
PREDICTED["c"] = detections_of((0, 0.35, 0, 0, 50, 50), (2, 0.7, 0, 0, 9, 9))


def pooled(true=TRUE, predicted=PREDICTED, class_count=3, iou=0.5):
    pool = BoxPool(class_count, iou)
    for number, name in enumerate(true):
        pool.add(name, number % 2, name, true[name], predicted[name])
    return pool


def test_average_precision_of_each_class_by_hand():
    """Class 0 by descending score: hit, miss (IoU 0.4), hit, miss (empty image), second hit on a
    taken box: 2 of 3 found, precision 1 up to recall 1/3 and 2/3 up to 2/3. Class 1: a miss, then
    the hit: precision 1/2 at recall 1. Class 2 has no true box and so no average precision."""
    precisions = [ranking.average_precision() for ranking in pooled().classes()]
    assert precisions[0] == pytest.approx(1 / 3 + 2 / 3 / 3)
    assert precisions[1] == pytest.approx(0.5)
    assert math.isnan(precisions[2])
    assert mean_known(precisions) == pytest.approx((5 / 9 + 1 / 2) / 2)
    assert math.isnan(mean_known([math.nan]))
    assert math.isnan(mean_known([]))


def test_a_box_is_right_above_the_iou_that_is_asked_for():
    """The box of IoU 0.4 hits at 0.39: then hit, hit, hit, and two false ones, all three found."""
    first = pooled(iou=0.39).of_class(0)
    assert first.average_precision() == 1
    assert pooled(iou=0.95).of_class(0).average_precision() == 0


def test_weights_count_images_as_often_as_they_were_drawn():
    """Image b twice, c not at all: the same as a set that holds b twice and not c."""
    weights = np.array([1, 2, 0, 1, 1, 1, 1, 1, 1, 1])
    true = {name: boxes for name, boxes in TRUE.items() if name != "c"}
    true["b2"] = TRUE["b"]
    twice = pooled(true, PREDICTED | {"b2": PREDICTED["b"]})
    for label in (0, 1):
        weighted = pooled().of_class(label).average_precision(weights)
        assert weighted == pytest.approx(twice.of_class(label).average_precision())


def test_recall_at_false_positives_per_image_by_hand():
    """Ten images, so 0.05 allows no false box, 0.1 one and 0.2 two. Class 0: hit, false, hit,
    false, false: 1/3 before the first false one, 2/3 from the next on. Class 1: the false box comes
    first."""
    first, second, third = pooled().classes()
    np.testing.assert_allclose(first.recalls(), [1 / 3, 2 / 3, 2 / 3])
    np.testing.assert_allclose(second.recalls(), [0, 1, 1])
    assert np.isnan(third.recalls()).all()
    nothing = OperatingPoints(np.zeros(0), np.zeros(0), np.zeros(0))
    np.testing.assert_allclose(recall_at_rates(nothing, 3, 10, [0.1]), [0])


def test_recall_takes_the_last_pixel_in_as_the_data_sets_own_evaluation():
    """20 x 10 against 10 x 10 from the same corner: IoU 0.5, which is no hit, and with the last
    pixel 121 / 231."""
    true = {"a": truth((0, 0, 0, 10, 10))}
    predicted = {"a": detections_of((0, 0.9, 0, 0, 20, 10))}
    ranking = pooled(true, predicted, 1).of_class(0)
    assert ranking.average_precision() == 0
    assert ranking.recalls().tolist() == [1, 1, 1]


def official_recall(true, predicted, rate):
    """Recall of one class as eval.py of the data set defines it, written down again: the curve is
    walked box by box."""
    rows = []
    for name, detections in predicted.items():
        for box, score in zip(detections.boxes, detections.scores, strict=True):
            rows.append((score, name, box))
    rows.sort(key=lambda row: -row[0])
    true_count = sum(len(of_image.boxes) for of_image in true.values())
    taken = set()
    false = 0
    recall = 0.0
    for _, name, box in rows:
        overlaps = [inclusive_iou(box, other) for other in true[name].boxes]
        best = (name, int(np.argmax(overlaps))) if overlaps else None
        if overlaps and max(overlaps) >= 0.5 and best not in taken:
            taken.add(best)
        else:
            false += 1
        if false / len(true) > rate:
            break
        recall = len(taken) / true_count
    return recall


def inclusive_iou(one, other):
    """IoU where x2 y2 is a pixel inside the box."""
    width = max(0, min(one[2], other[2]) - max(one[0], other[0]) + 1)
    height = max(0, min(one[3], other[3]) - max(one[1], other[1]) + 1)
    area = (one[2] - one[0] + 1) * (one[3] - one[1] + 1)
    other_area = (other[2] - other[0] + 1) * (other[3] - other[1] + 1)
    return width * height / (area + other_area - width * height)


def random_set(seed, images=40, classes=3):
    """True boxes that do not touch each other, since libraries differ in what a box may fall back
    on; predictions near them and elsewhere."""
    rng = np.random.default_rng(seed)
    true = {}
    predicted = {}
    for number in range(images):
        cells = rng.permutation(16)[: rng.integers(0, 6)]
        count = len(cells)
        corner = np.stack([cells % 4 * 100, cells // 4 * 100], 1)
        corner = corner + rng.uniform(0, 10, (count, 2))
        boxes = np.hstack([corner, corner + rng.uniform(35, 85, (count, 2))])
        labels = rng.integers(0, classes, count)
        true[str(number)] = TrueBoxes(boxes, labels)

        near = boxes + rng.normal(0, 6, boxes.shape)
        elsewhere = rng.uniform(0, 300, (4, 2))
        elsewhere = np.hstack([elsewhere, elsewhere + rng.uniform(20, 90, (4, 2))])
        predicted_boxes = np.vstack([near, near[:2] + 1, elsewhere])
        predicted_labels = np.concatenate([labels, labels[:2], rng.integers(0, classes, 4)])
        scores = rng.uniform(0, 1, len(predicted_boxes))
        # The library leaves out boxes of negative area.
        assert (predicted_boxes[:, 2:] > predicted_boxes[:, :2]).all()
        predicted[str(number)] = Detections(predicted_boxes, scores, predicted_labels).sorted()
    return true, predicted


@pytest.mark.parametrize("seed", range(5))
def test_recall_agrees_with_the_data_sets_own_evaluation(seed):
    true, predicted = random_set(seed, images=37, classes=1)  # no rate is a whole number of boxes
    expected = [official_recall(true, predicted, rate) for rate in (0.05, 0.1, 0.2)]
    np.testing.assert_allclose(pooled(true, predicted, 1).of_class(0).recalls(), expected)


@pytest.mark.parametrize("seed", range(6))
def test_average_precision_agrees_with_pycocotools(seed):
    true, predicted = random_set(seed)
    rankings = pooled(true, predicted).classes()
    precisions = [ranking.average_precision() for ranking in rankings]
    expected = [coco_average_precision(true, predicted, label) for label in range(3)]
    np.testing.assert_allclose(precisions, expected, atol=1e-9)
    assert 0.05 < min(expected) < max(expected) < 0.95  # no trivial agreement


def test_f1_and_counts_by_hand():
    """A box on the threshold is not above it."""
    counts = pooled().of_class(0).counts([0.95, 0.6, 0.5, 0.39, 0.1])
    assert counts.true_positives.tolist() == [0, 1, 1, 2, 2]
    assert counts.false_positives.tolist() == [0, 0, 0, 1, 3]
    assert counts.missed.tolist() == [3, 2, 2, 1, 1]
    np.testing.assert_allclose(f1(*counts), [0, 2 / 4, 2 / 4, 4 / 6, 4 / 8])
    assert math.isnan(f1(0, 0, 0))
    assert f1(0, 2, 0) == 0


def test_threshold_is_the_one_of_the_highest_f1():
    """Hits score 0.8 and above, false boxes 0.3 and below: any threshold between is best, the
    middle one is taken."""
    true = {}
    predicted = {}
    for number in range(10):
        true[str(number)] = truth((0, 0, 0, 100, 100))
        predicted[str(number)] = detections_of(
            (0, 0.8 + 0.01 * number, 0, 0, 100, 100), (0, 0.3 - 0.02 * number, 300, 0, 400, 99)
        )
    assert 0.5 <= fit_threshold(pooled(true, predicted, 1).of_class(0)) <= 0.6
    false = {"a": detections_of((0, 0.9, 0, 0, 9, 9))}
    assert fit_threshold(pooled({"a": NONE}, false, 1).of_class(0)) == THRESHOLDS[-1]


def table_of(true):
    """Rows as in train.csv."""
    rows = []
    for number, (name, of_image) in enumerate(true.items()):
        rows.append(
            {
                "image_id": name,
                "fold": number % 2,
                "group": name,
                "width": 1024,
                "height": 1024,
                "n_boxes": len(of_image.boxes),
                "boxes": json.dumps(of_image.boxes.tolist()),
                "box_labels": json.dumps(of_image.labels.tolist()),
            }
        )
    return pd.DataFrame(rows)


def test_constant_guess_is_the_mean_box_of_the_other_folds():
    """Folds of two images; fold 1's mean box is the true one of fold 0, and half of its images have
    the class."""
    true = {
        "a": truth((0, 0, 0, 100, 100)),
        "b": truth((0, 0, 0, 90, 100), (0, 0, 0, 110, 100)),
        "c": truth((0, 0, 0, 100, 100)),
        "d": NONE,
    }
    pool = pooled(true, dict.fromkeys(true, NO_DETECTION), 2)
    units = np.array(pool.folds)
    first, second = ClassAP().constant_guess(table_of(true), pool, units)
    assert first.scores.tolist() == [1, 1, 0.5, 0.5]
    assert first.hits.tolist() == [True, False, True, True]
    assert math.isnan(second.average_precision())
    assert len(second.scores) == 0


def test_scores_after_an_epoch():
    """Predictions in pictures of half the size."""
    table = table_of({"a": TRUE["a"], "b": TRUE["b"]})
    predictions = {}
    for row, name in enumerate("ab"):
        original = PREDICTED[name]
        halved = Detections(original.boxes / 2, original.scores, original.labels)
        predictions[row] = QuickDetections(halved, 512)
    scores = ClassAP().quick_score(predictions, table, settings_with(), LABELS)
    assert list(scores) == ["metric", "ap_one", "ap_two", "ap_three"]
    assert scores["ap_one"] == pytest.approx(5 / 9)
    assert scores["metric"] == pytest.approx((5 / 9 + 1 / 2) / 2)
    assert math.isnan(scores["ap_three"])


def settings_with(**values):
    return make_settings({"task": "tiny", "nms_iou": 0.5} | values, DetectorSettings)


def candidates_of(name, detections):
    boxes = detections.boxes
    size = boxes[:, 2:] - boxes[:, :2]
    return Candidates(
        image_id=name,
        width=1024,
        height=1024,
        category=np.array([0.5, 0.5]),
        centre=(boxes[:, :2] + boxes[:, 2:]) / 2,
        size20=size,
        size80=size,
        score=detections.scores,
        label=detections.labels,
    )


def evaluate(true=TRUE, predicted=PREDICTED, labels=LABELS, scorer=None, **values):
    def read():
        for number, name in enumerate(true):
            candidates = candidates_of(name, predicted[name])
            yield BoxCase(candidates, true[name], number % 2, group=name)

    run = RunFolder(Path("tiny/run"))
    judging = Judging(settings_with(**values), run, run.judged(), labels, table_of(true))
    return (scorer or ClassAP()).evaluate(read, judging)


def test_the_overlap_of_suppression_is_fitted_on_the_other_folds():
    """In fold 0 two true boxes of a class overlap by 0.6, so 0.5 loses one of them; in fold 1 a
    second answer on a true box comes before the others, and only 0.5 takes it out."""
    first = np.array([[0.0, 0, 100, 100], [0, 25, 100, 125]])
    other = np.array([[0.0, 0, 100, 100], [300, 300, 400, 400]])
    true = {}
    predicted = {}
    for number in range(8):
        boxes = [first, other][number % 2]
        labels = np.zeros(2, int)
        true[f"{number}"] = TrueBoxes(boxes, labels)
        if number % 2:
            lower = boxes[:1] + np.array([0, 25, 0, 25])
            boxes = np.concatenate([boxes[:1], lower, boxes[1:]])
        scores = np.linspace(0.9, 0.8, len(boxes))
        predicted[f"{number}"] = Detections(boxes, scores, np.zeros(len(boxes), int))
    labels = Labels(("one",), ())
    scorer = ClassAP(0.7)
    plain = evaluate(true, predicted, labels, scorer, nms_iou=0.5)
    loose = evaluate(true, predicted, labels, scorer, nms_iou=0.7)
    tried = evaluate(true, predicted, labels, scorer, try_nms_iou=("0.5", "0.7"))
    # Each fold would like the one that the other does not: both lose.
    assert tried.score < min(plain.score, loose.score)
    assert tried.params["nms_iou"] == (0.5 if plain.score >= loose.score else 0.7)
    assert tried.detect.keywords["params"].nms_iou == tried.params["nms_iou"]
    with pytest.raises(InputError, match="--try-nms-iou takes numbers between 0 and 1, not five"):
        evaluate(true, predicted, labels, scorer, try_nms_iou=("five",))


def test_evaluation_of_the_hand_made_set():
    """The suppression at IoU 0.5 has already removed the second box on the taken one; the AP
    stays."""
    evaluation = evaluate()
    assert evaluation.score == pytest.approx((5 / 9 + 1 / 2) / 2)
    assert evaluation.counted == 10
    results = evaluation.results
    assert results["ap"] == {"one": pytest.approx(5 / 9), "two": 0.5, "three": None}
    recalls = {"0.05": 1 / 3, "0.1": 2 / 3, "0.2": 2 / 3}
    assert results["recall"]["one"] == pytest.approx(recalls)
    mean_recalls = [(1 / 3 + 0) / 2, (2 / 3 + 1) / 2, (2 / 3 + 1) / 2]
    assert results["avgrecall"] == pytest.approx(np.mean(mean_recalls))
    assert json.loads(json.dumps(results, allow_nan=False))["ap"]["three"] is None
    assert evaluation.notes == [
        "No judged image has a true box of three: their average precision and recall are not "
        "defined and are left out of the means."
    ]
    assert evaluation.interval[0] <= evaluation.score <= evaluation.interval[1]
    assert set(evaluation.params["threshold"]) == {"one", "two", "three"}
    assert set(evaluation.class_curves) == {"one", "two"}
    assert [result.fold for result in evaluation.folds] == [0, 1]
    assert evaluation.baselines[0].name == "constant guess"


def test_the_scorer_says_at_which_iou_it_judges():
    scorer = ClassAP(iou=0.39)
    assert scorer.score_name == "Mean AP at IoU 0.39"
    assert "at least 39 % of the joint area" in scorer.score_meaning
    assert "at least half of the joint area" in ClassAP().score_meaning
    evaluation = evaluate(scorer=scorer)
    assert evaluation.results["ap"]["one"] == 1
    assert "at IoU 0.39" in evaluation.searched
    assert ClassAP(score_name="AP of opacity").score_name == "AP of opacity"


def test_thresholds_of_a_fold_do_not_depend_on_its_own_images():
    before = evaluate()
    after = evaluate(TRUE | {"b": NONE})  # of fold 1
    assert before.folds[1].fold == after.folds[1].fold == 1
    assert before.folds[1].params == after.folds[1].params


def test_evaluation_of_perfect_and_of_no_predictions():
    perfect = {}
    for name, of_image in TRUE.items():
        scores = np.linspace(0.9, 0.8, len(of_image.boxes))
        perfect[name] = Detections(of_image.boxes, scores, of_image.labels)
    assert evaluate(TRUE, perfect, TWO_LABELS).score == 1.0
    nothing = evaluate(TRUE, dict.fromkeys(TRUE, NO_DETECTION), TWO_LABELS)
    assert nothing.score == 0.0
    assert nothing.operating is None
    assert not nothing.images.n_pred.any()


def test_there_is_no_test_like_part():
    with pytest.raises(InputError, match="tiny has no images like the test set"):
        evaluate(fit_on="testlike")


def test_scores_of_the_test_set():
    scores = ClassAP().score_boxes(TRUE, PREDICTED, LABELS)
    assert scores["score"] == pytest.approx((5 / 9 + 1 / 2) / 2)
    assert scores["n_images"] == 10
    assert scores["ap"]["three"] is None
    assert scores["mean_recall"]["0.2"] == pytest.approx((2 / 3 + 1) / 2)


def test_rules_detect_everything_and_name_thresholds():
    scorer = ClassAP()
    params = {"threshold": {"one": 0.3, "two": 0.7, "three": 0.5}, "nms_iou": 0.2}
    rule = scorer.make_rule(params, settings_with(), LABELS)
    assert rule.thresholds == params["threshold"]
    candidates = candidates_of("b", PREDICTED["b"])
    np.testing.assert_allclose(rule.detect(candidates).scores, [0.5, 0.4])
    plain = scorer.make_rule(None, settings_with(), LABELS)
    assert set(plain.thresholds.values()) == {0.5}
    with pytest.raises(LookupError):
        scorer.make_rule({"threshold": {"one": 0.3}, "nms_iou": 0.2}, settings_with(), LABELS)


def test_exported_rules_and_their_score():
    scorer = ClassAP()
    params = {"threshold": {"one": 0.3, "two": 0.7}, "nms_iou": 0.2}
    exported = scorer.export_rule(params, settings_with(), TWO_LABELS)
    assert exported["thresholds"] == [0.3, 0.7]
    assert exported["gate_weights"] == []
    assert exported["nms_iou"] == 0.2
    assert exported["score_floor"] == 0.0
    assert not {"gate", "threshold"} & exported.keys()

    by_image = {name: vars(detections) for name, detections in PREDICTED.items()}
    score = scorer.score_exported(TRUE, by_image, LABELS)
    assert score == scorer.score_boxes(TRUE, PREDICTED, LABELS)["score"]
    nothing = {"a": vars(NO_DETECTION)}
    assert scorer.score_exported({"a": NONE}, nothing, LABELS) is None


def test_all_detections_end_at_the_edges():
    settings = settings_with()
    rule = ClassAP().make_rule(None, settings, LABELS)
    outside = candidates_of("a", detections_of((1, 0.01, -50, -50, 60, 2000)))
    detections = rule.detect(outside)
    np.testing.assert_allclose(detections.boxes, [[0, 0, 60, 1024]])
    params = rule.detect.keywords["params"]
    assert len(all_detections(candidates_of("a", NO_DETECTION), params)) == 0
