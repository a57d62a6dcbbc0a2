"""From probabilities to a mask: that the search of the rules is the plain search."""

from dataclasses import replace
from itertools import product

import cv2
import numpy as np
import pytest

from cxr.geometry.masks import dice
from cxr.methods.segmenter.records import MaskPrediction, pack_picture
from cxr.methods.segmenter.rules import GRIDS, Measured, Rule, apply, fit, level, measure, nested


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
