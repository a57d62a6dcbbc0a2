"""X-ray files to the stored PNGs of step 02, by several processes that may die."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from tqdm import tqdm

from cxr.images.header import Header
from cxr.images.isolated import FileToConvert, convert_files
from cxr.images.printable import UnreadableImage
from cxr.system import distributed


class Job(NamedTuple):
    """An X-ray file and the PNG that it becomes."""

    image_id: str
    path: str
    target: Path


class FinishedJob(NamedTuple):
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

    What an earlier run converted is kept. Under torchrun each process does its share, and all know
    what became of every file. workers: number of processes, at least one, since a
    file may end the process that decodes it. OSError where writing fails.
    """
    jobs = []
    for row in table.itertuples():
        jobs.append(Job(row.image_id, row.path, folder / f"{row.image_id}.png"))
    kept = {path.name for path in folder.glob("*.png")}
    converted = sum(job.target.name in kept for job in jobs)
    distributed.barrier()  # all have seen what is there
    if distributed.rank() == 0:
        print(f"{len(jobs)} images, {converted} of them converted by an earlier run")

    headers = {}
    failed = []
    mine = jobs[distributed.rank() :: distributed.world()]
    is_quiet = distributed.rank() > 0
    with tqdm(
        total=len(mine), unit="image", desc="convert", mininterval=1, disable=is_quiet
    ) as bar:
        for outcome in _outcomes(mine, size, workers):
            bar.update()
            job = outcome.job
            if outcome.header is None:
                failed.append((job.image_id, job.path, outcome.reason))
            else:
                headers[job.image_id] = outcome.header
    parts = distributed.gather((headers, failed))
    headers = {name: header for part, _ in parts for name, header in part.items()}
    failed = sorted(row for _, part in parts for row in part)
    return Conversion(headers, pd.DataFrame(failed, columns=["image_id", "path", "reason"]))


def _outcomes(jobs: list[Job], size: int, workers: int) -> Iterator[FinishedJob]:
    """Yield what became of each job, in their order."""
    files = [FileToConvert(Path(job.path), job.target, size) for job in jobs]
    results = convert_files(files, max(1, workers))
    for job, result in zip(jobs, results, strict=True):
        if isinstance(result, UnreadableImage):
            yield FinishedJob(job, None, str(result))
        else:
            yield FinishedJob(job, result, "")
