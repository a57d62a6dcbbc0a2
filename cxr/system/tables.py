"""Tables as csv files: read as text with one sentence for what is wrong, written whole or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from cxr.system.disk import atomic
from cxr.system.errors import InputError


def read_csv(
    path: Path,
    columns: Sequence[str],
    may_be_empty: bool = False,
    rename: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """The columns of a csv file as text, missing values NaN.

    rename: {other name that the file may have: name in columns}. Raises InputError where the
    file, a column or all rows are missing.
    """
    try:
        table = pd.read_csv(path, dtype=str).rename(columns=dict(rename or {}))
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
    return table[list(columns)]


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table without its index, whole or not at all."""
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False)
