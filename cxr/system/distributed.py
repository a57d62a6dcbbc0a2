"""The few things that differ under torchrun. Without it every function is that of one process."""

import os
from contextlib import contextmanager, nullcontext
from datetime import timedelta

import torch
import torch.distributed as dist

from cxr.system import disk

# Of one process for another, such as for the last part of the predictions; if one dies, torchrun ends the others.
LONGEST_WAIT = timedelta(days=1)


@contextmanager
def process_group(device_type):
    """Join the processes that torchrun started, if any and if not done yet; leave them at the end."""
    if "RANK" not in os.environ or dist.is_initialized():
        yield
        return
    dist.init_process_group("nccl" if device_type == "cuda" else "gloo", timeout=LONGEST_WAIT)
    if device_type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    try:
        yield
    finally:
        dist.destroy_process_group()


def rank():
    return dist.get_rank() if dist.is_initialized() else 0


def world():
    return dist.get_world_size() if dist.is_initialized() else 1


def alone(folder, patience=-1):
    """The lock of a folder (`disk.alone`) for all these processes together; the first one holds it."""
    return disk.alone(folder, patience) if rank() == 0 else nullcontext()


def barrier():
    if dist.is_initialized():
        dist.barrier()


def gather(obj):
    """[obj of every process], on every process."""
    if not dist.is_initialized():
        return [obj]
    parts = [None] * world()
    dist.all_gather_object(parts, obj)
    return parts


def mean(tensor):
    if dist.is_initialized():
        dist.all_reduce(tensor)
        tensor /= world()
    return tensor


def share_buffers(model):
    """Give every process the buffers of the first: batch-norm statistics differ, since each saw other images."""
    if dist.is_initialized():
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


def any_of(flag):
    """True on every process if it is True on one."""
    return any(gather(bool(flag)))
