"""What a data set's reader gives: a table of the labelled images, one of the test images, notes."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from cxr.geometry.detections import TrueBoxes
from cxr.system.errors import InputError

NO_FINDING = "No finding"  # stratum of images whose strata are findings


class Tables(NamedTuple):
    """What the files of a data set say.

    train: a row for each labelled image, with the columns of `make_image_table`; further ones are
    `mask` (run lengths) with `frame` (side of the square picture that it was drawn on),
    `mask_known`, `patient`, `study_id`, `test_like`. test: the same columns, without labels.
    notes: sentences about what is unusual.
    """

    train: pd.DataFrame
    test: pd.DataFrame
    notes: list[str]


@dataclass(frozen=True)
class ImageRow:
    """One image file and what is known of it.

    group: the patient, "" for one that owns no other image. stratum: a word by which folds are
    balanced, or several with | between them. boxes: x1 y1 x2 y2 in original pixels, not yet
    clipped. box_labels: the class of each box, 0 for all where it is left out. label: class of the
    image, -1 where it is unknown.
    """

    image_id: str
    path: Path
    group: str = ""
    stratum: str = ""
    boxes: Sequence[Sequence[float]] = ()
    box_labels: Sequence[int] = field(default=())
    label: int = -1


def make_image_table(rows: Iterable[ImageRow]) -> pd.DataFrame:
    """image_id, path, group, stratum, boxes and box_labels (JSON text), n_boxes, label."""
    rows = list(rows)
    boxes = [json.dumps([list(box) for box in row.boxes]) for row in rows]
    labels = [json.dumps(list(row.box_labels) or [0] * len(row.boxes)) for row in rows]
    columns = {
        "image_id": pd.Series([row.image_id for row in rows], dtype=str),
        "path": pd.Series([str(row.path) for row in rows], dtype=str),
        "group": pd.Series([row.group or row.image_id for row in rows], dtype=str),
        "stratum": pd.Series([row.stratum for row in rows], dtype=str),
        "boxes": pd.Series(boxes, dtype=str),
        "box_labels": pd.Series(labels, dtype=str),
        "n_boxes": np.array([len(row.boxes) for row in rows], int),
        "label": np.array([row.label for row in rows], int),
    }
    return pd.DataFrame(columns)


def findings_row(image_id: str, path: Path, truth: TrueBoxes, names: Sequence[str]) -> ImageRow:
    """Row of an image of class 0 without a finding and 1 with some; names: of the box labels.

    The stratum lists the findings, so that each is spread evenly over the folds.
    """
    findings = [names[label] for label in np.unique(truth.labels)]
    return ImageRow(
        image_id,
        path,
        stratum="|".join(findings) or NO_FINDING,
        boxes=truth.boxes.tolist(),
        box_labels=truth.labels.tolist(),
        label=int(len(truth.boxes) > 0),
    )


def list_files(folder: Path, ending: str, pattern: str = "*") -> dict[str, Path]:
    """{name without ending: path} of the files with an ending such as .dcm, in any case.

    Sorted by path. The first of several files of a name counts. pattern: how deep they lie.
    """
    files: dict[str, Path] = {}
    for path in sorted(folder.glob(pattern)):
        if path.suffix.lower() == ending:
            files.setdefault(path.stem, path)
    return files


def find_listed_files(
    folder: Path, ending: str, image_ids: Collection[str], notes: list[str]
) -> dict[str, Path]:
    """{image_id: path} of files <folder>/<image_id><ending>, in the order of the ids.

    Ids without file and files without id are noted.
    """
    present = list_files(folder, ending)
    files = {image_id: present[image_id] for image_id in image_ids if image_id in present}
    absent = len(image_ids) - len(files)
    note_count(
        notes, absent, f"images of the tables have no file in {folder.name} and were left out"
    )
    unlisted = len(present) - len(files)
    note_count(notes, unlisted, f"files of {folder.name} are in no table and were left out")
    note_twins(notes, image_ids, present)
    return files


# What to do about ids that a spreadsheet program has changed.
SAME_BUT_WRITTEN = (
    "write the ids in the tables as the files are called, in text columns, since spreadsheet "
    "programs drop zeros at the start"
)


def no_image_of(
    table: str, ids: Iterable[str], place: str, others: Iterable[str], remedy: str
) -> InputError:
    """The error where `place`, a folder or another table, holds none of the images of a table.

    It shows an id of each side: of `ids` in the table, and of `others` in the place.
    """
    ids = list(ids)
    others = list(others)
    sentence = f"{place} holds none of the images of {table}"
    if not ids or not others:
        return InputError(f"{sentence}: {remedy}")
    twins = find_twins(ids, others)
    if twins:
        return InputError(
            f"{sentence}, which lists {twins[0]} where the other has {twins[1]}: {SAME_BUT_WRITTEN}"
        )
    return InputError(f"{sentence}: its ids look like {ids[0]}, those there {others[0]}: {remedy}")


def note_twins(notes: list[str], ids: Iterable[str], others: Collection[str]) -> None:
    """A note where an id of a table is none of the others, but would be if it was written so."""
    missing = [image_id for image_id in ids if image_id not in others]
    twins = find_twins(missing, set(others) - set(ids))
    if twins:
        notes.append(f"an id of the tables is {twins[0]}, another {twins[1]}: {SAME_BUT_WRITTEN}")


def find_twins(ids: Iterable[str], others: Iterable[str]) -> tuple[str, str] | None:
    """The first id that is one of the others but for zeros at the start or capitals, and that."""
    by_form = {plain_form(other): other for other in others}
    for image_id in ids:
        if plain_form(image_id) in by_form:
            return image_id, by_form[plain_form(image_id)]
    return None


def plain_form(image_id: str) -> str:
    """An id without zeros at the start, in small letters."""
    return image_id.lower().lstrip("0")


def note_count(notes: list[str], count: int, words: str) -> None:
    """Add the note "<count> <words>" unless there is nothing to count."""
    if count:
        notes.append(f"{count} {words}")
