"""Learning rates of the winners over the epochs, and from when on weights are averaged."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cxr.steps.train.schedules import (
    after_epoch,
    after_update,
    count_epochs,
    kept_epochs,
    make_scheduler,
    may_end,
)
from cxr.steps.train.state import TrainingState
from cxr.tasks import TASKS

MASKS = TASKS["pneumothorax"]


def make_optimizer(lr):
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr)


def rates(epochs, metrics=None, **changes):
    """Learning rate of each epoch; metrics: those after the epochs."""
    training = MASKS.make_settings({"epochs": epochs} | changes).training
    optimizer = make_optimizer(training.lr)
    scheduler = make_scheduler(optimizer, training, 10 * epochs)
    metrics = metrics or [0] * epochs
    result = []
    for metric in metrics:
        result.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        after_update(scheduler, training)
        after_epoch(scheduler, training, {"metric": metric, "valid_loss": 1.0}, "loss")
    return result


def test_restarts_of_the_second():
    lr = rates(34, schedule="restarts", cycle=5, lr=5e-4, lr_min=1e-5)
    assert lr[:5] == pytest.approx([5e-4, 4.5e-4, 3.3e-4, 1.8e-4, 5.7e-5], rel=0.02)
    assert lr[5:10] == pytest.approx(lr[:5])
    assert lr[25:30] == lr[5:10]
    assert lr[30:] == pytest.approx([1e-5, 1e-5, 5e-6, 5e-6])


def test_waves_fall_and_rise():
    lr = rates(60, schedule="waves", cycle=8, lr=7.5e-5, lr_min=1e-6)
    optimizer = make_optimizer(7.5e-5)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 8, 1e-6)
    expected = []
    for _ in range(60):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert lr == pytest.approx(expected, rel=1e-6)
    assert lr[8] == pytest.approx(1e-6)


def test_the_rate_falls_when_the_metric_stands_still():
    metrics = [0.1, 0.2, 0.2, 0.2, 0.2, 0.3, 0.4, 0.5, 0.6]
    lr = rates(9, metrics, schedule="metric", lr=1e-4)
    assert lr == pytest.approx([1e-4] * 5 + [1e-5] * 4)


def test_constant():
    assert rates(3, schedule="constant", lr=3e-4) == pytest.approx([3e-4] * 3)


def training_of(**values):
    return MASKS.make_settings(values).training


def test_restarts_keep_the_epochs_that_the_second_averaged():
    """24, 29 and the last four, counted from 0."""
    training = training_of(schedule="restarts", cycle=5, epochs=34, keep=6)
    assert count_epochs(training) == 34
    kept = kept_epochs(training, [0.5] * 34)
    assert kept == [25, 30, 31, 32, 33, 34]
    assert [may_end(training, epochs) for epochs in (29, 30, 31)] == [False, True, True]


def test_waves_end_at_a_trough_and_keep_the_troughs():
    """With --cycle 8 the rate is lowest in the 9th, 25th, 41st and 57th epoch."""
    training = training_of(schedule="waves", cycle=8, epochs=60, keep=3)
    assert count_epochs(training) == 57
    assert kept_epochs(training, [0.5] * 57) == [25, 41, 57]
    assert kept_epochs(training, [0.5] * 24) == [9]
    assert kept_epochs(training, [0.5] * 8) == [6, 7, 8]
    rate = rates(57, schedule="waves", cycle=8, lr=7.5e-5, lr_min=1e-6)
    assert rate[56] == rate[24] == min(rate)


def test_short_waves_have_no_trough():
    training = training_of(schedule="waves", cycle=8, epochs=5, keep=2)
    assert count_epochs(training) == 5
    assert kept_epochs(training, [0.5] * 5) == [4, 5]


def test_patience_waits_for_the_trough_of_a_wave():
    training = training_of(schedule="waves", cycle=2, epochs=20)
    assert [epochs for epochs in range(1, 12) if may_end(training, epochs)] == [3, 7, 11]
    assert may_end(training_of(schedule="plateau"), 4)


def test_the_best_epochs_beside_the_last():
    training = training_of(schedule="constant", keep=2, keep_best=2)
    assert kept_epochs(training, [0.1, 0.9, 0.3, 0.9, 0.2, 0.1]) == [2, 4, 5, 6]
    assert kept_epochs(training, [float("nan")] * 3) == [2, 3]


def test_the_average_of_the_third_is_a_copy_before_its_epoch():
    settings = MASKS.make_settings({"ema": 0.99, "ema_from": 7})
    state = SimpleNamespace(settings=settings, epoch=5, teacher_decay=None)
    assert TrainingState.decay(state, 5000) == 0
    state.epoch = 6
    assert TrainingState.decay(state, 5000) == 0.99
