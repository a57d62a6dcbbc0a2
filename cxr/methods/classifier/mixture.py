"""Class probabilities of several runs, mixed with weights that were fitted on out-of-fold predictions."""

from dataclasses import dataclass

import numpy as np

from cxr.inference.predictions import read_predictions
from cxr.methods.classifier.records import ClassPrediction
from cxr.methods.ensemble import greedy_weights, mix_out_of_fold
from cxr.system.disk import InputError


@dataclass(frozen=True)
class Mixture:
    """Weights (M,) of the runs, this one first; `score(probabilities)`-best on all out-of-fold images.

    `out_of_fold` (n, C): each image by weights that were fitted on the other units. `test`: {image_id: probabilities
    (M - 1, C)} of the other runs.
    """

    weights: np.ndarray
    out_of_fold: np.ndarray
    test: dict

    def of_test(self, found):
        """Probabilities (C,) of a test image. InputError where another run has none of it."""
        if len(self.weights) == 1:
            return found.category
        if found.image_id not in self.test:
            raise InputError(
                f"a run of --stack has no test prediction of {found.image_id}: run 04_predict.py for it"
            )
        return self.weights @ np.concatenate([found.category[None], self.test[found.image_id]])


def mix_runs(config, ids, own, units, score):
    """Mixture of this run's probabilities `own` (n, C) of the images `ids` and those of the runs --stack.

    `units` (n,): what is held out together; `score(probabilities, rows (n,) bool)` judges some of the images.
    """
    if not config.stack:
        return Mixture(np.ones(1), own, {})
    folders = [f"fold{fold}/valid_{config.predictions}" for fold in range(config.folds)]
    runs = [own]
    for run in config.stack:
        known = read_run(config, run, folders)
        missing = [image_id for image_id in ids if image_id not in known]
        if missing:
            raise InputError(
                f"{config.task_dir / run} has no out-of-fold prediction of {missing[0]} ({len(missing)} "
                "images): run 04_predict.py for that run, too"
            )
        runs.append(np.array([known[image_id] for image_id in ids]))
    everything = np.ones(len(ids), bool)
    weights, _ = greedy_weights(runs, lambda mixture: score(mixture, everything))
    tests = [read_run(config, run, [f"test_{config.predictions}"]) for run in config.stack]
    common = set.intersection(*(set(found) for found in tests))
    return Mixture(
        weights,
        mix_out_of_fold(runs, units, score),
        {image_id: np.array([found[image_id] for found in tests]) for image_id in common},
    )


def read_run(config, run, folders):
    """{image_id: probabilities (C,)} of a run of the task."""
    root = config.task_dir / run
    return {
        found.image_id: found.category
        for name in folders
        for found in read_predictions(root / name, ClassPrediction)
    }
