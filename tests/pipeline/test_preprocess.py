"""Step 02: folds, conversion that survives kills, failures and full disks; the overview."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from test_images import make_dataset, save

from cxr.data import preparation
from cxr.data.image_table import Tables
from cxr.data.preparation import fold_summary, prepare
from cxr.data.tables import COLUMNS, read_table
from cxr.images.isolated import Reader
from cxr.plots.data_overview import box_heat, pick_samples, write_overview
from cxr.run_folder import TaskFolder
from cxr.settings import MethodSettings, make_settings
from cxr.system.disk import read_json
from cxr.system.errors import InputError

CLASSES = ("healthy", "ill")
TRAIN_IDS = [f"i{number:02}" for number in range(12)]
TEST_IDS = ["t0", "t1"]


class MadeUp:
    """Twelve images of six patients, the odd ones ill; their boxes reach out of the image.

    `train_rows` and `test_rows` are how many of the images there are.
    """

    slug = "made-up"
    groups_by_picture = False

    def __init__(self, train_rows=12, test_rows=2):
        self.train_rows = train_rows
        self.test_rows = test_rows

    def read_tables(self, folder, settings):
        del settings
        ill = np.arange(12) // 2 % 2 == 1
        train = pd.DataFrame(
            {
                "image_id": TRAIN_IDS,
                "path": [str(folder / f"{image_id}.dcm") for image_id in TRAIN_IDS],
                "group": [f"p{number // 2}" for number in range(12)],
                "stratum": np.where(ill, "ill", "healthy"),
                "boxes": np.where(ill, "[[4.0, 5.0, 20.0, 50.0]]", "[]"),
                "box_labels": np.where(ill, "[0]", "[]"),
                "n_boxes": ill.astype(int),
                "label": ill.astype(int),
                "test_like": False,
            }
        )
        test = pd.DataFrame(
            {
                "image_id": TEST_IDS,
                "path": [str(folder / f"{image_id}.dcm") for image_id in TEST_IDS],
                "group": TEST_IDS,
                "stratum": "",
                "boxes": "[]",
                "box_labels": "[]",
                "n_boxes": 0,
                "label": -1,
                "test_like": False,
            }
        )
        notes = ["a note of the data set"]
        return Tables(train[: self.train_rows], test[: self.test_rows], notes)

    def table_settings(self, settings):
        del settings
        return {}


class Unreadable(MadeUp):
    """A data set that nobody may read."""

    def read_tables(self, *_):
        raise AssertionError("the tables were read again")


class GroupedByPicture(MadeUp):
    """A data set that says only after the conversion which images belong together."""

    groups_by_picture = True

    def group_rows(self, table, folder, notes):
        assert "fold" not in table
        assert len(list((folder / "images").glob("*.png"))) == 14
        notes.append("pictures were seen")
        return table.assign(group=["one", "one", "one", "one", *table["image_id"][4:]])


def prepare_made_up(root, dataset=None, source=None, folder=None, **changes):
    """The record of step 02 for root/input/made-up, in root/working/task."""
    values = {"size": 16, "folds": 3, "workers": 0} | changes
    return prepare(
        dataset or MadeUp(),
        source or root / "input" / "made-up",
        TaskFolder(folder or root / "working" / "task"),
        make_settings(values, MethodSettings),
    )


@pytest.fixture
def root(tmp_path):
    source = tmp_path / "input" / "made-up"
    source.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number, image_id in enumerate([*TRAIN_IDS, *TEST_IDS]):
        pixels = rng.integers(0, 256, (40, 32), np.uint8)
        tags = {
            "PatientSex": "MF"[number % 2],
            "ViewPosition": "AP",
            "PatientAge": f"{number + 20:03}Y",
        }
        save(source / f"{image_id}.dcm", make_dataset(pixels, **tags))
    return tmp_path


def read_all(folder):
    """Content of every file that step 02 leaves for the others."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_the_tables(root):
    prepare_made_up(root)
    folder = root / "working" / "task"
    train = read_table(folder / "train.csv")
    test = read_table(folder / "test.csv")
    further = (
        "study_id",
        "patient",
        "cluster",
        "mask_known",
        "mask",
        "findings",
    )  # of studies and of masks
    assert list(train.columns) == [name for name in COLUMNS if name not in further]
    assert list(test.columns) == [name for name in train.columns if name != "fold"]
    assert train["image_id"].tolist() == TRAIN_IDS
    assert test["image_id"].tolist() == TEST_IDS
    assert (train["width"] == 32).all()
    assert (train["height"] == 40).all()
    assert (train["view"] == "AP").all()
    assert train["age"].tolist() == list(range(20, 32))
    assert train["sex"][:2].tolist() == ["M", "F"]
    assert json.loads(train["boxes"][2]) == [[4.0, 5.0, 20.0, 40.0]]
    assert train["n_boxes"][2] == 1
    assert sorted(train["fold"].unique()) == [0, 1, 2]


def test_everything_else_it_leaves(root, capsys):
    record = prepare_made_up(root)
    folder = root / "working" / "task"
    picture = cv2.imread(str(folder / "images" / "i00.png"), cv2.IMREAD_UNCHANGED)
    assert picture.shape == (16, 16)
    assert len(list((folder / "images").iterdir())) == 14
    assert (folder / "failed.csv").read_text() == "image_id,path,reason\n"
    assert record == read_json(folder / "preprocess.json")
    assert record["counts"] == {"train": 12, "test": 2, "failed": 0}
    assert record["complete"]
    assert record["notes"] == [
        "a note of the data set",
        "6 boxes reach outside their image and were clipped to it (the first: i02)",
    ]
    printed = capsys.readouterr().out
    assert "a note of the data set" in printed
    assert "0 patients are in more than one fold" in printed


def test_images_that_are_no_frontal_chest_x_rays_are_counted(root):
    for name, tags in {"i03": {"ViewPosition": "LL"}, "t1": {"Modality": "CT"}}.items():
        path = root / "input" / "made-up" / f"{name}.dcm"
        save(path, make_dataset(np.zeros((40, 32), np.uint8), **tags))
    record = prepare_made_up(root)
    assert record["counts"] == {"train": 12, "test": 2, "failed": 0}
    assert record["notes"][-1] == (
        "2 images are no frontal chest X-rays by their headers and were kept, such as i03: the "
        "view is LL, which is not frontal"
    )


def test_groups_that_only_pictures_show(root):
    record = prepare_made_up(root, GroupedByPicture())
    train = read_table(root / "working" / "task" / "train.csv")
    assert train["fold"][:4].nunique() == 1
    assert record["notes"][-1] == "pictures were seen"
    assert [name for name in COLUMNS if name in train.columns] == list(train.columns)


def test_input_that_changed(root, capsys):
    """What was made is kept, and it is said how to make it anew."""
    first = prepare_made_up(root)
    (root / "input" / "made-up" / "nih_mapping.csv").write_text("patientId,nih_patient_id\n")
    capsys.readouterr()
    assert prepare_made_up(root) == first
    record = root / "working" / "task" / "preprocess.json"
    words = f"made-up has changed since. To make tables and folds anew, delete {record}"
    assert words in capsys.readouterr().out
    record.unlink()
    anew = prepare_made_up(root)
    assert anew["contents"]["tables"] == {"made-up/nih_mapping.csv": 25}
    assert "14 of them converted by an earlier run" in capsys.readouterr().out


def test_input_that_moved(root, capsys):
    """The same data in another place go on; other data there do not."""
    prepare_made_up(root)
    (root / "input").rename(root / "moved")
    source = root / "moved" / "made-up"
    moved = prepare_made_up(root, source=source)
    assert moved["input"] == str(source)
    assert read_json(root / "working" / "task" / "preprocess.json")["input"] == str(source)
    assert "has changed since" not in capsys.readouterr().out
    (source / "t1.dcm").unlink()
    (root / "moved").rename(root / "again")
    words = "was made with input .*moved.*delete that folder and with it the runs"
    with pytest.raises(InputError, match=words):
        prepare_made_up(root, source=root / "again" / "made-up")


def test_second_run_reads_nothing(root, capsys):
    first = prepare_made_up(root)
    assert prepare_made_up(root, Unreadable()) == first
    assert "is complete" in capsys.readouterr().out


def test_deleted_picture_is_made_again(root):
    prepare_made_up(root)
    folder = root / "working" / "task"
    before = read_all(folder)
    (folder / "images" / "i03.png").unlink()
    (folder / "test.csv").unlink()
    prepare_made_up(root)
    assert read_all(folder) == before


@pytest.mark.parametrize(
    "name, changes",
    [
        ("size", {"size": 8}),
        ("folds", {"folds": 2}),
        ("seed", {"seed": 1}),
        ("input", {"source": Path("elsewhere/made-up")}),
    ],
)
def test_other_settings_are_refused_even_after_an_unfinished_run(root, name, changes, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(preparation, "finish_table", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare_made_up(root)
    with pytest.raises(InputError, match=f"made with {name} .*another --working, or delete"):
        prepare_made_up(root, **changes)


# ------------------------------------------------------------------ other processes

TESTS = Path(__file__).parents[1]
PATHS = [str(TESTS.parent), *(str(TESTS / name) for name in ("pipeline", "support", "unit"))]

KILLED_RUN = f"""
import sys, time
sys.path[:0] = {PATHS!r}
from pathlib import Path
from cxr.images.isolated import Reader
import test_preprocess
convert = Reader.convert
def slow(*arguments):
    time.sleep(0.15)
    return convert(*arguments)
Reader.convert = slow
test_preprocess.prepare_made_up(Path(sys.argv[1]))
"""


def test_killed_run_continues_to_the_same_result(root):
    folder = root / "working" / "task"
    process = subprocess.Popen([sys.executable, "-c", KILLED_RUN, str(root)])
    while len(list(folder.glob("images/*.png"))) < 3 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (folder / "train.csv").exists()
    assert not read_json(folder / "preprocess.json")["complete"]

    early = {path: path.stat().st_mtime_ns for path in folder.glob("images/i*.png")}
    assert early
    half = folder / "images" / "i11.png"  # as a machine without power leaves it
    half.write_bytes(next(iter(early)).read_bytes()[:70])
    (folder / "images" / ".i10.png.99.tmp.png").write_bytes(b"half")
    prepare_made_up(root)
    assert all(path.stat().st_mtime_ns == written for path, written in early.items())
    prepare_made_up(root, folder=root / "whole")
    assert read_all(folder) == read_all(root / "whole")


SPAWNED_RUN = f"""
import multiprocessing, sys
sys.path[:0] = {PATHS!r}
from pathlib import Path
if __name__ == "__main__":
    import test_preprocess
    multiprocessing.set_start_method("spawn")
    test_preprocess.prepare_made_up(Path(sys.argv[1]), workers=2)
"""


def test_spawned_processes_give_the_same_result(root):
    (root / "run.py").write_text(SPAWNED_RUN)
    subprocess.run([sys.executable, root / "run.py", str(root)], check=True)
    prepare_made_up(root, folder=root / "serial")
    assert read_all(root / "working" / "task") == read_all(root / "serial")


THREADED_PARENT = f"""
import sys
sys.path[:0] = {PATHS!r}
from pathlib import Path
import cv2, numpy as np, test_preprocess
cv2.resize(np.zeros((4000, 4000), np.uint8), (999, 999), interpolation=cv2.INTER_AREA)
test_preprocess.prepare_made_up(Path(sys.argv[1]), workers=2, size=1600)
"""


def test_workers_do_not_hang_on_threads_of_their_parent(root):
    """A forked process that touches OpenCV's threads of its parent would never return."""
    command = [sys.executable, "-c", THREADED_PARENT, str(root)]
    assert subprocess.run(command, check=False, timeout=120).returncode == 0


def test_a_process_that_dies_costs_only_its_file(root, monkeypatch):
    """As by a decoder that aborts. The file is a row of failed.csv, all others are converted."""
    os.mkfifo(root / "pipe")
    convert = Reader.convert

    def die_of_one(reader, job):
        if Path(job.source).stem == "i05":
            job = replace(job, source=root / "pipe")  # nobody writes, so it never ends
            threading.Timer(0.2, reader.start().send_signal, [signal.SIGABRT]).start()
        return convert(reader, job)

    monkeypatch.setattr(Reader, "convert", die_of_one)
    counts = prepare_made_up(root, workers=2, max_failed_share=0.2)["counts"]
    assert counts == {"train": 11, "test": 2, "failed": 1}
    failed = pd.read_csv(root / "working" / "task" / "failed.csv")
    assert failed["image_id"].tolist() == ["i05"]
    assert "crashes the decoder" in failed["reason"][0]


# ------------------------------------------------------------------------- failures


def test_failures_are_listed_and_can_be_repaired(root, capsys):
    prepare_made_up(root, folder=root / "sound")
    folder = root / "working" / "task"
    broken = root / "input" / "made-up" / "i05.dcm"
    empty = root / "input" / "made-up" / "t1.dcm"
    content = broken.read_bytes()
    broken.write_bytes(content[: len(content) - 300])
    empty.write_bytes(b"")
    words = "2 of 14 images failed, more than --max-failed-share 0.05.*i05.dcm"
    with pytest.raises(InputError, match=words):
        prepare_made_up(root)

    failed = pd.read_csv(folder / "failed.csv")
    assert failed["image_id"].tolist() == ["i05", "t1"]
    assert "the file is empty" in failed["reason"][1]
    train = read_table(folder / "train.csv")
    assert train["image_id"].tolist() == [name for name in TRAIN_IDS if name != "i05"]
    assert len(read_table(folder / "test.csv")) == 1
    expected = read_table(root / "sound" / "train.csv").set_index("image_id")["fold"]
    assert train["fold"].tolist() == expected[train["image_id"]].tolist()  # the others stay

    with pytest.raises(InputError, match="2 of 14"):
        prepare_made_up(root)
    allowed = prepare_made_up(root, max_failed_share=0.2)
    assert allowed["counts"] == {"train": 11, "test": 1, "failed": 2}
    assert "2 of 14 images failed and are left out" in capsys.readouterr().out

    broken.write_bytes(content)
    empty.write_bytes(content)
    assert prepare_made_up(root)["counts"] == {"train": 12, "test": 2, "failed": 0}
    sound = (root / "sound" / "train.csv").read_bytes()
    assert (folder / "train.csv").read_bytes() == sound


def refuse_to_write(path, *_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


@pytest.mark.parametrize(
    "writer", ["cxr.images.isolated.Reader.convert", "cxr.data.preparation.write_csv"]
)
def test_full_disk(root, monkeypatch, writer):
    monkeypatch.setattr(writer, refuse_to_write)
    with pytest.raises(InputError, match=r"No space left on device.*run it again"):
        prepare_made_up(root)
    assert not (root / "working" / "task" / "train.csv").exists()
    monkeypatch.undo()
    assert prepare_made_up(root)["counts"]["train"] == 12


def test_full_disk_in_a_worker_process(root):
    """A file where the folder of the pictures should be: every process fails to write."""
    (root / "working" / "task").mkdir(parents=True)
    (root / "working" / "task" / "images").write_text("")
    with pytest.raises(InputError, match="step 02 cannot go on"):
        prepare_made_up(root, workers=2)


def test_input_is_never_written(root):
    source = root / "input" / "made-up"
    before = read_all(source)
    written = {path: path.stat().st_mtime_ns for path in source.iterdir()}
    for path in [*written, source, root / "input"]:
        path.chmod(0o555)
    try:
        prepare_made_up(root)
        assert read_all(source) == before
        assert {path: path.stat().st_mtime_ns for path in source.iterdir()} == written
    finally:
        source.parent.chmod(0o755)
        source.chmod(0o755)


def test_missing_input(root):
    with pytest.raises(InputError, match=r"made-up is missing: run 01_download\.py"):
        prepare_made_up(root, source=root / "nowhere" / "made-up")
    assert not (root / "working").exists()


@pytest.mark.parametrize(
    "image_id, words", [("../x", "cannot be a file name"), (".x", "file name"), ("i01", "twice")]
)
def test_image_ids_that_cannot_be_file_names(root, image_id, words):
    class Renamed(MadeUp):
        def read_tables(self, folder, settings):
            tables = super().read_tables(folder, settings)
            tables.train["image_id"] = tables.train["image_id"].replace("i00", image_id)
            return tables

    with pytest.raises(InputError, match=words):
        prepare_made_up(root, Renamed())


@pytest.mark.parametrize("train_rows", [12, 0])
def test_no_test_images_and_no_images(root, train_rows):
    record = prepare_made_up(root, MadeUp(train_rows, 0))
    assert record["counts"] == {"train": train_rows, "test": 0, "failed": 0}
    folder = root / "working" / "task"
    assert len(read_table(folder / "test.csv")) == 0
    write_overview(folder, CLASSES)


def test_fold_summary_counts_spanning_patients():
    train = pd.DataFrame(
        {
            "group": ["a", "a", "b", "c"],
            "stratum": ["x", "y", "x", "x"],
            "fold": [0, 1, 1, 0],
            "n_boxes": [2, 0, 1, 0],
        }
    )
    text, spanning = fold_summary(train)
    assert [line.split() for line in text.splitlines()] == [
        ["x", "y", "images", "boxes"],
        ["fold"],
        ["0", "2", "0", "2", "2"],
        ["1", "1", "1", "2", "1"],
    ]
    assert spanning == "1 patients are in more than one fold (2 of 4 images)"


# --------------------------------------------------------------------- the overview


def shape_of(path):
    return cv2.imread(str(path)).shape


def test_overview_pictures_are_the_same_each_time(root):
    folder = root / "working" / "task"
    prepare_made_up(root)
    write_overview(folder, CLASSES)
    overview = (folder / "overview.png").read_bytes()
    samples = (folder / "samples.png").read_bytes()
    assert shape_of(folder / "overview.png")[1] >= 1500
    assert shape_of(folder / "samples.png")[0] >= 500
    write_overview(folder, CLASSES)
    assert (folder / "overview.png").read_bytes() == overview
    assert (folder / "samples.png").read_bytes() == samples


@pytest.mark.parametrize("train_rows, test_rows", [([0, 1, 4], 0), ([2], 1), ([], 2), ([], 0)])
def test_overview_of_nearly_nothing(root, train_rows, test_rows):
    """No boxes and no test images; one image; no training images; nothing."""
    folder = root / "working" / "task"
    prepare_made_up(root)
    train = read_table(folder / "train.csv")
    test = read_table(folder / "test.csv")
    train = train.iloc[train_rows].assign(age=np.nan, sex=np.nan, view=np.nan)
    train.to_csv(folder / "train.csv", index=False)
    test[:test_rows].to_csv(folder / "test.csv", index=False)
    (folder / "samples.png").write_bytes(b"of an earlier run")
    (folder / "preprocess.json").unlink()  # it counts the rows of the whole tables
    write_overview(folder, CLASSES)
    assert shape_of(folder / "overview.png")[1] >= 1500
    assert (folder / "samples.png").exists() == bool(train_rows)
    if train_rows:
        assert shape_of(folder / "samples.png")[0] > 300


def test_overview_before_step_02(tmp_path):
    with pytest.raises(InputError, match="run step 02"):
        write_overview(tmp_path, CLASSES)


def test_box_heat():
    """Cell centres 1/4 and 3/4: one box covers the left column, one the lower right cell only."""
    boxes = np.array([[0, 0, 0.5, 1], [0.6, 0.6, 0.9, 0.9]])
    assert box_heat(boxes, 2).tolist() == [[0.5, 0], [0.5, 0.5]]


def test_samples_are_spread_over_each_class():
    train = pd.DataFrame({"label": [0] * 9 + [2], "name": range(10)})
    picked = pick_samples(train, ("a", "b", "c"), 3)
    assert list(picked) == ["a", "c"]
    assert picked["a"].rows["name"].tolist() == [0, 4, 8]
    assert picked["a"].total == 9
    assert picked["c"].rows["name"].tolist() == [9]
    assert picked["c"].total == 1
