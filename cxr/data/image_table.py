"""What a data set's reader gives: a table of the labelled images, one of the test images, notes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd


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


def note_count(notes: list[str], count: int, words: str) -> None:
    """Add the note "<count> <words>" unless there is nothing to count."""
    if count:
        notes.append(f"{count} {words}")
