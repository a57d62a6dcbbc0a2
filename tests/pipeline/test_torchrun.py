"""Several processes: the same results as one, and nothing lost when one is killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from steps import digest, run_here
from test_engine import evaluate_model
from tiny_data import write_tiny_data
from tiny_task import TINY_TASK, main, tiny_settings
from trained import assert_same_run, first_fold, read_log
from untrained import write_untrained_run
from xrays import png, xray

from cxr.data.predictions import read_predictions
from cxr.inference.run import load_model
from cxr.methods.detector.records import Candidates
from cxr.run_folder import RunFolder
from cxr.steps.train.pretraining import learned_weights

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
CHANGES = {"batch_size": 2, "epochs": 3, "save_minutes": 0.0}


def torchrun(working, processes, changes, **variables):
    """Run tests/support/tiny_task.py in so many processes; the finished process."""
    return launch(["--standalone"], processes, working, changes, variables)


def launch(flags, processes, working, changes, variables):
    """The same with torchrun's flags that say which machines belong together."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | variables
    command = [sys.executable, "-m", "torch.distributed.run", *flags]
    command += ["--nproc-per-node", str(processes)]
    command += [str(ROOT / "tests" / "support" / "tiny_task.py"), str(working)]
    command.append(json.dumps(changes))
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def test_two_processes_give_the_same_as_one(tmp_path):
    """4 images in one process are 2 in each of two; predictions are shared out in parts of 2.

    With batch norm in training mode the statistics differ, so there only the judgement of what was
    kept is compared. First lessons are made by the first process and learned by both.
    """
    write_tiny_data(tmp_path, train=18, test=5)
    frozen = {"weights": "imagenet", "freeze_epochs": 1, "dropout": 0.0, "fold": None, "epochs": 2}
    runs = [
        frozen | {"run": "frozen"},
        {"run": "norm", "epochs": 1, "fold": None},
        {"run": "taught", "pretrain": 40},
    ]
    runs = [changes | {"batch_size": 2} for changes in runs]
    ended = torchrun(tmp_path, 2, runs, LOG_WRITES=str(tmp_path / "writes.txt"))
    assert ended.returncode == 0, ended.stderr[-8000:]
    assert ended.stdout.count("fold 0 epoch 1/2") == 1
    assert_each_file_is_written_once((tmp_path / "writes.txt").read_text().splitlines())

    main(tmp_path, [frozen | {"run": "one", "batch_size": 4}])
    one = tiny_settings(tmp_path, run="one")
    two = tiny_settings(tmp_path, run="frozen")
    for a, b in zip(read_log(one), read_log(two), strict=True):
        # The mean of two gradient norms is not the norm of the mean gradient.
        a.pop("gradient_norm")
        b.pop("gradient_norm")
        expected = {name: float(value) for name, value in b.items()}
        assert {name: float(value) for name, value in a.items()} == pytest.approx(
            expected, rel=1e-3
        )
    for folder in ("fold0/valid_predictions", "fold1/valid_predictions", "test_predictions"):
        assert_similar_predictions(one, two, folder)

    norm = tiny_settings(tmp_path, run="norm")
    model = load_model(TINY_TASK, first_fold(norm).epoch(1), CPU)
    results = evaluate_model(norm, model)
    logged = float(read_log(norm)[0]["valid_loss"])
    assert results["valid_loss"] == pytest.approx(logged, rel=1e-5)
    taught = tiny_settings(tmp_path, run="taught", pretrain=40, batch_size=2)
    assert learned_weights(TINY_TASK, taught).exists()
    assert len(read_log(taught)) == 3


def assert_similar_predictions(one, two, folder):
    pairs = zip(
        read_predictions(RunFolder.of(one.place).path / folder, Candidates),
        read_predictions(RunFolder.of(two.place).path / folder, Candidates),
        strict=True,
    )
    for a, b in pairs:
        assert a.image_id == b.image_id
        assert np.allclose(a.category, b.category, atol=1e-4)
        assert len(a.score) == len(b.score)
        assert np.allclose(a.score, b.score, atol=1e-4)
        assert np.allclose(np.sort(a.centre, 0), np.sort(b.centre, 0), atol=0.1)


def assert_each_file_is_written_once(lines):
    """Lines "process file".

    What grows with the epochs is written by the first process only, all else once; the predictions
    by both.
    """
    growing = ("last.pt", "log.csv", "best.pt", "preprocess.json")
    paths = [line.split(" ", 1)[1] for line in lines]
    once = [path for path in paths if not path.endswith(growing)]
    assert len(once) == len(set(once))
    assert any(path.endswith("epoch002.pt") for path in once)
    for word, processes in (
        ("part-", {"0", "1"}),
        (".pt", {"0"}),
        (".csv", {"0"}),
        (".json", {"0"}),
    ):
        assert {line.split()[0] for line in lines if word in line} == processes, word


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with a run `whole` of two processes that nothing has disturbed."""
    working = tmp_path_factory.mktemp("torchrun")
    write_tiny_data(working)
    ended = torchrun(working, 2, [CHANGES | {"run": "whole"}])
    assert ended.returncode == 0, ended.stderr[-8000:]
    return working


def assert_same_as_whole(working, run):
    """Checkpoints, log and predictions to the last bit."""
    settings = tiny_settings(working, run=run)
    undisturbed = tiny_settings(working, run="whole")
    assert_same_run(settings, undisturbed)
    parts = predicted_parts(settings)
    assert len(parts) >= 4
    assert parts == predicted_parts(undisturbed)


def predicted_parts(settings):
    """{path: checksum} of the predictions of the first fold."""
    checksums = digest(first_fold(settings).path)
    return {path: checksum for path, checksum in checksums.items() if path.endswith(".npz")}


@pytest.mark.parametrize("process", [0, 1])
def test_a_killed_process_ends_all_and_the_training_goes_on(whole, process):
    """kill -9 of one of two in its third epoch: torchrun ends the other, nothing is lost."""
    changes = CHANGES | {"run": f"killed{process}"}
    ended = torchrun(whole, 2, [changes], KILL_BEFORE=f"update_weights 5 {process}")
    assert ended.returncode != 0
    assert "SIGKILL" in ended.stderr
    assert "fold 0 epoch 2/3" in ended.stdout
    ended = torchrun(whole, 2, [changes])
    assert ended.returncode == 0, ended.stderr[-8000:]
    assert "goes on at epoch 3" in ended.stdout
    assert_same_as_whole(whole, changes["run"])


def test_a_process_killed_in_the_prediction_ends_all_and_the_rest_is_predicted(whole):
    changes = CHANGES | {"run": "predicted"}
    ended = torchrun(whole, 2, [changes], KILL_BEFORE="write_part 2 1")
    assert ended.returncode != 0
    assert "SIGKILL" in ended.stderr
    settings = tiny_settings(whole, run="predicted")
    before = predicted_parts(settings)
    assert before
    assert before.items() < predicted_parts(tiny_settings(whole, run="whole")).items()
    ended = torchrun(whole, 2, [changes])
    assert ended.returncode == 0, ended.stderr[-8000:]
    assert "is finished, nothing to do" in ended.stdout
    assert_same_as_whole(whole, "predicted")


def test_two_machines_give_the_same_as_one_and_end_together(whole):
    """Two members of a rendezvous with a process each, the second of which is killed at first."""
    changes = CHANGES | {"run": "machines"}
    ended = two_machines(whole, [changes], KILL_BEFORE="update_weights 5 1")
    assert all(member.returncode for member in ended)
    assert "SIGKILL" in ended[0].stderr + ended[1].stderr
    ended = two_machines(whole, [changes])
    for member in ended:
        assert member.returncode == 0, member.stderr[-8000:]
    printed = ended[0].stdout + ended[1].stdout
    assert printed.count("goes on at epoch 3") == 1
    assert_same_as_whole(whole, "machines")


def two_machines(working, changes, **variables):
    """Run tests/support/tiny_task.py in one process of each of two members of a rendezvous.

    They share the folder, as several machines must. Returns both finished processes.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = ["--nnodes", "2", "--rdzv-backend", "c10d", "--local-addr", "127.0.0.1"]
    flags += ["--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "tiny"]
    with ThreadPoolExecutor(2) as machines:
        starts = []
        for _ in range(2):
            starts.append(machines.submit(launch, flags, 1, working, changes, variables))
        return [start.result() for start in starts]


# ---------------------------------------------------------- steps 02 and --images, as scripts


def start_step(step, *flags):
    """torchrun with two processes of a step."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "--", str(ROOT / f"{step}.py"), *map(str, flags)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def kill_one(torchrun, pattern, count):
    """kill -9 of one of the two processes once so many files of a pattern are there."""
    folder, name = pattern
    children = Path(f"/proc/{torchrun.pid}/task/{torchrun.pid}/children")
    while torchrun.poll() is None and len(list(folder.glob(name))) < count:
        time.sleep(0.02)
    os.kill(int(children.read_text().split()[-1]), signal.SIGKILL)
    printed, _ = torchrun.communicate(timeout=120)
    assert torchrun.returncode != 0, printed
    assert "SIGKILL" in printed


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no /proc on this system")
def test_a_process_killed_in_step_02_ends_all_and_the_rest_is_converted(tmp_path):
    drawn = tmp_path / "input"
    place = ("--demo", "--input", drawn, "--working")
    _, said = run_here("01_download", "--demo-images", "40", *place, tmp_path / "w")
    assert "wrote a synthetic data set" in said
    status, said = run_here("02_preprocess", "--workers", "1", *place, tmp_path / "alone")
    assert status == 0, said

    shared = (*place, tmp_path / "shared")
    step = start_step("02_preprocess", "--workers", "1", *shared)
    images = tmp_path / "shared" / "rsna" / "images"
    kill_one(step, (images, "[0-9a-f]*.png"), 4)
    assert not (tmp_path / "shared" / "rsna" / "train.csv").exists()
    status, said = run_here("02_preprocess", "--workers", "1", *shared)
    assert status == 0, said
    assert " 0 of them converted" not in said
    for name in ("train.csv", "test.csv", "failed.csv", "preprocess.json"):
        alone = tmp_path / "alone" / "rsna" / name
        assert (images.parent / name).read_bytes() == alone.read_bytes()
    for path in (tmp_path / "alone" / "rsna" / "images").glob("*.png"):
        assert (images / path.name).read_bytes() == path.read_bytes()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no /proc on this system")
def test_a_process_killed_in_images_ends_all_and_the_rest_is_predicted(tmp_path):
    params = {"rule": "first", "top": 0.04, "area": 9, "bottom": 0.05}
    write_untrained_run(tmp_path, "pneumothorax", params)
    folder = tmp_path / "folder"
    for number in range(80):
        png(folder / f"{number:03}.png", xray(96, 96, seed=number))
    place = ("--task", "pneumothorax", "--run", "tiny", "--working", tmp_path)
    place += ("--device", "cpu", "--workers", "1", "--images", folder, "--out")
    status, said = run_here("04_predict", *place, tmp_path / "alone")
    assert status == 0, said

    shared = tmp_path / "shared"
    kill_one(start_step("04_predict", *place, shared), (shared / "boxes", "*.json"), 4)
    assert len(list((shared / "boxes").glob("*.json"))) < 80
    assert not (shared / "index.html").exists()
    status, said = run_here("04_predict", *place, shared)
    assert status == 0, said
    assert "80 images, 0 of them done before" not in said
    alone = digest(tmp_path / "alone")
    assert len(alone) > 240
    assert digest(shared) == alone
