"""A run as a function of pictures: its networks, views and post-processing, loaded once."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from cxr.images.isolated import Picture
from cxr.inference.blend import Blend
from cxr.inference.gate import open_gated_networks
from cxr.inference.result_makers import RESULT_MAKERS
from cxr.inference.results import ClassResult, Result
from cxr.inference.run import as_trained
from cxr.methods.base import Labels
from cxr.methods.evaluation import Rule
from cxr.run_folder import JudgedFolder, RunFolder
from cxr.settings import Settings
from cxr.system.disk import read_json
from cxr.system.errors import InputError
from cxr.system.runtime import Runtime, single_runtime
from cxr.tasks import Task


class Predictor:
    """The networks of a run, or of the runs of a blend, with the parameters of step 05.

    Raises InputError for a run that is not there or not finished, or belongs to another task.
    `notes`: sentences about what the user should know of the results.
    """

    def __init__(self, task: Task, settings: Settings, runtime: Runtime | None = None) -> None:
        self.task = task
        self.run = RunFolder.of(settings.place)
        folds = choose_folds(settings)
        self.runtime = runtime or single_runtime(settings.machine)
        self.settings = as_trained(settings, task, self.run.fold(folds[0]))

        self.labels = learned_labels(task, self.settings)
        self.notes: list[str] = []
        blend = Blend.read(self.run)
        if blend is not None and blend.files:
            self.notes.append(
                f"{', '.join(blend.files)} say nothing of other images: the other runs of the "
                "blend answer alone, with thresholds that were fitted to all together"
            )
        self.params = None
        maker_class = RESULT_MAKERS[task.method.name]
        judged = self.run.judged(settings.prediction.predictions)
        if judged.params.exists():
            self.params = read_json(judged.params)
        elif maker_class.has_thresholds:
            self.notes.append(without_params(judged))
        self.networks = open_gated_networks(task, settings, folds, self.runtime, self.params)
        self.rule = make_rule(task, self.params, self.settings, self.labels)
        self.result_maker = maker_class(self.rule, self.labels, task.dataset.scorer.of_studies)
        self.turn = threading.Lock()

    @property
    def sides(self) -> list[int]:
        """Sides of the squares that a picture becomes on its way to `predict`."""
        return self.networks.sides

    @property
    def image_classes(self) -> tuple[str, ...]:
        """Names of the classes of a whole image; none where the run has not learned them."""
        return self.result_maker.image_classes

    @property
    def of_studies(self) -> bool:
        """Whether the classes are of studies, whose images are averaged (`merge_studies`)."""
        return self.result_maker.of_studies

    def load(self) -> None:
        """Load the networks now and not with the first picture."""
        _ = self.sides

    def record(self) -> dict[str, Any]:
        """What decides the predictions, as JSON's own types."""
        return {"task": self.task.name, **self.networks.record(self.run), "params": self.params}

    def describe(self) -> str:
        """Words for the console."""
        return f"run {self.run.path}: {self.networks.describe()}, {self.runtime.describe()}"

    def introduce(self) -> None:
        """Say what predicts, and what one should know of it."""
        print(self.describe())
        for note in self.notes:
            print(note)

    def predict(self, pictures: Sequence[Picture]) -> list[Result]:
        """The result of each picture, which was read with the sides of this predictor.

        Threads take turns: two at once would only wait for the same processor.
        """
        if not pictures:
            return []
        with self.turn:
            predictions = self.networks.predict(pictures)
        results = []
        for picture, prediction in zip(pictures, predictions, strict=True):
            results.append(self.result_maker.make(prediction, picture))
        return results

    def heat_maps(self, pictures: Sequence[Picture], results: Sequence[Result]) -> list[np.ndarray]:
        """Where a classifier looked for the most probable class of each of its results.

        Maps (s, s) in 0 ... 1 of the whole pictures, squeezed to squares (Grad-CAM, the mean over
        the networks).
        """
        if not pictures:
            return []
        labels = []
        for result in results:
            assert isinstance(result, ClassResult)
            labels.append(self.image_classes.index(result.best_class))
        with self.turn:
            return self.networks.heat_maps(pictures, labels)


def learned_labels(task: Task, settings: Settings) -> Labels:
    """The classes that the run knows: those of the image only if it has learned them."""
    labels = task.used_labels(settings)
    if task.method.learns_image_classes(settings):
        return labels
    return Labels(labels.classes, ())


def choose_folds(settings: Settings) -> list[int]:
    """The folds of the run that have begun training, or the one that is asked for."""
    if settings.place.fold is not None:
        return settings.wanted_folds()
    run = RunFolder.of(settings.place)
    folds = run.trained_folds()
    if not folds and settings.prediction.blend:
        raise InputError(
            f"{run.path} is no blend yet: run 04_predict.py with the same --blend and without "
            "--images first"
        )
    if not folds:
        runs = run.task.run_names()
        there = f"there are none in {run.task.path}"
        if runs:
            there = f"there are: {', '.join(runs)}"
        raise InputError(
            f"{run.path} holds no trained fold: name a trained run by --run ({there}), or train "
            "one with 03_train.py"
        )
    return folds


def without_params(judged: JudgedFolder) -> str:
    """A note on the plainest parameters, which serve where step 05 was not run."""
    return (
        f"{judged.params} is missing, since step 05 was not run: thresholds are plain defaults "
        "that were fitted to nothing, so judge by the scores rather than by what is above a "
        "threshold"
    )


def make_rule(
    task: Task, params: dict[str, Any] | None, settings: Settings, labels: Labels
) -> Rule:
    """The rule of params.json, or the plainest one. InputError for params of something else."""
    try:
        return task.dataset.scorer.make_rule(params, settings, labels)
    except (TypeError, LookupError, ValueError) as error:
        name = settings.prediction.predictions
        path = RunFolder.of(settings.place).judged(name).params
        raise InputError(
            f"{path} does not fit this run ({error}): run 05_postprocess.py again"
        ) from None
