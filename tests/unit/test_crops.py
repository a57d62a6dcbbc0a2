"""Crops: picture, mask and boxes stay together; slips of a published solution, each as a test."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr.geometry.crops import crop_around, crop_at, cut, fill_boxes, shift_boxes

WIDTH = 60
HEIGHT = 40


@st.composite
def spans(draw, numbers):
    """Two numbers, the lower one first."""
    low, high = sorted((draw(numbers), draw(numbers)))
    return low, high


@st.composite
def boxes_and_crop(draw):
    """Up to three boxes (n, 4) of a picture of WIDTH x HEIGHT, and a crop of it."""
    boxes = []
    for _ in range(draw(st.integers(0, 3))):
        x1, x2 = draw(spans(st.floats(0, WIDTH)))
        y1, y2 = draw(spans(st.floats(0, HEIGHT)))
        boxes.append((x1, y1, x2, y2))
    x1, x2 = draw(spans(st.integers(0, WIDTH - 1)))
    y1, y2 = draw(spans(st.integers(0, HEIGHT - 1)))
    return np.array(boxes).reshape(-1, 4), (x1, y1, x2 + 1, y2 + 1)


@given(boxes_and_crop())
def test_mask_of_shifted_boxes_is_the_crop_of_the_mask(case):
    """Image crop, mask crop and box shift come from one box: what is drawn before or after cropping
    is the same."""
    boxes, crop = case
    x1, y1, x2, y2 = crop
    shifted, kept = shift_boxes(boxes, crop)
    expected = cut(fill_boxes(boxes, WIDTH, HEIGHT), crop)
    np.testing.assert_array_equal(fill_boxes(shifted, x2 - x1, y2 - y1), expected)
    assert len(shifted) == kept.sum()
    assert (shifted[:, 2:] > shifted[:, :2]).all()


@given(boxes_and_crop())
def test_shift_and_back(case):
    boxes, (x1, y1, x2, y2) = case
    shifted, kept = shift_boxes(boxes, (x1, y1, x2, y2))
    back = shifted + np.array([x1, y1, x1, y1])
    expected = np.clip(boxes[kept], [x1, y1, x1, y1], [x2, y2, x2, y2])
    np.testing.assert_allclose(back, expected, atol=1e-9)


def test_margin_is_two_percent_and_ten_pixels_half_on_each_side():
    assert crop_around((100, 200, 300, 600), 1000, 1000) == ((93, 191, 307, 609), False)


def test_without_a_margin_a_crop_is_rounded_outwards():
    assert crop_around((100, 200, 300, 600), 1000, 1000, 0, 0) == ((100, 200, 300, 600), False)
    assert crop_around((10.5, 10.5, 20.2, 20.2), 100, 100, 0, 0) == ((10, 10, 21, 21), False)


def test_edges_outside_are_cut_and_the_others_stay():
    """17th place: the width was added after clamping the left edge, so such boxes moved instead of
    being cut."""
    assert crop_around((-50, -20, 30, 40), 100, 90, 0, 0).crop == (0, 0, 30, 40)
    assert crop_around((70, 60, 150, 140), 100, 90, 0, 0).crop == (70, 60, 100, 90)


def test_boxes_are_cut_at_the_width_of_the_crop():
    """17th place: the edges were compared with the crop's place in the picture instead of its own
    width."""
    shifted, kept = shift_boxes([[350, 50, 500, 90], [10, 10, 20, 20]], (300, 40, 400, 100))
    np.testing.assert_array_equal(shifted, [[50, 10, 100, 50]])
    np.testing.assert_array_equal(kept, [True, False])


def test_mask_lies_where_the_picture_shows_the_box():
    """17th place: mask from the raw lung box, picture from the box with its margin, so they were
    apart by some pixels."""
    picture = np.zeros((400, 500), np.uint8)
    picture[120:200, 150:260] = 255
    crop, _ = crop_around((100, 60, 400, 350), 500, 400)
    shifted, _ = shift_boxes([[150, 120, 260, 200]], crop)
    bright = cut(picture, crop) > 0
    height, width = bright.shape
    np.testing.assert_array_equal(fill_boxes(shifted, width, height), bright)


@pytest.mark.parametrize(
    "box",
    [None, (np.nan, 0, 5, 5), (5, 5, 5, 9), (9, 5, 5, 9), (200, 10, 300, 20), (-30, 0, -5, 9)],
)
def test_nothing_found_is_the_whole_picture(box):
    assert crop_around(box, 100, 90) == ((0, 0, 100, 90), True)


@pytest.mark.parametrize(
    "crop", [(0, 0, 0, 5), (-1, 0, 5, 5), (0, 0, 11, 5), (0, 3, 5, 2), (0, 0, 5, 9)]
)
def test_crop_must_lie_in_the_picture(crop):
    with pytest.raises(ValueError, match="leaves the picture of 10 x 8"):
        cut(np.zeros((8, 10)), crop)


def test_crop_of_a_picture_stored_smaller():
    assert crop_at((300, 500, 1500, 1500), 3000, 2000, (512, 256)) == (51, 64, 256, 192)
    assert crop_at((0, 0, 3000, 2000), 3000, 2000, 512) == (0, 0, 512, 512)
    assert crop_at((300, 500, 1500, 1500), 3000, 2000, 512) == (51, 128, 256, 384)


def test_a_crop_of_two_pixels_is_not_empty_where_it_is_smaller_than_one():
    assert crop_at((2998, 1998, 3000, 2000), 3000, 2000, 64) == (63, 63, 64, 64)


@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(1, 700))
def test_whole_picture_stays_whole(width, height, side):
    assert crop_at((0, 0, width, height), width, height, side) == (0, 0, side, side)


def test_masks_are_binary_unions():
    """Two boxes of a picture of 60 x 60, drawn at 448 x 448."""
    boxes = np.array([[10, 10, 30.4, 30.4], [20, 20, 50, 40]])
    mask = fill_boxes(boxes * 448 / 60, 448, 448)
    assert mask.dtype == np.uint8
    assert set(np.unique(mask)) == {0, 1}
    union = 20.4 * 20.4 + 30 * 20 - 10.4 * 10.4
    assert mask.mean() == pytest.approx(union / 3600, rel=0.01)


def test_the_mask_of_no_boxes_is_empty():
    assert not fill_boxes(np.zeros((0, 4)), 448, 448).any()
