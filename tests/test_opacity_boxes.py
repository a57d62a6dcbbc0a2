"""Boxes of detector runs for another task's images: out of fold, fused, refused; the detector of COVID-19 opacities."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from steps import STEPS, protect, run_here

from cxr.config import Config
from cxr.data import read_table
from cxr.detection import Candidates
from cxr.disk import InputError
from cxr.opacity_boxes import MOST, find_boxes, fuse
from cxr.predictions import write_part
from cxr.tasks import TASKS

TASK = TASKS["covid-boxes"]
FLAGS = ("--task", "covid-boxes", "--demo", "--demo-images", "24", "--run", "tiny", "--folds", "2", "--epochs", "1",
         "--batch-size", "4", "--keep", "1", "--channels", "16", "--image-size", "192", "--size", "192", "--workers", "0",
         "--device", "cpu")


def found(*rows):
    """(boxes, scores) of rows x1 y1 x2 y2 score."""
    rows = np.array(rows, float).reshape(-1, 5)
    return rows[:, :4], rows[:, 4]


def candidates(image_id, *rows, width=100, height=200):
    boxes, scores = found(*rows)
    size = (boxes[:, 2:] - boxes[:, :2]).astype(np.float32)
    return Candidates(image_id, width, height, np.full(4, 0.25), ((boxes[:, :2] + boxes[:, 2:]) / 2).astype(np.float32),
                      size, size, scores.astype(np.float32), np.zeros(len(scores), np.int16))


def test_a_box_that_two_runs_found_is_their_weighted_mean():
    """IoU 0.9 / 1 of the two: corner y2 is (0.8 * 100 + 0.4 * 90) / 1.2, the score their mean."""
    boxes, scores = fuse([found((10, 0, 60, 100, 0.8)), found((10, 0, 60, 90, 0.4))], 100, 200)
    assert boxes == pytest.approx(np.array([[10, 0, 60, 116 / 1.2]]), abs=1e-3) and scores == pytest.approx([0.6])


def test_a_box_of_one_run_of_two_counts_half_and_scores_fall():
    boxes, scores = fuse([found((0, 0, 20, 20, 0.9), (50, 50, 90, 90, 0.3)), found((50, 50, 90, 90, 0.7))], 100, 200)
    assert boxes == pytest.approx(np.array([[50, 50, 90, 90], [0, 0, 20, 20]]), abs=1e-3)
    assert scores == pytest.approx([0.5, 0.45])


def test_fusing_nothing_and_one_run():
    boxes, scores = fuse([found(), found()], 100, 200)
    assert boxes.shape == (0, 4) and scores.shape == (0,)
    alone = found((0, 0, 20, 20, 0.9))
    assert fuse([alone], 100, 200) is alone
    boxes, scores = fuse([found(), alone], 100, 200)
    assert boxes == pytest.approx(alone[0]) and scores == pytest.approx([0.45])


@pytest.fixture
def working(tmp_path):
    """Two runs of a detector, whose box of an image tells by its score which run and fold it is of."""
    table = pd.DataFrame({"image_id": ["a", "b", "c"], "fold": [0, 1, 1], "group": ["p", "q", "r"], "width": 100,
                          "height": 200})
    (tmp_path / "detector").mkdir()
    table.to_csv(tmp_path / "detector" / "train.csv", index=False)
    for number, run in enumerate(("one", "two")):
        for fold, rows in table.groupby("fold"):
            write_part(tmp_path / "detector" / run / f"fold{fold}" / "valid_predictions", 0, [
                candidates(key, (10, 10, 50, 50, 0.1 + 0.2 * fold + 0.4 * number)) for key in rows["image_id"]])
        write_part(tmp_path / "detector" / run / "test_predictions", 0, [candidates("t"), candidates("u", *[
            (k, 0, k + 1, 9, 0.5) for k in range(100)], *[(k, 20, k + 1, 29, 0.4) for k in range(50)])])
    return SimpleNamespace(folder=tmp_path, table=table,
                           test=pd.DataFrame({"image_id": ["t", "u"], "width": 100, "height": 200}))


def config_of(working, *runs):
    return Config(working=working.folder, opacities=runs)


def test_validation_images_get_the_boxes_of_their_own_fold(working):
    boxes = find_boxes(config_of(working, "one"), "detector", working.table)
    assert {key: own[1].round(6).tolist() for key, own in boxes.items()} == {"a": [0.1], "b": [0.3], "c": [0.3]}
    assert boxes["a"][0] == pytest.approx(np.array([[10, 10, 50, 50]]), abs=1e-4)
    part = find_boxes(config_of(working, "one", "two"), "detector", working.table[1:])
    assert part.keys() == {"b", "c"} and part["b"][1] == pytest.approx([0.5])


def test_test_images_get_those_of_all_models_and_not_too_many(working):
    boxes = find_boxes(config_of(working, "two"), "detector", working.test)
    assert boxes["t"][0].shape == (0, 4) and len(boxes["u"][0]) == MOST and (boxes["u"][1] > 0.45).all()


def test_other_folds_are_refused(working):
    with pytest.raises(InputError, match="1 of 3 images are in another fold .* the first: b; .* run step 02 of both"):
        find_boxes(config_of(working, "one"), "detector", working.table.assign(fold=[0, 0, 1]))
    with pytest.raises(InputError, match="not in it, the first: d"):
        find_boxes(config_of(working, "one"), "detector", working.table.assign(image_id=["a", "b", "d"]))


def test_missing_predictions_are_refused_with_a_remedy(working):
    with pytest.raises(InputError, match="lacks boxes of 1 of 1 images: run 03_train.py and 04_predict.py with --task "
                                         "detector --run three, or name another"):
        find_boxes(config_of(working, "three"), "detector", working.table[:1])
    with pytest.raises(InputError, match="run step 02 first"):
        find_boxes(config_of(working, "one"), "nothing", working.table)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """All five steps on 24 synthetic images."""
    root, printed = tmp_path_factory.mktemp("boxes"), {}
    for step in STEPS:
        status, printed[step] = run_here(step, *FLAGS, "--input", root / "input", "--working", root / "working")
        assert status == 0, printed[step]
        if step == STEPS[0]:
            protect(root / "input")
    task = root / "working" / "covid-boxes"
    return SimpleNamespace(working=root / "working", task=task, run=task / "tiny", printed=printed)


def test_images_of_unknown_content_are_predicted_but_neither_learned_nor_judged(pipeline):
    train = read_table(pipeline.task / "train.csv")
    unknown = train[~train["mask_known"]]
    assert len(unknown) and (unknown["n_boxes"] == 0).all() and (unknown["label"] > 0).all()
    used = TASK.select(train, Config())
    assert set(train["image_id"]) - set(used["image_id"]) == set(unknown["image_id"]) and "mask_known" not in used
    results = json.loads((pipeline.run / "results.json").read_text())
    assert results["n_images"] == len(used) and set(results["ap"]) == {"Opacity"}
    words = f"{len(unknown)} of {len(train)} images are neither learned from nor judged"
    assert words in (pipeline.run / "report.html").read_text(encoding="utf-8")
    config = Config(working=pipeline.working, opacities=("tiny",))
    boxes = find_boxes(config, "covid-boxes", train)
    assert boxes.keys() == set(train["image_id"])
    assert min(scores.min() for _, scores in boxes.values() if len(scores)) < 0.1
    width, height = train.set_index("image_id").loc[list(boxes), ["width", "height"]].to_numpy().T
    for (corners, _), *size in zip(boxes.values(), width, height):
        assert (corners >= 0).all() and (corners <= np.tile(size, 2)).all()


def test_boxes_of_the_test_images_as_a_table(pipeline):
    table, test = pd.read_csv(pipeline.run / "test_boxes.csv"), read_table(pipeline.task / "test.csv")
    assert table.columns.tolist() == ["image_id", "x1", "y1", "x2", "y2", "score", "above_threshold"]
    assert set(table["image_id"]) <= set(test["image_id"]) and len(table) and table["score"].between(0, 1).all()
    assert "test_boxes.csv" in pipeline.printed["05_postprocess"]


def test_no_submission_of_its_own(pipeline):
    status, text = run_here("05_postprocess", *FLAGS, "--working", pipeline.working, "--submit", "words")
    assert status == 1 and "nowhere to send" in text
