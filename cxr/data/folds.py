"""Folds: patients whole, strata spread evenly."""

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from cxr.system.disk import InputError


def assign_folds(table, folds, seed):
    """Fold of each row, int (n,): all rows of a `group` in one fold, the `stratum` spread evenly.

    A stratum is one word, or several with | between them for images with several findings. Depends on the order of the
    rows. InputError with fewer than two folds or fewer groups than folds.
    """
    if table.empty:
        return np.zeros(0, int)
    groups = table.group.nunique()
    if not 2 <= folds <= groups:
        raise InputError(
            f"--folds {folds} is impossible with {groups} patients: choose 2 to {groups}"
        )
    if table.stratum.str.contains("|", regex=False).any():
        findings = table.stratum.str.get_dummies("|").to_numpy()
        result = spread_evenly(findings, table.group.to_numpy(), folds, np.random.default_rng(seed))
    else:
        result = stratified(table, folds, seed)
    if len(set(result)) < folds:
        raise InputError(
            f"--folds {folds} leaves a fold empty, as a few patients own most images: choose fewer"
        )
    return result


def stratified(table, folds, seed):
    """assign_folds where each row belongs to one stratum."""
    result = np.full(len(table), -1)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    try:
        for fold, (_, held_out) in enumerate(splitter.split(table, table.stratum, table.group)):
            result[held_out] = fold
    except ValueError as error:
        raise InputError(f"--folds {folds} is impossible ({error}): choose fewer") from None
    return result


def spread_evenly(findings, groups, folds, rng):
    """Fold of each row, int (n,), of findings (n, K) of 0 and 1 and groups (n,).

    Iterative stratification (Sechidis, Tsoumakas, Vlahavas 2011) with patients in place of images: the rarest finding
    that is left is dealt first, its patients with most images of it foremost. A patient goes to the fold that lacks
    most of what the patient has, each finding, and the images, as a share of all there is of it; a tie is drawn.
    """
    patients = np.unique(groups, return_inverse=True)[1]
    counts = np.zeros(
        (patients.max() + 1, findings.shape[1] + 1)
    )  # of each patient: images of each finding, images
    np.add.at(counts, patients, np.column_stack([findings, np.ones(len(findings), int)]))
    shares = counts / counts.sum(0) ** 2  # a count times a lacking count, both as shares
    lacking = np.tile(counts.sum(0) / folds, (folds, 1))
    result, order = np.full(len(counts), -1), rng.permutation(len(counts))
    while (result < 0).any():
        left = order[result[order] < 0]
        present = counts[left].sum(0)
        rarest = int(np.where(present > 0, present, np.inf).argmin())
        owners = left[counts[left, rarest] > 0]
        for patient in owners[np.argsort(-counts[owners, rarest], kind="stable")]:
            need = lacking @ shares[patient]
            result[patient] = rng.choice(np.flatnonzero(need >= need.max() - 1e-12))
            lacking[result[patient]] -= counts[patient]
    return result[patients]
