"""Diagrams: what is drawn into them, and what is said below."""

import numpy as np
import pandas as pd
import pytest
from reports import NAN, drawn

from cxr.metrics.curves import OperatingPoint, PrecisionRecallCurve, SensitivityLine
from cxr.metrics.froc import FrocCurve
from cxr.plots.detection_curves import detection_panels, recall_within
from cxr.plots.page import flatten_record, format_number, format_share, setting_text
from cxr.plots.sensitivity import sensitivity_panels
from cxr.plots.training_curves import comparison_panels, fold_mean, loss_terms, training_panels


def test_detection_panels_draw_their_own_curves():
    precision, froc = detection_panels(
        PrecisionRecallCurve([0.1, 0.9], [1.0, 0.3]),
        FrocCurve([0.2, 4.0], [0.5, 0.8]),
        OperatingPoint(0.9, 0.3, 4.0),
    )
    curve, chosen = drawn(precision).lines
    assert np.array_equal(curve.get_xydata(), [[0.1, 1.0], [0.9, 0.3]])
    assert np.array_equal(chosen.get_xydata(), [[0.9, 0.3]])
    curve, chosen = drawn(froc).lines
    assert np.array_equal(curve.get_xydata(), [[0.2, 0.5], [4.0, 0.8]])
    assert np.array_equal(chosen.get_xydata(), [[4.0, 0.9]])
    assert "50% of the marked findings at one false box in four images" in froc.caption


def test_without_two_finite_points_there_is_no_detection_panel():
    assert detection_panels(None, None) == []
    assert detection_panels(PrecisionRecallCurve([], []), FrocCurve([1], [1])) == []
    assert detection_panels(PrecisionRecallCurve([NAN, NAN], [0.1, 0.2]), None) == []


def test_long_curves_are_thinned_but_keep_their_ends():
    x = np.linspace(0, 1, 100_000)
    [panel] = detection_panels(PrecisionRecallCurve(x, 1 - x), None)
    points = drawn(panel).lines[0].get_xydata()
    assert len(points) == 800
    assert points[0].tolist() == [0, 1]
    assert points[-1].tolist() == [1, 0]


@pytest.mark.parametrize(
    "rate, recall", [(0.05, 0.0), (0.1, 0.2), (0.5, 0.4), (1.9, 0.4), (8, 0.9)]
)
def test_recall_at_a_rate_of_false_boxes(rate, recall):
    points = np.array([[0.1, 0.5, 0.5, 2.0], [0.2, 0.3, 0.4, 0.9]])
    assert recall_within(points, rate) == recall


def test_sensitivity_shares_one_scale_and_marks_the_chosen_value():
    lines = {
        "threshold": SensitivityLine([0.9, 0.1, 0.5], [0.1, 0.0, 0.3], 0.5),
        "merge": SensitivityLine(["nms", "wbf"], [0.3, 0.2], "wbf"),
        "gate": SensitivityLine([False, True], [0.1, 0.3], True),
        "nothing": SensitivityLine([], [], None),
    }
    panels = sensitivity_panels(lines, [{"threshold": 0.4}, {"threshold": 0.9}])
    assert [panel.title for panel in panels] == ["threshold: 0.5", "merge: wbf", "gate: yes"]
    sentence = "From its worst to its best value the score goes from 0.000 to 0.300."
    assert panels[0].caption == sentence

    threshold = drawn(panels[0])
    merge = drawn(panels[1])
    gate = drawn(panels[2])
    assert threshold.get_ylim() == merge.get_ylim() == gate.get_ylim()
    line, _, chosen, folds = threshold.lines
    assert line.get_xdata().tolist() == [0.1, 0.5, 0.9]
    assert line.get_ydata().tolist() == [0.0, 0.3, 0.1]
    assert chosen.get_xydata().tolist() == [[0.5, 0.3]]
    assert list(folds.get_xdata()) == [0.4, 0.9]
    assert merge.lines[-1].get_xydata().tolist() == [[1, 0.2]]
    assert [label.get_text() for label in gate.get_xticklabels()] == ["no", "yes"]


def test_scores_that_hardly_differ_are_not_blown_up():
    [panel] = sensitivity_panels({"scale": SensitivityLine([0.8, 0.9], [0.2500, 0.2501], 0.9)}, [])
    low, high = drawn(panel).get_ylim()
    assert high - low > 0.025


def test_training_panels_follow_the_columns():
    logs = {
        0: pd.DataFrame(
            {
                "epoch": [1, 2, 3],
                "train_box": [3.0, 2, 1],
                "valid_box": [3.0, 2, 2.5],
                "metric": [0.1, 0.3, 0.2],
            }
        ),
        1: pd.DataFrame({"epoch": [1], "train_box": [3.0], "valid_mask": [1.0], "metric": [NAN]}),
    }
    assert loss_terms(logs.values()) == ["box", "mask"]
    metric, box, mask = training_panels(logs)
    assert [metric.title, box.title, mask.title] == ["Validation metric", "Box loss", "Mask loss"]
    _, ring = drawn(metric).lines
    assert ring.get_xydata().tolist() == [[2, 0.3]], "at the best epoch"
    assert len(drawn(box).lines) == 3
    assert drawn(mask).lines[0].get_marker() == "o", "one epoch would be an invisible line"


def test_without_a_number_there_is_no_training_panel():
    assert training_panels({}) == []
    assert training_panels({0: pd.DataFrame({"epoch": [1.0], "metric": [NAN]})}) == []


def test_learning_curves_of_each_class():
    log = pd.DataFrame(
        {"epoch": [1, 2], "metric": [0.1, 0.2], "ap_Mass": [0.1, 0.3], "ap_Nodule": [NAN, NAN]}
    )
    titles = [panel.title for panel in training_panels({0: log, 1: log})]
    assert titles == ["Validation metric", "AP: Mass"], "a class without any value has no diagram"
    _, mass = training_panels({0: log})
    [line] = drawn(mass).lines
    assert line.get_ydata().tolist() == [0.1, 0.3]


def test_mean_over_folds_ends_where_the_shortest_ends():
    mean = fold_mean([pd.Series([1.0, 2, 3], index=[1, 2, 3]), pd.Series([3.0, 4], index=[1, 2])])
    assert mean.to_dict() == {1: 2.0, 2: 3.0}


def test_comparison_shows_each_fold_thin_and_the_mean_thick():
    log = pd.DataFrame({"epoch": [1, 2], "metric": [0.1, 0.2], "valid_loss": [2.0, 1.0]})
    metric, loss = comparison_panels({"a": {0: log, 1: log * 3}, "b": {0: log}, "c": {}})
    assert [metric.title, loss.title] == ["Validation metric", "Validation: total loss"]
    assert sorted(line.get_linewidth() for line in drawn(loss).lines) == [0.7, 0.7, 2.2, 2.2]


def test_numbers_as_text():
    assert [format_number(value) for value in (0.12345, NAN, None)] == ["0.123", "–", "–"]
    assert format_share(1, 4) == "25%"
    assert format_share(1, 1000) == "<1%"
    assert format_share(0, 5) == "0%"
    assert format_share(0, 0) == "–"


@pytest.mark.parametrize(
    "value, text",
    [(True, "yes"), (None, "–"), (1e-5, "1e-05"), ([1, 2], "1, 2"), ([], "–"), ("a", "a")],
)
def test_settings_as_text(value, text):
    assert setting_text(value) == text


def test_nested_records_become_flat():
    assert flatten_record({"a": {"b": {"c": 1}}, "d": {}}) == {"a.b.c": 1, "d": {}}


def test_the_best_score_over_the_threshold_and_that_threshold_are_shown_where_they_are_logged():
    log = pd.DataFrame({"epoch": [1, 2], "metric": [0.1, 0.2], "threshold": [0.3, 0.4]})
    for panels in (training_panels({0: log}), comparison_panels({"a": {0: log}})):
        score, threshold = panels
        assert score.title == "Best score over the threshold"
        assert threshold.title == "Threshold of the best score"
        assert drawn(threshold).lines[0].get_ydata().tolist() == [0.3, 0.4]
