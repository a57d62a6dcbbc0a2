"""Tables as csv files: read as text with one sentence for what is wrong, written whole or not."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from cxr.system.disk import atomic
from cxr.system.errors import InputError, first_line

EXCEL = (".xlsx", ".xlsm")


def read_csv(
    path: Path,
    columns: Sequence[str],
    may_be_empty: bool = False,
    rename: Mapping[str, str] | None = None,
    remedy: str = "download it again",
) -> pd.DataFrame:
    """The columns of a csv file as text without blanks around it, missing values NaN.

    Commas or semicolons stand between the cells, with or without blanks, as spreadsheet programs
    write them. rename: {other name that the file may have: name in columns}. Raises InputError,
    which ends with the remedy, where the file, a column or all rows are missing.
    """
    table = _read_texts(path, remedy)
    table = table.rename(columns=str.strip).rename(columns=dict(rename or {}))
    missing = [name for name in columns if name not in table.columns]
    if missing:
        there = ", ".join(table.columns)
        raise InputError(f"{path} lacks the column {', '.join(missing)} (it has {there}): {remedy}")
    if table.empty and not may_be_empty:
        raise InputError(f"{path} has no rows: {remedy}")
    return table[list(columns)].apply(lambda column: column.str.strip())


def read_whole_csv(path: Path, remedy: str = "download it again") -> pd.DataFrame:
    """All columns of a csv file, whichever it has, as text without blanks, missing values "".

    Raises InputError as `read_csv` does.
    """
    table = _read_texts(path, remedy).rename(columns=str.strip)
    if table.empty:
        raise InputError(f"{path} has no rows: {remedy}")
    return table.fillna("").apply(lambda column: column.str.strip())


def _read_texts(path: Path, remedy: str) -> pd.DataFrame:
    """All columns of a csv file as text, missing values NaN."""
    try:
        return pd.read_csv(
            path,
            dtype=str,
            sep=_separator(path),
            skipinitialspace=True,
            encoding="utf-8-sig",  # a mark at the start of the file is no part of the first name
        )
    except FileNotFoundError:
        raise InputError(f"{path} is missing: run 01_download.py") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a readable csv file ({error}): {remedy}") from None


def read_whole_table(path: Path, rows: int | None = None) -> pd.DataFrame:
    """All columns of a csv or xlsx file (its first sheet) as text, missing values NaN.

    rows: only so many. Raises InputError for a file that is none.
    """
    if path.suffix.lower() in EXCEL:
        try:
            table = pd.read_excel(path, dtype=str, nrows=rows)
        except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
            reason = first_line(error)
            raise InputError(
                f"{path} is not a readable xlsx file ({reason}): save it again"
            ) from None
    else:
        table = _read_texts(path, "save it again as csv").head(rows or sys.maxsize)
    table = table.rename(columns=lambda name: str(name).strip())
    return table.apply(lambda column: column.str.strip())


def to_numbers(table: pd.DataFrame) -> pd.DataFrame:
    """The table with numbers for its texts, NaN for what is none. A decimal comma is a point."""
    points = table.apply(lambda column: column.str.replace(",", ".", regex=False))
    return points.apply(pd.to_numeric, errors="coerce")


def _separator(path: Path) -> str:
    """What stands between the names of the columns in the first line."""
    with open(path, encoding="utf-8-sig") as file:
        header = file.readline()
    if header.count(";") > header.count(","):
        return ";"
    return ","


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table without its index, whole or not at all."""
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False)
