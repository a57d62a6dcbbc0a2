"""The one error that a user is meant to read, and the exit status of a clean stop."""

import pickle
import struct

STOPPED = 75  # exit status "stopped by --max-hours, run again" (EX_TEMPFAIL of sysexits.h)


class InputError(Exception):
    """What is wrong, with which file, and what to do about it, in one sentence.

    Scripts print it and exit with 1.
    """


# torch.load has no error of its own for a broken file: it fails wherever the bytes stop making
# sense.
BROKEN = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    OSError,
    struct.error,
)


def first_line(error: BaseException) -> str:
    """What an error says, in at most 80 characters; its type if it says nothing."""
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0][:80]
