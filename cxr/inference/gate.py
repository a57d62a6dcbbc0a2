"""The gate of a detector's boxes by a run of its own: image classes by a classifier.

The 1st place of the RSNA Pneumonia Detection Challenge multiplied the scores of its boxes by what
an ensemble of classifiers said of the image (https://github.com/i-pan/kaggle-rsna18). That run is
of another task over the same images and folds, so its out-of-fold probabilities are as honest as
the detector's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr.data.predictions import read_predictions
from cxr.data.tables import read_table
from cxr.images.isolated import Picture
from cxr.inference.blend import COMPANIONS_FOLLOW
from cxr.inference.networks import Networks, open_networks
from cxr.inference.opacity_boxes import images_of_other_folds
from cxr.methods.classifier.records import ClassPrediction
from cxr.methods.detector.records import Candidates
from cxr.run_folder import DEFAULT_PREDICTIONS, RunFolder, TaskFolder
from cxr.settings import Settings
from cxr.system.disk import read_json
from cxr.system.errors import InputError
from cxr.system.runtime import Runtime
from cxr.tasks import TASKS, Task


@dataclass(frozen=True)
class Gate:
    """Probabilities (C,) of the image classes by a run: {image_id: ...}."""

    categories: Mapping[str, np.ndarray]

    def join(self, candidates: Candidates) -> Candidates:
        """A detector's candidates with what this run says of their image."""
        return replace(candidates, gate_category=self.categories[candidates.image_id])


def gate_run(task: Task, folder: TaskFolder, name: str) -> RunFolder:
    """The run of a name that gates the boxes of the task in `folder`. InputError without it."""
    gate_task = task.dataset.gate_task
    run = folder.sibling(gate_task).run(name)
    if not run.trained_folds():
        begun = ", ".join(run.task.run_names()) or "none"
        raise InputError(
            f"--gate {name}: {run.path} holds no trained fold: name a run of --task {gate_task} "
            f"(there are: {begun})"
        )
    return run


def out_of_fold_gate(task: Task, folder: TaskFolder, name: str, table: pd.DataFrame) -> Gate:
    """What the run says of the rows of a table of training images, each by models that never saw
    it.

    Raises InputError where its folds are others, its pictures of another size, or its predictions
    are not there.
    """
    run = gate_run(task, folder, name)
    refuse_other_folds(run, folder, name, table)
    categories: dict[str, np.ndarray] = {}
    for fold in sorted(table["fold"].unique()):
        image_ids = table["image_id"][table["fold"] == fold]
        predictions = run.fold(int(fold)).valid_predictions(DEFAULT_PREDICTIONS)
        categories |= read_categories(run, predictions, image_ids)
    return Gate(categories)


def gate_of_test(task: Task, folder: TaskFolder, name: str, fold: int | None) -> Gate:
    """What the run says of the test images, by all its folds or one."""
    run = gate_run(task, folder, name)
    test = read_table(folder.table("test"))
    predictions = run.chosen_test_predictions(DEFAULT_PREDICTIONS, fold)
    return Gate(read_categories(run, predictions, test["image_id"]))


def refuse_other_folds(run: RunFolder, folder: TaskFolder, name: str, table: pd.DataFrame) -> None:
    """InputError where an image is in another fold of the run, or stored in another size."""
    wrong = images_of_other_folds(run.task, table)
    remedy = (
        "run 02_preprocess.py of both tasks with the same --input, --size, --folds and --seed, and "
        "train the classifier again"
    )
    if wrong:
        raise InputError(
            f"--gate {name}: {len(wrong)} images, such as {wrong[0]}, are not in the same fold in "
            f"{run.task.table('train')}, so its models may have learned them: {remedy}"
        )
    sizes = [read_json(each.preprocess_record)["size"] for each in (folder, run.task)]
    if sizes[0] != sizes[1]:
        raise InputError(
            f"--gate {name}: its pictures are stored with {sizes[1]} pixels and those of "
            f"{folder.name} with {sizes[0]}: {remedy}"
        )


def read_categories(
    run: RunFolder, folder: Path, image_ids: Iterable[str]
) -> dict[str, np.ndarray]:
    """{image_id: probabilities (C,)} of one folder of predictions; InputError where one misses."""
    wanted = set(image_ids)
    categories = {}
    for prediction in read_predictions(folder, ClassPrediction):
        if prediction.image_id in wanted:
            categories[prediction.image_id] = prediction.category
    missing = sorted(wanted - categories.keys())
    if missing:
        raise InputError(
            f"{folder} has no classes of {missing[0]} ({len(missing)} images): run python "
            f"04_predict.py --task {run.task.name} --run {run.name}"
        )
    return categories


# ------------------------------------------------------------------------- any images


def named_gate(params: Any) -> str:
    """The run that the content of params.json names as its gate, "" without one.

    That the content fits the run is for `make_rule` to say.
    """
    if not isinstance(params, Mapping):
        return ""
    return params.get("gate_run", "")


def open_gated_networks(
    task: Task,
    settings: Settings,
    folds: Sequence[int],
    runtime: Runtime,
    params: Mapping[str, Any] | None,
) -> Networks:
    """Those of the run, with those of the run that gates them where step 05 has chosen one."""
    networks = open_networks(task, settings, folds, runtime)
    name = named_gate(params)
    if not name:
        return networks
    folder = RunFolder.of(settings.place).task
    return GatedNetworks(networks, open_gate_networks(task, settings, folder, name, runtime))


def open_gate_networks(
    task: Task, settings: Settings, folder: TaskFolder, name: str, runtime: Runtime
) -> Networks:
    """The networks of a run that gates, of all its folds or that of --fold, with its own views."""
    run = gate_run(task, folder, name)
    gate_task = TASKS[task.dataset.gate_task]
    stored = run.fold(run.trained_folds()[0]).read_config()
    values = settings.flat()
    follows = {each: values[each] for each in COMPANIONS_FOLLOW}
    own = gate_task.make_settings(stored).replace(
        task=gate_task.name, run=name, predictions=DEFAULT_PREDICTIONS, **follows
    )
    folds = run.trained_folds()
    if settings.place.fold is not None:
        folds = own.wanted_folds()
    return open_networks(gate_task, own, folds, runtime)


class GatedNetworks(Networks):
    """A detector's networks, whose candidates carry the image classes of a classifier's."""

    def __init__(self, detector: Networks, classifier: Networks) -> None:
        self.detector = detector
        self.classifier = classifier

    @cached_property
    def sides(self) -> list[int]:
        if self.detector.sides == self.classifier.sides:
            return self.detector.sides
        return self.detector.sides[:1]

    def predict(self, pictures: Sequence[Picture]) -> list[Any]:
        gated = []
        classes = self.classifier.predict(pictures)
        for candidates, prediction in zip(self.detector.predict(pictures), classes, strict=True):
            gated.append(replace(candidates, gate_category=prediction.category))
        return gated

    def heat_maps(self, pictures: Sequence[Picture], labels: Sequence[int]) -> list[np.ndarray]:
        """Those of the classifier."""
        return self.classifier.heat_maps(pictures, labels)

    def record(self, run: RunFolder) -> dict[str, Any]:
        return self.detector.record(run) | {"gate": self.classifier.record(run)}

    def describe(self) -> str:
        return f"{self.detector.describe()}, gated by {self.classifier.describe()}"
