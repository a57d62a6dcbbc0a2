"""Image scores of several runs as one: the 2nd place's stack of classifiers.

Their net is linear: a convolution without activation and a linear layer over the scores, their mean and their
differences, all linear in the scores. So it is a logistic regression of the scores.
"""

from functools import cached_property

import numpy as np
from sklearn.linear_model import LogisticRegression

from cxr.inference.predictions import read_predictions
from cxr.methods.segmenter.records import MaskPrediction
from cxr.system.disk import InputError

STRENGTH = 100.0  # inverse of the penalty: almost none, a handful of numbers is fitted


class Stack:
    """Runs of the task's folder and what their image scores say together.

    `ids`, `units` (what is held out together) and `positive`, all (n,): the out-of-fold images. Raises InputError for a
    run without their predictions.
    """

    def __init__(self, config, ids, units, positive):
        self.config, self.units, self.positive = config, units, positive
        if len(set(positive)) < 2:
            raise InputError("--stack needs images with and without a finding: leave it out")
        self.scores = self.columns(
            ids, [f"fold{fold}/valid_{config.predictions}" for fold in range(config.folds)]
        )

    def columns(self, ids, folders):
        """(n, runs) image scores."""
        found = []
        for run in self.config.stack:
            root = self.config.task_dir / run
            heads = {
                p.image_id: p.head
                for name in folders
                for p in read_predictions(root / name, MaskPrediction)
            }
            missing = [key for key in ids if key not in heads]
            if missing:
                raise InputError(
                    f"{root} has no image score of {missing[0]} ({len(missing)} images): run "
                    "04_predict.py for that run, too"
                )
            found.append([heads[key] for key in ids])
        return np.array(found).T

    def fit(self, rows):
        return LogisticRegression(C=STRENGTH).fit(self.scores[rows], self.positive[rows])

    def out_of_fold(self):
        """(n,) scores, each of a model that was fitted on the other units."""
        result = np.zeros(len(self.units))
        for unit in np.unique(self.units):
            own = self.units == unit
            if len(set(self.positive[~own])) < 2:
                raise InputError(
                    "--stack cannot be fitted: the other folds hold images of one kind only"
                )
            result[own] = self.fit(~own).predict_proba(self.scores[own])[:, 1]
        return result

    @cached_property
    def model(self):
        return self.fit(slice(None))

    def of_test(self, image_id):
        """Score of a test image, of a model that was fitted on all out-of-fold images."""
        if image_id not in self.test_scores:
            raise InputError(
                f"the runs {', '.join(self.config.stack)} have no test predictions of {image_id}: run "
                "04_predict.py for them, too"
            )
        return self.test_scores[image_id]

    @cached_property
    def test_scores(self):
        folder = f"test_{self.config.predictions}"
        root = self.config.task_dir / self.config.stack[0] / folder
        ids = [p.image_id for p in read_predictions(root, MaskPrediction)]
        return (
            dict(zip(ids, self.model.predict_proba(self.columns(ids, [folder]))[:, 1]))
            if ids
            else {}
        )
