"""Findings put onto other pictures: what is seen, which boxes stay, how the dataset draws."""

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr.command_line import read_command_line
from cxr.data.annotated_image import AnnotatedImage
from cxr.data.copy_paste import draw_findings, exposed_like, meet, paste_findings, soft_box
from cxr.data.dataset import XrayDataset
from cxr.system.errors import InputError

BOX = np.array([[20.0, 10.0, 60.0, 50.0]])
TWO_BOXES = np.array([[20.0, 10.0, 60.0, 50.0], [65.0, 60.0, 95.0, 95.0]])
NOTHING_TAKEN = np.zeros((0, 4))


def make_lungs(bright=None, level=60):
    """A 100 x 100 picture, bright to the left, dark to the right.

    bright: a rectangle x1 y1 x2 y2 that is bright, too.
    """
    picture = np.full((100, 100), level, np.uint8)
    picture[:, :8] = 200
    if bright is not None:
        x1, y1, x2, y2 = np.int64(bright)
        picture[y1:y2, x1:x2] = 180
    return picture


def annotate(picture, boxes=NOTHING_TAKEN, labels=None):
    """The picture with boxes, whose labels are 0 where nothing else is said."""
    if labels is None:
        labels = [0] * len(boxes)
    return AnnotatedImage(picture, boxes, np.array(labels, np.int64))


def test_a_finding_comes_along_with_its_box():
    donor = annotate(make_lungs(BOX[0]), BOX, [3])
    pasted = paste_findings(annotate(make_lungs()), donor)
    image = pasted.image
    assert pasted.boxes.tolist() == BOX.tolist()
    assert pasted.labels.tolist() == [3]
    assert image.dtype == np.uint8
    assert image[30, 40] > 110  # the middle of the box
    assert (image[70:, 8:] == 60).all()  # far from it
    assert (image[:, 80:] == 60).all()
    assert (image >= make_lungs()).all()  # nothing gets darker


def test_boxes_that_are_there_stay_first():
    target = annotate(make_lungs(), np.array([[70.0, 70.0, 90.0, 90.0]]), [5])
    pasted = paste_findings(target, annotate(make_lungs(BOX[0]), BOX, [3]))
    assert pasted.boxes.tolist() == [[70, 70, 90, 90], [20, 10, 60, 50]]
    assert pasted.labels.tolist() == [5, 3]


def test_what_is_as_white_already_is_not_pasted():
    white = make_lungs(BOX[0])
    pasted = paste_findings(annotate(white), annotate(white, BOX))
    assert np.array_equal(pasted.image, white)
    assert pasted.boxes.shape == (0, 4)
    assert pasted.labels.shape == (0,)


def test_a_box_that_shows_nothing_is_not_pasted():
    donor = annotate(make_lungs(BOX[0]), TWO_BOXES, [0, 1])
    pasted = paste_findings(annotate(make_lungs()), donor)
    assert pasted.boxes.tolist() == BOX.tolist()
    assert pasted.labels.tolist() == [0]


def test_edges_are_soft():
    """Half the weight on the edge, all in the middle, none at three deviations outside.

    A deviation is 0.1 of 40 pixels.
    """
    weight = soft_box(BOX[0], (100, 100))
    assert weight[30, 40] > 0.99
    assert weight[30, 73] < 0.01
    assert weight[30, 59] > 0.5 > weight[30, 60]
    assert weight[30, 59] + weight[30, 60] == pytest.approx(1, abs=0.01)


@given(st.integers(0, 1000))
def test_exposure_by_hand(seed):
    rng = np.random.default_rng(seed)
    dark = rng.integers(0, 90, (20, 20), dtype=np.uint8)
    bright = rng.integers(100, 250, (20, 20), dtype=np.uint8)
    exposed = exposed_like(dark, bright)
    assert exposed.mean() == pytest.approx(bright.mean(), abs=0.01)
    assert exposed.std() == pytest.approx(bright.std(), rel=1e-3)
    black = np.zeros((20, 20), np.uint8)
    assert np.isfinite(exposed_like(black, bright)).all()


def test_sides_and_boxes_are_drawn():
    """Mirrored or not, and one of two boxes or both: all six occur, boxes go with the picture."""
    donor = annotate(make_lungs(BOX[0]), TWO_BOXES, [0, 1])
    mirrored_boxes = [[40, 10, 80, 50], [5, 60, 35, 95]]
    rng = np.random.default_rng(0)
    drawn = set()
    for _ in range(100):
        chosen = draw_findings(rng, donor, NOTHING_TAKEN)
        mirrored = bool((chosen.image == donor.image[:, ::-1]).all())
        expected = mirrored_boxes if mirrored else TWO_BOXES.tolist()
        assert [expected[label] for label in chosen.labels] == chosen.boxes.tolist()
        drawn.add((mirrored, *chosen.labels.tolist()))
    plain = {(False, 0), (False, 1), (False, 0, 1)}
    assert drawn == plain | {(True, *labels) for _, *labels in plain}


def test_what_is_there_is_not_covered():
    """The left half is taken: the box there falls out, as it is or mirrored."""
    taken = np.array([[0.0, 0.0, 50.0, 100.0]])
    donor = annotate(make_lungs(), np.array([[10.0, 10.0, 40.0, 50.0]]))
    drawn = set()
    for seed in range(40):
        chosen = draw_findings(np.random.default_rng(seed), donor, taken)
        drawn.add(tuple(chosen.boxes.ravel().tolist()))
    assert drawn == {(), (60.0, 10.0, 90.0, 50.0)}


def test_touching_is_no_meeting():
    taken = np.array([[0.0, 0.0, 50.0, 100.0]])
    touching = [50.0, 0, 60, 9]
    overlapping = [49.0, 0, 60, 9]
    assert meet(np.array([touching, overlapping]), taken).tolist() == [[False], [True]]
    assert meet(BOX, NOTHING_TAKEN).shape == (1, 0)


def make_dataset(folder, paste, boxes=("[]", "[[20, 10, 60, 50]]")):
    """Row 0 is a picture without a finding, row 1 one with; their boxes."""
    cv2.imwrite(str(folder / "a.png"), make_lungs())
    cv2.imwrite(str(folder / "b.png"), make_lungs(BOX[0]))
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
    return XrayDataset(table, folder, 100, augmentation="10", paste=paste)


def count_boxes(dataset, row, epochs=20):
    return [len(dataset[epoch, row].boxes) for epoch in range(epochs)]


def test_the_dataset_pastes_with_its_probability(tmp_path):
    dataset = make_dataset(tmp_path, 0.25)
    pasted = count_boxes(dataset, 0, epochs=200)
    assert 30 < sum(pasted) < 70
    labels = [dataset[epoch, 0].label for epoch in range(200)]
    assert labels == [2 * number for number in pasted]  # the donor's class with its boxes
    again = make_dataset(tmp_path, 0.25)
    for epoch in range(20):
        assert np.array_equal(dataset[epoch, 0].image, again[epoch, 0].image)


def test_the_dataset_adds_to_boxes(tmp_path):
    """Picture b is its own donor: its box meets the one that is there, mirrored or not."""
    always = make_dataset(tmp_path, 1.0)
    never = make_dataset(tmp_path, 0.0)
    assert set(count_boxes(always, 1)) == {1}
    assert set(count_boxes(never, 0)) == {0}
    aside = make_dataset(tmp_path, 1.0, ("[]", "[[20, 10, 45, 50]]"))
    assert set(count_boxes(aside, 1)) == {1, 2}


@pytest.mark.parametrize("row", [0, 1])
def test_the_dataset_without_any_box(tmp_path, row):
    nobody = make_dataset(tmp_path, 1.0, ("[]", "[]"))
    assert set(count_boxes(nobody, row, epochs=5)) == {0}


def test_only_for_boxes():
    with pytest.raises(InputError, match=r"--paste is read by --task rsna.* not by lungs"):
        read_command_line("train", "", ["--task", "lungs", "--paste", "0.2"])
