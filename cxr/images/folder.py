"""Files and folders of X-rays as people keep them: finding the images, and what is written of each.

`out` holds boxes/<name>.json, overlays/<name>.png and, in folders of their own, the DICOM objects
<name>.dcm for each image, where the name is its path below the folder it was found in. The .json
comes last: where it is, the image is done.
"""

from __future__ import annotations

import csv
import errno
import json
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from cxr.images.isolated import Picture
from cxr.images.picture_file import PICTURE_STARTS
from cxr.images.printable import printable
from cxr.system.disk import atomic, read_json, write_json
from cxr.system.errors import InputError
from cxr.system.walk import identity

ENDINGS = (".dcm", ".dicom", ".png", ".jpg", ".jpeg")
# Of predictions.csv, by what an image gets.
COLUMNS = {
    "boxes": ("finding", "score", "above_threshold", "x1", "y1", "x2", "y2"),
    "mask": ("finding", "score", "area", "share", "file"),
    "classes": (),
}
HEAT_MAP = "heat_map"  # a further column where any image of a classifier has such a picture
# Fields of a record that only serve to go on after a stop.
HIDDEN = ("bytes", "modified", "dicom")

Record = dict[str, Any]
State = dict[str, int]  # bytes and nanoseconds of a file, see Item.state
Failure = Sequence[object]  # image, path, what, reason


@dataclass(frozen=True)
class Item:
    """One image file. `name` is unique and keeps the file's ending, so a.dcm and a.png differ."""

    name: str  # relative, with slashes
    path: Path

    def in_folder(self, folder: Path, ending: str = "") -> Path:
        return folder / f"{self.name}{ending}"

    def state(self) -> State | None:
        """Facts that change when another image takes the file's place, None if it is gone."""
        try:
            facts = self.path.stat()
        except OSError:
            return None
        return {"bytes": facts.st_size, "modified": facts.st_mtime_ns}


class ImageFiles(NamedTuple):
    """items: the images, sorted by name. passed_over: how much of what was left alone, by words."""

    items: list[Item]
    passed_over: Counter[str]

    def describe_passed_over(self) -> str:
        """Words for the console, "" where nothing was left alone."""
        if not self.passed_over:
            return ""
        counts = [f"{count} {words}" for words, count in self.passed_over.items()]
        return f"; {', '.join(counts)} were left alone"


def find_image_files(paths: Sequence[str | Path], out: str | Path) -> ImageFiles:
    """What `search_image_files` finds. InputError where there is no image, too."""
    image_files = search_image_files(paths, out)
    if not image_files.items:
        searched = ", ".join(os.path.abspath(path) for path in paths)
        raise InputError(f"there is no DICOM, PNG or JPEG file in {searched}")
    return image_files


def search_image_files(paths: Sequence[str | Path], out: str | Path) -> ImageFiles:
    """The images among these files and in these folders, perhaps none.

    A file that is named is always taken. In a folder, and the folders in it or linked there, those
    that end like an X-ray or begin like one are; hidden files and the folder `out` are not.
    InputError where a path does not exist.
    """
    absolute_paths = [Path(os.path.abspath(path)) for path in paths]
    out = Path(os.path.abspath(out))
    files: set[Path] = set()
    passed_over: Counter[str] = Counter()
    for path in absolute_paths:
        if not path.exists():
            raise InputError(f"{path} does not exist: --images takes files and folders of X-rays")
        if not path.is_dir():
            files.add(path)
            continue
        search = FolderSearch(out)
        for file in search.files_below(path):
            if looks_like_image(file):
                files.add(file)
            else:
                search.passed_over["other files"] += 1
        passed_over += search.passed_over
    base = common_folder(absolute_paths)
    items = [Item(file.relative_to(base).as_posix(), file) for file in files]
    items.sort(key=lambda item: item.name)
    return ImageFiles(items, passed_over)


class FolderSearch:
    """Walks through a folder and those linked there, each once, so that no loop catches it.

    Hidden things and the folder `out` are left alone. passed_over: how much of what.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.passed_over: Counter[str] = Counter()
        self.visited = {identity(out)}

    def files_below(self, folder: Path) -> Iterator[Path]:
        """Every file, in the order of the names; those of linked folders come last."""
        self.visited.discard(identity(folder))  # the folder that was named is looked into anyway
        waiting = deque([folder])
        while waiting:
            start = waiting.popleft()
            for parent, folders, files in os.walk(start, onerror=self.count_unreadable):
                if identity(Path(parent)) in self.visited:
                    self.passed_over["links to folders that were looked into"] += 1
                    folders.clear()
                    continue
                self.visited.add(identity(Path(parent)))
                visible = [name for name in sorted(folders) if not self.is_hidden(name)]
                paths = [Path(parent, name) for name in visible]
                waiting.extend(path for path in paths if path.is_symlink() and path != self.out)
                # A link is not descended into from here, but walked through when its turn comes.
                folders[:] = [path.name for path in paths if path != self.out]
                for name in sorted(files):
                    if not self.is_hidden(name):
                        yield Path(parent, name)

    def is_hidden(self, name: str) -> bool:
        """Whether it is, which is counted."""
        hidden = name.startswith(".")
        if hidden:
            self.passed_over["hidden files and folders"] += 1
        return hidden

    def count_unreadable(self, error: OSError) -> None:
        """What os.walk calls for a folder that it cannot list."""
        del error
        self.passed_over["folders that cannot be read"] += 1


def is_too_long(path: Path) -> bool:
    """Whether the file system refuses a name of this length. Makes the folder that it lies in."""
    try:
        # Where the folder is missing, that is all that the file system says.
        path.parent.mkdir(parents=True, exist_ok=True)
        path.lstat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return True
        if error.errno != errno.ENOENT:
            raise
    return False


def looks_like_image(path: Path) -> bool:
    if not path.is_file():  # a pipe would never end, a link may lead nowhere
        return False
    if path.suffix.lower() in ENDINGS:
        return True
    try:
        with open(path, "rb") as file:
            start = file.read(132)
    except OSError:
        return False
    return start.startswith(PICTURE_STARTS) or start[128:] == b"DICM"


def common_folder(paths: Iterable[Path]) -> Path:
    folders = [path if path.is_dir() else path.parent for path in paths]
    try:
        return Path(os.path.commonpath(folders))
    except ValueError:  # drives of Windows
        raise InputError(
            "the images lie on different drives: run the command once for each, with an --out of "
            "its own"
        ) from None


def record_path(out: Path, item: Item) -> Path:
    """Where the record of an image is; its name is the longest of what is made of the image."""
    return item.in_folder(out / "boxes", ".json")


def read_record(out: Path, item: Item) -> Record | None:
    """What an earlier run wrote about an image. None if it was not done or has changed since."""
    path = record_path(out, item)
    overlay = item.in_folder(out / "overlays", ".png")
    # Of os.path, which also says no where a name is too long.
    if not os.path.exists(path) or not os.path.exists(overlay):
        return None
    record = read_json(path)
    if record["source"] != os.fspath(item.path):
        return None
    state = item.state()
    if state is None or not state.items() <= record.items():
        return None
    return record


def write_record(
    out: Path,
    item: Item,
    state: State,
    picture: Picture,
    prediction: Record,
    objects: Mapping[str, str | None],
) -> None:
    """Write what was predicted, its last file.

    state: of the file before it was read. objects: {name of a DICOM object: its path relative to
    `out`, or why there is none; None if none was wanted}.
    """
    record = {
        "image": item.name,
        "source": os.fspath(item.path),
        **state,
        "width": picture.width,
        "height": picture.height,
        "dicom": picture.dicom,
        **prediction,
        **objects,
    }
    write_json(record_path(out, item), record)


def write_prediction_tables(
    out: Path,
    records: Callable[[], Iterable[Record]],
    failed: Iterable[Failure],
    header: dict[str, Any],
) -> None:
    """Write predictions.csv, predictions.json and failed.csv.

    records: a function that yields the records, so that they need not fit into memory. failed:
    [(image, path, what, reason)]. header: what the .json says before its images; its entry
    `result` is what an image gets: boxes, mask or classes.
    """
    with open_atomic(out / "predictions.csv") as file:
        columns = columns_of(header["result"], records())
        write_rows(file, records(), columns, list(header["image_classes"]))

    with open_atomic(out / "predictions.json") as file:
        file.write(json.dumps(header, indent=1)[:-2] + ',\n "images": [')
        separator = "\n  "
        for record in records():
            file.write(separator + json.dumps(public(record)))
            separator = ",\n  "
        file.write("\n ]\n}\n")

    with open_atomic(out / "failed.csv") as file:
        table = csv.writer(file)
        table.writerow(["image", "path", "what", "reason"])
        for row in failed:
            table.writerow([printable(text) for text in row])


def columns_of(result: str, records: Iterable[Record]) -> Sequence[str]:
    """Of predictions.csv, beside those that all results have."""
    if result == "classes" and any(HEAT_MAP in record for record in records):
        return (HEAT_MAP,)
    return COLUMNS[result]


@contextmanager
def open_atomic(path: Path) -> Iterator[TextIO]:
    """A text file that is whole or absent."""
    with atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        yield file


def write_rows(
    file: TextIO,
    records: Iterable[Record],
    columns: Sequence[str],
    image_classes: Sequence[str],
) -> None:
    """A row for each box or mask, or the image; one without has a row with empty cells.

    columns: what is written of a box or mask. The last column, not_frontal_chest, says why an
    image is no frontal chest X-ray.
    """
    table = csv.writer(file)
    probability_columns = [f"probability of {name}" for name in image_classes]
    table.writerow(
        ["image", "path", "width", "height", *columns, *probability_columns, "not_frontal_chest"]
    )
    for record in records:
        image = printable(record["image"])
        path = printable(record["source"])
        facts = [image, path, record["width"], record["height"]]
        probabilities = [record["probabilities"][name] for name in image_classes]
        mark = mark_of(record)
        for finding in findings_of(record):
            cells = [finding.get(column, "") for column in columns]
            table.writerow([*facts, *cells, *probabilities, mark])


def findings_of(record: Record) -> Sequence[Mapping[str, Any]]:
    """What has a row in the table: boxes, a mask, or the name of the image's heat map, if any."""
    if "mask" in record:
        return [record["mask"]]
    if HEAT_MAP in record:
        return [{HEAT_MAP: record[HEAT_MAP]["file"]}]
    return record["boxes"] or [{}]


def mark_of(record: Record) -> str:
    """Why the image is no frontal chest X-ray; "" where it is one, or nobody has looked."""
    return record.get("not_frontal_chest", "")


def public(record: Record) -> Record:
    """The record as others read it."""
    facts = {}
    for name, value in record.items():
        if name in HIDDEN:
            continue
        facts[name] = printable(value) if isinstance(value, str) else value
    return facts
