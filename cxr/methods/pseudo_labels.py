"""What a run says of the test images, as further images to learn from.

A fold learns only what the models of the same fold say. The mean of all fold models, added to
every training fold, tells fold i's model what the others learned of fold i: its validation score
rises and nothing is won. It cost the 17th place of SIIM COVID-19 2021 all work on external data.
Students may teach again: all their teachers left out the same fold.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from cxr.geometry.masks import EMPTY, encode_runs
from cxr.methods.classifier.records import ClassPrediction
from cxr.methods.segmenter.records import MaskPrediction
from cxr.system.errors import InputError

SMALLEST = 100 / 1024**2  # of a picture: a mask must be larger to count as a finding
HALF = 127  # of 255


def add_masks(table: pd.DataFrame, predictions: Iterable[MaskPrediction]) -> pd.DataFrame:
    """A training table and, marked by `pseudo`, the images whose masks say clearly yes or no.

    A mask of the pixels above one half that is large enough is a finding, none at all is no
    finding; images between are left out (3rd place of SIIM-ACR Pneumothorax). Raises InputError
    where nothing is left.
    """
    rows = []
    for prediction in predictions:
        row = mask_row(prediction)
        if row is not None:
            rows.append(row)
    return join_pseudo_rows(table, rows)


def mask_row(prediction: MaskPrediction) -> dict[str, Any] | None:
    """Row of a training table for a predicted image; None where it is not sure."""
    mask = prediction.picture() > HALF
    pixels = np.count_nonzero(mask)
    if 0 < pixels <= SMALLEST * mask.size:
        return None
    runs = encode_runs(mask) if pixels else EMPTY
    return pseudo_row(prediction) | {"label": int(pixels > 0), "mask": runs}


def add_classes(table: pd.DataFrame, predictions: Iterable[ClassPrediction]) -> pd.DataFrame:
    """A training table and, marked by `pseudo`, the images with predicted classes.

    The column `soft` holds their probabilities as a JSON list, and 1 for the class of the others.
    What covers their findings stays unknown. Raises InputError where there is no prediction.
    """
    rows = []
    classes = table["label"].max() + 1
    for prediction in predictions:
        probabilities = prediction.category.tolist()
        classes = max(classes, len(probabilities))
        row = pseudo_row(prediction) | {
            "label": int(prediction.category.argmax()),
            "mask_known": False,
            "soft": json.dumps(probabilities),
        }
        rows.append(row)
    certain = np.eye(classes)[table["label"]].tolist()
    soft = [json.dumps(probabilities) for probabilities in certain]
    return join_pseudo_rows(table.assign(soft=soft), rows)


def pseudo_row(prediction: MaskPrediction | ClassPrediction) -> dict[str, Any]:
    """What every row of a training table needs; the image stands for a patient of its own."""
    return {
        "image_id": prediction.image_id,
        "group": prediction.image_id,
        "fold": -1,
        "width": prediction.width,
        "height": prediction.height,
        "boxes": "[]",
        "box_labels": "[]",
    }


def join_pseudo_rows(table: pd.DataFrame, rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The table and the further rows. Raises InputError without any."""
    if not rows:
        raise InputError(
            "--pseudo has nothing to learn from: that run is sure of no test image, or step 02 "
            "found none"
        )
    further = pd.DataFrame(rows).assign(pseudo=True)
    return pd.concat([table.assign(pseudo=False), further], ignore_index=True)
