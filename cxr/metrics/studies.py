"""Judging studies that belong to one of a few classes, and images that have boxes or none: VOC 2010 AP, six classes.

A class of a study, and `none` of an image, is a box of one pixel, so its average precision is that of a ranking.
"""

import numpy as np
import pandas as pd

from cxr.methods.detector.class_scorer import bootstrap
from cxr.metrics.boxes import class_aps, mean_known
from cxr.metrics.pooled_boxes import ranking

STUDY_CLASSES = ("negative", "typical", "indeterminate", "atypical")
ALL_CLASSES = (*STUDY_CLASSES, "none", "opacity")  # what a submission says of studies and of images
NONE, OPACITY = ALL_CLASSES.index("none"), ALL_CLASSES.index("opacity")
ONE_PIXEL = (0.0, 0.0, 1.0, 1.0)
AT_LEAST_HALF = float(
    np.nextafter(0.5, 0)
)  # as threshold: IoU >= 0.5, the rule of COCO; the competition's is > 0.5
STUDY_SHARE = len(STUDY_CLASSES) / len(ALL_CLASSES)  # of the competition's score


def study_means(study_ids, probabilities):
    """(ids of the studies (k,), sorted; probabilities (k, C), the mean over the images of each)."""
    means = pd.DataFrame(np.asarray(probabilities)).groupby(np.asarray(study_ids)).mean()
    return means.index.to_numpy(), means.to_numpy()


def study_labels(study_ids, labels):
    """(k,) class of each study in the order of study_means. ValueError where images of one disagree."""
    found = pd.Series(np.asarray(labels)).groupby(np.asarray(study_ids))
    if (found.nunique() > 1).any():
        raise ValueError(f"images of study {found.nunique().idxmax()} have different classes")
    return found.first().to_numpy()


def study_rankings(labels, probabilities):
    """A Class for each study class, of labels (k,) and probabilities (k, C)."""
    return [ranking(labels == c, probabilities[:, c]) for c in range(len(STUDY_CLASSES))]


def study_scores(labels, probabilities):
    """{"metric": mean AP, "ap_<class>": ...} of studies with classes (k,) and probabilities (k, C).

    A guess that ignores the image reaches the share of each class, 0.25 in the mean.
    """
    aps = [found.ap() for found in study_rankings(labels, probabilities)]
    return {"metric": mean_known(aps)} | {f"ap_{name}": ap for name, ap in zip(STUDY_CLASSES, aps)}


def study_intervals(labels, probabilities, patients):
    """95 % intervals (low, high) of the AP of each study class and, last, of their mean; patients are drawn whole."""
    return bootstrap(study_rankings(labels, probabilities), patients)


def none_scores(negative, confidences=None, weight=0.5):
    """(n,) how likely images have no box, from the probability (n,) that their study is negative.

    With `confidences`, a list of the scores of each image's boxes, it is a mean with the product of 1 - score, in which
    `negative` has the weight (0.5: the 11th place's; 1: the 5th's, who found it as good).
    """
    negative = np.asarray(negative, float)
    if confidences is None:
        return negative
    empty = np.array([np.prod(1 - np.asarray(scores, float)) for scores in confidences])
    return weight * negative + (1 - weight) * empty


def study_answer(probabilities):
    """(boxes, scores, labels) of a study: all its classes, each with its probability (C,)."""
    count = len(STUDY_CLASSES)
    return np.tile(ONE_PIXEL, (count, 1)), np.asarray(probabilities, float), np.arange(count)


def image_answer(boxes, scores, none):
    """(boxes, scores, labels) of an image: its opacities (n, 4) with scores (n,), and `none` with its score."""
    boxes = np.concatenate([np.asarray(boxes, float).reshape(-1, 4), [ONE_PIXEL]])
    return (
        boxes,
        np.append(np.asarray(scores, float), none),
        np.array([OPACITY] * (len(boxes) - 1) + [NONE]),
    )


def study_truth(label):
    return np.array([ONE_PIXEL]), np.array([label])


def image_truth(boxes):
    """(boxes, labels) of an image: its opacities, or `none` where there are none of them (n, 4)."""
    boxes = np.asarray(boxes, float).reshape(-1, 4)
    return (
        (boxes, np.full(len(boxes), OPACITY))
        if len(boxes)
        else (np.array([ONE_PIXEL]), np.array([NONE]))
    )


def competition_scores(true, found, iou_threshold=0.5, last_pixel=False):
    """{"metric": mean over the six classes, "ap_<class>": ...} of rows, studies and images alike.

    true {row: (boxes, labels)}, found {row: (boxes, scores, labels)}, as made by the four functions above. The rule of
    the overlap may be changed to what other tools count: AT_LEAST_HALF, or corners x2 y2 that are pixels of the box, as
    in VOC's own program. A class without truth counts 0.
    """
    grow = np.array([0, 0, 1, 1]) * last_pixel
    true = {row: (boxes + grow, labels) for row, (boxes, labels) in true.items()}
    found = {row: (boxes + grow, scores, labels) for row, (boxes, scores, labels) in found.items()}
    aps = class_aps(true, found, ALL_CLASSES, iou_threshold)
    return {"metric": float(np.nan_to_num(list(aps.values())).mean())} | {
        f"ap_{k}": ap for k, ap in aps.items()
    }
