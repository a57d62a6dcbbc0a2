"""VinBigData: the five steps on a tiny synthetic set."""

import json
from types import SimpleNamespace

import pandas as pd
import pytest
from steps import STEPS, run_here

from cxr.data.tables import read_table
from cxr.datasets.vinbigdata.files import (
    FINDINGS,
    check_vinbigdata_submission,
    read_sample_order,
)
from cxr.tasks import TASKS

TASK = TASKS["vinbigdata"]
FLAGS = (
    *("--task", "vinbigdata", "--demo", "--demo-images", "12", "--run", "tiny"),
    *("--folds", "2", "--epochs", "1", "--batch-size", "2", "--keep", "1"),
    *("--channels", "16", "--head-convs", "1", "--image-size", "192", "--size", "192"),
    *("--workers", "0", "--device", "cpu"),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """All five steps on 12 images: source, task and run (folders), printed {step: text}."""
    root = tmp_path_factory.mktemp("vinbigdata")
    folders = ("--input", root / "input", "--working", root / "working")
    printed = {}
    for step in STEPS:
        status, printed[step] = run_here(step, *FLAGS, *folders)
        assert status == 0, f"{step}: {printed[step]}"
    task = root / "working" / "vinbigdata"
    source = root / "input" / TASK.dataset.slug
    return SimpleNamespace(
        source=source, task=task, run=task / "tiny", printed=printed, folders=folders
    )


def test_boxes_are_those_of_the_readers_fused(finished):
    train = read_table(finished.task / "train.csv")
    marks = pd.read_csv(finished.source / "train.csv")
    assert len(train) == 12
    assert 0 < train["n_boxes"].sum() < (marks["class_id"] < 14).sum()


def test_score_is_at_the_competitions_iou(finished):
    results = json.loads((finished.run / "results.json").read_text())
    assert set(results["ap"]) == set(FINDINGS)
    params = json.loads((finished.run / "params.json").read_text())
    assert set(params["threshold"]) == set(FINDINGS)
    assert "Mean AP at IoU 0.4" in (finished.run / "report.html").read_text(encoding="utf-8")


def test_submission(finished):
    table = pd.read_csv(finished.run / "submission.csv", dtype=str)
    check_vinbigdata_submission(table, read_sample_order(finished.source))
    assert len(table) == 24


def test_all_boxes_are_another_task_folder(finished):
    status, text = run_here("02_preprocess", *FLAGS, *finished.folders, "--readers", "all")
    assert status == 1 and "readers" in text
