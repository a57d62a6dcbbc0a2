"""COCO's json, as CVAT, Label Studio and Roboflow export it: boxes, or masks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from cxr.datasets.own.images import TEST, OwnImage, OwnImages
from cxr.datasets.own.labels import BOXES, MASKS, OwnLabels
from cxr.geometry.masks import encode_runs
from cxr.system.errors import InputError

PARTS = ("images", "annotations", "categories")


def is_coco(path: Path) -> bool:
    """Whether a json file is one of COCO's."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and all(isinstance(content.get(part), list) for part in PARTS)


def read_content(path: Path) -> dict[str, Any]:
    """Raises InputError for what is no COCO file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not readable as json ({error}): export it again") from None
    missing = [part for part in PARTS if not isinstance(content.get(part), list)]
    if missing:
        raise InputError(f"{path} is no COCO file, as it lacks {', '.join(missing)}")
    return content


def kind_of_coco(content: Mapping[str, Any]) -> str:
    """Masks where every annotation has an outline and there is one category, else boxes."""
    drawn = [bool(each.get("segmentation")) for each in content["annotations"]]
    one_category = len({each["category_id"] for each in content["annotations"]}) == 1
    if drawn and all(drawn) and one_category:
        return MASKS
    return BOXES


def read_coco(paths: Sequence[Path], images: OwnImages, kind: str) -> OwnLabels:
    """The labels of one file, or of one for each split (train, valid, test) as Roboflow has them.

    Raises InputError with the annotation's id of what is wrong.
    """
    labels = OwnLabels(kind, ())
    for path in paths:
        content = read_content(path)
        add_categories(labels, path, content)
        read_file(labels, path, content, images)
    if not labels.annotations:
        names = [each["file_name"] for each in read_content(paths[0])["images"][:1]]
        raise images.none_of(paths[0], names)
    return labels


def add_categories(labels: OwnLabels, path: Path, content: Mapping[str, Any]) -> None:
    """The classes; only those that an annotation has, as Roboflow adds one for all of them."""
    used = {each.get("category_id") for each in content["annotations"]}
    for category in content["categories"]:
        if category["id"] in used and category["name"] not in labels.classes:
            labels.classes = (*labels.classes, category["name"])
            labels.coco_classes.append(int(category["id"]))
    unknown = used - {category["id"] for category in content["categories"]}
    if unknown:
        raise InputError(f"{path} has annotations of the category {unknown.pop()} without a name")


def read_file(labels: OwnLabels, path: Path, content: Mapping[str, Any], images: OwnImages) -> None:
    found: dict[Any, OwnImage] = {}
    missing = []
    for entry in content["images"]:
        image = find_entry(entry, path, images)
        if image is None:
            missing.append(entry["file_name"])
            continue
        found[entry["id"]] = image
        labels.coco_images[image.image_id] = entry["id"]
        annotation = labels.of_image(image, f"{path.name} image {entry['id']}")
        annotation.is_test = path.parent.name.lower() == TEST
        note_other_size(labels, entry, image, path)
    if missing:
        labels.notes.append(
            f"{len(missing)} images of {path.name} are not there and were left out, such as "
            f"{missing[0]}"
        )
    names = {category["id"]: category["name"] for category in content["categories"]}
    if labels.kind == MASKS:
        unite_masks(labels, path, content, found)
        return
    for each, image, where in annotations_of(content, found, path):
        x, y, width, height = read_box(each, where)
        label = labels.classes.index(names[each["category_id"]])
        labels.add_box(image, where, [x, y, x + width, y + height], label)


def find_entry(entry: Mapping[str, Any], path: Path, images: OwnImages) -> OwnImage | None:
    """The image of an entry; beside its json first, since splits may repeat names."""
    beside = path.parent / entry["file_name"]
    if beside.is_file():
        relative = beside.resolve().relative_to(images.folder.resolve())
        return images.find(relative.as_posix())
    return images.find(entry["file_name"])


def note_other_size(
    labels: OwnLabels, entry: Mapping[str, Any], image: OwnImage, path: Path
) -> None:
    """A note where the file's size is another than that which was labelled."""
    size = (image.identity.width, image.identity.height)
    stated = (entry.get("width"), entry.get("height"))
    if None not in stated and 0 not in size and stated != size:
        labels.notes.append(
            f"{path.name} image {entry['id']}: {image.image_id} has {size[0]} x {size[1]} pixels, "
            f"and was labelled as {stated[0]} x {stated[1]}: labels may not fit"
        )


def annotations_of(
    content: Mapping[str, Any], found: Mapping[Any, OwnImage], path: Path
) -> Iterator[tuple[Mapping[str, Any], OwnImage, str]]:
    """Yield the annotations of images that are there, with words for where they stand."""
    for each in content["annotations"]:
        image = found.get(each.get("image_id"))
        if image is not None:
            yield each, image, f"{path.name} annotation {each.get('id', '?')}"


def read_box(each: Mapping[str, Any], where: str) -> list[float]:
    """x, y, width, height."""
    box = each.get("bbox")
    try:
        numbers = [float(value) for value in box or ()]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != 4 or not np.isfinite(numbers).all():
        raise InputError(f"{where}: bbox is {box!r}, and should be four numbers: mend it")
    return numbers


def unite_masks(
    labels: OwnLabels, path: Path, content: Mapping[str, Any], found: Mapping[Any, OwnImage]
) -> None:
    """The union of each image's outlines as its mask."""
    sizes = {entry["id"]: (entry.get("height"), entry.get("width")) for entry in content["images"]}
    unions: dict[str, np.ndarray] = {}
    for each, image, where in annotations_of(content, found, path):
        height, width = sizes[each["image_id"]]
        if not height or not width:
            height, width = image.identity.height, image.identity.width
        mask = decode_segmentation(each.get("segmentation"), height, width, where)
        known = unions.get(image.image_id)
        unions[image.image_id] = mask if known is None else known | mask
    for image_id, mask in unions.items():
        labels.annotations[image_id].mask = encode_runs(mask)


def decode_segmentation(segmentation: Any, height: int, width: int, where: str) -> np.ndarray:
    """Mask (height, width) of polygons or run lengths, in either form."""
    try:
        runs = segmentation
        if isinstance(segmentation, list):
            runs = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
        elif isinstance(segmentation["counts"], list):
            runs = coco_mask.frPyObjects(segmentation, height, width)
        mask = coco_mask.decode(runs)
    except Exception as error:  # pycocotools raises anything at all
        raise InputError(f"{where}: its segmentation is none ({error}): mend it") from None
    if mask.shape != (height, width):
        raise InputError(f"{where}: its segmentation is of another size than its image: mend it")
    return mask
