"""Merged predictions on disk: folders of npz parts of at most PART images, each whole or absent.

What is kept of an image is the method's own record: `columns(list)` makes arrays of some, and
`rows(arrays)` yields them again.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cxr.system.disk import atomic
from cxr.system.errors import InputError

PART = 64  # images in a file: small enough to lose little, large enough for 30,000 images


def part_path(folder: Path, number: int) -> Path:
    """Path of a part, counted from 0."""
    return folder / f"part-{number:05d}.npz"


def record_path(folder: Path) -> Path:
    """Path of what a folder's predictions were made with: checkpoints, views, images."""
    return folder / "settings.json"


def part_count(images: int) -> int:
    """Number of parts of that many images."""
    return -(-images // PART)


def is_whole(folder: Path, images: int) -> bool:
    """Whether all parts of that many images are there."""
    return all(part_path(folder, number).exists() for number in range(part_count(images)))


def write_part(folder: Path, number: int, predictions: Sequence[Any]) -> None:
    """Write some predictions of one record class."""
    with atomic(part_path(folder, number)) as temporary:
        np.savez(temporary, **predictions[0].columns(predictions))


def read_predictions(folder: Path, record: type[Any]) -> Iterator[Any]:
    """Yield the predictions of a folder. Raises InputError for a file that is not whole."""
    # By number: from the 100,000th on their names are longer, and would come first.
    for path in sorted(folder.glob("part-*.npz"), key=lambda path: (len(path.name), path.name)):
        try:
            with np.load(path, allow_pickle=False) as file:
                part = dict(file)
            yield from record.rows(part)
        except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(
                f"{path} is not a whole prediction file ({error}): delete it and run step 04 again"
            ) from error
