"""Sentences about how a score was measured say what was done."""

import pytest

from cxr.methods.wording import (
    describe_fold_scores,
    describe_images,
    describe_marks,
    describe_measurement,
    name_folds,
)


@pytest.mark.parametrize(
    "folds, fit_on, words",
    [
        (
            [0, 1, 2, 3],
            "folds",
            "Measured on the validation images of every fold, predicted by models that never saw "
            "them, with thresholds fitted on the other folds.",
        ),
        (
            [2, 0],
            "folds",
            "Measured on the validation images of folds 0 and 2, predicted by models that never "
            "saw them, with thresholds fitted on the other folds.",
        ),
        (
            [0],
            "folds",
            "Measured on the validation images of fold 0, predicted by models that never saw them, "
            "with thresholds fitted on the other half of this fold's patients.",
        ),
        (
            [0, 1, 2, 3],
            "published",
            "Measured on the validation images of every fold, predicted by models that never saw "
            "them, with the published thresholds; nothing was fitted.",
        ),
        (
            [0, 1, 2, 3],
            "testlike",
            "Measured on the validation images that are not like the test set, of every fold, "
            "predicted by models that never saw them, with thresholds fitted on the images that "
            "are like the test set only.",
        ),
    ],
)
def test_the_sentence_says_what_was_done(folds, fit_on, words):
    assert describe_measurement(folds, fit_on, 4, fitted="thresholds") == words


def test_where_nothing_can_be_fitted_the_sentence_says_so():
    sentence = describe_measurement([0, 1], "folds", 2, fitted="")
    assert sentence.endswith("predicted by models that never saw them; nothing was fitted.")


def test_studies_instead_of_images():
    words = describe_images([1], "folds", 4, subject="studies")
    assert words == "the studies of fold 1, predicted by models that never saw them"


def test_without_a_number_of_folds_all_of_several_are_every_fold():
    assert "of every fold" in describe_images([0, 1], "folds")
    assert "of fold 0" in describe_images([0], "folds")


@pytest.mark.parametrize("describe", [describe_marks, describe_fold_scores])
def test_one_fold_never_speaks_of_other_folds(describe):
    assert "half" in describe([0], "folds")
    assert "without its images" not in describe([0], "folds")
    assert "left out" not in describe([0], "folds")
    texts = {describe([0, 1], fit_on) for fit_on in ("folds", "testlike", "published")}
    assert len(texts) == 3


@pytest.mark.parametrize(
    "folds, words",
    [([2], "fold 2"), ([0, 2], "folds 0 and 2"), ([0, 1, 3], "folds 0, 1 and 3")],
)
def test_names_of_folds(folds, words):
    assert name_folds(folds) == words
