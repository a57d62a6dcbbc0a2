"""Submissions of SIIM-FISABIO-RSNA COVID-19 Detection: one row for each study and each image.

A PredictionString is `label confidence x1 y1 x2 y2`, repeated. A study has its four classes and an image `none`, all
with the box 0 0 1 1; the boxes of `opacity` are in pixels of the original image.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from cxr.datasets.submission_ids import check_ids
from cxr.metrics.studies import (
    ALL_CLASSES,
    NONE,
    ONE_PIXEL,
    OPACITY,
    STUDY_CLASSES,
    image_answer,
    study_answer,
)
from cxr.system.errors import InputError
from cxr.system.tables import read_csv

COLUMNS = ["id", "PredictionString"]
STUDY, IMAGE = "_study", "_image"  # ends of the ids
FLOOR = 1e-6  # a confidence of 0 would not count


def read_submission(path):
    """COLUMNS of a submission file as text; the competition's page calls the first one Id."""
    return read_csv(Path(path), COLUMNS, may_be_empty=True, rename={"Id": "id"}).fillna("")


def format_submission(ids, studies, images, prior):
    """Table of COLUMNS in the order of ids.

    studies {study_id: probabilities (4,)}, images {image_id: (boxes (n, 4) in original pixels, scores (n,), none)}.
    What has no prediction, such as a broken file, gets `prior`: (probabilities (4,), none).
    """
    texts = []
    for row in ids:
        if row.endswith(STUDY):
            texts.append(
                prediction_string(study_answer(studies.get(row.removesuffix(STUDY), prior[0])))
            )
        else:
            nothing = (np.zeros((0, 4)), np.zeros(0), prior[1])
            texts.append(
                prediction_string(image_answer(*images.get(row.removesuffix(IMAGE), nothing)))
            )
    return pd.DataFrame({"id": list(ids), "PredictionString": texts}, dtype=str)


def prevalence(train):
    """(share of the studies of each class (4,), share of the images without box) of the training table: the `prior`."""
    labels = train.drop_duplicates("study_id")["label"]
    return np.bincount(labels, minlength=len(STUDY_CLASSES)) / len(labels), float(
        (train["n_boxes"] == 0).mean()
    )


def prediction_string(detections):
    """Text of Detections of a row; boxes that rounding leaves without area are left out."""
    corners, words = np.round(detections.boxes, 1), []
    for box, score, label in zip(
        corners, np.clip(detections.scores, FLOOR, 1), detections.labels
    ):
        if (box[2:] > box[:2]).all():
            words.append(
                " ".join([ALL_CLASSES[label], f"{score:.6f}", *(f"{edge:.10g}" for edge in box)])
            )
    return " ".join(words)


def parse_predictions(text):
    """(boxes (n, 4), scores (n,), labels (n,)) of a PredictionString. ValueError where it is malformed."""
    words = str(text).split()
    if len(words) % 6:
        raise ValueError(f"{len(words)} words, not a multiple of 6")
    rows = [words[start : start + 6] for start in range(0, len(words), 6)]
    unknown = [row[0] for row in rows if row[0] not in ALL_CLASSES]
    if unknown:
        raise ValueError(f"the unknown label {unknown[0]!r}")
    numbers = np.array([row[1:] for row in rows], float).reshape(-1, 5)
    return numbers[:, 1:], numbers[:, 0], np.array([ALL_CLASSES.index(row[0]) for row in rows], int)


def check_submission(table, sample, sizes):
    """InputError naming the first id that is wrong: ids and order must be the sample's, each study has its four classes
    and each image `none` once, confidences are in (0, 1], opacities lie in their image.

    sizes: {image_id: (width, height)} as far as they are known.
    """
    if list(table.columns) != COLUMNS:
        raise InputError(
            f"the submission has the columns {', '.join(table.columns)}, not {', '.join(COLUMNS)}"
        )
    check_ids(list(table.id), list(sample.id))
    for row, text in zip(table.id, table.PredictionString):
        reason = _fault(row, text, sizes.get(row.removesuffix(IMAGE), (np.inf, np.inf)))
        if reason:
            raise InputError(f"the submission is wrong for {row}: {reason}")


def _fault(row, text, size):
    try:
        boxes, scores, labels = parse_predictions(text)
    except ValueError as error:
        return f"its PredictionString is malformed ({error})"
    if not ((scores > 0) & (scores <= 1)).all():
        return "a confidence is not in (0, 1]"
    plain = labels != OPACITY
    if not (boxes[plain] == ONE_PIXEL).all():
        return "a class that has no place has another box than 0 0 1 1"
    wanted = list(range(len(STUDY_CLASSES))) if row.endswith(STUDY) else [NONE]
    if sorted(labels[plain]) != wanted or row.endswith(STUDY) and not plain.all():
        return f"it does not have {', '.join(ALL_CLASSES[k] for k in wanted)} once each"
    if not (boxes[:, 2:] > boxes[:, :2]).all():
        return "a box has no area"
    if (boxes[~plain] < 0).any() or (boxes[~plain][:, 2:] > np.array(size)).any():
        return f"a box reaches outside its image of {size[0]} x {size[1]} pixels"
    return ""
