"""X-ray files to the stored PNGs of step 02, by several processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from tqdm import tqdm

from cxr.images.header import Header
from cxr.images.read import convert_image
from cxr.system.errors import InputError

# Images that a worker is handed at once; few, so that all workers end at about the same time.
TOGETHER = 4
# Such handfuls; keeps workers busy, and the queue does not grow with the number of images.
QUEUED_PER_WORKER = 3


class Job(NamedTuple):
    """An X-ray file and the PNG that it becomes."""

    image_id: str
    path: str
    target: Path


class Outcome(NamedTuple):
    """What became of a job: the file's header, or None and the reason why it was refused."""

    job: Job
    header: Header | None
    reason: str


@dataclass(frozen=True)
class Conversion:
    """headers: {image_id: header} of what was converted. failed: image_id, path, reason."""

    headers: dict[str, Header]
    failed: pd.DataFrame


def convert_all(table: pd.DataFrame, folder: Path, size: int, workers: int) -> Conversion:
    """Convert the file `path` of each row to folder/<image_id>.png of (size, size).

    What an earlier run converted is kept. workers: number of processes; up to 1: none but this.
    OSError where writing fails.
    """
    jobs = []
    for row in table.itertuples():
        jobs.append(Job(row.image_id, row.path, folder / f"{row.image_id}.png"))
    for leftover in folder.glob(".*.tmp.png"):  # of processes that were killed while writing
        leftover.unlink(missing_ok=True)
    kept = {path.name for path in folder.glob("*.png")}
    converted = sum(job.target.name in kept for job in jobs)
    print(f"{len(jobs)} images, {converted} of them converted by an earlier run")

    headers = {}
    failed = []
    with tqdm(total=len(jobs), unit="image", desc="convert", mininterval=1) as bar:
        for outcome in _outcomes(jobs, size, workers):
            bar.update()
            job = outcome.job
            if outcome.header is None:
                failed.append((job.image_id, job.path, outcome.reason))
            else:
                headers[job.image_id] = outcome.header
    return Conversion(headers, pd.DataFrame(sorted(failed), columns=["image_id", "path", "reason"]))


def _outcomes(jobs: list[Job], size: int, workers: int) -> Iterator[Outcome]:
    """Yield what became of the jobs as they finish."""
    if workers <= 1 or len(jobs) < 2:
        for job in jobs:
            yield _convert(job, size)
        return
    pool = ProcessPoolExecutor(workers)
    try:
        yield from through_pool(pool, jobs, size, workers * QUEUED_PER_WORKER)
    except BrokenProcessPool:
        raise InputError(
            "a process that converts images was killed, perhaps for lack of memory: run step 02 "
            "again with fewer --workers, it continues where it stopped"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def through_pool(
    pool: Executor, jobs: Iterable[Job], size: int, queue_length: int
) -> Iterator[Outcome]:
    """Yield what became of the jobs as they finish; `queue_length` handfuls wait at most."""
    waiting = iter(jobs)
    pending: set[Future[list[Outcome]]] = set()
    while True:
        while len(pending) < queue_length:
            handful = list(islice(waiting, TOGETHER))
            if not handful:
                break
            pending.add(pool.submit(_convert_handful, handful, size))
        if not pending:
            return
        finished, pending = wait(pending, return_when=FIRST_COMPLETED)
        for future in finished:
            yield from future.result()


def _convert_handful(jobs: list[Job], size: int) -> list[Outcome]:
    return [_convert(job, size) for job in jobs]


def _convert(job: Job, size: int) -> Outcome:
    header, reason = convert_image(job.path, job.target, size)
    return Outcome(job, header, reason)
