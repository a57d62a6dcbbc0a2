"""SIIM-ACR Pneumothorax: its files, its submission, and the five steps through the scripts on a tiny synthetic set."""

import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from steps import ROOT, STEPS, copy_of_run, run_here

from cxr.config import Config
from cxr.data.batch import collate
from cxr.data.dataset import XrayDataset, true_mask
from cxr.data.predictions import read_predictions
from cxr.data.tables import read_table
from cxr.datasets.pneumothorax.files import (
    check_mask_submission,
    format_mask_submission,
    read_pneumothorax,
    read_sample_ids,
)
from cxr.datasets.pneumothorax.synthetic import write_pneumothorax
from cxr.geometry.masks import decode_runs, encode_runs
from cxr.images.read import convert_image
from cxr.methods.segmenter.records import MaskPrediction
from cxr.steps.postprocess import postprocess
from cxr.system.errors import InputError
from cxr.tasks import TASKS

TASK = TASKS["pneumothorax"]
SHARED = Path(os.environ.get("CXR_SHARED_DATA", ROOT.parent / "shared" / "data")) / TASK.slug
needs_sample = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the real sample is not in {SHARED}")
FLAGS = (
    "--task",
    "pneumothorax",
    "--demo",
    "--demo-images",
    "14",
    "--run",
    "tiny",
    "--folds",
    "2",
    "--epochs",
    "1",
    "--size",
    "128",
    "--image-size",
    "64",
    "--batch-size",
    "4",
    "--keep",
    "1",
    "--workers",
    "0",
    "--device",
    "cpu",
)


def make_files(folder, lines, header="ImageId,EncodedPixels", csv="stage_2_train.csv", files=()):
    """Labels and files without content, which nobody opens when the tables are read."""
    folder.mkdir(exist_ok=True)
    (folder / csv).write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


TREE = [f"dicom-images-train/1.2.{k}/1.3.{k}/1.4.{k}.dcm" for k in range(3)]


@pytest.mark.parametrize(
    "csv, header, blank",
    [
        ("train-rle.csv", "ImageId, EncodedPixels", " "),
        ("stage_2_train.csv", "ImageId,EncodedPixels", ""),
        ("stage_2_train.csv", " ImageId , EncodedPixels ", "  "),
    ],
)
def test_both_generations_of_labels(tmp_path, csv, header, blank):
    lines = [
        f"1.4.0,{blank}-1",
        f"1.4.1,{blank}1025 2 1022 2",
        f"1.4.2,{blank}0 4",
        f"1.4.2,{blank}2 4",
        f"1.4.9,{blank}-1",
    ]
    train, test, notes = read_pneumothorax(
        make_files(tmp_path, lines, header, csv, [*TREE, "dicom-images-train/a/b/1.4.7.dcm"])
    )
    assert train["image_id"].tolist() == ["1.4.0", "1.4.1", "1.4.2"] and test.empty
    assert train["mask"].tolist() == ["-1", "1025 2 1022 2", "0 6"], (
        "the rows of an image are joined"
    )
    assert train["label"].tolist() == [0, 1, 1] and train["n_boxes"].tolist() == [0, 1, 2]
    assert json.loads(train["boxes"][1]) == [[1, 1, 3, 3]]
    text = " ".join(notes)
    assert "1 annotated images have no file" in text and "1 image files have no annotation" in text
    assert (
        "5 rows, 4 images, 2 with a pneumothorax" in text
        and "WARNING: the patients are not known" in text
    )


def test_test_images_of_the_second_stage(tmp_path):
    files = ["stage_2_images/ID_b.dcm", "stage_2_images/ID_a.dcm", *TREE]
    folder = make_files(tmp_path, ["1.4.0,-1"], files=files)
    _, test, notes = read_pneumothorax(folder)
    assert test["image_id"].tolist() == ["ID_a", "ID_b"] and test["label"].tolist() == [-1, -1]
    assert any("the 2 images of stage_2_images are the test set" in note for note in notes)
    make_files(
        tmp_path, ["ID_b,-1", "ID_c,-1", "ID_a,-1", "ID_b,-1"], csv="stage_2_sample_submission.csv"
    )
    _, test, notes = read_pneumothorax(folder)
    assert test["image_id"].tolist() == ["ID_b", "ID_a"] and read_sample_ids(folder) == [
        "ID_b",
        "ID_c",
        "ID_a",
    ]
    assert any("1 images of stage_2_sample_submission.csv have no file" in note for note in notes)


def test_test_images_of_the_first_stage(tmp_path):
    folder = make_files(
        tmp_path,
        ["1.4.0,-1", "1.4.1,0 1"],
        files=[TREE[0], "dicom-images-test/a/b/1.4.1.dcm", "dicom-images-test/a/b/1.4.5.dcm"],
    )
    train, test, _ = read_pneumothorax(folder)
    assert train["image_id"].tolist() == ["1.4.0", "1.4.1"], (
        "those that have labels now are training images"
    )
    assert test["image_id"].tolist() == ["1.4.5"]


def test_other_pictures(tmp_path):
    files = ["png/1.4.0.png", TREE[0], "jpg/1.4.1.JPG", "train-masks/1.4.2.png", "png/.1.4.2.png"]
    train, _, _ = read_pneumothorax(
        make_files(tmp_path, ["1.4.0,-1", "1.4.1,-1", "1.4.2,-1"], files=files)
    )
    assert [Path(path).name for path in train["path"]] == ["1.4.0.dcm", "1.4.1.JPG"]


def test_patients(tmp_path):
    folder = make_files(tmp_path, ["1.4.0,-1", "1.4.1,-1", "1.4.2,-1"], files=TREE)
    make_files(
        tmp_path,
        ["1.4.0,00000007_001.png", "1.4.1,00000007_002.png"],
        "Kaggle_ID,NIH_ID",
        "nih_id.csv",
    )
    train, _, notes = read_pneumothorax(folder)
    assert train["group"].tolist() == ["nih_00000007", "nih_00000007", "1.4.2"]
    assert not any("WARNING" in note for note in notes)
    make_files(tmp_path, ["1,2"], "a,b", "nih_id.csv")
    with pytest.raises(InputError, match="nih_id.csv lacks the column"):
        read_pneumothorax(folder)


@pytest.mark.parametrize(
    "lines, header, files, words",
    [
        (["1.4.0,1 2 3"], "ImageId,EncodedPixels", TREE, "broken mask of 1.4.0"),
        (
            ["1.4.0,1048570 9"],
            "ImageId,EncodedPixels",
            TREE,
            "broken mask of 1.4.0.*leave the picture",
        ),
        (["1.4.0,-1"], "ImageId,Pixels", TREE, "lacks the column EncodedPixels"),
        ([], "ImageId,EncodedPixels", TREE, "has no rows"),
        (["1.4.0,-1"], "ImageId,EncodedPixels", [], "holds none of the images"),
    ],
)
def test_labels_that_cannot_be_understood(tmp_path, lines, header, files, words):
    with pytest.raises(InputError, match=words):
        read_pneumothorax(make_files(tmp_path, lines, header, files=files))


def test_no_labels(tmp_path):
    with pytest.raises(InputError, match="neither stage_2_train.csv nor train-rle.csv"):
        read_pneumothorax(tmp_path)


def test_submission():
    table = format_mask_submission(["b", "a"], {"a": "3 2"})
    assert table.values.tolist() == [["b", "-1"], ["a", "3 2"]]
    check_mask_submission(table, ["b", "a"])
    for text, words in (
        ("3", "no pairs"),
        ("1048575 2", "leave the picture"),
        ("3 2 0 2", "runs touch"),
        ("x 1", "wrong"),
    ):
        with pytest.raises(
            InputError, match=f"wrong for a.*{words}" if words != "wrong" else words
        ):
            check_mask_submission(format_mask_submission(["b", "a"], {"a": text}), ["b", "a"])
    with pytest.raises(InputError, match="one row for each"):
        check_mask_submission(table, ["a", "b"])


def test_the_published_share_of_the_4th_place():
    config = Config(**{**TASK.presets["fourth"], "task": "pneumothorax"})
    table = pd.DataFrame({"label": [1] * 2335 + [0] * 9000})
    sampler = TASK.sampler(table, config, 0, 1)
    shares = []
    for epoch in (0, 30, 59):
        sampler.epoch = epoch
        shares.append(sampler.facts()["positive_share"])
    assert shares == pytest.approx([0.8, 0.51, 0.2297], abs=1e-3)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """All five steps on 14 synthetic images: input, working, task and run (folders), printed {step: text}."""
    root = tmp_path_factory.mktemp("pneumothorax")
    places = ("--input", root / "input", "--working", root / "working")
    printed = {}
    for step in STEPS:
        status, printed[step] = run_here(step, *FLAGS, *places)
        assert status == 0, f"{step}: {printed[step]}"
    task = root / "working" / "pneumothorax"
    return SimpleNamespace(
        source=root / "input" / TASK.slug, root=root, task=task, run=task / "tiny", printed=printed
    )


@pytest.fixture
def copy(finished, tmp_path):
    return copy_of_run(finished, tmp_path, FLAGS)


def test_tables(finished):
    train, test = (read_table(finished.task / f"{name}.csv") for name in ("train", "test"))
    assert (
        len(train) == 14
        and len(test) == 24
        and train["label"].sum() == (train["mask"] != "-1").sum() > 3
    )
    assert train.groupby("group")["fold"].nunique().max() == 1 and "frame" not in train
    assert "1 annotated images have no file" in finished.printed["02_preprocess"]
    assert all((true_mask(row).any()) == (row["label"] == 1) for _, row in train.iterrows())


def test_samples_and_batches(finished):
    data = XrayDataset(read_table(finished.task / "train.csv"), finished.task / "images", 64, "15")
    row = int(data.table["label"].argmax())
    sample = data[(0, row)]
    assert (
        sample["mask"].shape == (1, 64, 64)
        and sample["mask"].dtype == torch.uint8
        and sample["mask"].any()
    )
    batch = collate([data[(0, row)], data[(0, 0)]])
    assert batch["mask"].shape == (2, 1, 64, 64) and torch.equal(batch["mask"][0], sample["mask"])


def test_log(finished):
    log = pd.read_csv(finished.run / "fold0" / "log.csv")
    assert {
        "positive_share",
        "metric",
        "all_empty",
        "dice_positive",
        "sensitivity",
        "specificity",
    } <= set(log)
    assert (abs(log["positive_share"] - 0.6) < 0.1).all()
    assert re.search(
        r"metric \d.*all empty \d.*dice positive .*sensitivity .*specificity",
        finished.printed["03_train"],
    )


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
    assert (
        results["all empty"]
        == pytest.approx((truth == 0).mean())
        == results["baselines"]["all images empty"]
    )
    assert results["params"]["rule"] == "first"


def test_written_submission(finished):
    table = pd.read_csv(finished.run / "submission.csv", dtype=str)
    assert table["ImageId"].tolist() == read_sample_ids(finished.source)
    for text in table["EncodedPixels"]:
        assert encode_runs(decode_runs(text, 1024, 1024)) == text


def test_report(finished):
    page = (finished.run / "report.html").read_text(encoding="utf-8")
    assert (
        "<polygon points=" in page
        and "Calibration of the image score" in page
        and "Dice by size" in page
    )
    assert (
        "Results by sex, age and view" in page
        and "predicted region" in page
        and "predicted box" not in page
    )
    assert (finished.run / "gallery.png").stat().st_size and (
        finished.run / "detection.png"
    ).stat().st_size


def test_predictions_are_whole_or_absent(copy):
    folder = copy.run / "fold0" / "valid_predictions"
    before = [
        (p.image_id, p.head, p.png.tobytes()) for p in read_predictions(folder, MaskPrediction)
    ]
    for part in folder.glob("part-*.npz"):
        part.unlink()
    assert run_here("04_predict", *copy.flags)[0] == 0
    after = [
        (p.image_id, p.head, p.png.tobytes()) for p in read_predictions(folder, MaskPrediction)
    ]
    assert [row[0] for row in after] == [row[0] for row in before]
    assert np.allclose([row[1] for row in after], [row[1] for row in before], atol=1e-5)
    part = folder / "part-00000.npz"
    content = part.read_bytes()
    part.unlink()
    part.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="not a whole prediction file"):
        list(read_predictions(folder, MaskPrediction))


def test_probability_size(copy):
    assert (
        run_here(
            "04_predict",
            *copy.flags,
            "--predictions",
            "small",
            "--probability-size",
            "32",
            "--tta",
            "none",
        )[0]
        == 0
    )
    found = next(read_predictions(copy.run / "test_small", MaskPrediction))
    assert cv2.imdecode(found.png, cv2.IMREAD_GRAYSCALE).shape == (
        32,
        32,
    ) and found.picture().shape == (1024, 1024)


@pytest.mark.parametrize(
    "flags, words",
    [
        (("--rule", "fourth"), "fitted on the other folds"),
        (("--rule", "fifth", "--component", "100"), "score"),
        (("--fit-on", "published"), "nothing was fitted"),
        (("--rule", "second", "--stack", "tiny", "tiny"), "score"),
    ],
)
def test_other_rules(copy, flags, words, monkeypatch):
    monkeypatch.setattr(
        postprocess, "write_report", lambda path, report: path
    )  # drawn once in `finished`
    status, text = run_here("05_postprocess", *copy.flags, *flags)
    assert status == 0 and words in text
    params = json.loads((copy.run / "params.json").read_text())
    assert params["rule"] == (flags[1] if flags[0] == "--rule" else "first")


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


def test_synthetic_data_of_the_first_stage(tmp_path):
    write_pneumothorax(tmp_path / "set", n_train=3, n_test=2, side=64, generation=1)
    train, test, notes = read_pneumothorax(tmp_path / "set")
    assert len(train) == 3 and len(test) == 2 and "train-rle.csv" in notes[0]
    assert (tmp_path / "set" / "train-rle.csv").read_text().startswith("ImageId, EncodedPixels\n")
    assert not write_pneumothorax(tmp_path / "set", n_train=3, n_test=2, side=64, generation=1)
    header, reason = convert_image(test["path"][0], tmp_path / "a.png", 64)
    assert header.width == header.height == 1024 and not reason


@needs_sample
def test_the_real_sample(tmp_path):
    train, test, notes = read_pneumothorax(SHARED)
    assert len(train) == 32 and train["label"].sum() == 14 and len(test) == 12
    assert sorted(Path(path).suffix for path in train["path"]).count(".dcm") == 26
    assert all(encode_runs(decode_runs(text, 1024, 1024)) == text for text in train["mask"])
    for table in (train[train["path"].str.endswith(("png", "jpg"))], train[:3], test[:3]):
        for row in table.itertuples():
            header, reason = convert_image(row.path, tmp_path / f"{row.image_id}.png", 64)
            assert header is not None and (header.width, header.height) == (1024, 1024), reason
