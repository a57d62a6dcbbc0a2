"""The PredictionString of several competitions: `label confidence x1 y1 x2 y2`, repeated.

What has no place in the image, such as "no finding", has the box 0 0 1 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cxr.geometry.detections import Detections

LOWEST_CONFIDENCE = 1e-6  # a confidence of 0 would not count
WORDS = 6  # of each box
EDGE_TOLERANCE = 1e-6  # pixels by which floating point may bring a box out of its image


def format_predictions(detections: Detections, names: Sequence[str]) -> str:
    """Text of boxes in original pixels; names: of the labels.

    Boxes that rounding to a tenth of a pixel leaves without area are left out.
    """
    corners = np.round(detections.boxes, 1)
    scores = np.clip(detections.scores, LOWEST_CONFIDENCE, 1)
    parts = []
    for (x1, y1, x2, y2), score, label in zip(corners, scores, detections.labels, strict=True):
        if x2 > x1 and y2 > y1:
            box = f"{x1:.10g} {y1:.10g} {x2:.10g} {y2:.10g}"
            parts.append(f"{names[label]} {score:.6f} {box}")
    return " ".join(parts)


def parse_predictions(text: str, names: Sequence[str]) -> Detections:
    """What a PredictionString says. ValueError where it is malformed."""
    words = str(text).split()
    if len(words) % WORDS:
        raise ValueError(f"{len(words)} words, not a multiple of {WORDS}")
    label_words = words[::WORDS]
    for word in label_words:
        if word not in names:
            raise ValueError(f"the unknown label {word!r}")
    labels = np.array([names.index(word) for word in label_words], int)
    numbers = [words[start + 1 : start + WORDS] for start in range(0, len(words), WORDS)]
    values = np.array(numbers, float).reshape(-1, WORDS - 1)
    return Detections(boxes=values[:, 1:], scores=values[:, 0], labels=labels)


def find_box_fault(boxes: np.ndarray, scores: np.ndarray, width: float, height: float) -> str:
    """What is wrong with boxes (n, 4) x1 y1 x2 y2 and scores (n,), "" if nothing is.

    width, height: of their image in the same pixels.
    """
    if not ((scores > 0) & (scores <= 1)).all():
        return "a confidence is not in (0, 1]"
    if not (boxes[:, 2:] > boxes[:, :2]).all():
        return "a box has no area"
    largest = np.array([width, height]) + EDGE_TOLERANCE
    if (boxes < -EDGE_TOLERANCE).any() or (boxes[:, 2:] > largest).any():
        return f"a box reaches outside its image of {width} x {height} pixels"
    return ""
