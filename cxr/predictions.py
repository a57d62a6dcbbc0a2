"""Merged predictions on disk: folders of npz parts of at most PART images, each whole or absent."""

import zipfile

import numpy as np

from cxr.detection import Candidates
from cxr.disk import InputError, atomic

PART = 64  # images in a file: small enough to lose little, large enough for 30,000 images


def part_path(folder, number):
    return folder / f"part-{number:05d}.npz"


def part_count(images):
    return -(-images // PART)


def write_part(folder, number, candidates):
    """Write a list of Candidates."""
    columns = {name: np.concatenate([getattr(c, name) for c in candidates])
               for name in ("centre", "size20", "size80", "score", "label")}
    facts = {"image_id": np.array([c.image_id for c in candidates]),
             "count": np.array([len(c.score) for c in candidates]),
             "frame": np.array([(c.width, c.height) for c in candidates]),
             "category": np.stack([c.category for c in candidates])}
    with atomic(part_path(folder, number)) as temporary:
        np.savez(temporary, **columns, **facts)


def read_predictions(folder):
    """Yield the Candidates of a folder. Raises InputError for a file that is not whole."""
    for path in sorted(folder.glob("part-*.npz")):
        try:
            with np.load(path, allow_pickle=False) as file:
                part = dict(file)
            ends = part["count"].cumsum()
            for i, (end, count) in enumerate(zip(ends, part["count"])):
                rows = slice(end - count, end)
                yield Candidates(str(part["image_id"][i]), *map(int, part["frame"][i]), part["category"][i],
                                 part["centre"][rows], part["size20"][rows], part["size80"][rows], part["score"][rows],
                                 part["label"][rows])
        except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"{path} is not a whole prediction file ({error}): delete it and run step 04 "
                             "again") from error
