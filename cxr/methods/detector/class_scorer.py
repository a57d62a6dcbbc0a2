"""Judging a detector class by class: average precision, recall at few false positives, a threshold for each class."""

import math
from dataclasses import asdict

import numpy as np
import pandas as pd

from cxr.data.dataset import scaled_boxes
from cxr.geometry.boxes import clip_boxes
from cxr.geometry.detections import Detections, TrueBoxes
from cxr.methods.detector.records import Params, merged_boxes
from cxr.methods.evaluation import Boxes, Evaluation, Rule
from cxr.metrics.average_precision import class_average_precisions
from cxr.metrics.bootstrap import class_intervals
from cxr.metrics.matching import ranked_hits
from cxr.metrics.means import mean_known
from cxr.metrics.pooled_boxes import IOU, RATES, BoxPool, f1
from cxr.system.errors import InputError

THRESHOLDS = np.round(np.arange(0.02, 0.97, 0.02), 2)
PLAIN = 0.5  # threshold where nothing was fitted: more likely right than wrong, if the scores were probabilities
FRAME = 1024  # pixels; the side to which boxes of images of all sizes are brought for a mean box
HOW = (
    "Measured on the validation images of every fold, predicted by models that never saw them; average precision "
    "needs no threshold. Boxes, F1 and outcomes are shown with thresholds that were fitted on the other folds."
)
SEARCHED = (
    "Each class has its own threshold: the one with the highest F1 of the class at IoU 0.5 (boxes right "
    "against false and missed ones). The orange dot is the threshold fitted on all folds, for new images; the "
    "gray triangles are those fitted without one fold, which were applied to that fold. Look for broad tops "
    "and triangles close together: there the choice is safe. The average precision does not depend on it."
)


def fit_threshold(found):
    """The threshold of highest F1 of a ClassRanking, as mean of three neighbours; the middle one among ties.

    Where no threshold finds anything it is the highest one, which shows next to nothing.
    """
    values = np.nan_to_num(f1(*found.counts(THRESHOLDS)))
    padded = np.pad(values, 1, mode="edge")
    smooth = (padded[:-2] + padded[1:-1] + padded[2:]) / 3
    best = np.flatnonzero(smooth >= smooth.max() - 1e-12)
    return float(THRESHOLDS[best[len(best) // 2] if smooth.max() > 0 else -1])


def quick_scores(predictions, table, names):
    """{"metric": mean AP, "ap_<name>": ...}; nan where a class has no true box, which then is left out of the mean.

    predictions: {row: (boxes, scores, labels, side)} in pixels of a picture of that side.
    """
    truth = {
        row: TrueBoxes(*scaled_boxes(table.iloc[row], found[3], found[3]))
        for row, found in predictions.items()
    }
    detections = {row: Detections(*found[:3]) for row, found in predictions.items()}
    aps = class_average_precisions(truth, detections, names, IOU)
    return {"metric": mean_known(list(aps.values()))} | {
        f"ap_{name}": ap for name, ap in aps.items()
    }


def evaluate(config, cases, train, names, nms_iou):
    """Evaluation of the images of `cases`, a function that yields a Case for each of them, as often as it is called."""
    if config.fit_on != "folds":
        raise InputError(
            f"--fit-on {config.fit_on} is impossible: {config.task} has no images like the test set, and "
            "no published values"
        )
    params = Params(nms_iou=nms_iou, score_floor=0.0)  # low scores count in an average precision
    pool = collect(cases, params, len(names))
    classes, units = pool.classes(), units_of(pool)
    fitted = {
        unit: [fit_threshold(found.only(units != unit)) for found in classes]
        for unit in np.unique(units)
    }
    final = [fit_threshold(found) for found in classes]
    images, true, predicted = judge_images(
        cases, params, dict(zip(pool.ids, (fitted[unit] for unit in units)))
    )
    intervals, (recall, precision, rate) = (
        class_intervals(classes, pool.groups),
        pool.of_class(None).curve(),
    )
    rows = class_rows(names, classes, intervals, final, true, predicted)
    seen = [
        (name, found, chosen)
        for name, found, chosen in zip(names, classes, final)
        if found.true_counts.any()
    ]
    return Evaluation(
        mean_known([row["ap"] for row in rows]),
        intervals[-1],
        len(images),
        {"threshold": dict(zip(names, final)), "nms_iou": nms_iou},
        lambda found: all_boxes(found, params),
        images,
        HOW,
        true=true,
        predicted=predicted,
        baselines=[("constant guess", *constant_score(train, pool, units))],
        sensitivity={
            name: (THRESHOLDS.tolist(), f1(*found.counts(THRESHOLDS)).tolist(), chosen)
            for name, found, chosen in seen
        },
        folds=fold_results(names, classes, pool, units, fitted),
        pr=(recall, precision),
        froc=(rate, recall),
        operating=operating_point(rows, len(images)),
        image_score="F1",
        searched=SEARCHED,
        results=measures(rows) | {"f1": {row["name"]: known(row["f1"]) for row in rows}},
        notes=absent(names, classes),
        class_rows=rows,
        class_curves={name: found.curve() for name, found, _ in seen},
    )


def make_rule(params, names, nms_iou):
    """Rule of the content of params.json, or for None of PLAIN for each class. TypeError or LookupError if it is
    something else."""
    fitted = params["threshold"] if params else dict.fromkeys(names, PLAIN)
    chosen = Params(nms_iou=params["nms_iou"] if params else nms_iou, score_floor=0.0)
    return Rule(
        lambda found: all_boxes(found, chosen), {name: float(fitted[name]) for name in names}
    )


def collect(cases, params, count):
    """BoxPool of all boxes of the cases, whatever their score."""
    pool = BoxPool(count)
    for case in cases():
        pool.add(
            case.candidates.image_id,
            case.fold,
            case.group,
            TrueBoxes(case.boxes, case.labels),
            Detections(*all_boxes(case.candidates, params)),
        )
    return pool


def all_boxes(candidates, params):
    """(boxes, scores, labels) of an image after suppression, whatever their score, by falling score."""
    boxes, scores, labels = merged_boxes(candidates, params)
    return clip_boxes(boxes, candidates.width, candidates.height), scores, labels


def above(found, thresholds):
    """The (boxes, scores, labels) whose score is above the threshold (K,) of their class."""
    kept = found[1] > np.asarray(thresholds)[found[2].astype(int)]
    return tuple(part[kept] for part in found)


def units_of(pool):
    """(images,) what is fitted on or held out together: folds, or the halves by patient of a single fold."""
    folds = np.array(pool.folds)
    if len(np.unique(folds)) > 1:
        return folds
    return np.unique(np.array(pool.groups, str), return_inverse=True)[1] % 2


def judge_images(cases, params, thresholds):
    """(table with a row for each image, true Boxes, predicted Boxes); thresholds {image_id: (K,)}."""
    rows, true, predicted = [], Boxes(), Boxes()
    for case in cases():
        key = case.candidates.image_id
        boxes, scores, labels = above(all_boxes(case.candidates, params), thresholds[key])
        hits = sum(
            ranked_hits(case.boxes[case.labels == k], boxes[labels == k], IOU).sum()
            for k in np.unique(labels)
        )
        true.put(key, case.boxes, case.labels)
        predicted.put(key, boxes, labels, scores)
        rows.append(
            {
                "image_id": key,
                "fold": case.fold,
                "group": case.group,
                "score": float(f1(hits, len(boxes) - hits, len(case.boxes) - hits)),
                "n_true": len(case.boxes),
                "n_pred": len(boxes),
                "best_score": scores.max(initial=0),
                "hits": int(hits),
                "predicted": int(case.candidates.category.argmax()),
            }
        )
    return pd.DataFrame(rows), true, predicted


def constant_score(train, pool, units):
    """(mean AP, its interval) of the constant guess."""
    guess = constant_guess(train, pool, units)
    return mean_known([found.average_precision() for found in guess]), class_intervals(
        guess, pool.groups
    )[-1]


def constant_guess(train, pool, units):
    """What a guess that ignores the image reaches: of each class one box, the mean one, as likely as it is frequent.

    Mean and frequency come from the other folds. Returns a ClassRanking for each class.
    """
    truth = {row["image_id"]: scaled_boxes(row, FRAME, FRAME) for _, row in train.iterrows()}
    guess = BoxPool(pool.class_count)
    means = {
        unit: mean_boxes(
            [truth[i] for i, other in zip(pool.ids, units) if other != unit], pool.class_count
        )
        for unit in np.unique(units)
    }
    for image_id, fold, group, unit in zip(pool.ids, pool.folds, pool.groups, units):
        guess.add(image_id, fold, group, TrueBoxes(*truth[image_id]), Detections(*means[unit]))
    return guess.classes()


def mean_boxes(truth, count):
    """(boxes, shares, labels): of each class the mean box and its share of the images; `truth`: [(boxes, labels)]."""
    nothing = (np.zeros((0, 4)), np.zeros(0, int))
    corners, labels = (np.concatenate(part) for part in zip(nothing, *truth))
    present = [k for k in range(count) if (labels == k).any()]
    shares = np.array([np.mean([k in own for _, own in truth]) for k in present])
    return (
        np.array([corners[labels == k].mean(0) for k in present]).reshape(-1, 4),
        shares,
        np.array(present, int),
    )


def class_rows(names, classes, intervals, thresholds, true, predicted):
    """A dict for each class: what there is of it, its AP and recalls, and how its kept boxes fare."""
    rows = []
    for k, (name, found) in enumerate(zip(names, classes)):
        kept, recalls = kept_counts(true, predicted, k), found.recalls()
        rows.append(
            {
                "name": name,
                "images": int((found.true_counts > 0).sum()),
                "boxes": int(found.true_counts.sum()),
                "ap": found.average_precision(),
                "interval": intervals[k],
                "recalls": recalls,
                "avgrecall": float(recalls.mean()),
                "threshold": thresholds[k],
                "f1": float(f1(*kept)),
                "hits": kept[0],
                "false": kept[1],
            }
        )
    return rows


def kept_counts(true, predicted, label):
    """(true positives, false positives, missed) of the boxes of a class that were kept."""
    hits = shown = marked = 0
    for key, corners in true.corners.items():
        own, found = (
            corners[true.labels[key] == label],
            predicted.corners[key][predicted.labels[key] == label],
        )
        hits, shown, marked = (
            hits + int(ranked_hits(own, found, IOU).sum()),
            shown + len(found),
            marked + len(own),
        )
    return hits, shown - hits, marked - hits


def operating_point(rows, images):
    """(recall, precision, false boxes per image) over all classes of the boxes that were kept."""
    hits, false, marked = (sum(row[name] for row in rows) for name in ("hits", "false", "boxes"))
    return (
        (hits / marked, hits / (hits + false), false / images) if marked and hits + false else None
    )


def fold_results(names, classes, pool, units, fitted):
    """[(fold, mean AP of its images, thresholds fitted without it)]"""
    folds, found = np.array(pool.folds), []
    for fold in np.unique(folds):
        aps = [of_class.only(folds == fold).average_precision() for of_class in classes]
        thresholds = fitted[units[folds == fold][0]]
        found.append((int(fold), mean_known(aps), dict(zip(names, thresholds))))
    return found


def measures(rows):
    """AP and recalls of rows of classes as entries of results.json."""
    recalls = np.array([row["recalls"] for row in rows])
    means = [mean_known(column) for column in recalls.T]
    return {
        "ap": {row["name"]: known(row["ap"]) for row in rows},
        "recall": {
            row["name"]: dict(zip(map(str, RATES), map(known, row["recalls"]))) for row in rows
        },
        "mean_recall": dict(zip(map(str, RATES), map(known, means))),
        "avgrecall": known(float(np.mean(means))),
    }


def known(value):
    """A number for a JSON file, which has no nan."""
    return None if math.isnan(value) else float(value)


def score_boxes(truth, found, names):
    """Entries for results.json of {image_id: (boxes, labels)} against {image_id: (boxes, scores, labels)}."""
    pool = BoxPool(len(names))
    for image_id, (boxes, scores, labels) in found.items():
        pool.add(
            image_id,
            0,
            image_id,
            TrueBoxes(*truth[image_id]),
            Detections(boxes, scores, labels),
        )
    rows = [
        {"name": name, "ap": of_class.average_precision(), "recalls": of_class.recalls()}
        for name, of_class in zip(names, pool.classes())
    ]
    return {
        "score": known(mean_known([row["ap"] for row in rows])),
        "n_images": len(found),
        **measures(rows),
    }


def absent(names, classes):
    """A sentence naming the classes without a true box, or none."""
    missing = [name for name, found in zip(names, classes) if not found.true_counts.any()]
    return (
        [
            f"No judged image has a true box of {', '.join(missing)}: their average precision and recall are not "
            "defined and are left out of the means."
        ]
        if missing
        else []
    )


def plain_rule(params, names):
    """The content of params.json as edge_predict.py reads it: thresholds in probabilities, one for each box class."""
    chosen = asdict(Params(nms_iou=params["nms_iou"], score_floor=0.0))
    return {name: value for name, value in chosen.items() if name not in ("gate", "threshold")} | {
        "gate_weights": [],
        "thresholds": [params["threshold"][name] for name in names],
    }


def plain_score(truth, found, names):
    """Mean AP of what edge_predict.Predictor gives, {image_id: its dictionary}, or None without any true box."""
    parts = {
        key: tuple(one[name] for name in ("boxes", "scores", "labels"))
        for key, one in found.items()
    }
    return score_boxes(truth, parts, names)["score"]
