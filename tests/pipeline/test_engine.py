"""Training: exact resume wherever it was stopped, logs and checkpoints, refusals, and the same under torchrun."""

import csv
import itertools
import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_task import TinyTask, main, tiny_config, write_tiny_data

from cxr.config import STOPPED
from cxr.data.dataset import ResumableSampler, collate, read_table, split_fold
from cxr.datasets.rsna.dataset import Rsna
from cxr.inference import predictions
from cxr.inference.checkpoint import load_state
from cxr.inference.run import load_model
from cxr.methods.detector.method import DetectionTask
from cxr.methods.detector.records import Candidates
from cxr.steps.train import engine
from cxr.steps.train.engine import evaluate, make_loaders, train_folds, updates_of_run
from cxr.steps.train.pretraining import learned_weights
from cxr.steps.train.schedules import make_scheduler
from cxr.steps.train.state import Training, moving_average
from cxr.system.disk import InputError
from cxr.tasks import TASKS

TASK, CPU = TinyTask(), torch.device("cpu")
read_predictions = partial(predictions.read_predictions, kind=Candidates)
TIMES = ("seconds", "images_per_second")


class Killed(BaseException):
    """Stands for a kill: nothing of the program handles it."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    working = tmp_path_factory.mktemp("engine")
    write_tiny_data(working)
    return working


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def config(data, request):
    name = request.node.name.translate(str.maketrans("[]/ ", "____"))
    return tiny_config(data, run=name, augmentation="20", batch_size=2, save_minutes=0.0)


def read_log(config):
    with open(config.fold_dir(0) / "log.csv", newline="", encoding="utf-8") as file:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]


def validation_loader(config):
    return make_loaders(
        TASK, config, split_fold(read_table(config.task_dir / "train.csv"), 0), CPU
    )[1]


def checkpoints(config):
    return sorted(path.name for path in config.fold_dir(0).glob("*.pt"))


def assert_same(a, b, where=""):
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            if key != "config":  # it holds the name of the run
                assert_same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b)):
            assert_same(x, y, f"{where}/{i}")
    else:
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, where


def assert_same_run(config, other):
    """Every checkpoint of the fold bit for bit, and the log but for the times."""
    assert checkpoints(config) == checkpoints(other)
    for name in checkpoints(config):
        assert_same(*(load_state(c.fold_dir(0) / name) for c in (config, other)), name)
    assert read_log(config) == read_log(other)


VARIANTS = {
    "plateau": {"ema": 0.9},
    "cosine": {"schedule": "cosine", "optimizer": "adamw", "weight_decay": 0.01},
    "accumulated": {"schedule": "cosine", "ema": 0.5, "accumulate": 2},
    "pretrained": {"weights": "imagenet", "freeze_epochs": 1},
}


@pytest.fixture(params=VARIANTS)
def variant(config, request):
    return replace(config, **VARIANTS[request.param])


def whole_run(variant):
    other = replace(variant, run=variant.run + "-whole", save_minutes=100.0)
    assert train_folds(TASK, other) == 0
    return other


def test_a_run_stopped_again_and_again_by_the_clock_ends_the_same(variant):
    stopped = replace(variant, max_hours=1e-9)
    stops = list(
        itertools.takewhile(
            lambda status: status == STOPPED, (train_folds(TASK, stopped) for _ in range(50))
        )
    )
    assert len(stops) == 3 * 4 / variant.accumulate - 1
    assert_same_run(stopped, whole_run(variant))


KILLS = [
    (engine, "update", 1),
    (engine, "update", 3),
    (engine, "update", 6),
    (engine, "evaluate", 2),
    (engine, "write_log", 2),
    (engine, "keep_checkpoints", 1),
    (engine, "save_state", 2),
    (engine, "save_state", 3),
    (Training, "save", 1),
    (Training, "save", 3),
]


@pytest.mark.parametrize("owner, function, call", KILLS)
def test_a_killed_run_ends_the_same(config, monkeypatch, owner, function, call):
    """Killed in the middle: before the given call of a function of the engine."""
    original, calls = getattr(owner, function), itertools.count(1)

    def killer(*args):
        if next(calls) == call:
            raise Killed
        return original(*args)

    ema = replace(config, ema=0.9)
    with monkeypatch.context() as patch:
        patch.setattr(owner, function, killer)
        with pytest.raises(Killed):
            train_folds(TASK, ema)
    assert train_folds(TASK, ema) == 0
    assert_same_run(ema, whole_run(ema))
    assert not list(ema.fold_dir(0).glob(".*.tmp*"))


def test_a_run_killed_while_it_removes_old_epochs_ends_the_same(config, monkeypatch):
    short = replace(config, epochs=2, keep=1)
    unlink = Path.unlink

    def killer(path, **options):
        if path.name.startswith("epoch"):
            raise Killed
        unlink(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killer)
        with pytest.raises(Killed):
            train_folds(TASK, short)
    assert train_folds(TASK, short) == 0
    assert_same_run(short, whole_run(short))
    assert checkpoints(short) == ["best.pt", "epoch002.pt", "last.pt"]


def test_a_run_without_saves_inside_the_epoch_ends_the_same(config, monkeypatch):
    rare = replace(config, save_minutes=100.0)
    with monkeypatch.context() as patch:
        patch.setattr(engine, "check_finite", Mock(side_effect=Killed))
        with pytest.raises(Killed):
            train_folds(TASK, rare)
    assert checkpoints(rare) == []
    assert train_folds(TASK, rare) == 0
    assert_same_run(rare, whole_run(rare))


def test_a_finished_fold_is_skipped(config, capsys):
    train_folds(TASK, config)
    before = {path: path.stat().st_mtime_ns for path in config.fold_dir(0).iterdir()}
    assert train_folds(TASK, config) == 0
    assert "is finished, nothing to do" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in config.fold_dir(0).iterdir()}


def test_all_folds(config):
    assert train_folds(TASK, replace(config, fold=None, epochs=1)) == 0
    states = [load_state(config.fold_dir(fold) / "epoch001.pt") for fold in (0, 1)]
    assert [state["fold"] for state in states] == [0, 1]
    assert not torch.equal(states[0]["model"]["head.weight"], states[1]["model"]["head.weight"])


def test_other_settings_are_refused(config):
    train_folds(TASK, replace(config, epochs=1))
    with pytest.raises(
        InputError, match=r"other settings \(epochs, lr\): choose another name with --run"
    ):
        train_folds(TASK, replace(config, lr=0.5))
    train_folds(TASK, replace(config, epochs=1, workers=1, save_minutes=3.0))


@pytest.mark.parametrize("setting", ["lungs", "pseudo", "unlabelled"])
def test_settings_of_tasks_without_boxes_are_refused(config, setting):
    for task in (task for task in TASKS.values() if isinstance(task, DetectionTask)):
        with pytest.raises(
            InputError, match=f"--{setting} is for .* and {task.name} looks for boxes"
        ):
            task.select(pd.DataFrame(), replace(config, **{setting: "other"}))
    with pytest.raises(
        InputError, match=f"--{setting} is for tasks of masks or classes, and tiny looks for boxes"
    ):
        train_folds(TASK, replace(config, **{setting: "other"}))


def test_last_checkpoint_that_is_none(config):
    train_folds(TASK, replace(config, epochs=1))
    last = config.fold_dir(0) / "last.pt"
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(InputError, match="last.pt is not a whole checkpoint"):
        train_folds(TASK, replace(config, epochs=1))
    last.write_bytes((config.fold_dir(0) / "epoch001.pt").read_bytes())
    with pytest.raises(InputError, match="last.pt is not a training state"):
        train_folds(TASK, replace(config, epochs=1))


def test_full_disk(config, monkeypatch):
    """torch's writer says RuntimeError; what was there stays."""
    train_folds(TASK, replace(config, max_hours=1e-9))
    before = (config.fold_dir(0) / "last.pt").read_bytes()
    monkeypatch.setattr(
        torch, "save", Mock(side_effect=RuntimeError("unexpected pos 64 vs 0\nmore"))
    )
    with pytest.raises(
        InputError,
        match=r"last.pt could not be written \(unexpected pos 64 vs 0\): free some space",
    ):
        train_folds(TASK, config)
    assert (config.fold_dir(0) / "last.pt").read_bytes() == before and not list(
        config.fold_dir(0).glob(".*.tmp*")
    )


class NotFinite(TinyTask):
    """The box loss is not a number in epoch 2: from the fifth training step."""

    def __init__(self, in_training):
        self.in_training, self.calls = in_training, 0

    def loss(self, outputs, batch, model, config):
        terms = super().loss(outputs, batch, model, config)
        self.calls += model.training == self.in_training
        return terms | {"box": terms["box"] * float("nan")} if self.calls >= 5 else terms


@pytest.mark.parametrize("in_training", [True, False])
def test_a_loss_that_is_not_finite_stops_the_run(config, in_training):
    config = replace(config, save_minutes=100.0)
    reason = r"not finite any more in epoch 2.*class'?: [0-9.]+.*box'?: nan.*lower --lr"
    with pytest.raises(InputError, match=reason) as caught:
        train_folds(NotFinite(in_training), config)
    assert "untouched" in str(caught.value)
    assert load_state(config.fold_dir(0) / "last.pt")["epoch"] == 1 and len(read_log(config)) == 1
    assert train_folds(TASK, config) == 0
    assert_same_run(config, whole_run(config))


class Falling(TinyTask):
    """The metric rises to epoch 2 and falls from there."""

    def __init__(self):
        self.metrics = iter([0.1, 0.3, 0.3, 0.2, 0.1, 0.0])

    def quick_score(self, predictions, table, config):
        return {"metric": next(self.metrics), "threshold": 0.5}


def test_early_stopping(config):
    config = replace(config, epochs=6, patience=2, keep=1)
    assert train_folds(Falling(), config) == 0
    assert len(read_log(config)) == 4 and checkpoints(config) == [
        "best.pt",
        "epoch004.pt",
        "last.pt",
    ]
    assert load_state(config.fold_dir(0) / "best.pt")["epoch"] == 2
    assert train_folds(TASK, config) == 0 and len(read_log(config)) == 4


def test_no_early_stopping(config):
    assert train_folds(Falling(), replace(config, epochs=6)) == 0
    assert len(read_log(config)) == 6


@pytest.mark.parametrize(
    "keep, kept",
    [
        (1, ["epoch003.pt"]),
        (2, ["epoch002.pt", "epoch003.pt"]),
        (9, ["epoch001.pt", "epoch002.pt", "epoch003.pt"]),
    ],
)
def test_the_last_epochs_are_kept(config, keep, kept):
    train_folds(TASK, replace(config, keep=keep))
    assert checkpoints(config) == ["best.pt", *kept, "last.pt"]


def test_what_a_fold_leaves(config):
    config = replace(config, ema=0.9)
    train_folds(TASK, config)
    rows = read_log(config)
    terms = ("loss", "class", "box", "global")
    losses = [f"{part}_{term}" for part in ("train", "valid") for term in terms]
    assert list(rows[0]) == ["epoch", "lr", *losses, "metric", "threshold"]
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    for row in rows:
        assert float(row["train_loss"]) == pytest.approx(
            sum(float(row[f"train_{t}"]) for t in terms[1:]), rel=1e-4
        )
    stored = json.loads((config.fold_dir(0) / "config.json").read_text())
    assert stored["lr"] == config.lr and stored["run"] == config.run
    assert "torch" in json.loads((config.fold_dir(0) / "manifest.json").read_text())
    assert list(config.fold_dir(0).glob("events*"))


def test_the_log_holds_what_the_kept_weights_give(config):
    """The validation losses of the last epoch, computed again from its checkpoint: the moving average was judged."""
    config = replace(config, ema=0.9)
    train_folds(TASK, config)
    model = load_model(TASK, config.fold_dir(0) / "epoch003.pt", CPU)
    results = evaluate(TASK, model, validation_loader(config), config, CPU, "fp32")
    logged = read_log(config)[-1]
    # not to the last digit, since training in fp32 on a CPU and prediction have different memory formats
    assert {name: float(logged[name]) for name in results} == pytest.approx(results, rel=1e-4)
    state = load_state(config.fold_dir(0) / "last.pt")
    assert not torch.equal(state["model"]["head.weight"], model.head.weight)


def test_evaluation_does_not_depend_on_the_batch_size(config):
    """8 validation images in batches of 3, 3 and 2 or one by one: every image counts the same."""
    results = []
    for batch_size in (1, 3, 8):
        settings = replace(config, batch_size=batch_size)
        loader = validation_loader(settings)
        torch.manual_seed(0)
        model = TASK.build_model(settings).eval()
        results.append(evaluate(TASK, model, loader, settings, CPU, "fp32"))
    for other in results[1:]:
        assert other == pytest.approx(results[0], rel=1e-5)


def test_accumulated_gradients_are_those_of_the_large_batch(config, monkeypatch):
    """With frozen batch norm and without dropout 2 steps of 2 images are one of 4."""
    settings = replace(config, weights="imagenet", freeze_epochs=0, dropout=0.0, epochs=2)
    original, gradients = engine.update, {2: [], 4: []}

    def spy(state):
        gradients[state.config.batch_size].append(state.model.head.weight.grad.clone())
        original(state)

    monkeypatch.setattr(engine, "update", spy)
    large = replace(settings, run=config.run + "-4", batch_size=4)
    small = replace(settings, run=config.run + "-2", batch_size=2, accumulate=2)
    for c in (large, small):
        assert train_folds(TASK, c) == 0
    assert len(gradients[2]) == len(gradients[4]) == 4
    for a, b in zip(gradients[2], gradients[4]):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-5) and a.abs().max() > 1e-2


def test_the_encoder_rests_in_the_first_epoch_only_if_pretrained(config):
    for weights, rests in (("imagenet", True), ("none", False)):
        settings = replace(
            config, run=f"{config.run}-{weights}", weights=weights, freeze_epochs=1, keep=9
        )
        train_folds(TASK, settings)
        torch.manual_seed(settings.seed * 1000)
        first = TASK.build_model(settings).encoder[0].weight
        after = [
            load_state(settings.fold_dir(0) / f"epoch{e:03}.pt")["model"]["encoder.0.weight"]
            for e in (1, 2)
        ]
        assert torch.equal(first, after[0]) == rests and not torch.equal(after[0], after[1])


def test_plateau_lowers_the_rate_after_four_epochs_without_a_better_box_loss(config):
    config = replace(config, epochs=7, lr=1e-5)
    task = TinyTask()
    task.loss = lambda *args: {k: v * 0 + 1 for k, v in TinyTask.loss(task, *args).items()}
    train_folds(task, config)
    assert [float(row["lr"]) for row in read_log(config)] == pytest.approx([1e-5] * 6 + [2e-6])


def test_cosine_schedule_by_hand():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0)
    scheduler = make_scheduler(optimizer, tiny_config(".", schedule="cosine", epochs=10), 100)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[:3] == pytest.approx([1 / 3, 2 / 3, 1.0], abs=2e-3)
    assert rates[50] == pytest.approx(0.505) and rates[25] == pytest.approx(
        0.01 + 0.99 * (1 + 2**-0.5) / 2
    )
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)


def test_the_schedule_counts_epochs_of_different_length():
    """Ten images in the first epoch and fifteen in the others, five in a batch, two batches to an update."""
    sampler = ResumableSampler(10, 5, 0, True)
    sampler.total = lambda: 10 if sampler.epoch == 0 else 15
    assert (
        updates_of_run(sampler, SimpleNamespace(epochs=3, accumulate=2)) == 1 + 2 + 2
        and sampler.epoch == 0
    )


def test_moving_average_by_hand():
    """Updates 0 and 1 weigh the past by 1/10 and 2/11; later ones by the decay; whole numbers are copied."""
    decay = partial(Training.decay, SimpleNamespace(config=tiny_config(".", ema=0.5), epoch=0))
    average, whole = [torch.tensor([0.0]), torch.tensor([[2.0]])], [torch.tensor(3)]
    for updates, expected in ((0, 9.0), (1, 9.0 * 2 / 11 + 10 * 9 / 11)):
        update = moving_average(decay, lambda: updates)
        update(average, [torch.tensor([10.0]), torch.tensor([[2.0]])], None)
        update(whole, [torch.tensor(7)], None)
        assert (
            float(average[0]) == pytest.approx(expected)
            and float(average[1]) == 2
            and int(whole[0]) == 7
        )
    average = [torch.tensor([0.0])]
    moving_average(decay, lambda: 1000)(average, [torch.tensor([10.0])], None)
    assert float(average[0]) == 5


def test_the_average_counts_its_updates():
    state = Training(TASK, tiny_config(".", ema=0.5), 0, CPU, "fp32", 4, resuming=False)
    before = [p.clone() for p in state.model.parameters()]
    state.average.update_parameters(state.model)  # the first one copies
    with torch.no_grad():
        [p.add_(1) for p in state.model.parameters()]
    state.average.update_parameters(state.model)  # and the second one weighs the past by 2/11
    for old, averaged in zip(before, state.average.module.parameters()):
        torch.testing.assert_close(averaged, old + 9 / 11)


def test_the_real_network_learns_one_batch_by_heart():
    """RetinaNet on two images, one with a white rectangle: the rectangle is found, and nothing on the other."""
    task = Rsna()
    config = tiny_config(
        ".", encoder="tu-resnet10t", levels="4-6", channels=16, head_convs=1, dropout=0.0
    )
    torch.manual_seed(0)
    model = task.build_model(config)
    images = torch.randint(0, 60, (2, 1, 192, 192), dtype=torch.uint8)
    images[0, 0, 40:120, 60:130] = 250
    boxes, matcher = torch.tensor([[60.0, 40, 130, 120]]), task.targets(config)
    batch = collate(
        [
            {
                "image": image,
                "label": label,
                "index": i,
                "boxes": boxes[:n],
                "labels": torch.zeros(n).long(),
                **matcher(boxes[:n], torch.zeros(n).long()),
            }
            for i, (image, label, n) in enumerate(zip(images, (2, 0), (1, 0)))
        ]
    )
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    losses = []
    for _ in range(25):
        loss = sum(task.loss(model(images), batch, model, config).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.1 * losses[0]
    with torch.no_grad():
        found = task.quick_predictions(model(images), batch, model)
    boxes, scores, labels, _ = found[0]
    assert not labels.any()
    assert scores[0] > 0.5 and np.abs(boxes[0] - [60, 40, 130, 120]).max() < 8
    assert (found[1][1] < 0.3).all()


def torchrun(working, processes, changes, **variables):
    """Run tests/tiny_task.py in so many processes; the finished process."""
    root = Path(__file__).parents[2]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)} | variables
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(processes),
        str(root / "tests" / "tiny_task.py"),
        str(working),
        json.dumps(changes),
    ]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def test_two_processes_give_the_same_as_one(tmp_path):
    """4 images in one process are 2 in each of two; predictions are shared out in parts of 2 images.

    With batch norm in training mode the statistics differ, so there only the judgement of what was kept is compared.
    First lessons are made by the first process and learned by both.
    """
    write_tiny_data(tmp_path, train=18, test=5)
    frozen = {"weights": "imagenet", "freeze_epochs": 1, "dropout": 0.0, "fold": None, "epochs": 2}
    pairs = [
        frozen | {"run": "frozen"},
        {"run": "norm", "epochs": 1, "fold": None},
        {"run": "taught", "pretrain": 40},
    ]
    ended = torchrun(
        tmp_path,
        2,
        [settings | {"batch_size": 2} for settings in pairs],
        LOG_WRITES=str(tmp_path / "writes.txt"),
    )
    assert ended.returncode == 0 and ended.stdout.count("fold 0 epoch 1/2") == 1, ended.stderr[
        -8000:
    ]
    assert_each_file_is_written_once((tmp_path / "writes.txt").read_text().splitlines())
    main(tmp_path, [frozen | {"run": "one", "batch_size": 4}])
    one, two, norm = (tiny_config(tmp_path, run=run) for run in ("one", "frozen", "norm"))
    for a, b in zip(read_log(one), read_log(two), strict=True):
        assert {k: float(v) for k, v in a.items()} == pytest.approx(
            {k: float(v) for k, v in b.items()}, rel=1e-3
        )
    for folder in ("fold0/valid_predictions", "fold1/valid_predictions", "test_predictions"):
        for a, b in zip(*(read_predictions(c.run_dir / folder) for c in (one, two)), strict=True):
            assert a.image_id == b.image_id and np.allclose(a.category, b.category, atol=1e-4)
            assert len(a.score) == len(b.score) and np.allclose(a.score, b.score, atol=1e-4)
            assert np.allclose(np.sort(a.centre, 0), np.sort(b.centre, 0), atol=0.1)
    loader = validation_loader(norm)
    model = load_model(TASK, norm.fold_dir(0) / "epoch001.pt", CPU)
    results = evaluate(TASK, model, loader, norm, CPU, "fp32")
    assert results["valid_loss"] == pytest.approx(float(read_log(norm)[0]["valid_loss"]), rel=1e-5)
    taught = tiny_config(tmp_path, run="taught", pretrain=40, batch_size=2)
    assert learned_weights(taught).exists() and len(read_log(taught)) == 3


def assert_each_file_is_written_once(lines):
    """Lines "process file". What grows with the epochs is written by the first process only, all else once; the
    predictions by both."""
    growing = ("last.pt", "log.csv", "best.pt", "preprocess.json")
    once = [
        path for path in (line.split(" ", 1)[1] for line in lines) if not path.endswith(growing)
    ]
    assert len(once) == len(set(once)) and any(path.endswith("epoch002.pt") for path in once)
    for kind, processes in (
        ("part-", {"0", "1"}),
        (".pt", {"0"}),
        (".csv", {"0"}),
        (".json", {"0"}),
    ):
        assert {line.split()[0] for line in lines if kind in line} == processes, kind


def test_a_killed_process_ends_all_and_the_run_goes_on(tmp_path):
    """kill -9 of the second of two in its third epoch: torchrun says so and ends the first, and nothing is lost."""
    write_tiny_data(tmp_path)
    settings = {"run": "killed", "batch_size": 2, "epochs": 3, "save_minutes": 0.0}
    ended = torchrun(tmp_path, 2, [settings], KILL_SECOND_BEFORE_UPDATE="5")
    assert (
        ended.returncode != 0 and "SIGKILL" in ended.stderr and "fold 0 epoch 2/3" in ended.stdout
    )
    ended = torchrun(tmp_path, 2, [settings])
    assert ended.returncode == 0 and "goes on at epoch 3" in ended.stdout, ended.stderr[-8000:]
    assert torchrun(tmp_path, 2, [settings | {"run": "whole"}]).returncode == 0
    assert_same_run(*(tiny_config(tmp_path, run=run) for run in ("killed", "whole")))
