"""Orders of training images: exact resume, several processes, shares of positives."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from cxr.data.samplers import (
    DrawnCounts,
    MovingShare,
    ResumableSampler,
    ShareSampler,
    balanced_counts,
    make_share_sampler,
    negatives_for,
)
from cxr.method_settings import SamplingSettings
from cxr.system.errors import InputError
from cxr.system.runtime import Runtime
from cxr.tasks import TASKS

SAMPLING = SamplingSettings(sampling="share")
LENGTH = st.integers(1, 40)
BATCH_SIZE = st.integers(1, 6)
EPOCH = st.integers(0, 5)


# ------------------------------------------------------------------ all images


@given(LENGTH, BATCH_SIZE, EPOCH, st.booleans(), st.integers(0, 7))
def test_sampler_resumes_at_any_batch(length, batch_size, epoch, shuffle, first):
    sampler = ResumableSampler(length, batch_size, 42, shuffle)
    sampler.epoch = epoch
    whole = list(sampler)
    sampler.first_batch = min(first, sampler.batches())
    assert list(sampler) == whole[sampler.first_batch * batch_size :]
    assert -(-len(whole) // batch_size) == sampler.batches()
    assert {key[0] for key in whole} == {epoch}


@given(LENGTH, BATCH_SIZE, EPOCH, st.booleans(), st.integers(2, 4))
def test_processes_share_the_images(length, batch_size, epoch, shuffle, world):
    """Nobody sees an image twice; in validation nothing is left out.

    In training all have the same number of batches, and what is left out could not fill one more
    batch for everyone.
    """
    assume(length >= world or not shuffle)
    shares = []
    rows = []
    for rank in range(world):
        sampler = ResumableSampler(length, batch_size, 42, shuffle, rank, world)
        sampler.epoch = epoch
        shares.append([row for _, row in sampler])
        rows.extend(shares[-1])
    assert len(set(rows)) == len(rows)
    assert set(rows) <= set(range(length))
    if not shuffle:
        assert len(rows) == length
    elif length >= batch_size * world:
        assert len({len(share) for share in shares}) == 1
        assert length - len(rows) < batch_size * world


@given(st.integers(12, 40), st.integers(1, 3))
def test_the_first_batches_of_two_processes_are_one_of_a_single(length, batch_size):
    single = [row for _, row in ResumableSampler(length, 2 * batch_size, 42, True)]
    first = [row for _, row in ResumableSampler(length, batch_size, 42, True, 0, 2)]
    second = [row for _, row in ResumableSampler(length, batch_size, 42, True, 1, 2)]
    for k in range(len(single) // (2 * batch_size)):
        batch = slice(k * batch_size, (k + 1) * batch_size)
        whole = single[2 * k * batch_size : 2 * (k + 1) * batch_size]
        assert sorted(first[batch] + second[batch]) == sorted(whole)


def test_order_changes_with_the_epoch_and_the_seed():
    orders = []
    for seed, epoch in ((42, 0), (42, 1), (43, 0)):
        sampler = ResumableSampler(50, 5, seed, True)
        sampler.epoch = epoch
        orders.append(tuple(sampler.order()))
    assert len(set(orders)) == 3
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert ResumableSampler(5, 2, 42, False).order().tolist() == [0, 1, 2, 3, 4]


def test_more_processes_than_images_are_refused():
    """One without a batch would leave the others waiting for its gradients for ever."""
    with pytest.raises(InputError, match="4 processes cannot share 3 training images"):
        ResumableSampler(3, 2, 42, True, rank=0, world=4)


# ---------------------------------------------------------- a share of positives


def make_table(positives, negatives, pseudo=(0, 0)):
    """Rows with a label above 0 and without, then such rows with predicted masks."""
    labels = [1] * positives + [0] * negatives + [1] * pseudo[0] + [0] * pseudo[1]
    is_pseudo = np.arange(len(labels)) >= positives + negatives
    source = np.where(is_pseudo, "test", "labelled")
    return pd.DataFrame({"label": labels, "pseudo": is_pseudo, "source": source})


def make_sampler(table, seed=42, rank=0, world=1, **changes):
    settings = replace(SAMPLING, **changes)
    return make_share_sampler(
        table,
        (table["label"] > 0).to_numpy(),
        settings,
        batch_size=4,
        epochs=60,
        seed=seed,
        rank=rank,
        world=world,
    )


def rows_of(sampler, epoch=0, first_batch=0):
    sampler.epoch = epoch
    sampler.first_batch = first_batch
    return [key[-1] for key in sampler]


@pytest.mark.parametrize("share, negatives", [(0.8, 477), (0.6, 1273), (0.5, 1910), (0.4, 2865)])
def test_negatives_of_the_first(share, negatives):
    assert MovingShare(1910, share, share, 50)(7) == DrawnCounts(1910, negatives)


@pytest.mark.parametrize(
    "epoch, negatives",
    [(0, 583), (10, 984), (20, 1513), (30, 2243), (40, 3314), (50, 5038), (59, 7831)],
)
def test_negatives_of_the_fourth(epoch, negatives):
    assert MovingShare(2335, 0.8, 0.22, 60)(epoch) == DrawnCounts(2335, negatives)


@pytest.mark.parametrize("share", np.arange(1, 101) / 100)
def test_the_share_is_what_was_asked_for(share):
    negatives = negatives_for(1000, share)
    assert 1000 / (1000 + negatives) >= share - 1e-9 > 1000 / (1001 + negatives) - 1e-9


def test_balanced_draws_half():
    assert balanced_counts(9)(0) == DrawnCounts(4, 5)
    sampler = make_sampler(make_table(3, 17), sampling="balanced")
    rows = rows_of(sampler)
    assert len(rows) == 20
    assert sum(row < 3 for row in rows) == 10
    assert sampler.facts() == {"positive_share": 0.5}


def test_share_takes_every_positive_once():
    sampler = make_sampler(make_table(12, 50), positive_share=0.6)
    rows = rows_of(sampler)
    assert sorted(row for row in rows if row < 12) == list(range(12))
    assert len(rows) == 12 + 8
    assert sampler.facts() == {"positive_share": 0.6}
    assert sampler.batches() == 5


def test_the_share_falls_and_epochs_grow():
    sampler = make_sampler(make_table(58, 500), positive_share=0.8, positive_share_end=0.22)
    lengths = []
    for epoch in (0, 30, 59):
        sampler.epoch = epoch
        lengths.append(sampler.total())
    assert lengths == [58 + 14, 58 + 55, 58 + 194]


def test_positives_only():
    sampler = make_sampler(make_table(8, 50), sampling="positives")
    assert sorted(rows_of(sampler)) == list(range(8))


@pytest.mark.parametrize("sampling, epoch_rows", [("balanced", 20), ("share", 5), ("positives", 4)])
def test_images_with_boxes_are_a_detectors_positives(sampling, epoch_rows):
    """Of 20 images four have boxes, whatever their class is; four of five are 0.8."""
    table = pd.DataFrame({"n_boxes": [1, 2, 1, 3] + [0] * 16, "label": [0, 1, 2, 0] * 5})
    rsna = TASKS["rsna"]
    settings = rsna.make_settings({"sampling": sampling, "batch_size": 1})
    sampler = rsna.method.train_sampler(table, settings, Runtime(torch.device("cpu"), "fp32"))
    rows = rows_of(sampler)
    assert len(rows) == epoch_rows
    drawn = sum(row < 4 for row in rows)
    assert drawn == {"balanced": 10, "share": 4, "positives": 4}[sampling]


def test_all_is_the_usual_order():
    sampler = make_sampler(make_table(3, 9), sampling="all")
    assert type(sampler) is ResumableSampler
    assert sorted(rows_of(sampler)) == list(range(12))
    assert sampler.facts() == {}


@pytest.mark.parametrize("sampling", ["share", "balanced", "positives"])
def test_the_order_depends_on_seed_and_epoch_alone(sampling):
    table = make_table(9, 40)
    first = make_sampler(table, sampling=sampling, seed=1)
    again = make_sampler(table, sampling=sampling, seed=1)
    other = make_sampler(table, sampling=sampling, seed=2)
    assert rows_of(first, 3) == rows_of(again, 3)
    assert rows_of(first, 3) != rows_of(first, 4)
    assert rows_of(first, 3) != rows_of(other, 3)


def test_resume_at_a_batch():
    sampler = make_sampler(make_table(9, 40))
    assert rows_of(sampler, 2, first_batch=1) == rows_of(sampler, 2)[4:]


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_order(world):
    table = make_table(30, 90)
    whole = rows_of(make_sampler(table, positive_share=0.5), 5)
    shares = []
    for rank in range(world):
        sampler = make_sampler(table, positive_share=0.5, rank=rank, world=world)
        shares.append(rows_of(sampler, 5))
    assert len({len(share) for share in shares}) == 1
    in_turn = np.array(shares).T.ravel().tolist()
    assert in_turn == whole[: len(in_turn)]


def test_what_comes_twice_is_augmented_anew():
    sampler = make_sampler(make_table(2, 40), sampling="balanced")
    sampler.epoch = 4
    keys = list(sampler)
    rows = {row for _, _, row in keys}
    assert {epoch for epoch, _, _ in keys} == {4}
    assert len(set(keys)) == len(keys) > len(rows)


def test_predicted_masks_come_from_the_second_epoch_on():
    table = make_table(10, 30, pseudo=(20, 20))
    sampler = make_sampler(table, positive_share=0.5, pseudo="a run", pseudo_ratio=0.5)
    assert max(rows_of(sampler, 0)) < 40
    assert sampler.total() == 20
    sampler.epoch = 1
    order = sampler.order()
    assert sampler.total() == 30
    assert ((order >= 40) & (order < 60)).sum() == 5
    assert (order >= 60).sum() == 5
    assert sampler.facts() == {
        "positive_share": 0.5,
        "images_labelled": 20,
        "positives_labelled": 10,
        "images_test": 10,
        "positives_test": 5,
    }


def test_predicted_masks_beside_all_images():
    table = make_table(4, 8, pseudo=(3, 0))
    sampler = make_sampler(table, sampling="all", pseudo="a run", pseudo_ratio=0.5)
    assert sorted(rows_of(sampler, 0)) == list(range(12))
    facts = sampler.facts()
    assert facts["positive_share"] == round(4 / 12, 4)
    assert (facts["images_labelled"], facts["images_test"]) == (12, 0)
    sampler.epoch = 1
    assert sampler.total() == 12 + 2
    assert (sampler.order() >= 12).sum() == 2


@pytest.mark.parametrize("sampling", ["share", "balanced", "positives"])
def test_without_positives(sampling):
    words = f"--sampling {sampling} needs training images with a finding"
    with pytest.raises(InputError, match=words):
        make_sampler(make_table(0, 9), sampling=sampling)


def test_without_negatives():
    sampler = make_sampler(make_table(8, 0))
    assert sorted(rows_of(sampler)) == list(range(8))


def test_any_counts():
    sampler = ShareSampler([True, False, False], lambda epoch: DrawnCounts(1, epoch), 1, 0)
    sampler.epoch = 6
    assert sampler.total() == 7
    assert sampler.batches() == 7
    assert set(rows_of(sampler, 6)) - {1, 2} == {0}
