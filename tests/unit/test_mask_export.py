"""Thresholds of int8 masks keep as many images and pixels as those of fp32."""

import cv2
import numpy as np
import pandas as pd
import pytest

from cxr.geometry.masks import encode_runs
from cxr.methods.export import match_threshold
from cxr.methods.segmenter.export import FEWEST_PIXELS, KeptMask, match_level
from cxr.methods.segmenter.rules import MaskRule, apply_rule
from cxr.tasks import TASKS

PART = TASKS["pneumothorax"].method.export
SIDE = 64
RULE = {"head": 0.4, "top": 0.8, "area": 30, "bottom": 0.5, "total": 0, "component": 0}


def ramp(centre):
    """Levels (SIDE, SIDE) uint8 that fall from 255 at a column."""
    distance = np.abs(np.arange(SIDE) - centre)
    return np.tile(np.clip(255 - 8 * distance, 0, 255), (SIDE, 1)).astype(np.uint8)


def kept_mask(levels, score):
    truth = pd.Series({"mask": encode_runs((levels > 127).view(np.uint8))})
    return KeptMask(0.5, truth, cv2.imencode(".png", levels)[1].tobytes(), score)


@pytest.fixture
def answers():
    """Of 60 images by fp32, and by an int8 that says nine tenths of it."""
    fine = []
    coarse = []
    for number in range(60):
        levels = ramp(number)
        score = (number + 0.5) / 60
        fine.append(kept_mask(levels, score))
        coarse.append(kept_mask(np.round(0.9 * levels).astype(np.uint8), 0.9 * score))
    return fine, coarse


def test_thresholds_move_with_the_scores(answers):
    matched = PART.match_thresholds(*answers, RULE)
    assert matched == RULE | {name: matched[name] for name in ("head", "top", "bottom")}
    assert matched["head"] == pytest.approx(0.36, abs=0.01)
    # Levels 207 and 135 are above the old ones; nine tenths of them are 186 and 122.
    assert matched["top"] == 185 / 255
    assert matched["bottom"] == 121 / 255
    assert PART.thresholds_of(matched) == [matched["head"], matched["top"], matched["bottom"]]
    for fine, coarse in zip(*answers, strict=True):
        mask = apply_rule(MaskRule(**RULE), fine.levels(), fine.score)
        other = apply_rule(MaskRule(**matched), coarse.levels(), coarse.score)
        np.testing.assert_array_equal(other, mask)


def test_the_same_scores_keep_their_thresholds(answers):
    fine, _ = answers
    matched = PART.match_thresholds(fine, fine, RULE | {"head": 0.0})
    assert matched == RULE | {"head": 0.0}


def test_what_few_decide_stays():
    scores = np.linspace(0, 1, 30)
    assert match_threshold(18, 0.9 * scores, 0.4) == 0.4
    assert match_threshold(21, 0.9 * scores, 0.3) == pytest.approx(0.27, abs=0.02)
    assert match_threshold(30, 0.9 * scores, 0.0) == 0.0, "all of them"
    fine = np.zeros(256, int)
    coarse = np.zeros(256, int)
    fine[200] = coarse[100] = FEWEST_PIXELS - 1
    assert match_level(fine, coarse, 0.5) == 0.5
    fine[200] = coarse[100] = FEWEST_PIXELS
    assert match_level(fine, coarse, 0.5) == 99 / 255, "the nearest level below 100"


def test_dice_is_that_of_the_new_rule(answers, monkeypatch):
    fine, coarse = answers
    truth = (fine[40].levels() > 127).view(np.uint8)
    monkeypatch.setattr("cxr.methods.segmenter.export.true_mask", lambda row: truth)
    assert PART.keep_by(coarse[40], RULE | {"bottom": 0.45}).dice == pytest.approx(1, abs=0.02)
    assert PART.keep_by(coarse[40], RULE | {"head": 0.9}).dice == 0
    assert PART.score([fine[0], fine[1]._replace(dice=1.0)], None, None, None, None) == 0.75
