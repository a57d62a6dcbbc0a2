"""Parts of the training by hand: schedules, averages, counts, the log, one batch by heart."""

import csv
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cxr.data.batch import Sample, collate
from cxr.data.samplers import ResumableSampler
from cxr.steps.train.engine import count_updates
from cxr.steps.train.schedules import make_scheduler
from cxr.steps.train.state import TrainingState, make_optimizer, moving_average
from cxr.system.metric_log import EpochFigures, MetricLog
from cxr.tasks import TASKS

RSNA = TASKS["rsna"]


def training(**values):
    return RSNA.make_settings(values).training


def test_the_encoder_may_learn_more_slowly():
    model = torch.nn.Module()
    model.encoder = torch.nn.Linear(2, 3)
    model.head = torch.nn.Linear(3, 1)
    for optimizer in ("adam", "adamw", "sgd"):
        slow = training(optimizer=optimizer, lr=0.5, encoder_lr=0.1, schedule="cosine", epochs=10)
        made = make_optimizer(model, slow, torch.device("cpu"))
        assert [group["lr"] for group in made.param_groups] == [0.5, pytest.approx(0.05)]
        head, encoder = (group["params"] for group in made.param_groups)
        assert {*map(id, head)} == {*map(id, model.head.parameters())}
        assert {*map(id, encoder)} == {*map(id, model.encoder.parameters())}
        make_scheduler(made, slow, 100)
        rates = [group["lr"] for group in made.param_groups]
        assert rates[1] == pytest.approx(0.1 * rates[0])
    alike = make_optimizer(model, training(), torch.device("cpu"))
    assert len(alike.param_groups) == 1


def test_cosine_schedule_by_hand():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0)
    scheduler = make_scheduler(optimizer, training(schedule="cosine", epochs=10), 100)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[:3] == pytest.approx([1 / 3, 2 / 3, 1.0], abs=2e-3)
    assert rates[50] == pytest.approx(0.505)
    assert rates[25] == pytest.approx(0.01 + 0.99 * (1 + 2**-0.5) / 2)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)


def test_the_schedule_counts_epochs_of_different_length():
    """Ten images in the first epoch, fifteen in the others; batches of five, two to an update."""
    sampler = ResumableSampler(10, 5, 0, True)
    sampler.total = lambda: 10 if sampler.epoch == 0 else 15
    settings = RSNA.make_settings({"epochs": 3, "accumulate": 2})
    assert count_updates(sampler, settings) == 1 + 2 + 2
    assert sampler.epoch == 0


def test_moving_average_by_hand():
    """Updates 0 and 1 weigh the past by 1/10 and 2/11, later ones by the decay.

    Whole numbers are copied.
    """
    state = SimpleNamespace(settings=RSNA.make_settings({"ema": 0.5}), epoch=0, teacher_decay=None)
    decay = partial(TrainingState.decay, state)
    average = [torch.tensor([0.0]), torch.tensor([[2.0]])]
    whole = [torch.tensor(3)]
    for updates, expected in ((0, 9.0), (1, 9.0 * 2 / 11 + 10 * 9 / 11)):
        update = moving_average(decay, lambda updates=updates: updates)
        update(average, [torch.tensor([10.0]), torch.tensor([[2.0]])], None)
        update(whole, [torch.tensor(7)], None)
        assert float(average[0]) == pytest.approx(expected)
        assert float(average[1]) == 2
        assert int(whole[0]) == 7
    average = [torch.tensor([0.0])]
    moving_average(decay, lambda: 1000)(average, [torch.tensor([10.0])], None)
    assert float(average[0]) == 5


def figures(epoch, loss):
    return EpochFigures(
        epoch=epoch,
        lr=0.1,
        gradient_norm=2.5,
        train={"loss": loss, "box": 0.25},
        valid={"loss": 0.5, "box": 0.125},
        metrics={"metric": 0.75, "ap_effusion": 0.5},
        seconds=2.0,
        images_per_second=30.0,
        sampling={"positive_share": 0.8},
    )


def test_an_epoch_has_explicit_names_everywhere():
    row = figures(1, 1.0)
    assert list(row.columns()) == [
        *("epoch", "lr", "train_loss", "train_box", "valid_loss", "valid_box"),
        *("metric", "ap_effusion", "positive_share", "gradient_norm"),
        *("seconds", "images_per_second"),
    ]
    assert row.tags() == {
        "loss_loss/train": 1.0,
        "loss_box/train": 0.25,
        "loss_loss/valid": 0.5,
        "loss_box/valid": 0.125,
        "metrics/metric": 0.75,
        "metrics/ap_effusion": 0.5,
        "sampling/positive_share": 0.8,
        "optimizer/lr": 0.1,
        "optimizer/gradient_norm": 2.5,
        "speed/images_per_second": 30.0,
        "speed/seconds": 2.0,
    }
    assert row.line(("metric", "ap_effusion")) == (
        "train 1.0000, valid 0.5000, metric 0.7500, ap effusion 0.5000, 30.0 images/s"
    )


def test_an_epoch_that_is_trained_again_replaces_itself_and_what_follows(tmp_path):
    path = tmp_path / "log.csv"
    with MetricLog(path, 1) as log:
        for number in (1, 2, 3):
            log.write(figures(number, float(number)))
        log.write(figures(2, 7.0))
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["train_loss"]) for row in rows] == [("1", "1.0"), ("2", "7.0")]
    assert list(tmp_path.glob("events*"))


@pytest.mark.slow
def test_the_real_network_learns_one_batch_by_heart():
    """RetinaNet on two images: the white rectangle on one is found, and nothing on the other."""
    values = {"encoder": "tu-resnet10t", "weights": "none", "levels": "4-6", "channels": 16}
    values |= {"head_convs": 1, "dropout": 0.0, "image_size": 192, "clip": 1.0}
    settings = RSNA.make_settings(values)
    method = RSNA.method
    torch.manual_seed(0)
    model = method.build_model(settings, RSNA.used_labels(settings))
    images = torch.randint(0, 60, (2, 1, 192, 192), dtype=torch.uint8)
    images[0, 0, 40:120, 60:130] = 250
    make_target = method.make_target(settings)
    samples = []
    for row, (label, count) in enumerate(((2, 1), (0, 0))):
        boxes = torch.tensor([[60.0, 40, 130, 120]])[:count]
        labels = torch.zeros(count).long()
        target = make_target(boxes, labels)
        samples.append(Sample(images[row], boxes, labels, label, row, target=target))
    batch = collate(samples)

    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    losses = []
    for _ in range(25):
        loss = sum(method.loss(model(images), batch, model, settings).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.1 * losses[0]

    with torch.no_grad():
        quick = method.quick_predictions(model(images), batch, model, settings)
    detections = quick[0].detections
    assert not detections.labels.any()
    assert detections.scores[0] > 0.5
    assert np.abs(detections.boxes[0] - [60, 40, 130, 120]).max() < 8
    assert (quick[1].detections.scores < 0.3).all()
