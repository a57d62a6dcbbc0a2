"""YOLO's labels: a txt file an image, a line `class cx cy width height` a box, in shares."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from cxr.datasets.own.images import OwnImage, OwnImages
from cxr.datasets.own.labels import BOXES, OwnLabels
from cxr.system.errors import InputError
from cxr.system.walk import files_below

FOLDER = "labels"
NAME_FILES = ("data.yaml", "data.yml", "dataset.yaml", "classes.txt", "obj.names")


def find_yolo(folder: Path) -> list[Path]:
    """The label files below a folder: txt files in folders called labels."""
    files = [path for path in files_below(folder, ".txt") if FOLDER in lower_parts(path, folder)]
    return [path for path in files if path.name not in NAME_FILES]


def lower_parts(path: Path, folder: Path) -> list[str]:
    return [part.lower() for part in path.relative_to(folder).parts[:-1]]


def read_yolo(
    files: Sequence[Path], folder: Path, images: OwnImages, class_names: Sequence[str]
) -> OwnLabels:
    """The boxes of the files. class_names: those of --class-names, else of the file of names.

    Raises InputError with file and line.
    """
    labels = OwnLabels(BOXES, tuple(class_names) or read_names(folder))
    without_image = []
    for path in files:
        image = images.find(path.stem)
        if image is None:
            without_image.append(path)
            continue
        labels.of_image(image, path.name)
        for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
            if line.strip():
                add_line(labels, image, f"{path.name} line {number}", line)
    if without_image:
        labels.notes.append(
            f"{len(without_image)} label files have no image and were left out, such as "
            f"{without_image[0].name}"
        )
    if not labels.annotations:
        raise images.none_of(folder / FOLDER, [path.stem for path in files[:1]])
    return labels


def read_names(folder: Path) -> tuple[str, ...]:
    """Names of the classes in their order. Raises InputError where no file has them."""
    for name in NAME_FILES:
        for place in (folder, folder / FOLDER):
            path = place / name
            if path.is_file():
                return names_of(path)
    raise InputError(
        f"{folder} has none of {', '.join(NAME_FILES)} with the names of the classes: add one, or "
        "give the names with --class-names"
    )


def names_of(path: Path) -> tuple[str, ...]:
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix in (".txt", ".names"):
        return tuple(line.strip() for line in text.splitlines() if line.strip())
    try:
        names = (yaml.safe_load(text) or {}).get("names")
    except (yaml.YAMLError, AttributeError):
        names = None
    if isinstance(names, dict):
        names = [names[key] for key in sorted(names)]
    if not isinstance(names, list) or not names:
        raise InputError(f"{path} has no list `names` of the classes")
    return tuple(str(name) for name in names)


def add_line(labels: OwnLabels, image: OwnImage, where: str, line: str) -> None:
    words = line.split()
    try:
        label = int(words[0])
        numbers = [float(word) for word in words[1:5]]
    except ValueError:
        numbers = []
    if len(words) not in (5, 6) or len(numbers) != 4:
        raise InputError(
            f"{where}: {line.strip()!r} is no `class cx cy width height`: mend it (outlines of "
            "more numbers are not read)"
        )
    if not 0 <= label < len(labels.classes):
        raise InputError(f"{where}: class {label}, and there are {len(labels.classes)} names")
    if max(numbers) > 1.001 or min(numbers) < 0:
        raise InputError(f"{where}: numbers are shares of the image, between 0 and 1: mend it")
    width, height = image.identity.width, image.identity.height
    if not width:
        labels.notes.append(f"{where}: the size of {image.image_id} is unknown, so it was left out")
        return
    x, y, box_width, box_height = numbers
    left = (x - box_width / 2) * width
    top = (y - box_height / 2) * height
    box = [left, top, left + box_width * width, top + box_height * height]
    labels.add_box(image, where, box, label)
