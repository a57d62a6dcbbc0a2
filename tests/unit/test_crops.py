"""Crops: picture, mask and boxes stay together; the slips of a published solution, each as a test."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr.geometry.crops import crop_around, crop_at, cut, fill_boxes, shift_boxes

WIDTH, HEIGHT = 60, 40


@st.composite
def boxes_and_crop(draw):
    def span(length, numbers):
        low, high = sorted((draw(numbers(0, length)), draw(numbers(0, length))))
        return low, high

    def whole(low, high):
        return st.integers(low, high)

    def real(low, high):
        return st.floats(low, high)

    corners = [(span(WIDTH, real), span(HEIGHT, real)) for _ in range(draw(st.integers(0, 3)))]
    boxes = np.array([[x1, y1, x2, y2] for (x1, x2), (y1, y2) in corners]).reshape(-1, 4)
    (x1, x2), (y1, y2) = span(WIDTH - 1, whole), span(HEIGHT - 1, whole)
    return boxes, (x1, y1, x2 + 1, y2 + 1)


@given(boxes_and_crop())
def test_mask_of_shifted_boxes_is_the_crop_of_the_mask(case):
    """Image crop, mask crop and box shift come from one box: what is drawn before or after cropping is the same."""
    boxes, crop = case
    width, height = crop[2] - crop[0], crop[3] - crop[1]
    shifted, kept = shift_boxes(boxes, crop)
    expected = cut(fill_boxes(boxes, WIDTH, HEIGHT), crop)
    np.testing.assert_array_equal(fill_boxes(shifted, width, height), expected)
    assert len(shifted) == kept.sum() and (shifted[:, 2:] > shifted[:, :2]).all()


@given(boxes_and_crop())
def test_shift_and_back(case):
    boxes, (x1, y1, x2, y2) = case
    shifted, kept = shift_boxes(boxes, (x1, y1, x2, y2))
    back = shifted + [x1, y1, x1, y1]
    np.testing.assert_allclose(
        back, np.clip(boxes[kept], [x1, y1, x1, y1], [x2, y2, x2, y2]), atol=1e-9
    )


def test_margin_is_two_percent_and_ten_pixels_half_on_each_side():
    assert crop_around((100, 200, 300, 600), 1000, 1000) == ((93, 191, 307, 609), False)
    assert crop_around((100, 200, 300, 600), 1000, 1000, 0, 0) == ((100, 200, 300, 600), False)
    assert crop_around((10.5, 10.5, 20.2, 20.2), 100, 100, 0, 0) == ((10, 10, 21, 21), False)


def test_edges_outside_are_cut_and_the_others_stay():
    """17th place: the width was added after clamping the left edge, so such boxes moved instead of being cut."""
    assert crop_around((-50, -20, 30, 40), 100, 90, 0, 0)[0] == (0, 0, 30, 40)
    assert crop_around((70, 60, 150, 140), 100, 90, 0, 0)[0] == (70, 60, 100, 90)


def test_boxes_are_cut_at_the_width_of_the_crop():
    """17th place: the edges were compared with the crop's place in the picture instead of its own width."""
    shifted, kept = shift_boxes([[350, 50, 500, 90], [10, 10, 20, 20]], (300, 40, 400, 100))
    np.testing.assert_array_equal(shifted, [[50, 10, 100, 50]])
    np.testing.assert_array_equal(kept, [True, False])


def test_mask_lies_where_the_picture_shows_the_box():
    """17th place: mask from the raw lung box, picture from the box with its margin, so they were apart by some pixels."""
    picture = np.zeros((400, 500), np.uint8)
    picture[120:200, 150:260] = 255
    crop, _ = crop_around((100, 60, 400, 350), 500, 400)
    shifted, _ = shift_boxes([[150, 120, 260, 200]], crop)
    seen = cut(picture, crop) > 0
    np.testing.assert_array_equal(fill_boxes(shifted, seen.shape[1], seen.shape[0]), seen)


@pytest.mark.parametrize(
    "found",
    [None, (np.nan, 0, 5, 5), (5, 5, 5, 9), (9, 5, 5, 9), (200, 10, 300, 20), (-30, 0, -5, 9)],
)
def test_nothing_found_is_the_whole_picture(found):
    assert crop_around(found, 100, 90) == ((0, 0, 100, 90), True)


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
    assert crop_at((2998, 1998, 3000, 2000), 3000, 2000, 64) == (63, 63, 64, 64)  # never empty


@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(1, 700))
def test_whole_picture_stays_whole(width, height, side):
    assert crop_at((0, 0, width, height), width, height, side) == (0, 0, side, side)


def test_masks_are_binary_unions():
    mask = fill_boxes(np.array([[10, 10, 30.4, 30.4], [20, 20, 50, 40]]) * 448 / 60, 448, 448)
    assert mask.dtype == np.uint8 and set(np.unique(mask)) == {0, 1}
    union = 20.4 * 20.4 + 30 * 20 - 10.4 * 10.4
    assert mask.mean() == pytest.approx(union / 3600, rel=0.01)
    assert not fill_boxes(np.zeros((0, 4)), 448, 448).any()
