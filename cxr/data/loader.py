"""Samples to batches, by processes that read and augment beside the network."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from cxr.data.batch import collate
from cxr.data.dataset import XrayDataset
from cxr.data.samplers import ResumableSampler, RowSampler
from cxr.system.errors import InputError

PREFETCH = 2  # batches that each process makes in advance; PyTorch's own value


def count_workers(wanted: int) -> int:
    """Processes for --workers: -1 is one for each core, at least 2, at most 8; others stay."""
    if wanted >= 0:
        return wanted
    return min(8, max(2, os.cpu_count() or 2))


def one_thread(worker_id: int) -> None:
    """PyTorch's own threads in every worker would only fight over the cores."""
    del worker_id
    torch.set_num_threads(1)


def check_shared_memory(batch_bytes: int, workers: int, folder: Path = Path("/dev/shm")) -> None:
    """Raises InputError where loader processes could not hand over their batches.

    They do so in `folder`; Docker gives it 64 MB, and a loader that finds it full waits for ever.
    batch_bytes: about what a batch takes. Each process makes PREFETCH batches in advance.
    """
    if not workers or not folder.is_dir():
        return
    needed = batch_bytes * (workers * PREFETCH + 1)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{folder} has {free / 2**20:.0f} MiB left, and {workers} processes that load images "
            f"need some {needed / 2**20:.0f}: start the container with --shm-size=1g, or give "
            "--workers 0"
        )


def make_loader(
    dataset: XrayDataset, sampler: ResumableSampler, workers: int, pin: bool = False
) -> DataLoader:
    """Batches in the sampler's order and size, epoch after epoch. workers: as counted, 0: none.

    pin: whether batches are copied to memory that the GPU reads directly.
    """
    return DataLoader(
        dataset,
        batch_size=sampler.batch_size,
        sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin,
        persistent_workers=workers > 0,
        worker_init_fn=one_thread,
    )


def make_prediction_loader(
    dataset: XrayDataset, rows: Sequence[int], batch_size: int, workers: int, pin: bool = False
) -> DataLoader:
    """Batches of these rows of the dataset's table, once and in this order.

    workers: as --workers has it; never more than there are rows.
    """
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=RowSampler(rows),
        num_workers=min(count_workers(workers), len(rows)),
        collate_fn=collate,
        pin_memory=pin,
        worker_init_fn=one_thread,
    )
