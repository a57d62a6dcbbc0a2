"""Folds: patients whole, strata and findings spread evenly, impossible numbers refused."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from cxr.data.folds import assign_folds
from cxr.system.errors import InputError


def table_of(groups, strata):
    return pd.DataFrame({"group": groups, "stratum": strata})


def table_of_findings(images=600, seed=0):
    """Patients with up to four images; findings of very different frequency, some together."""
    rng = np.random.default_rng(seed)
    has_finding = rng.random((images, 5)) < [0.4, 0.3, 0.1, 0.05, 0.02]
    names = np.array(["A", "B", "C", "D", "E"])
    patients = np.sort(rng.integers(0, images // 2, images))
    groups = [f"p{patient}" for patient in patients]
    strata = ["|".join(names[row]) or "none" for row in has_finding]
    return table_of(groups, strata)


def folds_per_group(table, folds):
    return table.assign(fold=folds).groupby("group")["fold"].nunique()


def test_folds_are_balanced_and_keep_patients_together():
    groups = [f"p{k // 3}" for k in range(120)]
    strata = ["ab"[k // 3 % 2] for k in range(120)]
    table = table_of(groups, strata)
    folds = assign_folds(table, 4, 42)
    counts = pd.crosstab(folds, np.array(strata))
    assert counts.to_numpy().tolist() == [[15, 15]] * 4
    assert (folds_per_group(table, folds) == 1).all()
    assert (folds == assign_folds(table, 4, 42)).all()
    assert (folds != assign_folds(table, 4, 43)).any()


@given(
    st.lists(st.tuples(st.integers(0, 8), st.sampled_from("abc")), min_size=8, max_size=40),
    st.integers(2, 4),
)
@pytest.mark.filterwarnings("ignore:The least populated class")
def test_folds_of_any_table(rows, folds):
    groups = [group for group, _ in rows]
    strata = [stratum for _, stratum in rows]
    table = table_of(groups, strata)
    try:
        assigned = assign_folds(table, folds, 42)
    except InputError as error:
        assert "--folds" in str(error)
        return
    assert set(assigned) == set(range(folds))
    assert (folds_per_group(table, assigned) == 1).all()


@pytest.mark.parametrize(
    "groups, folds", [(["a", "a", "b"], 3), (["a"], 2), (["a", "b"], 1), (["a", "b", "c"], 0)]
)
def test_impossible_folds(groups, folds):
    words = f"--folds {folds} is impossible with {len(set(groups))} patients"
    with pytest.raises(InputError, match=words):
        assign_folds(table_of(groups, ["s"] * len(groups)), folds, 42)


def test_strata_that_are_too_small():
    with pytest.raises(InputError, match=r"--folds 4 is impossible .*choose fewer"):
        assign_folds(table_of(list("abcdef"), list("xxxyyy")), 4, 42)


def test_no_images():
    assert len(assign_folds(table_of([], []), 4, 42)) == 0


def test_every_finding_is_spread_evenly_and_patients_stay_together():
    table = table_of_findings()
    folds = assign_folds(table, 4, 42)
    counts = table["stratum"].str.get_dummies("|").groupby(folds).sum()
    allowed = np.maximum(2, 0.06 * counts.mean())
    assert (folds_per_group(table, folds) == 1).all()
    assert ((counts - counts.mean()).abs() <= allowed).all(axis=None), counts
    assert (np.abs(np.bincount(folds) - 150) <= 9).all()
    assert np.array_equal(folds, assign_folds(table, 4, 42))
    assert (folds != assign_folds(table, 4, 43)).any()


def test_single_strata_are_dealt_by_scikit_learn():
    table = table_of_findings()
    table["stratum"] = table["stratum"].str[0]
    expected = np.zeros(len(table), int)
    splitter = StratifiedGroupKFold(4, shuffle=True, random_state=42)
    splits = splitter.split(table, table["stratum"], table["group"])
    for fold, (_, held_out) in enumerate(splits):
        expected[held_out] = fold
    assert np.array_equal(assign_folds(table, 4, 42), expected)
