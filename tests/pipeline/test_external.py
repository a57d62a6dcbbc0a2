"""--external: further X-rays from any tree, labelled by a run of the same folds."""

import os
from pathlib import Path

import cv2
import pandas as pd
import pytest
from tiny_data import write_tiny_data
from tiny_masks import TINY_MASKS, mask_settings, write_tiny_masks
from tiny_task import TINY_TASK, tiny_settings
from trained import first_fold, read_log

from cxr.data.external_images import prepare_external, set_name, usable_rows
from cxr.run_folder import TaskFolder
from cxr.steps.train.engine import fold_tables, train_folds
from cxr.steps.train.further_images import open_external
from cxr.system.errors import InputError
from cxr.system.runtime import single_runtime

SHARED = Path(
    os.environ.get("CXR_SHARED_DATA", Path(__file__).resolve().parents[2].parent / "shared/data")
)
SIIM = SHARED / "siim-acr-pneumothorax-segmentation"
RSNA = SHARED / "rsna-pneumonia-detection-challenge"
CHESTXDET = SHARED / "chestx-det10"


@pytest.fixture(scope="module")
def working(tmp_path_factory):
    """Tables of the tiny tasks, a run of masks `teacher`, and the folder `public`.

    It holds the four pictures of `plain` in a tree of the NIH's form, a mirrored copy of x1, one of
    masks, and a text.
    """
    folder = tmp_path_factory.mktemp("external")
    write_tiny_masks(folder)
    write_tiny_data(folder)
    public = folder / "public" / "images_001" / "images"
    public.mkdir(parents=True)
    (folder / "public" / "masks").mkdir()
    for number in range(8, 12):
        picture = cv2.imread(str(folder / "plain" / f"x{number}.png"), cv2.IMREAD_GRAYSCALE)
        cv2.imwrite(str(public / f"0000000{number - 8}_000.png"), picture)
    own = cv2.imread(str(folder / "tinymasks" / "images" / "x1.png"), cv2.IMREAD_GRAYSCALE)
    cv2.imwrite(str(public / "00000009_000.png"), own[:, ::-1])
    cv2.imwrite(str(folder / "public" / "masks" / "a.png"), own)
    (folder / "public" / "readme.txt").write_text("x")
    names = [f"0000000{number}_000.png" for number in (0, 1, 2, 3, 9)]
    table = pd.DataFrame({"Image Index": names, "Finding Labels": "No Finding"})
    table.loc[[1, 3, 4], "Finding Labels"] = "Pneumothorax|Mass"
    table.to_csv(folder / "public" / "Data_Entry_2017.csv", index=False)
    teacher = mask_settings(folder, "teacher", epochs=30, batch_size=4, keep=1)
    assert train_folds(TINY_MASKS, teacher) == 0
    return folder


def learning(working, run, **changes):
    values = {"pseudo": "teacher", "external": (str(working / "public"),)} | changes
    return mask_settings(working, run, **values)


def tables_of(settings, capsys, task=TINY_MASKS):
    """The tables of the first fold, and what was printed."""
    folder = TaskFolder.of(settings.place)
    table = pd.read_csv(folder.table("train"), dtype={"group": str, "mask": str})
    runtime = single_runtime(settings.machine)
    tables = fold_tables(task, settings, table, 0, runtime)
    return tables, capsys.readouterr().out


def test_labels_and_run_must_agree(working, capsys):
    labels = (str(working / "public" / "Data_Entry_2017.csv"),)
    settings = learning(working, "agreeing", external_labels=labels)
    tables, text = tables_of(settings, capsys)
    assert "5 images, 4 of them to learn from; 1 are copies of the task's images" in text
    assert "5 have labels" in text
    added = tables.train[tables.train["pseudo"]]
    names = [Path(image_id).name for image_id in added["image_id"]]
    labels = dict(zip(names, added["label"], strict=True))
    # Those that show nothing are learned as they are said to be.
    assert labels["00000000_000.png"] == 0
    assert labels["00000002_000.png"] == 0
    assert set(labels) <= {f"0000000{number}_000.png" for number in range(4)}
    assert (added["source"] == set_name(working / "public")).all()


def test_an_epoch_is_logged(working):
    """Each source has its columns, and external images come from the second epoch on."""
    sampling = {"sampling": "balanced", "pseudo_ratio": 1.0}
    labels = (str(working / "public" / "Data_Entry_2017.csv"),)
    settings = learning(working, "logged", external_labels=labels, **sampling)
    assert train_folds(TINY_MASKS, settings) == 0
    name = set_name(working / "public")
    log = read_log(settings)
    assert [float(row["images_labelled"]) for row in log] == [4, 4]
    assert float(log[0][f"images_{name}"]) == 0
    assert float(log[1][f"images_{name}"]) >= 2
    # The fold's own teacher was asked, and what it said is kept beside its other predictions.
    teacher = first_fold(mask_settings(working, "teacher")).path
    assert (teacher / f"external_{name}_predictions" / "part-00000.npz").exists()


def test_patients_of_validation_images_are_left_out(working, capsys):
    settings = learning(working, "patients")
    folder = TaskFolder.of(settings.place)
    table = pd.read_csv(folder.table("train"), dtype={"group": str, "mask": str})
    table.loc[table["image_id"] == "x0", "group"] = "nih_00000002"  # of fold 0
    runtime = single_runtime(settings.machine)
    tables = fold_tables(TINY_MASKS, settings, table, 0, runtime)
    assert "1 images of public-" in capsys.readouterr().out
    assert not tables.train["image_id"].str.endswith("00000002_000.png").any()


def test_images_of_the_task_by_their_mapping(working):
    settings = learning(working, "mapping")
    [images] = open_external(TINY_MASKS, settings, single_runtime(settings.machine))
    nobody = pd.Series(False, images.table.index).to_numpy()
    kept, reasons = usable_rows(images.table, frozenset({"00000001_000"}), nobody)
    assert len(kept) == 3
    assert dict(reasons) == {"are images of the task by its mapping": 1}


def test_boxes_of_a_run_are_learned(working, capsys):
    teacher = tiny_settings(working, run="boxes", epochs=1)
    assert train_folds(TINY_TASK, teacher) == 0
    changes = {"pseudo": "boxes", "external": (str(working / "public"),), "epochs": 2}
    # A network that has learned next to nothing is sure that there is none.
    settings = tiny_settings(working, run="taught", pseudo_score=0.9, global_weight=0.0, **changes)
    assert train_folds(TINY_TASK, settings) == 0
    text = capsys.readouterr().out
    assert "--external adds" in text
    log = read_log(settings)
    assert [float(row["images_labelled"]) for row in log] == [8, 8]


@pytest.mark.parametrize("content", ["missing", "empty"])
def test_folders_without_xrays(working, tmp_path, content):
    folder = tmp_path / content
    if content == "empty":
        folder.mkdir()
    settings = learning(working, "none", external=(str(folder),))
    with pytest.raises(InputError, match=r"is no folder|holds no DICOM"):
        open_external(TINY_MASKS, settings, single_runtime(settings.machine))


@pytest.mark.skipif(not SIIM.is_dir(), reason=f"no real sample at {SHARED} (CXR_SHARED_DATA)")
def test_real_folders(tmp_path):
    """Files of three sets in one tree; the mirrored PNG of a DICOM is a copy of it."""
    task = TaskFolder(tmp_path / "working" / "pneumothorax")
    own = sorted((SIIM / "dicom-images-train").rglob("*.dcm"))[:2]
    mixed = tmp_path / "mixed"
    for path in own:
        link(path, mixed / "own")
    [first, second] = prepare_external(mixed, task, [], 128, 1)["image_id"]
    (task.images / "own").mkdir()
    for image_id in (first, second):
        os.link(task.image(image_id), task.images / "own" / f"{Path(image_id).name}.png")

    twin = tmp_path / "public" / "twin.png"
    twin.parent.mkdir()
    cv2.imwrite(str(twin), cv2.imread(str(task.image(first)))[:, ::-1])
    further = [*sorted((RSNA / "stage_2_test_images").glob("*.dcm"))[:2]]
    further += sorted((CHESTXDET / "train_data").glob("*.png"))[:2]
    further += sorted((SIIM / "png-images-train").iterdir())[:1]
    for path in further:
        link(path, tmp_path / "public" / path.parent.name)
    ids = [f"own/{Path(image_id).name}" for image_id in (first, second)]
    table = prepare_external(tmp_path / "public", task, ids, 128, 1)
    assert len(table) == 6
    copies = table[table["copy_of"] != ""]
    assert [Path(path).name for path in copies["path"]] == [twin.name]
    assert copies["copy_of"].tolist() == [ids[0]]
    assert (table["width"] > 100).all()


def link(path, folder):
    folder.mkdir(parents=True, exist_ok=True)
    os.symlink(path, folder / path.name)
