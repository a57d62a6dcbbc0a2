"""What a process that decodes files from anywhere may take."""

from __future__ import annotations

import os
from types import ModuleType
from typing import IO

resource: ModuleType | None
try:
    import resource
except ImportError:  # Windows has no limits of this kind
    resource = None

# Bytes of address space; header.MOST_PIXELS of 16 bits take half of it.
MOST_MEMORY = 3 * 2**30
TOO_MUCH_MEMORY = f"needs more than {MOST_MEMORY >> 30} GB of memory to decode"


def limit_memory() -> None:
    """From now on this process gets a MemoryError before it fills the machine."""
    if resource is not None:
        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))


def take_stdout() -> IO[bytes]:
    """The stream for answers; what a C library prints no longer gets between them."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return answers
