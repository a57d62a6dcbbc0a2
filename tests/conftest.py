"""One small run through all five steps, made once and shared by the tests that look at or disturb what the steps leave."""

import os

os.environ["OMP_NUM_THREADS"] = (
    "1"  # before torch: sums are the same in this process and in those it starts
)
os.environ.pop("KAGGLE_KERNEL_RUN_TYPE", None)

import json  # noqa: E402
import time  # noqa: E402
from types import SimpleNamespace  # noqa: E402

import pandas as pd  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from exported import FLAGS, write_run  # noqa: E402
from steps import DEMO, SLUG, STEPS, digest, protect, run, run_here  # noqa: E402
from tiny_task import TinyTask, tiny_config, write_tiny_data  # noqa: E402

from cxr.steps.train.engine import train_folds  # noqa: E402
from cxr.system.disk import write_json  # noqa: E402

# By falling time, as --durations shows it; the others follow.
SLOW = (
    "test_scripts",
    "test_engine",
    "test_chestxdet",
    "test_inference",
    "test_kaggle",
    "test_benchmarks",
)


def pytest_collection_modifyitems(items):
    """Long files first, so that several processes, of which each takes a file at a time, end together."""
    rank = {name: number for number, name in enumerate(SLOW)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(SLOW)))


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory):
    """The demo at its smallest: input, working (folders), flags, printed {step: text}, before (digest of the input)."""
    root = tmp_path_factory.mktemp("pipeline")
    flags = (*DEMO, "--input", root / "input", "--working", root / "working")
    printed, before = {}, {}
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
    """Configuration of a run of the TinyTask with two trained folds of two epochs, and parameters that keep its best
    boxes, whatever it learnt."""
    torch.set_num_threads(1)
    working = tmp_path_factory.mktemp("tiny_run")
    write_tiny_data(working)
    config = tiny_config(working, fold=None, epochs=2, batch_size=2)
    train_folds(TinyTask(), config)
    write_json(config.task_dir / "preprocess.json", {"size": 64})
    write_json(config.run_dir / "params.json", {"threshold": 0.6, "gate": True})
    return config


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """A tiny run and what 06_export.py made of it: config, fp32, int8 (paths), report (content), table (train.csv)."""
    config = write_run(tmp_path_factory.mktemp("exported"))
    code, printed = run_here("06_export", *FLAGS, "--working", config.working)
    assert code == 0, printed
    report = json.loads((config.run_dir / "merged.json").read_text())
    return SimpleNamespace(
        config=config,
        fp32=config.run_dir / "merged.onnx",
        report=report,
        int8=config.run_dir / "merged.int8.onnx",
        table=pd.read_csv(config.task_dir / "train.csv"),
    )
