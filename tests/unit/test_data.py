"""Dataset, padding, and the sampler that can start anywhere."""

import json

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from tiny_task import write_tiny_data

from cxr.data.dataset import (
    ResumableSampler,
    XrayDataset,
    collate,
    count_workers,
    make_loader,
    read_png,
    read_table,
    scaled_boxes,
    split_fold,
)
from cxr.system.disk import InputError


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    working = tmp_path_factory.mktemp("data")
    write_tiny_data(working, train=13, test=3)
    return working / "tiny"


def dataset(tiny, **settings):
    return XrayDataset(
        read_table(tiny / "train.csv"), tiny / "images", **({"image_size": 64} | settings)
    )


def same(a, b):
    return a.keys() == b.keys() and all(
        torch.equal(torch.as_tensor(a[k]), torch.as_tensor(b[k])) for k in a
    )


def test_sample_without_augmentation(tiny):
    """A 64 px picture of a 128 x 96 original at 32 px: x is a quarter, y a third of the original's."""
    data = dataset(tiny, image_size=32)
    sample, row = data[(0, 1)], data.table.iloc[1]
    x1, y1, x2, y2 = json.loads(row["boxes"])[0]
    assert sample["image"].shape == (1, 32, 32) and sample["image"].dtype == torch.uint8
    assert torch.allclose(sample["boxes"], torch.tensor([[x1 / 4, y1 / 3, x2 / 4, y2 / 3]]))
    assert sample["labels"].tolist() == [0] and sample["label"] == 2 and sample["index"] == 1
    x1, y1, x2, y2 = sample["boxes"][0].round().int().tolist()
    assert sample["image"][0, y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].min() > 240
    assert sample["image"][0, :, : x1 - 1].max() < 100


def test_sample_without_boxes(tiny):
    for augmentation in ("1", "20"):
        sample = dataset(tiny, augmentation=augmentation)[(0, 0)]
        assert (
            sample["boxes"].shape == (0, 4)
            and sample["labels"].shape == (0,)
            and sample["label"] == 0
        )


def test_test_table_needs_no_labels(tiny):
    table = read_table(tiny / "test.csv").drop(columns=["boxes", "box_labels", "label"])
    sample = XrayDataset(table, tiny / "images", 64)[(0, 2)]
    assert sample["boxes"].shape == (0, 4) and sample["label"] == -1


def test_augmentation_is_decided_by_seed_epoch_and_row(tiny):
    first = dataset(tiny, augmentation="20", seed=1)[(3, 5)]
    assert same(first, dataset(tiny, augmentation="20", seed=1)[(3, 5)])
    for other in ((2, 3, 5), (1, 4, 5), (1, 3, 7)):
        changed = dataset(tiny, augmentation="20", seed=other[0])[other[1:]]
        assert not torch.equal(first["image"], changed["image"])


def test_batches_do_not_depend_on_workers(tiny):
    batches = []
    for workers in (0, 2):
        data = dataset(tiny, augmentation="20", seed=1)
        loader = make_loader(data, ResumableSampler(len(data), 4, seed=1, shuffle=True), workers)
        epochs = []
        for epoch in (0, 1):
            loader.sampler.epoch = epoch
            epochs += list(loader)
        batches.append(epochs)
    assert len(batches[0]) == len(batches[1]) == 2 * (13 // 4)
    assert all(same(a, b) for a, b in zip(*batches))
    assert not same(batches[0][0], batches[0][3])


def test_missing_and_broken_pictures(tiny, tmp_path):
    with pytest.raises(
        InputError, match="nowhere.png is missing or not a picture.*run step 02 again"
    ):
        read_png(tmp_path / "nowhere.png")
    (tmp_path / "broken.png").write_bytes((tiny / "images" / "train000.png").read_bytes()[:40])
    with pytest.raises(InputError, match="broken.png"):
        read_png(tmp_path / "broken.png")


def test_colour_pictures_are_read_as_gray(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((8, 8, 3), 77, np.uint8))
    assert read_png(tmp_path / "a.png").shape == (8, 8)


def test_boxes_of_an_original_that_is_not_square():
    row = {"boxes": "[[100, 300, 200, 600]]", "box_labels": "[0]", "width": 1000, "height": 3000}
    boxes, labels = scaled_boxes(row, 500, 500)
    assert boxes.tolist() == [[50, 50, 100, 100]] and labels.tolist() == [0]


def sample_of(count, index):
    return {
        "image": torch.full((1, 2, 2), index),
        "boxes": torch.full((count, 4), float(index)),
        "labels": torch.full((count,), index),
        "label": index + 10,
        "index": index,
    }


def test_collate_pads():
    batch = collate([sample_of(1, 0), sample_of(3, 1), sample_of(0, 2)])
    assert batch["image"].shape == (3, 1, 2, 2) and batch["boxes"].shape == (3, 3, 4)
    assert batch["labels"].tolist() == [[0, -1, -1], [1, 1, 1], [-1, -1, -1]]
    assert batch["boxes"][1].unique().tolist() == [1] and batch["boxes"][2].unique().tolist() == [0]
    assert batch["label"].tolist() == [10, 11, 12] and batch["index"].tolist() == [0, 1, 2]


def test_collate_without_any_box():
    batch = collate([sample_of(0, 0)])
    assert batch["boxes"].shape == (1, 1, 4) and batch["labels"].tolist() == [[-1]]


SIZES = st.integers(1, 40), st.integers(1, 6), st.integers(0, 5)


@given(*SIZES, st.booleans(), st.integers(0, 7))
def test_sampler_resumes_at_any_batch(length, batch_size, epoch, shuffle, first):
    sampler = ResumableSampler(length, batch_size, 42, shuffle)
    sampler.epoch = epoch
    whole = list(sampler)
    sampler.first_batch = min(first, sampler.batches())
    assert list(sampler) == whole[sampler.first_batch * batch_size :]
    assert -(-len(whole) // batch_size) == sampler.batches()
    assert {e for e, _ in whole} == {epoch}


@given(*SIZES, st.booleans(), st.integers(2, 4))
def test_processes_share_the_images(length, batch_size, epoch, shuffle, world):
    """Nobody sees an image twice; in validation nothing is left out; in training all have the same number of batches,
    and what is left out could not fill one more batch for everyone."""
    assume(length >= world or not shuffle)
    parts = []
    for rank in range(world):
        sampler = ResumableSampler(length, batch_size, 42, shuffle, rank, world)
        sampler.epoch = epoch
        parts.append([row for _, row in sampler])
    rows = sum(parts, [])
    assert len(set(rows)) == len(rows) and set(rows) <= set(range(length))
    if not shuffle:
        assert len(rows) == length
    elif length >= batch_size * world:
        assert len({len(part) for part in parts}) == 1 and length - len(rows) < batch_size * world


@given(st.integers(12, 40), st.integers(1, 3))
def test_the_first_batches_of_two_processes_are_one_of_a_single(length, batch_size):
    one = [row for _, row in ResumableSampler(length, 2 * batch_size, 42, True)]
    two = [
        [row for _, row in ResumableSampler(length, batch_size, 42, True, rank, 2)]
        for rank in (0, 1)
    ]
    for k in range(len(one) // (2 * batch_size)):
        together = sum((part[k * batch_size : (k + 1) * batch_size] for part in two), [])
        assert sorted(together) == sorted(one[2 * k * batch_size : 2 * (k + 1) * batch_size])


def test_order_changes_with_the_epoch_and_the_seed():
    orders = []
    for seed, epoch in ((42, 0), (42, 1), (43, 0)):
        sampler = ResumableSampler(50, 5, seed, True)
        sampler.epoch = epoch
        orders.append(tuple(sampler.order()))
    assert len(set(orders)) == 3 and all(sorted(order) == list(range(50)) for order in orders)
    assert ResumableSampler(5, 2, 42, False).order().tolist() == [0, 1, 2, 3, 4]


def test_more_processes_than_images_are_refused():
    """One without a batch would leave the others waiting for its gradients for ever."""
    with pytest.raises(InputError, match="4 processes cannot share 3 training images"):
        ResumableSampler(3, 2, 42, True, rank=0, world=4)


@pytest.mark.parametrize("wanted, expected", [(0, 0), (3, 3), (20, 20)])
def test_workers_as_wanted(wanted, expected):
    assert count_workers(wanted) == expected


@pytest.mark.parametrize("cores, expected", [(1, 2), (4, 4), (64, 8), (None, 2)])
def test_workers_by_cores(monkeypatch, cores, expected):
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    assert count_workers(-1) == expected


def test_table_that_is_missing(tmp_path):
    with pytest.raises(InputError, match="train.csv is missing: run step 02 first"):
        read_table(tmp_path / "train.csv")


def test_ids_of_digits_stay_text(tmp_path):
    (tmp_path / "t.csv").write_text("image_id,group\n007,01\n")
    table = read_table(tmp_path / "t.csv")
    assert table["image_id"].tolist() == ["007"] and table["group"].tolist() == ["01"]


def test_split_fold():
    table = pd.DataFrame({"image_id": list("abcdef"), "fold": [0, 1, 2, 0, 1, 2]})
    train, valid = split_fold(table, 1)
    assert train["image_id"].tolist() == list("acdf") and valid["image_id"].tolist() == list("be")
    with pytest.raises(InputError, match=r"fold 3 is not in the table.*folds there: \[0, 1, 2\]"):
        split_fold(table, 3)
    with pytest.raises(InputError, match="fold 1"):
        split_fold(table[table["fold"] == 1], 1)
