"""Rules by which classes and boxes of the COVID-19 task help each other, by hand; their search."""

import numpy as np
import pytest

from cxr.metrics.image_rules import (
    ELEVENTH,
    HIGHEST,
    PLAIN,
    THIRD,
    ImageEvidence,
    ImageRule,
    ImageTruth,
    fit_rule,
    negative_precision,
    none_precision,
    rule_of_place,
)

NAN = np.nan


def evidence(learned=(NAN, NAN), boxes=True):
    """Two images of one study; the second has no boxes."""
    confidences = [np.array([0.5, 0.2]), np.zeros(0)] if boxes else None
    return ImageEvidence(
        np.array(["s", "s"]), np.array([0.2, 0.9]), np.array(learned, float), confidences
    )


def test_plain():
    np.testing.assert_array_equal(PLAIN.none(evidence(boxes=False)), [0.2, 0.9])
    np.testing.assert_allclose(PLAIN.none(evidence()), [(0.2 + 0.4) / 2, (0.9 + 1) / 2])
    with_learned = PLAIN.none(evidence(learned=[0.6, 0.5]))
    np.testing.assert_allclose(with_learned, [(0.2 + 0.6 + 0.4) / 3, (0.9 + 0.5 + 1) / 3])
    assert [scores.tolist() for scores in PLAIN.box_confidences(evidence())] == [[0.5, 0.2], []]


def test_third_place():
    """none = 0.7 of its own network + 0.3 (1 - highest confidence); confidence (1 - none)^0.4."""
    images = evidence(learned=[0.6, 0.5])
    none = [0.7 * 0.6 + 0.3 * 0.5, 0.7 * 0.5 + 0.3 * 1]
    rule = rule_of_place("third", images)
    assert rule is THIRD
    np.testing.assert_allclose(rule.none(images), none)
    expected = np.array([0.5, 0.2]) * (1 - none[0]) ** 0.4
    np.testing.assert_allclose(rule.box_confidences(images)[0], expected)
    # Without such a network the study's probability stands for it.
    none = [0.7 * 0.2 + 0.3 * 0.5, 0.7 * 0.9 + 0.3 * 1]
    np.testing.assert_allclose(rule_of_place("third", evidence()).none(evidence()), none)


def test_eleventh_place():
    """none = half negative, half no box right; confidence^0.84 (1 - none)^0.16; negative = 0.7
    negative + 0.3 no box right."""
    images = evidence()
    none = [(0.2 + 0.4) / 2, (0.9 + 1) / 2]
    np.testing.assert_allclose(ELEVENTH.none(images), none)
    expected = np.array([0.5, 0.2]) ** 0.84 * (1 - none[0]) ** 0.16
    np.testing.assert_allclose(ELEVENTH.box_confidences(images)[0], expected)
    negatives = ELEVENTH.study_negatives(images)
    assert negatives["s"] == pytest.approx((0.7 * 0.2 + 0.3 * 0.4 + 0.7 * 0.9 + 0.3 * 1) / 2)
    assert rule_of_place("eleventh", images) is ELEVENTH


def test_a_power_alone_changes_no_order():
    """Why the search has an exponent only: a ranking of c^0.84 (1 - none)^0.16 is one of
    c (1 - none)^(0.16 / 0.84)."""
    rng = np.random.default_rng(0)
    confidence, none = rng.random((2, 200))
    of_both = confidence**0.84 * (1 - none) ** 0.16
    of_one = confidence * (1 - none) ** (0.16 / 0.84)
    assert np.array_equal(np.argsort(of_both), np.argsort(of_one))


def test_the_search_finds_who_is_right():
    """The network's own output knows which images are empty, the study's probability nothing, and
    every image has a false box that is as sure as the true ones."""
    rng = np.random.default_rng(1)
    count = 80
    is_empty = np.arange(count) % 2 == 0
    images = ImageEvidence(
        studies=np.array([f"s{row}" for row in range(count)]),
        negative=rng.random(count),
        learned=np.where(is_empty, 0.8, 0.3) + 0.2 * rng.random(count),
        confidences=[np.sort(rng.random(2))[::-1] for _ in range(count)],
    )
    hits = [np.array([not empty, False]) for empty in is_empty]
    truth = ImageTruth(is_empty, (~is_empty).astype(int), hits)
    rule = fit_rule(images, truth)
    assert none_precision(rule, images, truth) == 1.0 > none_precision(PLAIN, images, truth)
    assert (rule.negative, rule.learned) == (0.0, 1.0)
    assert rule.exponent == 1.0
    assert rule.share == 0.5
    assert negative_precision(rule, images, truth) > negative_precision(PLAIN, images, truth)


def test_nothing_to_search():
    """One image, nothing learned, no boxes, no positive: the plain rule."""
    images = ImageEvidence(np.array(["s"]), np.array([0.5]), np.array([NAN]), None)
    truth = ImageTruth(np.array([False]), np.array([1]), [np.zeros(0, bool)])
    rule = fit_rule(images, truth)
    assert rule.exponent == 0
    assert rule.share == 0
    assert rule.none(images).tolist() == [0.5]


def test_rows_of_evidence():
    images = evidence(learned=[0.6, 0.5])
    second = images.take(np.array([False, True]))
    assert second.negative.tolist() == [0.9]
    assert second.empty(HIGHEST).tolist() == [1]
    assert evidence(boxes=False).take(np.array([True, False])).confidences is None
    assert ImageRule(**THIRD.plain()) == THIRD
