"""The five steps through their scripts: what they leave, what they refuse, and what a kill or a full disk does to them."""

import json
import os
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


def test_every_file_is_there(pipeline):
    for name in (
        "train.csv",
        "test.csv",
        "failed.csv",
        "preprocess.json",
        "overview.png",
        "samples.png",
    ):
        assert (pipeline.task / name).stat().st_size, name
    for fold in (0, 1):
        for name in (
            "config.json",
            "manifest.json",
            "log.csv",
            "last.pt",
            "best.pt",
            "epoch001.pt",
            "epoch002.pt",
            "valid_predictions/part-00000.npz",
        ):
            assert (pipeline.run / f"fold{fold}" / name).stat().st_size, name
        assert list((pipeline.run / f"fold{fold}").glob("events*"))
    for name in (
        "params.json",
        "results.json",
        "submission.csv",
        "report.html",
        "test_predictions/part-00000.npz",
    ):
        assert (pipeline.run / name).stat().st_size, name
    assert not list(pipeline.working.rglob("*.tmp*"))


def test_images_and_tables(pipeline):
    train, test = (pd.read_csv(pipeline.task / name) for name in ("train.csv", "test.csv"))
    assert len(train) == 24 and len(test) == 24 and sorted(train.fold.unique()) == [0, 1]
    assert train.groupby("group").fold.nunique().max() == 1
    assert {path.stem for path in (pipeline.task / "images").iterdir()} == {
        *train.image_id,
        *test.image_id,
    }
    image = cv2.imread(
        str(pipeline.task / "images" / f"{train.image_id[0]}.png"), cv2.IMREAD_UNCHANGED
    )
    assert image.shape == (256, 256) and image.dtype == np.uint8


def test_log_has_a_row_for_each_epoch(pipeline):
    log = pd.read_csv(pipeline.run / "fold0" / "log.csv")
    assert log.epoch.tolist() == [1, 2]
    assert np.isfinite(log[["train_loss", "valid_loss", "metric", "lr", "images_per_second"]]).all(
        axis=None
    )


def test_submission_has_the_ids_of_the_sample(pipeline):
    submission = pd.read_csv(pipeline.run / "submission.csv")
    sample = pd.read_csv(pipeline.source / "stage_2_sample_submission.csv")
    assert list(submission.columns) == list(sample.columns)
    assert submission.patientId.tolist() == sample.patientId.tolist()


def test_last_lines_tell_where_the_results_are(pipeline):
    text = pipeline.printed["05_postprocess"]
    assert (
        str(pipeline.run / "submission.csv") in text and str(pipeline.run / "report.html") in text
    )
    assert "score 0." in text and "constant guess: 0." in text


def test_report_is_self_contained(pipeline):
    page = (pipeline.run / "report.html").read_text(encoding="utf-8")
    assert "<html" in page and "constant guess" in page
    assert 'src="http' not in page and 'href="http' not in page.replace(
        'href="https://www.kaggle.com', ""
    )


def test_input_is_never_written(pipeline):
    assert digest(pipeline.input) == pipeline.before


def test_second_run_does_nothing(copy):
    """All steps again: nothing is computed, and the files of steps 02 to 04 are not even touched."""
    files = [
        path
        for path in copy.task.rglob("*")
        if path.suffix in (".pt", ".npz", ".csv") and path.parent != copy.run
    ]
    before = {path: path.stat().st_ino for path in files}
    words = {
        "01_download": "already in",
        "02_preprocess": "is complete",
        "03_train": "nothing to do",
        "04_predict": "nothing to do",
        "05_postprocess": "submission",
    }
    for step in STEPS:
        status, text = run_here(step, *copy.flags)
        assert status == 0 and words[step] in text, text
    assert {path: path.stat().st_ino for path in files} == before


@pytest.mark.parametrize("step", STEPS)
def test_unknown_words(step):
    status, text = run_here(step, "--no-such-flag")
    assert status == 1
    assert "error: --no-such-flag is no flag of any step" in text
    status, text = run_here(step, "--preset", "big")
    assert status == 1 and "error: unknown --preset big" in text
    status, text = run_here(step, "--fold", "9")
    assert status == 1 and "--fold 9 does not exist" in text


def test_help_tells_how_to_run():
    for step in STEPS:
        status, text = run_here(step, "--help")
        assert status == 0
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
    status, text = run_here(
        step, *DEMO, "--input", tmp_path / "input", "--working", tmp_path / "working"
    )
    assert status == 1 and words in text and text.count("error: ") == 1


@pytest.mark.parametrize(
    "step, words",
    [
        ("04_predict", "train the fold with 03_train.py first"),
        ("05_postprocess", "run 04_predict.py first"),
    ],
)
def test_steps_before_training(pipeline, tmp_path, step, words):
    link_tree(pipeline.task, tmp_path / "rsna", "tiny", "images")
    status, text = run_here(step, *DEMO, "--input", pipeline.input, "--working", tmp_path)
    assert status == 1 and words in text


def test_postprocess_before_predict(copy):
    for fold in (0, 1):
        shutil.rmtree(copy.run / f"fold{fold}" / "valid_predictions")
    status, text = run_here("05_postprocess", *copy.flags)
    assert status == 1 and "run 04_predict.py first" in text


def test_training_that_is_not_finished_is_not_predicted(copy):
    state = torch.load(copy.run / "fold1" / "last.pt", weights_only=True)
    (copy.run / "fold1" / "last.pt").unlink()
    torch.save(state | {"done": False}, copy.run / "fold1" / "last.pt")
    status, text = run_here("04_predict", *copy.flags)
    assert status == 1 and "fold1 is not finished" in text
    status, text = run_here("04_predict", *copy.flags, "--partial")
    assert status == 0 and "nothing to do" in text


def test_fold_that_the_tables_do_not_have(copy):
    status, text = run_here("03_train", *copy.flags, "--folds", "3", "--fold", "2")
    assert status == 1 and "fold 2 is not in the table" in text


def test_what_later_steps_would_refuse_is_refused_before_the_training(copy):
    shutil.rmtree(copy.run)
    for flags, words in (
        (("--folds", "3"), "fold 2 is not in the table"),
        (("--tta", "flips"), "--tta flips is not for"),
    ):
        status, text = run_here("03_train", *copy.flags, *flags)
        assert status == 1 and words in text and not copy.run.exists()


def test_two_trainings_of_a_fold(copy, monkeypatch):
    shutil.rmtree(copy.run / "fold1")
    monkeypatch.setattr("cxr.steps.train.engine.LET_GO", 0.1)
    with FileLock(copy.run / "fold0" / ".lock"):
        status, text = run_here("03_train", *copy.flags)
    assert status == 1 and "another process works in" in text and not (copy.run / "fold1").exists()


def test_damaged_png_found_by_the_loaders_process(copy):
    shutil.rmtree(copy.run)
    path = next((copy.task / "images").glob("*.png"))
    rewrite(path, b"")
    ended = run("03_train", *copy.flags, "--workers", "1")
    assert (
        ended.returncode == 1
        and f"error: {path} is missing or not a picture: delete it" in ended.stdout
    )
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
    (tmp_path / "spawned.py").write_text(SPAWNED)
    weights = load_state(copy.run / "fold1" / "epoch002.pt")["model"]
    predictions = digest(copy.run / "fold1" / "valid_predictions")
    shutil.rmtree(copy.run / "fold1")
    for step in ("03_train", "04_predict"):
        words = [
            sys.executable,
            tmp_path / "spawned.py",
            *command(step, *copy.flags, "--workers", 1, "--fold", 1)[1:],
        ]
        ended = subprocess.run([str(word) for word in words], capture_output=True, text=True)
        assert ended.returncode == 0, ended.stdout + ended.stderr
    again = load_state(copy.run / "fold1" / "epoch002.pt")["model"]
    assert all(torch.equal(again[name], weights[name]) for name in weights)
    found = digest(copy.run / "fold1" / "valid_predictions")
    assert predictions.keys() == found.keys()
    parts = [name for name in found if name.startswith("part-")]
    assert parts and all(found[name] == predictions[name] for name in parts)


def test_torchrun_with_flags_of_its_own_names(copy):
    """`--` ends torchrun's own flags, for whose beginnings it takes --run and --start otherwise."""
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
            "--",
            *command("04_predict", *copy.flags)[1:],
        ],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0 and ended.stdout.count("nothing to do") == 3, (
        ended.stdout + ended.stderr
    )


def test_input_that_is_gone_when_the_submission_is_written(pipeline, copy, tmp_path):
    source, before = input_copy(pipeline, tmp_path / "input"), digest(copy.run)["submission.csv"]
    facts = json.loads((copy.task / "preprocess.json").read_text()) | {"input": str(source)}
    rewrite(copy.task / "preprocess.json", json.dumps(facts).encode())
    shutil.rmtree(source)
    status, text = run_here("05_postprocess", *copy.flags)
    assert status == 1 and f"{source} is missing, and the ids of a submission are in it" in text
    assert digest(copy.run)["submission.csv"] == before


def test_nothing_to_submit(copy):
    shutil.rmtree(copy.run / "test_predictions")
    status, text = run_here("05_postprocess", *copy.flags, "--submit", "hello")
    assert status == 1 and "there is nothing to submit" in text


def test_run_with_other_settings_is_not_continued(copy):
    status, text = run_here("03_train", *copy.flags, "--lr", "0.1")
    assert status == 1 and "other settings (lr)" in text
    status, text = run_here("04_predict", *copy.flags, "--lr", "0.1")
    assert status == 1 and "other values of lr" in text
    status, text = run_here("02_preprocess", *copy.flags, "--seed", "1")
    assert status == 1 and "was made with seed 42, not 1" in text


def test_predictions_of_other_views_are_not_mixed(copy):
    status, text = run_here("04_predict", *copy.flags, "--tta", "none")
    assert status == 1 and "made with other tta" in text


@pytest.mark.parametrize(
    "content, words",
    [
        (lambda state: state | {"task": "bones"}, "belongs to task bones, not rsna"),
        (lambda state: {"weights": state["model"]}, "is no checkpoint of step 03"),
    ],
)
def test_checkpoint_of_something_else(copy, content, words):
    path = copy.run / "fold0" / "epoch002.pt"
    state = torch.load(path, weights_only=True)
    path.unlink()
    torch.save(content(state), path)
    shutil.rmtree(copy.run / "fold0" / "valid_predictions")
    status, text = run_here("04_predict", *copy.flags)
    assert status == 1 and words in text and str(path) in text


def test_run_of_another_task(copy):
    for fold in (0, 1):
        path = copy.run / f"fold{fold}" / "config.json"
        rewrite(path, path.read_bytes().replace(b'"task": "rsna"', b'"task": "bones"'))
    for step in ("03_train", "04_predict"):
        status, text = run_here(step, *copy.flags)
        assert status == 1 and "task bones" in text


@pytest.mark.parametrize(
    "step, name",
    [
        ("03_train", "last.pt"),
        ("04_predict", "epoch002.pt"),
        ("04_predict", "last.pt"),
        ("05_postprocess", "valid_predictions/part-00000.npz"),
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
    assert status == 1 and str(path) in text and "delete it" in text


@pytest.mark.parametrize("name", ["train.csv", "test.csv"])
def test_tables_without_rows_or_columns(copy, name):
    """Half-written tables cannot occur; edited ones must not end in a traceback that names no file."""
    rewrite(copy.task / name, b"")
    status, text = run_here("03_train" if name == "train.csv" else "04_predict", *copy.flags)
    assert status == 1 and str(copy.task / name) in text


def input_copy(pipeline, folder):
    """The input with tables that may be changed."""
    source = link_tree(pipeline.source, folder / SLUG)
    unprotect(source)
    return source


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
    changed = pd.read_csv(source / table).rename(columns={column: "other"}).to_csv(index=False)
    rewrite(source / table, changed.encode())
    status, text = run_here(
        "02_preprocess", *TINY, "--input", tmp_path / "input", "--working", tmp_path / "working"
    )
    assert status == 1 and f"{table} lacks the column {column}" in text
    assert not (tmp_path / "working" / "rsna" / "train.csv").exists()


def test_sample_submission_decides_the_ids(pipeline, copy, tmp_path):
    """An id without a picture gets an empty prediction and a warning; an id that is not asked for is left out."""
    source = input_copy(pipeline, tmp_path / "input")
    path = source / "stage_2_sample_submission.csv"
    sample = pd.read_csv(path, dtype=str)
    sample.loc[0, "patientId"] = "no-picture"
    rewrite(path, sample.to_csv(index=False).encode())
    facts = json.loads((copy.task / "preprocess.json").read_text()) | {"input": str(source)}
    rewrite(copy.task / "preprocess.json", json.dumps(facts).encode())
    status, text = run_here("05_postprocess", *copy.flags)
    assert status == 0, text
    submission = pd.read_csv(copy.run / "submission.csv", keep_default_na=False)
    assert submission.patientId.tolist() == sample.patientId.tolist()
    assert submission.PredictionString[0] == ""
    assert "have no picture" in (copy.run / "report.html").read_text(encoding="utf-8")


def test_no_test_images(pipeline, copy, tmp_path):
    source = input_copy(pipeline, tmp_path / "input")
    rewrite(source / "stage_2_sample_submission.csv", b"patientId,PredictionString\n")
    facts = json.loads((copy.task / "preprocess.json").read_text()) | {"input": str(source)}
    rewrite(copy.task / "preprocess.json", json.dumps(facts).encode())
    rewrite(
        copy.task / "test.csv", (copy.task / "test.csv").read_bytes().splitlines(keepends=True)[0]
    )
    shutil.rmtree(copy.run / "test_predictions")
    for step in ("04_predict", "05_postprocess"):
        status, text = run_here(step, *copy.flags)
        assert status == 0, text
    assert (copy.run / "submission.csv").read_text() == "patientId,PredictionString\n"


def test_one_fold_alone(copy):
    """--fold 0 through steps 04 and 05: a score of this fold, no submission."""
    shutil.rmtree(copy.run / "fold1")
    shutil.rmtree(copy.run / "test_predictions")
    (copy.run / "submission.csv").unlink()
    for step in ("03_train", "04_predict", "05_postprocess"):
        status, text = run_here(step, *copy.flags, "--fold", "0")
        assert status == 0, text
    assert "not written" in text and not (copy.run / "submission.csv").exists()
    assert json.loads((copy.run / "results.json").read_text())["n_images"] == 12


def test_runs_side_by_side(copy):
    link_tree(copy.run, copy.task / "other")
    status, text = run_here("05_postprocess", *copy.flags, "--compare", "tiny", "other")
    assert status == 0 and (copy.task / "compare.html").stat().st_size
    status, text = run_here("05_postprocess", *copy.flags, "--compare", "tiny", "third")
    assert status == 1 and "third does not exist" in text


def kill_when(condition, step, *flags):
    """Start a step, kill it with all its children as soon as condition() holds; it must not have ended before."""
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
    ended = process.poll()
    assert ended is None, (
        f"{step} ended with {ended} before it was killed:\n{process.stdout.read()}"
    )
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def finish(step, *flags):
    status, text = run_here(step, *flags)
    assert status == 0, text


def test_kill_while_drawing_the_demo(pipeline, tmp_path):
    flags = (*DEMO, "--input", tmp_path)
    drawn = tmp_path / f".{SLUG}.building" / "stage_2_train_images"
    kill_when(lambda: len(list(drawn.glob("*.dcm"))) > 3, "01_download", *flags)
    assert not (tmp_path / SLUG).exists()
    finish("01_download", *flags)
    assert digest(tmp_path) == pipeline.before


def test_kill_while_converting(pipeline, tmp_path):
    flags = (*DEMO, "--input", pipeline.input, "--working", tmp_path)
    kill_when(lambda: len(list(tmp_path.glob("rsna/images/*.png"))) > 5, "02_preprocess", *flags)
    assert not (tmp_path / "rsna" / "train.csv").exists()
    finish("02_preprocess", *flags)
    kept = {
        name: value for name, value in digest(pipeline.task).items() if not name.startswith("tiny/")
    }
    assert digest(tmp_path / "rsna") == kept


def same(one, other):
    """Whether two states are equal to the last bit."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def test_same():
    state = {"a": [torch.ones(2), 1], "b": {"c": torch.zeros(1)}}
    assert same(state, {"a": [torch.ones(2), 1], "b": {"c": torch.zeros(1)}})
    assert not same(state, {"a": [torch.ones(2), 1], "b": {"c": torch.tensor([1e-30])}})


@pytest.mark.parametrize("save_minutes, epoch", [(0, 2), (60, 1)])
def test_kill_while_training(pipeline, tmp_path, save_minutes, epoch):
    """Killed inside an epoch, once where the state was saved in it and once where it was not."""
    link_tree(pipeline.task, tmp_path / "rsna", "tiny")
    flags = (
        *DEMO,
        "--input",
        pipeline.input,
        "--working",
        tmp_path,
        "--fold",
        "0",
        "--save-minutes",
        save_minutes,
    )
    folder = tmp_path / "rsna" / "tiny" / "fold0"
    seen = set()

    def inside_the_epoch():
        if epoch == 1:
            return (folder / "manifest.json").exists()
        if (folder / "log.csv").exists() and (folder / "last.pt").exists():
            seen.add((folder / "last.pt").stat().st_mtime_ns)
        return len(seen) > 3

    kill_when(inside_the_epoch, "03_train", *flags)
    assert not (folder / "epoch002.pt").exists()
    status, text = run_here("03_train", *flags)
    assert status == 0 and ("goes on at epoch 2" in text) == (epoch == 2), text
    for name in ("last.pt", "epoch001.pt", "epoch002.pt"):
        ours, uninterrupted = (
            torch.load(f / name, weights_only=True) for f in (folder, pipeline.run / "fold0")
        )
        parts = ours.keys() - {"config"}  # holds the paths
        assert parts == uninterrupted.keys() - {"config"}
        assert all(same(ours[part], uninterrupted[part]) for part in parts), name
    ours, uninterrupted = (pd.read_csv(f / "log.csv") for f in (folder, pipeline.run / "fold0"))
    timed = ["seconds", "images_per_second"]
    pd.testing.assert_frame_equal(ours.drop(columns=timed), uninterrupted.drop(columns=timed))


def predictions(run):
    """{part: {column: array}} of every prediction folder of a run."""
    return {
        str(path.relative_to(run)): dict(np.load(path)) for path in sorted(run.rglob("part-*.npz"))
    }


def assert_same_predictions(ours, others):
    assert ours.keys() == others.keys() and len(ours) == 3
    for part, columns in ours.items():
        for name, values in columns.items():
            np.testing.assert_array_equal(values, others[part][name], err_msg=f"{part} {name}")


def test_kill_while_predicting(pipeline, tmp_path):
    link_tree(pipeline.task, tmp_path / "rsna", "*predictions")
    flags = (*DEMO, "--input", pipeline.input, "--working", tmp_path)
    run = tmp_path / "rsna" / "tiny"
    kill_when((run / "fold0" / "valid_predictions" / "part-00000.npz").exists, "04_predict", *flags)
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


@pytest.fixture
def full_disk():
    """No file may grow above 20 kB."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, old[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, old)


@pytest.mark.parametrize(
    "step, missing",
    [
        ("01_download", SLUG),
        ("02_preprocess", "rsna/train.csv"),
        ("03_train", "rsna/tiny/fold0/epoch001.pt"),
        ("04_predict", "rsna/tiny/fold0/valid_predictions/part-00000.npz"),
        ("05_postprocess", "rsna/tiny/report.html"),
    ],
)
def test_full_disk(pipeline, tmp_path, step, missing, full_disk):
    parts = {
        "03_train": ("tiny",),
        "04_predict": ("*predictions",),
        "05_postprocess": ("report.html",),
    }
    if step in parts:
        link_tree(pipeline.task, tmp_path / "rsna", *parts[step])
    source = tmp_path if step == "01_download" else pipeline.input
    status, text = run_here(step, *DEMO, "--input", source, "--working", tmp_path)
    assert status == 1 and "error: " in text and "free" in text, text
    assert not (tmp_path / missing).exists() and not list(tmp_path.rglob("*.tmp*"))


@pytest.mark.skipif(not (SHARED / SLUG).is_dir(), reason=f"no real sample in {SHARED / SLUG}")
def test_real_sample(tmp_path):
    """Steps 01 to 05 on 24 real images, half of them with opacities, and four test images."""
    real, source = SHARED / SLUG, tmp_path / "input" / SLUG
    labels = pd.read_csv(real / "stage_2_train_labels.csv", dtype=str)
    ids = [
        image_id
        for target in "01"
        for image_id in labels[labels.Target == target].patientId.unique()[:12]
    ]
    tests = pd.read_csv(real / "stage_2_sample_submission.csv", dtype=str)[:4]
    for folder, names in (("stage_2_train_images", ids), ("stage_2_test_images", tests.patientId)):
        (source / folder).mkdir(parents=True)
        for name in names:
            (source / folder / f"{name}.dcm").symlink_to(real / folder / f"{name}.dcm")
    for name in ("stage_2_train_labels.csv", "stage_2_detailed_class_info.csv"):
        table = pd.read_csv(real / name, dtype=str)
        table[table.patientId.isin(ids)].to_csv(source / name, index=False)
    tests.to_csv(source / "stage_2_sample_submission.csv", index=False)
    flags = (
        *TINY,
        "--preset",
        "small",
        "--pretrain",
        "0",
        "--epochs",
        "1",
        "--image-size",
        "192",
        "--tta",
        "flip",
        "--input",
        tmp_path / "input",
        "--working",
        tmp_path / "working",
    )
    for step in STEPS:
        status, text = run_here(step, *flags)
        assert status == 0, text
    run = tmp_path / "working" / "rsna" / "tiny"
    assert pd.read_csv(run / "submission.csv").patientId.tolist() == tests.patientId.tolist()
    train = pd.read_csv(run.parent / "train.csv")
    assert len(train) == 24 and (train.n_boxes > 0).sum() == 12 and train.age.notna().all()
    assert json.loads((run / "results.json").read_text())["n_images"] == 24
