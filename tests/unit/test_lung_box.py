"""Lung boxes, cutting and pasting, on drawn maps."""

import cv2
import numpy as np
import pytest

from cxr.geometry.crops import crop_at, cut
from cxr.geometry.lung_box import lung_box, paste


def draw_map(*boxes, side=1024):
    """A map (side, side) of 0.9 in the boxes and 0 elsewhere."""
    probability = np.zeros((side, side), np.float32)
    for x1, y1, x2, y2 in boxes:
        probability[y1:y2, x1:x2] = 0.9
    return probability


def test_the_box_holds_both_lungs_and_a_margin():
    probability = draw_map((200, 150, 450, 700), (550, 180, 800, 750))
    assert lung_box(probability, 1024, 1024) == (160, 110, 840, 790)


def test_small_parts_do_not_count():
    """40 x 49 pixels are fewer than 2000, 40 x 50 are enough."""
    too_small = draw_map((200, 150, 800, 700), (900, 900, 940, 949))
    assert lung_box(too_small, 1024, 1024) == (160, 110, 840, 740)
    large_enough = draw_map((200, 150, 800, 700), (900, 900, 940, 950))
    assert lung_box(large_enough, 1024, 1024) == (160, 110, 980, 990)


def test_the_margin_ends_at_the_edge():
    assert lung_box(draw_map((10, 20, 1010, 1000)), 1024, 1024) == (0, 0, 1024, 1024)


@pytest.mark.parametrize("boxes", [[], [(5, 5, 20, 20)], [(500, 500, 600, 600)]])
def test_without_lungs_the_whole_picture(boxes):
    """Nothing, only specks, or a box that stays below 300 x 300 pixels with its margin."""
    assert lung_box(draw_map(*boxes), 640, 480) == (0, 0, 640, 480)


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_maps_of_any_size_give_original_pixels(dtype):
    """A margin of 40 of 1024 pixels is one of 78 of 2000, and of 39 of 1000."""
    probability = draw_map((50, 50, 200, 200), side=256)
    if dtype is np.uint8:
        probability = (255 * probability).astype(np.uint8)
    expected = (
        50 / 256 * 2000 - 78,
        50 / 256 * 1000 - 39,
        200 / 256 * 2000 + 78,
        200 / 256 * 1000 + 39,
    )
    assert lung_box(probability, 2000, 1000) == pytest.approx(expected, abs=1)


@pytest.mark.parametrize("side", [512, 256])
def test_what_was_cut_comes_back_to_its_place(side):
    rng = np.random.default_rng(0)
    original = cv2.GaussianBlur(rng.random((512, 512)).astype(np.float32), (0, 0), 12)
    stored = cv2.resize(original, (side, side), interpolation=cv2.INTER_AREA)
    box = (96, 64, 416, 448)
    inner = cut(stored, crop_at(box, 512, 512, side))
    assert inner.shape == (384 * side // 512, 320 * side // 512)

    whole = paste(cv2.resize(inner, (96, 96), interpolation=cv2.INTER_AREA), box, 512, 512)
    inside = np.s_[64:448, 96:416]
    assert np.abs(whole[inside] - original[inside]).max() < 0.05
    whole[inside] = 0
    assert not whole.any()
