"""The tables of step 02, read and divided."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from cxr.system.errors import InputError

# Columns of names such as 00123 or 12e4, which are no numbers.
TEXT_COLUMNS = ("image_id", "group", "mask", "study_id", "patient")


def read_table(path: Path) -> pd.DataFrame:
    """Table of step 02. Raises InputError if it is not there or broken."""
    if not path.exists():
        raise InputError(
            f"{path} is missing: run step 02 first, with the same --task and --working"
        )
    try:
        return pd.read_csv(path, dtype=dict.fromkeys(TEXT_COLUMNS, str))
    except ValueError as error:  # pandas' parser errors are ValueErrors
        raise InputError(
            f"{path} is not a readable table ({error}): delete it and run step 02 again"
        ) from None


def split_fold(table: pd.DataFrame, fold: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(training rows, validation rows) of a fold.

    Raises InputError if the fold is not in the table or one side is empty.
    """
    held_out = table["fold"] == fold
    if held_out.all() or not held_out.any():
        present = sorted(table["fold"].unique().tolist())
        raise InputError(
            f"fold {fold} is not in the table of step 02 (folds there: {present}): "
            "run step 02 with this --folds into another --working folder"
        )
    return table[~held_out], table[held_out]


def keep_classes(table: pd.DataFrame, count: int) -> pd.DataFrame:
    """The table with the boxes of the classes 0 to count - 1 only."""
    kept_boxes = []
    kept_labels = []
    for boxes_text, labels_text in zip(table["boxes"], table["box_labels"], strict=True):
        boxes = []
        labels = []
        for box, label in zip(json.loads(boxes_text), json.loads(labels_text), strict=True):
            if label < count:
                boxes.append(box)
                labels.append(label)
        kept_boxes.append(boxes)
        kept_labels.append(labels)
    return table.assign(
        boxes=[json.dumps(boxes) for boxes in kept_boxes],
        box_labels=[json.dumps(labels) for labels in kept_labels],
        n_boxes=[len(boxes) for boxes in kept_boxes],
    )
