"""--task own learns from a COCO file what chestxdet learns from its own: equal to the last bit."""

import json
import shutil
from contextlib import ExitStack
from unittest import mock

import cv2
import numpy as np
import pytest
import torch
from steps import STEPS, run_here

from cxr.data.tables import read_table
from cxr.datasets.chestxdet.files import FINDINGS
from cxr.inference.checkpoint import load_state
from cxr.run_folder import RunFolder
from cxr.steps.postprocess import postprocess
from cxr.steps.preprocess import preprocess
from cxr.system.disk import read_json, write_json
from cxr.tasks import TASKS

SIDE = 192
TRAIN = 20  # images; each finding has two boxes, so each fold has one of it
TEST = 4
TINY = (
    *("--folds", "2", "--epochs", "1", "--batch-size", "4", "--keep", "1", "--run", "tiny"),
    *("--encoder", "tu-test_resnet", "--weights", "none", "--frozen-stages", "0"),
    *("--size", SIDE, "--image-size", SIDE, "--levels", "3-5", "--channels", "16"),
    *("--head-convs", "1", "--workers", "0", "--device", "cpu", "--tta", "none"),
)
PICTURES = (
    (preprocess, "write_overview"),
    (postprocess, "write_report"),
    (postprocess, "write_model_card"),
)
# Not of the training: where things are, and how own labels are read.
NOT_COMMON = ("task", "preset", "run", "fold", "working", "input")


def draw_image(rng, number):
    """A gray picture (SIDE, SIDE) with a bright box of one finding, and the box x1 y1 x2 y2."""
    picture = rng.integers(0, 90, (SIDE, SIDE), np.uint8)
    x, y = rng.integers(8, 60, 2).tolist()
    width, height = 30 + number % 10, 40
    picture[y : y + height, x : x + width] = 160 + 9 * (number % 10)
    return picture, [x, y, x + width, y + height]


def write_both(folder):
    """The same pictures and boxes as chestxdet and as COCO's json have them."""
    rng = np.random.default_rng(0)
    own = folder / "own"
    theirs = folder / "theirs" / TASKS["chestxdet"].dataset.slug
    for name, count, first in (("train", TRAIN, 100), ("test", TEST, 500)):
        (own / name).mkdir(parents=True)
        (theirs / f"{name}_data").mkdir(parents=True)
        entries = []
        content = {"images": [], "annotations": [], "categories": []}
        for label, finding in enumerate(FINDINGS, start=1):
            content["categories"].append({"id": label, "name": finding})
        for number in range(count):
            file_name = f"{first + number}.png"
            picture, (x1, y1, x2, y2) = draw_image(rng, number)
            label = number % len(FINDINGS)
            cv2.imwrite(str(own / name / file_name), picture)
            shutil.copy(own / name / file_name, theirs / f"{name}_data" / file_name)
            entry = {"file_name": file_name, "syms": [FINDINGS[label]]}
            entries.append(entry | {"boxes": [[x1, y1, x2, y2]]})
            content["images"].append(
                {"id": number, "file_name": file_name, "width": SIDE, "height": SIDE}
            )
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "category_id": label + 1}
            content["annotations"].append({"id": number, "image_id": number} | box)
        (theirs / f"{name}.json").write_text(json.dumps(entries))
        (own / name / "coco.json").write_text(json.dumps(content))
    return own, theirs.parent


def go(*flags):
    """Steps 02 to 05 without the pictures, which take most of the time."""
    with ExitStack() as stack:
        for module, name in PICTURES:
            stack.enter_context(mock.patch.object(module, name))
        for step in STEPS[1:]:
            status, said = run_here(step, *flags)
            assert status == 0, f"{step}: {said}"


def write_common_settings(run, path):
    """What a run of own boxes was trained with, as far as chestxdet has the same settings."""
    known = TASKS["chestxdet"].make_settings({}).flat()
    values = {}
    for name, value in run.fold(0).read_config().items():
        if name in known and name not in NOT_COMMON:
            values[name] = value
    write_json(path, values)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The two runs: of own boxes and of chestxdet."""
    folder = tmp_path_factory.mktemp("same")
    own_input, their_input = write_both(folder)
    working = folder / "working"
    go("--task", "own", "--input", own_input, "--working", working, *TINY)
    own = RunFolder(working / "own-boxes" / "tiny")
    common = folder / "common.json"
    write_common_settings(own, common)
    flags = ("--task", "chestxdet", "--config", common, "--run", "tiny")
    go(*flags, "--input", their_input, "--working", working)
    return own, RunFolder(working / "chestxdet" / "tiny")


def test_tables_and_pictures(runs):
    own, theirs = runs
    for name in ("train", "test"):
        one = read_table(own.task.table(name))
        other = read_table(theirs.task.table(name))
        columns = ["image_id", "boxes", "box_labels", "label", "width", "height"]
        if name == "train":
            columns.append("fold")
        assert one[columns].equals(other[columns])
        for image_id in one["image_id"]:
            assert own.task.image(image_id).read_bytes() == theirs.task.image(image_id).read_bytes()


def test_weights_to_the_last_bit(runs):
    own, theirs = runs
    for fold in range(2):
        [one] = own.fold(fold).checkpoints()
        [other] = theirs.fold(fold).checkpoints()
        weights = load_state(one)["model"]
        assert weights.keys() == load_state(other)["model"].keys()
        for name, value in load_state(other)["model"].items():
            assert torch.equal(weights[name], value), name


def test_scores(runs):
    own, theirs = runs
    one = read_json(own.judged().results)
    other = read_json(theirs.judged().results)
    for name in ("score", "interval", "ap", "baselines", "params", "test", "judged_images"):
        assert one[name] == other[name], name
    assert one["score"] is not None
    assert one["test"]["n_images"] == TEST
