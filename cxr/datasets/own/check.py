"""Step 02 --check: what was understood, said and drawn; no table, no picture is made."""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cxr.data.image_table import NO_FINDING
from cxr.data.tables import finish_table
from cxr.datasets.own.files import OwnData, make_tables
from cxr.datasets.own.labels import BOXES, CLASSES, MASKS, Annotation
from cxr.images.header import Header
from cxr.images.printable import UnreadableImage
from cxr.images.read import convert_file
from cxr.plots.data_overview import ClassSamples, pick_samples, write_samples

PER_CLASS = 4  # samples in the sheet
SHEET_SIDE = 384  # pixels of each
MOST_SAID = 5


def say_what_is_there(data: OwnData, folder: Path) -> None:
    """Print it, and write samples with their labels to `folder`/check.png."""
    print("\n".join(describe_data(data)))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "check.png"
    draw_samples(data, path)
    print(f"samples with their labels: {path}; nothing else was written")


def describe_data(data: OwnData) -> list[str]:
    """All that was understood, a line each, and every doubt as a sentence."""
    labels = data.labels
    how = ", several of which an image may have" if labels.several else ""
    lines = [
        f"labels: {data.source.describe()}",
        f"kind: {labels.kind}{how}",
        f"classes: {', '.join(count_classes(data))}",
        f"images: {len(data.images.images)} below {data.images.folder}; {len(data.train)} to learn "
        f"from, {len(data.test)} labelled test images, {len(data.unlabelled)} without a label",
        f"patients: {count_patients(data.train)}",
        f"sizes: {describe_sizes(data)}",
        f"views: {describe_views(data)}",
    ]
    lines += describe_copies(data)
    lines += [f"note: {note}" for note in labels.notes]
    return lines


def count_classes(data: OwnData) -> list[str]:
    """ "name (images, boxes)" of each class, and the images without any."""
    labels = data.labels
    images: Counter[int] = Counter()
    boxes: Counter[int] = Counter()
    negative = 0
    for each in labels.annotations.values():
        present = classes_of(each, labels.kind)
        images.update(present)
        boxes.update(each.labels)
        negative += not present
    words = []
    for number, name in enumerate(labels.classes):
        count = f"{images[number]} images"
        if labels.kind == BOXES:
            count += f", {boxes[number]} boxes"
        words.append(f"{name} ({count})")
    if labels.kind != CLASSES or labels.several:
        words.append(f"none of them ({negative} images)")
    return words


def classes_of(annotation: Annotation, kind: str) -> set[int]:
    if kind == BOXES:
        return set(annotation.labels)
    if kind == MASKS:
        return {0} if annotation.mask not in ("", "-1") else set()
    return set(np.flatnonzero(annotation.findings).tolist())


def count_patients(annotations: Sequence[Annotation]) -> str:
    known = {each.patient for each in annotations if each.patient}
    unknown = sum(not each.patient for each in annotations)
    if not known:
        return "not known"
    rest = f", and {unknown} images without one" if unknown else ""
    return f"{len(known)}{rest}"


def describe_sizes(data: OwnData) -> str:
    sizes = Counter((each.identity.width, each.identity.height) for each in data.images.images)
    unknown = sizes.pop((0, 0), 0)
    common = [f"{w} x {h} ({count})" for (w, h), count in sizes.most_common(MOST_SAID)]
    if len(sizes) > MOST_SAID:
        common.append(f"and {len(sizes) - MOST_SAID} more")
    if unknown:
        common.append(f"not stated ({unknown})")
    return ", ".join(common)


def describe_views(data: OwnData) -> str:
    views = Counter(each.identity.view or "not stated" for each in data.images.images)
    return ", ".join(f"{view} ({count})" for view, count in views.most_common())


def describe_copies(data: OwnData) -> list[str]:
    """A sentence on files of the same bytes, which may have other labels."""
    by_hash = defaultdict(list)
    for image in data.images.images:
        by_hash[hash_of(image.path)].append(image)
    copies = [same for same in by_hash.values() if len(same) > 1]
    if not copies:
        return []
    first = " and ".join(image.image_id for image in copies[0][:2])
    extra = sum(len(same) - 1 for same in copies)
    return [f"note: {extra} images are copies of others, byte by byte, such as {first}"]


def hash_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def draw_samples(data: OwnData, path: Path) -> None:
    """Some images of each class with their labels."""
    labels = data.labels
    table = make_tables(data).train
    names = [NO_FINDING, "with a finding"]
    if labels.kind == CLASSES and not labels.several:
        names = list(labels.classes)
    box_classes = labels.classes if labels.kind == BOXES else ()
    picked = pick_samples(table, names, PER_CLASS, box_classes)
    wanted = {image_id for each in picked.values() for image_id in each.rows["image_id"]}
    headers: dict[str, Header] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for row in table[table["image_id"].isin(wanted)].itertuples():
            target = Path(scratch) / f"{row.image_id}.png"
            try:
                headers[row.image_id] = convert_file(row.path, target, SHEET_SIDE)
            except UnreadableImage as error:
                print(f"note: {error}")
        readable = finish_table(table, headers, [])
        samples = {}
        for name, each in picked.items():
            rows = readable[readable["image_id"].isin(each.rows["image_id"])]
            if len(rows):
                samples[name] = ClassSamples(rows, each.total)
        write_samples(path, samples, Path(scratch), box_classes)
