import numpy as np
import pandas as pd
import pytest
from test_search import GATE, make_case

from cxr.config import Config
from cxr.methods.detector import image_scorer as image_scoring
from cxr.methods.detector.records import Params, detect
from cxr.methods.detector.search import Grid
from cxr.metrics.kaggle_map import image_score

GRID = Grid(
    (-0.5, 1.6), (1.0, 0.8), ("nms", "wbf"), (False, True), (False, True), (0.1, 0.6, 1.0, 2.0)
)


@pytest.fixture(scope="module")
def cases():
    return [make_case(i, i % 3 == 0, fold=i % 2, group=f"patient{i // 2}") for i in range(12)]


def test_scores_are_those_of_detection_whatever_shares_a_merge(cases):
    drawn = np.random.default_rng(0).choice(np.prod(GRID.shape), 20, replace=False)
    choices = {f"{i}": GRID.params(np.unravel_index(i, GRID.shape)) for i in drawn}
    table = image_scoring.score_images(
        lambda: cases,
        {name: lambda case, params=params: params for name, params in choices.items()},
        GATE,
    )
    assert list(table["image_id"]) == [case.candidates.image_id for case in cases]
    assert list(table["group"]) == [case.group for case in cases]
    for name, params in choices.items():
        expected = [
            image_score(case.boxes, detect(case.candidates, params, GATE)[0]) for case in cases
        ]
        np.testing.assert_array_equal(table[name], expected)


def test_images_without_parameters_are_left_out(cases):
    params_for = lambda case: None if case.fold else Params()  # noqa: E731
    table = image_scoring.score_images(lambda: cases, {"a": params_for, "b": params_for}, GATE)
    judged = image_scoring.judge_images(lambda: cases, params_for, GATE)
    assert len(table) == 6 and list(table["image_id"]) == list(judged.images["image_id"])
    np.testing.assert_array_equal(table["a"], judged.images["score"])


def test_judging_looks_at_the_predictions_three_times(cases):
    """Search, judgement, baselines."""
    readings = []

    def read():
        readings.append(1)
        return iter(cases)

    found = image_scoring.evaluate(
        Config(), read, pd.DataFrame({"test_like": [False] * 12}), GATE, []
    )
    assert len(readings) == 3 and 0 < found.score <= 1
    curve = [
        detect(
            case.candidates,
            Params(**found.folds[case.fold][2] | {"threshold": 0.05, "half": False}),
            GATE,
        )
        for case in cases
    ]
    assert len(found.pr[0]) == len(np.unique(np.concatenate([scores for _, scores in curve])))
