"""Anchors: their order and shapes, boxes coded against them, flips and scales."""

import math

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
from cxr.geometry.boxes import centre_size
from cxr.system.errors import InputError

EIGHTHS = st.integers(0, 8000).map(lambda k: k / 8)
SIDES = st.integers(8, 4000).map(lambda k: k / 8)
BOX = st.tuples(EIGHTHS, EIGHTHS, SIDES, SIDES).map(
    lambda b: torch.tensor([b[0], b[1], b[0] + b[2], b[1] + b[3]], dtype=torch.float64)
)


@pytest.mark.parametrize("text, expected", [("2-7", (2, 3, 4, 5, 6, 7)), ("3-5", (3, 4, 5))])
def test_levels(text, expected):
    assert parse_levels(text) == expected


@pytest.mark.parametrize("text", ["", "3", "a-b", "2-3-4", "5-3"])
def test_levels_of_another_form(text):
    with pytest.raises(InputError, match="such as 2-7"):
        parse_levels(text)


def test_number_of_anchors():
    """Cells of 512 px: 128^2 + 64^2 + 32^2 + 16^2 + 8^2 = 21,824 on levels 2 to 6, and 4^2 more on
    level 7."""
    assert len(make_anchors(512, range(2, 7))) == 9 * 21824 == 196416
    assert len(make_anchors(512, range(2, 8))) == 9 * (21824 + 16) == 196560
    assert len(make_anchors(512, range(3, 8))) == 9 * (21824 + 16 - 128**2)


def test_anchor_shapes():
    """Level 3 is built on 32 pixels; ratios are height to width; the three scales are thirds of an
    octave."""
    shapes = cell_shapes() * 32
    side = shapes.prod(1).sqrt()
    ratio = shapes[:, 1] / shapes[:, 0]
    expected_side = torch.tensor([32.0] * 3 + [40.3175] * 3 + [50.7968] * 3)
    assert torch.allclose(side, expected_side, atol=1e-3)
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
    """An anchor of 20 x 40 moved by (2, -4) and doubled in width: dx = 2/20/0.1, dy = -4/40/0.1,
    dw = log 2/0.2."""
    anchor = torch.tensor([10.0, 10, 30, 50])
    box = torch.tensor([2.0, 6, 42, 46])
    expected = torch.tensor([1.0, -1.0, math.log(2) / 0.2, 0.0])
    assert torch.allclose(encode_boxes(box, anchor), expected, atol=1e-6)


@given(BOX, BOX)
def test_decode_inverts_encode(box, anchor):
    decoded = decode_boxes(encode_boxes(box, anchor), anchor)
    _, size = centre_size(box)
    _, anchor_size = centre_size(anchor)
    if (size / anchor_size).max() < 16:
        assert torch.allclose(decoded, box, atol=1e-6)
    else:
        _, decoded_size = centre_size(decoded)
        assert (decoded_size <= 16.001 * anchor_size).all()


@pytest.mark.parametrize("delta", [1e4, -1e4])
def test_decode_of_extreme_outputs_is_finite(delta):
    anchors = make_anchors(64, [4])
    assert decode_boxes(torch.full((len(anchors), 4), delta), anchors).isfinite().all()


def test_flip_index_against_a_flipped_map():
    """What a network says of the flipped image is its maps, flipped."""
    levels = (3, 4, 5)
    generator = torch.Generator().manual_seed(0)
    maps = [torch.rand(96 // 2**v, 96 // 2**v, PER_CELL, generator=generator) for v in levels]
    unflipped = torch.cat([level_map.reshape(-1) for level_map in maps])
    flipped = torch.cat([level_map.flip(1).reshape(-1) for level_map in maps])
    assert torch.equal(flipped[flip_index(96, levels)], unflipped)


def test_flip_index_pairs_mirrored_anchors():
    anchors = make_anchors(96, (3, 4, 5))
    x1, y1, x2, y2 = anchors[flip_index(96, (3, 4, 5))].unbind(1)
    mirrored = torch.stack([96 - x2, y1, 96 - x1, y2], 1)
    assert torch.allclose(mirrored, anchors, atol=1e-4)


@pytest.mark.parametrize(
    "image_size, content, canvas, thirds",
    [(512, 645, 704, 1), (512, 406, 448, -1), (256, 256, 256, 0), (256, 512, 512, 3)],
)
def test_scale_index_finds_the_same_place_and_size(image_size, content, canvas, thirds):
    levels = (3, 4, 5, 6)
    index = scale_index(image_size, content, canvas, levels, thirds)
    centre, size = centre_size(make_anchors(image_size, levels))
    there_centre, there_size = centre_size(make_anchors(canvas, levels)[index])

    # The smallest and largest anchors have no like.
    grown = size * 2 ** (thirds / 3)
    grown_side = grown.prod(1).sqrt()
    has_like = (grown_side > 31.9) & (grown_side < 32 * 8 * 2 ** (2 / 3) + 1)
    assert has_like.float().mean() > 0.5
    assert torch.allclose(there_size[has_like], grown[has_like], rtol=1e-4)

    there_ratio = there_size[:, 1] / there_size[:, 0]
    assert torch.allclose(there_ratio, size[:, 1] / size[:, 0], rtol=1e-4)
    stride = there_size.prod(1).sqrt() / 4  # at least that of the level
    away = (there_centre - centre * content / image_size).abs()
    assert (away <= stride[:, None] / 2 + 1e-3).all()


def test_scale_index_of_the_same_size_changes_nothing():
    anchors = make_anchors(256, (3, 4, 5, 6))
    index = scale_index(256, 256, 256, (3, 4, 5, 6), 0)
    assert torch.equal(index, torch.arange(len(anchors)))
