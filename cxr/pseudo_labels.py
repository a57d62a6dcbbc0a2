"""Predicted masks as further ones to learn from, of test images (3rd place of SIIM-ACR Pneumothorax: CheXpert)."""

import numpy as np
import pandas as pd

from cxr.disk import InputError
from cxr.masks import EMPTY, encode
from cxr.predictions import read_predictions

SMALLEST = 100 / 1024**2  # of a picture: a mask must be larger to count as a finding
HALF = 127  # of 255


def add_pseudo(table, task, config):
    """A training table and, marked by `pseudo`, the test images that the run --pseudo is sure of.

    A mask of the pixels above one half that is large enough is a finding, none at all is no finding; images between are
    left out. Raises InputError where that run has no predictions of test images.
    """
    folder = config.task_dir / config.pseudo / f"test_{config.predictions}"
    rows = [row for found in read_predictions(folder, task.kind) if (row := pseudo_row(found)) is not None]
    if not rows:
        raise InputError(f"{folder} of --pseudo {config.pseudo} holds no predictions to learn from: run 04_predict.py "
                         f"with --run {config.pseudo} first, with test images")
    return pd.concat([table.assign(pseudo=False), pd.DataFrame(rows).assign(pseudo=True)], ignore_index=True)


def pseudo_row(found):
    """Row of a training table for a predicted image; None where the prediction is neither a finding nor nothing."""
    mask = found.picture() > HALF
    pixels = np.count_nonzero(mask)
    if 0 < pixels <= SMALLEST * mask.size:
        return None
    return {"image_id": found.image_id, "group": found.image_id, "fold": -1, "width": found.width,
            "height": found.height, "label": int(pixels > 0), "mask": encode(mask) if pixels else EMPTY, "boxes": "[]",
            "box_labels": "[]"}
