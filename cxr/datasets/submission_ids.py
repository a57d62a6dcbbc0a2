"""The ids of a submission must be those of the sample submission, in its order."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from cxr.system.errors import InputError


def check_ids(ids: Sequence[str], expected: Sequence[str]) -> None:
    """Raises InputError naming the first id that is missing, unknown, repeated or misplaced."""
    given = set(ids)
    wanted = set(expected)
    missing = [image_id for image_id in expected if image_id not in given]
    _refuse("lacks", missing)
    unknown = [image_id for image_id in ids if image_id not in wanted]
    _refuse("has more than the sample submission, such as", unknown)
    index = pd.Index(ids)
    _refuse("repeats", index[index.duplicated()].tolist())
    misplaced = [a for a, b in zip(ids, expected, strict=True) if a != b]
    _refuse("has another order than the sample submission from", misplaced)


def _refuse(words: str, ids: Sequence[str]) -> None:
    """Raises InputError if there are such ids."""
    if ids:
        raise InputError(f"the submission {words} {ids[0]} ({len(ids)} ids)")
