"""The tables of step 02: read, divided, and boxes brought inside their images."""

import json

import pandas as pd
import pytest

from cxr.data.tables import boxes_inside, keep_classes, read_table, split_fold
from cxr.system.errors import InputError


def test_table_that_is_missing(tmp_path):
    with pytest.raises(InputError, match=r"train\.csv is missing: run step 02 first"):
        read_table(tmp_path / "train.csv")


def test_ids_of_digits_stay_text(tmp_path):
    (tmp_path / "t.csv").write_text("image_id,group\n007,01\n")
    table = read_table(tmp_path / "t.csv")
    assert table["image_id"].tolist() == ["007"]
    assert table["group"].tolist() == ["01"]


def test_split_fold():
    table = pd.DataFrame({"image_id": list("abcdef"), "fold": [0, 1, 2, 0, 1, 2]})
    train, valid = split_fold(table, 1)
    assert train["image_id"].tolist() == list("acdf")
    assert valid["image_id"].tolist() == list("be")
    with pytest.raises(InputError, match=r"fold 3 is not .*\[0, 1, 2\]\): give --folds 3,"):
        split_fold(table, 3)
    with pytest.raises(InputError, match="fold 1"):
        split_fold(table[table["fold"] == 1], 1)
    with pytest.raises(InputError, match="fold 0"):
        split_fold(table[:0], 0)


def test_boxes_of_the_first_classes():
    boxes = ["[[1, 2, 3, 4], [5, 6, 7, 8], [2, 2, 9, 9]]", "[]"]
    table = pd.DataFrame({"boxes": boxes, "box_labels": ["[2, 0, 1]", "[]"], "n_boxes": [3, 0]})
    kept = keep_classes(table, 2)
    assert json.loads(kept["boxes"][0]) == [[5, 6, 7, 8], [2, 2, 9, 9]]
    assert json.loads(kept["box_labels"][0]) == [0, 1]
    assert kept["n_boxes"].tolist() == [2, 0]
    assert kept["boxes"][1] == kept["box_labels"][1] == "[]"


def test_boxes_inside():
    boxes = [
        [-5, 2, 10, 9],
        [1, 1, 2, 2],
        [90, 10, 120, 80],
        [100, 0, 130, 20],
        [5, 5, 5, 9],
        [0, -9, 9, 0],
    ]
    inside = boxes_inside(boxes, list("abcdef"), 100, 50)
    assert inside.boxes == [[0, 2, 10, 9], [1, 1, 2, 2], [90, 10, 100, 50]]
    assert inside.labels == ["a", "b", "c"]
    assert inside.clipped == 2
    assert inside.left_out == 3


def test_no_boxes_inside():
    inside = boxes_inside([], [], 100, 50)
    assert inside.boxes == inside.labels == []
    assert inside.clipped == inside.left_out == 0


def test_a_box_that_stands_twice_with_its_class_counts_once():
    boxes = [[1, 2, 30, 40], [1, 2, 30, 40], [1, 2, 30, 40], [5, 5, 9, 9]]
    inside = boxes_inside(boxes, [0, 0, 1, 0], 100, 50)
    assert inside.boxes == [[1, 2, 30, 40], [1, 2, 30, 40], [5, 5, 9, 9]]
    assert inside.labels == [0, 1, 0]
    assert inside.repeated == 1
    assert inside.left_out == 0
