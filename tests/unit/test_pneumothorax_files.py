"""SIIM-ACR Pneumothorax's files: labels of both stages, patients, submissions, the real sample."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from cxr.datasets.pneumothorax.files import (
    check_mask_submission,
    format_mask_submission,
    read_pneumothorax,
    read_sample_ids,
)
from cxr.datasets.pneumothorax.synthetic import write_pneumothorax
from cxr.geometry.masks import decode_runs, encode_runs
from cxr.images.read import convert_image
from cxr.system.errors import InputError

SLUG = "siim-acr-pneumothorax-segmentation"
SHARED = (
    Path(os.environ.get("CXR_SHARED_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
    / SLUG
)
needs_sample = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the real sample is not in {SHARED}")
HEADER = "ImageId,EncodedPixels"
TREE = [f"dicom-images-train/1.2.{k}/1.3.{k}/1.4.{k}.dcm" for k in range(3)]


def make_files(folder, lines, header=HEADER, csv="stage_2_train.csv", files=()):
    """Labels and files without content, which nobody opens when the tables are read."""
    folder.mkdir(exist_ok=True)
    (folder / csv).write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


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
    files = [*TREE, "dicom-images-train/a/b/1.4.7.dcm"]
    train, test, notes = read_pneumothorax(make_files(tmp_path, lines, header, csv, files))
    assert train["image_id"].tolist() == ["1.4.0", "1.4.1", "1.4.2"] and test.empty
    # The rows of an image are joined.
    assert train["mask"].tolist() == ["-1", "1025 2 1022 2", "0 6"]
    assert train["label"].tolist() == [0, 1, 1] and train["n_boxes"].tolist() == [0, 1, 2]
    assert json.loads(train["boxes"][1]) == [[1, 1, 3, 3]]
    assert (train["frame"] == 1024).all()
    text = " ".join(notes)
    for words in (
        "1 annotated images have no file",
        "1 image files have no annotation",
        "5 rows, 4 images, 2 with a pneumothorax",
        "WARNING: the patients are not known",
    ):
        assert words in text


def test_files_of_a_spreadsheet_program(tmp_path):
    lines = ["1.4.0; -1", "1.4.1; 1025 2 1022 2"]
    files = [name.replace(".dcm", ".DCM") for name in TREE]
    header = "\ufeffImageId; EncodedPixels"
    train, _, _ = read_pneumothorax(make_files(tmp_path, lines, header, files=files))
    assert train["image_id"].tolist() == ["1.4.0", "1.4.1"]
    assert train["label"].tolist() == [0, 1]


def test_ids_that_are_written_otherwise(tmp_path):
    folder = make_files(tmp_path, ["7,-1", "8,-1"], files=["dicom-images-train/a/b/007.dcm"])
    with pytest.raises(InputError, match="which lists 7 where the other has 007: write the ids"):
        read_pneumothorax(folder)


def test_test_images_of_the_second_stage(tmp_path):
    files = ["stage_2_images/ID_b.dcm", "stage_2_images/ID_a.dcm", *TREE]
    folder = make_files(tmp_path, ["1.4.0,-1"], files=files)
    _, test, notes = read_pneumothorax(folder)
    assert test["image_id"].tolist() == ["ID_a", "ID_b"] and test["label"].tolist() == [-1, -1]
    assert "the 2 images of stage_2_images are the test set" in " ".join(notes)

    sample = ["ID_b,-1", "ID_c,-1", "ID_a,-1", "ID_b,-1"]
    make_files(tmp_path, sample, csv="stage_2_sample_submission.csv")
    _, test, notes = read_pneumothorax(folder)
    assert test["image_id"].tolist() == ["ID_b", "ID_a"]
    assert read_sample_ids(folder) == ["ID_b", "ID_c", "ID_a"]
    assert "1 images of stage_2_sample_submission.csv have no file" in " ".join(notes)


def test_test_images_of_the_first_stage(tmp_path):
    """Those that have labels now are training images."""
    test_files = ["dicom-images-test/a/b/1.4.1.dcm", "dicom-images-test/a/b/1.4.5.dcm"]
    folder = make_files(tmp_path, ["1.4.0,-1", "1.4.1,0 1"], files=[TREE[0], *test_files])
    train, test, _ = read_pneumothorax(folder)
    assert train["image_id"].tolist() == ["1.4.0", "1.4.1"]
    assert test["image_id"].tolist() == ["1.4.5"]


def test_other_pictures(tmp_path):
    files = ["png/1.4.0.png", TREE[0], "jpg/1.4.1.JPG", "train-masks/1.4.2.png", "png/.1.4.2.png"]
    folder = make_files(tmp_path, ["1.4.0,-1", "1.4.1,-1", "1.4.2,-1"], files=files)
    train, _, _ = read_pneumothorax(folder)
    assert [Path(path).name for path in train["path"]] == ["1.4.0.dcm", "1.4.1.JPG"]


def test_patients(tmp_path):
    folder = make_files(tmp_path, ["1.4.0,-1", "1.4.1,-1", "1.4.2,-1"], files=TREE)
    mapping = ["1.4.0,00000007_001.png", "1.4.1,00000007_002.png", "1.4.2,"]
    make_files(tmp_path, mapping, "Kaggle_ID,NIH_ID", "nih_id.csv")
    train, _, notes = read_pneumothorax(folder)
    assert train["group"].tolist() == ["nih_00000007", "nih_00000007", "1.4.2"]
    assert "WARNING" not in " ".join(notes)
    make_files(tmp_path, ["1,2"], "a,b", "nih_id.csv")
    with pytest.raises(InputError, match=r"nih_id.csv lacks the column"):
        read_pneumothorax(folder)


@pytest.mark.parametrize(
    "lines, header, files, words",
    [
        (["1.4.0,1 2 3"], HEADER, TREE, "broken mask of 1.4.0"),
        (["1.4.0,1048570 9"], HEADER, TREE, "broken mask of 1.4.0.*leave the picture"),
        (["1.4.0,-1"], "ImageId,Pixels", TREE, "lacks the column EncodedPixels"),
        ([], HEADER, TREE, "has no rows"),
        (["1.4.0,-1"], HEADER, [], "holds none of the images"),
    ],
)
def test_labels_that_cannot_be_understood(tmp_path, lines, header, files, words):
    with pytest.raises(InputError, match=words):
        read_pneumothorax(make_files(tmp_path, lines, header, files=files))


def test_no_labels(tmp_path):
    with pytest.raises(InputError, match=r"neither stage_2_train.csv nor train-rle.csv"):
        read_pneumothorax(tmp_path)


def test_submission():
    table = format_mask_submission(["b", "a"], {"a": "3 2"})
    assert table.to_numpy().tolist() == [["b", "-1"], ["a", "3 2"]]
    check_mask_submission(table, ["b", "a"])
    with pytest.raises(InputError, match="one row for each"):
        check_mask_submission(table, ["a", "b"])


@pytest.mark.parametrize(
    "runs, words",
    [
        ("3", "wrong for a.*no pairs"),
        ("1048575 2", "wrong for a.*leave the picture"),
        ("3 2 0 2", "wrong for a.*runs touch"),
        ("x 1", "wrong for a"),
    ],
)
def test_wrong_masks(runs, words):
    table = format_mask_submission(["b", "a"], {"a": runs})
    with pytest.raises(InputError, match=words):
        check_mask_submission(table, ["b", "a"])


def test_synthetic_data_of_the_first_stage(tmp_path):
    folder = tmp_path / "set"
    assert write_pneumothorax(folder, n_train=3, n_test=2, side=64, generation=1)
    train, test, notes = read_pneumothorax(folder)
    assert len(train) == 3 and len(test) == 2 and "train-rle.csv" in notes[0]
    assert (folder / "train-rle.csv").read_text().startswith("ImageId, EncodedPixels\n")
    assert not write_pneumothorax(folder, n_train=3, n_test=2, side=64, generation=1)
    header, reason = convert_image(test["path"][0], tmp_path / "a.png", 64)
    assert header.width == header.height == 1024 and not reason


def test_synthetic_masks_are_in_the_picture(tmp_path):
    write_pneumothorax(tmp_path / "set", n_train=8, n_test=0, side=64)
    train, _, _ = read_pneumothorax(tmp_path / "set")
    positive = train[train["label"] == 1]
    assert len(positive) >= 3
    for runs, boxes in zip(positive["mask"], positive["boxes"], strict=True):
        mask = decode_runs(runs, 1024, 1024)
        x1, y1, x2, y2 = np.array(json.loads(boxes)).reshape(-1, 4).astype(int)[0]
        assert mask[y1:y2, x1:x2].any() and 0.001 < mask.mean() < 0.2


@needs_sample
@pytest.mark.sample
def test_the_real_sample(tmp_path):
    train, test, _ = read_pneumothorax(SHARED)
    assert len(train) == 32 and train["label"].sum() == 14 and len(test) == 12
    suffixes = [Path(path).suffix for path in train["path"]]
    assert suffixes.count(".dcm") == 26
    for runs in train["mask"]:
        assert encode_runs(decode_runs(runs, 1024, 1024)) == runs
    other_formats = train[train["path"].str.endswith(("png", "jpg"))]
    for table in (other_formats, train[:3], test[:3]):
        for row in table.itertuples():
            header, reason = convert_image(row.path, tmp_path / f"{row.image_id}.png", 64)
            assert header is not None, reason
            assert (header.width, header.height) == (1024, 1024)
