"""Folds trained at a time: the same weights, errors as sentences, nobody left behind."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
import torch
from tiny_data import write_tiny_data
from tiny_task import TINY_TASK, tiny_settings
from trained import assert_same

from cxr.inference.checkpoint import load_state
from cxr.run_folder import RunFolder
from cxr.steps.train.engine import train_folds
from cxr.steps.train.side_by_side import folds_at_a_time
from cxr.system import disk
from cxr.system.errors import STOPPED, InputError
from cxr.system.runtime import Runtime
from cxr.tasks import TASKS

CPU = Runtime(torch.device("cpu"), "fp32")
FOLDS = [0, 1]
LONG = 3_000  # epochs: minutes, which no test waits for


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    working = tmp_path_factory.mktemp("side_by_side")
    write_tiny_data(working)
    return working


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def both_folds(data, name, **changes):
    changes = {"parallel_folds": 2, "epochs": 2} | changes
    settings = tiny_settings(data, run=name, fold=None, batch_size=2, **changes)
    return replace(settings, given=("parallel_folds",))


def run_of(settings):
    return RunFolder.of(settings.place)


def test_weights_are_those_of_one_fold_after_the_other(data, capfd):
    beside = both_folds(data, "beside", save_minutes=0.0)
    assert train_folds(TINY_TASK, beside.replace(max_hours=1e-9)) == STOPPED
    assert train_folds(TINY_TASK, beside) == 0
    said = capfd.readouterr()
    assert "2 folds at a time" in said.out
    assert "fold 1 epoch 2/2" in said.out
    assert "it/s" not in said.err  # no bars
    after = both_folds(data, "after", parallel_folds=1)
    assert train_folds(TINY_TASK, after) == 0
    for fold in FOLDS:
        states = [load_state(run_of(each).fold(fold).last) for each in (beside, after)]
        assert_same(*states)


def test_an_error_of_one_fold_leaves_the_other(data):
    settings = both_folds(data, "broken", epochs=1)
    broken = run_of(settings).fold(1)
    broken.path.mkdir(parents=True)
    broken.last.write_bytes(b"no checkpoint")
    with pytest.raises(InputError, match=r"fold1.last\.pt is not a whole checkpoint"):
        train_folds(TINY_TASK, settings)
    assert run_of(settings).fold(0).epoch(1).exists()


def wait_until(condition):
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.fixture
def heeding_interrupts():
    """SIGINT is a KeyboardInterrupt, which xdist's processes ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def kill_a_fold():
    """The one started last: other tests may have left a process behind."""
    started = max(process.pid for process in multiprocessing.active_children())
    os.kill(started, signal.SIGKILL)


def interrupt_the_first_process():
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(
    "kill, error, sentence",
    [
        (kill_a_fold, InputError, r"was ended .*SIGKILL.*--parallel-folds 1"),
        (interrupt_the_first_process, KeyboardInterrupt, None),
    ],
)
@pytest.mark.usefixtures("heeding_interrupts")
def test_a_process_that_ends_too_soon(data, kill, error, sentence):
    settings = both_folds(data, kill.__name__, epochs=LONG)
    folders = [run_of(settings).fold(fold) for fold in FOLDS]

    def kill_later():
        try:
            wait_until(lambda: all(folder.config.exists() for folder in folders))
        finally:
            kill()

    killer = threading.Thread(target=kill_later)
    killer.start()
    with pytest.raises(error, match=sentence):
        train_folds(TINY_TASK, settings)
    killer.join()
    for folder in folders:
        with disk.alone(folder.path, patience=30):  # else InputError
            pass


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process so")
def test_processes_end_with_the_one_that_started_them(data):
    code = (
        "import json, signal, sys, tiny_task as t\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"  # as in a shell's background job
        "t.train_folds(t.TINY_TASK, t.tiny_settings(sys.argv[1], **json.loads(sys.argv[2])))"
    )
    changes = {"run": "orphans", "fold": None, "epochs": LONG, "parallel_folds": 2}
    paths = os.pathsep.join(["tests/support", ".", os.environ.get("PYTHONPATH", "")])
    # Without a flag a preset's wish counts, and that only where there are cores.
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "2"}
    arguments = [sys.executable, "-c", code, str(data), json.dumps(changes)]
    parent = subprocess.Popen(arguments, env=environment, stdout=subprocess.DEVNULL)
    run = RunFolder(data / "tiny" / "orphans")
    wait_until(lambda: all(run.fold(fold).config.exists() for fold in FOLDS))
    parent.kill()
    parent.wait()
    for fold in FOLDS:
        with disk.alone(run.fold(fold).path, patience=30):  # else InputError
            pass


@pytest.mark.parametrize(
    "wanted, given, threads, folds, count",
    [
        (1, False, 8, 4, 1),
        (2, False, 8, 4, 2),
        (2, False, 1, 4, 1),
        (2, True, 1, 4, 2),
        (8, True, 2, 4, 4),
        (2, True, 2, 1, 1),
    ],
)
def test_how_many(data, wanted, given, threads, folds, count):
    torch.set_num_threads(threads)
    settings = tiny_settings(data, run="count", parallel_folds=wanted)
    settings = replace(settings, given=("parallel_folds",) if given else ())
    assert folds_at_a_time(settings, list(range(folds)), CPU) == count


@pytest.mark.parametrize(
    "runtime",
    [Runtime(torch.device("cuda"), "bf16"), Runtime(torch.device("cpu"), "fp32", rank=0, world=2)],
)
def test_where_there_is_nothing_to_share_out(data, runtime):
    settings = tiny_settings(data, run="count", parallel_folds=2)
    assert folds_at_a_time(settings, FOLDS, runtime) == 1
    with pytest.raises(InputError, match="--parallel-folds shares out the cores"):
        folds_at_a_time(replace(settings, given=("parallel_folds",)), FOLDS, runtime)


def test_the_demo_trains_two_at_a_time():
    rsna = TASKS["rsna"]
    assert rsna.settings_of({"demo": True}).machine.parallel_folds == 2
    assert rsna.settings_of({"preset": "small"}).machine.parallel_folds == 2
    assert rsna.settings_of({}).machine.parallel_folds == 1
    with pytest.raises(InputError, match="--parallel-folds must be at least 1"):
        rsna.settings_of({"parallel_folds": 0})
