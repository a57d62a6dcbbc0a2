"""Training: exact resume wherever it was stopped, logs and checkpoints, refusals."""

import itertools
import json
from pathlib import Path
from unittest.mock import Mock

import cv2
import pytest
import torch
from tiny_data import write_tiny_data
from tiny_task import TINY_TASK, TinyDataset, TinyDetector, TinyTask, tiny_settings
from trained import (
    Killed,
    assert_same_run,
    checkpoint_names,
    first_fold,
    read_log,
    temporary_files,
)

from cxr.data.tables import read_table, split_fold
from cxr.images.resize import resize
from cxr.inference.checkpoint import load_state
from cxr.inference.run import fold_checkpoints, load_model
from cxr.methods.detector.image_scorer import RsnaMap
from cxr.run_folder import RunFolder
from cxr.steps.train import averaging, engine, epoch, state
from cxr.steps.train.engine import make_valid_loader, train_folds
from cxr.steps.train.epoch import evaluate_fold
from cxr.steps.train.state import TrainingState
from cxr.system.errors import STOPPED, InputError
from cxr.system.metric_log import MetricLog
from cxr.system.runtime import single_runtime

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    working = tmp_path_factory.mktemp("engine")
    write_tiny_data(working)
    return working


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def settings(data, request):
    name = request.node.name.translate(str.maketrans("[]/ ", "____"))
    return tiny_settings(data, run=name, augmentation="20", batch_size=2, save_minutes=0.0)


VARIANTS = {
    "plateau": {"ema": 0.9},
    "cosine": {"schedule": "cosine", "optimizer": "adamw", "weight_decay": 0.01},
    "accumulated": {"schedule": "cosine", "ema": 0.5, "accumulate": 2},
    "pretrained": {"weights": "imagenet", "freeze_epochs": 1},
}


@pytest.fixture(params=VARIANTS)
def variant(settings, request):
    return settings.replace(**VARIANTS[request.param])


def train_whole(settings):
    """The same run, trained in one go."""
    other = settings.replace(run=settings.place.run + "-whole", save_minutes=100.0)
    assert train_folds(TINY_TASK, other) == 0
    return other


def test_a_run_stopped_again_and_again_by_the_clock_ends_the_same(variant):
    stopped = variant.replace(max_hours=1e-9)
    statuses = (train_folds(TINY_TASK, stopped) for _ in range(50))
    stops = list(itertools.takewhile(lambda status: status == STOPPED, statuses))
    assert len(stops) == 3 * 4 / variant.training.accumulate - 1
    assert_same_run(stopped, train_whole(variant))


KILLS = [
    (epoch, "update_weights", 1),
    (epoch, "update_weights", 3),
    (epoch, "update_weights", 6),
    (engine, "evaluate_fold", 2),
    (MetricLog, "write", 2),
    (engine, "keep_checkpoints", 1),
    (engine, "save_state", 2),
    (engine, "save_state", 3),
    (TrainingState, "save", 1),
    (TrainingState, "save", 3),
]


@pytest.mark.parametrize("owner, function, call", KILLS)
def test_a_killed_run_ends_the_same(settings, monkeypatch, owner, function, call):
    """Killed in the middle: before the given call of a function."""
    original = getattr(owner, function)
    calls = itertools.count(1)

    def killer(*arguments):
        if next(calls) == call:
            raise Killed
        return original(*arguments)

    averaged = settings.replace(ema=0.9)
    with monkeypatch.context() as patch:
        patch.setattr(owner, function, killer)
        with pytest.raises(Killed):
            train_folds(TINY_TASK, averaged)
    assert train_folds(TINY_TASK, averaged) == 0
    assert_same_run(averaged, train_whole(averaged))
    assert not temporary_files(averaged)


def test_a_run_killed_while_it_removes_old_epochs_ends_the_same(settings, monkeypatch):
    short = settings.replace(epochs=2, keep=1)
    unlink = Path.unlink

    def killer(path, **options):
        if path.name.startswith("epoch"):
            raise Killed
        unlink(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killer)
        with pytest.raises(Killed):
            train_folds(TINY_TASK, short)
    assert train_folds(TINY_TASK, short) == 0
    assert_same_run(short, train_whole(short))
    assert checkpoint_names(short) == ["best.pt", "epoch002.pt", "last.pt"]


def test_a_run_without_saves_inside_the_epoch_ends_the_same(settings, monkeypatch):
    rare = settings.replace(save_minutes=100.0)
    with monkeypatch.context() as patch:
        patch.setattr(epoch, "check_finite", Mock(side_effect=Killed))
        with pytest.raises(Killed):
            train_folds(TINY_TASK, rare)
    assert checkpoint_names(rare) == []
    assert train_folds(TINY_TASK, rare) == 0
    assert_same_run(rare, train_whole(rare))


def modification_times(settings):
    return {path: path.stat().st_mtime_ns for path in first_fold(settings).path.iterdir()}


def test_a_finished_fold_is_skipped(settings, capsys):
    train_folds(TINY_TASK, settings)
    before = modification_times(settings)
    assert train_folds(TINY_TASK, settings) == 0
    assert "is finished, nothing to do" in capsys.readouterr().out
    assert before == modification_times(settings)


def test_all_folds(settings):
    assert train_folds(TINY_TASK, settings.replace(fold=None, epochs=1)) == 0
    run = RunFolder.of(settings.place)
    states = [load_state(run.fold(fold).epoch(1)) for fold in (0, 1)]
    assert [each["fold"] for each in states] == [0, 1]
    assert not torch.equal(states[0]["model"]["head.weight"], states[1]["model"]["head.weight"])


def test_other_settings_are_refused(settings):
    train_folds(TINY_TASK, settings.replace(epochs=1))
    sentence = r"other settings \(epochs, lr\): choose another name with --run"
    with pytest.raises(InputError, match=sentence):
        train_folds(TINY_TASK, settings.replace(lr=0.5))
    train_folds(TINY_TASK, settings.replace(epochs=1, workers=1, save_minutes=3.0))


def test_what_the_method_cannot_use_leaves_no_folder(settings):
    with pytest.raises(InputError, match="--augmentation third is not for a detector"):
        train_folds(TINY_TASK, settings.replace(augmentation="third"))
    with pytest.raises(InputError, match="--fit-on published is impossible"):
        train_folds(TINY_TASK, settings.replace(fit_on="published"))
    assert not RunFolder.of(settings.place).path.exists()


def test_last_checkpoint_that_is_none(settings):
    short = settings.replace(epochs=1)
    train_folds(TINY_TASK, short)
    folder = first_fold(short)
    folder.last.write_bytes(folder.last.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"last\.pt is not a whole checkpoint"):
        train_folds(TINY_TASK, short)
    folder.last.write_bytes(folder.epoch(1).read_bytes())
    with pytest.raises(InputError, match=r"last\.pt is not a training state"):
        train_folds(TINY_TASK, short)


def test_full_disk(settings, monkeypatch):
    """torch's writer says RuntimeError; what was there stays."""
    train_folds(TINY_TASK, settings.replace(max_hours=1e-9))
    last = first_fold(settings).last
    before = last.read_bytes()
    full = Mock(side_effect=RuntimeError("unexpected pos 64 vs 0\nmore"))
    monkeypatch.setattr(torch, "save", full)
    sentence = r"last.pt could not be written \(unexpected pos 64 vs 0\): free some space"
    with pytest.raises(InputError, match=sentence):
        train_folds(TINY_TASK, settings)
    assert last.read_bytes() == before
    assert not temporary_files(settings)


class NotFinite(TinyDetector):
    """The box loss is not a number in epoch 2: from the fifth training step."""

    def __init__(self, in_training):
        self.in_training = in_training
        self.calls = 0

    def loss(self, outputs, batch, model, settings):
        terms = super().loss(outputs, batch, model, settings)
        self.calls += model.training == self.in_training
        if self.calls >= 5:
            terms["box"] = terms["box"] * float("nan")
        return terms


@pytest.mark.parametrize("in_training", [True, False])
def test_a_loss_that_is_not_finite_stops_the_run(settings, in_training):
    settings = settings.replace(save_minutes=100.0)
    reason = r"not finite any more in epoch 2.*class'?: [0-9.]+.*box'?: nan.*lower --lr"
    with pytest.raises(InputError, match=reason) as caught:
        train_folds(TinyTask(method=NotFinite(in_training)), settings)
    assert "untouched" in str(caught.value)
    assert load_state(first_fold(settings).last)["epoch"] == 1
    assert len(read_log(settings)) == 1
    assert train_folds(TINY_TASK, settings) == 0
    assert_same_run(settings, train_whole(settings))


class FallingScore(RsnaMap):
    """The metric rises to epoch 2 and falls from there."""

    def __init__(self):
        super().__init__((0.0, 0.1, 1.0), ())
        self.metrics = iter([0.1, 0.3, 0.3, 0.2, 0.1, 0.0])

    def quick_score(self, predictions, table, settings, labels):
        return {"metric": next(self.metrics), "threshold": 0.5}


def falling_task():
    dataset = TinyDataset()
    dataset.scorer = FallingScore()
    return TinyTask(dataset=dataset)


def test_early_stopping(settings):
    settings = settings.replace(epochs=6, patience=2, keep=1)
    assert train_folds(falling_task(), settings) == 0
    assert len(read_log(settings)) == 4
    assert checkpoint_names(settings) == ["best.pt", "epoch004.pt", "last.pt"]
    assert load_state(first_fold(settings).best)["epoch"] == 2
    assert train_folds(TINY_TASK, settings) == 0
    assert len(read_log(settings)) == 4


def test_no_early_stopping(settings):
    settings = settings.replace(epochs=6)
    assert train_folds(falling_task(), settings) == 0
    assert len(read_log(settings)) == 6


@pytest.mark.parametrize(
    "keep, kept",
    [
        (1, ["epoch003.pt"]),
        (2, ["epoch002.pt", "epoch003.pt"]),
        (9, ["epoch001.pt", "epoch002.pt", "epoch003.pt"]),
    ],
)
def test_the_last_epochs_are_kept(settings, keep, kept):
    settings = settings.replace(keep=keep)
    train_folds(TINY_TASK, settings)
    assert checkpoint_names(settings) == ["best.pt", *kept, "last.pt"]


def test_what_a_fold_leaves(settings):
    settings = settings.replace(ema=0.9)
    train_folds(TINY_TASK, settings)
    rows = read_log(settings)
    terms = ("loss", "class", "box", "global")
    train_columns = [f"train_{term}" for term in terms]
    valid_columns = [f"valid_{term}" for term in terms]
    metrics = ["metric", "threshold", "gradient_norm"]
    assert list(rows[0]) == ["epoch", "lr", *train_columns, *valid_columns, *metrics]
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    for row in rows:
        parts = sum(float(row[name]) for name in train_columns[1:])
        assert float(row["train_loss"]) == pytest.approx(parts, rel=1e-4)
        assert float(row["gradient_norm"]) > 0
    folder = first_fold(settings)
    stored = folder.read_config()
    assert stored["lr"] == settings.training.lr
    assert stored["run"] == settings.place.run
    assert "torch" in json.loads(folder.manifest.read_text())
    assert list(folder.path.glob("events*"))


def valid_loader(settings):
    table = read_table(RunFolder.of(settings.place).task.table("train"))
    valid = split_fold(table, 0)[1]
    return make_valid_loader(TINY_TASK, settings, valid, single_runtime(settings.machine))


def evaluate_model(settings, model):
    runtime = single_runtime(settings.machine)
    loader = valid_loader(settings)
    evaluated = evaluate_fold(TINY_TASK, model, settings, loader, runtime)
    results = {f"valid_{name}": value for name, value in evaluated.terms.items()}
    return results | dict(evaluated.metrics)


def test_the_log_holds_what_the_kept_weights_give(settings):
    """The last epoch's validation, again from its checkpoint: the moving average was judged."""
    settings = settings.replace(ema=0.9)
    train_folds(TINY_TASK, settings)
    folder = first_fold(settings)
    model = load_model(TINY_TASK, folder.epoch(3), CPU)
    results = evaluate_model(settings, model)
    logged = read_log(settings)[-1]
    # Not to the last digit: in fp32 on a CPU training and prediction have other memory formats.
    assert {name: float(logged[name]) for name in results} == pytest.approx(results, rel=1e-4)
    last = load_state(folder.last)
    assert not torch.equal(last["model"]["head.weight"], model.head.weight)


def test_evaluation_does_not_depend_on_the_batch_size(settings):
    """8 validation images in batches of 3, 3 and 2 or one by one: every image counts the same."""
    results = []
    for batch_size in (1, 3, 8):
        changed = settings.replace(batch_size=batch_size)
        torch.manual_seed(0)
        labels = TINY_TASK.used_labels(changed)
        model = TINY_TASK.method.build_model(changed, labels).eval()
        results.append(evaluate_model(changed, model))
    for other in results[1:]:
        assert other == pytest.approx(results[0], rel=1e-5)


def test_accumulated_gradients_are_those_of_the_large_batch(settings, monkeypatch):
    """With frozen batch norm and without dropout 2 steps of 2 images are one of 4."""
    changed = settings.replace(weights="imagenet", freeze_epochs=0, dropout=0.0, epochs=2)
    original = epoch.update_weights
    gradients = {2: [], 4: []}

    def spy(training_state):
        batch_size = training_state.settings.training.batch_size
        gradients[batch_size].append(training_state.model.head.weight.grad.clone())
        original(training_state)

    monkeypatch.setattr(epoch, "update_weights", spy)
    name = settings.place.run
    assert train_folds(TINY_TASK, changed.replace(run=f"{name}-4", batch_size=4)) == 0
    small = changed.replace(run=f"{name}-2", batch_size=2, accumulate=2)
    assert train_folds(TINY_TASK, small) == 0
    assert len(gradients[2]) == len(gradients[4]) == 4
    for a, b in zip(gradients[2], gradients[4], strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-5)
        assert a.abs().max() > 1e-2


@pytest.mark.parametrize("weights, rests", [("imagenet", True), ("none", False)])
def test_the_encoder_rests_in_the_first_epoch_only_if_pretrained(settings, weights, rests):
    settings = settings.replace(weights=weights, freeze_epochs=1, keep=9)
    train_folds(TINY_TASK, settings)
    torch.manual_seed(settings.data.seed * 1000)
    labels = TINY_TASK.used_labels(settings)
    first = TINY_TASK.method.build_model(settings, labels).encoder[0].weight
    after = []
    for number in (1, 2):
        checkpoint = load_state(first_fold(settings).epoch(number))
        after.append(checkpoint["model"]["encoder.0.weight"])
    assert torch.equal(first, after[0]) == rests
    assert not torch.equal(after[0], after[1])


class ConstantLoss(TinyDetector):
    """Nothing ever gets better."""

    def loss(self, outputs, batch, model, settings):
        terms = super().loss(outputs, batch, model, settings)
        return {name: value * 0 + 1 for name, value in terms.items()}


def test_plateau_lowers_the_rate_after_four_epochs_without_a_better_box_loss(settings):
    settings = settings.replace(epochs=7, lr=1e-5)
    train_folds(TinyTask(method=ConstantLoss()), settings)
    rates = [float(row["lr"]) for row in read_log(settings)]
    assert rates == pytest.approx([1e-5] * 6 + [2e-6])


def test_the_average_counts_its_updates(settings):
    averaged = settings.replace(ema=0.5)
    runtime = single_runtime(averaged.machine)
    training = state.TrainingState(TINY_TASK, averaged, 0, runtime, updates=4, resuming=False)
    before = [parameter.clone() for parameter in training.model.parameters()]
    training.average.update_parameters(training.model)  # the first one copies
    with torch.no_grad():
        for parameter in training.model.parameters():
            parameter.add_(1)
    training.average.update_parameters(training.model)  # the second weighs the past by 2/11
    for old, average in zip(before, training.average.module.parameters(), strict=True):
        torch.testing.assert_close(average, old + 9 / 11)


def test_a_network_that_cannot_be_built_leaves_no_run(settings, monkeypatch):
    def refuse(*arguments):
        del arguments
        raise InputError("no such weights")

    monkeypatch.setattr(engine, "TrainingState", refuse)
    with pytest.raises(InputError, match="no such weights"):
        train_folds(TINY_TASK, settings)
    assert RunFolder.of(settings.place).trained_folds() == []


# --- the mean of the kept epochs


def test_the_mean_of_the_kept_epochs(settings):
    """Weights are means; the one batch norm has the statistics of the training images."""
    settings = settings.replace(swa=True, keep=2, augmentation="1")
    train_folds(TINY_TASK, settings)
    folder = first_fold(settings)
    assert folder.checkpoints() == [folder.swa]
    assert fold_checkpoints(TINY_TASK, settings, 0) == [folder.swa]
    second, third = (load_state(folder.epoch(number))["model"] for number in (2, 3))
    mean = load_state(folder.swa)["model"]
    expected = (second["head.weight"].double() + third["head.weight"].double()) / 2
    assert torch.equal(mean["head.weight"], expected.float())

    model = load_model(TINY_TASK, folder.swa, CPU)
    table = read_table(RunFolder.of(settings.place).task.table("train"))
    train = split_fold(table, 0)[0]
    images = [png_of(settings, image_id) for image_id in train["image_id"]]
    with torch.no_grad():
        seen = model.encoder[0](torch.stack(images) / 128 - 1)
    measured = seen.mean((0, 2, 3))
    assert model.encoder[1].running_mean.tolist() == pytest.approx(measured.tolist(), abs=1e-4)


def png_of(settings, image_id):
    """(1, S, S) float, as the network sees a stored picture."""
    path = RunFolder.of(settings.place).task.image(image_id)
    picture = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    return torch.from_numpy(resize(picture, settings.training.image_size))[None].float()


def test_a_run_killed_while_it_averages_ends_the_same(settings, monkeypatch):
    settings = settings.replace(swa=True, keep=2)
    with monkeypatch.context() as patch:
        patch.setattr(averaging, "evaluate_fold", Mock(side_effect=Killed))
        with pytest.raises(Killed):
            train_folds(TINY_TASK, settings)
    assert not first_fold(settings).swa.exists()
    with pytest.raises(InputError, match=r"fold0 is not finished: run 03_train.py"):
        fold_checkpoints(TINY_TASK, settings, 0)
    assert train_folds(TINY_TASK, settings) == 0
    assert "swa.pt" in checkpoint_names(settings)
    assert_same_run(settings, train_whole(settings))


def test_frozen_statistics_stay(settings):
    """Those of a pretrained encoder, which TinyNet freezes, are the mean of equal ones."""
    settings = settings.replace(swa=True, keep=2, weights="imagenet")
    train_folds(TINY_TASK, settings)
    folder = first_fold(settings)
    third = load_state(folder.epoch(3))["model"]
    mean = load_state(folder.swa)["model"]
    assert torch.equal(mean["encoder.1.running_mean"], third["encoder.1.running_mean"])


def test_best_epochs_are_kept_through_a_stop(settings, monkeypatch):
    """The first epoch is the best; it is there at the end, also after a kill."""
    settings = settings.replace(keep=1, keep_best=1)
    figures = iter([0.9, 0.1, 0.2, 0.2])
    monkeypatch.setattr(
        TinyDataset.scorer, "quick_score", lambda *_: {"metric": next(figures), "threshold": 0.5}
    )
    original = TrainingState.save
    calls = itertools.count(1)

    def killer(state, path):
        if state.epoch == 2 and state.step == 0 and next(calls) == 1:
            raise Killed
        original(state, path)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingState, "save", killer)
        with pytest.raises(Killed):
            train_folds(TINY_TASK, settings)
    assert train_folds(TINY_TASK, settings) == 0
    assert checkpoint_names(settings) == ["best.pt", "epoch001.pt", "epoch003.pt", "last.pt"]
    assert len(fold_checkpoints(TINY_TASK, settings, 0)) == 2
    first_fold(settings).epoch(1).unlink()
    with pytest.raises(InputError, match="holds 1 of the 2 checkpoints"):
        fold_checkpoints(TINY_TASK, settings, 0)
