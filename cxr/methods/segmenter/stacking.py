"""Image scores of several runs as one: the 2nd place's stack of classifiers.

Their net is linear: a convolution without activation and a linear layer over the scores, their mean
and their differences, all linear in the scores. So it is a logistic regression of the scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression

from cxr.data.predictions import read_predictions
from cxr.methods.base import Judging
from cxr.methods.segmenter.records import MaskPrediction
from cxr.system.errors import InputError

STRENGTH = 100.0  # inverse of the penalty: almost none, a handful of numbers is fitted


class Stack:
    """Runs of the task's folder and what their image scores say together.

    ids, units (what is held out together) and positive, all (n,): the out-of-fold images. Raises
    InputError for a run without their predictions.
    """

    def __init__(
        self, judging: Judging, ids: Sequence[str], units: np.ndarray, positive: np.ndarray
    ) -> None:
        self.judging = judging
        self.runs = judging.settings.method.stack
        self.units = units
        self.positive = positive
        if len(set(positive)) < 2:
            raise InputError("--stack needs images with and without a finding: leave it out")
        name = judging.settings.prediction.predictions
        folders = []
        for fold in range(judging.settings.data.folds):
            folders.append(judging.run.fold(fold).valid_predictions(name))
        self.scores = self.read_scores(ids, folders)

    def read_scores(self, ids: Sequence[str], folders: Sequence[Path]) -> np.ndarray:
        """(n, runs) image scores, from the folders that the other runs have of the same names."""
        columns = []
        for run in self.runs:
            root = self.judging.run.task.run(run).path
            heads: dict[str, float] = {}
            for folder in folders:
                own_folder = root / folder.relative_to(self.judging.run.path)
                for prediction in read_predictions(own_folder, MaskPrediction):
                    heads[prediction.image_id] = prediction.head
            missing = [image_id for image_id in ids if image_id not in heads]
            if missing:
                raise InputError(
                    f"{root} has no image score of {missing[0]} ({len(missing)} images): run "
                    "04_predict.py for that run, too"
                )
            columns.append([heads[image_id] for image_id in ids])
        return np.array(columns).T

    def fit(self, rows: np.ndarray | slice) -> LogisticRegression:
        return LogisticRegression(C=STRENGTH).fit(self.scores[rows], self.positive[rows])

    def out_of_fold(self) -> np.ndarray:
        """(n,) scores, each of a model that was fitted on the other units."""
        result = np.zeros(len(self.units))
        for unit in np.unique(self.units):
            held_out = self.units == unit
            if len(set(self.positive[~held_out])) < 2:
                raise InputError(
                    "--stack cannot be fitted: the other folds hold images of one kind only"
                )
            model = self.fit(~held_out)
            result[held_out] = model.predict_proba(self.scores[held_out])[:, 1]
        return result

    @cached_property
    def model(self) -> LogisticRegression:
        return self.fit(slice(None))

    def of_test(self, image_id: str) -> float:
        """Score of a test image, of a model that was fitted on all out-of-fold images."""
        if image_id not in self.test_scores:
            raise InputError(
                f"the runs {', '.join(self.runs)} have no test predictions of {image_id}: run "
                "04_predict.py for them, too"
            )
        return self.test_scores[image_id]

    @cached_property
    def test_scores(self) -> dict[str, float]:
        name = self.judging.settings.prediction.predictions
        folder = self.judging.run.test_predictions(name)
        first = self.judging.run.task.run(self.runs[0]).test_predictions(name)
        ids = [prediction.image_id for prediction in read_predictions(first, MaskPrediction)]
        if not ids:
            return {}
        scores = self.model.predict_proba(self.read_scores(ids, [folder]))[:, 1]
        return dict(zip(ids, scores, strict=True))
