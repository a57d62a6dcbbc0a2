"""Walks through folders, those that are linked there, too: data sets are often made of links."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Visited(NamedTuple):
    """A folder, the names of those in it, of which a caller may take some out so that they are left
    alone, and the names of its files. Both are sorted."""

    path: Path
    folders: list[str]
    files: list[str]


def walk(folder: Path) -> Iterator[Visited]:
    """The folder and all below it, each once, so that no loop of links catches it."""
    seen = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        path = Path(parent)
        key = identity(path)
        if key in seen:
            folders.clear()
            continue
        seen.add(key)
        folders.sort()
        yield Visited(path, folders, sorted(files))


def files_below(folder: Path, ending: str = "") -> list[Path]:
    """Every file below whose name ends like this, sorted."""
    found = []
    for visited in walk(folder):
        found += [visited.path / name for name in visited.files if name.endswith(ending)]
    return sorted(found)


def identity(path: Path) -> tuple[int, int] | None:
    """What is the same for all names of a file or folder, None where there is none."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_dev, facts.st_ino
