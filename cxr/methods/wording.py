"""Sentences that say how a score was measured, made from what was done.

fit_on is the value of --fit-on: folds (each fold with what was fitted on the others, or, where one
fold alone is judged, each half of its patients with what was fitted on the other half), testlike
(fitted on the images that are labelled like the test set), published (nothing is fitted).
"""

from __future__ import annotations

from collections.abc import Sequence


def describe_measurement(
    folds: Sequence[int],
    fit_on: str,
    fold_count: int | None = None,
    *,
    subject: str = "",
    fitted: str = "parameters",
) -> str:
    """A sentence: on which images a score was measured, and where its parameters come from.

    folds: the judged ones. fold_count: how many the data set is divided into; None: as many.
    subject: what was judged, such as "studies". fitted: what the parameters are called; empty
    where nothing can be fitted.
    """
    measured = f"Measured on {describe_images(folds, fit_on, fold_count, subject=subject)}"
    if not fitted:
        return f"{measured}; nothing was fitted."
    return f"{measured}, with {describe_fit(folds, fit_on, fitted)}."


def describe_images(
    folds: Sequence[int], fit_on: str, fold_count: int | None = None, *, subject: str = ""
) -> str:
    """The judged images as the end of "measured on"."""
    if not subject:
        subject = "validation images"
    if fit_on == "testlike":
        subject = f"{subject} that are not like the test set,"
    numbers = sorted(folds)
    which = f"of {name_folds(numbers)}"
    if len(numbers) > 1 and len(numbers) == (fold_count or len(numbers)):
        which = "of every fold"
    return f"the {subject} {which}, predicted by models that never saw them"


def describe_fit(folds: Sequence[int], fit_on: str, fitted: str = "parameters") -> str:
    """Where the parameters come from, as the end of "with"."""
    if fit_on == "published":
        return f"the published {fitted}; nothing was fitted"
    if fit_on == "testlike":
        return f"{fitted} fitted on the images that are like the test set only"
    if len(folds) == 1:
        return f"{fitted} fitted on the other half of this fold's patients"
    return f"{fitted} fitted on the other folds"


def describe_marks(folds: Sequence[int], fit_on: str) -> str:
    """What the triangles in a diagram of a searched parameter are."""
    if fit_on == "published":
        return "the gray triangle is the published value"
    if fit_on == "testlike":
        return "the gray triangle is the value fitted on the images that are like the test set"
    if len(folds) == 1:
        return "the gray triangle is the value fitted on one half of the fold's patients"
    return "the gray triangles are the values chosen when one fold was left out"


def describe_fold_scores(folds: Sequence[int], fit_on: str) -> str:
    """What stands in the table of folds and their parameters."""
    if fit_on == "published":
        return "Nothing was fitted: every fold has the published parameters."
    if fit_on == "testlike":
        return (
            "Every fold has the same parameters, fitted on the images that are like the test set, "
            "which are not in the scores."
        )
    if len(folds) == 1:
        return (
            "Only one fold is judged. Each half of its patients has parameters fitted on the other "
            "half; those of one half are shown."
        )
    return "The parameters of a fold were fitted without its images."


def name_folds(folds: Sequence[int]) -> str:
    """ "fold 2", "folds 0 and 2", "folds 0, 1 and 3"."""
    names = [str(fold) for fold in folds]
    if len(names) == 1:
        return f"fold {names[0]}"
    return f"folds {', '.join(names[:-1])} and {names[-1]}"
