"""--search: values are tried on one fold, the best learn all folds, and a kill changes nothing."""

import json
import sys

import pandas as pd
import pytest
import torch
from tiny_data import write_tiny_data
from tiny_task import TINY_TASK, tiny_settings

from cxr.run_folder import TaskFolder
from cxr.steps.train import search
from cxr.steps.train.search_space import Choices, Range, read_space
from cxr.system.errors import STOPPED, InputError

pytest.importorskip("optuna")
SPACE = "lr: {from: 1e-3, to: 1e-1, log: true}\ndropout: [0.1, 0.3, 0.5]\n"


@pytest.fixture
def place(tmp_path):
    """Tiny data, and a file of a search."""
    torch.set_num_threads(1)
    write_tiny_data(tmp_path)
    (tmp_path / "wide.yaml").write_text(SPACE)
    return tmp_path


def settings_of(place, **changes):
    values = {"search": str(place / "wide.yaml"), "trials": 3, "fold": None, "epochs": 2}
    return tiny_settings(place, **(values | {"batch_size": 8, "keep": 1} | changes))


def folder_of(place):
    return TaskFolder(place / "tiny").search(place / "wide.yaml")


def test_the_best_values_learn_all_folds(place, capsys):
    settings = settings_of(place)
    assert search.search_settings(TINY_TASK, settings) == 0
    printed = capsys.readouterr().out
    trials = pd.read_csv(folder_of(place).trials)
    assert trials["run"][0] == "run", "the settings as they are come first"
    assert len(trials) == 3
    best = json.loads(folder_of(place).best.read_text())
    assert best["run"] == trials["run"][trials["metric"].idxmax()]
    assert best["metric"] == pytest.approx(trials["metric"].max())
    runs = TaskFolder(place / "tiny")
    for fold in (0, 1):
        assert runs.run(best["run"]).fold(fold).last.exists()
    for name in set(trials["run"]) - {best["run"]}:
        assert runs.run(name).trained_folds() == [0]
    assert "on the folds that did not choose it" in printed
    assert TINY_TASK.follow_search(settings).place.run == best["run"]

    assert search.search_settings(TINY_TASK, settings) == 0
    assert "trial" not in capsys.readouterr().out.partition("best of")[0]
    (place / "wide.yaml").write_text(SPACE.replace("0.5", "0.4"))
    with pytest.raises(InputError, match="a search of other values"):
        search.search_settings(TINY_TASK, settings)


def test_a_search_that_was_killed_ends_as_one_that_was_not(place, tmp_path_factory, monkeypatch):
    other = tmp_path_factory.mktemp("uninterrupted")
    write_tiny_data(other)
    (other / "wide.yaml").write_text(SPACE)
    search.search_settings(TINY_TASK, settings_of(other, fold=0))

    train_folds = search.train_folds
    calls = []

    def killed(task, settings, after_epoch=None):
        def die(epoch, metric):
            calls.append(epoch)
            if len(calls) in (1, 4):
                raise KeyboardInterrupt
            after_epoch(epoch, metric)

        return train_folds(task, settings, die)

    monkeypatch.setattr(search, "train_folds", killed)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            search.search_settings(TINY_TASK, settings_of(place, fold=0))
    with pytest.raises(InputError, match="the search has not ended"):
        TINY_TASK.follow_search(settings_of(place))
    assert search.search_settings(TINY_TASK, settings_of(place, fold=0)) == 0
    assert folder_of(place).trials.read_text() == folder_of(other).trials.read_text()
    assert folder_of(place).best.read_text() == folder_of(other).best.read_text()


def test_what_falls_behind_is_given_up(place, monkeypatch, capsys):
    class GivesUpAllButOne:
        def prune(self, study, trial):
            return trial.number > 0

    monkeypatch.setattr(search, "make_pruner", GivesUpAllButOne)
    assert search.search_settings(TINY_TASK, settings_of(place, fold=0)) == 0
    trials = pd.read_csv(folder_of(place).trials)
    assert trials["given_up"].tolist() == [False, True, True]
    assert trials["epochs"].tolist() == [2, 1, 1]
    assert trials["metric"].isna().tolist() == [False, True, True]
    printed = capsys.readouterr().out
    assert "trial 2: given up after epoch 1" in printed
    assert "nothing was better than the settings without a search" in printed


def test_max_hours_is_of_the_whole_search(place):
    settings = settings_of(place, fold=0, max_hours=1e-6)
    assert search.search_settings(TINY_TASK, settings) == STOPPED
    assert not folder_of(place).best.exists()


def test_what_it_needs(place, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="without torchrun"):
        search.search_settings(TINY_TASK, settings_of(place))
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match="pip install optuna"):
        search.search_settings(TINY_TASK, settings_of(place))


def test_a_space_is_read(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(
        "lr: {from: 1e-4, to: 1e-2, log: true}\nbatch-size: {from: 2, to: 8}\n"
        "augmentation: [10, 20]\n"
    )
    assert read_space(path, TINY_TASK, tiny_settings(tmp_path)) == [
        Range("lr", 1e-4, 1e-2, True, False),
        Range("batch_size", 2, 8, False, True),
        Choices("augmentation", ("10", "20")),
    ]


@pytest.mark.parametrize(
    "text, words",
    [
        (None, "does not exist"),
        ("a: [", "is not readable"),
        ("just words", "must hold settings"),
        ("learning: [1, 2]", "learning is no setting of the training"),
        ("tta: [none, flip]", "tta is no setting of the training"),
        ("epochs: [3, 4]", "epochs is also given by --epochs"),
        ("lr: {from: 1e-4}", "needs `from` and `to`"),
        ("lr: {from: 1e-4, to: 1e-3, by: 2}", "needs `from` and `to`"),
        ("lr: {from: 1e-2, to: 1e-3}", "the second must be larger"),
        ("dropout: {from: 0, to: 0.5, log: true}", "must begin above 0"),
        ("lr: {from: slow, to: fast}", "must be a number, not 'slow'"),
        ("encoder: {from: 1, to: 2}", "is no number: give a list"),
        ("lr: 1e-3", "must be a list"),
        ("lr: [1e-3]", "two values or more"),
        ("lr: [1e-3, 0.001]", "names a value twice"),
        ("optimizer: [adam, lion]", "cannot be 'lion': choose from adam"),
        ("dropout: [0.1, 1.5]", r"dropout cannot be 1.5 \(--dropout must be at least 0"),
    ],
)
def test_a_space_that_cannot_be_searched_is_a_sentence(tmp_path, text, words):
    path = tmp_path / "a.yaml"
    if text is not None:
        path.write_text(text)
    settings = TINY_TASK.make_settings({"task": "tiny", "preset": "tiny"}, given=("epochs",))
    with pytest.raises(InputError, match=f"a.yaml.*{words}"):
        read_space(path, TINY_TASK, settings)
