"""Step 02: folds, conversion that survives kills, failures and full disks; the overview pictures."""

import errno
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_images import make_dataset, save

from cxr.data import preparation as preprocess
from cxr.data.dataset import read_table
from cxr.data.preparation import COLUMNS, assign_folds, boxes_inside, fold_summary, prepare
from cxr.plots.data_overview import box_heat, pick_samples, write_overview
from cxr.system.disk import InputError, read_json

CLASSES = ("healthy", "ill")
TRAIN_IDS, TEST_IDS = [f"i{k:02}" for k in range(12)], ["t0", "t1"]


def read_tables(folder):
    """Of a made-up data set: twelve images of six patients, the odd patients ill; one box reaches out of its image."""
    ill = np.arange(12) // 2 % 2 == 1
    train = pd.DataFrame(
        {
            "image_id": TRAIN_IDS,
            "path": [str(folder / f"{i}.dcm") for i in TRAIN_IDS],
            "group": [f"p{k // 2}" for k in range(12)],
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
            "path": [str(folder / f"{i}.dcm") for i in TEST_IDS],
            "group": TEST_IDS,
            "stratum": "",
            "boxes": "[]",
            "box_labels": "[]",
            "n_boxes": 0,
            "label": -1,
            "test_like": False,
        }
    )
    return train, test, ["a note of the task"]


TASK = SimpleNamespace(slug="made-up", read_tables=read_tables)


def configure(root, **changes):
    settings = {
        "input": root / "input",
        "working": root / "working",
        "task_dir": root / "working" / "task",
        "size": 16,
        "folds": 3,
        "seed": 42,
        "workers": 0,
        "max_failed_share": 0.05,
    }
    return SimpleNamespace(**(settings | changes))


@pytest.fixture
def root(tmp_path):
    (tmp_path / "input" / "made-up").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number, image_id in enumerate([*TRAIN_IDS, *TEST_IDS]):
        pixels = rng.integers(0, 256, (40, 32), np.uint8)
        dataset = make_dataset(
            pixels, PatientSex="MF"[number % 2], ViewPosition="AP", PatientAge=f"{number + 20:03}Y"
        )
        save(tmp_path / "input" / "made-up" / f"{image_id}.dcm", dataset)
    return tmp_path


def results(folder):
    """Content of every file that step 02 leaves for the others."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_everything_it_leaves(root, capsys):
    summary = prepare(TASK, configure(root))
    folder = root / "working" / "task"
    train, test = read_table(folder / "train.csv"), read_table(folder / "test.csv")
    own = ("study_id", "patient", "cluster", "mask_known", "mask")  # of studies and of masks
    assert list(train.columns) == [c for c in COLUMNS if c not in own]
    assert list(test.columns) == [c for c in train.columns if c != "fold"]
    assert train.image_id.tolist() == TRAIN_IDS and test.image_id.tolist() == TEST_IDS
    assert (
        (train.width == 32).all() and (train.height == 40).all() and (train["view"] == "AP").all()
    )
    assert train.age.tolist() == list(range(20, 32)) and train.sex[:2].tolist() == ["M", "F"]
    assert json.loads(train.boxes[2]) == [[4.0, 5.0, 20.0, 40.0]] and train.n_boxes[2] == 1
    assert sorted(train.fold.unique()) == [0, 1, 2]
    assert cv2.imread(str(folder / "images" / "i00.png"), cv2.IMREAD_UNCHANGED).shape == (16, 16)
    assert len(list((folder / "images").iterdir())) == 14
    assert (folder / "failed.csv").read_text() == "image_id,path,reason\n"
    assert summary == read_json(folder / "preprocess.json")
    assert summary["counts"] == {"train": 12, "test": 2, "failed": 0} and summary["complete"]
    assert summary["notes"] == [
        "a note of the task",
        "6 boxes reach outside their image and were clipped to it",
    ]
    printed = capsys.readouterr().out
    assert "a note of the task" in printed and "0 patients are in more than one fold" in printed


def test_input_that_changed_or_moved(root, capsys):
    """What was made is kept, and it is said how to make it anew; the same data in another place go on."""
    first = prepare(TASK, configure(root))
    (root / "input" / "made-up" / "nih_mapping.csv").write_text("patientId,nih_patient_id\n")
    capsys.readouterr()
    assert prepare(TASK, configure(root)) == first
    printed, settings = capsys.readouterr().out, root / "working" / "task" / "preprocess.json"
    assert f"made-up has changed since. To make tables and folds anew, delete {settings}" in printed
    settings.unlink()
    assert prepare(TASK, configure(root))["contents"]["tables"] == {"made-up/nih_mapping.csv": 25}
    assert "14 of them converted by an earlier run" in capsys.readouterr().out
    (root / "input").rename(root / "moved")
    moved = configure(root, input=root / "moved")
    assert (
        prepare(TASK, moved)["input"]
        == read_json(settings)["input"]
        == str(root / "moved" / "made-up")
    )
    assert "has changed since" not in capsys.readouterr().out
    (root / "moved" / "made-up" / "t1.dcm").unlink()
    (root / "moved").rename(root / "again")
    with pytest.raises(
        InputError, match="was made with input .*moved.*delete that folder and with it the runs"
    ):
        prepare(TASK, configure(root, input=root / "again"))


def test_second_run_reads_nothing(root, capsys):
    first = prepare(TASK, configure(root))
    task = SimpleNamespace(slug="made-up", read_tables=None)
    assert prepare(task, configure(root)) == first
    assert "is complete" in capsys.readouterr().out


def test_deleted_picture_is_made_again(root):
    prepare(TASK, configure(root))
    before = results(root / "working" / "task")
    (root / "working" / "task" / "images" / "i03.png").unlink()
    (root / "working" / "task" / "test.csv").unlink()
    prepare(TASK, configure(root))
    assert results(root / "working" / "task") == before


@pytest.mark.parametrize(
    "changes", [{"size": 8}, {"folds": 2}, {"seed": 1}, {"input": Path("elsewhere")}]
)
def test_other_settings_are_refused_even_after_an_unfinished_run(root, changes, monkeypatch):
    def killed(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(preprocess, "finish_table", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare(TASK, configure(root))
    with pytest.raises(
        InputError, match=f"made with {next(iter(changes))} .*another --working, or delete"
    ):
        prepare(TASK, configure(root, **changes))


KILLED_RUN = """
import sys, time
sys.path[:0] = {paths!r}
from pathlib import Path
import cxr.data.preparation, test_preprocess
convert = cxr.data.preparation.convert_image
def slow(*arguments):
    time.sleep(0.15)
    return convert(*arguments)
cxr.data.preparation.convert_image = slow
cxr.data.preparation.prepare(test_preprocess.TASK, test_preprocess.configure(Path({root!r})))
"""


def test_killed_run_continues_to_the_same_result(root):
    folder = root / "working" / "task"
    paths = [
        str(Path(__file__).parents[2]),
        str(Path(__file__).parent),
        str(Path(__file__).parents[1] / "support"),
    ]
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED_RUN.format(paths=paths, root=str(root))]
    )
    while len(list(folder.glob("images/*.png"))) < 3 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert (
        not (folder / "train.csv").exists()
        and not read_json(folder / "preprocess.json")["complete"]
    )
    early = {path: path.stat().st_mtime_ns for path in folder.glob("images/i*.png")}
    half = folder / "images" / "i11.png"  # as a machine without power leaves it
    half.write_bytes(next(iter(early)).read_bytes()[:70])
    (folder / "images" / ".i10.png.99.tmp.png").write_bytes(b"half")
    prepare(TASK, configure(root))
    assert all(path.stat().st_mtime_ns == written for path, written in early.items()) and early
    prepare(TASK, configure(root, task_dir=root / "whole"))
    assert results(folder) == results(root / "whole")


SPAWNED_RUN = """
import multiprocessing, sys
sys.path[:0] = {paths!r}
from pathlib import Path
if __name__ == "__main__":
    import cxr.data.preparation, test_preprocess
    multiprocessing.set_start_method("spawn")
    cxr.data.preparation.prepare(test_preprocess.TASK, test_preprocess.configure(Path({root!r}), workers=2))
"""


def test_spawned_processes_give_the_same_result(root):
    paths = [
        str(Path(__file__).parents[2]),
        str(Path(__file__).parent),
        str(Path(__file__).parents[1] / "support"),
    ]
    (root / "run.py").write_text(SPAWNED_RUN.format(paths=paths, root=str(root)))
    subprocess.run([sys.executable, root / "run.py"], check=True)
    prepare(TASK, configure(root, task_dir=root / "serial"))
    assert results(root / "working" / "task") == results(root / "serial")


def test_failures_are_listed_and_can_be_repaired(root, capsys):
    sound = configure(root, task_dir=root / "sound")
    prepare(TASK, sound)
    broken = root / "input" / "made-up" / "i05.dcm"
    content = broken.read_bytes()
    broken.write_bytes(content[: len(content) - 300])
    (root / "input" / "made-up" / "t1.dcm").write_bytes(b"")
    with pytest.raises(
        InputError, match="2 of 14 images failed, more than --max-failed-share 0.05.*i05.dcm"
    ):
        prepare(TASK, configure(root))
    folder = root / "working" / "task"
    failed = pd.read_csv(folder / "failed.csv")
    assert failed.image_id.tolist() == ["i05", "t1"] and "the file is empty" in failed.reason[1]
    train = read_table(folder / "train.csv")
    assert (
        train.image_id.tolist() == [i for i in TRAIN_IDS if i != "i05"]
        and len(read_table(folder / "test.csv")) == 1
    )
    expected = read_table(root / "sound" / "train.csv").set_index("image_id").fold
    assert train.fold.tolist() == expected[train.image_id].tolist()  # the others do not move
    with pytest.raises(InputError, match="2 of 14"):
        prepare(TASK, configure(root))
    assert prepare(TASK, configure(root, max_failed_share=0.2))["counts"] == {
        "train": 11,
        "test": 1,
        "failed": 2,
    }
    assert "2 of 14 images failed and are left out" in capsys.readouterr().out
    broken.write_bytes(content)
    (root / "input" / "made-up" / "t1.dcm").write_bytes(content)
    assert prepare(TASK, configure(root))["counts"] == {"train": 12, "test": 2, "failed": 0}
    assert (folder / "train.csv").read_bytes() == (root / "sound" / "train.csv").read_bytes()


def refuse_to_write(path, *arguments):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


@pytest.mark.parametrize(
    "writer, workers", [("cxr.images.write_png", 0), ("cxr.data.preparation.write_csv", 0)]
)
def test_full_disk(root, monkeypatch, writer, workers):
    monkeypatch.setattr(writer, refuse_to_write)
    with pytest.raises(InputError, match="No space left on device.*run it again"):
        prepare(TASK, configure(root, workers=workers))
    assert not (root / "working" / "task" / "train.csv").exists()
    monkeypatch.undo()
    assert prepare(TASK, configure(root))["counts"]["train"] == 12


def test_full_disk_in_a_worker_process(root):
    """A file where the folder of the pictures should be: every process fails to write."""
    (root / "working" / "task").mkdir(parents=True)
    (root / "working" / "task" / "images").write_text("")
    with pytest.raises(InputError, match="step 02 cannot go on"):
        prepare(TASK, configure(root, workers=2))


def die(*arguments):
    os._exit(1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the stand-in reaches the workers only by fork")
def test_killed_worker(root, monkeypatch):
    monkeypatch.setattr(preprocess, "convert_image", die)
    with pytest.raises(InputError, match="fewer --workers"):
        prepare(TASK, configure(root, workers=2))


def test_the_queue_does_not_grow_with_the_number_of_images():
    drawn = itertools.count()
    jobs = ((str(next(drawn)), "path", "target") for _ in range(1000))

    def submit(function, some, size):
        future = Future()
        future.set_result([f"{image_id} done" for image_id, *_ in some])
        return future

    results_of_pool = preprocess._through_pool(
        SimpleNamespace(submit=submit), jobs, 16, queue_length=3
    )
    first = next(results_of_pool)
    assert next(drawn) == 3 * preprocess.TOGETHER
    others = list(results_of_pool)
    assert len(others) == 999
    assert all(
        found == f"{image_id} done" and path == "path" for image_id, path, found in [first, *others]
    )


def test_input_is_never_written(root):
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in (root / "input").rglob("*.dcm")}
    for path in [*before, root / "input" / "made-up", root / "input"]:
        path.chmod(0o555)
    try:
        prepare(TASK, configure(root))
        assert {
            p: (p.stat().st_mtime_ns, p.read_bytes())
            for p in (root / "input").rglob("*")
            if p.is_file()
        } == before
    finally:
        for path in (root / "input", root / "input" / "made-up"):
            path.chmod(0o755)


def test_missing_input(root):
    with pytest.raises(InputError, match="made-up is missing: run 01_download.py"):
        prepare(TASK, configure(root, input=root / "nowhere"))
    assert not (root / "working").exists()


@pytest.mark.parametrize(
    "image_id, words", [("../x", "cannot be a file name"), (".x", "file name"), ("i01", "twice")]
)
def test_image_ids_that_cannot_be_file_names(root, image_id, words):
    def tables(folder):
        train, test, notes = read_tables(folder)
        return train.replace({"image_id": {"i00": image_id}}), test, notes

    with pytest.raises(InputError, match=words):
        prepare(SimpleNamespace(slug="made-up", read_tables=tables), configure(root))


def test_no_test_images_and_no_images(root):
    def tables(folder, train_rows):
        train, test, notes = read_tables(folder)
        return train[:train_rows], test[:0], notes

    task = SimpleNamespace(slug="made-up", read_tables=lambda folder: tables(folder, 12))
    assert prepare(task, configure(root))["counts"] == {"train": 12, "test": 0, "failed": 0}
    assert len(read_table(root / "working" / "task" / "test.csv")) == 0
    task = SimpleNamespace(slug="made-up", read_tables=lambda folder: tables(folder, 0))
    assert prepare(task, configure(root, task_dir=root / "none"))["counts"] == {
        "train": 0,
        "test": 0,
        "failed": 0,
    }
    write_overview(root / "none", CLASSES)


def table_of(groups, strata):
    return pd.DataFrame({"group": groups, "stratum": strata})


def test_folds_are_balanced_and_keep_patients_together():
    groups = [f"p{k // 3}" for k in range(120)]
    strata = ["ab"[k // 3 % 2] for k in range(120)]
    folds = assign_folds(table_of(groups, strata), 4, 42)
    counts = pd.crosstab(folds, np.array(strata))
    assert counts.to_numpy().tolist() == [[15, 15]] * 4
    assert (folds == assign_folds(table_of(groups, strata), 4, 42)).all()
    assert (folds != assign_folds(table_of(groups, strata), 4, 43)).any()


@given(
    st.lists(st.tuples(st.integers(0, 8), st.sampled_from("abc")), min_size=8, max_size=40),
    st.integers(2, 4),
)
@pytest.mark.filterwarnings("ignore:The least populated class")
def test_folds_of_any_table(rows, folds):
    table = table_of(*zip(*rows))
    try:
        result = assign_folds(table, folds, 42)
    except InputError as error:
        assert "--folds" in str(error)
        return
    assert set(result) == set(range(folds))
    assert (table.assign(fold=result).groupby("group").fold.nunique() == 1).all()


@pytest.mark.parametrize(
    "groups, folds", [(["a", "a", "b"], 3), (["a"], 2), (["a", "b"], 1), (["a", "b", "c"], 0)]
)
def test_impossible_folds(groups, folds):
    with pytest.raises(
        InputError, match=f"--folds {folds} is impossible with {len(set(groups))} patients"
    ):
        assign_folds(table_of(groups, ["s"] * len(groups)), folds, 42)


def test_folds_of_classes_too_small():
    with pytest.raises(InputError, match="--folds 4 is impossible .*choose fewer"):
        assign_folds(table_of(list("abcdef"), list("xxxyyy")), 4, 42)
    assert len(assign_folds(table_of([], []), 4, 42)) == 0


def test_fold_summary_counts_spanning_patients():
    train = table_of(["a", "a", "b", "c"], ["x", "y", "x", "x"]).assign(
        fold=[0, 1, 1, 0], n_boxes=[2, 0, 1, 0]
    )
    text, spanning = fold_summary(train)
    assert [line.split() for line in text.splitlines()] == [
        ["x", "y", "images", "boxes"],
        ["fold"],
        ["0", "2", "0", "2", "2"],
        ["1", "1", "1", "2", "1"],
    ]
    assert spanning == "1 patients are in more than one fold (2 of 4 images)"


def test_boxes_inside():
    boxes = [
        [-5, 2, 10, 9],
        [1, 1, 2, 2],
        [90, 10, 120, 80],
        [100, 0, 130, 20],
        [5, 5, 5, 9],
        [0, -9, 9, 0],
    ]
    assert boxes_inside(boxes, list("abcdef"), 100, 50) == (
        [[0, 2, 10, 9], [1, 1, 2, 2], [90, 10, 100, 50]],
        ["a", "b", "c"],
        2,
        3,
    )
    assert boxes_inside([], [], 100, 50) == ([], [], 0, 0)


def shape_of(path):
    return cv2.imread(str(path)).shape


def test_overview_pictures_are_the_same_each_time(root):
    folder = root / "working" / "task"
    prepare(TASK, configure(root))
    write_overview(folder, CLASSES)
    first = [(folder / name).read_bytes() for name in ("overview.png", "samples.png")]
    assert (
        shape_of(folder / "overview.png")[1] >= 1500 and shape_of(folder / "samples.png")[0] >= 500
    )
    write_overview(folder, CLASSES)
    assert [(folder / name).read_bytes() for name in ("overview.png", "samples.png")] == first


@pytest.mark.parametrize("train_rows, test_rows", [([0, 1, 4], 0), ([2], 1), ([], 2), ([], 0)])
def test_overview_of_nearly_nothing(root, train_rows, test_rows):
    """No boxes and no test images; one image; no training images; nothing."""
    folder = root / "working" / "task"
    prepare(TASK, configure(root))
    train, test = read_table(folder / "train.csv"), read_table(folder / "test.csv")
    train = train.iloc[train_rows].assign(age=np.nan, sex=np.nan, view=np.nan)
    train.to_csv(folder / "train.csv", index=False)
    test[:test_rows].to_csv(folder / "test.csv", index=False)
    (folder / "samples.png").write_bytes(b"of an earlier run")
    write_overview(folder, CLASSES)
    assert shape_of(folder / "overview.png")[1] >= 1500
    assert (folder / "samples.png").exists() == bool(train_rows)
    assert not train_rows or shape_of(folder / "samples.png")[0] > 300


def test_overview_before_step_02(tmp_path):
    with pytest.raises(InputError, match="run step 02"):
        write_overview(tmp_path, CLASSES)


def test_box_heat():
    """Cell centres 1/4 and 3/4: the first box covers the left column, the second the lower right cell only."""
    boxes = np.array([[0, 0, 0.5, 1], [0.6, 0.6, 0.9, 0.9]])
    assert box_heat(boxes, 2).tolist() == [[0.5, 0], [0.5, 0.5]]


def test_samples_are_spread_over_each_class():
    train = pd.DataFrame({"label": [0] * 9 + [2], "name": range(10)})
    picked = pick_samples(train, ("a", "b", "c"), 3)
    assert {name: (rows.name.tolist(), count) for name, (rows, count) in picked.items()} == {
        "a": ([0, 4, 8], 9),
        "c": ([9], 1),
    }


THREADED_PARENT = """
import sys
sys.path[:0] = {paths!r}
from pathlib import Path
import cv2, numpy as np, test_preprocess
from cxr.data.preparation import prepare
cv2.resize(np.zeros((4000, 4000), np.uint8), (999, 999), interpolation=cv2.INTER_AREA)
prepare(test_preprocess.TASK, test_preprocess.configure(Path({root!r}), workers=2, size=1600))
"""


def test_workers_do_not_hang_on_threads_of_their_parent(root):
    """A forked process that touches the pool of threads OpenCV had in its parent would never return."""
    paths = [
        str(Path(__file__).parents[2]),
        str(Path(__file__).parent),
        str(Path(__file__).parents[1] / "support"),
    ]
    code = THREADED_PARENT.format(paths=paths, root=str(root))
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0
