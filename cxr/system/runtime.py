"""Where and how the networks run; made once, handed to everything that computes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import torch

from cxr.settings import MachineSettings
from cxr.system import distributed
from cxr.system.device import (
    FORMATS,
    choose_device,
    choose_precision,
    describe_device,
    training_format,
)

T = TypeVar("T")
NO_BARS = "TQDM_DISABLE"


@dataclass(frozen=True)
class Runtime:
    """Device, number format, place among the processes of torchrun, and when to stop.

    deadline: seconds of time.monotonic, or None.
    """

    device: torch.device
    precision: str
    rank: int = 0
    world: int = 1
    deadline: float | None = None

    @property
    def is_main(self) -> bool:
        """Whether this process prints and writes."""
        return self.rank == 0

    @property
    def hides_bars(self) -> bool:
        """Whether this process draws no progress bars: not the first, or told so by tqdm's own
        variable."""
        return not self.is_main or bool(os.environ.get(NO_BARS))

    @property
    def pins_memory(self) -> bool:
        """Whether the loader should copy batches to memory that the device reads directly."""
        return self.device.type == "cuda"

    @property
    def training_format(self) -> torch.memory_format:
        """Memory format of a network in training."""
        return training_format(self.device, self.precision)

    def autocast(self) -> AbstractContextManager:
        """The context in which networks compute in the number format."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, FORMATS[self.precision])

    def describe(self) -> str:
        """Words for the console."""
        return describe_device(self.device, self.precision)

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """The items of this rank."""
        return items[self.rank :: self.world]

    def is_past_deadline(self) -> bool:
        """True on every process if the deadline has passed on one."""
        if self.deadline is None:
            return False
        return distributed.any_of(time.monotonic() > self.deadline)

    def say(self, text: str) -> None:
        """Print on the first process only."""
        if self.is_main:
            # In one piece: other folds may write at the same time.
            print(f"{text}\n", end="", flush=True)


@contextmanager
def open_runtime(machine: MachineSettings) -> Iterator[Runtime]:
    """Choose device and number format, join torchrun's processes, and leave them at the end.

    Raises InputError for a device that is not there.
    """
    deadline = None
    if machine.max_hours:
        deadline = time.monotonic() + 3600 * machine.max_hours
    device = choose_device(machine.device)
    precision = choose_precision(machine.precision, device)
    with distributed.process_group(device.type):
        yield Runtime(device, precision, distributed.rank(), distributed.world(), deadline)


def single_runtime(machine: MachineSettings) -> Runtime:
    """The runtime of one process that never joins others, such as the page or a Predictor."""
    device = choose_device(machine.device)
    return Runtime(device, choose_precision(machine.precision, device))
