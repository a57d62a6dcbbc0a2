"""Boxes: overlap, warps, clipping."""

import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cxr.geometry.boxes import (
    box_iou,
    centre_size,
    clip_boxes,
    move_edges,
    paired_iou,
    warp_boxes,
)

EIGHTHS = st.integers(0, 8000).map(lambda k: k / 8)
SIDES = st.integers(8, 4000).map(lambda k: k / 8)
BOX = st.tuples(EIGHTHS, EIGHTHS, SIDES, SIDES).map(
    lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]
)


def test_centres_and_sizes():
    centre, size = centre_size(torch.tensor([[10.0, 20, 30, 60]]))
    assert centre.tolist() == [[20, 40]]
    assert size.tolist() == [[20, 40]]


@given(st.lists(st.tuples(BOX, BOX), min_size=1, max_size=4))
def test_overlap_in_pairs_is_the_diagonal(pairs):
    boxes = torch.tensor([pair[0] for pair in pairs], dtype=torch.float64)
    others = torch.tensor([pair[1] for pair in pairs], dtype=torch.float64)
    assert torch.allclose(paired_iou(boxes, others), box_iou(boxes, others).diagonal())


@given(BOX, st.sampled_from([0.0, 0.05, 0.2]), st.integers(0, 9))
def test_edges_move_by_their_share(box, share, seed):
    boxes = np.array([box])
    moved = move_edges(boxes, share, 20_000, np.random.default_rng(seed))
    width, height = box[2] - box[0], box[3] - box[1]
    assert (np.abs(moved - boxes) <= share * np.array([width, height] * 2) + 1e-9).all()
    assert (moved != boxes).any() == (share > 0)
    inside = move_edges(boxes, share, 100, np.random.default_rng(seed))
    assert inside.min() >= 0 and inside.max() <= 100


def test_iou_by_hand():
    """Two anchors, and three boxes of each of two images, the last of which pads the others."""
    anchors = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    boxes = torch.tensor(
        [
            [[0.0, 0, 10, 10], [5, 0, 15, 10], [0, 0, 0, 0]],
            [[20, 20, 40, 30], [0, 0, 5, 10], [0, 0, 0, 0]],
        ]
    )
    expected = torch.tensor([[[1, 1 / 3, 0], [0, 0, 0]], [[0, 0.5, 0], [0.5, 0, 0]]])
    assert torch.allclose(box_iou(anchors, boxes), expected)


@given(BOX, BOX)
def test_iou_is_symmetric_and_at_most_one(a, b):
    a = torch.tensor([a], dtype=torch.float64)
    b = torch.tensor([b], dtype=torch.float64)
    value = float(box_iou(a, b))
    assert 0 <= value <= 1 + 1e-12
    assert value == pytest.approx(float(box_iou(b, a)))
    assert float(box_iou(a, a)) == 1


@given(BOX)
def test_warp_by_identity_changes_nothing(box):
    assert np.allclose(warp_boxes([box], np.array([[1.0, 0, 0], [0, 1, 0]])), [box])


def test_warp_by_a_quarter_turn():
    """x' = 100 - y, y' = x: a box of 20 x 40 becomes exactly one of 40 x 20."""
    quarter_turn = np.array([[0.0, -1, 100], [1, 0, 0]])
    assert np.allclose(warp_boxes([[10, 20, 30, 60]], quarter_turn), [[40, 10, 80, 30]])


def test_warp_by_45_degrees_is_smaller_than_the_corners():
    """A square of side 6 about the origin: its corners reach 3 sqrt 2, the eight points, such as
    (3, 1), 4 / sqrt 2."""
    matrix = cv2.getRotationMatrix2D((0, 0), 45, 1)
    reach = 4 / math.sqrt(2)
    assert reach < 3 * math.sqrt(2)
    assert np.allclose(warp_boxes([[-3, -3, 3, 3]], matrix), [[-reach, -reach, reach, reach]])


def test_warp_of_no_boxes():
    assert warp_boxes(np.zeros((0, 4)), np.eye(2, 3)).shape == (0, 4)


def test_clip():
    boxes = np.array([[-5.0, 3, 20, 40], [1, 2, 3, 4]])
    assert clip_boxes(boxes, 16, 32).tolist() == [[0, 3, 16, 32], [1, 2, 3, 4]]
