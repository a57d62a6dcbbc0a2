"""Tables of public sets: which row is of which image, and what it says."""

from pathlib import PurePath

import pytest

from cxr.data.weak_labels import (
    NEGATIVE,
    POSITIVE,
    UNCERTAIN,
    parse_columns,
    read_weak_labels,
)
from cxr.datasets.pneumothorax.public_sets import write_chexpert, write_nih
from cxr.system.errors import InputError

FINDING = ("Pneumothorax",)


def write(folder, text):
    path = folder / "labels.csv"
    path.write_text(text)
    return path


def test_the_nih_and_chexpert_as_they_are(tmp_path):
    write_nih(tmp_path / "nih", count=8)
    labels = read_weak_labels(tmp_path / "nih" / "Data_Entry_2017.csv", {}, FINDING)
    pictures = sorted((tmp_path / "nih").glob("images_*/images/*.png"))
    assert len(pictures) == 8
    values = [labels.findings["Pneumothorax"][labels.row_of(path)] for path in pictures]
    assert sorted(values) == [NEGATIVE] * 4 + [POSITIVE] * 4
    assert not labels.lateral.any()

    write_chexpert(tmp_path / "chexpert", count=8)
    labels = read_weak_labels(tmp_path / "chexpert" / "train.csv", {}, FINDING)
    pictures = sorted((tmp_path / "chexpert").glob("train/*/*/*.jpg"))
    rows = [labels.row_of(path) for path in pictures]
    assert sorted(rows) == list(range(8))
    first = labels.row_of(PurePath("elsewhere/train/patient00000/study1/view1_frontal.jpg"))
    assert labels.findings["Pneumothorax"][first] == UNCERTAIN
    assert labels.lateral.sum() == 1


def test_names_that_several_rows_have(tmp_path):
    path = write(tmp_path, "Path,Edema\nA/p1/a.jpg,1.0\nA/p2/a.jpg,\nA/p3/b.jpg,0.0\n")
    labels = read_weak_labels(path, {}, ("Edema",))
    assert labels.row_of(PurePath("x/p1/a.jpg")) == 0
    assert labels.row_of(PurePath("x/p2/a.png")) == 1
    assert labels.row_of(PurePath("x/p9/a.jpg")) is None
    assert labels.row_of(PurePath("b.jpg")) == 2
    assert labels.findings["Edema"].tolist() == [POSITIVE, NEGATIVE, NEGATIVE]


def test_names_with_points_and_without(tmp_path):
    path = write(tmp_path, "Path,Edema\n1.2.840.7,1.0\n,1.0\n1.2.840.8.dcm,0.0\n")
    labels = read_weak_labels(path, {}, ("Edema",))
    assert labels.row_of(PurePath("a/1.2.840.7.dcm")) == 0
    assert labels.row_of(PurePath("a/1.2.840.7")) == 0
    assert labels.row_of(PurePath("a/1.2.840.8")) == 2
    assert labels.row_of(PurePath("a/1.2.840.9")) is None


def test_columns_by_flags(tmp_path):
    path = write(tmp_path, "file;air;words\na.png;1;x\nb.png;0;Effusion | Mass\n")
    columns = parse_columns(["image=file", "Pneumothorax=air", "labels=words"])
    labels = read_weak_labels(path, columns, ("Pneumothorax", "Effusion", "Nodule"))
    assert labels.findings["Pneumothorax"].tolist() == [1, 0]
    assert labels.findings["Effusion"].tolist() == [0, 1]
    assert "Nodule" not in labels.findings


@pytest.mark.parametrize(
    "text, columns, sentence",
    [
        ("a,b\n1,2\n", {}, "neither a table of the NIH nor of CheXpert"),
        ("Path,Edema\n1,2\n", {}, "says nothing of Pneumothorax"),
        ("Path,Edema\n1,2\n", {"image": "name"}, "has no such column"),
        ("Path,Edema\n", {}, "has no rows"),
    ],
)
def test_tables_that_do_not_help(tmp_path, text, columns, sentence):
    with pytest.raises(InputError, match=sentence):
        read_weak_labels(write(tmp_path, text), columns, FINDING)


def test_a_column_without_name():
    with pytest.raises(InputError, match="must be NAME=COLUMN"):
        parse_columns(["image"])
