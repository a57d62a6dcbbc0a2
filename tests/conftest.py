"""Runs that are made once and shared by the tests that look at or disturb what the steps leave."""

import os

# Before torch: sums are the same in this process and in those it starts.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.pop("KAGGLE_KERNEL_RUN_TYPE", None)

import json
import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock

# By falling time, as --durations shows it; the others follow.
LONGEST = (
    "test_scripts",
    "test_torchrun",
    "test_kaggle",
    "test_chestxdet",
    "test_places",
    "test_kills",
    "test_benchmarks",
    "test_predict_images",
)
SHARED = "make_"  # what the folders begin with that all files share


def pytest_collection_modifyitems(items):
    """Long files first, so that processes, each of which takes a file at a time, end together.

    The files of tests/pipeline and tests/web run steps or servers, and count as slow.
    """
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(LONGEST)))
    for item in items:
        if item.path.parent.name in ("pipeline", "web"):
            item.add_marker(pytest.mark.slow)
        for marker in item.iter_markers("skipif"):
            reason = marker.kwargs.get("reason", "").lower()
            if "sample" in reason or "cxr_shared_data" in reason:
                item.add_marker(pytest.mark.sample)
            if "chromium" in reason:
                item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="module", autouse=True)
def folders_go_with_their_module(request, tmp_path_factory):
    """What a file's tests share is deleted after them, if all passed: gigabytes in a whole run."""
    base = tmp_path_factory.getbasetemp()
    before = set(base.iterdir())
    failed = request.session.testsfailed
    yield
    if request.session.testsfailed == failed:
        for folder in set(base.iterdir()) - before:
            if not folder.name.startswith(SHARED):
                shutil.rmtree(folder, ignore_errors=True)


def made_once(tmp_path_factory, make: Callable[[Path], Any]) -> Any:
    """What `make` returns of a folder, made by the first process of the tests that needs it.

    The others wait for it, and must not change what is in the folder.
    """
    base = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        base = base.parent
    folder = base / make.__name__
    with FileLock(base / f"{make.__name__}.lock"):
        made = folder / "made.pickle"
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of an attempt that failed
            folder.mkdir()
            result = make(folder)
            made.write_bytes(pickle.dumps(result))
        return pickle.loads(made.read_bytes())


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory):
    """The demo at its smallest.

    input, working, task, run (folders), flags, printed {step: text}, before (digest of the input).
    """
    return made_once(tmp_path_factory, make_pipeline)


def make_pipeline(root):
    from steps import DEMO, SLUG, STEPS, digest, protect, run

    flags = (*DEMO, "--input", root / "input", "--working", root / "working")
    printed = {}
    before = {}
    for step in STEPS:
        start = time.monotonic()
        done = run(step, *flags)
        assert done.returncode == 0, f"{step} ended with {done.returncode}:\n{done.stdout}"
        printed[step] = done.stdout
        print(f"{step}: {time.monotonic() - start:.1f} s")
        if step == STEPS[0]:
            protect(root / "input")
            before = digest(root / "input")
    return SimpleNamespace(
        input=root / "input",
        source=root / "input" / SLUG,
        working=root / "working",
        flags=flags,
        task=root / "working" / "rsna",
        run=root / "working" / "rsna" / "tiny",
        printed=printed,
        before=before,
    )


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """Settings of a run of the tiny task with two trained folds of two epochs.

    Its parameters keep the best boxes, whatever it learnt.
    """
    return made_once(tmp_path_factory, make_tiny_run)


def make_tiny_run(working):
    import torch
    from tiny_data import write_tiny_data
    from tiny_task import TINY_TASK, tiny_settings

    from cxr.run_folder import RunFolder
    from cxr.steps.train.engine import train_folds
    from cxr.system.disk import write_json

    torch.set_num_threads(1)
    write_tiny_data(working)
    settings = tiny_settings(working, fold=None, epochs=2, batch_size=2)
    train_folds(TINY_TASK, settings)
    run = RunFolder.of(settings.place)
    write_json(run.task.preprocess_record, {"size": 64})
    write_json(run.judged().params, {"threshold": 0.6, "gate": True})
    return settings


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """A tiny run and what 06_export.py made of it.

    settings, run (RunFolder), fp32, int8 (paths), report (content), table (train.csv).
    """
    return made_once(tmp_path_factory, make_exported)


def make_exported(folder):
    import pandas as pd
    from exported import FLAGS, write_run
    from steps import run_here

    from cxr.run_folder import RunFolder

    settings = write_run(folder)
    code, printed = run_here("06_export", *FLAGS, "--working", settings.place.working)
    assert code == 0, printed
    run = RunFolder.of(settings.place)
    return SimpleNamespace(
        settings=settings,
        run=run,
        fp32=run.path / "merged.onnx",
        int8=run.path / "merged.int8.onnx",
        report=json.loads((run.path / "merged.json").read_text()),
        table=pd.read_csv(run.task.table("train")),
    )
