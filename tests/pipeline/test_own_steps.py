"""--task own through the five steps, for each kind of labels, on tiny drawn sets."""

import json

import cv2
import numpy as np
import pandas as pd
import pytest
from steps import STEPS, run_here

from cxr.data.tables import read_table
from cxr.inference.open_run import open_run

TINY = (
    *("--folds", "2", "--epochs", "1", "--batch-size", "2", "--keep", "1", "--run", "tiny"),
    *("--encoder", "tu-resnet10t", "--weights", "none", "--frozen-stages", "0", "--size", "192"),
    *("--workers", "0", "--device", "cpu", "--tta", "none"),
)
KINDS = {
    "boxes": ("--image-size", "192", "--levels", "3-5", "--channels", "16", "--head-convs", "1"),
    "classes": ("--image-size", "64"),
    "masks": ("--image-size", "64"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_five_steps(kind, tmp_path):
    name = f"own-{kind}"
    drawn = ("--demo", "--demo-images", "8", "--input", tmp_path / "in")
    status, said = run_here("01_download", "--task", name, *drawn, "--working", tmp_path / "w")
    assert status == 0, said
    folder = tmp_path / "in" / name
    flags = ("--task", "own", "--input", folder, "--working", tmp_path / "w", *TINY, *KINDS[kind])
    if kind == "masks":
        for path in (folder / "images").glob("*2?.png"):
            path.unlink()  # of the 24 without a label

    _, said = run_here("02_preprocess", *flags, "--check")
    assert f"kind: {kind}" in said
    assert (tmp_path / "w" / name / "check.png").exists()
    assert not (tmp_path / "w" / name / "train.csv").exists()
    for step in STEPS[1:]:
        status, said = run_here(step, *flags)
        assert status == 0, f"{step}: {said}"

    task = tmp_path / "w" / name
    run = task / "tiny"
    unlabelled = read_table(task / "test.csv")
    results = json.loads((run / "results.json").read_text())
    assert results["n_images"] == 8
    answered = pd.read_csv(run / "predictions.csv")
    assert set(answered["image_id"]) == set(unlabelled["image_id"])
    config = json.loads((run / "fold0" / "config.json").read_text())
    plan = json.loads((task / "plan.json").read_text())
    assert config["class_names"] == plan["settings"]["class_names"]
    assert "Own" in (run / "report.html").read_text(encoding="utf-8")
    doubts = pd.read_csv(run / "to_label.csv")
    assert set(doubts["image_id"]) == set(unlabelled["image_id"])
    assert (doubts["disagreement"].diff().dropna() <= 0).all()
    assert doubts[["disagreement", "entropy"]].stack().between(0, 1).all()
    CHECKS[kind](run, results, answered)


def check_boxes(run, results, answered):
    assert set(results["ap"]) == {"Consolidation", "Effusion", "Mass"}
    content = json.loads((run / "pre_annotations.json").read_text())
    assert len(content["images"]) == answered["image_id"].nunique()


def check_classes(run, results, answered):
    """Sigmoid: the probabilities of an image do not add up to 1."""
    names = ["Consolidation", "Effusion", "Mass"]
    assert set(results["auroc"]) == set(names)
    totals = answered[names].sum(axis=1)
    assert (np.abs(totals - 1) > 0.05).any()
    opened = open_run(run)
    assert list(opened.predict(next(run.parents[2].rglob("*.dcm"))).probabilities) == names


def check_masks(run, results, answered):
    del results
    for row in answered.itertuples():
        mask = cv2.imread(str(run / row.file), cv2.IMREAD_UNCHANGED)
        assert np.count_nonzero(mask) == row.area


CHECKS = {"boxes": check_boxes, "classes": check_classes, "masks": check_masks}
