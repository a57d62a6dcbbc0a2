"""Learning rates: stepped after each update (`cosine`), after each epoch, or by the results of an epoch."""

import math

from torch.optim import lr_scheduler

LAST = (1 / 50, 1 / 50, 1 / 100, 1 / 100)  # of the rate, in the last epochs of `restarts`


def make_scheduler(optimizer, config, updates):
    """Scheduler of a run of so many updates in all its epochs."""
    if config.schedule == "plateau":
        return lr_scheduler.ReduceLROnPlateau(optimizer, patience=4, factor=0.2)
    if config.schedule == "metric":
        return lr_scheduler.ReduceLROnPlateau(
            optimizer, "max", patience=2, factor=0.1, threshold=1e-7, min_lr=1e-7
        )
    if config.schedule == "cosine":
        return lr_scheduler.LambdaLR(optimizer, lambda step: warm_cosine(step, max(1, updates)))
    return lr_scheduler.LambdaLR(optimizer, lambda epoch: epoch_rate(config, epoch))


def warm_cosine(step, total):
    """To 1 % of the rate, after a warm-up of 3 %."""
    warmup = max(1, round(0.03 * total))
    return min(
        (step + 1) / warmup, 0.01 + 0.99 * (1 + math.cos(math.pi * min(1, step / total))) / 2
    )


def epoch_rate(config, epoch):
    """Factor of the rate in an epoch, counted from 0, of `constant`, `waves` and `restarts`."""
    lowest = config.lr_min / config.lr
    place = {"constant": 0, "waves": epoch, "restarts": epoch % config.cycle}[
        config.schedule
    ] / config.cycle
    left = config.epochs - epoch
    if config.schedule == "restarts" and left <= len(LAST) < config.epochs:
        return LAST[-left] if left > 0 else LAST[-1]
    return lowest + (1 - lowest) * (1 + math.cos(math.pi * place)) / 2


def after_update(scheduler, config):
    if config.schedule == "cosine":
        scheduler.step()


def after_epoch(scheduler, config, results, term):
    """`term` is the validation loss that `plateau` watches."""
    if config.schedule == "plateau":
        scheduler.step(results[f"valid_{term}"])
    elif config.schedule == "metric":
        scheduler.step(results["metric"])
    elif config.schedule != "cosine":
        scheduler.step()
