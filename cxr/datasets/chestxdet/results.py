"""ChestX-Det10 results: a JSON file for each image, as the challenge's eval.py reads them.

All of them stand once more, as rows, in one csv file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from cxr.datasets.chestxdet.files import FINDINGS
from cxr.geometry.detections import Detections
from cxr.methods.evaluation import Boxes
from cxr.system.disk import atomic
from cxr.system.errors import InputError
from cxr.system.tables import write_csv

COLUMNS = ("file_name", "finding", "x1", "y1", "x2", "y2", "score", "above_threshold")


def format_result(detections: Detections, size: tuple[int, int]) -> list[dict[str, list[float]]]:
    """One image as [{"nodule": [x1, y1, x2, y2, score]}, ...] in original pixels, best first.

    size: width and height of the image. Raises InputError for a box that lies outside it or has no
    area, or a score outside 0 ... 1.
    """
    corners = np.round(np.asarray(detections.boxes, np.float64).reshape(-1, 4), 1)
    inside = (corners >= 0) & (corners <= np.tile(size, 2))
    if not inside.all() or not (corners[:, 2:] > corners[:, :2]).all():
        raise InputError(
            f"a box lies outside its image of {size[0]} x {size[1]} pixels or has no area"
        )
    scores = np.asarray(detections.scores)
    if not ((scores > 0) & (scores <= 1)).all():
        raise InputError("a score is not above 0 and at most 1")
    result = []
    for corner, score, label in zip(corners.tolist(), scores, detections.labels, strict=True):
        finding = FINDINGS[int(label)].lower()
        result.append({finding: [*corner, round(float(score), 6)]})
    return result


def write_chestxdet_results(
    folder: Path,
    detections: Mapping[str, Detections],
    kept: Mapping[str, np.ndarray],
    table: pd.DataFrame,
) -> None:
    """`folder`/<image_id>.json for each row of the table, and all as `folder`.csv beside it.

    detections: {image_id: boxes in original pixels, whatever the score, as eval.py needs it}.
    kept: {image_id: (n,) bool}, which of them the thresholds keep.
    """
    rows = []
    for row in table.itertuples():
        image_id = str(row.image_id)
        found = detections[image_id]
        content = format_result(found, (row.width, row.height))
        with atomic(folder / f"{image_id}.json") as temporary:
            temporary.write_text(json.dumps(content), encoding="utf-8")
        for entry, label, is_kept in zip(content, found.labels, kept[image_id], strict=True):
            finding = FINDINGS[int(label)]
            values = entry[finding.lower()]
            rows.append((f"{image_id}.png", finding, *values, bool(is_kept)))
    write_csv(folder.with_suffix(".csv"), pd.DataFrame(rows, columns=list(COLUMNS)))


def above_fitted_thresholds(detections: Detections, predicted: Boxes, image_id: str) -> np.ndarray:
    """(n,) bool: which boxes of an image are among those that its thresholds kept."""
    kept_labels = predicted.labels[image_id]
    kept_scores = predicted.scores[image_id]
    assert kept_scores is not None  # only true boxes have none
    lowest = {label: kept_scores[kept_labels == label].min() for label in np.unique(kept_labels)}
    above = []
    for score, label in zip(detections.scores, detections.labels, strict=True):
        above.append(score >= lowest.get(label, np.inf))
    return np.array(above, bool)
