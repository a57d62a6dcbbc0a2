"""Blends: runs of one task whose predictions are mixed, and what is kept of such a mixture.

A blend is a run whose folds were mixed and not trained, so all that reads a run reads a blend.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cxr.images.header import to_number
from cxr.run_folder import RunFolder, TaskFolder
from cxr.settings import Settings
from cxr.system.disk import read_json, write_json
from cxr.system.errors import InputError
from cxr.tasks import Task

Weights = dict[str, float]  # {run: its share}, all of which add up to 1
# What a run that answers beside another takes from that one.
COMPANIONS_FOLLOW = ("working", "fold", "workers", "device", "precision", "engine")
# What a run that is mixed in takes from the blend.
MEMBERS_FOLLOW = (*COMPANIONS_FOLLOW, "predictions", "checkpoints", "partial")


@dataclass(frozen=True)
class Blend:
    """Runs and their weights.

    weights: for new images. by_fold: {fold: weights that were fitted without its images}; empty
    where nothing was fitted. files: those of the names that are files of answers.
    """

    weights: Weights
    by_fold: Mapping[int, Weights] = field(default_factory=dict)
    files: Sequence[str] = ()

    @classmethod
    def read(cls, run: RunFolder) -> Blend | None:
        """The blend that a run is, or None."""
        if not run.blend.exists():
            return None
        content = read_json(run.blend)
        by_fold = {int(fold): weights for fold, weights in content["by_fold"].items()}
        return cls(content["weights"], by_fold, content["files"])

    def write(self, run: RunFolder) -> None:
        content = {
            "weights": self.weights,
            "by_fold": dict(self.by_fold),
            "files": list(self.files),
        }
        write_json(run.blend, content)

    def of_runs(self) -> Weights:
        """The weights of the runs alone, which predict any image; those of 0 are left out."""
        runs = {}
        for name, weight in self.weights.items():
            if weight > 0 and name not in self.files:
                runs[name] = weight
        total = sum(runs.values())
        return {name: weight / total for name, weight in runs.items()}

    def of_fold(self, fold: int) -> Weights:
        """The weights that its out-of-fold predictions are mixed with."""
        return self.by_fold.get(fold, self.weights)

    def describe(self) -> str:
        """A sentence for console and report."""
        shares = [f"{name} ({weight:.3g})" for name, weight in self.weights.items()]
        sentence = f"A blend of the predictions of {', '.join(shares)}."
        if self.by_fold:
            sentence += (
                " The weights were fitted on all folds, for new images; each fold was mixed with "
                "weights that were fitted on the others."
            )
        return sentence


def parse_members(words: Sequence[str], is_there: Callable[[str], bool]) -> dict[str, float | None]:
    """{name: weight, or None} of words NAME or NAME=WEIGHT.

    is_there: whether a name is known, since names hold equal signs, too. Raises InputError for a
    weight that is none, and where one is named twice.
    """
    members: dict[str, float | None] = {}
    for word in words:
        name = word
        weight = None
        if not is_there(word) and "=" in word:
            name, _, text = word.rpartition("=")
            weight = to_number(text)
            if weight is None or not 0 < weight < np.inf:
                raise InputError(
                    f"--blend {word}: the weight behind the equal sign must be a number above 0"
                )
        if name in members:
            raise InputError(f"--blend names {name} twice: leave it out once")
        members[name] = weight
    return members


def given_weights(members: Mapping[str, float | None]) -> Weights:
    """The weights, which then add up to 1; equal ones where none is given.

    Raises InputError where only some are given.
    """
    known = [weight for weight in members.values() if weight is not None]
    if not known:
        return dict.fromkeys(members, 1 / len(members))
    if len(known) < len(members):
        missing = [name for name, weight in members.items() if weight is None]
        raise InputError(
            f"--blend has no weight of {', '.join(missing)}: give all of them weights, or none"
        )
    total = sum(known)
    return {name: weight / total for name, weight in zip(members, known, strict=True)}


def member_settings(task: Task, settings: Settings, name: str) -> Settings:
    """The settings of a run that is mixed in: its own, on this machine.

    settings: of the blend, whose --tta counts only where it was given. Raises InputError for a run
    that is not trained, or of another task.
    """
    run = RunFolder.of(settings.place).task.run(name)
    folds = run.trained_folds()
    if not folds:
        begun = ", ".join(run.task.run_names()) or "none"
        raise InputError(
            f"--blend names {name}, and {run.path} holds no trained fold: name trained runs (there "
            f"are: {begun})"
        )
    record = run.fold(folds[0]).read_config()
    if record["task"] != task.name:
        raise InputError(f"--blend names {name}, which is a run of task {record['task']}")
    values = settings.flat()
    follows = {name: values[name] for name in MEMBERS_FOLLOW}
    if "tta" in settings.given:
        follows["tta"] = values["tta"]
    return task.make_settings(record).replace(run=name, **follows)


def blend_settings(task: Task, settings: Settings, first: str) -> Settings:
    """The settings of a blend: those of its first run, and what was given beside."""
    own = member_settings(task, settings, first)
    values = settings.flat()
    training = own.training_values()
    given = {name: values[name] for name in settings.given if name not in training}
    return own.replace(**{**given, "run": settings.place.run, "fold": settings.place.fold})


def check_members(task: Task, settings: Settings, names: Sequence[str]) -> None:
    """Raises InputError for runs that cannot be mixed."""
    first = names[0]
    first_settings = member_settings(task, settings, first)
    for name in names:
        if name == settings.place.run:
            raise InputError(f"--blend names {name}, which is the blend itself: give another --run")
        other = member_settings(task, settings, name)
        if task.used_labels(other) != task.used_labels(first_settings):
            raise InputError(f"--blend is impossible: {first} and {name} have other classes")
        learns = task.method.learns_image_classes(other)
        if learns != task.method.learns_image_classes(first_settings):
            raise InputError(
                f"--blend is impossible: of {first} and {name}, only one has learned the class of "
                "the whole image; blend runs that agree in this"
            )


def is_run(folder: TaskFolder) -> Callable[[str], bool]:
    """Whether a name is that of a run in a task's folder."""
    return lambda name: bool(folder.run(name).trained_folds())


def asked_members(settings: Settings) -> dict[str, float | None]:
    """{name: weight, or None} of --blend."""
    folder = RunFolder.of(settings.place).task
    return parse_members(settings.prediction.blend, is_run(folder))


def asked_files(settings: Settings) -> dict[str, float | None]:
    """{path: weight, or None} of --blend-csv. Raises InputError where one is not there."""
    files = parse_members(settings.prediction.blend_csv, lambda name: Path(name).is_file())
    for name in files:
        if not Path(name).is_file():
            raise InputError(f"--blend-csv {name} does not exist")
    return files
