"""VinBigData's files: three readers read and fused, drawn images, submissions."""

import json

import numpy as np
import pandas as pd
import pydicom
import pytest

from cxr.datasets.vinbigdata.files import (
    FINDINGS,
    NOTHING_FOUND,
    check_vinbigdata_submission,
    format_vinbigdata_submission,
    read_sample_order,
    read_vinbigdata,
)
from cxr.datasets.vinbigdata.synthetic import HEADER, write_vinbigdata
from cxr.geometry.detections import Detections
from cxr.images.read import read_image
from cxr.system.errors import InputError

TRAIN = f"""{HEADER}
a,Cardiomegaly,3,R1,100,100,300,200
a,Cardiomegaly,3,R2,110,100,310,200
a,Cardiomegaly,3,R3,120,100,320,200
a,Nodule/Mass,8,R1,500,500,540,540
a,Pleural effusion,10,R2,100,100,300,200
b,No finding,14,R1,,,,
b,No finding,14,R2,,,,
b,No finding,14,R3,,,,
c,No finding,14,R1,,,,
c,No finding,14,R2,,,,
c,Pneumothorax,12,R3,10,20,30.5,40
"""


@pytest.fixture
def folder(tmp_path):
    """Files without content stand for images; the readers look at their names only."""
    for name, image_ids in (("train", "abc"), ("test", "zy")):
        (tmp_path / name).mkdir()
        for image_id in image_ids:
            (tmp_path / name / f"{image_id}.dicom").touch()
    (tmp_path / "train.csv").write_text(TRAIN)
    sample = f"image_id,PredictionString\nz,{NOTHING_FOUND}\ny,{NOTHING_FOUND}\n"
    (tmp_path / "sample_submission.csv").write_text(sample)
    return tmp_path


def boxes_of(table, row):
    return json.loads(table["boxes"][row])


def test_all_boxes(folder):
    train, test, notes = read_vinbigdata(folder, fuse=False)
    assert train["image_id"].tolist() == ["a", "b", "c"]
    assert train["path"][0] == str(folder / "train" / "a.dicom")
    assert train["n_boxes"].tolist() == [5, 0, 1] and train["label"].tolist() == [1, 0, 1]
    assert json.loads(train["box_labels"][0]) == [3, 3, 3, 8, 10]
    assert boxes_of(train, 2) == [[10, 20, 30.5, 40]]
    assert train["stratum"].tolist() == [
        "Cardiomegaly|Nodule/Mass|Pleural effusion",
        "No finding",
        "Pneumothorax",
    ]
    assert train["group"].tolist() == ["a", "b", "c"]
    assert test["image_id"].tolist() == ["z", "y"] and test["label"].tolist() == [-1, -1]
    assert notes == []


def test_fused_boxes(folder):
    """Boxes of one class that overlap are averaged; the others stay, whoever marked them."""
    train, _, _ = read_vinbigdata(folder, fuse=True)
    assert train["n_boxes"].tolist() == [3, 0, 1]
    boxes = dict(zip(json.loads(train["box_labels"][0]), boxes_of(train, 0), strict=True))
    np.testing.assert_allclose(boxes[3], [110, 100, 310, 200], atol=1e-3)
    np.testing.assert_allclose(boxes[8], [500, 500, 540, 540], atol=1e-3)
    np.testing.assert_allclose(boxes[10], [100, 100, 300, 200], atol=1e-3)
    np.testing.assert_allclose(boxes_of(train, 2), [[10, 20, 30.5, 40]], atol=1e-3)


def test_files_of_a_spreadsheet_program(folder):
    """Semicolons, blanks, a mark at the start, and endings in capitals change nothing."""
    expected = read_vinbigdata(folder, fuse=False)
    for path in folder.glob("*.csv"):
        text = path.read_text().replace(",", "; ")
        path.write_text("\ufeff" + text, encoding="utf-8")
    for path in folder.glob("*/*.dicom"):
        path.rename(path.with_suffix(".DICOM"))
    tables = read_vinbigdata(folder, fuse=False)
    assert tables.notes == expected.notes
    for table, usual in ((tables.train, expected.train), (tables.test, expected.test)):
        assert table.drop(columns="path").equals(usual.drop(columns="path"))


def test_ids_that_are_written_otherwise(folder):
    for path in folder.glob("train/*.dicom"):
        path.rename(path.with_stem("00" + path.stem))
    with pytest.raises(InputError, match="which lists a where the other has 00a: write the ids"):
        read_vinbigdata(folder, fuse=False)


def test_images_without_files_are_noted(folder):
    (folder / "train" / "a.dicom").unlink()
    (folder / "train" / "x.dicom").touch()
    (folder / "test" / "z.dicom").unlink()
    train, test, notes = read_vinbigdata(folder, fuse=True)
    assert train["image_id"].tolist() == ["b", "c"] and test["image_id"].tolist() == ["y"]
    assert notes == [
        "1 images of the tables have no file in train and were left out",
        "1 files of train are in no table and were left out",
        "1 images of the tables have no file in test and were left out",
    ]


@pytest.mark.parametrize(
    "old, new, words",
    [
        ("Cardiomegaly,3,R1,100", "Cardiomegaly,15,R1,100", "known class_id.*first is of a"),
        ("Cardiomegaly,3,R1,100", "Cardiomegaly,,R1,100", "known class_id"),
        ("Cardiomegaly,3,R1,100", "Cardiomegaly,3,R1,", "without a box"),
        ("Cardiomegaly,3,R1,100", "Cardiomegaly,3,R1,x", "without a box"),
        ("class_id", "class", "lacks the column class_id"),
    ],
)
def test_labels_that_cannot_be_understood(folder, old, new, words):
    assert old in TRAIN
    (folder / "train.csv").write_text(TRAIN.replace(old, new))
    with pytest.raises(InputError, match=words):
        read_vinbigdata(folder, fuse=True)


def test_missing_files(folder):
    for path in (folder / "train").iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"train holds none of the images of train.csv: unpack"):
        read_vinbigdata(folder, fuse=True)
    (folder / "train.csv").unlink()
    with pytest.raises(InputError, match=r"train.csv is missing: run 01_download.py"):
        read_vinbigdata(folder, fuse=True)


# ------------------------------------------------------------------------------- submission


def detections_of(*rows):
    """Detections of rows (label, score, x1, y1, x2, y2)."""
    values = np.array(rows, float).reshape(-1, 6)
    return Detections(values[:, 2:], values[:, 1], values[:, 0].astype(int))


def test_submission():
    answers = {"y": detections_of((8, 0.75, 10.04, 20, 30, 40), (0, 0.5, 1, 2, 3.5, 4))}
    table = format_vinbigdata_submission(["z", "y", "x"], answers | {"x": detections_of()})
    assert table.to_numpy().tolist() == [
        ["z", "14 1 0 0 1 1"],
        ["y", "8 0.750000 10 20 30 40 0 0.500000 1 2 3.5 4"],
        ["x", "14 1 0 0 1 1"],
    ]
    check_vinbigdata_submission(table, ["z", "y", "x"])
    check_vinbigdata_submission(format_vinbigdata_submission([], {}), [])


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "it is empty"),
        ("14 0.5 0 0 1 1", "unknown label '14'"),
        ("8 0.5 1 2 3", "not a multiple of 6"),
        ("8 0.5 1 2 3 x", "wrong for y"),
        ("8 0 1 2 3 4", "confidence"),
        ("8 0.5 1 2 1 4", "no area"),
        ("8 0.5 -1 2 1 4", "outside"),
    ],
)
def test_wrong_submissions(text, words):
    table = pd.DataFrame({"image_id": ["z", "y"], "PredictionString": [NOTHING_FOUND, text]})
    with pytest.raises(InputError, match=words):
        check_vinbigdata_submission(table, ["z", "y"])
    with pytest.raises(InputError, match="another order"):
        check_vinbigdata_submission(table, ["y", "z"])


# ------------------------------------------------------------------------------- drawn


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic") / "vinbigdata"
    assert write_vinbigdata(folder, n_train=12, n_test=3, seed=1, side=96)
    return folder


def test_synthetic_set_has_three_readers_who_differ(synthetic):
    table = pd.read_csv(synthetic / "train.csv")
    assert table.groupby("image_id")["rad_id"].nunique().eq(3).all()
    assert table["image_id"].nunique() == 12
    findings = table[table["class_id"] < 14]
    assert [FINDINGS[label] for label in findings["class_id"]] == findings["class_name"].tolist()
    nothing = table[table["class_id"] == 14]
    assert len(nothing) > 2 and nothing["x_min"].isna().all()
    fused = read_vinbigdata(synthetic, fuse=True).train["n_boxes"].sum()
    everything = read_vinbigdata(synthetic, fuse=False).train["n_boxes"].sum()
    assert 0 < fused < everything / 1.5


def test_synthetic_set_reads_without_complaint(synthetic):
    train, test, notes = read_vinbigdata(synthetic, fuse=True)
    assert len(train) == 12 and test["image_id"].tolist() == read_sample_order(synthetic)
    assert notes == []
    for boxes in train["boxes"]:
        corners = np.array(json.loads(boxes)).reshape(-1, 4)
        assert (corners >= 0).all() and (corners <= 1024).all()
        assert (corners[:, 2:] > corners[:, :2]).all()
    picture, header = read_image(train["path"][0])
    assert picture.shape == (1024, 1024) and header.sex in ("M", "F")
    assert pydicom.dcmread(train["path"][0]).ViewPosition == "PA"


def test_synthetic_set_is_kept(synthetic):
    assert write_vinbigdata(synthetic, n_train=12, n_test=3, seed=1, side=96) is False
    with pytest.raises(InputError, match="delete it"):
        write_vinbigdata(synthetic, n_train=12, n_test=4, seed=1, side=96)
