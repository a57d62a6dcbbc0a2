"""Files that are whole or absent, locks of folders, JSON."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from cxr.system.errors import InputError

NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)


LEFTOVERS = ".*.tmp*"  # what processes that were killed while writing leave behind


@contextmanager
def atomic(path: str | Path, synced: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which becomes `path` when the block ends well.

    When it does not end well, the temporary file vanishes and `path` stays as it was. File and
    folder are on the disk before anything counts as written, so a power cut leaves the old file or
    the new one. synced=False leaves that to the caller (`sync_all`), for files by the thousand.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Of its own for each process, so that two at once do not write into one file; and short, since
    # the name of a file may be as long as the file system takes.
    check_sum = zlib.crc32(path.name.encode("utf-8", "surrogateescape"))
    temporary = path.with_name(f".{check_sum:08x}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        if synced:
            _sync(temporary)
        os.replace(temporary, path)
        if synced:
            _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk."""
    if os.name == "nt" and path.is_dir():  # Windows opens no folders, and writes names at once
        return
    number = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):  # some network drives
            raise
    finally:
        os.close(number)


def sync_all() -> None:
    """Wait until everything that was written so far is on the disk."""
    if hasattr(os, "sync"):  # not on Windows
        os.sync()


def remove_leftovers(folder: Path) -> None:
    """Delete what killed processes left half-written in a folder, whose lock one must hold."""
    for leftover in folder.glob(LEFTOVERS):
        leftover.unlink(missing_ok=True)


@contextmanager
def alone(folder: Path, patience: float = -1) -> Iterator[None]:
    """Hold the lock of a folder, which falls with this process and those that it forked.

    Waits `patience` seconds for another process that holds it, or as long as it takes (-1), and
    then raises InputError.
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
        remove_leftovers(folder)
        yield
    finally:
        lock.release()


def acquire(lock: FileLock, timeout: float) -> bool:
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


def sha256_of(path: Path) -> str:
    """Check sum of a file's bytes, as `sha256sum` prints it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all; what JSON does not know, such as a Path, as its text."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Content of a JSON file. Raises InputError where it is missing or broken."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing: run the step that writes it first") from None
    except ValueError as error:
        raise InputError(
            f"{path} is not readable JSON ({error}): delete it and run the step that writes it "
            "again"
        ) from None
