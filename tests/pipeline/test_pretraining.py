"""Synthetic X-rays first: learned once, the beginning of every fold, resumed like any training."""

import shutil

import pytest
import torch
from tiny_data import write_tiny_data
from tiny_task import TINY_TASK, tiny_settings

from cxr.inference.checkpoint import load_state
from cxr.run_folder import RunFolder
from cxr.steps.train import engine
from cxr.steps.train.engine import train_folds
from cxr.steps.train.pretraining import learned_weights, lesson_settings
from cxr.system.errors import STOPPED, InputError
from cxr.system.runtime import Runtime
from cxr.tasks import TASKS


@pytest.fixture
def settings(tmp_path):
    """Of a run of two folds that hardly moves its first weights."""
    write_tiny_data(tmp_path)
    changes = {"pretrain": 40, "batch_size": 8, "epochs": 1, "lr": 1e-12, "fold": None}
    return tiny_settings(tmp_path, augmentation="1", **changes)


def head_weights(path):
    return load_state(path)["model"]["head.weight"]


@pytest.fixture
def trained(monkeypatch):
    """Names of the folders below which folds are trained, in order.

    What is synthetic is learned at a higher rate than the rest, which so keeps its first weights.
    """
    names = []
    train_fold = engine.train_fold

    def spy(task, settings, *others):
        name = settings.place.working.name
        names.append(name)
        if name.startswith("pretraining"):
            settings = settings.replace(lr=1e-2)
        return train_fold(task, settings, *others)

    monkeypatch.setattr(engine, "train_fold", spy)
    return names


def test_every_fold_begins_with_what_was_learned_once(settings, trained):
    assert train_folds(TINY_TASK, settings) == 0
    working = settings.place.working.name
    assert trained == ["pretraining-40-256", working, working]
    learned = head_weights(learned_weights(TINY_TASK, settings))
    for fold in (0, 1):
        path = RunFolder.of(settings.place).fold(fold).epoch(1)
        assert torch.allclose(head_weights(path), learned, atol=1e-8)

    torch.manual_seed(42 * 1000)  # what fold 0 would have begun with
    labels = TINY_TASK.used_labels(settings)
    untaught = TINY_TASK.method.build_model(settings, labels).head.weight
    assert not torch.allclose(untaught, learned, atol=1e-3)

    assert train_folds(TINY_TASK, settings.replace(run="again")) == 0
    assert train_folds(TINY_TASK, settings) == 0
    assert trained.count("pretraining-40-256") == 1


def test_a_run_with_other_first_weights_needs_no_lessons(settings, trained):
    assert train_folds(TINY_TASK, settings.replace(run="plain", pretrain=0)) == 0
    assert train_folds(TINY_TASK, settings.replace(start="plain")) == 0
    assert set(trained) == {settings.place.working.name}
    assert not lesson_settings(TINY_TASK, settings).place.working.exists()


def test_first_lessons_go_on_after_a_stop(settings, monkeypatch):
    weights = learned_weights(TINY_TASK, settings)
    with monkeypatch.context() as patch:
        patch.setattr(Runtime, "is_past_deadline", lambda runtime: True)
        statuses = [train_folds(TINY_TASK, settings) for _ in range(4)]
    assert statuses == [STOPPED] * 4
    assert not RunFolder.of(settings.place).path.exists()
    assert not weights.exists()
    assert train_folds(TINY_TASK, settings) == 0
    stopped = load_state(weights)["model"]

    shutil.rmtree(RunFolder.of(lesson_settings(TINY_TASK, settings).place).task.path)
    assert train_folds(TINY_TASK, settings.replace(run="whole")) == 0
    whole = load_state(weights)["model"]
    for name, value in whole.items():
        assert torch.equal(value, stopped[name]), name


def test_runs_with_the_same_network_share_the_lessons(settings):
    lessons = lesson_settings(TINY_TASK, settings)
    same = settings.replace(seed=7, epochs=90, dropout=0.9, fold=1, run="other")
    assert lesson_settings(TINY_TASK, same) == lessons
    for change in ({"channels": 8}, {"levels": "3-6"}, {"image_size": 224}):
        other = lesson_settings(TINY_TASK, settings.replace(**change))
        assert other.place.run != lessons.place.run
    large = lesson_settings(TINY_TASK, settings.replace(image_size=512))
    assert large.place.working.name == "pretraining-40-512"


@pytest.mark.parametrize("count", [-1, 1, 39])
def test_too_few_to_learn_from(count):
    with pytest.raises(InputError, match=f"--pretrain must be 0 or at least 40, not {count}"):
        TASKS["rsna"].settings_of({"pretrain": count})
