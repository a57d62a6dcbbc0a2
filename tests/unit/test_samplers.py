"""Orders with a share of positives: the counts of the specification, exact resume, several processes."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from cxr.config import Config
from cxr.data.dataset import ResumableSampler
from cxr.data.samplers import (
    ShareSampler,
    balanced_counts,
    make_sampler,
    negatives_for,
    share_counts,
)
from cxr.system.disk import InputError

SETTINGS = replace(Config(), batch_size=4, sampling="share", epochs=60)


def table(positives, negatives, pseudo=(0, 0)):
    labels = [1] * positives + [0] * negatives + [1] * pseudo[0] + [0] * pseudo[1]
    return pd.DataFrame(
        {"label": labels, "pseudo": np.arange(len(labels)) >= positives + negatives}
    )


def rows(sampler, epoch=0, first_batch=0):
    sampler.epoch, sampler.first_batch = epoch, first_batch
    return [key[-1] for key in sampler]


@pytest.mark.parametrize("share, negatives", [(0.8, 477), (0.6, 1273), (0.5, 1910), (0.4, 2865)])
def test_negatives_of_the_first(share, negatives):
    assert share_counts(1910, share, share, 50)(7) == (1910, negatives)


@pytest.mark.parametrize(
    "epoch, negatives",
    [(0, 583), (10, 984), (20, 1513), (30, 2243), (40, 3314), (50, 5038), (59, 7831)],
)
def test_negatives_of_the_fourth(epoch, negatives):
    assert share_counts(2335, 0.8, 0.22, 60)(epoch) == (2335, negatives)


@pytest.mark.parametrize("share", np.arange(1, 101) / 100)
def test_the_share_is_what_was_asked_for(share):
    negatives = negatives_for(1000, share)
    assert 1000 / (1000 + negatives) >= share - 1e-9 > 1000 / (1001 + negatives) - 1e-9


def test_balanced_draws_half():
    assert balanced_counts(9)(0) == (4, 5)
    sampler = make_sampler(table(3, 17), replace(SETTINGS, sampling="balanced"), 0, 1)
    found = rows(sampler)
    assert (
        len(found) == 20
        and sum(row < 3 for row in found) == 10
        and sampler.facts() == {"positive_share": 0.5}
    )


def test_share_takes_every_positive_once():
    sampler = make_sampler(table(12, 50), replace(SETTINGS, positive_share=0.6), 0, 1)
    found = rows(sampler)
    assert sorted(row for row in found if row < 12) == list(range(12)) and len(found) == 12 + 8
    assert sampler.facts() == {"positive_share": 0.6} and sampler.batches() == 5


def test_the_share_falls_and_epochs_grow():
    sampler = make_sampler(
        table(58, 500), replace(SETTINGS, positive_share=0.8, positive_share_end=0.22), 0, 1
    )
    lengths = []
    for epoch in (0, 30, 59):
        sampler.epoch = epoch
        lengths.append(sampler.total())
    assert lengths == [58 + 14, 58 + 55, 58 + 194]


def test_positives_only():
    found = rows(make_sampler(table(8, 50), replace(SETTINGS, sampling="positives"), 0, 1))
    assert sorted(found) == list(range(8))


def test_all_is_the_usual_order():
    sampler = make_sampler(table(3, 9), replace(SETTINGS, sampling="all"), 0, 1)
    assert (
        type(sampler) is ResumableSampler
        and sorted(rows(sampler)) == list(range(12))
        and sampler.facts() == {}
    )


@pytest.mark.parametrize("sampling", ["share", "balanced", "positives"])
def test_the_order_depends_on_seed_and_epoch_alone(sampling):
    first, again, other = (
        make_sampler(table(9, 40), replace(SETTINGS, sampling=sampling, seed=seed), 0, 1)
        for seed in (1, 1, 2)
    )
    assert rows(first, 3) == rows(again, 3) != rows(first, 4) and rows(other, 3) != rows(first, 3)


def test_resume_at_a_batch():
    sampler = make_sampler(table(9, 40), SETTINGS, 0, 1)
    assert rows(sampler, 2, 1) == rows(sampler, 2)[4:]


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_order(world):
    whole = rows(make_sampler(table(30, 90), replace(SETTINGS, positive_share=0.5), 0, 1), 5)
    parts = [
        rows(make_sampler(table(30, 90), replace(SETTINGS, positive_share=0.5), rank, world), 5)
        for rank in range(world)
    ]
    assert len({len(part) for part in parts}) == 1
    assert [row for group in zip(*parts) for row in group] == whole[: len(parts[0]) * world]


def test_what_comes_twice_is_augmented_anew():
    sampler = make_sampler(table(2, 40), replace(SETTINGS, sampling="balanced"), 0, 1)
    sampler.epoch = 4
    keys = list(sampler)
    assert {key[0] for key in keys} == {4} and len(set(keys)) == len(keys) > len(
        {key[-1] for key in keys}
    )


def test_predicted_masks_come_from_the_second_epoch_on():
    settings = replace(SETTINGS, positive_share=0.5, pseudo_ratio=0.5)
    sampler = make_sampler(table(10, 30, pseudo=(20, 20)), settings, 0, 1)
    assert max(rows(sampler, 0)) < 40 and sampler.total() == 20
    sampler.epoch = 1
    later = sampler.order()
    assert (
        sampler.total() == 30 and ((40 <= later) & (later < 60)).sum() == 5 == (later >= 60).sum()
    )
    assert sampler.facts() == {"positive_share": 0.5}


def test_predicted_masks_beside_all_images():
    sampler = make_sampler(
        table(4, 8, pseudo=(3, 0)), replace(SETTINGS, sampling="all", pseudo_ratio=0.5), 0, 1
    )
    assert sorted(rows(sampler, 0)) == list(range(12)) and sampler.facts() == {
        "positive_share": round(4 / 12, 4)
    }
    sampler.epoch = 1
    assert sampler.total() == 12 + 2 and (sampler.order() >= 12).sum() == 2


@pytest.mark.parametrize("sampling", ["share", "balanced", "positives"])
def test_without_positives(sampling):
    with pytest.raises(
        InputError, match=f"--sampling {sampling} needs training images with a finding"
    ):
        make_sampler(table(0, 9), replace(SETTINGS, sampling=sampling), 0, 1)


def test_without_negatives():
    assert sorted(rows(make_sampler(table(8, 0), SETTINGS, 0, 1))) == list(range(8))


def test_any_counts():
    sampler = ShareSampler([True, False, False], lambda epoch: (1, epoch), 1, 0)
    sampler.epoch = 6
    assert (
        sampler.total() == 7
        and sampler.batches() == 7
        and sorted(set(rows(sampler, 6)) - {1, 2}) == [0]
    )
