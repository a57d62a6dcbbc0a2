"""Files and folders of X-rays as people keep them: finding the images, and what is written about each of them.

`out` holds boxes/<name>.json, overlays/<name>.png and structured_reports/<name>.dcm for each image, where the name is
its path below the folder it was found in. The .json comes last: where it is, the image is done.
"""

import csv
import json
import os
from dataclasses import dataclass
from pathlib import Path

from cxr.images.read import PICTURE_STARTS
from cxr.system.disk import InputError, atomic, read_json, write_json

ENDINGS = (".dcm", ".dicom", ".png", ".jpg", ".jpeg")
BOX = ("finding", "score", "above_threshold", "x1", "y1", "x2", "y2")


@dataclass(frozen=True)
class Item:
    """One image file. `name` is unique and keeps the file's ending, so a.dcm and a.png do not meet."""

    name: str  # relative, with slashes
    path: Path

    def in_folder(self, folder, ending=""):
        return folder / f"{self.name}{ending}"

    def state(self):
        """Facts that change when another image takes the file's place."""
        facts = self.path.stat()
        return {"bytes": facts.st_size, "modified": facts.st_mtime_ns}


def find_images(paths, out):
    """([Item] sorted by name, number of other files that were left alone).

    A file that is named is always taken. In a folder, and the folders in it, those that end like an X-ray or begin like
    one are; hidden files and the folder `out` are not. InputError where a path does not exist or there is no image.
    """
    found, others = set(), 0
    for path in (Path(os.path.abspath(path)) for path in paths):
        if not path.exists():
            raise InputError(f"{path} does not exist: --images takes files and folders of X-rays")
        inside = list(walk(path, Path(os.path.abspath(out)))) if path.is_dir() else [path]
        taken = {file for file in inside if file == path or looks_like_image(file)}
        found, others = found | taken, others + len(inside) - len(taken)
    if not found:
        raise InputError(f"there is no DICOM, PNG or JPEG file in {', '.join(map(str, paths))}")
    base = common_folder([Path(os.path.abspath(path)) for path in paths])
    return sorted(
        (Item(file.relative_to(base).as_posix(), file) for file in found),
        key=lambda item: item.name,
    ), others


def walk(folder, out):
    """Every file below a folder, in the order of the names."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and Path(place, name) != out
        )
        yield from (Path(place, name) for name in sorted(files) if not name.startswith("."))


def looks_like_image(path):
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


def common_folder(paths):
    folders = [path if path.is_dir() else path.parent for path in paths]
    try:
        return Path(os.path.commonpath(folders))
    except ValueError:  # drives of Windows
        raise InputError(
            "the images lie on different drives: run the command once for each, with an --out of its "
            "own"
        ) from None


def read_record(out, item, dicom_sr):
    """What an earlier run wrote about an image; None if it was not done, or the file has changed since."""
    path = item.in_folder(out / "boxes", ".json")
    if not path.exists() or not item.in_folder(out / "overlays", ".png").exists():
        return None
    record = read_json(path)
    same = record["source"] == os.fspath(item.path) and item.state().items() <= record.items()
    return record if same and (not dicom_sr or record["structured_report"] is not None) else None


def write_record(out, item, picture, found, structured_report):
    """`structured_report`: its path relative to `out`, or why there is none; None if none was wanted."""
    write_json(
        item.in_folder(out / "boxes", ".json"),
        {
            "image": item.name,
            "source": os.fspath(item.path),
            **item.state(),
            "width": picture.width,
            "height": picture.height,
            "dicom": picture.dicom,
            **found,
            "structured_report": structured_report,
        },
    )


def write_tables(out, records, failed, header):
    """predictions.csv, predictions.json and failed.csv.

    records: a function that yields the records, so that they need not fit into memory. failed: [(image, path, what,
    reason)]. header: what the .json says before its images.
    """
    with (
        atomic(out / "predictions.csv") as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as file,
    ):
        write_rows(csv.writer(file), records, list(header["image_classes"]))
    with (
        atomic(out / "predictions.json") as temporary,
        open(temporary, "w", encoding="utf-8") as file,
    ):
        file.write(json.dumps(header, indent=1)[:-2] + ',\n "images": [')
        for number, record in enumerate(records()):
            file.write((",\n  " if number else "\n  ") + json.dumps(public(record)))
        file.write("\n ]\n}\n")
    with (
        atomic(out / "failed.csv") as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as file,
    ):
        csv.writer(file).writerows(
            [
                ("image", "path", "what", "reason"),
                *([printable(text) for text in row] for row in failed),
            ]
        )


def write_rows(table, records, classes):
    """A row for each box; an image without boxes has one row with empty cells."""
    table.writerow(
        ["image", "path", "width", "height", *BOX, *(f"probability of {name}" for name in classes)]
    )
    for record in records():
        facts = [
            printable(record["image"]),
            printable(record["source"]),
            record["width"],
            record["height"],
        ]
        chances = [record["probabilities"][name] for name in classes]
        for box in record["boxes"] or [dict.fromkeys(BOX, "")]:
            table.writerow([*facts, *(box[name] for name in BOX), *chances])


def public(record):
    """The record as others read it, without what only serves to go on after a stop."""
    hidden = ("bytes", "modified", "dicom")
    return {
        name: printable(value) if isinstance(value, str) else value
        for name, value in record.items()
        if name not in hidden
    }


def printable(text):
    """Names of files may hold bytes that are no text; they become question marks."""
    return str(text).encode("utf-8", "replace").decode()
