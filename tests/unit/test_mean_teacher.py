"""The mean teacher of the 5th place: its numbers, and the order of the pictures without labels."""

import pytest
import torch

from cxr.data.samplers import ResumableSampler
from cxr.methods.segmenter.mean_teacher import RepeatSampler, consistency, ramp, teacher_decay


@pytest.mark.parametrize(
    "moment, weight",
    [
        (0, 0.001),
        (4.9, 0.001),
        (5, 0.0621),
        (10, 0.2167),
        (15, 0.5730),
        (20, 1.1475),
        (25, 1.7406),
        (30, 2.0),
        (44, 2.0),
    ],
)
def test_weight_of_the_consistency_of_the_fifth(moment, weight):
    assert 2 * ramp(moment) == pytest.approx(weight, abs=1e-4)


@pytest.mark.parametrize(
    "moment, updates, decay",
    [
        (0, 0, 0),
        (0, 1, 0.5),
        (0, 99, 0.5),
        (6, 999, 0.9),
        (15, 9999, 0.99),
        (15, 9, 0.9),
        (30, 99999, 0.999),
    ],
)
def test_decay_of_the_teacher(moment, updates, decay):
    assert teacher_decay(moment, updates) == pytest.approx(decay)


def test_consistency_by_hand():
    student = {"mask": torch.zeros(2, 1, 2, 2), "label": torch.zeros(2)}
    teacher = {"mask": torch.full((2, 1, 2, 2), 50.0), "label": torch.full((2,), -50.0)}
    assert float(consistency(student, teacher)) == pytest.approx(0.25 + 0.001 * 0.25)
    without_label = consistency({"mask": student["mask"]}, {"mask": teacher["mask"]})
    assert float(without_label) == pytest.approx(0.25)


def labelled_sampler(rank=0, world=1):
    return ResumableSampler(10, 2, 3, True, rank, world)


def test_pictures_without_labels_come_in_step_with_the_others():
    labelled = labelled_sampler()
    sampler = RepeatSampler(3, labelled, 4)
    keys = list(sampler)
    assert sampler.batches() == labelled.batches() == 5
    assert len(keys) == len(set(keys)) == 20
    assert {key[-1] for key in keys} <= {0, 1, 2}
    sampler.first_batch = 2
    assert list(sampler) == keys[8:]


def test_processes_see_different_pictures():
    first = RepeatSampler(3, labelled_sampler(rank=0, world=2), 4)
    second = RepeatSampler(3, labelled_sampler(rank=1, world=2), 4)
    assert first.batches() == second.batches() == 2
    assert list(first) != list(second)
