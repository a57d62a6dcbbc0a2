"""An encoder that a public set of labelled X-rays taught: the NIH's and CheXpert's tables in their
true forms, folds that follow another task's, and what an encoder may have seen."""

import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from untrained import SMALL, write_untrained_run

from cxr.data.folds import follow_folds
from cxr.data.preparation import prepare
from cxr.datasets.nih_patients import patient_by_name
from cxr.datasets.own.files import make_tables, read_own
from cxr.datasets.own.presets import OwnSettings
from cxr.datasets.rsna.files import read_rsna
from cxr.networks.weights import author_name
from cxr.run_folder import RunFolder, TaskFolder
from cxr.steps.train.encoder_weights import EncoderRun, check_patients
from cxr.steps.train.state import TrainingState
from cxr.system.errors import InputError
from cxr.system.runtime import Runtime
from cxr.tasks import TASKS

SHARED = Path(os.environ.get("CXR_SHARED_DATA", "../shared/data"))
RSNA = SHARED / "rsna-pneumonia-detection-challenge"
RUNTIME = Runtime(torch.device("cpu"), "fp32")
NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
NIH_ROWS = """
00000001_000.png,Cardiomegaly,0,1,058Y,M,PA,2682,2749,0.143,0.143,
00000001_001.png,Cardiomegaly|Emphysema,1,1,058Y,M,PA,2894,2729,0.143,0.143,
00000002_000.png,No Finding,0,2,081Y,M,PA,2500,2048,0.171,0.171,
00000003_000.png,Pleural_Thickening,0,3,074Y,F,AP,2500,2048,0.168,0.168,
00000004_000.png,No Finding,0,4,074Y,F,PA,2500,2048,0.168,0.168,
00000005_000.png,No Finding,0,5,074Y,F,PA,2500,2048,0.168,0.168,
"""
CHEXPERT = """\
Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Cardiomegaly,Edema
CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg,Female,68,Frontal,AP,1.0,,
CheXpert-v1.0-small/train/patient00002/study1/view1_frontal.jpg,Female,87,Frontal,AP,,-1.0,1.0
CheXpert-v1.0-small/train/patient00002/study1/view2_lateral.jpg,Female,87,Lateral,,,-1.0,1.0
CheXpert-v1.0-small/train/patient00003/study1/view1_frontal.jpg,Male,41,Frontal,PA,,1.0,0.0
CheXpert-v1.0-small/train/patient00004/study1/view1_frontal.jpg,Male,41,Frontal,PA,,1.0,0.0
"""
ABSENT = "patient00004"  # of which only the table is there


def write_image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((32, 32), 90, np.uint8))


def read(folder, **values):
    return read_own(folder, folder.parent / "working", OwnSettings(**values), "classes")


def write_nih(folder):
    """NIH ChestX-ray14 as it is downloaded: two folders of images and the table."""
    for row in NIH_ROWS.split():
        name = row.split(",")[0]
        if name.endswith(".png"):
            part = "images_001" if name < "00000003" else "images_002"
            write_image(folder / part / "images" / name)
    (folder / "Data_Entry_2017.csv").write_text(f"{NIH_HEADER}{NIH_ROWS}")
    return folder


@pytest.fixture
def nih(tmp_path):
    return write_nih(tmp_path / "nih")


def test_the_nih_s_table(nih):
    data = read(nih)
    assert data.labels.classes == ("Cardiomegaly", "Emphysema", "Pleural_Thickening")
    assert data.labels.several
    train = make_tables(data).train
    assert train["image_id"].tolist()[:2] == ["00000001_000", "00000001_001"]
    assert train["findings"].tolist()[:4] == ["[1, 0, 0]", "[1, 1, 0]", "[0, 0, 0]", "[0, 0, 1]"]
    assert train["stratum"].tolist()[1:3] == ["Cardiomegaly|Emphysema", "No finding"]
    # As the data sets made of these images call the patients.
    assert train["group"].tolist()[1:3] == ["nih_00000001", "nih_00000002"]
    assert not any("WARNING" in note for note in data.labels.notes)
    some = read(nih, only_rows=("View Position=AP",))
    assert [each.image.image_id for each in some.train] == ["00000003_000"]
    assert some.unlabelled == []
    assert "5 rows of Data_Entry_2017.csv are not of --only-rows View Position=AP" in (
        "\n".join(some.labels.notes)
    )


def test_joined_findings_that_are_no_class(nih):
    with pytest.raises(InputError, match=r"line 3: 'Emphysema' is none of the classes Cardiom"):
        read(nih, class_names=("Cardiomegaly", "Pleural_Thickening"))
    with pytest.raises(InputError, match=r"no row has 'LL' as View Position .*there are AP, PA"):
        read(nih, only_rows=("View Position=LL",))


@pytest.fixture
def chexpert(tmp_path):
    folder = tmp_path / "CheXpert-v1.0-small"
    for line in CHEXPERT.splitlines()[1:]:
        if ABSENT not in line:
            write_image(tmp_path / line.split(",")[0])
    (folder / "train.csv").write_text(CHEXPERT)
    return folder


@pytest.mark.parametrize(
    "uncertain, findings, words",
    [
        ("negative", ["[1, 0, 0]", "[0, 0, 1]", "[0, 1, 0]"], "1 cells hold -1 and count as neg"),
        ("positive", ["[1, 0, 0]", "[0, 1, 1]", "[0, 1, 0]"], "1 cells hold -1 and count as pos"),
        ("leave-out", ["[1, 0, 0]", "[0, 1, 0]"], "1 rows of train.csv hold a -1"),
    ],
)
def test_chexpert_s_table(chexpert, uncertain, findings, words):
    rows = ("Frontal/Lateral=Frontal",)
    data = read(chexpert, uncertain=uncertain, only_rows=rows)
    assert data.labels.classes == ("No Finding", "Cardiomegaly", "Edema")
    train, test, notes = make_tables(data)
    assert train["findings"].tolist() == findings
    assert set(train["group"]) <= {"patient00001", "patient00002", "patient00003"}
    assert len(test) == 0
    text = "\n".join(notes)
    for sentence in (
        words,
        "1 rows of train.csv are not of --only-rows Frontal/Lateral=Frontal and were left out",
        "4 empty cells of train.csv count as 0",
        "1 rows have no image and were left out",
    ):
        assert sentence in text


def test_names_of_the_nih():
    assert patient_by_name("00029180_002") == "nih_00029180"
    assert patient_by_name("view1_frontal") == ""
    assert patient_by_name("00029180_002_copy") == ""


# ------------------------------------------------------------------------------- folds


def test_folds_of_another_table():
    other = pd.DataFrame({"group": ["a", "a", "b", "c"], "fold": [0, 0, 1, 1]})
    table = pd.DataFrame({"group": list("cabxxyzw"), "stratum": "s"})
    assigned = follow_folds(table, other, 2, 0)
    assert assigned[:3].tolist() == [1, 0, 1]
    assert assigned[3] == assigned[4]
    assert np.bincount(assigned[3:]).tolist() in ([2, 3], [3, 2])
    assert follow_folds(table[:3], other, 2, 0).tolist() == [1, 0, 1]
    with pytest.raises(InputError, match="names a task of 2 folds: give --folds 2"):
        follow_folds(table, other, 3, 0)


def write_tables(task, train, test):
    """Tables of step 02 with patients and folds, without anything in the images."""
    task.path.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", train), ("test", test)):
        table = pd.DataFrame(rows, columns=["image_id", "group", "fold"])
        table = table.assign(width=9, height=9, boxes="[]", box_labels="[]", n_boxes=0, label=0)
        table.to_csv(task.table(name), index=False)


@pytest.fixture(scope="module")
def prepared_once(tmp_path_factory):
    root = tmp_path_factory.mktemp("nih")
    nih = write_nih(root / "nih")
    working = root / "working"
    rsna = TaskFolder(working / "rsna")
    train = [("r1", "nih_00000001", 0), ("r2", "nih_00000002", 1), ("r3", "r3", 1)]
    write_tables(rsna, train, [("t", "nih_00000005", -1)])
    task = TASKS["own-classes"]
    values = SMALL | {"preset": "auto", "working": working, "input": nih, "folds_of": "rsna"}
    settings = task.settings_of(values)
    record = prepare(task.dataset, nih, TaskFolder(working / "own-classes"), settings)
    return working, record


@pytest.fixture
def prepared(prepared_once, tmp_path):
    """working/, where step 02 of the NIH's images has followed the folds of rsna; its record."""
    working, record = prepared_once
    return shutil.copytree(working, tmp_path / "working"), record


def test_step_02_follows_the_folds_and_leaves_test_patients_out(prepared):
    working, record = prepared
    table = pd.read_csv(working / "own-classes" / "train.csv").set_index("image_id")
    assert table["fold"].loc[["00000001_000", "00000001_001", "00000002_000"]].tolist() == [0, 0, 1]
    assert "00000005_000" not in table.index
    assert sorted(table["fold"].tail(2)) == [0, 1]
    assert record["folds_of"] == "rsna"
    text = "\n".join(record["notes"])
    assert "1 images are of test patients of rsna and were left out" in text
    assert "3 of 5 images are of patients of rsna and have their folds there" in text


# ------------------------------------------------------------------------------- encoders


def begin(working):
    """Settings of a run of rsna that begins with the encoder of the run tiny, and its table."""
    task = TASKS["rsna"]
    values = SMALL | {"working": working, "weights": "own-classes/tiny", "run": "new"}
    settings = task.settings_of(values | {"image_size": 192, "pretrain": 0})
    return task, settings, pd.read_csv(working / "rsna" / "train.csv")


def test_an_encoder_of_another_task(prepared):
    working, _ = prepared
    write_untrained_run(working, "own-classes", preset="auto")
    task, settings, table = begin(working)
    sentence = check_patients(task, settings, table, 0)
    assert "fold 0, which shares no known patient with the 2 validation and test images" in sentence
    assert "WARNING" not in sentence
    # Of fold 1 one patient is not known by the NIH's name.
    assert "WARNING: 1 of these are of NIH ChestX-ray14" in check_patients(task, settings, table, 1)

    state = TrainingState(task, settings, 1, RUNTIME, 1, resuming=False)
    learned = EncoderRun.of(settings).checkpoint(settings, 1)
    assert learned == working / "own-classes" / "tiny" / "fold1" / "epoch001.pt"
    taught = {}
    for name, value in torch.load(learned, weights_only=True)["model"].items():
        taught[author_name(name)] = value
    encoder = state.model.encoder.state_dict()
    assert encoder
    for name, value in encoder.items():
        assert torch.equal(value, taught[author_name(name)]), name
    assert state.model.pretrained
    assert state.checkpoint(state.model)["config"]["weights"] == "own-classes/tiny"


def test_an_encoder_that_has_seen_the_answers(prepared):
    working, _ = prepared
    write_untrained_run(working, "own-classes", preset="auto")
    path = working / "own-classes" / "train.csv"
    table = pd.read_csv(path)
    table.assign(fold=1 - table["fold"]).to_csv(path, index=False)
    task, settings, own = begin(working)
    words = r"in its fold 0 the patients of 1 validation images of rsna, fold 0 \(the first is r1\)"
    with pytest.raises(InputError, match=words + ".*--folds-of rsna"):
        check_patients(task, settings, own, 0)
    table.assign(fold=7, group="nih_00000005").to_csv(path, index=False)
    with pytest.raises(InputError, match=r"1 test images of rsna, fold 0 \(the first is t\)"):
        check_patients(task, settings, own, 0)
    path.unlink()
    assert "WARNING" in check_patients(task, settings, own, 0)


def test_runs_that_do_not_fit(prepared):
    working, _ = prepared
    _, settings, _ = begin(working)
    with pytest.raises(InputError, match="own-classes/tiny is a run without checkpoints"):
        EncoderRun.of(settings)
    write_untrained_run(working, "own-classes", preset="auto")
    other = settings.replace(encoder="resnet18")
    with pytest.raises(InputError, match="has the encoder tu-test_resnet: use --encoder"):
        EncoderRun.of(other).checkpoint(other, 0)
    for weights in ("none", "some/file.pth", "a/b/c"):
        assert EncoderRun.of(settings.replace(weights=weights)) is None
    assert RunFolder.of(settings.place).name == "new"


# ------------------------------------------------------------------------------- real ones


@pytest.mark.skipif(not RSNA.is_dir(), reason=f"no real images in {RSNA}")
def test_real_images_of_the_nih_by_their_own_names(tmp_path):
    """RSNA's images under the names that the NIH gave them: the same patients."""
    mapping = pd.read_csv(RSNA / "nih_mapping.csv", dtype=str).head(8)
    folder = tmp_path / "images"
    folder.mkdir()
    lines = [NIH_HEADER]
    for row in mapping.itertuples():
        source = RSNA / "stage_2_train_images" / f"{row.patientId}.dcm"
        (folder / row.nih_image).symlink_to(source.resolve())
        patient = int(row.nih_patient_id)
        lines.append(
            f"{row.nih_image},No Finding|Mass,0,{patient},{row.age},M,PA,2500,2048,0.1,0.1,"
        )
    (folder / "Data_Entry_2017.csv").write_text("\n".join(lines))
    train = make_tables(read(folder)).train
    rsna = read_rsna(RSNA).train.set_index("image_id")
    expected = {row.nih_image[:-4]: rsna["group"][row.patientId] for row in mapping.itertuples()}
    assert dict(zip(train["image_id"], train["group"], strict=True)) == expected
    assert json.loads(train["findings"][0]) == [1]
