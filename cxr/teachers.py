"""Labels that models give to further images, for a fold only by models that never saw that fold.

The mean of all fold models, added to every training fold, tells fold i's model what the others learned of fold i: its
validation score rises and nothing is won. It cost the 17th place of SIIM COVID-19 2021 all work on external data.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Teacher:
    """A model that may label images.

    `saw`: the folds whose true labels shaped it, by training, by stopping or choosing an epoch, or by a threshold.
    `teachers`: models whose labels it was trained with. What they saw, it saw.
    """

    saw: frozenset
    teachers: tuple = ()

    @property
    def knows(self):
        """All folds that the model or one of its ancestors saw."""
        return frozenset(self.saw).union(*(teacher.knows for teacher in self.teachers))


def fold_teachers(folds):
    """Teachers of a cross-validation, the k-th being the model that was trained without fold k."""
    return [Teacher(frozenset(range(folds)) - {fold}) for fold in range(folds)]


def may_label(teacher, held_out):
    """Whether a model may label images for a training whose validation fold is `held_out`; None: it has none."""
    return held_out is None or held_out not in teacher.knows


def labels_for(held_out, teachers, predictions):
    """(n, C) soft labels of n further images for the training that holds out a fold: the mean of the teachers that may.

    `predictions` (M, n, C) of the M teachers. With held_out None, the last training without validation, all of them
    may. These are no images of the folds: those have true labels. ValueError where no teacher may.
    """
    allowed = [k for k, teacher in enumerate(teachers) if may_label(teacher, held_out)]
    if not allowed:
        raise ValueError(f"every one of the {len(teachers)} teachers saw fold {held_out}")
    return np.mean([predictions[k] for k in allowed], axis=0)
