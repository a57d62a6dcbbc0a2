"""Judging a detector by a score of each image: search on a grid, honest estimate, what single ideas bring."""

from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd
from tqdm import tqdm

from cxr.data import scaled_boxes
from cxr.detection import NO_SHRINK, detect, detect_labelled
from cxr.disk import InputError
from cxr.evaluation import Boxes, Evaluation
from cxr.metrics import bootstrap_interval, froc, image_score, mean_score, precision_recall, prefix_scores
from cxr.search import Grid, constant_scores, nested, search, sensitivity, transfer

QUICK_THRESHOLDS = np.geomspace(0.01, 0.9, 40)
BASELINES = {"without the image class (gate)": {"gate": (False,)},
             "without shrinking the boxes": {"percentile_shrink": (NO_SHRINK,), "scale": (1.0,)},
             "without both": {"gate": (False,), "percentile_shrink": (NO_SHRINK,), "scale": (1.0,)}}
LOWEST = min(Grid().threshold)  # for the curves, which show what a looser threshold would find
HOW = {"folds": "Measured on the validation images of every fold, predicted by models that never saw them, with "
                "post-processing parameters fitted on the other folds.",
       "testlike": "Measured on the training images that are not like the test set, predicted by models that never saw "
                   "them, with post-processing parameters fitted on the test-like images only."}


@dataclass
class Judged:
    """Per-image results under parameters that were not fitted on the image."""

    images: pd.DataFrame
    true: Boxes
    predicted: Boxes
    curves: tuple  # (true boxes, boxes above the lowest threshold, their scores), lists over images


def quick_score(predictions, table):
    """Metric at the best of a few score thresholds, on the images it is chosen on: for curves, not for claims.

    predictions: {row: (boxes, scores, labels, side)} in pixels of a picture of that side.
    """
    scores = []
    for row, (boxes, confidence, _, size) in predictions.items():
        prefix = prefix_scores(scaled_boxes(table.iloc[row], size, size)[0], boxes)
        scores.append(prefix[(confidence[:, None] > QUICK_THRESHOLDS).sum(0)])
    means = [mean_score(column) for column in np.array(scores).T]
    return {"metric": max(means), "threshold": float(QUICK_THRESHOLDS[int(np.argmax(means))])}


def evaluate(config, cases, train, gate_weights, constant):
    """Evaluation of the images of `cases`, a function that yields a Case for each of them, as often as it is called.

    `train` holds the rows of these images. `constant`: a list of (confidence, box), the answer that looks at nothing.
    """
    estimate = choose_estimate(config, train)
    tally = search(tqdm(cases(), total=len(train), desc="search", mininterval=5), Grid(), gate_weights)
    outcome = estimate(tally)
    judged = judge_images(cases, outcome.params_for, gate_weights)
    precision, recall, _ = precision_recall(*judged.curves)
    scores, best = judged.images["score"], outcome.final
    return Evaluation(
        outcome.score, bootstrap_interval(scores, judged.images["group"]), int(scores.notna().sum()), asdict(best),
        lambda candidates: detect_labelled(candidates, best, gate_weights), judged.images, HOW[config.fit_on],
        true=judged.true, predicted=judged.predicted, pr=(recall, precision), froc=froc(*judged.curves),
        baselines=score_baselines(cases, tally, estimate, judged, gate_weights, constant),
        sensitivity=sensitivity_lines(tally, best), folds=fold_results(judged, outcome),
        operating=operating_point(judged), results={"score_test_like": outcome.score_test_like})


def choose_estimate(config, train):
    if config.fit_on == "published":
        raise InputError(f"--fit-on published is impossible: {config.task} is always searched, use --fit-on folds")
    if config.fit_on == "testlike" and not train["test_like"].any():
        raise InputError(f"{config.task_dir / 'train.csv'} has no test-like images: use --fit-on folds")
    return transfer if config.fit_on == "testlike" else nested


def judge_images(cases, params_for, gate_weights):
    """Judged over the images for which params_for(case) knows parameters."""
    rows, true, predicted, every = [], Boxes(), Boxes(), []
    for case in cases():
        params, key = params_for(case), case.candidates.image_id
        if params is None:
            continue
        boxes, scores, labels = detect_labelled(case.candidates, params, gate_weights)
        true.put(key, case.boxes, case.labels)
        predicted.put(key, boxes, labels, scores)
        every.append(detect(case.candidates, replace(params, threshold=LOWEST, half=False), gate_weights))
        rows.append({"image_id": key, "fold": case.fold, "group": case.group,
                     "score": image_score(case.boxes, boxes), "n_true": len(case.boxes), "n_pred": len(boxes),
                     "best_score": scores.max(initial=0), "predicted": int(case.candidates.category.argmax())})
    return Judged(pd.DataFrame(rows), true, predicted, (list(true.corners.values()), *map(list, zip(*every))))


def score_baselines(cases, tally, estimate, judged, gate_weights, constant):
    """[(name, score, interval)]: the constant guess first, then the same search without single ideas."""
    groups = judged.images["group"]
    guess = constant_scores(judged.true.corners.values(), constant)
    found = [("constant guess", mean_score(guess), bootstrap_interval(guess, groups))]
    for name, fixed in BASELINES.items():
        outcome = estimate(tally.only(**fixed))
        scores = judge_images(cases, outcome.params_for, gate_weights).images["score"]
        found.append((name, outcome.score, bootstrap_interval(scores, groups)))
    return found


def sensitivity_lines(tally, best):
    return {name: ([value for value, _ in pairs], [score for _, score in pairs], getattr(best, name))
            for name, pairs in sensitivity(tally, best).items()}


def fold_results(judged, outcome):
    """[(fold, score, parameters fitted without it)]"""
    held_out = {part.fold: params for part, params in outcome.held_out.items()}
    return [(fold, float(score), asdict(held_out[fold]))
            for fold, score in judged.images.groupby("fold")["score"].mean().items()]


def operating_point(judged):
    """(recall, precision, false boxes per image) of the boxes that were kept, as on the curves at IoU 0.5."""
    kept = [list(part.values()) for part in (judged.true.corners, judged.predicted.corners, judged.predicted.scores)]
    precision, recall, _ = precision_recall(*kept)
    false, _ = froc(*kept)
    return (float(recall[-1]), float(precision[-1]), float(false[-1])) if len(recall) else None
