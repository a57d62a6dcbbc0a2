"""Mirrors: PNG and JPEG copies of SIIM COVID-19 and VinBigData, with and without original sizes."""

import json

import cv2
import numpy as np
import pytest
from test_covid_files import IMAGES, SAMPLE, STUDIES, STUDY_OF
from test_vinbigdata import TRAIN as MARKS

from cxr.data.tables import finish_table
from cxr.datasets.covid.files import read_covid, read_covid_sample
from cxr.datasets.mirrors import read_originals
from cxr.datasets.vinbigdata.files import read_vinbigdata
from cxr.images.read import read_image
from cxr.system.errors import InputError

# Originals of 40 rows and 80 columns, as xhlulu's tables call them.
META = "image_id,dim0,dim1,split\n" + "".join(f"{name},40,80,train\n" for name in "abcdefgh")
META += "z,30,60,test\ny,30,60,test\n"


def write_picture(path, side=16):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((side, side), 90, np.uint8))


def write_covid_mirror(folder, place):
    """place: of the part (train or test), study and image."""
    for part, tree in (("train", STUDY_OF), ("test", {"z": "t2", "y": "t1"})):
        for image_id, study in tree.items():
            write_picture(folder / place.format(part=part, study=study, image=image_id))
    (folder / "train_study_level.csv").write_text(STUDIES)
    (folder / "train_image_level.csv").write_text(IMAGES)
    (folder / "sample_submission.csv").write_text(SAMPLE)
    return folder


@pytest.fixture
def flat(tmp_path):
    folder = write_covid_mirror(tmp_path, "{part}/{image}.png")
    (folder / "meta.csv").write_text(META)
    return folder


def finish(table):
    """The table as step 02 writes it, of what the pictures say themselves."""
    headers = {row.image_id: read_image(row.path)[1] for row in table.itertuples()}
    notes = []
    return finish_table(table, headers, notes), notes


def test_a_flat_folder_of_small_pictures(flat):
    train, test, notes = read_covid(flat)
    assert train["image_id"].tolist() == list("acdefgh")
    assert train["path"][0] == str(flat / "train" / "a.png")
    assert test["image_id"].tolist() == ["z", "y"]
    text = "\n".join(notes)
    assert "2 test images lie in no folder of their study" in text
    assert "unknown original size" not in text
    assert "another study" not in text
    finished, clipped = finish(train)
    # 80 wide and 40 high, though the picture has 16 x 16; the box ended at 60.
    assert finished[["width", "height"]].iloc[0].tolist() == [80, 40]
    assert json.loads(finished["boxes"][0]) == [[10.5, 20, 40.5, 40], [1, 2, 4, 6]]
    assert clipped == ["1 boxes reach outside their image and were clipped to it (the first: a)"]
    assert finish(test)[0]["width"].tolist() == [60, 60]
    # The frame in which boxes are learned follows: the column is no column of the table.
    assert "known_width" not in finished


@pytest.mark.parametrize(
    "place", ["{part}/{study}/series/{image}.png", "{part}/{study}/{image}.jpg"]
)
def test_a_tree_tells_the_studies(tmp_path, place):
    folder = write_covid_mirror(tmp_path, place)
    (folder / "meta.csv").write_text(META)
    train, test, notes = read_covid(folder)
    assert train["study_id"].tolist() == ["s1", "s2", "s2", "s3", "s4", "s5", "s5"]
    assert test["study_id"].tolist() == ["t2", "t1"]
    assert not any("no folder of their study" in note for note in notes)
    (folder / "sample_submission.csv").unlink()
    assert read_covid_sample(folder)["id"].tolist() == [
        *("t1_study", "t2_study", "y_image", "z_image")
    ]


def test_a_table_may_name_studies_and_patients(flat):
    rows = "id,height,width,StudyInstanceUID,PatientID\n"
    rows += "".join(f"{name}_image,40,80,{study},p1\n" for name, study in STUDY_OF.items())
    rows += "z_image,30,60,t2,\ny_image,30,60,t1,\n"
    (flat / "meta.csv").write_text(rows)
    train, test, notes = read_covid(flat)
    assert set(train["patient"]) == {"p1"}
    assert train["group"].nunique() == 1
    assert test["study_id"].tolist() == ["t2", "t1"]
    assert not any("do not tell their patient" in note for note in notes)


def test_original_sizes_are_missing(flat):
    (flat / "meta.csv").unlink()
    with pytest.raises(InputError, match=r"a\.png has 16 x 16 pixels.*ends at 40\.5, 60.*dim0"):
        read_covid(flat)
    write_picture(flat / "train" / "a.png", side=64)  # as large as its boxes want
    train, _, notes = read_covid(flat)
    sentence = "7 pictures are of unknown original size and taken for the originals themselves"
    assert any(note.startswith(sentence) for note in notes)
    assert finish(train)[0]["width"].tolist()[:2] == [64, 16]


def test_dicoms_go_before_pictures(flat):
    path = flat / "train" / "s1" / "series" / "a.dcm"
    path.parent.mkdir(parents=True)
    path.touch()
    train, _, notes = read_covid(flat)
    assert train["path"].tolist() == [str(path)]
    assert "6 images of train_image_level.csv have no file in train and were left out" in notes


@pytest.mark.parametrize(
    "rows, words",
    [("a,0,80\n", "1 rows whose dim1 and dim0 are no size .*is of a"), ("a,,80\n", "1 rows whose")],
)
def test_sizes_that_are_none(tmp_path, rows, words):
    (tmp_path / "meta.csv").write_text("image_id,dim0,dim1\n" + rows)
    with pytest.raises(InputError, match=words):
        read_originals(tmp_path)


def test_sizes_of_boxes_are_none_of_images(tmp_path):
    (tmp_path / "boxes.csv").write_text("image_id,x,y,width,height\na,1,2,3,4\n")
    assert read_originals(tmp_path).empty


def test_vinbigdata(tmp_path):
    for name, image_ids in (("train", "abc"), ("test", "zy")):
        for image_id in image_ids:
            write_picture(tmp_path / name / f"{image_id}.png")
    (tmp_path / "train.csv").write_text(MARKS)
    (tmp_path / "sample_submission.csv").write_text("image_id,PredictionString\nz,\ny,\n")
    with pytest.raises(InputError, match=r"a\.png has 16 x 16 pixels"):
        read_vinbigdata(tmp_path, fuse=False)
    for name, image_ids in (("train", "abc"), ("test", "zy")):
        rows = "".join(f"{image_id},600,500\n" for image_id in image_ids)
        (tmp_path / f"{name}_meta.csv").write_text("image_id,dim0,dim1\n" + rows)
    train, test, notes = read_vinbigdata(tmp_path, fuse=False)
    assert notes == []
    finished, clipped = finish(train)
    assert finished[["width", "height"]].iloc[0].tolist() == [500, 600]
    # The mark that begins at the right edge has nothing in the image.
    assert finished["n_boxes"].tolist() == [4, 0, 1]
    assert clipped == [
        "1 boxes lie wholly outside their image or have no size and were left out (the first: a)"
    ]
    assert test["known_height"].tolist() == [600, 600]
