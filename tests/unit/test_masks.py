"""Masks: run lengths both ways, merging, cleaning, resizing, Dice, counting."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cxr.geometry.masks import (
    counts_above,
    decode_runs,
    dice,
    encode_runs,
    merge_runs,
    remove_small,
    resize_mask,
)

EVERY_PIXEL = [(row, column) for row in range(4) for column in range(4)]
# SIIM-ACR Pneumothorax: run lengths, and the lit pixels (row, column) of a 4 x 4 picture.
VECTORS = [
    ("0 1", [(0, 0)]),
    ("1 1", [(1, 0)]),
    ("4 1", [(0, 1)]),
    ("3 2", [(0, 1), (3, 0)]),
    ("15 1", [(3, 3)]),
    ("5 2 2 2", [(1, 1), (1, 2), (2, 1), (2, 2)]),
    ("-1", []),
    ("0 16", EVERY_PIXEL),
]
REAL = "387620 23 996 33 986 43 977 51 968 58 962 65 956 70 952 74 949 76 946 79"
SIZES = st.tuples(st.integers(1, 9), st.integers(1, 9))


@pytest.mark.parametrize("text, lit", VECTORS)
def test_vectors(text, lit):
    mask = decode_runs(text, 4, 4)
    assert mask.dtype == np.uint8
    assert list(map(tuple, np.argwhere(mask).tolist())) == lit
    assert encode_runs(mask) == text


def test_a_mask_of_the_competition():
    mask = decode_runs(REAL, 1024, 1024)
    rows, columns = np.nonzero(mask)
    assert mask.sum() == 572
    assert (rows.min(), rows.max()) == (517, 595)
    assert (columns.min(), columns.max()) == (378, 387)
    assert np.flatnonzero(mask[:, 378])[[0, -1]].tolist() == [548, 570]
    assert np.flatnonzero(mask[:, 379])[[0, -1]].tolist() == [543, 575]
    assert encode_runs(mask) == REAL


@given(arrays(np.uint8, SIZES, elements=st.integers(0, 1)))
def test_round_trip(mask):
    height, width = mask.shape
    assert np.array_equal(decode_runs(encode_runs(mask), height, width), mask)


@pytest.mark.parametrize("row, column", [(0, 0), (0, 6), (4, 0), (4, 6)])
def test_corners_of_a_picture_that_is_not_square(row, column):
    mask = np.zeros((5, 7), np.uint8)
    mask[row, column] = 1
    text = encode_runs(mask)
    assert text == f"{row + 5 * column} 1"
    assert np.array_equal(decode_runs(text, 5, 7), mask)


def test_any_truth_is_a_pixel():
    assert encode_runs(np.array([[0, 255], [0.5, 0]])) == "1 2"


@pytest.mark.parametrize("text", ["1", "1 2 3", "a b", "15 2", "0 17", "-3 2", "5 -1"])
def test_broken_run_lengths(text):
    with pytest.raises(ValueError):
        decode_runs(text, 4, 4)


@pytest.mark.parametrize("text", ["", " -1 ", "0 0", "3 0 2 0"])
def test_other_forms_of_nothing(text):
    assert encode_runs(decode_runs(text, 4, 4)) == "-1"


@pytest.mark.parametrize(
    "texts, merged", [(["0 2", "1 2"], "0 3"), (["-1"], "-1"), (["0 1 0 1"], "0 2")]
)
def test_rows_of_an_image_are_joined(texts, merged):
    assert merge_runs(texts, 4, 4) == merged


def test_small_parts_and_holes():
    """A part of 3 x 3 pixels, and one of 20 x 20 with a hole."""
    mask = np.zeros((40, 40), np.uint8)
    mask[2:5, 2:5] = 1
    mask[10:30, 10:30] = 1
    mask[18:22, 18:22] = 0
    cleaned = remove_small(mask, 100)
    assert cleaned[10:30, 10:30].all()
    assert cleaned.sum() == 400
    assert np.array_equal(remove_small(mask, 0), mask)
    assert not remove_small(mask, 500).any()
    assert not remove_small(np.zeros((4, 4), np.uint8), 3).any()


def test_dice():
    four = decode_runs("0 4", 4, 4)
    half_the_same = decode_runs("2 4", 4, 4)
    elsewhere = decode_runs("8 3", 4, 4)
    nothing = decode_runs("-1", 4, 4)
    assert dice(four, four) == 1
    assert dice(four, half_the_same) == 0.5
    assert dice(four, elsewhere) == 0
    assert dice(four, nothing) == 0
    assert dice(nothing, four) == 0
    assert dice(nothing, nothing) == 1


def test_resized_masks_are_masks():
    mask = decode_runs(REAL, 1024, 1024)
    small = resize_mask(mask, 256)
    assert small.dtype == np.uint8
    assert set(np.unique(small)) == {0, 1}
    assert abs(16 * int(small.sum()) - 572) < 60
    assert np.array_equal(resize_mask(mask, 1024), mask)
    assert resize_mask(mask, 2048).sum() == pytest.approx(4 * 572, rel=0.05)


def test_counts_above():
    picture = np.array([[0, 3], [255, 3]], np.uint8)
    upper_row = np.array([[1, 1], [0, 0]], np.uint8)
    assert counts_above(picture)[[0, 2, 3, 254, 255]].tolist() == [3, 3, 1, 1, 0]
    assert counts_above(picture, upper_row)[[0, 3]].tolist() == [1, 0]
