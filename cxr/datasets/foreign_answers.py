"""Predictions of other people's models, as files hold them: COCO's results, or a submission's rows.

What they say of an image is put in the words of a rule: Detections, run lengths of a mask, or
probabilities of classes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr.geometry.detections import Detections
from cxr.system.errors import InputError


def read_rows(path: Path, table: pd.DataFrame, parse: Callable[[str], Any]) -> dict[str, Any]:
    """{id: what `parse` says of its text} of a table with the id and the text in its two columns.

    Raises InputError naming the first id whose text `parse` refuses by ValueError, or that is
    there twice.
    """
    answers: dict[str, Any] = {}
    for row_id, text in table.itertuples(index=False):
        if row_id in answers:
            raise InputError(f"{path} has {row_id} twice: leave one of the rows out")
        try:
            answers[row_id] = parse(text)
        except ValueError as error:
            raise InputError(f"{path} is wrong for {row_id}: {error}") from None
    return answers


def read_coco_results(
    path: Path, image_ids: Sequence[str], classes: Sequence[str]
) -> dict[str, Detections]:
    """{image_id: boxes in original pixels} of COCO's results; an image without a box has none.

    The file is a list of {"image_id": the id as in the tables, "category_id": the number of the
    class, counted from 1, "bbox": [x, y, width, height], "score": 0 ... 1}. Raises InputError for
    another file, and for one that has a box of none of these images.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        ids = [str(entry["image_id"]) for entry in content]
        labels = np.array([int(entry["category_id"]) - 1 for entry in content], int)
        corners = np.array([entry["bbox"] for entry in content], float).reshape(-1, 4)
        scores = np.array([entry["score"] for entry in content], float)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is no list of COCO results with image_id, category_id, bbox and score "
            f"({error!r})"
        ) from None
    corners[:, 2:] += corners[:, :2]
    known = (labels >= 0) & (labels < len(classes))
    in_range = (scores >= 0) & (scores <= 1)
    if not known.all() or not in_range.all():
        raise InputError(
            f"{path} has a category_id outside 1 to {len(classes)} ({', '.join(classes)}), or a "
            "score outside 0 to 1"
        )
    detections = Detections(corners, scores, labels)
    rows = pd.Series(range(len(ids)), dtype=int).groupby(ids).indices
    if ids and not rows.keys() & set(image_ids):
        raise InputError(f"{path} has boxes of other images only, such as {ids[0]}")
    answers = {}
    for image_id in image_ids:
        of_image = rows.get(image_id, np.zeros(0, int))
        answers[image_id] = detections.take(of_image).sorted()
    return answers
