"""Anchors of an image against plain Python, and the thresholds by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr.geometry.anchors import encode_boxes, make_anchors
from cxr.geometry.boxes import box_iou
from cxr.methods.detector.matching import Matcher

ANCHORS = make_anchors(128, [3, 4, 5])
MATCHER = Matcher(ANCHORS)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 5))
def test_the_same_as_all_anchors_against_all_boxes(seed, count):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(-20, 110, (count, 2))
    size = np.exp(rng.uniform(np.log(3), np.log(120), (count, 2)))
    boxes = torch.tensor(np.concatenate([corner, corner + size], 1)).float()
    labels = torch.arange(count)

    overlap = box_iou(ANCHORS, boxes) if count else torch.zeros(len(ANCHORS), 1)
    best, owner = overlap.max(1)
    positive = (best >= 0.5).nonzero()[:, 0]
    ignored = ((best >= 0.4) & (best < 0.5)).nonzero()[:, 0]
    target = MATCHER(boxes, labels)
    assert target["positive"].tolist() == positive.tolist()
    assert target["ignored"].tolist() == ignored.tolist()
    assert target["positive_label"].tolist() == labels[owner[positive]].tolist()
    if count:
        goal = encode_boxes(boxes[owner[positive]], ANCHORS[positive])
        assert torch.allclose(target["goal"], goal)


def test_no_boxes():
    target = MATCHER(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    assert {name: tuple(tensor.shape) for name, tensor in target.items()} == {
        "positive": (0,),
        "goal": (0, 4),
        "positive_label": (0,),
        "ignored": (0,),
    }


@pytest.mark.parametrize(
    "height, positive, ignored",
    [(10, 1, 0), (5, 1, 0), (4.99, 0, 1), (4.5, 0, 1), (4, 0, 1), (3.99, 0, 0)],
)
def test_thresholds_by_hand(height, positive, ignored):
    """The IoU of a 10 x 10 anchor with a box inside it, 10 wide, is a tenth of the height."""
    matcher = Matcher(torch.tensor([[0.0, 0, 10, 10]]))
    target = matcher(torch.tensor([[0.0, 0, 10, height]]), torch.tensor([0]))
    assert len(target["positive"]) == positive
    assert len(target["ignored"]) == ignored


def test_the_box_of_largest_overlap_owns_the_anchor():
    boxes = torch.tensor([[0.0, 0, 10, 6], [0, 0, 10, 9], [0, 0, 10, 7]])
    matcher = Matcher(torch.tensor([[0.0, 0, 10, 10]]))
    target = matcher(boxes, torch.tensor([4, 5, 6]))
    assert target["positive_label"].tolist() == [5]
    goal = [0, -0.5, 0, np.log(0.9) / 0.2]
    assert target["goal"][0].tolist() == pytest.approx(goal, abs=1e-5)
