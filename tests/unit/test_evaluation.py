"""What is held out together: folds, or the halves by patient of a single fold."""

import numpy as np

from cxr.methods.evaluation import held_out_units


def test_folds_are_held_out():
    units = held_out_units([0, 2, 2, 0], ["a", "a", "b", "b"])
    assert units.tolist() == [0, 2, 2, 0]


def test_a_single_fold_is_halved_by_patient():
    """Patients by rising id are in the first and the second half by turns."""
    units = held_out_units([1, 1, 1, 1, 1], ["c", "a", "b", "a", "c"])
    assert units.tolist() == [0, 0, 1, 0, 0]


def test_patients_may_be_numbers():
    assert held_out_units(np.zeros(3, int), np.array([7, 8, 7])).tolist() == [0, 1, 0]


def test_no_image():
    assert len(held_out_units([], [])) == 0
