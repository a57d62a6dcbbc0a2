"""Folds: patients whole, strata spread evenly."""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from cxr.system.errors import InputError

TIE = 1e-12  # folds whose need differs by less are equally good; sums of shares are rounded


def assign_folds(table: pd.DataFrame, folds: int, seed: int) -> np.ndarray:
    """Fold of each row, int (n,): all rows of a `group` in one fold, the `stratum` spread evenly.

    A stratum is one word, or several with | between them for images with several findings. Depends
    on the order of the rows. Raises InputError with fewer than two folds or fewer groups than
    folds.
    """
    if table.empty:
        return np.zeros(0, int)
    groups = table["group"].nunique()
    if not 2 <= folds <= groups:
        raise InputError(
            f"--folds {folds} is impossible with {groups} patients: choose 2 to {groups}"
        )
    if table["stratum"].str.contains("|", regex=False).any():
        findings = table["stratum"].str.get_dummies("|").to_numpy()
        rng = np.random.default_rng(seed)
        assigned = spread_evenly(findings, table["group"].to_numpy(), folds, rng)
    else:
        assigned = stratify(table, folds, seed)
    if len(set(assigned)) < folds:
        raise InputError(
            f"--folds {folds} leaves a fold empty, as a few patients own most images: choose fewer"
        )
    return assigned


def follow_folds(table: pd.DataFrame, other: pd.DataFrame, folds: int, seed: int) -> np.ndarray:
    """`assign_folds` where the groups of another table (group, fold) keep their folds there.

    The others are spread evenly by their strata, few as they may be. Raises InputError where the
    other table has another number of folds.
    """
    others_folds = other["fold"].nunique()
    if others_folds != folds:
        raise InputError(
            f"--folds-of names a task of {others_folds} folds: give --folds {others_folds}"
        )
    known = other.drop_duplicates("group").set_index("group")["fold"]
    assigned = table["group"].map(known).fillna(-1).to_numpy(int, copy=True)
    is_new = assigned < 0
    new = table[is_new]
    if len(new):
        findings = new["stratum"].str.get_dummies("|").to_numpy()
        rng = np.random.default_rng(seed)
        assigned[is_new] = spread_evenly(findings, new["group"].to_numpy(), folds, rng)
    return assigned


def stratify(table: pd.DataFrame, folds: int, seed: int) -> np.ndarray:
    """`assign_folds` where each row belongs to one stratum.

    scikit-learn deals the patients, and their order is shuffled here: shuffle=True of releases
    before 1.8 parts the patients from what they have, so that nothing is spread evenly. The folds
    are those of shuffle=True of 1.8.
    """
    patients = np.unique(table["group"], return_inverse=True)[1]
    order = np.arange(patients.max() + 1)
    np.random.RandomState(seed).shuffle(order)
    places = np.argsort(order)  # of each patient in that order
    assigned = np.full(len(table), -1)
    splitter = StratifiedGroupKFold(folds)
    try:
        splits = splitter.split(table, table["stratum"], places[patients])
        for fold, (_, held_out) in enumerate(splits):
            assigned[held_out] = fold
    except ValueError as error:
        raise InputError(f"--folds {folds} is impossible ({error}): choose fewer") from None
    return assigned


def spread_evenly(
    findings: np.ndarray, groups: np.ndarray, folds: int, rng: np.random.Generator
) -> np.ndarray:
    """Fold of each row, int (n,), of findings (n, K) of 0 and 1 and groups (n,).

    Iterative stratification (Sechidis, Tsoumakas, Vlahavas 2011) with patients in place of images:
    the rarest finding that is left is dealt first, its patients with most images of it foremost. A
    patient goes to the fold that lacks most of what the patient has, each finding, and the images,
    as a share of all there is of it; a tie is drawn.
    """
    patients = np.unique(groups, return_inverse=True)[1]
    # Of each patient: how many images show each finding, and how many images there are.
    counts = np.zeros((patients.max() + 1, findings.shape[1] + 1))
    np.add.at(counts, patients, np.column_stack([findings, np.ones(len(findings), int)]))
    totals = counts.sum(0)
    # The need of a fold is a lacking count times a patient's count, both as shares of the total.
    shares = counts / totals**2
    lacking = np.tile(totals / folds, (folds, 1))

    assigned = np.full(len(counts), -1)
    order = rng.permutation(len(counts))
    while (assigned < 0).any():
        left = order[assigned[order] < 0]
        present = counts[left].sum(0)
        rarest = int(np.where(present > 0, present, np.inf).argmin())
        owners = left[counts[left, rarest] > 0]
        for patient in owners[np.argsort(-counts[owners, rarest], kind="stable")]:
            need = lacking @ shares[patient]
            neediest = np.flatnonzero(need >= need.max() - TIE)
            assigned[patient] = rng.choice(neediest)
            lacking[assigned[patient]] -= counts[patient]
    return assigned[patients]
