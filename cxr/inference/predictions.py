"""Merged predictions on disk: folders of npz parts of at most PART images, each whole or absent.

What is kept of an image is the task's own class, its `kind`: `columns(list)` makes arrays of some, `rows(arrays)`
yields them again.
"""

import zipfile

import numpy as np

from cxr.system.disk import InputError, atomic

PART = 64  # images in a file: small enough to lose little, large enough for 30,000 images


def part_path(folder, number):
    return folder / f"part-{number:05d}.npz"


def part_count(images):
    return -(-images // PART)


def write_part(folder, number, predictions):
    """Write a list of predictions of one kind."""
    with atomic(part_path(folder, number)) as temporary:
        np.savez(temporary, **predictions[0].columns(predictions))


def read_predictions(folder, kind):
    """Yield the predictions of a folder. Raises InputError for a file that is not whole."""
    for path in sorted(folder.glob("part-*.npz")):
        try:
            with np.load(path, allow_pickle=False) as file:
                part = dict(file)
            yield from kind.rows(part)
        except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(
                f"{path} is not a whole prediction file ({error}): delete it and run step 04 again"
            ) from error
