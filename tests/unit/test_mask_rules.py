"""From probabilities to a mask: that the search of the rules is the plain search."""

from dataclasses import replace
from itertools import product
from typing import NamedTuple

import cv2
import numpy as np
import pytest

from cxr.geometry.masks import dice
from cxr.methods.segmenter.records import MaskPrediction, pack_picture
from cxr.methods.segmenter.rules import (
    GRIDS,
    MaskRule,
    MeasuredImages,
    apply_rule,
    fit_rule,
    measure_picture,
    nested_rules,
    uint8_level,
)


class DrawnImage(NamedTuple):
    """picture (S, S) uint8 of probabilities, true_mask (S, S), head: the image's own score."""

    picture: np.ndarray
    true_mask: np.ndarray
    head: float


def draw_images(count=8, side=64):
    """Some without a mask, the sixth without any probability."""
    images = []
    for k in range(count):
        rng = np.random.default_rng(k)
        smooth = cv2.GaussianBlur(rng.random((side, side)), (0, 0), 5)
        smooth = (smooth - smooth.min()) / np.ptp(smooth) * rng.uniform(0.3, 1)
        true_mask = smooth + 0.05 * rng.standard_normal(smooth.shape) > 0.4
        if k % 3 == 0:
            true_mask[:] = False
        if k == 5:
            smooth[:] = 0
        picture = (255 * smooth).astype(np.uint8)
        images.append(DrawnImage(picture, true_mask.astype(np.uint8), float(rng.random())))
    return images


def measure_all(images, grid):
    counts = [measure_picture(image.picture, image.true_mask, grid) for image in images]
    return np.array(counts)


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.3, 0.5, 0.6, 0.7, 0.75, 0.95])
def test_levels_are_strict(threshold):
    values = np.arange(256)
    assert np.array_equal(values > uint8_level(threshold), values / 255 > threshold + 1e-12)


@pytest.mark.parametrize(
    "name, component",
    [("first", 0), ("first", 20), ("second", 0), ("third", 0), ("fourth", 0), ("fifth", 0)],
)
def test_the_search_is_the_plain_search(name, component):
    grid = GRIDS[name].scaled(64)
    grid = replace(grid, published=replace(grid.published, component=component))
    images = draw_images()
    heads = np.array([image.head for image in images])
    measured = MeasuredImages(grid, measure_all(images, grid), heads)
    sums = measured.sums()
    step = 11 if component else 3
    for index in list(product(*map(range, grid.shape)))[::step]:
        rule = grid.rule(index)
        masks = [apply_rule(rule, image.picture, image.head) for image in images]
        scores = [dice(image.true_mask, mask) for image, mask in zip(images, masks, strict=True)]
        assert sums[index] == pytest.approx(sum(scores), abs=1e-9)
        assert measured.scores(rule) == pytest.approx(scores, abs=1e-9)
        assert measured.has_mask(rule).tolist() == [bool(mask.any()) for mask in masks]


@pytest.mark.parametrize("name", GRIDS)
def test_the_published_values_can_be_found(name):
    grid = GRIDS[name]
    assert grid.rule(grid.index(grid.published)) == grid.published
    assert fit_rule(grid, np.zeros(grid.shape)) == grid.published, "without any image to fit on"


def test_published_rules():
    """The fourth place counts 800 pixels of 768 x 768."""
    area = round(800 * (1024 / 768) ** 2)
    assert GRIDS["first"].published == MaskRule(top=0.7, area=800, bottom=0.3)
    assert GRIDS["second"].published.head == 0.65
    assert GRIDS["second"].published.bottom == 0.4
    assert GRIDS["fourth"].published == MaskRule(head=0.4, top=0.8, area=area, bottom=0.4)
    assert GRIDS["fifth"].published == MaskRule(top=0.5, area=1, bottom=0.2, total=64)


@pytest.mark.parametrize(
    "rule, head, size",
    [
        (MaskRule(top=0.7, area=10, bottom=0.3), 0.0, 10),
        (MaskRule(top=0.7, area=11, bottom=0.3), 0.0, 0),
        (MaskRule(top=0.7, bottom=0.3, total=10), 0.0, 0),
        (MaskRule(head=0.5, top=0.7, bottom=0.3), 0.4, 0),
    ],
)
def test_a_count_of_the_minimum_area_is_enough(rule, head, size):
    """Ten pixels are bright."""
    picture = np.zeros((10, 10), np.uint8)
    picture[:2, :5] = 200
    assert apply_rule(rule, picture, head).sum() == size


def test_parameters_of_a_fold_do_not_see_its_images():
    grid = GRIDS["first"].scaled(64)
    counts = measure_all(draw_images(12), grid)
    heads = np.zeros(12)
    units = np.arange(12) % 3
    before = nested_rules(MeasuredImages(grid, counts, heads), units)
    counts[units == 0, :-1] = 0
    counts[units == 0, -1] = 99
    after = nested_rules(MeasuredImages(grid, counts, heads), units)
    assert after.held_out[0] == before.held_out[0]


def test_the_mask_is_never_smaller_than_what_spoke_for_it():
    grid = replace(GRIDS["first"], top=(0.3, 0.5), area=(0,), bottom=(0.3, 0.4, 0.5))
    sums = np.zeros(grid.shape)
    sums[0, 0, 0, 2] = 9
    rule = fit_rule(grid, sums)
    assert rule.bottom <= rule.top


def test_pictures_come_back():
    noise = np.random.default_rng(0).random((64, 64)).astype(np.float32)
    probability = cv2.GaussianBlur(noise, (0, 0), 4)
    predictions = [
        MaskPrediction("a", 64, 64, 0.25, pack_picture(probability, 0)),
        MaskPrediction("b/ü", 128, 96, 0.5, pack_picture(probability, 32)),
    ]
    first, second = MaskPrediction.rows(MaskPrediction.columns(predictions))
    assert (first.image_id, first.width, first.height, first.head) == ("a", 64, 64, 0.25)
    assert (second.image_id, second.width, second.height, second.head) == ("b/ü", 128, 96, 0.5)
    assert np.abs(first.picture() / 255 - probability).max() <= 0.5 / 255 + 1e-6
    assert second.picture().shape == (96, 128)
