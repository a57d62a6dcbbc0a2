"""Pseudo labels: what a teacher saw is never held out, shown on labels that nothing can predict."""

import numpy as np
import pytest
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.metrics import average_precision_score

from cxr.teachers import Teacher, fold_teachers, labels_for, may_label

FOLDS = 5


def noise():
    """300 rows whose labels are drawn, folds, and external rows that are noisy copies of them."""
    rng = np.random.default_rng(0)
    features, labels = rng.standard_normal((300, 8)), (rng.random(300) < 0.557).astype(int)
    return features, labels, rng.permutation(np.arange(300) % FOLDS), features + rng.normal(0, 0.05, features.shape)


def fit(features, labels, weights=None):
    return ExtraTreesClassifier(30, random_state=0).fit(features, labels, weights)


def out_of_fold_ap(labels_of):
    """AP of students; `labels_of(fold, teachers' predictions)` gives the external rows' labels or None."""
    features, labels, folds, external = noise()
    teachers = [fit(features[folds != k], labels[folds != k]) for k in range(FOLDS)]
    taught, scores = np.array([teacher.predict_proba(external) for teacher in teachers]), np.zeros(300)
    for k in range(FOLDS):
        own, further = folds != k, labels_of(k, taught)
        if further is None:
            student = fit(features[own], labels[own])
        else:  # a soft label is both labels, each with its weight
            rows = np.concatenate([features[own], external, external])
            both = np.concatenate([labels[own], np.zeros(300, int), np.ones(300, int)])
            student = fit(rows, both, np.concatenate([np.ones(own.sum()), further[:, 0], further[:, 1]]))
        scores[~own] = student.predict_proba(features[~own])[:, 1]
    return average_precision_score(labels, scores)


def test_nothing_is_learned_from_noise_but_by_leaking():
    """The mean of all teachers finds the labels of the held-out fold in the external images; ours does not."""
    teachers = fold_teachers(FOLDS)
    plain = out_of_fold_ap(lambda fold, taught: None)
    clean = out_of_fold_ap(lambda fold, taught: labels_for(fold, teachers, taught))
    leaky = out_of_fold_ap(lambda fold, taught: labels_for(None, teachers, taught))
    assert abs(plain - 0.557) < 0.08 and abs(clean - 0.557) < 0.08
    assert leaky > 0.9  # so the check above would find a leak


def test_of_a_cross_validation_only_the_model_of_the_fold_may_label():
    teachers = fold_teachers(4)
    for fold in range(4):
        assert [may_label(teacher, fold) for teacher in teachers] == [k == fold for k in range(4)]
    predictions = np.arange(4 * 3 * 2).reshape(4, 3, 2)
    np.testing.assert_array_equal(labels_for(2, teachers, predictions), predictions[2])
    np.testing.assert_array_equal(labels_for(None, teachers, predictions), predictions.mean(0))


def test_several_models_of_a_fold_are_averaged():
    teachers = [*fold_teachers(2), *fold_teachers(2)]
    predictions = np.arange(8.0).reshape(4, 2, 1)
    np.testing.assert_array_equal(labels_for(1, teachers, predictions), (predictions[1] + predictions[3]) / 2)


def test_ancestors_count():
    """A student of a model that saw fold 1 knows fold 1, and so does whoever was taught by it."""
    first = Teacher(frozenset({1, 2}))
    second = Teacher(frozenset({0}), (first,))
    third = Teacher(frozenset(), (second, Teacher(frozenset())))
    assert third.knows == {0, 1, 2} and not may_label(third, 1) and may_label(third, 3) and may_label(third, None)


def test_without_a_clean_teacher():
    with pytest.raises(ValueError, match="every one of the 1 teachers saw fold 0"):
        labels_for(0, [Teacher(frozenset({0, 1}))], np.zeros((1, 2, 4)))
