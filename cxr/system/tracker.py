"""W&B or MLflow beside the local log: one small interface, and nothing leaves the machine unasked.

log.csv and config.json of a fold stay the truth; a tracker is told the same figures.
"""

from __future__ import annotations

import importlib.util
import os
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr.system.disk import read_json, write_json
from cxr.system.errors import InputError, first_line

VARIABLE = "CXR_TRACKER"
NONE = "none"
PACKAGES = {"wandb": "wandb", "mlflow": "mlflow-skinny"}  # {name, also of the module: of pip's}
MOST_IN_BATCH = 100  # parameters in a request to MLflow


@dataclass(frozen=True)
class TrackedFold:
    """What a tracker is told about the training of one fold.

    record: a file that keeps the tracker's own name for it, so that a training that goes on is
    the same there. store: the folder in which local results of a tracker are collected.
    """

    task: str
    run: str
    fold: int
    settings: Mapping[str, Any]
    record: Path
    store: Path

    @property
    def title(self) -> str:
        return f"{self.run} fold {self.fold}"


def choose_tracker(setting: str) -> str:
    """none, wandb or mlflow, of the setting or, where that is auto, of the variable CXR_TRACKER.

    Raises InputError for another word, and where the package is missing.
    """
    name, source = setting, f"--tracker {setting}"
    if setting == "auto":
        name = os.environ.get(VARIABLE) or NONE
        source = f"{VARIABLE}={name}"
    if name == NONE:
        return name
    if name not in PACKAGES:
        raise InputError(f"{source} is unknown: choose {NONE}, {' or '.join(PACKAGES)}")
    if importlib.util.find_spec(name) is None:
        raise InputError(
            f"{source} needs a package that is not installed: pip install {PACKAGES[name]}, or "
            f"choose {NONE}"
        )
    return name


def open_tracker(name: str, fold: TrackedFold) -> Tracker | None:
    """The tracker of one fold's training; None for none. InputError where it cannot start."""
    if name == NONE:
        return None
    try:
        return TRACKERS[name](fold)
    except Exception as error:  # of a package that is not ours, and its server
        raise InputError(
            f"--tracker {name} cannot start ({first_line(error)}): choose {NONE}, or delete "
            f"{fold.record} if it no longer knows this training"
        ) from error


class Tracker(ABC):
    """The training of one fold, as another program shows it.

    Whatever goes wrong there costs a sentence and not the training.
    """

    failed = False

    def write(self, figures: Mapping[str, float], epoch: int) -> None:
        """Add {name: value} of an epoch, counted from 1, which may have been there before."""
        if self.failed:
            return
        try:
            self.send(figures, epoch)
        except Exception as error:  # of a package that is not ours, and its server
            self.failed = True
            reason = first_line(error)
            print(f"WARNING: the tracker fails ({reason}) and is told no more; log.csv goes on")

    def close(self, interrupted: bool) -> None:
        """The training ends, perhaps to go on later; `interrupted`: by an error."""
        try:
            self.end(interrupted or self.failed)
        except Exception as error:  # as above
            print(f"WARNING: the tracker could not be closed ({first_line(error)})")

    @abstractmethod
    def send(self, figures: Mapping[str, float], epoch: int) -> None:
        """What `write` does; may raise anything."""

    @abstractmethod
    def end(self, failed: bool) -> None:
        """What `close` does; may raise anything."""


class WandbTracker(Tracker):
    """W&B, offline unless WANDB_MODE says otherwise: `wandb sync` sends it later."""

    def __init__(self, fold: TrackedFold) -> None:
        # Imported here: it is not among the requirements.
        import wandb

        name = read_name(fold.record, "wandb") or uuid.uuid4().hex
        self.run = wandb.init(
            project=fold.task,
            group=fold.run,
            name=fold.title,
            id=name,
            resume="allow",
            dir=str(fold.store),
            config=dict(fold.settings),
            mode=os.environ.get("WANDB_MODE", "offline"),
        )
        self.run.define_metric("*", step_metric="epoch")
        write_json(fold.record, {"wandb": name})

    def send(self, figures: Mapping[str, float], epoch: int) -> None:
        # Not as a step: steps of W&B never go back, and an interrupted epoch is trained again.
        self.run.log({**figures, "epoch": epoch})

    def end(self, failed: bool) -> None:
        self.run.finish(exit_code=int(failed))


class MlflowTracker(Tracker):
    """MLflow, in the folder mlruns of the store unless MLFLOW_TRACKING_URI says otherwise."""

    def __init__(self, fold: TrackedFold) -> None:
        # MLflow's own store of files wants to be asked for; imported here as it may be missing.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow import MlflowClient

        local = (fold.store / "mlruns").absolute().as_uri()
        self.client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or local)
        name = read_name(fold.record, "mlflow")
        if name is None:
            name = self._create(fold)
            write_json(fold.record, {"mlflow": name})
        self.name = name
        self.client.update_run(name, status="RUNNING")

    def _create(self, fold: TrackedFold) -> str:
        """MLflow's name of a new run, which has the settings."""
        from mlflow.entities import Param  # as above

        experiment = self.client.get_experiment_by_name(fold.task)
        if experiment is None:
            number = self.client.create_experiment(fold.task)
        else:
            number = experiment.experiment_id
        tags = {"run": fold.run, "fold": str(fold.fold)}
        run = self.client.create_run(number, tags=tags, run_name=fold.title)
        name: str = run.info.run_id
        parameters = [Param(key, str(value)) for key, value in fold.settings.items()]
        for start in range(0, len(parameters), MOST_IN_BATCH):
            self.client.log_batch(name, params=parameters[start : start + MOST_IN_BATCH])
        return name

    def send(self, figures: Mapping[str, float], epoch: int) -> None:
        from mlflow.entities import Metric  # as above

        now = int(time.time() * 1000)
        metrics = [Metric(key, value, now, epoch) for key, value in figures.items()]
        self.client.log_batch(self.name, metrics=metrics)

    def end(self, failed: bool) -> None:
        self.client.set_terminated(self.name, "FAILED" if failed else "FINISHED")


TRACKERS: dict[str, type[WandbTracker] | type[MlflowTracker]] = {
    "wandb": WandbTracker,
    "mlflow": MlflowTracker,
}


def read_name(record: Path, tracker: str) -> str | None:
    """A tracker's own name for a fold's training; None where it has not seen it before."""
    if not record.exists():
        return None
    name: str | None = read_json(record).get(tracker)
    return name
