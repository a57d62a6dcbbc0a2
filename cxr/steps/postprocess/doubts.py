"""How doubtful the answers to images without labels are, so that those are labelled next."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from cxr.data.predictions import is_whole, read_predictions
from cxr.data.tables import read_table
from cxr.metrics.doubt import Doubt
from cxr.run_folder import RunFolder
from cxr.settings import Settings
from cxr.system.errors import InputError
from cxr.tasks import Task


def measure_doubts(
    task: Task, settings: Settings, run: RunFolder, detect: Callable[[Any], Any]
) -> dict[str, Doubt]:
    """{image_id: its doubt} of the test images that the data set calls unlabelled.

    detect: as `Evaluation.detect`. All test predictions must be there. Raises InputError where
    those of a fold are of other images.
    """
    test = task.dataset.unlabelled_rows(read_table(run.task.table("test")))
    wanted = set(test["image_id"])
    if not wanted:
        return {}
    by_fold = fold_streams(task, settings, run, len(wanted))
    folder = run.chosen_test_predictions(settings.prediction.predictions, settings.place.fold)
    doubts = {}
    for merged in read_predictions(folder, task.method.prediction_class):
        if merged.image_id not in wanted:
            continue
        answers = [next(stream, None) for stream in by_fold]
        if any(each is None or each.image_id != merged.image_id for each in answers):
            raise InputError(
                f"{run.path} has predictions of single folds that are of other images than those "
                "without labels in test.csv: delete the folders fold*/unlabelled_* and run "
                "04_predict.py again"
            )
        doubts[merged.image_id] = task.method.doubt(merged, answers, detect)
    return doubts


def fold_streams(
    task: Task, settings: Settings, run: RunFolder, images: int
) -> list[Iterator[Any]]:
    """What each fold alone says of the images without labels; [] unless all folds have said it."""
    if settings.place.fold is not None:
        return []
    name = settings.prediction.predictions
    folders = [run.fold(fold).unlabelled_predictions(name) for fold in run.trained_folds()]
    if not all(is_whole(folder, images) for folder in folders):
        return []
    return [read_predictions(folder, task.method.prediction_class) for folder in folders]
