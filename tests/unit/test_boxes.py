"""Anchors, coding, flips and scales of anchors, warps of boxes."""

import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cxr.geometry.anchors import (
    PER_CELL,
    cell_shapes,
    decode_boxes,
    encode_boxes,
    flip_index,
    make_anchors,
    parse_levels,
    scale_index,
)
from cxr.geometry.boxes import box_iou, centre_size, clip_boxes, warp_boxes
from cxr.system.disk import InputError

EIGHTS = st.integers(0, 8000).map(lambda k: k / 8)
BOX = st.tuples(EIGHTS, EIGHTS, st.integers(8, 4000), st.integers(8, 4000)).map(
    lambda b: (b[0], b[1], b[0] + b[2] / 8, b[1] + b[3] / 8)
)


@pytest.mark.parametrize("text, expected", [("2-7", (2, 3, 4, 5, 6, 7)), ("3-5", (3, 4, 5))])
def test_levels(text, expected):
    assert parse_levels(text) == expected


@pytest.mark.parametrize("text", ["", "3", "a-b", "2-3-4"])
def test_levels_of_another_form(text):
    with pytest.raises(InputError, match="such as 2-7"):
        parse_levels(text)


def test_number_of_anchors():
    """Cells of 512 px: 128^2 + 64^2 + 32^2 + 16^2 + 8^2 = 21,824 on levels 2 to 6, and 4^2 more on level 7."""
    assert len(make_anchors(512, range(2, 7))) == 9 * 21824 == 196416
    assert len(make_anchors(512, range(2, 8))) == 9 * (21824 + 16) == 196560
    assert len(make_anchors(512, range(3, 8))) == 9 * (21824 + 16 - 128**2)


def test_anchor_shapes():
    """Level 3 is built on 32 pixels; ratios are height to width; the three scales are thirds of an octave."""
    shapes = cell_shapes() * 32
    area, ratio = shapes.prod(1), shapes[:, 1] / shapes[:, 0]
    assert torch.allclose(
        area.sqrt(), torch.tensor([32.0] * 3 + [40.3175] * 3 + [50.7968] * 3), atol=1e-3
    )
    assert torch.allclose(ratio, torch.tensor([0.5, 1.0, 2.0] * 3))


def test_order_of_anchors():
    """By level, then row, then column, then shape; centres in the middle of the cells."""
    anchors = make_anchors(64, [4, 5])
    assert len(anchors) == 9 * (16 + 4)
    centres, sizes = centre_size(anchors)
    expected = torch.tensor([[8.0, 8], [24, 8], [8, 24], [16, 16], [48, 48]])
    assert torch.allclose(centres[[0, 9, 9 * 4, 9 * 16, -1]], expected)
    assert torch.allclose(sizes[1], torch.tensor([64.0, 64.0]))
    assert torch.allclose(sizes[9 * 16 + 1], torch.tensor([128.0, 128.0]))
    assert torch.allclose(sizes[:9], sizes[9:18])
    assert torch.allclose(anchors[1], torch.tensor([8 - 32, 8 - 32, 8 + 32, 8 + 32.0]))


def test_code_of_a_known_box():
    """An anchor of 20 x 40 moved by (2, -4) and doubled in width: dx = 2/20/0.1, dy = -4/40/0.1, dw = log 2/0.2."""
    anchor, box = torch.tensor([10.0, 10, 30, 50]), torch.tensor([2.0, 6, 42, 46])
    assert torch.allclose(
        encode_boxes(box, anchor), torch.tensor([1.0, -1.0, math.log(2) / 0.2, 0.0]), atol=1e-6
    )


@given(BOX, BOX)
def test_decode_inverts_encode(box, anchor):
    box, anchor = torch.tensor(box, dtype=torch.float64), torch.tensor(anchor, dtype=torch.float64)
    growth = ((box[2:] - box[:2]) / (anchor[2:] - anchor[:2])).max()
    if growth < 16:
        assert torch.allclose(decode_boxes(encode_boxes(box, anchor), anchor), box, atol=1e-6)
    else:
        assert (
            (decode_boxes(encode_boxes(box, anchor), anchor)[2:] - decode_boxes(encode_boxes(box, anchor), anchor)[:2])
            <= 16.001 * (anchor[2:] - anchor[:2])
        ).all()


def test_decode_of_extreme_outputs_is_finite():
    anchors = make_anchors(64, [4])
    assert decode_boxes(torch.full((len(anchors), 4), 1e4), anchors).isfinite().all()
    assert decode_boxes(torch.full((len(anchors), 4), -1e4), anchors).isfinite().all()


def test_iou_by_hand():
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
def test_iou_is_symmetric_and_below_one(a, b):
    a, b = torch.tensor([a], dtype=torch.float64), torch.tensor([b], dtype=torch.float64)
    value = float(box_iou(a, b)[0, 0])
    assert (
        0 <= value <= 1 + 1e-12
        and value == pytest.approx(float(box_iou(b, a)[0, 0]))
        and float(box_iou(a, a)) == 1
    )


def test_flip_index_against_a_flipped_map():
    image_size, levels = 96, (3, 4, 5)
    generator = torch.Generator().manual_seed(0)
    maps = [torch.rand(96 // 2**v, 96 // 2**v, PER_CELL, generator=generator) for v in levels]
    seen = torch.cat(
        [m.flip(1).reshape(-1) for m in maps]
    )  # what a network says of the flipped image
    assert torch.equal(
        seen[flip_index(image_size, levels)], torch.cat([m.reshape(-1) for m in maps])
    )


def test_flip_index_pairs_mirrored_anchors():
    anchors = make_anchors(96, (3, 4, 5))
    mirrored = anchors[flip_index(96, (3, 4, 5))] * torch.tensor([-1.0, 1, -1, 1]) + torch.tensor(
        [96.0, 0, 96, 0]
    )
    assert torch.allclose(mirrored[:, [2, 1, 0, 3]], anchors, atol=1e-4)


@pytest.mark.parametrize(
    "image_size, larger, thirds", [(512, 640, 1), (512, 384, -1), (256, 256, 0), (256, 512, 3)]
)
def test_scale_index_finds_the_same_place_and_size(image_size, larger, thirds):
    levels = (3, 4, 5, 6)
    anchors, target = make_anchors(image_size, levels), make_anchors(larger, levels)
    index = scale_index(image_size, larger, levels, thirds)
    (centre, size), (found_centre, found_size) = centre_size(anchors), centre_size(target[index])
    grown = size * 2 ** (thirds / 3)
    sides = grown.prod(1).sqrt()
    inside = (sides > 31.9) & (
        sides < 32 * 8 * 2 ** (2 / 3) + 1
    )  # the smallest and largest anchors have no like
    assert 0.5 < inside.float().mean() and (thirds != 0 or inside.all())
    assert torch.allclose(found_size[inside], grown[inside], rtol=1e-4)
    assert torch.allclose(found_size[:, 1] / found_size[:, 0], size[:, 1] / size[:, 0], rtol=1e-4)
    stride = found_size.prod(1).sqrt() / 4  # at least the stride of the level it was found on
    assert ((found_centre - centre * larger / image_size).abs() <= stride[:, None] / 2 + 1e-3).all()
    if thirds == 0:
        assert torch.equal(index, torch.arange(len(anchors)))


@given(BOX)
def test_warp_by_identity_changes_nothing(box):
    assert np.allclose(warp_boxes([box], np.array([[1.0, 0, 0], [0, 1, 0]])), [box])


def test_warp_by_a_quarter_turn():
    """x' = 100 - y, y' = x: a box of 20 x 40 becomes exactly one of 40 x 20."""
    assert np.allclose(
        warp_boxes([[10, 20, 30, 60]], np.array([[0.0, -1, 100], [1, 0, 0]])), [[40, 10, 80, 30]]
    )


def test_warp_by_45_degrees_is_smaller_than_the_corners():
    """A square of side 6 about the origin: its corners reach 3 sqrt 2, the eight points, such as (3, 1), 4 / sqrt 2."""
    matrix = cv2.getRotationMatrix2D((0, 0), 45, 1)
    reach = 4 / math.sqrt(2)
    assert reach < 3 * math.sqrt(2)
    assert np.allclose(warp_boxes([[-3, -3, 3, 3]], matrix), [[-reach, -reach, reach, reach]])


def test_warp_of_no_boxes():
    assert warp_boxes(np.zeros((0, 4)), np.eye(2, 3)).shape == (0, 4)


def test_clip():
    assert clip_boxes(np.array([[-5.0, 3, 20, 40], [1, 2, 3, 4]]), 16, 32).tolist() == [
        [0, 3, 16, 32],
        [1, 2, 3, 4],
    ]
