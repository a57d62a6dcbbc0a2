"""Samples to batches, by processes that read and augment beside the network."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch.utils.data import DataLoader

from cxr.data.batch import collate
from cxr.data.dataset import XrayDataset
from cxr.data.samplers import ResumableSampler


def count_workers(wanted: int) -> int:
    """Processes for --workers: -1 is one for each core, at least 2, at most 8; others stay."""
    if wanted >= 0:
        return wanted
    return min(8, max(2, os.cpu_count() or 2))


def one_thread(worker_id: int) -> None:
    """PyTorch's own threads in every worker would only fight over the cores."""
    del worker_id
    torch.set_num_threads(1)


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
        sampler=[(0, row) for row in rows],
        num_workers=min(count_workers(workers), len(rows)),
        collate_fn=collate,
        pin_memory=pin,
        worker_init_fn=one_thread,
    )
