"""Learning rates over the epochs of a run, each as the winners had it or as the field does."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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


def is_trough(training: TrainingSettings, epoch: int) -> bool:
    """Whether the rate of `waves` or `restarts` is lowest in an epoch, counted from 0.

    So are all of the last four of `restarts`.
    """
    if training.schedule == "waves":
        return epoch % (2 * training.cycle) == training.cycle
    in_tail = training.epochs - epoch <= len(LAST) < training.epochs
    return in_tail or epoch % training.cycle == training.cycle - 1


def has_troughs(training: TrainingSettings) -> bool:
    return training.schedule in ("waves", "restarts")


def count_epochs(training: TrainingSettings) -> int:
    """How many epochs are trained: --epochs, or up to the last trough before."""
    if has_troughs(training):
        for epochs in range(training.epochs, 0, -1):
            if is_trough(training, epochs - 1):
                return epochs
    return training.epochs


def may_end(training: TrainingSettings, epochs: int) -> bool:
    """Whether --patience may end a training after so many epochs: with troughs only at one."""
    return not has_troughs(training) or is_trough(training, epochs - 1)


def kept_epochs(training: TrainingSettings, metrics: Sequence[float]) -> list[int]:
    """Epochs, counted from 1, whose checkpoints are kept after those with these metrics.

    The last --keep, of schedules with troughs the last troughs, and the --keep-best best ones.
    Before the first trough there is nothing better than the last epochs.
    """
    epochs = range(1, len(metrics) + 1)
    latest = list(epochs)
    if has_troughs(training):
        troughs = [epoch for epoch in epochs if is_trough(training, epoch - 1)]
        latest = troughs or latest
    known = [epoch for epoch in epochs if not math.isnan(metrics[epoch - 1])]
    # Of equal ones the later, which has learned longer.
    best = sorted(known, key=lambda epoch: (-metrics[epoch - 1], -epoch))
    return sorted({*latest[-training.keep :], *best[: training.keep_best]})


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
