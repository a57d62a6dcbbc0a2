"""Judging a detector by a score of each image: search on a grid, honest estimate, what single ideas bring."""

from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd
from tqdm import tqdm

from cxr.data.dataset import scaled_boxes
from cxr.methods.detector.records import (
    NO_SHRINK,
    SCORE_UNIT,
    Params,
    detect_labelled,
    kept_boxes,
    merged_boxes,
)
from cxr.methods.detector.search import Grid, constant_scores, nested, search, sensitivity, transfer
from cxr.methods.evaluation import Boxes, Evaluation, Rule
from cxr.metrics.average_precision import precision_recall
from cxr.metrics.bootstrap import bootstrap_interval
from cxr.metrics.froc import froc
from cxr.metrics.kaggle_map import image_score, prefix_scores
from cxr.metrics.means import mean_score
from cxr.system.errors import InputError

QUICK_THRESHOLDS = np.geomspace(0.01, 0.9, 40)
BASELINES = {
    "without the image class (gate)": {"gate": (False,)},
    "without shrinking the boxes": {"percentile_shrink": (NO_SHRINK,), "scale": (1.0,)},
    "without both": {"gate": (False,), "percentile_shrink": (NO_SHRINK,), "scale": (1.0,)},
}
UNMERGED = {
    "scale": 1.0,
    "gate": False,
    "half": False,
    "threshold": 0.0,
}  # parameters that no merge depends on
LOWEST = min(Grid().threshold)  # for the curves, which show what a looser threshold would find
HOW = {
    "folds": "Measured on the validation images of every fold, predicted by models that never saw them, with "
    "post-processing parameters fitted on the other folds.",
    "testlike": "Measured on the training images that are not like the test set, predicted by models that never saw "
    "them, with post-processing parameters fitted on the test-like images only.",
}


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
    tally = search(
        tqdm(cases(), total=len(train), desc="search", mininterval=5), Grid(), gate_weights
    )
    outcome = estimate(tally)
    judged = judge_images(cases, outcome.params_for, gate_weights)
    precision, recall, _ = precision_recall(*judged.curves)
    scores, best = judged.images["score"], outcome.final
    return Evaluation(
        outcome.score,
        bootstrap_interval(scores, judged.images["group"]),
        int(scores.notna().sum()),
        asdict(best),
        lambda candidates: detect_labelled(candidates, best, gate_weights),
        judged.images,
        HOW[config.fit_on],
        true=judged.true,
        predicted=judged.predicted,
        pr=(recall, precision),
        froc=froc(*judged.curves),
        baselines=constant_baseline(judged, constant)
        + score_baselines(cases, tally, estimate, gate_weights),
        sensitivity=sensitivity_lines(tally, best),
        folds=fold_results(judged, outcome),
        operating=operating_point(judged),
        results={"score_test_like": outcome.score_test_like},
    )


def make_rule(params, names, gate_weights):
    """Rule of the content of params.json, or of the plainest parameters for None. TypeError if it is something else."""
    chosen = Params(**(params or {}))
    loose = replace(chosen, threshold=0.0)
    threshold = float(chosen.threshold) / SCORE_UNIT
    return Rule(
        lambda found: detect_labelled(found, loose, gate_weights), dict.fromkeys(names, threshold)
    )


def choose_estimate(config, train):
    if config.fit_on == "published":
        raise InputError(
            f"--fit-on published is impossible: {config.task} is always searched, use --fit-on folds"
        )
    if config.fit_on == "testlike" and not train["test_like"].any():
        raise InputError(
            f"{config.task_dir / 'train.csv'} has no test-like images: use --fit-on folds"
        )
    return transfer if config.fit_on == "testlike" else nested


def judge_images(cases, params_for, gate_weights):
    """Judged over the images for which params_for(case) knows parameters."""
    rows, true, predicted, every = [], Boxes(), Boxes(), []
    for case in cases():
        params, key = params_for(case), case.candidates.image_id
        if params is None:
            continue
        merged = merged_boxes(case.candidates, params)
        boxes, scores, labels = kept_boxes(case.candidates, merged, params, gate_weights)
        true.put(key, case.boxes, case.labels)
        predicted.put(key, boxes, labels, scores)
        loose = replace(params, threshold=LOWEST, half=False)
        every.append(kept_boxes(case.candidates, merged, loose, gate_weights)[:2])
        rows.append(
            {
                "image_id": key,
                "fold": case.fold,
                "group": case.group,
                "score": image_score(case.boxes, boxes),
                "n_true": len(case.boxes),
                "n_pred": len(boxes),
                "best_score": scores.max(initial=0),
                "predicted": int(case.candidates.category.argmax()),
            }
        )
    return Judged(
        pd.DataFrame(rows), true, predicted, (list(true.corners.values()), *map(list, zip(*every)))
    )


def score_images(cases, choices, gate_weights):
    """Table with a row for each image: image_id, group, and its score for each of {name: params_for}.

    Parameters that differ in the score rule or the scale only share a merge.
    """
    rows = []
    for case in cases():
        merged, row = {}, {"image_id": case.candidates.image_id, "group": case.group}
        for name, params in ((name, params_for(case)) for name, params_for in choices.items()):
            if params is None:
                break
            merging = replace(params, **UNMERGED)
            if merging not in merged:
                merged[merging] = merged_boxes(case.candidates, merging)
            boxes = kept_boxes(case.candidates, merged[merging], params, gate_weights)[0]
            row[name] = image_score(case.boxes, boxes)
        else:
            rows.append(row)
    return pd.DataFrame(rows)


def constant_baseline(judged, constant):
    """[(name, score, interval)] of the answer that looks at nothing."""
    guess = constant_scores(judged.true.corners.values(), constant)
    return [
        ("constant guess", mean_score(guess), bootstrap_interval(guess, judged.images["group"]))
    ]


def score_baselines(cases, tally, estimate, gate_weights):
    """[(name, score, interval)] of the same search without single ideas."""
    outcomes = {name: estimate(tally.only(**fixed)) for name, fixed in BASELINES.items()}
    table = score_images(
        cases, {name: outcome.params_for for name, outcome in outcomes.items()}, gate_weights
    )
    return [
        (name, outcome.score, bootstrap_interval(table[name], table["group"]))
        for name, outcome in outcomes.items()
    ]


def sensitivity_lines(tally, best):
    return {
        name: ([value for value, _ in pairs], [score for _, score in pairs], getattr(best, name))
        for name, pairs in sensitivity(tally, best).items()
    }


def fold_results(judged, outcome):
    """[(fold, score, parameters fitted without it)]"""
    held_out = {part.fold: params for part, params in outcome.held_out.items()}
    return [
        (fold, float(score), asdict(held_out[fold]))
        for fold, score in judged.images.groupby("fold")["score"].mean().items()
    ]


def operating_point(judged):
    """(recall, precision, false boxes per image) of the boxes that were kept, as on the curves at IoU 0.5."""
    kept = [
        list(part.values())
        for part in (judged.true.corners, judged.predicted.corners, judged.predicted.scores)
    ]
    precision, recall, _ = precision_recall(*kept)
    false, _ = froc(*kept)
    return (float(recall[-1]), float(precision[-1]), float(false[-1])) if len(recall) else None


def plain_rule(params, gate_weights):
    """The content of params.json as edge_predict.py reads it: thresholds in probabilities, one for each box class."""
    chosen = asdict(Params(**params))
    threshold, gate = chosen.pop("threshold"), chosen.pop("gate")
    return chosen | {
        "gate_weights": list(gate_weights) if gate else [],
        "thresholds": [threshold / SCORE_UNIT],
    }


def plain_score(truth, found):
    """Score of what edge_predict.Predictor gives, {image_id: its dictionary}, against {image_id: (boxes, labels)}."""
    return mean_score(
        [
            image_score(boxes, found[key]["boxes"][found[key]["kept"]])
            for key, (boxes, _) in truth.items()
        ]
    )
