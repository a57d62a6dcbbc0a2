"""Where uploads lie until they are answered; what a killed server left is deleted."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from filelock import FileLock

from cxr.system.disk import acquire

PREFIX = "cxr-uploads-"
LOCK = ".lock"


class UploadFolder:
    """A folder below the system's temporary one, which this process has locked while it lives."""

    def __init__(self) -> None:
        remove_abandoned(Path(tempfile.gettempdir()))
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
            self.lock = FileLock(self.path / LOCK)
            # Another server that starts just now may take it for an abandoned one.
            if acquire(self.lock, 0) and self.path.exists():
                break

    def remove(self) -> None:
        self.lock.release()
        shutil.rmtree(self.path, ignore_errors=True)


def remove_abandoned(folder: Path) -> None:
    """Delete the upload folders below `folder` that no living process has locked."""
    for path in folder.glob(f"{PREFIX}*"):
        if not is_ours(path):
            continue
        lock = FileLock(path / LOCK)
        # Where the drive knows no locks nobody can tell, and the folder stays.
        if acquire(lock, 0) and lock.is_locked:
            lock.release()
            shutil.rmtree(path, ignore_errors=True)


def is_ours(path: Path) -> bool:
    """Whether it is a folder, and this user's: in a shared one others may choose the same name."""
    if path.is_symlink() or not path.is_dir():
        return False
    return not hasattr(os, "getuid") or path.stat().st_uid == os.getuid()
