"""Folders of synthetic data sets: whole or absent, and never mistaken for a downloaded one."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from cxr.system.disk import read_json, write_json
from cxr.system.errors import InputError

# Tells a synthetic folder from a downloaded one, and by which settings it was made.
MARKER = "synthetic.json"


def is_made(folder: Path, settings: Mapping[str, int]) -> bool:
    """Whether the synthetic set of these settings is there already.

    Raises InputError where the folder holds something else.
    """
    if not folder.exists():
        return False
    if not (folder / MARKER).is_file():
        raise InputError(
            f"{folder} exists and is not synthetic: "
            "choose another --input for the demo, or remove it"
        )
    found_settings = read_json(folder / MARKER)
    if found_settings != settings:
        raise InputError(
            f"{folder} holds a synthetic set made with {found_settings}, not {settings}: "
            "delete it to make it anew"
        )
    return True


@contextmanager
def building(folder: Path, settings: Mapping[str, int]) -> Iterator[Path]:
    """Yield a folder to write into, which becomes `folder` when the block ends well."""
    unfinished = folder.with_name(f".{folder.name}.building")
    shutil.rmtree(unfinished, ignore_errors=True)  # what a kill has left
    unfinished.mkdir(parents=True)
    yield unfinished
    write_json(unfinished / MARKER, settings)
    unfinished.rename(folder)


def write_csv_lines(path: Path, header: str, rows: Iterable[Sequence[object]]) -> None:
    """A csv file of rows of cells; the header is given as in the file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header.split(","))
        writer.writerows(rows)
