"""The numbers beside a score: what has no value is neither printed nor written as nan."""

import json
import math
from types import SimpleNamespace

import pytest

from cxr.steps.postprocess.answered_images import compare_with_test
from cxr.steps.postprocess.figures import (
    format_figures,
    format_score,
    headline_figures,
    join_figures,
    recall_figures,
    value_or_null,
)

NAN = math.nan
RECALLS = {"mean_recall": {"0.05": 0.25, "0.1": None, "0.2": 0.5}, "avgrecall": 0.375}


def figures_of(figures=None, results=None):
    return headline_figures(SimpleNamespace(figures=figures or {}, results=results or {}))


def test_a_figure_without_a_value_is_left_out():
    assert figures_of({"sensitivity": 0.8, "specificity": NAN}) == {"sensitivity": 0.8}
    assert format_figures({"sensitivity": 0.8, "specificity": NAN}) == "sensitivity 0.8000"
    assert format_figures({"specificity": NAN, "score": None}) == ""


@pytest.mark.parametrize(
    "score, interval, words",
    [
        (0.25, (0.2, 0.3), "score 0.2500 (95 % interval 0.2000 to 0.3000)"),
        (0.25, (NAN, NAN), "score 0.2500"),
        (NAN, (NAN, NAN), "no score, since no judged image counts in it"),
    ],
)
def test_a_score_with_what_is_known_of_it(score, interval, words):
    assert format_score(score, interval) == words


def test_a_json_file_has_no_nan():
    values = [value_or_null(value) for value in (0.5, NAN, None)]
    assert json.dumps(values) == "[0.5, null, null]"


def test_the_score_of_test_like_images_stands_where_there_is_one():
    words = "score of the images that are labelled like the test set"
    assert figures_of(results={"score_test_like": 0.2}) == {words: 0.2}
    assert figures_of(results={"score_test_like": None}) == {}


def test_mean_recalls_stand_beside_the_score():
    assert recall_figures(RECALLS) == {
        "mean recall at 0.05 false boxes per image": 0.25,
        "mean recall at 0.1 false boxes per image": None,
        "mean recall at 0.2 false boxes per image": 0.5,
        "mean of these recalls (avgrecall)": 0.375,
    }
    assert recall_figures({}) == {}
    assert join_figures("score 0.3000", {}) == "score 0.3000"
    assert join_figures("score 0.3000", {"a": 0.5, "b": None}) == "score 0.3000, a 0.5000"


def test_labelled_test_images_have_the_same_figures():
    scores = {"score": 0.4, "n_images": 3, "ap": {"Mass": 0.4, "Nodule": None}, **RECALLS}
    rows = compare_with_test(scores, "Mean AP", 0.3, recall_figures(RECALLS), {"Mass": 0.2})
    assert [row.name for row in rows[-2:]] == ["AP of Mass", "AP of Nodule"]
    assert rows[0] == ("Mean AP", 0.3, 0.4)
    assert rows[1] == ("mean recall at 0.05 false boxes per image", 0.25, 0.25)
    assert rows[-2] == ("AP of Mass", 0.2, 0.4)
    assert rows[-1] == ("AP of Nodule", None, None)
