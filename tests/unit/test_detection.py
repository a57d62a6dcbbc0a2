"""From candidates to final boxes: sizes, merges and the score rule, by hand."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr.geometry.detections import Detections
from cxr.methods.detector import records
from cxr.methods.detector.records import (
    Candidates,
    Params,
    boxes_at,
    count_above_half,
    detect,
    final_scores,
    fuse_boxes,
    scale_boxes,
    suppress_overlaps,
    usable_detections,
)
from cxr.system.errors import InputError

GATE_WEIGHTS = (0.0, 0.1, 1.0)


def make(centre, size20, size80, score, label=None):
    """Candidates in an image of 1000 x 800 pixels."""
    count = len(score)
    return Candidates(
        image_id="image",
        width=1000,
        height=800,
        category=np.array([0.2, 0.3, 0.5], np.float32),
        centre=np.array(centre, np.float32).reshape(count, 2),
        size20=np.array(size20, np.float32).reshape(count, 2),
        size80=np.array(size80, np.float32).reshape(count, 2),
        score=np.array(score, np.float32),
        label=np.array([0] * count if label is None else label, int),
    )


def random_candidates(seed, count, classes=1):
    generator = np.random.default_rng(seed)
    size = generator.uniform(5, 400, (count, 2))
    return make(
        centre=generator.uniform(-100, 1100, (count, 2)),
        size20=size,
        size80=size * generator.uniform(1, 1.5, (count, 2)),
        score=np.sort(generator.uniform(0.01, 1, count))[::-1],
        label=generator.integers(classes, size=count),
    )


def squares(centres, side, scores):
    """Candidates that are squares."""
    sizes = [[side, side]] * len(scores)
    return make(centres, sizes, sizes, scores)


def make_detections(boxes, scores, labels):
    return Detections(np.array(boxes, float), np.array(scores, float), np.array(labels, int))


EMPTY = make([], [], [], [])


def test_percentile_shrink_by_hand():
    one = make([[500, 400]], [[100, 200]], [[400, 200]], [0.9])
    sizes = {-1.0: 400, -0.5: 200, 0.0: 100, 0.5: 50, 1.0: 25}  # 100 * (100 / 400)^s
    for shrink, width in sizes.items():
        expected = [[500 - width / 2, 300, 500 + width / 2, 500]]
        np.testing.assert_allclose(boxes_at(one, shrink), expected, rtol=1e-6)


def test_boxes_end_at_the_edges():
    corner = squares([[10, 790]], 100, [0.9])
    np.testing.assert_allclose(boxes_at(corner, 0.0), [[0, 740, 60, 800]])


def test_scale_about_the_centre():
    boxes = np.array([[100, 200, 300, 280]], float)
    np.testing.assert_allclose(scale_boxes(boxes, 0.5, 1000, 800), [[150, 220, 250, 260]])
    np.testing.assert_allclose(scale_boxes(boxes, 4, 1000, 800), [[0, 80, 600, 400]])


def test_floor_and_specks_outside_the_image():
    """The second reaches half a pixel into the image, the last is below the floor."""
    centres = [[100, 100], [1099.5, 100], [300, 300], [500, 500]]
    several = squares(centres, 200, [0.9, 0.8, 0.026, 0.024])
    usable = usable_detections(several, Params())
    np.testing.assert_allclose(usable.scores, [0.9, 0.026], rtol=1e-6)
    expected = [[0, 0, 200, 200], [200, 200, 400, 400]]
    np.testing.assert_allclose(usable.boxes, expected, atol=1e-6)
    assert len(usable.labels) == 2


def test_suppression_keeps_the_better_box_within_a_class():
    # IoU with the first: 1/9, 1/39.
    boxes = [[0, 0, 100, 100], [0, 80, 100, 180], [0, 95, 100, 195]]
    scores = [0.9, 0.8, 0.7]
    one_class = make_detections(boxes, scores, [0, 0, 0])
    two_classes = make_detections(boxes, scores, [0, 1, 0])
    np.testing.assert_array_equal(suppress_overlaps(one_class).scores, [0.9, 0.7])
    np.testing.assert_array_equal(suppress_overlaps(two_classes).scores, [0.9, 0.8, 0.7])
    np.testing.assert_array_equal(suppress_overlaps(one_class, 0.02).scores, [0.9])


def test_fusion_averages_by_score_and_keeps_the_best_score():
    boxes = [[0, 0, 100, 100], [0, 0, 100, 200], [500, 500, 600, 600]]
    scores = [0.75, 0.25, 0.2]
    same_class = make_detections(boxes, scores, [3, 3, 3])
    # Overlap 0.5 > 0.4: y2 = (0.75 * 100 + 0.25 * 200) / (0.75 + 0.25)
    fused = fuse_boxes(same_class, 1000, 800)
    expected = [[0, 0, 100, 125], [500, 500, 600, 600]]
    np.testing.assert_allclose(fused.boxes, expected, rtol=1e-6)
    np.testing.assert_allclose(fused.scores, [0.75, 0.2])
    np.testing.assert_array_equal(fused.labels, [3, 3])

    two_classes = make_detections(boxes, scores, [3, 4, 3])
    np.testing.assert_array_equal(fuse_boxes(two_classes, 1000, 800).labels, [3, 4, 3])
    assert len(fuse_boxes(same_class, 1000, 800, 0.6)) == 3


def test_fusion_takes_the_best_only(monkeypatch):
    monkeypatch.setattr(records, "FUSED_AT_MOST", 2)
    boxes = [[0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9]]
    detections = make_detections(boxes, [0.9, 0.8, 0.7], [0, 0, 0])
    assert len(fuse_boxes(detections, 100, 100)) == 2


@pytest.mark.parametrize("merge", ["nms", "wbf"])
def test_no_boxes_overlap_after_either_merge(merge):
    params = Params(merge=merge, threshold=0.0)
    boxes = detect(random_candidates(0, 300), params, GATE_WEIGHTS).boxes
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    intersection = (high - low).clip(min=0).prod(-1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    iou = intersection / (area[:, None] + area - intersection)
    assert len(boxes) > 3
    assert iou[~np.eye(len(boxes), dtype=bool)].max() <= 0.05 + 1e-6


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
    np.testing.assert_allclose(final_scores(scores, 0.25, params), expected)


def test_exactly_half_the_best_score_is_kept():
    assert count_above_half(np.array([0.8, 0.4, 0.39])) == 2
    assert count_above_half(np.zeros(0)) == 0


def test_gate_is_the_weighted_sum_of_the_image_classes():
    one = squares([[500, 400]], 100, [0.5])
    detections = detect(one, Params(gate=True, threshold=0.05), GATE_WEIGHTS)
    np.testing.assert_allclose(detections.scores, [np.sqrt(0.5 * (0.1 * 0.3 + 0.5))], rtol=1e-6)
    np.testing.assert_allclose(detections.boxes, [[450, 350, 550, 450]])
    assert len(detect(one, Params(gate=True, threshold=0.05), (0, 0, 0))) == 0


def test_detect_by_hand():
    three = squares([[200, 200], [210, 200], [700, 400]], 100, [0.9, 0.8, 0.3])
    detections = detect(three, Params(scale=0.8), GATE_WEIGHTS)
    expected = [[160, 160, 240, 240], [660, 360, 740, 440]]
    np.testing.assert_allclose(detections.boxes, expected)
    np.testing.assert_allclose(detections.scores, [0.9, 0.3], rtol=1e-6)

    two_classes = replace(three, label=np.array([4, 7, 4]))
    detections = detect(two_classes, Params(scale=0.8), GATE_WEIGHTS)
    np.testing.assert_array_equal(detections.labels, [4, 7, 4])
    np.testing.assert_allclose(detections.scores, [0.9, 0.8, 0.3], rtol=1e-6)


@pytest.mark.parametrize("merge", ["nms", "wbf"])
@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(
    "nothing", [EMPTY, squares([[-300, 5]], 9, [0.9]), squares([[50, 50]], 9, [0.02])]
)
def test_no_candidates_no_boxes(merge, gate, half, nothing):
    params = Params(1.6, 0.875, merge, gate, half, 0.05)
    detections = detect(nothing, params, GATE_WEIGHTS)
    assert detections.boxes.shape == (0, 4)
    assert detections.scores.shape == (0,)
    assert detections.labels.shape == (0,)


def test_unknown_merge():
    with pytest.raises(ValueError, match="nms or wbf"):
        detect(EMPTY, Params(merge="mean"), GATE_WEIGHTS)


def test_columns_and_rows():
    written = [random_candidates(0, 3), random_candidates(1, 0), random_candidates(2, 5)]
    read = list(Candidates.rows(Candidates.columns(written)))
    assert [len(each.score) for each in read] == [3, 0, 5]
    for before, after in zip(written, read, strict=True):
        assert (after.image_id, after.width, after.height) == ("image", 1000, 800)
        for name in ("category", "centre", "size20", "size80", "score", "label"):
            np.testing.assert_array_equal(getattr(before, name), getattr(after, name))


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
def test_result_lies_in_the_image_with_descending_scores_below_one(
    seed, count, merge, gate, half, shrink, scale, threshold
):
    candidates = random_candidates(seed, count, classes=3)
    params = Params(shrink, scale, merge, gate, half, threshold)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the fusion warns about boxes that are not normalised
        detections = detect(candidates, params, GATE_WEIGHTS)
    boxes = detections.boxes
    scores = detections.scores
    assert len(boxes) == len(scores) == len(detections.labels)
    assert (boxes >= 0).all()
    assert (boxes <= [1000, 800, 1000, 800]).all()
    assert (boxes[:, :2] < boxes[:, 2:]).all()
    assert (np.diff(scores) <= 0).all()
    assert (5 * scores > threshold - 1e-9).all()
    assert (scores <= 1).all()
    assert set(detections.labels) <= set(candidates.label)
    if half and not gate and len(scores):
        assert scores[-1] >= scores[0] / 2 - 1e-9


def voted(scores, votes, category=None):
    """Squares side by side with shares of votes; category: what a run that gates says."""
    centres = [[100 + 200 * i, 400] for i in range(len(scores))]
    several = squares(centres, 100, scores)
    gate_category = None if category is None else np.array(category)
    return replace(several, votes=np.array(votes, np.float32), gate_category=gate_category)


def test_boxes_that_too_few_vote_for():
    """Two of three networks and views are enough for 0.6, not for 0.7."""
    several = voted([0.9, 0.8, 0.7], [1 / 3, 2 / 3, 1])
    expected = {0.0: [0.9, 0.8, 0.7], 1 / 3: [0.9, 0.8, 0.7], 0.6: [0.8, 0.7], 0.7: [0.7], 1: [0.7]}
    for share, scores in expected.items():
        params = Params(votes=share, threshold=0.05)
        found = detect(several, params, GATE_WEIGHTS)
        np.testing.assert_allclose(found.scores, scores, rtol=1e-6)


def test_lone_boxes_need_a_higher_score():
    """Half of the networks or fewer: 0.9 / 3 = 0.3, which no longer passes 5 * 0.35."""
    several = voted([0.9, 0.6, 0.5], [0.5, 0.75, 1])
    found = detect(several, Params(lone=3.0, threshold=1.25), GATE_WEIGHTS)
    np.testing.assert_allclose(found.scores, [0.6, 0.5, 0.3], rtol=1e-6)
    np.testing.assert_allclose(found.boxes[2], [50, 350, 150, 450])
    found = detect(several, Params(lone=3.0, threshold=1.75), GATE_WEIGHTS)
    np.testing.assert_allclose(found.scores, [0.6, 0.5], rtol=1e-6)
    found = detect(several, Params(lone=1.0, threshold=1.75), GATE_WEIGHTS)
    assert len(found) == 3


def test_a_lone_box_suppresses_none_that_others_confirm():
    several = replace(squares([[300, 300], [310, 300]], 100, [0.9, 0.5]), votes=np.array([0.25, 1]))
    assert detect(several, Params(), GATE_WEIGHTS).boxes[0, 0] == 250
    assert detect(several, Params(lone=2.0), GATE_WEIGHTS).boxes[0, 0] == 260


def test_records_without_votes_count_as_agreed():
    several = squares([[300, 300]], 100, [0.9])
    assert len(detect(several, Params(votes=1.0, lone=10.0), GATE_WEIGHTS)) == 1


def test_the_gate_by_a_run():
    """Own: 0.5 + 0.03 = 0.53; the run's 0.2 + 0.05 = 0.25; both 0.1325; 5 * sqrt(0.8 * that)."""
    one = voted([0.8], [1], category=[0.3, 0.5, 0.2])
    gates = {"own": 0.53, "run": 0.25, "both": 0.1325}
    for gate_by, gate in gates.items():
        params = Params(gate=True, gate_by=gate_by, threshold=0.05)
        score = detect(one, params, GATE_WEIGHTS).scores[0]
        assert score == pytest.approx(np.sqrt(0.8 * gate), rel=1e-6)
    with pytest.raises(InputError, match="fitted with --gate"):
        detect(voted([0.8], [1]), Params(gate=True, gate_by="run"), GATE_WEIGHTS)


def test_params_say_only_what_is_used():
    """So params.json is what it was where nobody asked for votes, lone boxes or a run."""
    assert not {"votes", "lone", "gate_by", "gate_run"} & Params(gate_run="c").record().keys()
    used = Params(gate=True, gate_by="both", gate_run="c", votes=0.5).record()
    assert (used["gate_by"], used["gate_run"], used["votes"]) == ("both", "c", 0.5)
    assert Params(**used) == Params(gate=True, gate_by="both", gate_run="c", votes=0.5)
