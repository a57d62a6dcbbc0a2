"""ChestX-Det10 results: a JSON file for each image, as the challenge's eval.py reads them, and one csv file."""

import json

import numpy as np
import pandas as pd

from cxr.datasets.chestxdet.files import FINDINGS
from cxr.system.disk import InputError, atomic, write_csv

COLUMNS = ("file_name", "finding", "x1", "y1", "x2", "y2", "score", "above_threshold")


def result_of(boxes, scores, labels, size):
    """One image in the data set's result format: [{"nodule": [x1, y1, x2, y2, score]}, ...], best first.

    InputError for a box outside the image (size: width, height) or without area, or a score outside 0 ... 1.
    """
    corners = np.round(np.asarray(boxes, np.float64).reshape(-1, 4), 1)
    if (
        not ((corners >= 0) & (corners <= np.tile(size, 2))).all()
        or not (corners[:, 2:] > corners[:, :2]).all()
    ):
        raise InputError(
            f"a box lies outside its image of {size[0]} x {size[1]} pixels or has no area"
        )
    if not ((scores > 0) & (scores <= 1)).all():
        raise InputError("a score is not above 0 and at most 1")
    return [
        {FINDINGS[k].lower(): [*corner, round(float(score), 6)]}
        for corner, score, k in zip(corners.tolist(), scores, labels)
    ]


def write_results(folder, found, kept, table):
    """`folder`/<image_id>.json for each row of the table, and the same as one file `folder`.csv beside it.

    found: {image_id: (boxes, scores, labels)} whatever the score, as eval.py needs it; kept: {image_id: (n,) bool},
    which of them the thresholds keep.
    """
    rows = []
    for row in table.itertuples():
        boxes, scores, labels = found[row.image_id]
        content = result_of(boxes, scores, labels, (row.width, row.height))
        with atomic(folder / f"{row.image_id}.json") as temporary:
            temporary.write_text(json.dumps(content), encoding="utf-8")
        rows += [
            (f"{row.image_id}.png", FINDINGS[k], *next(iter(entry.values())), bool(own))
            for entry, k, own in zip(content, labels, kept[row.image_id])
        ]
    write_csv(folder.with_suffix(".csv"), pd.DataFrame(rows, columns=list(COLUMNS)))


def is_kept(found, predicted, key):
    """(n,) bool: which boxes of an image are among those that its thresholds kept."""
    lowest = {
        k: predicted.scores[key][predicted.labels[key] == k].min()
        for k in np.unique(predicted.labels[key])
    }
    return np.array([score >= lowest.get(k, np.inf) for score, k in zip(*found[1:])], bool)
