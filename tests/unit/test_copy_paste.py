"""Findings put onto other pictures: what is seen, which boxes stay, and how the dataset draws."""

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr.config import Config
from cxr.data.copy_paste import draw_findings, exposed_like, meet, paste_findings, soft_box
from cxr.data.dataset import XrayDataset
from cxr.methods.segmenter.method import MaskTask
from cxr.system.disk import InputError

BOX = np.array([[20.0, 10.0, 60.0, 50.0]])
ZERO = np.zeros(1, np.int64)


def lungs(bright=None, level=60):
    """A 100 x 100 picture, bright to the left and dark to the right, with a bright rectangle x1 y1 x2 y2."""
    picture = np.full((100, 100), level, np.uint8)
    picture[:, :8] = 200
    if bright is not None:
        x1, y1, x2, y2 = np.int64(bright)
        picture[y1:y2, x1:x2] = 180
    return picture


def test_a_finding_comes_along_with_its_box():
    image, boxes, labels = paste_findings(lungs(), lungs(BOX[0]), BOX, ZERO + 3)
    assert boxes.tolist() == BOX.tolist() and labels.tolist() == [3]
    assert image.dtype == np.uint8 and image[30, 40] > 110  # the middle of the box
    assert (image[70:, 8:] == 60).all() and (image[:, 80:] == 60).all()  # far from it
    assert (image >= lungs()).all()  # nothing gets darker


def test_what_cannot_be_seen_is_not_pasted():
    """A lung that is as white there already, and a donor that shows nothing in one of its two boxes."""
    image, boxes, labels = paste_findings(lungs(BOX[0]), lungs(BOX[0]), BOX, ZERO)
    assert np.array_equal(image, lungs(BOX[0])) and boxes.shape == (0, 4) and labels.shape == (0,)
    both = np.concatenate([BOX, [[65.0, 60.0, 95.0, 95.0]]])
    image, boxes, labels = paste_findings(lungs(), lungs(BOX[0]), both, np.array([0, 1]))
    assert boxes.tolist() == BOX.tolist() and labels.tolist() == [0]


def test_edges_are_soft():
    """Half the weight on the edge, all in the middle, none at three deviations outside: 0.1 of 40 pixels each."""
    weight = soft_box(BOX[0], (100, 100))
    assert weight[30, 40] > 0.99 and weight[30, 73] < 0.01
    assert weight[30, 59] > 0.5 > weight[30, 60] and weight[30, 59] + weight[
        30, 60
    ] == pytest.approx(1, abs=0.01)


@given(st.integers(0, 1000))
def test_exposure_by_hand(seed):
    rng = np.random.default_rng(seed)
    dark, bright = (
        rng.integers(0, 90, (20, 20), dtype=np.uint8),
        rng.integers(100, 250, (20, 20), dtype=np.uint8),
    )
    like = exposed_like(dark, bright)
    assert like.mean() == pytest.approx(bright.mean(), abs=0.01) and like.std() == pytest.approx(
        bright.std(), rel=1e-3
    )
    assert np.isfinite(exposed_like(np.zeros((20, 20), np.uint8), bright)).all()


def test_sides_and_boxes_are_drawn():
    """Mirrored or not, and one of two boxes or both: all six kinds occur, and boxes go with the picture."""
    both, kinds = np.concatenate([BOX, [[65.0, 60.0, 95.0, 95.0]]]), set()
    donor, rng = lungs(BOX[0]), np.random.default_rng(0)
    for _ in range(100):
        picture, boxes, labels = draw_findings(rng, donor, both, np.array([0, 1]), np.zeros((0, 4)))
        mirrored = bool((picture == donor[:, ::-1]).all())
        expected = (
            {0: [40, 10, 80, 50], 1: [5, 60, 35, 95]}
            if mirrored
            else {0: both[0].tolist(), 1: both[1].tolist()}
        )
        assert [expected[k] for k in labels.tolist()] == boxes.tolist()
        kinds.add((mirrored, *labels.tolist()))
    assert kinds == {(side, *some) for side in (False, True) for some in ((0,), (1,), (0, 1))}


def test_what_is_there_is_not_covered():
    """The left part of the picture is taken: the box there falls out, as it is or mirrored; touching is no meeting."""
    taken, left = np.array([[0.0, 0.0, 50.0, 100.0]]), np.array([[10.0, 10.0, 40.0, 50.0]])
    seen = set()
    for seed in range(40):
        boxes = draw_findings(np.random.default_rng(seed), lungs(), left, ZERO, taken)[1]
        seen.add(tuple(map(tuple, boxes.tolist())))
    assert seen == {(), ((60.0, 10.0, 90.0, 50.0),)}
    assert meet(np.array([[50.0, 0, 60, 9], [49.0, 0, 60, 9]]), taken).tolist() == [[False], [True]]
    assert meet(left, np.zeros((0, 4))).shape == (1, 0)


def dataset(folder, chance, boxes=("[]", "[[20, 10, 60, 50]]")):
    for name, picture in (("a", lungs()), ("b", lungs(BOX[0]))):
        cv2.imwrite(str(folder / f"{name}.png"), picture)
    table = pd.DataFrame(
        {
            "image_id": ["a", "b"],
            "width": 100,
            "height": 100,
            "boxes": boxes,
            "label": [0, 2],
            "box_labels": ["[0]" if box != "[]" else "[]" for box in boxes],
            "n_boxes": [int(box != "[]") for box in boxes],
        }
    )
    return XrayDataset(table, folder, 100, "10", paste=chance)


def test_the_dataset_pastes_with_its_probability(tmp_path):
    drawn = dataset(tmp_path, 0.25)
    pasted = [len(drawn[epoch, 0]["boxes"]) for epoch in range(200)]
    assert 30 < sum(pasted) < 70
    assert all(
        drawn[epoch, 0]["label"] == 2 * pasted[epoch] for epoch in range(200)
    )  # the donor's class with its boxes
    again = dataset(tmp_path, 0.25)
    assert all(np.array_equal(drawn[e, 0]["image"], again[e, 0]["image"]) for e in range(20))


def test_the_dataset_adds_to_boxes(tmp_path):
    """Picture b is its own donor: mirrored, its box meets the one that is there, as it is, too."""
    always, never = dataset(tmp_path, 1.0), dataset(tmp_path, 0.0)
    assert all(
        len(always[e, 1]["boxes"]) == 1 and len(never[e, 0]["boxes"]) == 0 for e in range(20)
    )
    aside = dataset(tmp_path, 1.0, ("[]", "[[20, 10, 45, 50]]"))
    counts = [len(aside[e, 1]["boxes"]) for e in range(20)]
    assert set(counts) == {1, 2}
    nobody = dataset(tmp_path, 1.0, ("[]", "[]"))
    assert all(len(nobody[e, row]["boxes"]) == 0 for e in range(5) for row in (0, 1))


def test_only_for_boxes():
    with pytest.raises(InputError, match="--paste is for tasks of boxes"):
        MaskTask().select(pd.DataFrame(), Config(task="lungs", paste=0.2))
