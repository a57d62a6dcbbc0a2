"""Checkpoints: dictionaries of tensors and plain values, whole or absent.

They are loaded with weights_only=True: a file from a stranger cannot run code.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from cxr.system.disk import atomic
from cxr.system.errors import BROKEN, InputError, first_line

BROKEN_ARCHIVE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError)


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint. Raises InputError where the disk is full."""
    with atomic(path) as temporary:
        try:
            torch.save(dict(state), temporary)
        except RuntimeError as error:  # torch's zip writer reports a full disk as RuntimeError
            raise InputError(
                f"{path} could not be written ({first_line(error)}): free some space, then run the "
                "same command again; the last saved state is untouched"
            ) from error


def load_state(
    path: Path, device: torch.device | str = "cpu", mapped: bool = False
) -> dict[str, Any]:
    """Content of a checkpoint. Raises InputError for a missing or broken file.

    mapped: tensors are read from the file when they are used.
    """
    if not Path(path).is_file():
        raise InputError(f"{path} is missing: run step 03 first")
    if not mapped:
        verify_check_sums(path)
    try:
        return torch.load(path, map_location=device, weights_only=True, mmap=mapped)
    except BROKEN as error:
        raise InputError(
            f"{path} is not a whole checkpoint ({first_line(error)}): delete it and run step 03 "
            "again"
        ) from error


def verify_check_sums(path: Path) -> None:
    """Raises InputError where bytes of a checkpoint have changed since it was written.

    torch reads them without a word, but the file is a zip archive, with a check sum of each part.
    """
    damaged = None
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except BROKEN_ARCHIVE as error:
        damaged = first_line(error)
    if damaged:
        raise InputError(
            f"{path} is not a whole checkpoint ({damaged}): delete it and run step 03 again"
        )


def checkpoint_fingerprint(path: Path) -> int:
    """Number that changes with a checkpoint's content.

    torch files are zip archives, which hold check sums already.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            check_sums = [(info.filename, info.CRC) for info in archive.infolist()]
    except zipfile.BadZipFile as error:
        raise InputError(
            f"{path} is not a whole checkpoint ({error}): delete it and run step 03 again"
        ) from error
    return zlib.crc32(repr(check_sums).encode())


def fingerprints(paths: Iterable[Path], run: Path) -> dict[str, int]:
    """{path as seen from the run's folder: fingerprint}; those of other runs begin with `..`."""
    found = {}
    for path in paths:
        name = Path(os.path.relpath(path, run)).as_posix()
        found[name] = checkpoint_fingerprint(path)
    return found
