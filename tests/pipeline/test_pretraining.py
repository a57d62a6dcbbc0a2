"""Synthetic X-rays first: made and learned once, the beginning of every fold, resumed like any training."""

import errno
import shutil
import threading
from dataclasses import replace
from unittest.mock import Mock

import pytest
import torch
from filelock import FileLock
from tiny_task import TinyTask, tiny_config, write_tiny_data

from cxr.config import STOPPED, resolve
from cxr.inference.checkpoint import load_state
from cxr.steps.train import engine
from cxr.steps.train.engine import train_folds
from cxr.steps.train.pretraining import first_lessons, learned_weights
from cxr.system.disk import InputError, alone
from cxr.tasks import TASKS

TASK = TinyTask()


@pytest.fixture
def config(tmp_path):
    write_tiny_data(tmp_path)
    return tiny_config(
        tmp_path, pretrain=40, batch_size=8, epochs=1, lr=1e-12, fold=None, augmentation="1"
    )


def weights(path):
    return load_state(path)["model"]["head.weight"]


def lessons_in(config, monkeypatch):
    """The log of the folders that are trained, in which the synthetic ones learn and the others do not."""
    trained, fit = [], engine.fit

    def spy(task, own, fold, *others):
        trained.append(own.working.name)
        first = own.working.name.startswith("pretraining")
        return fit(task, replace(own, lr=1e-2) if first else own, fold, *others)

    monkeypatch.setattr(engine, "fit", spy)
    return trained


def test_every_fold_begins_with_what_was_learned_once(config, monkeypatch):
    trained = lessons_in(config, monkeypatch)
    assert train_folds(TASK, config) == 0
    assert trained == ["pretraining-40-256", config.working.name, config.working.name]
    learned = weights(learned_weights(config))
    for fold in (0, 1):
        assert torch.allclose(weights(config.fold_dir(fold) / "epoch001.pt"), learned, atol=1e-8)
    torch.manual_seed(42 * 1000)  # what fold 0 would have begun with
    assert not torch.allclose(TASK.build_model(config).head.weight, learned, atol=1e-3)
    assert (
        train_folds(TASK, replace(config, run="again")) == 0
        and trained.count("pretraining-40-256") == 1
    )
    assert train_folds(TASK, config) == 0 and trained.count("pretraining-40-256") == 1


def test_a_run_with_other_first_weights_needs_no_lessons(config, monkeypatch):
    trained = lessons_in(config, monkeypatch)
    assert train_folds(TASK, replace(config, run="plain", pretrain=0)) == 0
    assert train_folds(TASK, replace(config, start="plain")) == 0
    assert set(trained) == {config.working.name} and not first_lessons(config).working.exists()


def test_first_lessons_go_on_after_a_stop(config, monkeypatch):
    monkeypatch.setattr("cxr.steps.train.engine.passed", lambda deadline: True)
    statuses = [train_folds(TASK, config) for _ in range(4)]
    assert (
        statuses == [STOPPED] * 4
        and not config.run_dir.exists()
        and not learned_weights(config).exists()
    )
    monkeypatch.undo()
    assert train_folds(TASK, config) == 0
    stopped = load_state(learned_weights(config))["model"]
    shutil.rmtree(first_lessons(config).task_dir)
    assert train_folds(TASK, replace(config, run="whole")) == 0
    whole = load_state(learned_weights(config))["model"]
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)


def test_runs_with_the_same_network_share_the_lessons(config):
    first = first_lessons(config)
    assert (
        first_lessons(replace(config, seed=7, epochs=90, dropout=0.9, fold=1, run="other")) == first
    )
    for change in ({"channels": 8}, {"levels": "3-6"}, {"image_size": 224}):
        assert first_lessons(replace(config, **change)).run != first.run
    assert first_lessons(replace(config, image_size=512)).working.name == "pretraining-40-512"


def test_a_second_process_waits(config, capsys):
    first = first_lessons(config)
    first.working.mkdir(parents=True)
    lock, order = FileLock(first.working / ".lock"), []

    def work():
        with alone(first.working):
            order.append("second")

    with lock:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(0.5)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"] and "waiting for another process" in capsys.readouterr().out


@pytest.mark.parametrize(
    "error", [NotImplementedError("no flock here"), OSError(errno.ENOLCK, "No locks available")]
)
def test_a_drive_without_locks(tmp_path, monkeypatch, error):
    monkeypatch.setattr(FileLock, "acquire", Mock(side_effect=error))
    with alone(tmp_path / "new"):
        assert (tmp_path / "new").is_dir()


def test_a_full_disk_is_no_drive_without_locks(tmp_path, monkeypatch):
    monkeypatch.setattr(
        FileLock, "acquire", Mock(side_effect=OSError(errno.ENOSPC, "No space left on device"))
    )
    with pytest.raises(OSError, match="No space left"), alone(tmp_path):
        raise AssertionError("it was not to begin")


@pytest.mark.parametrize("count", [-1, 1, 39])
def test_too_few_to_learn_from(count):
    with pytest.raises(InputError, match=f"--pretrain must be 0 or at least 40, not {count}"):
        resolve({"pretrain": count}, {"rsna": TASKS["rsna"].presets})
