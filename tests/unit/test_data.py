"""Samples of a table, batches of samples, and the loader."""

import dataclasses
import json

import cv2
import numpy as np
import pytest
import torch
from tiny_data import write_tiny_data

from cxr.data.batch import Sample, SampleContent, collate
from cxr.data.dataset import XrayDataset, boxes_in_frame, read_png
from cxr.data.loader import count_workers, make_loader, make_prediction_loader
from cxr.data.samplers import ResumableSampler
from cxr.data.tables import read_table
from cxr.geometry.frames import Frame
from cxr.system.errors import InputError

FOR_PREDICTION = SampleContent(annotated=False)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    working = tmp_path_factory.mktemp("data")
    write_tiny_data(working, train=13, test=3)
    return working / "tiny"


def make_dataset(tiny, image_size=64, **options):
    return XrayDataset(read_table(tiny / "train.csv"), tiny / "images", image_size, **options)


def is_same(batch, other):
    """Whether all tensors of two batches are equal."""
    for field in dataclasses.fields(batch):
        first = getattr(batch, field.name)
        second = getattr(other, field.name)
        if torch.is_tensor(first):
            if not torch.equal(first, second):
                return False
        elif first != second:
            return False
    return True


def test_sample_without_augmentation(tiny):
    """A 64 px picture of a 128 x 96 original at 32 px: x is a quarter, y a third of it."""
    dataset = make_dataset(tiny, image_size=32)
    sample = dataset[(0, 1)]
    x1, y1, x2, y2 = json.loads(dataset.table.iloc[1]["boxes"])[0]
    assert sample.image.shape == (1, 32, 32)
    assert sample.image.dtype == torch.uint8
    assert torch.allclose(sample.boxes, torch.tensor([[x1 / 4, y1 / 3, x2 / 4, y2 / 3]]))
    assert sample.labels.tolist() == [0]
    assert sample.label == 2
    assert sample.row == 1
    x1, y1, x2, y2 = sample.boxes[0].round().int().tolist()
    assert sample.image[0, y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].min() > 240
    assert sample.image[0, :, : x1 - 1].max() < 100


def test_edges_of_boxes_move_in_training_only_as_asked(tiny):
    """Anew in each epoch, by at most a tenth of the side; the picture stays as it is."""
    plain = make_dataset(tiny)
    noisy = make_dataset(tiny, edge_noise=0.1)
    size = plain[0, 1].boxes[:, 2:] - plain[0, 1].boxes[:, :2]
    for epoch in range(5):
        sample = noisy[epoch, 1]
        assert torch.equal(sample.image, plain[epoch, 1].image)
        moved = (sample.boxes - plain[epoch, 1].boxes).abs()
        assert (moved > 0).any() and (moved <= 0.1 * size.repeat(1, 2) + 1e-4).all()
    assert not torch.equal(noisy[0, 1].boxes, noisy[1, 1].boxes)


@pytest.mark.parametrize("augmentation", ["1", "20"])
def test_sample_without_boxes(tiny, augmentation):
    sample = make_dataset(tiny, augmentation=augmentation)[(0, 0)]
    assert sample.boxes.shape == (0, 4)
    assert sample.labels.shape == (0,)
    assert sample.label == 0


def test_a_sample_holds_what_was_asked_for(tiny):
    """Columns that nobody asks for change nothing."""
    table = read_table(tiny / "train.csv").assign(mask="0 9", soft="[0.2, 0.8]", mask_known=False)
    plain = XrayDataset(table, tiny / "images", 64)[(0, 1)]
    assert plain.mask is None
    assert plain.mask_known is None
    assert plain.soft_label is None
    content = SampleContent(mask="boxes", soft_label=True)
    sample = XrayDataset(table, tiny / "images", 64, content)[(0, 1)]
    assert sample.mask.sum() == 20 * 24
    assert sample.mask_known is False
    assert sample.soft_label.tolist() == pytest.approx([0.2, 0.8])
    runs = XrayDataset(table, tiny / "images", 64, SampleContent(mask="runs"))[(0, 1)]
    assert runs.mask.shape == (1, 64, 64)
    assert runs.mask_known is None


def test_the_target_maker_gets_boxes_and_labels(tiny):
    def count_boxes(boxes, labels):
        return {"number": torch.tensor([len(boxes), len(labels)])}

    dataset = make_dataset(tiny, make_target=count_boxes)
    assert dataset[(0, 1)].target["number"].tolist() == [1, 1]
    batch = collate([dataset[(0, 0)], dataset[(0, 1)]])
    assert batch.target["number"].tolist() == [0, 0, 1, 1]
    assert batch.target_image["number"].tolist() == [0, 0, 1, 1]


def test_a_table_for_prediction_needs_ids_only(tiny):
    table = read_table(tiny / "test.csv")[["image_id"]]
    sample = XrayDataset(table, tiny / "images", 64, FOR_PREDICTION)[(0, 2)]
    assert sample.boxes.shape == (0, 4)
    assert sample.label == -1


def test_augmentation_is_decided_by_seed_epoch_and_row(tiny):
    first = make_dataset(tiny, augmentation="20", seed=1)[(3, 5)]
    again = make_dataset(tiny, augmentation="20", seed=1)[(3, 5)]
    assert is_same(first, again)
    for seed, epoch, row in ((2, 3, 5), (1, 4, 5), (1, 3, 7)):
        changed = make_dataset(tiny, augmentation="20", seed=seed)[(epoch, row)]
        assert not torch.equal(first.image, changed.image)


def batches_of_two_epochs(tiny, workers):
    dataset = make_dataset(tiny, augmentation="20", seed=1)
    sampler = ResumableSampler(len(dataset), 4, seed=1, shuffle=True)
    loader = make_loader(dataset, sampler, workers)
    batches = []
    for epoch in (0, 1):
        sampler.epoch = epoch
        batches.extend(loader)
    return batches


def test_batches_do_not_depend_on_workers(tiny):
    alone = batches_of_two_epochs(tiny, workers=0)
    shared = batches_of_two_epochs(tiny, workers=2)
    assert len(alone) == len(shared) == 2 * (13 // 4)
    assert all(is_same(a, b) for a, b in zip(alone, shared, strict=True))
    assert not is_same(alone[0], alone[3])


@pytest.mark.parametrize("workers", [0, 2])
def test_prediction_reads_the_rows_in_order(tiny, workers):
    table = read_table(tiny / "train.csv")[["image_id"]]
    dataset = XrayDataset(table, tiny / "images", 64, FOR_PREDICTION)
    loader = make_prediction_loader(dataset, [7, 2, 9], 2, workers)
    assert [batch.rows.tolist() for batch in loader] == [[7, 2], [9]]
    assert list(make_prediction_loader(dataset, [], 2, workers)) == []


def test_missing_and_broken_pictures(tiny, tmp_path):
    words = r"nowhere\.png is missing or not a picture.*run step 02 again"
    with pytest.raises(InputError, match=words):
        read_png(tmp_path / "nowhere.png")
    content = (tiny / "images" / "train000.png").read_bytes()
    (tmp_path / "broken.png").write_bytes(content[:40])
    with pytest.raises(InputError, match=r"broken\.png"):
        read_png(tmp_path / "broken.png")


def test_colour_pictures_are_read_as_gray(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((8, 8, 3), 77, np.uint8))
    assert read_png(tmp_path / "a.png").shape == (8, 8)


def test_boxes_of_an_original_that_is_not_square():
    row = {"boxes": "[[100, 300, 200, 600]]", "box_labels": "[0]", "width": 1000, "height": 3000}
    boxes, labels = boxes_in_frame(row, Frame("stored", 500, 500))
    assert boxes.tolist() == [[50, 50, 100, 100]]
    assert labels.tolist() == [0]


def make_sample(boxes, row):
    """A sample of 2 x 2 pixels with so many boxes, its row in all numbers."""
    return Sample(
        image=torch.full((1, 2, 2), row),
        boxes=torch.full((boxes, 4), float(row)),
        labels=torch.full((boxes,), row),
        label=row + 10,
        row=row,
    )


def test_collate_pads():
    batch = collate([make_sample(1, 0), make_sample(3, 1), make_sample(0, 2)])
    assert len(batch) == 3
    assert batch.images.shape == (3, 1, 2, 2)
    assert batch.boxes.shape == (3, 3, 4)
    assert batch.labels.tolist() == [[0, -1, -1], [1, 1, 1], [-1, -1, -1]]
    assert batch.boxes[1].unique().tolist() == [1]
    assert batch.boxes[2].unique().tolist() == [0]
    assert batch.image_labels.tolist() == [10, 11, 12]
    assert batch.rows.tolist() == [0, 1, 2]
    assert batch.masks is None


def test_collate_without_any_box():
    batch = collate([make_sample(0, 0)])
    assert batch.boxes.shape == (1, 1, 4)
    assert batch.labels.tolist() == [[-1]]


def test_a_batch_moves_as_one():
    samples = [make_sample(1, 0), make_sample(2, 1)]
    for sample in samples:
        sample.mask = torch.ones(1, 2, 2, dtype=torch.uint8)
        sample.target = {"anchors": torch.arange(3)}
    batch = collate(samples).map(lambda tensor: tensor + 1)
    assert batch.rows.tolist() == [1, 2]
    assert batch.masks.unique().tolist() == [2]
    assert batch.target["anchors"].tolist() == [1, 2, 3, 1, 2, 3]
    assert batch.target_image["anchors"].tolist() == [1, 1, 1, 2, 2, 2]
    assert batch.mask_known is None


@pytest.mark.parametrize("wanted, expected", [(0, 0), (3, 3), (20, 20)])
def test_workers_as_wanted(wanted, expected):
    assert count_workers(wanted) == expected


@pytest.mark.parametrize("cores, expected", [(1, 2), (4, 4), (64, 8), (None, 2)])
def test_workers_by_cores(monkeypatch, cores, expected):
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    assert count_workers(-1) == expected
