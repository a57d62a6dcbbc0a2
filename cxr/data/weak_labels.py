"""What a table of a public set says of its images: labels that a program read in the reports.

Two layouts are known by their columns: the NIH's Data_Entry_2017.csv (a cell of findings with |
between them) and CheXpert's train.csv (a column for each finding). Others are described by
--external-columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pandas as pd

from cxr.images.folder import ENDINGS
from cxr.system.errors import InputError
from cxr.system.tables import read_whole_csv

POSITIVE = 1
NEGATIVE = 0
UNCERTAIN = -1  # the table itself does not know
UNKNOWN = -2  # the table says nothing of the image
IMAGE = "image"  # roles of --external-columns that are no findings
LABELS = "labels"
# {role: column}. A finding is found by its own name where it is a column.
LAYOUTS: tuple[dict[str, str], ...] = (
    {IMAGE: "Image Index", LABELS: "Finding Labels"},  # NIH ChestX-ray14
    {IMAGE: "Path"},  # CheXpert
)
PROJECTION = "Frontal/Lateral"  # a column of CheXpert's
LATERAL = "lateral"
SEPARATOR = "|"
# Parts of a path, from its end, by which an image is looked up: CheXpert's name files view1_frontal
# in train/<patient>/<study>/.
LONGEST_TAIL = 4
SEVERAL = -1  # of a tail that is that of several rows


@dataclass(frozen=True, eq=False)
class WeakLabels:
    """Labels of the images of a table.

    rows: {end of a path without ending: row, or SEVERAL}. findings: {finding: (n,) int8, POSITIVE,
    NEGATIVE or UNCERTAIN}. lateral: (n,) bool.
    """

    rows: Mapping[str, int]
    findings: Mapping[str, np.ndarray]
    lateral: np.ndarray

    def row_of(self, path: PurePath) -> int | None:
        """The row of an image file, by the longest end of its path that the table has."""
        for tail in reversed(tails_of(path)):
            row = self.rows.get(tail)
            if row is not None and row != SEVERAL:
                return row
        return None


def tails_of(path: PurePath) -> list[str]:
    """Ends of a path without its ending, from the file's name to LONGEST_TAIL parts.

    Only endings of pictures are such: a name may be a DICOM's number with points.
    """
    parts = path.parts
    if path.suffix.lower() in ENDINGS:
        parts = (*parts[:-1], path.stem)
    return ["/".join(parts[-count:]) for count in range(1, min(LONGEST_TAIL, len(parts)) + 1)]


def parse_columns(words: Sequence[str]) -> dict[str, str]:
    """{role or finding: column} of --external-columns NAME=COLUMN. Raises InputError."""
    columns = {}
    for word in words:
        name, separator, column = word.partition("=")
        if not (name and separator and column):
            raise InputError(
                f"--external-columns {word} must be NAME=COLUMN, where NAME is {IMAGE}, {LABELS} "
                "or a finding"
            )
        columns[name] = column
    return columns


def read_weak_labels(path: Path, columns: Mapping[str, str], findings: Sequence[str]) -> WeakLabels:
    """The labels of a file. columns: as of `parse_columns`; empty for a known layout.

    Raises InputError where the file does not say which image a row is of, or nothing of the
    findings.
    """
    table = read_whole_csv(path, remedy="give a csv file to --external-labels")
    layout = layout_of(table, columns, path)
    rows: dict[str, int] = {}
    for number, name in enumerate(table[layout[IMAGE]].astype(str)):
        for tail in tails_of(PurePath(name.replace("\\", "/"))):
            rows[tail] = number if tail not in rows else SEVERAL
    values = {}
    for finding in findings:
        cells = finding_values(table, layout, finding)
        if cells is not None:
            values[finding] = cells
    if not values:
        raise InputError(
            f"{path} says nothing of {', '.join(findings)}: say by --external-columns "
            f"'{findings[0]}=COLUMN' which of its columns does ({', '.join(table.columns)})"
        )
    lateral = np.zeros(len(table), bool)
    if PROJECTION in table:
        lateral = (table[PROJECTION].str.lower() == LATERAL).to_numpy()
    return WeakLabels(rows, values, lateral)


def layout_of(table: pd.DataFrame, columns: Mapping[str, str], path: Path) -> dict[str, str]:
    """{role: column} of a table. Raises InputError."""
    for name, column in columns.items():
        if column not in table:
            raise InputError(
                f"--external-columns {name}={column}: {path} has no such column "
                f"({', '.join(table.columns)})"
            )
    if IMAGE in columns:
        return dict(columns)
    for layout in LAYOUTS:
        if set(layout.values()) <= set(table.columns):
            return layout | dict(columns)
    raise InputError(
        f"{path} is neither a table of the NIH nor of CheXpert: say by --external-columns "
        f"{IMAGE}=COLUMN where its files are named ({', '.join(table.columns)})"
    )


def finding_values(
    table: pd.DataFrame, layout: Mapping[str, str], finding: str
) -> np.ndarray | None:
    """(n,) int8 of a finding; None where the table does not have it."""
    by_name = {str(column).lower(): column for column in table.columns}
    column = layout.get(finding) or by_name.get(finding.lower())
    if column is not None:
        return np.array([cell_value(cell) for cell in table[column]], np.int8)
    if LABELS not in layout:
        return None
    has_finding = []
    for cell in table[layout[LABELS]]:
        words = [word.strip().lower() for word in str(cell).split(SEPARATOR)]
        has_finding.append(finding.lower() in words)
    if not any(has_finding):
        return None
    return np.array(has_finding, np.int8)


def cell_value(cell: Any) -> int:
    """1.0, 0.0, -1.0 as CheXpert has them; what is not mentioned is empty there and not present."""
    try:
        number = float(cell) if str(cell).strip() else 0.0
    except ValueError:
        return UNCERTAIN
    if np.isnan(number):
        return NEGATIVE
    return UNCERTAIN if number < 0 else int(number > 0)
