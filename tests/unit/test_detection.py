import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr.methods.detector import records as detection
from cxr.methods.detector.records import Candidates, Params

GATE = (0.0, 0.1, 1.0)


def make(
    centre, size20, size80, score, label=None, category=(0.2, 0.3, 0.5), width=1000, height=800
):
    n = len(score)
    arrays = [np.array(a, np.float32).reshape(n, 2) for a in (centre, size20, size80)]
    return Candidates(
        "image",
        width,
        height,
        np.array(category, np.float32),
        *arrays,
        np.array(score, np.float32),
        np.array([0] * n if label is None else label, int),
    )


def random_candidates(seed, n, classes=1):
    generator = np.random.default_rng(seed)
    size = generator.uniform(5, 400, (n, 2))
    return make(
        generator.uniform(-100, 1100, (n, 2)),
        size,
        size * generator.uniform(1, 1.5, (n, 2)),
        np.sort(generator.uniform(0.01, 1, n))[::-1],
        generator.integers(classes, size=n),
    )


EMPTY = make([], [], [], [])


def test_percentile_shrink_by_hand():
    one = make([[500, 400]], [[100, 200]], [[400, 200]], [0.9])
    sizes = {-1.0: 400, -0.5: 200, 0.0: 100, 0.5: 50, 1.0: 25}  # 100 * (100 / 400)^s
    for shrink, width in sizes.items():
        expected = [[500 - width / 2, 300, 500 + width / 2, 500]]
        np.testing.assert_allclose(detection.boxes_at(one, shrink), expected, rtol=1e-6)


def test_boxes_end_at_the_edges():
    corner = make([[10, 790]], [[100, 100]], [[100, 100]], [0.9])
    np.testing.assert_allclose(detection.boxes_at(corner, 0.0), [[0, 740, 60, 800]])


def test_scale_about_the_centre():
    boxes = np.array([[100, 200, 300, 280]], float)
    np.testing.assert_allclose(detection.scale_boxes(boxes, 0.5, 1000, 800), [[150, 220, 250, 260]])
    np.testing.assert_allclose(detection.scale_boxes(boxes, 4, 1000, 800), [[0, 80, 600, 400]])


def test_floor_and_specks_outside_the_image():
    several = make(
        [[100, 100], [1099.5, 100], [300, 300], [500, 500]],
        [[200, 200]] * 4,
        [[200, 200]] * 4,
        [0.9, 0.8, 0.026, 0.024],
    )  # the second reaches half a pixel into the image
    boxes, scores, labels = detection.usable_boxes(several, Params())
    np.testing.assert_allclose(scores, [0.9, 0.026], rtol=1e-6)
    np.testing.assert_allclose(boxes, [[0, 0, 200, 200], [200, 200, 400, 400]], atol=1e-6)
    assert len(labels) == 2


def test_nms_keeps_the_better_box_within_a_class():
    boxes = np.array(
        [[0, 0, 100, 100], [0, 80, 100, 180], [0, 95, 100, 195]], float
    )  # IoU with the first 1/9, 1/39
    scores = np.array([0.9, 0.8, 0.7])
    for labels, expected in (([0, 0, 0], [0.9, 0.7]), ([0, 1, 0], [0.9, 0.8, 0.7])):
        np.testing.assert_array_equal(
            detection.nms_boxes(boxes, scores, np.array(labels))[1], expected
        )
    np.testing.assert_array_equal(
        detection.nms_boxes(boxes, scores, np.zeros(3, int), 0.02)[1], [0.9]
    )


def test_fusion_averages_by_score_and_keeps_the_best_score():
    boxes = np.array([[0, 0, 100, 100], [0, 0, 100, 200], [500, 500, 600, 600]], float)
    # Overlap 0.5 > 0.4: y2 = (0.75 * 100 + 0.25 * 200) / (0.75 + 0.25)
    fused, scores, labels = detection.fuse_boxes(
        boxes, np.array([0.75, 0.25, 0.2]), np.array([3, 3, 3]), 1000, 800
    )
    np.testing.assert_allclose(fused, [[0, 0, 100, 125], [500, 500, 600, 600]], rtol=1e-6)
    np.testing.assert_allclose(scores, [0.75, 0.2])
    np.testing.assert_array_equal(labels, [3, 3])
    apart = detection.fuse_boxes(boxes, np.array([0.75, 0.25, 0.2]), np.array([3, 4, 3]), 1000, 800)
    np.testing.assert_array_equal(apart[2], [3, 4, 3])
    assert (
        len(
            detection.fuse_boxes(
                boxes, np.array([0.75, 0.25, 0.2]), np.array([3, 3, 3]), 1000, 800, 0.6
            )[0]
        )
        == 3
    )


def test_fusion_takes_the_best_only(monkeypatch):
    monkeypatch.setattr(detection, "FUSED_AT_MOST", 2)
    boxes = np.array([[0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9]], float)
    assert (
        len(detection.fuse_boxes(boxes, np.array([0.9, 0.8, 0.7]), np.zeros(3, int), 100, 100)[0])
        == 2
    )


def test_no_boxes_overlap_after_either_merge():
    candidates = random_candidates(0, 300)
    for merge in ("nms", "wbf"):
        boxes, scores = detection.detect(candidates, Params(merge=merge, threshold=0.0), GATE)
        corner = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
        size = (np.minimum(boxes[:, None, 2:], boxes[None, :, 2:]) - corner).clip(min=0)
        inter, area = size.prod(-1), (boxes[:, 2:] - boxes[:, :2]).prod(-1)
        iou = inter / (area[:, None] + area - inter)
        assert len(boxes) > 3 and iou[~np.eye(len(boxes), dtype=bool)].max() <= 0.05 + 1e-6


@pytest.mark.parametrize(
    "gate, half, threshold, expected",
    [
        (False, False, 0.5, [4.5, 2.5, 2.0, 0.6]),
        (False, False, 2.0, [4.5, 2.5]),  # strictly above
        (False, True, 0.5, [4.5, 2.5]),  # 0.4 is below half of 0.9
        (False, True, 3.0, [4.5]),
        (False, False, 4.5, []),
        (True, False, 0.5, 5 * np.sqrt([0.9 * 0.25, 0.5 * 0.25, 0.4 * 0.25, 0.12 * 0.25])),
        (True, False, 1.6, 5 * np.sqrt([0.9 * 0.25, 0.5 * 0.25])),
        (True, True, 0.5, 5 * np.sqrt([0.9 * 0.25, 0.5 * 0.25])),
    ],
)
def test_score_rule(gate, half, threshold, expected):
    scores = np.array([0.9, 0.5, 0.4, 0.12])
    params = Params(gate=gate, half=half, threshold=threshold)
    np.testing.assert_allclose(detection.final_scores(scores, 0.25, params), expected)


def test_exactly_half_the_best_score_is_kept():
    assert (
        detection.above_half(np.array([0.8, 0.4, 0.39])) == 2
        and detection.above_half(np.zeros(0)) == 0
    )


def test_gate_is_the_weighted_sum_of_the_image_classes():
    one = make([[500, 400]], [[100, 100]], [[100, 100]], [0.5])
    boxes, scores = detection.detect(one, Params(gate=True, threshold=0.05), GATE)
    np.testing.assert_allclose(scores, [np.sqrt(0.5 * (0.1 * 0.3 + 0.5))], rtol=1e-6)
    np.testing.assert_allclose(boxes, [[450, 350, 550, 450]])
    assert len(detection.detect(one, Params(gate=True, threshold=0.05), (0, 0, 0))[0]) == 0


def test_detect_by_hand():
    three = make(
        [[200, 200], [210, 200], [700, 400]], [[100, 100]] * 3, [[100, 100]] * 3, [0.9, 0.8, 0.3]
    )
    boxes, scores, labels = detection.detect_labelled(three, Params(scale=0.8), GATE)
    np.testing.assert_allclose(boxes, [[160, 160, 240, 240], [660, 360, 740, 440]])
    np.testing.assert_allclose(scores, [0.9, 0.3], rtol=1e-6)
    many = detection.detect_labelled(
        replace(three, label=np.array([4, 7, 4])), Params(scale=0.8), GATE
    )
    np.testing.assert_array_equal(many[2], [4, 7, 4])
    np.testing.assert_allclose(many[1], [0.9, 0.8, 0.3], rtol=1e-6)


@pytest.mark.parametrize("merge", ["nms", "wbf"])
@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("half", [False, True])
def test_no_candidates_no_boxes(merge, gate, half):
    for nothing in (
        EMPTY,
        make([[-300, 5]], [[9, 9]], [[9, 9]], [0.9]),
        make([[50, 50]], [[9, 9]], [[9, 9]], [0.02]),
    ):
        boxes, scores, labels = detection.detect_labelled(
            nothing, Params(1.6, 0.875, merge, gate, half, 0.05), GATE
        )
        assert boxes.shape == (0, 4) and scores.shape == (0,) and labels.shape == (0,)


def test_unknown_merge():
    with pytest.raises(ValueError, match="nms or wbf"):
        detection.detect(EMPTY, Params(merge="mean"), GATE)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(0, 60),
    st.sampled_from(["nms", "wbf"]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([-0.5, 0.0, 2.4]),
    st.sampled_from([0.8, 1.0, 1.3]),
    st.floats(0.05, 2),
)
def test_result_lies_in_the_image_with_falling_scores_below_one(
    seed, n, merge, gate, half, shrink, scale, threshold
):
    candidates = random_candidates(seed, n, classes=3)
    params = Params(shrink, scale, merge, gate, half, threshold)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the fusion warns about boxes that are not normalised
        boxes, scores, labels = detection.detect_labelled(candidates, params, GATE)
    assert len(boxes) == len(scores) == len(labels)
    assert (
        (boxes >= 0).all()
        and (boxes <= [1000, 800, 1000, 800]).all()
        and (boxes[:, :2] < boxes[:, 2:]).all()
    )
    assert (
        (np.diff(scores) <= 0).all()
        and (5 * scores > threshold - 1e-9).all()
        and (scores <= 1).all()
    )
    assert set(labels) <= set(candidates.label)
    if half and not gate and len(scores):
        assert scores[-1] >= scores[0] / 2 - 1e-9
