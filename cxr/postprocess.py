"""Step 05: fit the post-processing on out-of-fold predictions, score it honestly, write submission and report."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from cxr.data import read_table
from cxr.detection import NO_SHRINK, detect
from cxr.disk import InputError, read_json, write_csv, write_json
from cxr.metrics import bootstrap_interval, froc, image_score, mean_score, precision_recall
from cxr.predictions import part_count, part_path, read_predictions
from cxr.report import ReportInput, write_report
from cxr.search import Case, Grid, constant_scores, nested, search, sensitivity, transfer

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
    true: dict
    boxes: dict
    scores: dict
    curves: tuple  # (true boxes, boxes above the lowest threshold, their scores), lists over images


def postprocess(task, config):
    """Search, results.json, params.json, submission.csv, report.html; prints what a person wants to know."""
    train = read_table(config.task_dir / "train.csv").set_index("image_id", drop=False)
    folds, warnings = finished_folds(config, train)
    warnings += read_json(config.task_dir / "preprocess.json").get("notes", [])
    tally = search(tqdm(cases(config, train, folds), total=int(train["fold"].isin(folds).sum()), desc="search",
                        mininterval=5), Grid(), task.gate_weights)
    estimate = choose_estimate(config, train)
    outcome = estimate(tally)
    judged = judge_images(task, config, train, folds, outcome.params_for)
    baselines = score_baselines(task, config, train, folds, tally, estimate, judged)
    results = summary(task, judged, outcome, baselines)
    write_json(config.run_dir / "params.json", asdict(outcome.final))
    write_json(config.run_dir / "results.json", results)
    submission = write_submission(task, config, outcome.final, warnings)
    report = write_report(config.run_dir / "report.html", report_input(
        task, config, tally, outcome, judged, baselines, results, submission, warnings))
    say(results, config, submission, report)
    return submission


def choose_estimate(config, train):
    if config.fit_on == "testlike" and not train["test_like"].any():
        raise InputError(f"{config.task_dir / 'train.csv'} has no test-like images: use --fit-on folds")
    return transfer if config.fit_on == "testlike" else nested


def finished_folds(config, train):
    """(folds with whole out-of-fold predictions, warnings). Raises InputError if there is none."""
    folds, warnings = [], []
    for fold in sorted(train["fold"].unique()):
        folder, images = config.fold_dir(fold) / f"valid_{config.predictions}", int((train["fold"] == fold).sum())
        if all(part_path(folder, number).exists() for number in range(part_count(images))):
            folds.append(int(fold))
    if not folds:
        raise InputError(f"{config.run_dir} has no whole out-of-fold predictions named {config.predictions}: run "
                         "04_predict.py first, with the same flags")
    if len(folds) < train["fold"].nunique():
        warnings.append(f"Only {len(folds)} of {train['fold'].nunique()} folds are predicted; the score is of these.")
    return folds, warnings


def cases(config, train, folds):
    """Every out-of-fold image as a Case, read one part at a time."""
    for fold in folds:
        for candidates in read_predictions(config.fold_dir(fold) / f"valid_{config.predictions}"):
            if candidates.image_id not in train.index:
                raise InputError(f"{config.fold_dir(fold)} has predictions of images that are not in train.csv: delete "
                                 f"its valid_{config.predictions} folder and run 04_predict.py again")
            row = train.loc[candidates.image_id]
            yield Case(candidates, true_boxes(row), fold, bool(row["test_like"]), str(row["group"]))


def true_boxes(row):
    return np.array(json.loads(row["boxes"]), float).reshape(-1, 4)


def judge_images(task, config, train, folds, params_for):
    """Judged over the images for which params_for(case) knows parameters."""
    rows, true, boxes, scores, every = [], {}, {}, {}, []
    for case in cases(config, train, folds):
        params, key = params_for(case), case.candidates.image_id
        if params is None:
            continue
        true[key] = case.boxes
        boxes[key], scores[key] = detect(case.candidates, params, task.gate_weights)
        every.append(detect(case.candidates, replace(params, threshold=LOWEST, half=False), task.gate_weights))
        rows.append({"image_id": key, "fold": case.fold, "score": image_score(case.boxes, boxes[key]),
                     "n_true": len(case.boxes), "n_pred": len(boxes[key]), "best_score": scores[key].max(initial=0),
                     "predicted": int(case.candidates.category.argmax()),
                     "png": str(config.task_dir / "images" / f"{key}.png")})
    facts = train[["image_id", "age", "sex", "view", "label", "width", "height", "group"]].reset_index(drop=True)
    return Judged(pd.DataFrame(rows).merge(facts, on="image_id", how="left"), true, boxes, scores,
                  (list(true.values()), *map(list, zip(*every))))


def score_baselines(task, config, train, folds, tally, estimate, judged):
    """[(name, score, interval)]: the constant guess first, then the same search without single ideas."""
    groups = judged.images["group"]
    constant = constant_scores(judged.true.values(), list(zip(task.constant_scores, task.constant_boxes)))
    found = [("constant guess", mean_score(constant), bootstrap_interval(constant, groups))]
    for name, fixed in BASELINES.items():
        outcome = estimate(tally.only(**fixed))
        scores = judge_images(task, config, train, folds, outcome.params_for).images["score"]
        found.append((name, outcome.score, bootstrap_interval(scores, groups)))
    return found


def summary(task, judged, outcome, baselines):
    scores = judged.images["score"]
    return {"task": task.name, "score": outcome.score, "interval": bootstrap_interval(scores, judged.images["group"]),
            "n_images": len(scores), "n_counted": int(scores.notna().sum()), "score_test_like": outcome.score_test_like,
            "baselines": {name: score for name, score, _ in baselines}, "params": asdict(outcome.final)}


def write_submission(task, config, params, warnings):
    """Path of submission.csv, checked against the sample submission; None if there are no test predictions."""
    folder, path = config.run_dir / f"test_{config.predictions}", config.run_dir / "submission.csv"
    sample = task.read_sample(Path(read_json(config.task_dir / "preprocess.json")["input"]))
    wanted = len(read_table(config.task_dir / "test.csv"))
    if not all(part_path(folder, number).exists() for number in range(part_count(wanted))):
        warnings.append("There are no test predictions of all folds yet, so no submission was written.")
        return None
    found = {c.image_id: detect(c, params, task.gate_weights) for c in read_predictions(folder)}
    table = task.format_submission(list(sample[task.id_column]), found)
    task.check_submission(table, sample)
    absent = len(set(sample[task.id_column]) - found.keys())
    if absent:
        warnings.append(f"{absent} images of the sample submission have no picture and get no boxes.")
    write_csv(path, table)
    return path


def report_input(task, config, tally, outcome, judged, baselines, results, submission, warnings):
    precision, recall, _ = precision_recall(*judged.curves)
    best, lines = outcome.final, sensitivity(tally, outcome.final)
    held_out = {part.fold: params for part, params in outcome.held_out.items()}
    fold_scores = judged.images.groupby("fold")["score"].mean()
    return ReportInput(
        f"{task.title}: {config.run}", task.score_name, results["score"], results["interval"], results["n_images"],
        results["n_counted"], HOW[config.fit_on], judged.images, score_meaning=task.score_meaning, baselines=baselines,
        sensitivity={k: ([v for v, _ in pairs], [s for _, s in pairs], getattr(best, k)) for k, pairs in lines.items()},
        folds=[(fold, float(score), asdict(held_out[fold])) for fold, score in fold_scores.items()],
        true_boxes=judged.true, pred_boxes=judged.boxes, pred_scores=judged.scores, pr=(recall, precision),
        froc=froc(*judged.curves), operating=operating_point(judged), class_names=list(task.class_names),
        runs=config.run_dir, params=asdict(best),
        params_path=config.run_dir / "params.json", submission_path=submission, warnings=warnings)


def operating_point(judged):
    """(recall, precision, false boxes per image) of the boxes that were kept, as on the curves at IoU 0.5."""
    precision, recall, _ = precision_recall(list(judged.true.values()), list(judged.boxes.values()),
                                            list(judged.scores.values()))
    false, _ = froc(list(judged.true.values()), list(judged.boxes.values()), list(judged.scores.values()))
    return (float(recall[-1]), float(precision[-1]), float(false[-1])) if len(recall) else None


def say(results, config, submission, report):
    low, high = results["interval"]
    print(f"\nscore {results['score']:.4f} (95 % interval {low:.4f} to {high:.4f}) over {results['n_counted']} counted "
          f"of {results['n_images']} images; {HOW[config.fit_on]}")
    for name, score in results["baselines"].items():
        print(f"  {name}: {score:.4f}")
    print(f"submission  {submission or 'not written: test predictions are missing'}\nreport      {report}")
