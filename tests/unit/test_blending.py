"""Predictions of several runs as one, each mixture computed by hand."""

import cv2
import numpy as np
import pandas as pd
import pytest

from cxr.geometry.masks import encode_runs
from cxr.inference.blend import Blend, given_weights, parse_members
from cxr.methods.classifier.records import ClassPrediction
from cxr.methods.detector.blending import fuse_candidates
from cxr.methods.detector.records import Candidates
from cxr.methods.ensemble import search_weights
from cxr.methods.segmenter.records import MaskPrediction, pack_picture
from cxr.steps.predict.blend_runs import sample_groups
from cxr.system.errors import InputError
from cxr.tasks import TASKS


def settings_of(task):
    return TASKS[task].make_settings({"task": task, "image_size": 64})


# --- boxes


def candidates(*boxes, category=(0.2, 0.3, 0.5), label=0):
    """Of an image of 200 x 100 pixels. boxes: (score, x, y of the centre, width, height, spread).

    The votes for a size lie `spread` apart: the 80th percentile is that times the 20th.
    """
    rows = np.array(boxes, float).reshape(-1, 6)
    size = rows[:, 3:5]
    root = np.sqrt(rows[:, 5:])
    return Candidates(
        image_id="a",
        width=200,
        height=100,
        category=np.array(category, float),
        centre=rows[:, 1:3],
        size20=size / root,
        size80=size * root,
        score=rows[:, 0],
        label=np.full(len(rows), label, np.int16),
    )


def test_boxes_of_two_runs_that_agree():
    """Score .25 * .8 + .75 * .4; corners by weight times score, 0.2 to 0.3."""
    one = candidates((0.8, 50, 40, 20, 20, 4.0))
    two = candidates((0.4, 52, 40, 20, 20, 1.0))
    mixed = fuse_candidates([one, two], np.array([0.25, 0.75]), 0.05)
    assert mixed.score.tolist() == pytest.approx([0.5])
    np.testing.assert_allclose(mixed.centre, [[(0.2 * 50 + 0.3 * 52) / 0.5, 40]], rtol=1e-6)
    # log 4 with 0.2 of 0.5, log 1 with the rest.
    spread = 4.0**0.4
    np.testing.assert_allclose(mixed.size80 / mixed.size20, [[spread, spread]], rtol=1e-5)
    np.testing.assert_allclose(np.sqrt(mixed.size80 * mixed.size20), [[20, 20]], rtol=1e-5)
    assert (mixed.image_id, mixed.width, mixed.height) == ("a", 200, 100)


def test_a_box_that_one_run_misses_sinks():
    one = candidates((0.8, 50, 40, 20, 20, 1.0), (0.6, 150, 60, 30, 30, 1.0))
    two = candidates((0.4, 50, 40, 20, 20, 1.0))
    mixed = fuse_candidates([one, two], np.array([0.5, 0.5]), 0.05)
    assert mixed.score.tolist() == pytest.approx([0.6, 0.3])
    np.testing.assert_allclose(mixed.centre, [[50, 40], [150, 60]], rtol=1e-6)


def test_votes_for_mixed_boxes():
    """Both runs have the first, with 1 and 1/2 of their votes; only one has the second."""
    one = candidates((0.8, 50, 40, 20, 20, 1.0), (0.6, 150, 60, 30, 30, 1.0))
    two = candidates((0.4, 50, 40, 20, 20, 1.0))
    two.votes = np.array([0.5])
    mixed = fuse_candidates([one, two], np.array([0.5, 0.5]), 0.05)
    assert mixed.votes.tolist() == pytest.approx([0.75, 0.5])


def test_each_run_first_suppresses_its_own_overlaps():
    """Anchors around one finding are one box of that run, not many votes."""
    one = candidates((0.8, 50, 40, 20, 20, 1.0), (0.7, 51, 40, 20, 20, 1.0))
    two = candidates((0.4, 50, 40, 20, 20, 1.0))
    mixed = fuse_candidates([one, two], np.array([0.5, 0.5]), 0.05)
    assert mixed.score.tolist() == pytest.approx([0.6])
    np.testing.assert_allclose(mixed.centre, [[50, 40]], rtol=1e-6)


def test_boxes_of_other_classes_are_not_fused():
    one = candidates((0.8, 50, 40, 20, 20, 1.0))
    two = candidates((0.4, 50, 40, 20, 20, 1.0), label=1)
    mixed = fuse_candidates([one, two], np.array([0.5, 0.5]), 0.05)
    assert mixed.label.tolist() == [0, 1]
    assert mixed.score.tolist() == pytest.approx([0.4, 0.2])


def test_no_boxes_at_all():
    mixed = fuse_candidates([candidates(), candidates()], np.array([0.5, 0.5]), 0.05)
    assert mixed.centre.shape == mixed.size20.shape == mixed.size80.shape == (0, 2)
    assert mixed.score.shape == mixed.label.shape == (0,)


def test_image_classes_of_runs_that_know_them():
    known = candidates(category=(0.2, 0.3, 0.5))
    other = candidates(category=(0.6, 0.3, 0.1))
    unknown = candidates(category=(np.nan, np.nan, np.nan))
    shares = np.array([0.25, 0.25, 0.5])
    mixed = fuse_candidates([known, other, unknown], shares, 0.05)
    np.testing.assert_allclose(mixed.category, [0.4, 0.3, 0.3])


def test_mixed_boxes_as_the_figures_after_an_epoch_see_them():
    """A box of 20 x 20 of an image of 200 x 100 in a square of 64 pixels."""
    detector = TASKS["rsna"].method
    quick = detector.quick_prediction(
        candidates((0.8, 50, 40, 20, 20, 1.0)), None, settings_of("rsna")
    )
    assert quick.side == 64
    np.testing.assert_allclose(quick.detections.boxes, [[12.8, 19.2, 19.2, 32]], rtol=1e-6)


# --- masks and classes


def mask_prediction(picture, head):
    return MaskPrediction("a", 8, 8, head, pack_picture(np.array(picture, float), 0))


def test_masks_are_mixed_in_the_frame_of_the_largest():
    small = mask_prediction(np.full((2, 2), 0.2), 0.1)
    picture = np.zeros((4, 4))
    picture[1, 2] = 1.0
    large = mask_prediction(picture, 0.9)
    method = TASKS["pneumothorax"].method
    mixed = method.mix([small, large], np.array([0.5, 0.5]), settings_of("pneumothorax"))
    expected = np.full((4, 4), 0.5 * 51, np.uint8)
    expected[1, 2] = round(0.5 * 51 + 0.5 * 255)
    stored = mixed.stored_picture()
    assert stored.shape == (4, 4)
    assert np.abs(stored.astype(int) - expected).max() <= 1
    assert mixed.head == pytest.approx(0.5)
    assert (mixed.width, mixed.height) == (8, 8)


def test_a_mixed_mask_as_the_figures_after_an_epoch_see_it():
    """As quick_counts says of the same picture; the last count is that of the true pixels."""
    mask = np.zeros((8, 8), np.uint8)
    mask[2:6, 2:6] = 1
    prediction = mask_prediction(mask, 0.7)
    row = pd.Series({"mask": encode_runs(mask)})
    quick = TASKS["pneumothorax"].method.quick_prediction(
        prediction, row, settings_of("pneumothorax")
    )
    assert quick.head == pytest.approx(0.7)
    true_pixels = cv2.resize(mask, (64, 64), interpolation=cv2.INTER_LINEAR).sum()
    assert quick.counts[-1] == true_pixels


def test_classes_are_mixed_as_probabilities():
    one = ClassPrediction("a", 8, 8, np.array([0.1, 0.2, 0.3, 0.4]))
    two = ClassPrediction("a", 8, 8, np.array([0.5, 0.4, 0.1, 0.0]))
    method = TASKS["covid"].method
    mixed = method.mix([one, two], np.array([0.25, 0.75]), settings_of("covid"))
    np.testing.assert_allclose(mixed.category, [0.4, 0.35, 0.15, 0.1])


# --- names and weights


def parse(*words):
    known = {"small", "small-seed=7"}
    return parse_members(words, known.__contains__)


def test_weights_behind_equal_signs():
    assert parse("small", "small-seed=7") == {"small": None, "small-seed=7": None}
    assert parse("small=0.4", "small-seed=7=2") == {"small": 0.4, "small-seed=7": 2}
    with pytest.raises(InputError, match="the weight behind the equal sign must be a number above"):
        parse("small=much")
    with pytest.raises(InputError, match="names small twice"):
        parse("small=0.4", "small=0.6")


def test_weights_add_up_to_one():
    assert given_weights({"a": None, "b": None}) == {"a": 0.5, "b": 0.5}
    assert given_weights({"a": 1.0, "b": 3.0}) == {"a": 0.25, "b": 0.75}
    with pytest.raises(InputError, match="no weight of b: give all of them weights, or none"):
        given_weights({"a": 1.0, "b": None})


def test_a_blend_in_words():
    words = Blend({"a": 0.25, "b": 0.75}, {0: {"a": 1.0, "b": 0.0}}).describe()
    assert "a (0.25), b (0.75)" in words
    assert "fitted on the others" in words


def test_coarse_shares():
    """Of two models the best share of the second is 0.3; the search ends two twentieths later."""
    tried = []

    def score(weights):
        tried.append(round(float(weights[1]), 9))
        return -abs(weights[1] - 0.3)

    found = search_weights(2, score, steps=20, patience=2)
    np.testing.assert_allclose(found.weights, [0.7, 0.3])
    assert tried[5:13] == [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4]
    assert 0.45 not in tried


def test_a_sample_holds_whole_groups():
    table = pd.DataFrame({"group": np.repeat(np.arange(20), 2), "image_id": np.arange(40)})
    sample = sample_groups(table, 10)
    assert len(sample) == 10
    assert (sample.groupby("group").size() == 2).all()
    assert len(sample_groups(table, 1000)) == 40
