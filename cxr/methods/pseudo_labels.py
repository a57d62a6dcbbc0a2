"""What a run says of the test images, as further images to learn from.

A fold learns only what the models of the same fold say. The mean of all fold models, added to every training fold,
tells fold i's model what the others learned of fold i: its validation score rises and nothing is won. It cost the 17th
place of SIIM COVID-19 2021 all work on external data. Students may teach again: all their teachers left out the same
fold.
"""

import json

import numpy as np
import pandas as pd

from cxr.geometry.masks import EMPTY, encode_runs
from cxr.system.disk import InputError

SMALLEST = 100 / 1024**2  # of a picture: a mask must be larger to count as a finding
HALF = 127  # of 255


def add_masks(table, predictions):
    """A training table and, marked by `pseudo`, the images of the MaskPredictions that say clearly yes or no.

    A mask of the pixels above one half that is large enough is a finding, none at all is no finding; images between are
    left out (3rd place of SIIM-ACR Pneumothorax). InputError where nothing is left.
    """
    return joined(table, [row for found in predictions if (row := mask_row(found)) is not None])


def mask_row(found):
    """Row of a training table for a predicted image; None where the prediction is neither a finding nor nothing."""
    mask = found.picture() > HALF
    pixels = np.count_nonzero(mask)
    if 0 < pixels <= SMALLEST * mask.size:
        return None
    return plain_row(found) | {"label": int(pixels > 0), "mask": encode_runs(mask) if pixels else EMPTY}


def add_classes(table, predictions):
    """A training table and, marked by `pseudo`, the images of the ClassPredictions: the column `soft` holds their
    probabilities as a list, and 1 for the class of the others. What covers their findings stays unknown.

    InputError where there is no prediction.
    """
    rows = [
        plain_row(found)
        | {
            "label": int(found.category.argmax()),
            "mask_known": False,
            "soft": json.dumps(found.category.tolist()),
        }
        for found in predictions
    ]
    classes = len(json.loads(rows[0]["soft"])) if rows else 0
    certain = np.eye(max(classes, table["label"].max() + 1))[table["label"]]
    return joined(table.assign(soft=list(map(json.dumps, certain.tolist()))), rows)


def plain_row(found):
    return {
        "image_id": found.image_id,
        "group": found.image_id,
        "fold": -1,
        "width": found.width,
        "height": found.height,
        "boxes": "[]",
        "box_labels": "[]",
    }


def joined(table, rows):
    if not rows:
        raise InputError(
            "--pseudo has nothing to learn from: that run is sure of no test image, or step 02 found none"
        )
    return pd.concat(
        [table.assign(pseudo=False), pd.DataFrame(rows).assign(pseudo=True)], ignore_index=True
    )
