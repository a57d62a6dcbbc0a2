"""The tables train.csv and test.csv of step 02: made, read and divided."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr.geometry.boxes import clip_boxes
from cxr.images.header import Header, why_not_frontal_chest
from cxr.system.disk import read_json
from cxr.system.errors import InputError

# Columns in their order; a table has those that its data set knows.
COLUMNS = (
    "image_id",
    "path",
    "study_id",
    "patient",
    "cluster",
    "group",
    "stratum",
    "fold",
    "width",
    "height",
    "age",
    "sex",
    "view",
    "n_boxes",
    "boxes",
    "box_labels",
    "mask_known",
    "label",
    "test_like",
    "mask",
    "findings",
)
# Columns of names such as 00123 or 12e4, which are no numbers.
TEXT_COLUMNS = ("image_id", "group", "mask", "study_id", "patient")
HEADER_COLUMNS = ("width", "height", "age", "sex", "view")


def read_table(path: Path) -> pd.DataFrame:
    """Table of step 02. Raises InputError if it is not there or broken."""
    if not path.exists():
        raise InputError(
            f"{path} is missing: run step 02 first, with the same --task and --working"
        )
    try:
        table = pd.read_csv(path, dtype=dict.fromkeys(TEXT_COLUMNS, str))
    except ValueError as error:  # pandas' parser errors are ValueErrors
        raise InputError(
            f"{path} is not a readable table ({error}): delete it and run step 02 again"
        ) from None
    expected = _recorded_rows(path)
    if expected is not None and len(table) != expected:
        raise InputError(
            f"{path} has {len(table)} rows and not the {expected} that step 02 wrote: delete it "
            "and run step 02 again"
        )
    return table


def _recorded_rows(path: Path) -> int | None:
    """How many rows step 02 says that it wrote into a table, None where it says nothing."""
    record = path.with_name("preprocess.json")
    if not record.exists():
        return None
    counts = read_json(record).get("counts", {})
    return counts.get(path.stem)


def split_fold(table: pd.DataFrame, fold: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(training rows, validation rows) of a fold.

    Raises InputError if the fold is not in the table or one side is empty.
    """
    held_out = table["fold"] == fold
    if held_out.all() or not held_out.any():
        present = sorted(table["fold"].unique().tolist())
        hint = f"give --folds {len(present)}, or " if len(present) > 1 else ""
        raise InputError(
            f"fold {fold} is not in the table of step 02 (folds there: {present}): {hint}"
            "run step 02 with this --folds into another --working folder"
        )
    return table[~held_out], table[held_out]


# What is said of boxes that had to be changed, by the field of RowBoxes that counts them.
BOX_NOTES = {
    "clipped": "reach outside their image and were clipped to it",
    "left_out": "lie wholly outside their image or have no size and were left out",
    "repeated": "stand twice in the labels of their image and count once",
}


@dataclass(frozen=True)
class RowBoxes:
    """Boxes of a row, [x1, y1, x2, y2] in original pixels, and their classes.

    clipped: how many reached out of the image and were cut. left_out: how many had nothing in it.
    repeated: how many stood there before, with the same class.
    """

    boxes: list[list[float]]
    labels: list[int]
    clipped: int = 0
    left_out: int = 0
    repeated: int = 0


def keep_classes(table: pd.DataFrame, count: int) -> pd.DataFrame:
    """The table with the boxes of the classes 0 to count - 1 only."""
    rows = []
    for boxes_text, labels_text in zip(table["boxes"], table["box_labels"], strict=True):
        kept = RowBoxes([], [])
        for box, label in zip(json.loads(boxes_text), json.loads(labels_text), strict=True):
            if label < count:
                kept.boxes.append(box)
                kept.labels.append(label)
        rows.append(kept)
    return with_boxes(table, rows)


def with_boxes(table: pd.DataFrame, rows: Sequence[RowBoxes]) -> pd.DataFrame:
    """The table with these boxes, one entry for each of its rows."""
    return table.assign(
        boxes=[json.dumps(row.boxes) for row in rows],
        box_labels=[json.dumps(row.labels) for row in rows],
        n_boxes=[len(row.boxes) for row in rows],
    )


def finish_table(
    table: pd.DataFrame, headers: Mapping[str, Header], notes: list[str]
) -> pd.DataFrame:
    """The rows whose image was converted, with the facts of its header and boxes clipped to it.

    headers: by image_id. Sentences about boxes that had to be changed are added to notes. Columns
    known_width and known_height, where a table has them, are the sizes of the originals of which
    the pictures are smaller copies.
    """
    table = table[table["image_id"].isin(headers.keys())].reset_index(drop=True)
    facts = pd.DataFrame(
        [asdict(headers[image_id]) for image_id in table["image_id"]],
        columns=list(HEADER_COLUMNS),
        index=table.index,
    )
    for name in ("width", "height"):
        known = f"known_{name}"
        if known in table:
            facts[name] = table[known].fillna(facts[name]).astype(int)
    table = pd.concat([table, facts], axis=1)
    refuse_other_frames(table)

    rows = []
    for row in table.itertuples():
        boxes = json.loads(row.boxes)
        labels = json.loads(row.box_labels)
        rows.append(boxes_inside(boxes, labels, row.width, row.height))
    for field, sentence in BOX_NOTES.items():
        counts = np.array([getattr(row, field) for row in rows], int)
        if counts.any():
            first = table["image_id"].iloc[np.flatnonzero(counts)[0]]
            notes.append(f"{counts.sum()} boxes {sentence} (the first: {first})")
    return in_order(with_boxes(table, rows))


def note_unusual_headers(headers: Mapping[str, Header], notes: list[str]) -> None:
    """A note on images that are no frontal chest X-rays by their headers, if there are some.

    headers: by image_id.
    """
    reasons = {}
    for image_id, header in headers.items():
        reason = why_not_frontal_chest(header)
        if reason:
            reasons[image_id] = reason
    if reasons:
        image_id, reason = next(iter(reasons.items()))
        notes.append(
            f"{len(reasons)} images are no frontal chest X-rays by their headers and were kept, "
            f"such as {image_id}: {reason}"
        )


def in_order(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the columns of step 02 only, in their order."""
    return table[[name for name in COLUMNS if name in table.columns]]


def refuse_other_frames(table: pd.DataFrame) -> None:
    """InputError for a picture whose mask was drawn on one of another size.

    The column `frame`, where there is one, is the side of the square that it was drawn on.
    """
    if "frame" not in table:
        return
    differs = (table["frame"] != table["width"]) | (table["frame"] != table["height"])
    if not differs.any():
        return
    row = table[differs].iloc[0]
    others = int(differs.sum()) - 1
    raise InputError(
        f"{row['path']} and {others} more pictures are not {row['frame']} x {row['frame']} "
        "pixels as their masks are: use the original files"
    )


def boxes_inside(
    boxes: Sequence[Sequence[float]], labels: Sequence[Any], width: int, height: int
) -> RowBoxes:
    """The boxes [x1, y1, x2, y2] with an area inside an image of this size, cut at its edges.

    A box that stands twice with the same class counts once.
    """
    given = np.array(boxes, np.float64).reshape(-1, 4)
    inside = clip_boxes(given, width, height)
    has_area = (inside[:, 2] > inside[:, 0]) & (inside[:, 3] > inside[:, 1])
    is_first = np.ones(len(given), bool)
    known = set()
    for i, entry in enumerate(zip(map(tuple, given.tolist()), labels, strict=True)):
        is_first[i] = entry not in known
        known.add(entry)
    kept = has_area & is_first
    moved = kept & (inside != given).any(axis=1)
    return RowBoxes(
        boxes=inside[kept].tolist(),
        labels=[label for label, is_kept in zip(labels, kept, strict=True) if is_kept],
        clipped=int(moved.sum()),
        left_out=int((~has_area).sum()),
        repeated=int((has_area & ~is_first).sum()),
    )
