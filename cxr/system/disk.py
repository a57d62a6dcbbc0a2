"""Files that are whole or absent, and the one error a user is meant to read."""

import errno
import json
import os
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
from filelock import FileLock, Timeout

NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)


class InputError(Exception):
    """What is wrong, with which file, and what to do about it, in one sentence. Scripts print it and exit with 1."""


@contextmanager
def atomic(path):
    """Yield a temporary path beside `path`; it becomes `path` when the block ends well and vanishes when not."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(
        f".{path.stem}.tmp{path.suffix}"
    )  # one name, so that what a kill left is overwritten
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def alone(folder, patience=-1):
    """Hold the lock of a folder, which falls with this process and those that it forked.

    Waits `patience` seconds for another process that holds it, or as long as it takes (-1), and then raises InputError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    if not acquire(lock, 0):
        print(f"waiting for another process that works in {folder}", flush=True)
        if not acquire(lock, patience):
            raise InputError(
                f"another process works in {folder}: let it end, or give this one another --run"
            )
    try:
        yield
    finally:
        lock.release()


def acquire(lock, timeout):
    """False if another process holds the lock. On a drive that knows no locks nobody waits."""
    try:
        lock.acquire(timeout=timeout)
    except Timeout:
        return False
    except NotImplementedError:  # how older releases of filelock say it
        pass
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return True


def write_json(path, content):
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")


def read_json(path):
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing: run the step that writes it first") from None
    except ValueError as error:
        raise InputError(
            f"{path} is not readable JSON ({error}): delete it and run the step that writes it "
            "again"
        ) from None


def read_csv(path, columns, may_be_empty=False, rename=None):
    """The columns of a csv file as text, missing values NaN. InputError where the file, a column or all rows lack.

    `rename` {other name that the file may have: name in columns}.
    """
    try:
        table = pd.read_csv(path, dtype=str).rename(columns=rename or {})
    except FileNotFoundError:
        raise InputError(f"{path} is missing: run 01_download.py") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} is not a readable csv file ({error}): download it again"
        ) from None
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise InputError(f"{path} lacks the column {', '.join(missing)}: download it again")
    if table.empty and not may_be_empty:
        raise InputError(f"{path} has no rows: download it again")
    return table[columns]


def write_csv(path, table):
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False)
