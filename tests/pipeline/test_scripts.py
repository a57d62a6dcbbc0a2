"""The five steps through their scripts: what they leave, what they refuse, and what a kill or a
full disk does to them."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock
from steps import (
    DEMO,
    ROOT,
    SLUG,
    STEPS,
    TINY,
    command,
    digest,
    link_tree,
    rewrite,
    run,
    run_here,
    unprotect,
)

from cxr.inference.checkpoint import load_state

resource = pytest.importorskip("resource", reason="kills and limits of a process as POSIX has them")
SHARED = Path(os.environ.get("CXR_SHARED_DATA", ROOT.parent / "shared" / "data"))
PART = "part-00000.npz"


@pytest.fixture
def copy(pipeline, tmp_path):
    """A copy of the finished run that may be damaged, with the flags that continue it."""
    working = link_tree(pipeline.working, tmp_path / "working")
    return SimpleNamespace(
        working=working,
        task=working / "rsna",
        run=working / "rsna" / "tiny",
        flags=(*DEMO, "--input", pipeline.input, "--working", working),
    )


def assert_refused(step, flags, words):
    status, text = run_here(step, *flags)
    assert status == 1, text
    assert words in text


def finish(step, *flags):
    """What a step prints that must not fail."""
    status, text = run_here(step, *flags)
    assert status == 0, text
    return text


# ------------------------------------------------------------------------------- what steps leave


def test_every_file_is_there(pipeline):
    of_task = ("train.csv", "test.csv", "failed.csv")
    of_task += ("preprocess.json", "overview.png", "samples.png")
    for name in of_task:
        assert (pipeline.task / name).stat().st_size, name
    of_fold = ("config.json", "manifest.json", "log.csv", "last.pt", "best.pt")
    of_fold += ("epoch001.pt", "epoch002.pt", f"valid_predictions/{PART}")
    for fold in ("fold0", "fold1"):
        for name in of_fold:
            assert (pipeline.run / fold / name).stat().st_size, name
        assert list((pipeline.run / fold).glob("events*"))
    of_run = ("params.json", "results.json", "submission.csv", "report.html")
    of_run += (f"test_predictions/{PART}",)
    for name in of_run:
        assert (pipeline.run / name).stat().st_size, name
    assert not list(pipeline.working.rglob("*.tmp*"))


def test_images_and_tables(pipeline):
    train = pd.read_csv(pipeline.task / "train.csv")
    test = pd.read_csv(pipeline.task / "test.csv")
    assert len(train) == 24
    assert len(test) == 24
    assert sorted(train["fold"].unique()) == [0, 1]
    assert train.groupby("group")["fold"].nunique().max() == 1
    images = pipeline.task / "images"
    assert {path.stem for path in images.iterdir()} == {*train["image_id"], *test["image_id"]}
    image = cv2.imread(str(images / f"{train['image_id'][0]}.png"), cv2.IMREAD_UNCHANGED)
    assert image.shape == (256, 256)
    assert image.dtype == np.uint8


def test_log_has_a_row_for_each_epoch(pipeline):
    log = pd.read_csv(pipeline.run / "fold0" / "log.csv")
    assert log["epoch"].tolist() == [1, 2]
    figures = log[["train_loss", "valid_loss", "metric", "lr", "images_per_second"]]
    assert np.isfinite(figures).all(axis=None)


def test_submission_has_the_ids_of_the_sample(pipeline):
    submission = pd.read_csv(pipeline.run / "submission.csv")
    sample = pd.read_csv(pipeline.source / "stage_2_sample_submission.csv")
    assert list(submission.columns) == list(sample.columns)
    assert submission["patientId"].tolist() == sample["patientId"].tolist()


def test_last_lines_tell_where_the_results_are(pipeline):
    text = pipeline.printed["05_postprocess"]
    assert str(pipeline.run / "submission.csv") in text
    assert str(pipeline.run / "report.html") in text
    assert "score 0." in text
    assert "constant guess: 0." in text


def test_report_is_self_contained(pipeline):
    page = (pipeline.run / "report.html").read_text(encoding="utf-8")
    assert "<html" in page
    assert "constant guess" in page
    assert 'src="http' not in page
    without_kaggle = page.replace('href="https://www.kaggle.com', "")
    assert 'href="http' not in without_kaggle


def test_model_card_is_of_this_run(pipeline):
    text = (pipeline.run / "model_card.md").read_text(encoding="utf-8")
    results = json.loads((pipeline.run / "results.json").read_text())
    assert f"| **this run** | **{results['score']:.3f}** |" in text
    assert "predicted by models that never saw them, with post-processing parameters" in text
    assert "| images with labels | 24 of" in text
    checkpoint = pipeline.run / "fold1" / "epoch002.pt"
    assert hashlib.sha256(checkpoint.read_bytes()).hexdigest() in text
    assert not re.search(r"\bnan\b|None", text)


def test_input_is_never_written(pipeline):
    assert digest(pipeline.input) == pipeline.before


WORDS_OF_SECOND_RUN = {
    "01_download": "already in",
    "02_preprocess": "is complete",
    "03_train": "nothing to do",
    "04_predict": "nothing to do",
    "05_postprocess": "submission",
}


def inodes(copy):
    """{file: its number on the disk} of what steps 02 to 04 write; a new file has another one."""
    numbers = {}
    for path in copy.task.rglob("*"):
        if path.suffix in (".pt", ".npz", ".csv") and path.parent != copy.run:
            numbers[path] = path.stat().st_ino
    return numbers


def test_second_run_does_nothing(copy):
    """All steps again: nothing is computed; files of steps 02 to 04 are not even touched."""
    before = inodes(copy)
    for step in STEPS:
        assert WORDS_OF_SECOND_RUN[step] in finish(step, *copy.flags)
    assert inodes(copy) == before


# ------------------------------------------------------------------------------- wrong order


@pytest.mark.parametrize("step", STEPS)
def test_unknown_words(step):
    assert_refused(step, ["--no-such-flag"], "error: --no-such-flag is no flag of any step")
    assert_refused(step, ["--preset", "big"], "error: unknown --preset big")
    assert_refused(step, ["--fold", "9"], "--fold 9 does not exist")


def test_help_tells_how_to_run():
    for step in STEPS:
        text = finish(step, "--help")
        assert f"python {step}.py" in text
        assert "--working" in text


@pytest.mark.parametrize(
    "step, words",
    [
        ("02_preprocess", "run 01_download.py first"),
        ("03_train", "run step 02 first"),
        ("04_predict", "run step 02 first"),
        ("05_postprocess", "run step 02 first"),
    ],
)
def test_steps_before_their_predecessor(step, words, tmp_path):
    folders = ("--input", tmp_path / "input", "--working", tmp_path / "working")
    status, text = run_here(step, *DEMO, *folders)
    assert status == 1
    assert words in text
    assert text.count("error: ") == 1


@pytest.mark.parametrize(
    "step, words",
    [
        ("04_predict", "train the fold with 03_train.py first"),
        ("05_postprocess", "run 04_predict.py first"),
    ],
)
def test_steps_before_training(pipeline, tmp_path, step, words):
    link_tree(pipeline.task, tmp_path / "rsna", "tiny", "images")
    flags = (*DEMO, "--input", pipeline.input, "--working", tmp_path)
    assert_refused(step, flags, words)


def test_postprocess_before_predict(copy):
    for fold in ("fold0", "fold1"):
        shutil.rmtree(copy.run / fold / "valid_predictions")
    assert_refused("05_postprocess", copy.flags, "run 04_predict.py first")


def test_training_that_is_not_finished_is_not_predicted(copy):
    last = copy.run / "fold1" / "last.pt"
    state = load_state(last)
    last.unlink()
    torch.save(state | {"done": False}, last)
    assert_refused("04_predict", copy.flags, "fold1 is not finished")
    assert "nothing to do" in finish("04_predict", *copy.flags, "--partial")


def test_fold_that_the_tables_do_not_have(copy):
    flags = (*copy.flags, "--folds", "3", "--fold", "2")
    assert_refused("03_train", flags, "fold 2 is not in the table")


@pytest.mark.parametrize(
    "flags, words",
    [
        (("--folds", "3"), "fold 2 is not in the table"),
        (("--tta", "flips"), "--tta flips is not for"),
    ],
)
def test_what_later_steps_would_refuse_is_refused_before_the_training(copy, flags, words):
    shutil.rmtree(copy.run)
    assert_refused("03_train", (*copy.flags, *flags), words)
    assert not copy.run.exists()


def test_nothing_to_submit(copy):
    shutil.rmtree(copy.run / "test_predictions")
    flags = (*copy.flags, "--submit", "hello")
    assert_refused("05_postprocess", flags, "there is nothing to submit")


# ------------------------------------------------------------------------------- processes


def test_two_trainings_of_a_fold(copy, monkeypatch):
    shutil.rmtree(copy.run / "fold1")
    monkeypatch.setattr("cxr.steps.train.engine.LET_GO", 0.1)
    with FileLock(copy.run / "fold0" / ".lock"):
        assert_refused("03_train", copy.flags, "another process works in")
    assert not (copy.run / "fold1").exists()


def test_damaged_png_found_by_the_loaders_process(copy):
    shutil.rmtree(copy.run)
    path = next((copy.task / "images").glob("*.png"))
    rewrite(path, b"")
    ended = run("03_train", *copy.flags, "--workers", "1")
    assert ended.returncode == 1
    assert f"error: {path} is missing or not a picture: delete it" in ended.stdout
    assert "Traceback" not in ended.stdout


SPAWNED = """
import multiprocessing, pathlib, runpy, sys
if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    sys.argv = sys.argv[1:]
    sys.path.insert(0, str(pathlib.Path(sys.argv[0]).parent))  # where Python itself would look
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_spawned_loader_processes_give_the_same(copy, tmp_path):
    """As on macOS and Windows."""
    script = tmp_path / "spawned.py"
    script.write_text(SPAWNED)
    fold = copy.run / "fold1"
    weights = load_state(fold / "epoch002.pt")["model"]
    before = digest(fold / "valid_predictions")
    shutil.rmtree(fold)
    for step in ("03_train", "04_predict"):
        _, *words = command(step, *copy.flags, "--workers", 1, "--fold", 1)
        spawned = [sys.executable, str(script), *words]
        ended = subprocess.run(spawned, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stdout + ended.stderr
    again = load_state(fold / "epoch002.pt")["model"]
    for name, tensor in weights.items():
        assert torch.equal(again[name], tensor), name
    after = digest(fold / "valid_predictions")
    assert after.keys() == before.keys()
    parts = [name for name in after if name.startswith("part-")]
    assert parts
    for name in parts:
        assert after[name] == before[name], name


def test_torchrun_with_flags_of_its_own_names(copy):
    """`--` ends torchrun's own flags, for whose beginnings it takes --run and --start otherwise."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    _, *words = command("04_predict", *copy.flags)
    ended = subprocess.run(
        [*torchrun, "--nproc-per-node", "2", "--", *words], capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count("nothing to do") == 3, ended.stdout + ended.stderr


# ------------------------------------------------------------------------------- other settings


@pytest.mark.parametrize(
    "step, flags, words",
    [
        ("03_train", ("--lr", "0.1"), "other settings (lr)"),
        ("04_predict", ("--lr", "0.1"), "other values of lr"),
        ("02_preprocess", ("--seed", "1"), "was made with seed 42, not 1"),
    ],
)
def test_run_with_other_settings_is_not_continued(copy, step, flags, words):
    assert_refused(step, (*copy.flags, *flags), words)


def test_predictions_of_other_views_are_not_mixed(copy):
    assert_refused("04_predict", (*copy.flags, "--tta", "none"), "made with other tta")


def of_another_task(state):
    return state | {"task": "bones"}


def weights_alone(state):
    return {"weights": state["model"]}


@pytest.mark.parametrize(
    "change, words",
    [
        (of_another_task, "belongs to task bones, not rsna"),
        (weights_alone, "is no checkpoint of step 03"),
    ],
)
def test_checkpoint_of_something_else(copy, change, words):
    path = copy.run / "fold0" / "epoch002.pt"
    state = load_state(path)
    path.unlink()
    torch.save(change(state), path)
    shutil.rmtree(copy.run / "fold0" / "valid_predictions")
    status, text = run_here("04_predict", *copy.flags)
    assert status == 1
    assert words in text
    assert str(path) in text


def test_run_of_another_task(copy):
    for fold in ("fold0", "fold1"):
        path = copy.run / fold / "config.json"
        rewrite(path, path.read_bytes().replace(b'"task": "rsna"', b'"task": "bones"'))
    for step in ("03_train", "04_predict"):
        assert_refused(step, copy.flags, "task bones")


# ------------------------------------------------------------------------------- damaged files


@pytest.mark.parametrize(
    "step, name",
    [
        ("03_train", "last.pt"),
        ("04_predict", "epoch002.pt"),
        ("04_predict", "last.pt"),
        ("05_postprocess", f"valid_predictions/{PART}"),
    ],
)
@pytest.mark.parametrize("share", [0, 0.5])
def test_truncated_files(copy, step, name, share):
    path = copy.run / "fold0" / name
    content = path.read_bytes()
    rewrite(path, content[: int(share * len(content))])
    if step == "04_predict":
        shutil.rmtree(copy.run / "fold0" / "valid_predictions")
    status, text = run_here(step, *copy.flags)
    assert status == 1
    assert str(path) in text
    assert "delete it" in text


@pytest.mark.parametrize(
    "step, name", [("03_train", "train.csv"), ("04_predict", "test.csv")], ids=["train", "test"]
)
def test_tables_without_rows_or_columns(copy, step, name):
    """Half-written tables cannot occur, but edited ones: no traceback that names no file."""
    path = copy.task / name
    rewrite(path, b"")
    assert_refused(step, copy.flags, str(path))


def input_copy(pipeline, folder):
    """The input with tables that may be changed."""
    source = link_tree(pipeline.source, folder / SLUG)
    unprotect(source)
    return source


def read_record(copy):
    return json.loads((copy.task / "preprocess.json").read_text())


def change_record(copy, **facts):
    """As if step 02 had made the copy from another input."""
    record = read_record(copy) | facts
    rewrite(copy.task / "preprocess.json", json.dumps(record).encode())


@pytest.mark.parametrize(
    "table, column",
    [
        ("stage_2_train_labels.csv", "Target"),
        ("stage_2_train_labels.csv", "patientId"),
        ("stage_2_detailed_class_info.csv", "class"),
        ("stage_2_sample_submission.csv", "patientId"),
    ],
)
def test_missing_column(pipeline, tmp_path, table, column):
    source = input_copy(pipeline, tmp_path / "input")
    changed = pd.read_csv(source / table).rename(columns={column: "other"})
    rewrite(source / table, changed.to_csv(index=False).encode())
    flags = (*TINY, "--input", tmp_path / "input", "--working", tmp_path / "working")
    assert_refused("02_preprocess", flags, f"{table} lacks the column {column}")
    assert not (tmp_path / "working" / "rsna" / "train.csv").exists()


# ------------------------------------------------------------------------------- test images


def test_input_that_is_gone_when_the_submission_is_written(pipeline, copy, tmp_path):
    source = input_copy(pipeline, tmp_path / "input")
    change_record(copy, input=str(source))
    shutil.rmtree(source)
    before = digest(copy.run)["submission.csv"]
    words = f"{source} is missing, and the ids of a submission are in it"
    assert_refused("05_postprocess", copy.flags, words)
    assert digest(copy.run)["submission.csv"] == before


def test_sample_submission_decides_the_ids(pipeline, copy, tmp_path):
    """An id without a picture gets an empty prediction and a warning; an id that is not asked for
    is left out."""
    source = input_copy(pipeline, tmp_path / "input")
    path = source / "stage_2_sample_submission.csv"
    sample = pd.read_csv(path, dtype=str)
    sample.loc[0, "patientId"] = "no-picture"
    rewrite(path, sample.to_csv(index=False).encode())
    change_record(copy, input=str(source))
    finish("05_postprocess", *copy.flags)
    submission = pd.read_csv(copy.run / "submission.csv", keep_default_na=False)
    assert submission["patientId"].tolist() == sample["patientId"].tolist()
    assert submission["PredictionString"][0] == ""
    assert "have no picture" in (copy.run / "report.html").read_text(encoding="utf-8")


def test_no_test_images(pipeline, copy, tmp_path):
    source = input_copy(pipeline, tmp_path / "input")
    rewrite(source / "stage_2_sample_submission.csv", b"patientId,PredictionString\n")
    counts = read_record(copy)["counts"] | {"test": 0}
    change_record(copy, input=str(source), counts=counts)
    table = copy.task / "test.csv"
    header, *_ = table.read_bytes().splitlines(keepends=True)
    rewrite(table, header)
    shutil.rmtree(copy.run / "test_predictions")
    for step in ("04_predict", "05_postprocess"):
        finish(step, *copy.flags)
    assert (copy.run / "submission.csv").read_text() == "patientId,PredictionString\n"


def test_one_fold_alone(copy):
    """A score of this fold; no submission but what its networks alone say, if that is asked for."""
    shutil.rmtree(copy.run / "fold1")
    shutil.rmtree(copy.run / "test_predictions")
    submission = copy.run / "submission.csv"
    submission.unlink()
    assert "not written" in finish("05_postprocess", *copy.flags)
    assert not submission.exists()
    assert json.loads((copy.run / "results.json").read_text())["n_images"] == 12

    for step in ("03_train", "04_predict", "05_postprocess"):
        text = finish(step, *copy.flags, "--fold", "0")
    assert str(submission) in text
    assert submission.exists()
    assert json.loads((copy.run / "results.json").read_text())["n_images"] == 12


def test_runs_side_by_side(copy):
    link_tree(copy.run, copy.task / "other")
    finish("05_postprocess", *copy.flags, "--compare", "tiny", "other")
    assert (copy.task / "compare.html").stat().st_size
    flags = (*copy.flags, "--compare", "tiny", "third")
    assert_refused("05_postprocess", flags, "third does not exist")


# ------------------------------------------------------------------------------- kills


def kill_when(condition, step, *flags):
    """Start a step, and kill it with all its children as soon as condition() holds.

    It must not have ended before.
    """
    process = subprocess.Popen(
        command(step, *flags),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    while process.poll() is None and not condition():
        time.sleep(0.002)
    status = process.poll()
    if status is not None:
        text = process.stdout.read()
        raise AssertionError(f"{step} ended with {status} before it was killed:\n{text}")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_kill_while_drawing_the_demo(pipeline, tmp_path):
    flags = (*DEMO, "--input", tmp_path)
    drawn = tmp_path / f".{SLUG}.building" / "stage_2_train_images"
    kill_when(lambda: len(list(drawn.glob("*.dcm"))) > 3, "01_download", *flags)
    assert not (tmp_path / SLUG).exists()
    finish("01_download", *flags)
    assert digest(tmp_path) == pipeline.before


def test_kill_while_converting(pipeline, tmp_path):
    flags = (*DEMO, "--input", pipeline.input, "--working", tmp_path)
    images = tmp_path / "rsna" / "images"
    kill_when(lambda: len(list(images.glob("*.png"))) > 5, "02_preprocess", *flags)
    assert not (tmp_path / "rsna" / "train.csv").exists()
    finish("02_preprocess", *flags)
    checksums = digest(pipeline.task)
    of_step = {name: value for name, value in checksums.items() if not name.startswith("tiny/")}
    assert digest(tmp_path / "rsna") == of_step


def same(one, other):
    """Whether two states are equal to the last bit."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def test_same():
    state = {"a": [torch.ones(2), 1], "b": {"c": torch.zeros(1)}}
    assert same(state, {"a": [torch.ones(2), 1], "b": {"c": torch.zeros(1)}})
    assert not same(state, {"a": [torch.ones(2), 1], "b": {"c": torch.tensor([1e-30])}})


def assert_same_state(path, uninterrupted):
    """Two checkpoints, but for the paths in their settings."""
    ours = load_state(path)
    theirs = load_state(uninterrupted)
    assert ours.keys() == theirs.keys()
    for key in ours.keys() - {"config"}:
        assert same(ours[key], theirs[key]), f"{path.name} {key}"


def read_log(folder):
    """Log of a fold without what depends on the clock."""
    return pd.read_csv(folder / "log.csv").drop(columns=["seconds", "images_per_second"])


@pytest.mark.parametrize("save_minutes, epoch", [(0, 2), (60, 1)])
def test_kill_while_training(pipeline, tmp_path, save_minutes, epoch):
    """Killed inside an epoch, once where the state was saved in it and once where it was not."""
    link_tree(pipeline.task, tmp_path / "rsna", "tiny")
    flags = (*DEMO, "--input", pipeline.input, "--working", tmp_path)
    flags += ("--fold", "0", "--save-minutes", save_minutes)
    folder = tmp_path / "rsna" / "tiny" / "fold0"
    save_times = set()

    def inside_the_epoch():
        if epoch == 1:
            return (folder / "manifest.json").exists()
        if (folder / "log.csv").exists() and (folder / "last.pt").exists():
            save_times.add((folder / "last.pt").stat().st_mtime_ns)
        return len(save_times) > 3

    kill_when(inside_the_epoch, "03_train", *flags)
    assert not (folder / "epoch002.pt").exists()
    text = finish("03_train", *flags)
    assert ("goes on at epoch 2" in text) == (epoch == 2), text
    uninterrupted = pipeline.run / "fold0"
    for name in ("last.pt", "epoch001.pt", "epoch002.pt"):
        assert_same_state(folder / name, uninterrupted / name)
    pd.testing.assert_frame_equal(read_log(folder), read_log(uninterrupted))


def predictions(run):
    """{part: {column: array}} of every prediction folder of a run."""
    columns_of_parts = {}
    for path in sorted(run.rglob("part-*.npz")):
        columns_of_parts[str(path.relative_to(run))] = dict(np.load(path))
    return columns_of_parts


def assert_same_predictions(ours, others):
    assert ours.keys() == others.keys()
    assert len(ours) == 3
    for part, columns in ours.items():
        for name, values in columns.items():
            np.testing.assert_array_equal(values, others[part][name], err_msg=f"{part} {name}")


def test_kill_while_predicting(pipeline, tmp_path):
    link_tree(pipeline.task, tmp_path / "rsna", "*predictions")
    flags = (*DEMO, "--input", pipeline.input, "--working", tmp_path)
    run = tmp_path / "rsna" / "tiny"
    kill_when((run / "fold0" / "valid_predictions" / PART).exists, "04_predict", *flags)
    assert len(predictions(run)) < 3
    finish("04_predict", *flags)
    assert_same_predictions(predictions(run), predictions(pipeline.run))


def test_kill_while_postprocessing(pipeline, tmp_path):
    results = ("params.json", "results.json", "submission.csv")
    link_tree(pipeline.task, tmp_path / "rsna", *results, "report.html")
    flags = (*DEMO, "--input", pipeline.input, "--working", tmp_path)
    run = tmp_path / "rsna" / "tiny"
    kill_when((run / "params.json").exists, "05_postprocess", *flags)
    assert not (run / "report.html").exists()
    finish("05_postprocess", *flags)
    for name in results:
        assert (run / name).read_bytes() == (pipeline.run / name).read_bytes(), name
    assert (run / "report.html").exists()


# ------------------------------------------------------------------------------- full disk


@pytest.fixture
def full_disk():
    """No file may grow above 20 kB."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, old[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, old)


@pytest.mark.parametrize(
    "step, left_out, missing",
    [
        ("01_download", None, SLUG),
        ("02_preprocess", None, "rsna/train.csv"),
        ("03_train", "tiny", "rsna/tiny/fold0/epoch001.pt"),
        ("04_predict", "*predictions", f"rsna/tiny/fold0/valid_predictions/{PART}"),
        ("05_postprocess", "report.html", "rsna/tiny/report.html"),
    ],
)
def test_full_disk(pipeline, tmp_path, step, left_out, missing, full_disk):
    if left_out is not None:
        link_tree(pipeline.task, tmp_path / "rsna", left_out)
    source = tmp_path if step == "01_download" else pipeline.input
    status, text = run_here(step, *DEMO, "--input", source, "--working", tmp_path)
    assert status == 1
    assert "error: " in text
    assert "free" in text
    assert not (tmp_path / missing).exists()
    assert not list(tmp_path.rglob("*.tmp*"))


# ------------------------------------------------------------------------------- real images


@pytest.mark.sample
@pytest.mark.skipif(not (SHARED / SLUG).is_dir(), reason=f"no real sample in {SHARED / SLUG}")
def test_real_sample(tmp_path):
    """Steps 01 to 05 on 24 real images, half of them with opacities, and four test images."""
    real = SHARED / SLUG
    source = tmp_path / "input" / SLUG
    labels = pd.read_csv(real / "stage_2_train_labels.csv", dtype=str)
    train_ids = []
    for target in "01":
        train_ids += labels[labels["Target"] == target]["patientId"].unique()[:12].tolist()
    sample = pd.read_csv(real / "stage_2_sample_submission.csv", dtype=str)[:4]
    test_ids = sample["patientId"].tolist()
    for folder, ids in (("stage_2_train_images", train_ids), ("stage_2_test_images", test_ids)):
        (source / folder).mkdir(parents=True)
        for image_id in ids:
            (source / folder / f"{image_id}.dcm").symlink_to(real / folder / f"{image_id}.dcm")
    for name in ("stage_2_train_labels.csv", "stage_2_detailed_class_info.csv"):
        table = pd.read_csv(real / name, dtype=str)
        table[table["patientId"].isin(train_ids)].to_csv(source / name, index=False)
    sample.to_csv(source / "stage_2_sample_submission.csv", index=False)
    flags = (
        *TINY,
        *("--preset", "scratch", "--pretrain", "0", "--epochs", "1"),
        *("--image-size", "192", "--tta", "flip"),
        *("--input", tmp_path / "input", "--working", tmp_path / "working"),
    )
    for step in STEPS:
        finish(step, *flags)
    run = tmp_path / "working" / "rsna" / "tiny"
    submission = pd.read_csv(run / "submission.csv")
    assert submission["patientId"].tolist() == test_ids
    train = pd.read_csv(run.parent / "train.csv")
    assert len(train) == 24
    assert (train["n_boxes"] > 0).sum() == 12
    assert train["age"].notna().all()
    assert json.loads((run / "results.json").read_text())["n_images"] == 24
