"""SIIM-ACR Pneumothorax: the five steps through the scripts on a tiny synthetic set."""

import json
import re
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from steps import STEPS, copy_of_run, run_here

from cxr.data.batch import SampleContent, collate
from cxr.data.dataset import XrayDataset, true_mask
from cxr.data.predictions import read_predictions
from cxr.data.tables import read_table
from cxr.datasets.pneumothorax.files import read_sample_ids
from cxr.geometry.masks import decode_runs, encode_runs
from cxr.methods.segmenter.records import MaskPrediction
from cxr.steps.postprocess import postprocess
from cxr.system.errors import InputError
from cxr.system.runtime import Runtime
from cxr.tasks import TASKS

TASK = TASKS["pneumothorax"]
FLAGS = (
    *("--task", "pneumothorax", "--demo", "--demo-images", "14", "--run", "tiny"),
    *("--folds", "2", "--epochs", "1", "--size", "128", "--image-size", "64"),
    *("--batch-size", "4", "--keep", "1", "--workers", "0", "--device", "cpu"),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """All five steps on 14 images: input, working, task and run (folders), printed {step: text}."""
    root = tmp_path_factory.mktemp("pneumothorax")
    folders = ("--input", root / "input", "--working", root / "working")
    printed = {}
    for step in STEPS:
        status, printed[step] = run_here(step, *FLAGS, *folders)
        assert status == 0, f"{step}: {printed[step]}"
    task = root / "working" / "pneumothorax"
    return SimpleNamespace(
        source=root / "input" / TASK.dataset.slug,
        root=root,
        task=task,
        run=task / "tiny",
        printed=printed,
    )


@pytest.fixture
def copy(finished, tmp_path):
    return copy_of_run(finished, tmp_path, FLAGS)


def test_the_published_share_of_the_4th_place():
    settings = TASK.settings_of({"preset": "fourth"})
    table = pd.DataFrame({"label": [1] * 2335 + [0] * 9000})
    runtime = Runtime(torch.device("cpu"), "fp32")
    sampler = TASK.method.train_sampler(table, settings, runtime)
    shares = []
    for epoch in (0, 30, 59):
        sampler.epoch = epoch
        shares.append(sampler.facts()["positive_share"])
    assert shares == pytest.approx([0.8, 0.51, 0.2297], abs=1e-3)


def test_tables(finished):
    train = read_table(finished.task / "train.csv")
    test = read_table(finished.task / "test.csv")
    assert len(train) == 14 and len(test) == 24
    assert train["label"].sum() == (train["mask"] != "-1").sum() > 3
    assert train.groupby("group")["fold"].nunique().max() == 1
    assert "frame" not in train
    assert "1 annotated images have no file" in finished.printed["02_preprocess"]
    for _, row in train.iterrows():
        assert true_mask(row).any() == (row["label"] == 1)


def test_samples_and_batches(finished):
    table = read_table(finished.task / "train.csv")
    content = SampleContent(mask="runs")
    data = XrayDataset(table, finished.task / "images", 64, content, augmentation="15")
    positive_row = int(table["label"].argmax())
    sample = data[(0, positive_row)]
    assert sample.mask.shape == (1, 64, 64) and sample.mask.dtype == torch.uint8
    assert sample.mask.any()
    batch = collate([data[(0, positive_row)], data[(0, 0)]])
    assert batch.masks.shape == (2, 1, 64, 64)
    assert torch.equal(batch.masks[0], sample.mask)


def test_log(finished):
    log = pd.read_csv(finished.run / "fold0" / "log.csv")
    figures = {"positive_share", "metric", "all_empty"}
    figures |= {"dice_positive", "sensitivity", "specificity"}
    assert figures <= set(log)
    assert (abs(log["positive_share"] - 0.6) < 0.1).all()
    words = r"metric \d.*all empty \d.*dice positive .*sensitivity .*specificity"
    assert re.search(words, finished.printed["03_train"])


def test_every_score_line(finished):
    text = finished.printed["05_postprocess"]
    for words in (
        "score 0",
        "all empty 0",
        "Dice of positives",
        "sensitivity",
        "specificity",
        "fitted on the other folds",
        "all images empty: 0",
        "published thresholds, nothing fitted: 0",
    ):
        assert words in text
    results = json.loads((finished.run / "results.json").read_text())
    truth = read_table(finished.task / "train.csv")["label"]
    negative_share = (truth == 0).mean()
    assert results["all empty"] == pytest.approx(negative_share)
    assert results["baselines"]["all images empty"] == pytest.approx(negative_share)
    assert results["params"]["rule"] == "first"


def test_written_submission(finished):
    table = pd.read_csv(finished.run / "submission.csv", dtype=str)
    assert table["ImageId"].tolist() == read_sample_ids(finished.source)
    for runs in table["EncodedPixels"]:
        assert encode_runs(decode_runs(runs, 1024, 1024)) == runs


def test_report(finished):
    page = (finished.run / "report.html").read_text(encoding="utf-8")
    for words in (
        "<polygon points=",
        "Calibration of the image score",
        "Dice by size",
        "Results by sex, age and view",
        "predicted region",
    ):
        assert words in page
    assert "predicted box" not in page
    assert (finished.run / "gallery.png").stat().st_size
    assert (finished.run / "detection.png").stat().st_size


def test_predictions_are_whole_or_absent(copy):
    folder = copy.run / "fold0" / "valid_predictions"
    before = list(read_predictions(folder, MaskPrediction))
    for part in folder.glob("part-*.npz"):
        part.unlink()
    assert run_here("04_predict", *copy.flags)[0] == 0
    after = list(read_predictions(folder, MaskPrediction))
    for old, new in zip(before, after, strict=True):
        assert new.image_id == old.image_id
        assert new.head == pytest.approx(old.head, abs=1e-5)

    part = folder / "part-00000.npz"
    content = part.read_bytes()
    part.unlink()
    part.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="not a whole prediction file"):
        list(read_predictions(folder, MaskPrediction))


def test_probability_size(copy):
    flags = ("--predictions", "small", "--probability-size", "32", "--tta", "none")
    status, text = run_here("04_predict", *copy.flags, *flags)
    assert status == 0, text
    prediction = next(read_predictions(copy.run / "test_small", MaskPrediction))
    assert cv2.imdecode(prediction.png, cv2.IMREAD_GRAYSCALE).shape == (32, 32)
    assert prediction.picture().shape == (1024, 1024)
    assert prediction.picture().dtype == np.uint8


@pytest.mark.parametrize(
    "flags, rule, words",
    [
        (("--rule", "fourth"), "fourth", "fitted on the other folds"),
        (("--rule", "fifth", "--component", "100"), "fifth", "score"),
        (("--fit-on", "published"), "first", "nothing was fitted"),
        (("--rule", "second", "--stack", "tiny", "tiny"), "second", "score"),
    ],
)
def test_other_rules(copy, flags, rule, words, monkeypatch):
    # The report is drawn once, in `finished`.
    monkeypatch.setattr(postprocess, "write_report", lambda path, *_: path)
    status, text = run_here("05_postprocess", *copy.flags, *flags)
    assert status == 0, text
    assert words in text
    assert json.loads((copy.run / "params.json").read_text())["rule"] == rule


@pytest.mark.parametrize(
    "flags, words",
    [
        (("--fit-on", "testlike"), "no images like the test set"),
        (("--stack", "other"), "has no image score of"),
    ],
)
def test_impossible_wishes(copy, flags, words):
    status, text = run_here("05_postprocess", *copy.flags, *flags)
    assert status == 1 and words in text
