"""The folder --out: one process, or the processes of one torchrun, write there at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from cxr.system import distributed
from cxr.system.disk import LEFTOVERS, acquire, read_json, write_json
from cxr.system.errors import InputError
from cxr.system.runtime import Runtime


@contextmanager
def alone_in(out: Path) -> Iterator[None]:
    """Hold the folder, without what a killed process left half-written in it.

    The first of several processes holds it for all. Raises InputError where another command writes
    there.
    """
    if distributed.rank():
        yield
        return
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / ".lock")
    if not acquire(lock, 0):
        raise InputError(f"another process writes into {out}: let it end, or choose another --out")
    try:
        for leftover in out.rglob(LEFTOVERS):
            leftover.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


def claim_out_folder(out: Path, record: dict[str, Any], runtime: Runtime) -> None:
    """Note what decides the predictions. InputError if the folder holds those of other settings."""
    path = out / "settings.json"
    record = json.loads(json.dumps(record))  # as it will be read again
    if path.exists():
        old = read_json(path)
        changed = [name for name, value in record.items() if value != old.get(name)]
        if changed:
            raise InputError(
                f"{out} holds predictions made with other {', '.join(changed)}: choose another "
                "--out, or delete that folder"
            )
    distributed.barrier()
    if runtime.is_main:
        write_json(path, record)
