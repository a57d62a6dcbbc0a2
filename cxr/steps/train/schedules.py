"""Learning rates over the epochs of a run, each as the winners had it or as the field does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer, lr_scheduler

from cxr.settings import TrainingSettings

LAST = (1 / 50, 1 / 50, 1 / 100, 1 / 100)  # of the rate, in the last epochs of `restarts`
WARMUP = 0.03  # share of all updates
LOWEST = 0.01  # of the rate, at the end of `cosine`


def make_scheduler(optimizer: Optimizer, training: TrainingSettings, updates: int) -> Any:
    """Scheduler of a run of so many updates in all its epochs."""
    if training.schedule == "plateau":
        return lr_scheduler.ReduceLROnPlateau(optimizer, patience=4, factor=0.2)
    if training.schedule == "metric":
        return lr_scheduler.ReduceLROnPlateau(
            optimizer, "max", patience=2, factor=0.1, threshold=1e-7, min_lr=1e-7
        )
    if training.schedule == "cosine":
        return lr_scheduler.LambdaLR(optimizer, lambda step: warm_cosine(step, max(1, updates)))
    return lr_scheduler.LambdaLR(optimizer, lambda epoch: epoch_rate(training, epoch))


def warm_cosine(step: int, total: int) -> float:
    """Factor of the rate at an update: to 1 %, after a warm-up of 3 %."""
    warmup = max(1, round(WARMUP * total))
    rise = (step + 1) / warmup
    fall = (1 + math.cos(math.pi * min(1, step / total))) / 2
    return min(rise, LOWEST + (1 - LOWEST) * fall)


def epoch_rate(training: TrainingSettings, epoch: int) -> float:
    """Factor of the rate in an epoch, counted from 0, of `constant`, `waves` and `restarts`."""
    lowest = training.lr_min / training.lr
    left = training.epochs - epoch
    if training.schedule == "restarts" and left <= len(LAST) < training.epochs:
        return LAST[-left] if left > 0 else LAST[-1]
    moments = {"constant": 0, "waves": epoch, "restarts": epoch % training.cycle}
    phase = moments[training.schedule] / training.cycle
    return lowest + (1 - lowest) * (1 + math.cos(math.pi * phase)) / 2


def after_update(scheduler: Any, training: TrainingSettings) -> None:
    """Move on the schedules that count updates."""
    if training.schedule == "cosine":
        scheduler.step()


def after_epoch(
    scheduler: Any, training: TrainingSettings, results: Mapping[str, float], plateau_term: str
) -> None:
    """Move on the schedules that count epochs; plateau_term: the loss that `plateau` watches."""
    if training.schedule == "plateau":
        scheduler.step(results[f"valid_{plateau_term}"])
    elif training.schedule == "metric":
        scheduler.step(results["metric"])
    elif training.schedule != "cosine":
        scheduler.step()
