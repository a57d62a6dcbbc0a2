"""Step 04: out-of-fold predictions of every fold, then of the test images by all folds.

With --fold, the test images are predicted by that fold's models and kept beside them. Of images
that are to be labelled next, what each fold alone says is kept, too.
"""

from __future__ import annotations

from pathlib import Path

from cxr.data.tables import read_table
from cxr.inference.predict_table import cut_as_trained, predict_table, read_images
from cxr.inference.run import fold_checkpoints, views_of
from cxr.run_folder import RunFolder
from cxr.settings import Settings
from cxr.system.runtime import open_runtime
from cxr.tasks import Task


def predict_run(task: Task, settings: Settings) -> None:
    """Predict each wanted fold by that fold's models, then the test images by all of these.

    Models x views are merged before anything is kept; parts that are there are passed over.
    """
    views_of(task.method, settings.prediction)
    run = RunFolder.of(settings.place)
    name = settings.prediction.predictions
    train = read_images(run.task.table("train"))
    test = read_images(run.task.table("test"))
    to_label = unlabelled_ids(task, run.task.table("test"))
    folds = settings.wanted_folds()
    checkpoints = {fold: fold_checkpoints(task, settings, fold) for fold in folds}

    with open_runtime(settings.machine) as runtime:
        runtime.say(f"run {run.path}: {runtime.describe()}")
        train = cut_as_trained(train, settings, folds[0], runtime)
        test = cut_as_trained(test, settings, folds[0], runtime)
        for fold, paths in checkpoints.items():
            valid = train[train["fold"] == fold]
            folder = run.fold(fold).valid_predictions(name)
            predict_table(task, settings, paths, valid, folder, runtime)
        every = [path for paths in checkpoints.values() for path in paths]
        folder = run.chosen_test_predictions(name, settings.place.fold)
        predict_table(task, settings, every, test, folder, runtime)
        unlabelled = test[test["image_id"].isin(to_label)]
        if unlabelled.empty or len(checkpoints) < 2:
            return
        for fold, paths in checkpoints.items():
            folder = run.fold(fold).unlabelled_predictions(name)
            predict_table(task, settings, paths, unlabelled, folder, runtime)


def unlabelled_ids(task: Task, path: Path) -> list[str]:
    """Ids of the images of test.csv that somebody may label next."""
    return task.dataset.unlabelled_rows(read_table(path))["image_id"].tolist()
