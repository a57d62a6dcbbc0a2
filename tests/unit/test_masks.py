"""Masks: run lengths both ways, cleaning, Dice, and that the search of the rules is the plain search."""

from dataclasses import replace
from itertools import product

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cxr.geometry.masks import (
    counts_above,
    decode_runs,
    dice,
    encode_runs,
    merge_runs,
    remove_small,
    resize_mask,
)
from cxr.methods.segmenter.records import MaskPrediction, pack_picture
from cxr.methods.segmenter.rules import GRIDS, Measured, Rule, apply, fit, level, measure, nested

# SIIM-ACR Pneumothorax: (run lengths, lit (row, column)) of a 4 x 4 picture.
VECTORS = [
    ("0 1", [(0, 0)]),
    ("1 1", [(1, 0)]),
    ("4 1", [(0, 1)]),
    ("3 2", [(3, 0), (0, 1)]),
    ("15 1", [(3, 3)]),
    ("5 2 2 2", [(1, 1), (2, 1), (1, 2), (2, 2)]),
    ("-1", []),
    ("0 16", [(row, column) for row in range(4) for column in range(4)]),
]
REAL = "387620 23 996 33 986 43 977 51 968 58 962 65 956 70 952 74 949 76 946 79"


@pytest.mark.parametrize("text, lit", VECTORS)
def test_vectors(text, lit):
    mask = decode_runs(text, 4, 4)
    assert mask.dtype == np.uint8 and sorted(map(tuple, np.argwhere(mask).tolist())) == sorted(lit)
    assert encode_runs(mask) == text


def test_a_mask_of_the_competition():
    mask = decode_runs(REAL, 1024, 1024)
    rows, columns = np.nonzero(mask)
    assert mask.sum() == 572 and (rows.min(), rows.max(), columns.min(), columns.max()) == (
        517,
        595,
        378,
        387,
    )
    assert np.flatnonzero(mask[:, 378])[[0, -1]].tolist() == [548, 570]
    assert np.flatnonzero(mask[:, 379])[[0, -1]].tolist() == [543, 575]
    assert encode_runs(mask) == REAL


@given(
    arrays.arrays(
        np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 1)
    )
)
def test_round_trip(mask):
    assert np.array_equal(decode_runs(encode_runs(mask), *mask.shape), mask)


@pytest.mark.parametrize("pixel", [(0, 0), (0, 6), (4, 0), (4, 6)])
def test_corners_of_a_picture_that_is_not_square(pixel):
    mask = np.zeros((5, 7), np.uint8)
    mask[pixel] = 1
    assert encode_runs(mask) == f"{pixel[0] + 5 * pixel[1]} 1" and np.array_equal(
        decode_runs(encode_runs(mask), 5, 7), mask
    )


def test_any_truth_is_a_pixel():
    assert encode_runs(np.array([[0, 255], [0.5, 0]])) == "1 2"


@pytest.mark.parametrize("text", ["1", "1 2 3", "a b", "15 2", "0 17", "-3 2", "5 -1"])
def test_broken_run_lengths(text):
    with pytest.raises(ValueError):
        decode_runs(text, 4, 4)


@pytest.mark.parametrize("text", ["", " -1 ", "0 0", "3 0 2 0"])
def test_other_forms_of_nothing(text):
    assert encode_runs(decode_runs(text, 4, 4)) == "-1"


def test_rows_of_an_image_are_joined():
    assert (
        merge_runs(["0 2", "1 2"], 4, 4) == "0 3"
        and merge_runs(["-1"], 4, 4) == "-1"
        and merge_runs(["0 1 0 1"], 4, 4) == "0 2"
    )


def test_small_parts_and_holes():
    mask = np.zeros((40, 40), np.uint8)
    mask[2:5, 2:5], mask[10:30, 10:30], mask[18:22, 18:22] = 1, 1, 0
    cleaned = remove_small(mask, 100)
    assert not cleaned[:8].any() and cleaned[10:30, 10:30].all() and cleaned.sum() == 400
    assert np.array_equal(remove_small(mask, 0), mask) and not remove_small(mask, 500).any()
    assert not remove_small(np.zeros((4, 4), np.uint8), 3).any()


def test_dice():
    a, b, nothing = decode_runs("0 4", 4, 4), decode_runs("2 4", 4, 4), decode_runs("-1", 4, 4)
    assert dice(a, b) == 0.5 and dice(a, a) == 1 and dice(nothing, nothing) == 1
    assert dice(a, nothing) == dice(nothing, a) == dice(a, decode_runs("8 3", 4, 4)) == 0


def test_resized_masks_are_masks():
    mask = decode_runs(REAL, 1024, 1024)
    small = resize_mask(mask, 256)
    assert (
        small.dtype == np.uint8
        and set(np.unique(small)) == {0, 1}
        and abs(16 * int(small.sum()) - 572) < 60
    )
    assert resize_mask(mask, 1024) is not None and resize_mask(mask, 2048).sum() == pytest.approx(
        4 * 572, rel=0.05
    )


def test_counts_above():
    picture = np.array([[0, 3], [255, 3]], np.uint8)
    assert counts_above(picture)[[0, 2, 3, 254, 255]].tolist() == [3, 3, 1, 1, 0]
    assert counts_above(picture, np.array([[1, 1], [0, 0]], np.uint8))[[0, 3]].tolist() == [1, 0]


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.3, 0.5, 0.6, 0.7, 0.75, 0.95])
def test_levels_are_strict(threshold):
    values = np.arange(256)
    assert np.array_equal(values > level(threshold), values / 255 > threshold + 1e-12)


def drawn_images(count=8, side=64):
    """[(probabilities uint8, true mask, image score)], some without a mask, one without any probability."""
    found = []
    for k in range(count):
        rng = np.random.default_rng(k)
        smooth = cv2.GaussianBlur(rng.random((side, side)), (0, 0), 5)
        smooth = (smooth - smooth.min()) / np.ptp(smooth) * rng.uniform(0.3, 1)
        true = (smooth + 0.05 * rng.standard_normal(smooth.shape) > 0.4) * (k % 3 > 0)
        found.append(
            ((255 * smooth * (k != 5)).astype(np.uint8), true.astype(np.uint8), float(rng.random()))
        )
    return found


@pytest.mark.parametrize(
    "name, component",
    [("first", 0), ("first", 20), ("second", 0), ("third", 0), ("fourth", 0), ("fifth", 0)],
)
def test_the_search_is_the_plain_search(name, component):
    grid = replace(GRIDS[name].scaled(64))
    grid = replace(grid, published=replace(grid.published, component=component))
    images = drawn_images()
    measured = Measured(
        grid,
        np.array([measure(p, t, grid) for p, t, _ in images]),
        np.array([h for *_, h in images]),
    )
    sums, step = measured.sums(), 11 if component else 3
    for index in list(product(*map(range, grid.shape)))[::step]:
        rule = grid.rule(index)
        plain = [dice(true, apply(rule, picture, head)) for picture, true, head in images]
        assert sums[index] == pytest.approx(sum(plain), abs=1e-9)
        assert measured.scores(rule) == pytest.approx(plain, abs=1e-9)
        assert measured.given(rule).tolist() == [
            bool(apply(rule, picture, head).any()) for picture, _, head in images
        ]


@pytest.mark.parametrize("name", GRIDS)
def test_the_published_values_can_be_found(name):
    grid = GRIDS[name]
    assert grid.rule(grid.index(grid.published)) == grid.published
    assert fit(grid, np.zeros(grid.shape)) == grid.published, "without any image to fit on"


def test_published_rules():
    assert GRIDS["first"].published == Rule(top=0.7, area=800, bottom=0.3)
    assert GRIDS["second"].published.head == 0.65 and GRIDS["second"].published.bottom == 0.4
    assert GRIDS["fourth"].published == Rule(
        head=0.4, top=0.8, area=round(800 * (1024 / 768) ** 2), bottom=0.4
    )
    assert GRIDS["fifth"].published == Rule(top=0.5, area=1, bottom=0.2, total=64)


def test_a_count_of_the_minimum_area_is_enough():
    picture = np.zeros((10, 10), np.uint8)
    picture[:2, :5] = 200
    assert apply(Rule(top=0.7, area=10, bottom=0.3), picture, 0.0).sum() == 10
    assert not apply(Rule(top=0.7, area=11, bottom=0.3), picture, 0.0).any()
    assert not apply(Rule(top=0.7, bottom=0.3, total=10), picture, 0.0).any()
    assert not apply(Rule(head=0.5, top=0.7, bottom=0.3), picture, 0.4).any()


def test_parameters_of_a_fold_do_not_see_its_images():
    grid = GRIDS["first"].scaled(64)
    images = drawn_images(12)
    counts = np.array([measure(p, t, grid) for p, t, _ in images])
    units = np.arange(12) % 3
    before = nested(Measured(grid, counts, np.zeros(12)), units)[1]
    counts[units == 0, :-1] = 0
    counts[units == 0, -1] = 99
    after = nested(Measured(grid, counts, np.zeros(12)), units)[1]
    assert after[0] == before[0]


def test_the_mask_is_never_smaller_than_what_spoke_for_it():
    grid = replace(GRIDS["first"], top=(0.3, 0.5), area=(0,), bottom=(0.3, 0.4, 0.5))
    sums = np.zeros(grid.shape)
    sums[0, 0, 0, 2] = 9
    rule = fit(grid, sums)
    assert rule.bottom <= rule.top


def test_pictures_come_back():
    probability = cv2.GaussianBlur(
        np.random.default_rng(0).random((64, 64)).astype(np.float32), (0, 0), 4
    )
    kept = [
        MaskPrediction("a", 64, 64, 0.25, pack_picture(probability, 0)),
        MaskPrediction("b/ü", 128, 96, 0.5, pack_picture(probability, 32)),
    ]
    back = list(MaskPrediction.rows(MaskPrediction.columns(kept)))
    assert [(p.image_id, p.width, p.height, p.head) for p in back] == [
        ("a", 64, 64, 0.25),
        ("b/ü", 128, 96, 0.5),
    ]
    assert np.abs(back[0].picture() / 255 - probability).max() <= 0.5 / 255 + 1e-6
    assert back[1].picture().shape == (96, 128)
