"""RSNA's files: tables of small folders and submissions with known faults, the real sample."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cxr.datasets.rsna import files as rsna_files
from cxr.datasets.rsna.files import (
    CLASSES,
    check_rsna_submission,
    format_rsna_submission,
    parse_rsna_boxes,
    read_rsna,
    read_rsna_sample,
    read_rsna_submission,
)
from cxr.system.errors import InputError

SHARED = Path(
    os.environ.get("CXR_SHARED_DATA", Path(__file__).parents[2].parent / "shared" / "data")
)
RSNA = SHARED / "rsna-pneumonia-detection-challenge"
LABELS = """patientId,x,y,width,height,Target
b,264.0,152.0,213.0,379.0,1
b,562.0,152.0,256.0,453.0,1
a,,,,,0
c,,,,,0
d,10,20,30,40,1
"""
CLASS_INFO = """patientId,class
b,Lung Opacity
b,Lung Opacity
a,Normal
c,No Lung Opacity / Not Normal
d,Lung Opacity
"""


@pytest.fixture
def folder(tmp_path):
    """Four training and two test images; read_rsna looks at the names of the image files only."""
    folder = tmp_path / "input" / "rsna"
    for name, ids in (("stage_2_train_images", "abcd"), ("stage_2_test_images", "zy")):
        (folder / name).mkdir(parents=True)
        for image_id in ids:
            (folder / name / f"{image_id}.dcm").touch()
    (folder / "stage_2_train_labels.csv").write_text(LABELS)
    (folder / "stage_2_detailed_class_info.csv").write_text(CLASS_INFO)
    (folder / "stage_2_sample_submission.csv").write_text(
        "patientId,PredictionString\nz,0.5 0 0 9 9\ny,0.5 0 0 9 9\n"
    )
    return folder


def read_notes(folder):
    """All notes as one text."""
    return "\n".join(read_rsna(folder).notes)


def test_tables(folder):
    train, test, notes = read_rsna(folder)
    assert train.image_id.tolist() == ["a", "b", "c", "d"]
    assert train.path.tolist() == [
        str(folder / "stage_2_train_images" / f"{i}.dcm") for i in "abcd"
    ]
    assert train.label.tolist() == [0, 2, 1, 2]
    assert train.stratum.tolist() == [
        "Normal",
        "Lung Opacity",
        "No Lung Opacity / Not Normal",
        "Lung Opacity",
    ]
    assert train.n_boxes.tolist() == [0, 2, 0, 1]
    assert json.loads(train.boxes[1]) == [[264, 152, 477, 531], [562, 152, 818, 605]]
    assert train.boxes[0] == "[]"
    assert train.box_labels.tolist() == ["[]", "[0, 0]", "[]", "[0]"]
    assert train.group.tolist() == ["a", "b", "c", "d"]
    assert test.image_id.tolist() == ["z", "y"]  # the order of the sample submission
    assert (test.label == -1).all() and (test.stratum == "").all()
    assert list(test.columns) == list(train.columns)
    assert len(notes) == 1 and "images of one patient may fall in different folds" in notes[0]


def test_files_of_a_spreadsheet_program(folder):
    """Semicolons, blanks, a mark at the start, and endings in capitals change nothing."""
    expected = read_rsna(folder)
    for path in folder.glob("*.csv"):
        text = path.read_text().replace(",", "; ")
        path.write_text("\ufeff" + text, encoding="utf-8")
    for path in folder.glob("*/*.dcm"):
        path.rename(path.with_suffix(".DCM"))
    tables = read_rsna(folder)
    assert tables.notes == expected.notes
    for table, usual in ((tables.train, expected.train), (tables.test, expected.test)):
        assert table.drop(columns="path").equals(usual.drop(columns="path"))


def test_decimal_commas(folder):
    path = folder / "stage_2_train_labels.csv"
    expected = read_rsna(folder).train
    text = path.read_text().replace(",", ";").replace(".", ",")
    assert "264,0" in text
    path.write_text(text)
    assert read_rsna(folder).train.equals(expected)
    path.write_text(text.replace("264,0", "264,5"))
    assert json.loads(read_rsna(folder).train.boxes[1])[0] == [264.5, 152, 477.5, 531]


def test_ids_that_are_written_otherwise(folder):
    for path in folder.glob("stage_2_train_images/*.dcm"):
        path.rename(path.with_stem("00" + path.stem))
    words = "which lists a where the other has 00a: write the ids in the tables as the files"
    with pytest.raises(InputError, match=words):
        read_rsna(folder)
    path = folder / "stage_2_train_labels.csv"
    path.write_text("patientId,x,y,width,height,Target\nA,,,,,0\n")
    words = "stage_2_detailed_class_info.csv holds none of .* which lists A where the other has a"
    with pytest.raises(InputError, match=words):
        read_rsna(folder)


def test_patients_of_ids_that_are_written_otherwise(folder):
    (folder / "nih_mapping.csv").write_text("patientId,nih_patient_id\n0a,7\nb,8\n")
    assert "an id of the tables is a, another 0a: write the ids" in read_notes(folder)


def test_test_like(folder):
    ids = rsna_files.TEST_LIKE_IDS.read_text().split()
    assert len(ids) == len(set(ids)) == 1000
    for name in ("stage_2_train_labels.csv", "stage_2_detailed_class_info.csv"):
        (folder / name).write_text((folder / name).read_text().replace("b,", f"{ids[7]},"))
    (folder / "stage_2_train_images" / f"{ids[7]}.dcm").touch()
    train = read_rsna(folder)[0]
    assert train[train.test_like].image_id.tolist() == [ids[7]]


def test_mapping_as_csv(folder):
    (folder / "nih_mapping.csv").write_text(
        "patientId,nih_image,nih_patient_id\n"
        "a,00000007_001.png,00000007\nb,00000007_002.png,00000007\nc,,\nq,,5\n"
    )
    train, _, notes = read_rsna(folder)
    assert train.group.tolist() == ["nih_00000007", "nih_00000007", "c", "d"]
    assert notes == [
        "grouped by 1 NIH patients from nih_mapping.csv",
        "2 images are not in nih_mapping.csv and stand for a patient of their own",
    ]


def test_mapping_as_json_beside_the_folder(folder):
    images = {"a": "00019124_092.png", "d": "00019124_001.png", "b": "00000003_001.png", "c": ""}
    entries = [{"subset_img_id": image_id, "img_id": image} for image_id, image in images.items()]
    path = folder.parent / "pneumonia-challenge-dataset-mappings_2018.json"
    path.write_text(json.dumps(entries))
    assert read_rsna(folder)[0].group.tolist() == [
        "nih_00019124",
        "nih_00000003",
        "c",
        "nih_00019124",
    ]
    for broken in (
        "{",
        '{"a": 1}',
        '[{"subset_img_id": "a"}]',
        '[{"subset_img_id": "a", "img_id": null}]',
    ):
        path.write_text(broken)
        with pytest.raises(InputError, match=r"mappings_2018.json"):
            read_rsna(folder)


@pytest.mark.parametrize("name", ["stage_2_train_labels.csv", "stage_2_detailed_class_info.csv"])
@pytest.mark.parametrize(
    "content, words",
    [
        (None, "is missing: run 01_download.py"),
        ("", "not a readable csv"),
        ("patientId\na\n", "lacks the column"),
        ("patientId,x,y,width,height,Target,class\n", "no rows"),
        (b"\xff\xfe\x00\x81", "not a readable csv"),
    ],
)
def test_unusable_csv(folder, name, content, words):
    path = folder / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=words) as caught:
        read_rsna(folder)
    assert name in str(caught.value)


def test_missing_column_is_named(folder):
    path = folder / "stage_2_train_labels.csv"
    path.write_text(LABELS.replace("Target", "target"))
    with pytest.raises(InputError, match="lacks the column Target"):
        read_rsna(folder)


@pytest.mark.parametrize("row", ["a,x,1,2,3,1", "a,,,,,2", "a,,,,,", "a,1,1,,3e,1"])
def test_labels_that_are_no_numbers(folder, row):
    (folder / "stage_2_train_labels.csv").write_text(LABELS + row + "\n")
    with pytest.raises(InputError, match=r"numbers.* a\)"):
        read_rsna(folder)


def test_boxes_without_size_are_left_out(folder):
    rows = "d,5,5,0,7,1\nd,5,5,7,-1,1\nd,5,5,,7,1\nc,1,1,9,9,0\n"
    (folder / "stage_2_train_labels.csv").write_text(LABELS + rows)
    train, _, notes = read_rsna(folder)
    assert train.boxes[3] == "[[10.0, 20.0, 40.0, 60.0]]"
    assert train.n_boxes[2] == 0  # Target 0 has no boxes, whatever stands beside it
    assert "3 boxes of stage_2_train_labels.csv have no size and were left out" in notes


def test_unknown_class(folder):
    (folder / "stage_2_detailed_class_info.csv").write_text(
        CLASS_INFO.replace("a,Normal", "a,normal")
    )
    with pytest.raises(InputError, match="unknown class 'normal'"):
        read_rsna(folder)


def test_class_table_and_labels_differ(folder):
    (folder / "stage_2_detailed_class_info.csv").write_text(
        CLASS_INFO.replace("a,Normal\n", "") + "w,Normal\n"
    )
    assert read_rsna(folder).train.image_id.tolist() == ["b", "c", "d"]
    text = read_notes(folder)
    assert "1 images have no class" in text
    assert "1 images of stage_2_detailed_class_info.csv are not in" in text
    (folder / "stage_2_detailed_class_info.csv").write_text(
        CLASS_INFO.replace("d,Lung Opacity", "d,Normal")
    )
    contradiction = "1 images have a class in stage_2_detailed_class_info.csv that contradicts"
    assert contradiction in read_notes(folder)


def test_images_and_rows_without_each_other(folder):
    (folder / "stage_2_train_images" / "a.dcm").rename(
        folder / "stage_2_train_images" / "stranger.dcm"
    )
    (folder / "stage_2_test_images" / "z.dcm").unlink()
    train, test, notes = read_rsna(folder)
    assert train.image_id.tolist() == ["b", "c", "d"] and test.image_id.tolist() == ["y"]
    assert "1 images of the tables have no file in stage_2_train_images and were left out" in notes
    assert "1 files of stage_2_train_images are in no table and were left out" in notes
    assert "1 images of the tables have no file in stage_2_test_images and were left out" in notes
    # A submission must still name it.
    assert read_rsna_sample(folder).patientId.tolist() == ["z", "y"]
    shutil.rmtree(folder / "stage_2_train_images")
    with pytest.raises(InputError, match="stage_2_train_images holds none"):
        read_rsna(folder)


def test_without_test_images(folder):
    shutil.rmtree(folder / "stage_2_test_images")
    (folder / "stage_2_sample_submission.csv").unlink()
    train, test, _ = read_rsna(folder)
    assert len(test) == 0 and list(test.columns) == list(train.columns)
    assert "no stage_2_sample_submission.csv" in read_notes(folder)
    (folder / "stage_2_sample_submission.csv").write_text("patientId,PredictionString\n")
    assert len(read_rsna(folder)[1]) == 0


def test_test_files_stand_in_for_a_missing_sample_submission(folder):
    (folder / "stage_2_sample_submission.csv").unlink()
    assert read_rsna(folder)[1].image_id.tolist() == ["y", "z"]


@pytest.mark.sample
@pytest.mark.skipif(not RSNA.is_dir(), reason=f"no real sample at {RSNA} (CXR_SHARED_DATA)")
def test_real_sample():
    train, test, notes = read_rsna(RSNA)
    assert len(train) == 600 and len(test) == 40
    assert train.n_boxes.sum() == 311 and (train.n_boxes > 0).sum() == 189
    assert train.group.nunique() == 551 and train.test_like.sum() == 88
    assert notes == ["grouped by 551 NIH patients from nih_mapping.csv"]
    for path in [*train.path, *test.path]:
        assert Path(path).is_file()
    assert (train.label == CLASSES.index("Lung Opacity")).sum() == 189


SAMPLE = pd.DataFrame({"patientId": ["a", "b", "c"], "PredictionString": "0.5 0 0 100 100"})


def submission(strings, ids="abc"):
    return pd.DataFrame({"patientId": list(ids), "PredictionString": strings}, dtype=str)


def test_format_and_read_back(tmp_path):
    boxes = np.array([[10.04, 20, 110.06, 220], [900, 900, 1024, 1024]])
    table = format_rsna_submission(
        ["a", "b", "c"], {"b": (boxes, np.array([0.9, 1e-9])), "c": (np.zeros((0, 4)), [])}
    )
    assert table.PredictionString.tolist() == [
        "",
        "0.900000 10.0 20.0 100.1 200.0 0.000001 900.0 900.0 124.0 124.0",
        "",
    ]
    check_rsna_submission(table, SAMPLE)
    table.to_csv(tmp_path / "s.csv", index=False)
    again = read_rsna_submission(tmp_path / "s.csv")
    pd.testing.assert_frame_equal(again, table, check_dtype=False)
    check_rsna_submission(again, SAMPLE)
    parsed = parse_rsna_boxes(again.PredictionString[1])
    np.testing.assert_allclose(parsed.boxes, boxes, atol=0.05 + 1e-9)
    np.testing.assert_allclose(parsed.scores, [0.9, 1e-6])


def test_submission_of_no_images():
    empty = format_rsna_submission([], {})
    check_rsna_submission(empty, SAMPLE.iloc[:0])
    assert list(empty.columns) == ["patientId", "PredictionString"]


@given(
    arrays(np.float64, (5, 4), elements=st.floats(0, 1022)),
    arrays(np.float64, 5, elements=st.floats(0, 1)),
)
def test_every_box_inside_the_image_can_be_submitted(boxes, scores):
    boxes = np.sort(boxes.reshape(5, 2, 2), axis=1).reshape(5, 4)
    boxes[:, 2:] += 2
    table = format_rsna_submission(["a", "b", "c"], {"b": (boxes, scores)})
    check_rsna_submission(table, SAMPLE)
    again = parse_rsna_boxes(table["PredictionString"][1])
    np.testing.assert_allclose(again.boxes, boxes, atol=0.11)
    np.testing.assert_allclose(again.scores, scores, atol=1.1e-6)


@pytest.mark.parametrize(
    "ids, words",
    [
        ("ab", "lacks c"),
        ("abcd", "more .* d"),
        ("abcc", "repeats c"),
        ("acb", "another order .* c"),
        ("abd", "lacks c"),
    ],
)
def test_wrong_ids(ids, words):
    with pytest.raises(InputError, match=words):
        check_rsna_submission(submission("", ids), SAMPLE)


@pytest.mark.parametrize(
    "string, words",
    [
        ("0.5 1 2 3", "multiple of 5"),
        ("0.5 1 2 3 4 5", "multiple of 5"),
        ("0.5 a 2 3 4", "malformed"),
        ("0 1 2 3 4", "confidence"),
        ("1.01 1 2 3 4", "confidence"),
        ("-0.1 1 2 3 4", "confidence"),
        ("nan 1 2 3 4", "confidence"),
        ("0.5 1 2 0 4", "no area"),
        ("0.5 1 2 3 -4", "no area"),
        ("0.5 nan 2 3 4", "no area"),
        ("0.5 -1 2 3 4", "outside"),
        ("0.5 1000 2 25 4", "outside"),
        ("0.5 1 1000 3 24.5", "outside"),
        ("0.5 1 1 3 4 0.5 1 2 inf 4", "outside"),
    ],
)
def test_wrong_strings(string, words):
    with pytest.raises(InputError, match=f"for b: .*{words}"):
        check_rsna_submission(submission(["", string, ""]), SAMPLE)


def test_right_strings_and_size():
    two_boxes = "0.5 1 2 3 4 0.4 1 2 3 4"
    check_rsna_submission(submission(["1 0 0 1024 1024", np.nan, two_boxes]), SAMPLE)
    with pytest.raises(InputError, match="512 x 512"):
        check_rsna_submission(submission(["1 0 0 1024 1024", "", ""]), SAMPLE, size=512)
    with pytest.raises(InputError, match="lacks the column PredictionString"):
        check_rsna_submission(SAMPLE[["patientId"]], SAMPLE)
