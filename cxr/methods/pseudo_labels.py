"""What a run says of further images, as further images to learn from.

A fold learns only what the models of the same fold say. The mean of all fold models, added to
every training fold, tells fold i's model what the others learned of fold i: its validation score
rises and nothing is won. It cost the 17th place of SIIM COVID-19 2021 all work on external data.
Students may teach again: all their teachers left out the same fold.

Where a table of labels knows an image, a finding is learned if it agrees, and an image that has
none by the table has none (3rd place of SIIM-ACR Pneumothorax).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from cxr.data.weak_labels import NEGATIVE, POSITIVE, UNCERTAIN
from cxr.geometry.detections import Detections
from cxr.geometry.masks import EMPTY, encode_runs
from cxr.methods.base import KnownFindings, Prediction
from cxr.methods.classifier.records import ClassPrediction
from cxr.methods.segmenter.records import MaskPrediction
from cxr.system.errors import InputError

SMALLEST = 100 / 1024**2  # of a picture: a mask must be larger to count as a finding
HALF = 127  # of 255
LABELLED = "labelled"  # source of the training images themselves
TEST = "test"  # source of images that are of no other set
NO_LABELS: KnownFindings = {}


# -------------------------------------------------------------------------------- masks


def add_masks(
    table: pd.DataFrame, predictions: Iterable[MaskPrediction], weak: KnownFindings = NO_LABELS
) -> pd.DataFrame:
    """A training table and, marked by `pseudo`, the images whose masks say clearly yes or no.

    A mask of the pixels above one half that is large enough is a finding, none at all is no
    finding; images between are left out. weak: of the one finding. Raises InputError where nothing
    is left.
    """
    rows = []
    for prediction in predictions:
        known = list(weak.get(prediction.image_id, {}).values())
        row = mask_row(prediction, known[0] if known else None)
        if row is not None:
            rows.append(row)
    return join_pseudo_rows(table, rows)


def mask_row(prediction: MaskPrediction, weak: int | None = None) -> dict[str, Any] | None:
    """Row of a training table for a predicted image; None where it is not sure.

    weak: what a table of labels says of the image, if it does.
    """
    if weak == UNCERTAIN:
        return None
    if weak == NEGATIVE:
        return pseudo_row(prediction) | {"label": 0, "mask": EMPTY}
    mask = prediction.picture() > HALF
    pixels = np.count_nonzero(mask)
    if pixels <= SMALLEST * mask.size and (pixels or weak == POSITIVE):
        return None
    runs = encode_runs(mask) if pixels else EMPTY
    return pseudo_row(prediction) | {"label": int(pixels > 0), "mask": runs}


# ------------------------------------------------------------------------------ classes


def add_classes(
    table: pd.DataFrame,
    predictions: Iterable[ClassPrediction],
    weak: KnownFindings = NO_LABELS,
    names: Sequence[str] = (),
) -> pd.DataFrame:
    """A training table and, marked by `pseudo`, the images with predicted classes.

    The column `soft` holds their probabilities as a JSON list, and 1 for the class of the others.
    What covers their findings stays unknown. names: of the classes; an image of which `weak` says
    another class than the most probable one is left out. Raises InputError where nothing is left.
    """
    rows = []
    classes = table["label"].max() + 1
    for prediction in predictions:
        probabilities = prediction.category.tolist()
        classes = max(classes, len(probabilities))
        label = int(prediction.category.argmax())
        known = weak.get(prediction.image_id, {})
        if known and not agrees({names[label]}, known):
            continue
        row = pseudo_row(prediction) | {
            "label": label,
            "mask_known": False,
            "soft": json.dumps(probabilities),
        }
        rows.append(row)
    certain = np.eye(classes)[table["label"]].tolist()
    soft = [json.dumps(probabilities) for probabilities in certain]
    return join_pseudo_rows(table.assign(soft=soft), rows)


def agrees(found: set[str], known: Mapping[str, int]) -> bool:
    """Whether the findings of a run are those that a table of labels has, as far as it knows."""
    positive = {name for name, value in known.items() if value == POSITIVE}
    return positive <= found and found & known.keys() <= positive


# -------------------------------------------------------------------------------- boxes


def add_boxes(
    table: pd.DataFrame,
    found: Iterable[tuple[Any, Detections]],
    weak: KnownFindings,
    names: Sequence[str],
    score: float,
    asks_class: bool,
) -> pd.DataFrame:
    """A training table and, marked by `pseudo`, the images whose boxes say clearly yes or no.

    found: predictions with a `category` and their merged detections above score / 2, best first.
    An image has the boxes that reach `score`; one whose best does not is left out, one without any
    shows nothing. names: of the box classes; weak: of them. asks_class: the class of the image is
    the most probable one, and where it does not go with boxes, or none, the image is left out;
    else it is the usual one. Raises InputError where nothing is left.
    """
    with_boxes = table["n_boxes"] > 0
    classes = ImageClasses(table["label"][with_boxes], table["label"][~with_boxes])
    rows = []
    for prediction, detections in found:
        known = weak.get(prediction.image_id, {})
        sure = sure_boxes(detections, known, names, score)
        if sure is None:
            continue
        has_boxes = len(sure.scores) > 0
        label = classes.usual[has_boxes]
        if asks_class:
            label = classes.agreeing(prediction.category, has_boxes)
        if label is None:
            continue
        row = pseudo_row(prediction) | {
            "label": label,
            "n_boxes": len(sure.scores),
            "boxes": json.dumps(sure.boxes.tolist()),
            "box_labels": json.dumps(sure.labels.tolist()),
        }
        rows.append(row)
    return join_pseudo_rows(table, rows)


def sure_boxes(
    detections: Detections, known: Mapping[str, int], names: Sequence[str], score: float
) -> Detections | None:
    """The boxes that are learned of an image, perhaps none; None where it is left out.

    known: what a table of labels says of it.
    """
    if known and all(value == NEGATIVE for value in known.values()):
        return detections.take(slice(0))
    sure = detections.take(detections.scores >= score)
    if len(detections.scores) and not len(sure.scores):
        return None
    found = {names[label] for label in sure.labels}
    if known and not agrees(found, known):
        return None
    return sure


class ImageClasses:
    """Which classes of the whole image go with boxes, and which without, by the training table.

    with_boxes (n,), without (m,): the classes of its images.
    """

    def __init__(self, with_boxes: pd.Series, without: pd.Series) -> None:
        self.usual = {True: most_frequent(with_boxes), False: most_frequent(without)}
        self.allowed = {True: set(with_boxes), False: set(without)}

    def agreeing(self, category: np.ndarray, has_boxes: bool) -> int | None:
        """The most probable class, if it goes with boxes or none as asked; else None.

        category: (C,) probabilities.
        """
        label = int(category.argmax())
        return label if label in self.allowed[has_boxes] else None


def most_frequent(values: pd.Series) -> int | None:
    return int(values.mode().iloc[0]) if len(values) else None


# --------------------------------------------------------------------------------- rows


def pseudo_row(prediction: Prediction) -> dict[str, Any]:
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
            "--pseudo has nothing to learn from: that run is sure of no image, labels disagree "
            "with it, or there are no images"
        )
    further = pd.DataFrame(rows).assign(pseudo=True, source=TEST)
    own = table.assign(pseudo=False, source=LABELLED)
    return pd.concat([own, further], ignore_index=True)


def describe_rows(table: pd.DataFrame) -> str:
    """Words about the images that were added: how many of which source and label."""
    added = table[table["pseudo"]]
    counts = Counter(zip(added["source"], added["label"], strict=True))
    parts = []
    for (source, label), count in sorted(counts.items()):
        parts.append(f"{count} of class {label} from {source}")
    return ", ".join(parts)
