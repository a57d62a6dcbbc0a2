"""The scorer of RSNA: its table of images, how often it reads, its rules."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_search import GATE_WEIGHTS, make_case

from cxr.geometry.detections import Detections, TrueBoxes
from cxr.method_settings import DetectorSettings
from cxr.methods.base import Judging, Labels
from cxr.methods.detector.image_scorer import (
    RsnaMap,
    grid_of,
    judge_images,
    score_images,
)
from cxr.methods.detector.records import Params, QuickDetections, detect
from cxr.methods.detector.search import Grid
from cxr.metrics.kaggle_map import image_score
from cxr.run_folder import RunFolder
from cxr.settings import make_settings
from cxr.system.errors import InputError
from cxr.tasks import TASKS

GRID = Grid(
    (-0.5, 1.6), (1.0, 0.8), ("nms", "wbf"), (False, True), (False, True), (0.1, 0.6, 1.0, 2.0)
)
LABELS = Labels(("opacity",), ("normal", "other", "opacity"))
SCORER = RsnaMap(GATE_WEIGHTS, ())


@pytest.fixture(scope="module")
def cases():
    return [make_case(i, i % 3 == 0, fold=i % 2, group=f"patient{i // 2}") for i in range(12)]


def settings_with(**values):
    return make_settings({"task": "tiny"} | values, DetectorSettings)


def judging_of(images, **values):
    table = pd.DataFrame({"fold": np.arange(images) % 2, "test_like": False})
    run = RunFolder(Path("tiny/run"))
    return Judging(settings_with(**values), run, run.judged(), LABELS, table)


def test_scores_are_those_of_detection_whatever_shares_a_merge(cases):
    drawn = np.random.default_rng(0).choice(np.prod(GRID.shape), 20, replace=False)
    choices = {}
    for number in drawn:
        choices[f"{number}"] = GRID.params(np.unravel_index(number, GRID.shape))
    params_for = {name: lambda _, params=params: params for name, params in choices.items()}
    table = score_images(lambda: cases, params_for, GATE_WEIGHTS)
    assert list(table["image_id"]) == [case.candidates.image_id for case in cases]
    assert list(table["group"]) == [case.group for case in cases]
    for name, params in choices.items():
        expected = []
        for case in cases:
            detections = detect(case.candidates, params, GATE_WEIGHTS)
            expected.append(image_score(case.true.boxes, detections.boxes))
        np.testing.assert_array_equal(table[name], expected)


def test_images_without_parameters_are_left_out(cases):
    def params_for(case):
        return None if case.fold else Params()

    choices = {"a": params_for, "b": params_for}
    table = score_images(lambda: cases, choices, GATE_WEIGHTS)
    judged = judge_images(lambda: cases, params_for, GATE_WEIGHTS)
    assert len(table) == 6
    assert list(table["image_id"]) == list(judged.images["image_id"])
    np.testing.assert_array_equal(table["a"], judged.images["score"])


def test_judging_looks_at_the_predictions_three_times(cases):
    """Search, judgement, baselines."""
    readings = []

    def read():
        readings.append(1)
        return iter(cases)

    evaluation = SCORER.evaluate(read, judging_of(12))
    assert len(readings) == 3
    assert 0 < evaluation.score <= 1
    scores_on_curve = []
    for case in cases:
        fitted = evaluation.folds[case.fold].params
        loose = Params(**fitted | {"threshold": 0.05, "half": False})
        scores_on_curve.append(detect(case.candidates, loose, GATE_WEIGHTS).scores)
    points = np.unique(np.concatenate(scores_on_curve))
    assert len(evaluation.pr.recall) == len(points)


def test_what_cannot_be_fitted_on(cases):
    with pytest.raises(InputError, match="tiny is always searched, use --fit-on folds"):
        SCORER.evaluate(lambda: iter(cases), judging_of(12, fit_on="published"))
    with pytest.raises(InputError, match=r"train\.csv has no test-like images"):
        SCORER.evaluate(lambda: iter(cases), judging_of(12, fit_on="testlike"))


def test_rules_detect_what_the_parameters_say(cases):
    params = Params(gate=True, half=True, threshold=1.0, scale=0.9)
    rule = SCORER.make_rule(vars(params), settings_with(), LABELS)
    assert rule.thresholds == {"opacity": 0.2}
    for case in cases:
        loose = rule.detect(case.candidates)
        expected = detect(case.candidates, params, GATE_WEIGHTS)
        np.testing.assert_array_equal(loose.above(0.2).boxes, expected.boxes)
    assert SCORER.make_rule(None, settings_with(), LABELS).thresholds == {"opacity": 0.1}
    with pytest.raises(TypeError):
        SCORER.make_rule({"top": 1}, settings_with(), LABELS)


def test_exported_rules_and_their_score():
    params = Params(gate=True, threshold=1.0, scale=0.9)
    exported = SCORER.export_rule(vars(params), settings_with(), LABELS)
    assert exported["gate_weights"] == list(GATE_WEIGHTS)
    assert exported["thresholds"] == [0.2]
    assert exported["scale"] == 0.9
    assert not {"gate", "threshold"} & exported.keys()
    plain = SCORER.export_rule(vars(Params()), settings_with(), LABELS)
    assert plain["gate_weights"] == []

    box = np.array([[0.0, 0, 10, 10]])
    truth = {"a": TrueBoxes(box, np.zeros(1, int)), "b": TrueBoxes.empty()}
    predicted = {"boxes": np.concatenate([box, box + 50]), "kept": np.array([True, False])}
    nothing = {"boxes": np.zeros((0, 4)), "kept": np.zeros(0, bool)}
    assert SCORER.score_exported(truth, {"a": predicted, "b": nothing}, LABELS) == 1
    predicted["kept"] = np.array([True, True])
    assert SCORER.score_exported(truth, {"a": predicted, "b": nothing}, LABELS) == 0.5


def test_scores_after_an_epoch():
    """Boxes in a picture of 512 pixels of an original of 1024; above 0.5 nothing is false."""
    row = {"width": 1024, "height": 1024, "boxes": "[[0, 0, 200, 200]]", "box_labels": "[0]"}
    boxes = np.array([[0.0, 0, 100, 100], [300, 300, 400, 400]])
    detections = Detections(boxes, np.array([0.9, 0.3]), np.zeros(2, int))
    predictions = {0: QuickDetections(detections, 512)}
    scores = SCORER.quick_score(predictions, pd.DataFrame([row]), settings_with(), LABELS)
    assert scores["metric"] == 1
    assert 0.3 <= scores["threshold"] < 0.9


def test_rules_that_are_tried():
    """A run of --gate is searched beside the detector's own gate, or alone where it has none."""
    grid = grid_of(judging_of(1, gate="c", try_votes=("0", "0.5"), try_lone=("1", "3")))
    assert (grid.votes, grid.lone, grid.gate_by) == ((0, 0.5), (1, 3), ("own", "run", "both"))
    assert grid.params((0,) * len(grid.shape)).gate_run == "c"
    grid = grid_of(judging_of(1, gate="c", global_weight=0.0))
    assert (grid.gate, grid.gate_by) == ((False, True), ("run",))
    assert (grid.votes, grid.lone) == ((0,), (1,))
    with pytest.raises(InputError, match=r"--try-lone takes numbers between 1 and 100, not 0.5"):
        grid_of(judging_of(1, try_lone=("0.5",)))
    with pytest.raises(InputError, match="--gate is not for chestxdet, whose score has no such"):
        TASKS["chestxdet"].settings_of({"gate": "c"})
        TASKS["chestxdet"].check(TASKS["chestxdet"].settings_of({"gate": "c"}))


def test_rules_that_a_file_does_not_have():
    for params in (Params(votes=0.5), Params(gate=True, gate_by="run", gate_run="c")):
        with pytest.raises(InputError, match="a file of step 06 has no rule"):
            SCORER.export_rule(params.record(), settings_with(), LABELS)


def test_overlaps_that_are_tried():
    """The gate's and the overlap's values are those of the settings; one overlap without --try."""
    assert grid_of(judging_of(1, nms_iou=0.3)).nms_iou == (0.3,)
    grid = grid_of(judging_of(1, try_nms_iou=("0.05", "0,2"), global_weight=0.0))
    assert grid.nms_iou == (0.05, 0.2)
    assert grid.gate == (False,)
