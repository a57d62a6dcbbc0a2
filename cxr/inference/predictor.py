"""A run as a function of pictures: its models, views and post-processing, loaded once."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch

from cxr.images.isolated import Picture
from cxr.images.resize import resize
from cxr.inference.checkpoint import fingerprints
from cxr.inference.lung_crops import LungFinder, cut_to_box, refuse_other_lungs
from cxr.inference.result_makers import RESULT_MAKERS
from cxr.inference.results import Result
from cxr.inference.run import as_trained, fold_checkpoints, load_model, predict_batch, views_of
from cxr.methods.base import ImageFacts, Labels
from cxr.methods.evaluation import Rule
from cxr.networks.network import Network
from cxr.run_folder import JudgedFolder, RunFolder
from cxr.settings import Settings
from cxr.system.disk import read_json
from cxr.system.errors import InputError
from cxr.system.runtime import Runtime, single_runtime
from cxr.tasks import Task


class NetworkImage(NamedTuple):
    """What the networks see of a picture: (S, S) uint8, and the crop of the original that it is."""

    image: np.ndarray
    crop: tuple[int, int, int, int] | None


class Predictor:
    """The kept checkpoints of all trained folds of a run (or of --fold), merged, with the
    parameters of step 05.

    Raises InputError for a run that is not there or not finished, or belongs to another task.
    `notes`: sentences about what the user should know of the results.
    """

    def __init__(self, task: Task, settings: Settings, runtime: Runtime | None = None) -> None:
        self.task = task
        self.run = RunFolder.of(settings.place)
        self.views = views_of(task.method, settings.prediction)
        folds = choose_folds(settings)
        self.checkpoints = []
        for fold in folds:
            self.checkpoints += fold_checkpoints(task, settings, fold)
        self.settings = as_trained(settings, task, self.run.fold(folds[0]))
        self.runtime = runtime or single_runtime(settings.machine)

        self.labels = learned_labels(task, self.settings)
        self.notes: list[str] = []
        self.params = None
        maker_class = RESULT_MAKERS[task.method.name]
        judged = self.run.judged(settings.prediction.predictions)
        if judged.params.exists():
            self.params = read_json(judged.params)
        elif maker_class.has_thresholds:
            self.notes.append(without_params(judged))
        self.rule = make_rule(task, self.params, self.settings, self.labels)
        self.result_maker = maker_class(self.rule, self.labels)
        self.turn = threading.Lock()

    @cached_property
    def models(self) -> list[Network]:
        """The networks, loaded when they are first needed."""
        return [load_model(self.task, path, self.runtime.device) for path in self.checkpoints]

    @cached_property
    def lung_finder(self) -> LungFinder | None:
        """What cuts the images to their lungs, where the run was trained with --lungs."""
        lungs = self.settings.method.lungs
        if not lungs:
            return None
        refuse_other_lungs(self.run.task, lungs)
        working = self.run.task.path.parent
        return LungFinder.of_run(working, lungs, self.runtime.device)

    @cached_property
    def first_config(self) -> dict[str, Any]:
        """The settings of the training that gave the first checkpoint."""
        return read_json(self.checkpoints[0].with_name("config.json"))

    @cached_property
    def sides(self) -> list[int]:
        """Sides of the squares that a picture becomes on its way to `predict`.

        The first is that of step 02's PNGs. The second, of the network's input, is missing where
        the lungs are cut out in between.
        """
        record = self.run.task.preprocess_record
        prepared = read_json(record) if record.exists() else self.first_config  # of a moved run
        stored_side = int(prepared["size"])
        if self.lung_finder is not None:
            return [stored_side]
        return [stored_side, self.models[0].image_size]

    @property
    def image_classes(self) -> tuple[str, ...]:
        """Names of the classes of a whole image; none where the run has not learned them."""
        return self.result_maker.image_classes

    def load(self) -> None:
        """Load the networks now and not with the first picture."""
        _ = self.sides

    def record(self) -> dict[str, Any]:
        """What decides the predictions, as JSON's own types."""
        return {
            "task": self.task.name,
            "checkpoints": fingerprints(self.checkpoints, self.run.path),
            "tta": self.settings.prediction.tta,
            "params": self.params,
        }

    def describe(self) -> str:
        """Words for the console."""
        return (
            f"run {self.run.path}: {len(self.checkpoints)} checkpoints, "
            f"views {self.settings.prediction.tta}, {self.runtime.describe()}"
        )

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
            return self.predict_pictures(pictures)

    def predict_pictures(self, pictures: Sequence[Picture]) -> list[Result]:
        method = self.task.method
        seen = [self.to_network(picture) for picture in pictures]
        images = torch.from_numpy(np.stack([each.image for each in seen]))[:, None]
        merged = predict_batch(
            self.models,
            method,
            self.views,
            images.to(self.runtime.device),
            self.settings,
            self.runtime,
        )

        results = []
        for picture, outputs, each in zip(pictures, merged, seen, strict=True):
            facts = ImageFacts("", picture.width, picture.height, each.crop)
            prediction = method.to_prediction(outputs, facts, self.models[0], self.settings)
            results.append(self.result_maker.make(prediction, picture))
        return results

    def to_network(self, picture: Picture) -> NetworkImage:
        """The picture as the networks see it, cut to its lungs where they were trained so."""
        if self.lung_finder is None:
            return NetworkImage(picture.network, None)
        box = self.lung_finder.find_box(picture.network, picture.width, picture.height)
        cut = cut_to_box(picture.network, box, picture.width, picture.height)
        return NetworkImage(resize(cut, self.models[0].image_size), box)


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
