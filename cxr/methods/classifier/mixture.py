"""Class probabilities of several runs, mixed with weights fitted on out-of-fold predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cxr.data.predictions import read_predictions
from cxr.methods.base import Judging
from cxr.methods.classifier.records import ClassPrediction
from cxr.methods.ensemble import greedy_weights, mix_out_of_fold
from cxr.metrics.image_rules import mean_of_known
from cxr.system.errors import InputError

# Judges the mixed probabilities (k, C) of some rows (n,) bool of the out-of-fold images.
RowScore = Callable[[np.ndarray, np.ndarray], float]


@dataclass(frozen=True)
class Mixture:
    """How runs are mixed, this one first.

    weights: (M,) of the runs, best on all out-of-fold images. out_of_fold: (n, C), each image by
    weights that were fitted on the other units. learned: (n,), how likely nothing is marked, the
    mean of the runs that have learned it; nan without one. test: {image_id: predictions of the
    other runs}.
    """

    weights: np.ndarray
    out_of_fold: np.ndarray
    learned: np.ndarray
    test: Mapping[str, Sequence[ClassPrediction]] = field(default_factory=dict)

    def of_test(self, prediction: ClassPrediction) -> np.ndarray:
        """Probabilities (C,) of a test image, and behind them that nothing is marked in it, where a
        run has learned that. Raises InputError where another run has no prediction."""
        every = [prediction, *self.others_of(prediction)]
        category = prediction.category
        if len(every) > 1:
            category = self.weights @ np.array([each.category for each in every])
        none = known_mean([np.array([each.none]) for each in every])
        return category if np.isnan(none[0]) else np.append(category, none)

    def others_of(self, prediction: ClassPrediction) -> Sequence[ClassPrediction]:
        """What the other runs say of the same test image."""
        if len(self.weights) == 1:
            return ()
        if prediction.image_id not in self.test:
            raise InputError(
                f"a run of --stack has no test prediction of {prediction.image_id}: run "
                "04_predict.py for it"
            )
        return self.test[prediction.image_id]


def known_mean(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Mean (n,) of the parts (n,) that are not nan; nan without any."""
    return mean_of_known(parts, [1.0] * len(parts), np.full(len(parts[0]), np.nan))


def mix_runs(
    judging: Judging,
    ids: Sequence[str],
    probabilities: np.ndarray,
    learned: np.ndarray,
    units: np.ndarray,
    score: RowScore,
) -> Mixture:
    """Mixture of this run's probabilities (n, C) of the images `ids` and those of --stack.

    learned: (n,), its own ones that nothing is marked, or nan. units: (n,), what is held out
    together.
    """
    stack = judging.settings.method.stack
    if not stack:
        return Mixture(np.ones(1), probabilities, learned)
    name = judging.settings.prediction.predictions
    runs = [probabilities]
    nones = [learned]
    tests = []
    for run_name in stack:
        run = judging.run.task.run(run_name)
        folds = range(judging.settings.data.folds)
        known = read_classes(run.fold(fold).valid_predictions(name) for fold in folds)
        missing = [image_id for image_id in ids if image_id not in known]
        if missing:
            raise InputError(
                f"{run.path} has no out-of-fold prediction of {missing[0]} ({len(missing)} "
                "images): run 04_predict.py for that run, too"
            )
        runs.append(np.array([known[image_id].category for image_id in ids]))
        nones.append(np.array([known[image_id].none for image_id in ids]))
        tests.append(read_classes([run.test_predictions(name)]))

    every_row = np.ones(len(ids), bool)
    weights, _ = greedy_weights(runs, lambda mixture: score(mixture, every_row))
    out_of_fold = mix_out_of_fold(runs, units, score)
    test = {}
    for image_id in set(tests[0]).intersection(*tests[1:]):
        test[image_id] = [known[image_id] for known in tests]
    return Mixture(weights, out_of_fold, known_mean(nones), test)


def read_classes(folders: Iterable[Path]) -> dict[str, ClassPrediction]:
    """{image_id: prediction} of some folders of predictions."""
    found = {}
    for folder in folders:
        for prediction in read_predictions(folder, ClassPrediction):
            found[prediction.image_id] = prediction
    return found
