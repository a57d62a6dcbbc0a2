"""Several folds at a time, each with its share of a CPU's cores.

A small network uses two cores less than twice as well as one, so two folds beside one another are
done sooner than one after the other.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import multiprocessing
from torch.multiprocessing import ProcessExitedException

from cxr.settings import Settings
from cxr.system.errors import STOPPED, InputError
from cxr.system.runtime import NO_BARS, Runtime
from cxr.tasks import Task

# Trains the wanted folds one after the other; returns 0, or STOPPED.
TrainFolds = Callable[[Task, Settings], int]
LEAST_HOURS = 1e-9  # of --max-hours, whose 0 is no limit


def folds_at_a_time(settings: Settings, folds: Sequence[int], runtime: Runtime) -> int:
    """How many of the folds to train beside one another.

    A preset's wish counts where there are cores for it, a flag in any case. Raises InputError for a
    flag where there is no CPU to share out.
    """
    wanted = settings.machine.parallel_folds
    is_given = "parallel_folds" in settings.given
    if runtime.device.type != "cpu" or runtime.world > 1:
        if is_given and wanted > 1:
            raise InputError(
                "--parallel-folds shares out the cores of one process on a CPU: leave it out on "
                "a GPU and under torchrun"
            )
        return 1
    if not is_given:
        wanted = min(wanted, torch.get_num_threads())
    return min(wanted, len(folds))


def train_side_by_side(
    train: TrainFolds,
    task: Task,
    settings: Settings,
    folds: Sequence[int],
    count: int,
    runtime: Runtime,
) -> int:
    """Train the folds in `count` processes. Returns 0, or STOPPED when --max-hours came first.

    They end with this one, even if it is killed (on Linux). Raises what a process raised that is
    for the user.
    """
    threads = max(1, torch.get_num_threads() // count)
    runtime.say(
        f"{count} folds at a time, each with 1/{count} of the cores; a line for each epoch "
        "(--parallel-folds 1: one after the other)"
    )
    settings = settings.replace(parallel_folds=1)
    shares = [folds[number::count] for number in range(count)]
    answers = multiprocessing.get_context("spawn").SimpleQueue()
    with without_bars():
        processes = multiprocessing.spawn(
            train_share,
            (train, task, settings, shares, threads, answers, os.getpid(), runtime.deadline),
            count,
            join=False,
        )
        assert processes is not None  # as join is False
    try:
        while not processes.join():
            pass
    except ProcessExitedException as error:
        raise InputError(
            f"a process that trained folds was ended ({error}), perhaps since the memory was full: "
            "run the same command again with --parallel-folds 1"
        ) from error
    finally:
        for process in processes.processes:  # of Ctrl-C, which need not have reached them
            process.terminate()
    given = [answers.get() for _ in shares]
    for answer in given:
        if isinstance(answer, BaseException):
            raise answer
    return max(given)


def train_share(
    number: int,
    train: TrainFolds,
    task: Task,
    settings: Settings,
    shares: Sequence[Sequence[int]],
    threads: int,
    answers: Any,
    parent: int,
    deadline: float | None,
) -> None:
    """Train the folds of share `number` one after the other, in a process of their own.

    Puts into the queue `answers` 0, STOPPED, or an error that is for the user. parent: number of
    the process that started this one. deadline: as in `Runtime`; all processes have one clock.
    """
    # What PyTorch lets the system send when the parent ends; a shell's background jobs ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if os.getppid() != parent:  # it ended before that
        return
    torch.set_num_threads(threads)
    try:
        for fold in shares[number]:
            of_fold = settings.replace(fold=fold)
            if deadline is not None:
                left = (deadline - time.monotonic()) / 3600
                of_fold = of_fold.replace(max_hours=max(left, LEAST_HOURS))
            if train(task, of_fold) == STOPPED:
                answers.put(STOPPED)
                return
        answers.put(0)
    except (InputError, OSError) as error:
        answers.put(error)


@contextmanager
def without_bars() -> Iterator[None]:
    """Processes that are started here draw no progress bars, which would overwrite one another."""
    before = os.environ.get(NO_BARS)
    os.environ[NO_BARS] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[NO_BARS]
        else:
            os.environ[NO_BARS] = before
