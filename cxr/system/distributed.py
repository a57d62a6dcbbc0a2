"""The few things that differ under torchrun. Without it every function is that of one process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cxr.system import disk

# Of one process for another, such as for the last part of the predictions; if one dies, torchrun
# ends the others.
LONGEST_WAIT = timedelta(days=1)

T = TypeVar("T")


@contextmanager
def process_group(device_type: str) -> Iterator[None]:
    """Join the processes that torchrun started, if any and if not done yet; leave at the end."""
    if "RANK" not in os.environ or dist.is_initialized():
        yield
        return
    backend = "nccl" if device_type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=LONGEST_WAIT)
    if device_type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    try:
        yield
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """Number of this process, counted from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def alone_together(folder: Path, patience: float = -1) -> AbstractContextManager[None]:
    """The lock of a folder (`disk.alone`) for all these processes; the first one holds it."""
    if rank() == 0:
        return disk.alone(folder, patience)
    return nullcontext()


def barrier() -> None:
    """Wait until all processes are here."""
    if dist.is_initialized():
        dist.barrier()


def gather(value: T) -> list[T]:
    """[value of every process], on every process."""
    if not dist.is_initialized():
        return [value]
    values: list = [None] * world()
    dist.all_gather_object(values, value)
    return values


def mean(tensor: Tensor) -> Tensor:
    """The mean over the processes, in place."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
        tensor /= world()
    return tensor


def share_buffers(model: nn.Module) -> None:
    """Give every process the buffers of the first.

    Batch-norm statistics differ between them, since each saw other images.
    """
    if dist.is_initialized():
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


def any_of(value: bool) -> bool:
    """True on every process if it is True on one."""
    return any(gather(bool(value)))
