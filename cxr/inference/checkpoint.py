"""Checkpoints: dictionaries of tensors and plain values, whole or absent, loaded with weights_only=True."""

import dataclasses
import os
import zipfile
import zlib
from pathlib import Path

import torch

from cxr.config import Config
from cxr.system.disk import atomic
from cxr.system.errors import BROKEN, InputError, first_line

def plain_config(config):
    """Config as a dictionary of JSON's own types."""
    values = dataclasses.asdict(config).items()
    return {
        k: str(v) if isinstance(v, Path) else list(v) if isinstance(v, tuple) else v
        for k, v in values
    }


def stored_config(values):
    """Config from what a checkpoint holds; settings that this version does not know any more are left out."""
    known = {name: value for name, value in values.items() if name in Config.__dataclass_fields__}
    return dataclasses.replace(
        Config(), **known | {name: Path(known[name]) for name in ("input", "working")}
    )


def save_state(path, state):
    with atomic(path) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # torch's zip writer reports a full disk as RuntimeError
            raise InputError(
                f"{path} could not be written ({first_line(error)}): free some space, then run the "
                "same command again; the last saved state is untouched"
            ) from error


def fingerprint(path):
    """Number that changes with a checkpoint's content: torch files are zip archives, which hold check sums already."""
    try:
        with zipfile.ZipFile(path) as archive:
            return zlib.crc32(
                repr([(info.filename, info.CRC) for info in archive.infolist()]).encode()
            )
    except zipfile.BadZipFile as error:
        raise InputError(
            f"{path} is not a whole checkpoint ({error}): delete it and run step 03 again"
        ) from error


def fingerprints(paths, run_dir):
    """{path as seen from the run's folder: fingerprint}; those of other runs begin with `..`."""
    return {Path(os.path.relpath(path, run_dir)).as_posix(): fingerprint(path) for path in paths}


def load_state(path, device="cpu", mapped=False):
    """Raises InputError for a missing or broken file. `mapped`: tensors are read from the file when they are used."""
    if not Path(path).is_file():
        raise InputError(f"{path} is missing: run step 03 first")
    try:
        return torch.load(path, map_location=device, weights_only=True, mmap=mapped)
    except BROKEN as error:
        raise InputError(
            f"{path} is not a whole checkpoint ({first_line(error)}): delete it and run step 03 "
            "again"
        ) from error
