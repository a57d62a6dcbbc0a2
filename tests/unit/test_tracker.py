"""Trackers beside the local log: what they are told, resumed, missing, failing."""

import csv
import sys
from types import ModuleType, SimpleNamespace

import pytest

from cxr.system.errors import InputError
from cxr.system.metric_log import EpochFigures, MetricLog
from cxr.system.tracker import VARIABLE, TrackedFold, choose_tracker, open_tracker


def figures(epoch):
    return EpochFigures(
        epoch=epoch,
        lr=0.1,
        gradient_norm=2.0,
        train={"loss": 1.0 / epoch},
        valid={"loss": 0.5},
        metrics={"metric": 0.25 * epoch},
        seconds=4.0,
        images_per_second=3.0,
    )


def tracked(folder):
    return TrackedFold(
        task="rsna",
        run="small",
        fold=1,
        settings={"lr": 0.1, "merge": []},
        record=folder / "fold1" / "tracker.json",
        store=folder,
    )


class StandInRun:
    """A run of W&B that notes what it is told."""

    def __init__(self, given):
        self.given = given
        self.logged = []
        self.exit_code = None
        self.metrics = []

    def define_metric(self, name, step_metric):
        self.metrics.append((name, step_metric))

    def log(self, row):
        self.logged.append(row)

    def finish(self, exit_code):
        self.exit_code = exit_code


@pytest.fixture
def wandb_runs(monkeypatch):
    """The runs of a stand-in for the package wandb."""
    runs = []

    def init(**given):
        runs.append(StandInRun(given))
        return runs[-1]

    module = ModuleType("wandb")
    module.init = init
    module.__spec__ = SimpleNamespace(name="wandb")
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return runs


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "fold1").mkdir()
    return tmp_path


def train(folder, name, epochs, first=1):
    """Log some epochs as the training does."""
    tracker = open_tracker(name, tracked(folder))
    with MetricLog(folder / "fold1" / "log.csv", first, tracker) as log:
        for epoch in epochs:
            log.write(figures(epoch))


def logged_epochs(folder):
    with open(folder / "fold1" / "log.csv", newline="", encoding="utf-8") as file:
        return [int(row["epoch"]) for row in csv.DictReader(file)]


def test_wandb_is_told_what_tensorboard_is(folder, wandb_runs):
    train(folder, "wandb", [1, 2])
    (run,) = wandb_runs
    assert run.given["project"] == "rsna"
    assert run.given["group"] == "small"
    assert run.given["name"] == "small fold 1"
    assert run.given["config"] == {"lr": 0.1, "merge": []}
    assert run.given["mode"] == "offline"
    assert run.metrics == [("*", "epoch")]
    assert run.logged == [figures(epoch).tags() | {"epoch": epoch} for epoch in (1, 2)]
    assert run.exit_code == 0
    assert logged_epochs(folder) == [1, 2]


def test_a_training_that_goes_on_is_the_same_run(folder, wandb_runs, monkeypatch):
    train(folder, "wandb", [1])
    monkeypatch.setenv("WANDB_MODE", "online")
    train(folder, "wandb", [2], first=2)
    first, second = wandb_runs
    assert first.given["id"] == second.given["id"]
    assert second.given["resume"] == "allow"
    assert second.given["mode"] == "online"


def test_a_tracker_that_fails_costs_a_sentence(folder, wandb_runs, capsys):
    tracker = open_tracker("wandb", tracked(folder))
    with MetricLog(folder / "fold1" / "log.csv", 1, tracker) as log:
        wandb_runs[0].log = lambda row: 1 / 0
        log.write(figures(1))
        log.write(figures(2))
    printed = capsys.readouterr().out
    assert printed.count("WARNING: the tracker fails (division by zero)") == 1
    assert logged_epochs(folder) == [1, 2]
    assert wandb_runs[0].exit_code == 1


def test_an_interrupted_training_is_marked(folder, wandb_runs):
    tracker = open_tracker("wandb", tracked(folder))
    with pytest.raises(KeyboardInterrupt), MetricLog(folder / "log.csv", 1, tracker):
        raise KeyboardInterrupt
    assert wandb_runs[0].exit_code == 1


def test_a_tracker_that_cannot_start(folder, wandb_runs, monkeypatch):
    monkeypatch.setattr(sys.modules["wandb"], "init", lambda **_: 1 / 0)
    with pytest.raises(InputError, match=r"--tracker wandb cannot start \(division by zero\)"):
        open_tracker("wandb", tracked(folder))


def test_which_tracker(monkeypatch, wandb_runs):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert choose_tracker("auto") == "none"
    assert choose_tracker("wandb") == "wandb"
    monkeypatch.setenv(VARIABLE, "wandb")
    assert choose_tracker("auto") == "wandb"
    assert choose_tracker("none") == "none"
    monkeypatch.setenv(VARIABLE, "paper")
    with pytest.raises(InputError, match="CXR_TRACKER=paper is unknown: choose none, wandb or"):
        choose_tracker("auto")


def test_a_tracker_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"--tracker mlflow needs a package .* mlflow-skinny"):
        choose_tracker("mlflow")


def test_no_tracker(folder):
    train(folder, "none", [1])
    assert logged_epochs(folder) == [1]
    assert not (folder / "fold1" / "tracker.json").exists()


def test_mlflow_itself(folder, monkeypatch):
    """In its local mode, where the package is installed."""
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    train(folder, "mlflow", [1, 2])
    train(folder, "mlflow", [2, 3], first=2)
    client = mlflow.MlflowClient((folder / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("rsna")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "small fold 1"
    assert run.info.status == "FINISHED"
    assert run.data.params["lr"] == "0.1"
    history = client.get_metric_history(run.info.run_id, "metrics/metric")
    assert [(point.step, point.value) for point in history] == [
        (1, 0.25),
        (2, 0.5),
        (2, 0.5),
        (3, 0.75),
    ]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_the_real_package_goes_on_in_its_local_mode(name, tmp_path, monkeypatch):
    """Without a network; where the package is installed, which the tests do not ask for."""
    pytest.importorskip(name, reason=f"{name} is not installed")
    for variable in ("WANDB_MODE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(variable, raising=False)
    fold = tracked(tmp_path)
    fold.record.parent.mkdir()
    names = []
    for epoch in (1, 2):
        tracker = open_tracker(name, fold)
        tracker.write({"metric": 0.25 * epoch}, epoch)
        tracker.close(interrupted=epoch == 1)
        assert not tracker.failed
        names.append(fold.record.read_text())
    assert names[0] == names[1]
    if name == "mlflow":
        [metric] = tmp_path.glob("mlruns/*/*/metrics/metric")
        assert [line.split()[1:] for line in metric.read_text().splitlines()] == [
            ["0.25", "1"],
            ["0.5", "2"],
        ]
    else:
        assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
