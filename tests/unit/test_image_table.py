"""Tables and image files as people have them: semicolons, blanks, capitals, and ids that lost their
zeros."""

import pytest

from cxr.data.image_table import find_listed_files, find_twins, no_image_of
from cxr.system.errors import InputError
from cxr.system.tables import read_csv


@pytest.mark.parametrize(
    "content",
    [
        b"id,x,name\n007,1.5,a b\nB,,c\n",
        b"\xef\xbb\xbfid,x,name\r\n007,1.5,a b\r\nB,,c\r\n",
        b"id;x;name\n007;1.5;a b\nB;;c\n",
        b"\xef\xbb\xbfid; x; name\n007; 1.5; a b\nB; ; c\n",
        b' id , "x", name \n 007 , "1.5" , a b \n B , , c \n',
    ],
)
def test_csv_files_of_spreadsheet_programs(tmp_path, content):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    table = read_csv(path, ["id", "x"])
    assert table.columns.tolist() == ["id", "x"]
    assert table["id"].tolist() == ["007", "B"]
    assert table["x"].fillna("").tolist() == ["1.5", ""]
    assert read_csv(path, ["name"])["name"].tolist() == ["a b", "c"]


def test_a_semicolon_in_a_cell_is_no_separator(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id,words\n1,a;b;c;d\n")
    assert read_csv(path, ["id", "words"])["words"].tolist() == ["a;b;c;d"]


def test_csv_files_without_rows_or_with_empty_columns(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id;x\n")
    assert read_csv(path, ["x"], may_be_empty=True).empty
    path.write_text("id;x\n1;\n2;\n")
    assert read_csv(path, ["x"])["x"].isna().all()
    with pytest.raises(InputError, match=r"a.csv lacks the column y \(it has id, x\): mend it"):
        read_csv(path, ["y"], remedy="mend it")


def test_endings_in_any_case(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.DCM", "b.dcm", "c.Dcm", "d.png"):
        (folder / name).touch()
    notes = []
    files = find_listed_files(folder, ".dcm", ["c", "a", "e"], notes)
    assert files == {"c": folder / "c.Dcm", "a": folder / "a.DCM"}
    assert notes == [
        "1 images of the tables have no file in images and were left out",
        "1 files of images are in no table and were left out",
    ]


def test_some_ids_that_lost_their_zeros_are_noted(tmp_path):
    for name in ("0012.dcm", "12e4.dcm"):
        (tmp_path / name).touch()
    notes = []
    files = find_listed_files(tmp_path, ".dcm", ["12", "12e4"], notes)
    assert list(files) == ["12e4"]
    assert notes[-1].startswith("an id of the tables is 12, another 0012: write the ids in")


def test_twins():
    assert find_twins(["x", "7"], ["8", "007"]) == ("7", "007")
    assert find_twins(["AB"], ["0ab"]) == ("AB", "0ab")
    assert find_twins(["70"], ["7"]) is None
    assert find_twins([], ["7"]) is None


@pytest.mark.parametrize(
    "ids, others, words",
    [
        (["7", "8"], ["007"], "there holds none of the images of t.csv, which lists 7 where the "),
        (["7", "8"], ["q", "r"], "t.csv: its ids look like 7, those there q: do this"),
        (["7", "8"], [], "there holds none of the images of t.csv: do this"),
        ([], ["q"], "there holds none of the images of t.csv: do this"),
    ],
)
def test_an_id_of_each_side_is_shown(ids, others, words):
    assert words in str(no_image_of("t.csv", ids, "there", others, "do this"))
