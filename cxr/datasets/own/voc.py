"""Pascal VOC's labels: an xml file an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from cxr.datasets.own.images import OwnImages
from cxr.datasets.own.labels import BOXES, OwnLabels
from cxr.system.errors import InputError
from cxr.system.walk import files_below

CORNERS = ("xmin", "ymin", "xmax", "ymax")
MOST_BYTES = 10_000_000  # of a file of some boxes
ENTITY = b"<!ENTITY"  # with which a file of few bytes can fill the memory


def find_voc(folder: Path) -> list[Path]:
    """The xml files below a folder that begin with an annotation."""
    files = []
    for path in files_below(folder, ".xml"):
        with open(path, "rb") as file:
            if b"<annotation" in file.read(500):
                files.append(path)
    return files


def read_voc(files: Sequence[Path], images: OwnImages, class_names: Sequence[str]) -> OwnLabels:
    """The boxes of the files; a file without an object is an image without a finding.

    class_names: those of --class-names, else all that occur, by name. InputError with the file.
    """
    trees = [(path, parse(path)) for path in files]
    names = sorted({name for _, tree in trees for name in names_in(tree)})
    labels = OwnLabels(BOXES, tuple(class_names) or tuple(names))
    without_image = []
    for path, tree in trees:
        called = tree.findtext("filename") or path.stem
        image = images.find(called) or images.find(path.stem)
        if image is None:
            without_image.append(path)
            continue
        labels.of_image(image, path.name)
        for number, element in enumerate(tree.iter("object"), start=1):
            where = f"{path.name} object {number}"
            name = (element.findtext("name") or "").strip()
            if name not in labels.classes:
                raise InputError(
                    f"{where}: {name!r} is none of the classes {', '.join(labels.classes)}"
                )
            labels.add_box(image, where, corners_of(element, where), labels.classes.index(name))
    if without_image:
        labels.notes.append(
            f"{len(without_image)} xml files have no image and were left out, such as "
            f"{without_image[0].name}"
        )
    if not labels.annotations:
        raise images.none_of(files[0].parent, [path.stem for path in files[:1]])
    return labels


def parse(path: Path) -> ElementTree.Element:
    content = path.read_bytes()
    if len(content) > MOST_BYTES or ENTITY in content:
        raise InputError(f"{path} is no file of some boxes: leave it out")
    try:
        return ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        raise InputError(f"{path} is not readable as xml ({error}): export it again") from None


def names_in(tree: ElementTree.Element) -> list[str]:
    return [(element.findtext("name") or "").strip() for element in tree.iter("object")]


def corners_of(element: ElementTree.Element, where: str) -> list[float]:
    try:
        return [float(element.findtext(f"bndbox/{name}") or "") for name in CORNERS]
    except ValueError:
        raise InputError(
            f"{where}: bndbox needs {', '.join(CORNERS)} as numbers: mend it"
        ) from None
