"""Scores of detected boxes against true ones: (n, 4) arrays x1 y1 x2 y2, predictions by falling confidence."""

import numpy as np
import torch

from cxr.geometry.boxes import box_iou

IOU_THRESHOLDS = np.array(
    [0.40, 0.45, 0.50, 0.55, 0.60, 0.65, 0.70, 0.75]
)  # RSNA Pneumonia Detection Challenge, 2018


def pairwise_iou(pred, true):
    """IoU (m, n) in float64 of boxes (m, 4) with boxes (n, 4); 0 for two boxes without area."""
    pred, true = (
        torch.from_numpy(np.asarray(boxes, np.float64).reshape(-1, 4)) for boxes in (pred, true)
    )
    return np.nan_to_num(box_iou(pred, true).numpy())


def greedy_hits(overlap, thresholds):
    """Which predictions hit, (..., m, t) bool, for IoU (..., m, n) and thresholds (t,).

    In the order of the rows, a prediction takes the free true box of highest IoU if that IoU exceeds the threshold.
    """
    *many, predicted, true = overlap.shape
    hits = np.zeros((*many, predicted, len(thresholds)), bool)
    free = np.ones((*many, len(thresholds), true), bool)
    close = overlap.max(axis=-1, initial=0) > thresholds.min()
    for i in np.flatnonzero(close.any(axis=tuple(range(len(many))))):
        available = np.where(free, overlap[..., i, None, :], -1.0)
        hits[..., i, :] = available.max(axis=-1) > thresholds
        taken = np.arange(true) == available.argmax(axis=-1)[..., None]
        free &= ~(taken & hits[..., i, :, None])
    return hits


def prefix_scores(true, pred):
    """Score (..., m+1) of an image with true boxes (n, 4) when only the first k predictions of (..., m, 4) are kept.

    The mean over the IoU thresholds of TP / (TP + FP + FN). Without true boxes: nan for k = 0 (the image is left out
    of the mean), else 0. The matching of the first k is the first k of the matching, so one pass gives every k.
    """
    pred = np.asarray(pred, np.float64)
    pred = pred if pred.ndim > 1 else pred.reshape(0, 4)  # an empty list
    shape, kept = pred.shape[:-1], np.arange(pred.shape[-2] + 1)
    if not len(true):
        return np.broadcast_to(np.where(kept == 0, np.nan, 0.0), (*shape[:-1], len(kept)))
    hits = greedy_hits(pairwise_iou(pred, true).reshape(*shape, len(true)), IOU_THRESHOLDS)
    none = np.zeros((*shape[:-1], 1, len(IOU_THRESHOLDS)))
    tp = np.concatenate([none, hits.cumsum(axis=-2)], axis=-2)
    return (tp / (len(true) + kept[:, None] - tp)).mean(
        axis=-1
    )  # TP + FP + FN = true + predicted - TP


def image_score(true, pred):
    """Score of one image, 0..1; nan where it has neither true nor predicted boxes."""
    return float(prefix_scores(true, pred)[-1])


def mean_score(scores):
    """Mean over the images that count (not nan); 0 where none does."""
    scores = np.asarray(scores, float)
    counted = scores[~np.isnan(scores)]
    return float(counted.mean()) if len(counted) else 0.0


def rsna_map(true_by_id, pred_by_id):
    """The competition's score from {image_id: boxes}; an id without predictions may be absent from `pred_by_id`.

    Raises ValueError for predictions of an unknown image.
    """
    unknown = pred_by_id.keys() - true_by_id.keys()
    if unknown:
        raise ValueError(
            f"{len(unknown)} images with predictions are not among the true ones, such as {min(unknown)}"
        )
    return mean_score(
        [image_score(true, pred_by_id.get(key, ())) for key, true in true_by_id.items()]
    )


def ranked_hits(true, pred, iou_threshold):
    """Hits (m,) bool of one image by the rule of PASCAL VOC 2010.

    A prediction belongs to the true box of highest IoU; the first one of each true box above the threshold is a hit,
    further ones are false. (`greedy_hits` would let them fall back on the next true box.)
    """
    hits = np.zeros(len(pred), bool)
    if len(true) and len(pred):
        overlap = pairwise_iou(pred, true)
        close = np.flatnonzero(overlap.max(axis=1) > iou_threshold)
        hits[close[np.unique(overlap[close].argmax(axis=1), return_index=True)[1]]] = True
    return hits


def operating_points(true, pred, scores, iou_threshold=0.5):
    """Pooled counts at each distinct score: (score falling, true positives, false positives), each (k,).

    `true`, `pred`, `scores` are lists over images of (n, 4), (m, 4), (m,). Equal scores are one point, so the order of
    the images does not matter.
    """
    hits = [ranked_hits(t, p, iou_threshold) for t, p in zip(true, pred, strict=True)]
    hits, scores = (np.concatenate([np.empty(0), *parts]) for parts in (hits, scores))
    if len(hits) != len(scores):
        raise ValueError(f"{len(hits)} boxes but {len(scores)} scores")
    return cumulated(hits, scores)


def cumulated(hits, scores, weights=1.0):
    """(score falling, true positives, false positives), each (k,), of pooled boxes with hits (n,) and scores (n,).

    A box counts as often as its weight says: numbers of draws of its image in a bootstrap.
    """
    order = np.argsort(-scores, kind="stable")
    hits, scores, weights = (
        hits[order],
        scores[order],
        np.broadcast_to(weights, scores.shape)[order],
    )
    last = np.flatnonzero(np.diff(scores, append=-np.inf))
    return scores[last], (weights * hits).cumsum()[last], (weights * (1 - hits)).cumsum()[last]


def precision_recall(true, pred, scores, iou_threshold=0.5):
    """Curve (precision, recall, score), each (k,), by falling score; recall is nan where no true box exists."""
    cutoff, tp, fp = operating_points(true, pred, scores, iou_threshold)
    return tp / (tp + fp), tp / (sum(map(len, true)) or np.nan), cutoff


def average_precision(true, pred, scores, iou_threshold=0.5):
    """Area under the pooled precision-recall curve, at all points and with precision made falling (VOC 2010).

    nan where no true box exists.
    """
    _, tp, fp = operating_points(true, pred, scores, iou_threshold)
    return area(tp, fp, sum(map(len, true)))


def class_aps(true, found, names, iou_threshold=0.5):
    """{name: average precision of the class}; nan for a class without a true box.

    true {row: (boxes (n, 4), labels (n,))}, found {row: (boxes (m, 4), scores (m,), labels (m,))}. ValueError where
    they are not of the same rows: a missing one would hide false boxes, a further one true ones.
    """
    if true.keys() != found.keys():
        raise ValueError(
            f"{sorted(true.keys() ^ found.keys())[0]} has either truth or predictions, not both"
        )
    ranked = {
        row: np.argsort(-np.asarray(scores), kind="stable") for row, (_, scores, _) in found.items()
    }
    aps = {}
    for k, name in enumerate(names):
        own = [boxes[labels == k] for boxes, labels in true.values()]
        kept = [ranked[row][found[row][2][ranked[row]] == k] for row in true]
        boxes, scores = (
            [found[row][part][rows] for row, rows in zip(true, kept)] for part in (0, 1)
        )
        aps[name] = average_precision(own, boxes, scores, iou_threshold)
    return aps


def area(tp, fp, positives):
    """Average precision of cumulated true and false positives (k,); nan where there are no positives."""
    if not positives:
        return float("nan")
    counted = tp + fp > 0  # with weights a box may count nothing
    precision = tp[counted] / (tp + fp)[counted]
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(tp[counted] / positives, prepend=0.0) * envelope))


def mean_known(values):
    """Mean of the values that are numbers; nan where none is."""
    values = np.asarray(values, float)
    return float(values[~np.isnan(values)].mean()) if (~np.isnan(values)).any() else float("nan")


def recall_at(tp, fp, positives, images, rates):
    """Highest recall (r,) with at most so many false positives per image, from cumulated counts (k,).

    `rates` (r,); nan without positives. This is the sensitivity of ChestX-Det10's eval.py, which takes the left one of
    two neighbouring points of the curve, too.
    """
    if not positives:
        return np.full(len(rates), np.nan)
    allowed = np.searchsorted(fp / images, np.asarray(rates) + 1e-12, side="right")
    return np.concatenate([[0.0], tp])[allowed] / positives


def froc(true, pred, scores, iou_threshold=0.5):
    """Free-response curve (false positives per image, recall), each (k,), by falling score."""
    _, tp, fp = operating_points(true, pred, scores, iou_threshold)
    return fp / max(1, len(true)), tp / (sum(map(len, true)) or np.nan)


def bootstrap_interval(scores, groups=None, n=1000, seed=0):
    """95 % percentile interval (low, high) of `mean_score`; (nan, nan) where no image counts.

    `groups` (patients), parallel to `scores`, are drawn whole, since images of one patient are not independent.
    """
    scores = np.asarray(scores, float)
    groups = (
        np.arange(len(scores))
        if groups is None
        else np.unique(np.asarray(groups), return_inverse=True)[1]
    )
    counted = ~np.isnan(scores)
    if not counted.any():
        return float("nan"), float("nan")
    totals = np.bincount(groups, np.where(counted, scores, 0))
    counts = np.bincount(groups, counted)
    generator = np.random.default_rng(seed)
    draws = (generator.integers(len(totals), size=len(totals)) for _ in range(n))
    means = [totals[draw].sum() / counts[draw].sum() for draw in draws if counts[draw].any()]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
