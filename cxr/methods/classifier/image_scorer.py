"""Judging a classifier of images: AUROC and average precision of each class."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from cxr.geometry.detections import TrueBoxes
from cxr.methods.base import Cases, Judging, Labels, Scorer
from cxr.methods.classifier.records import ClassPrediction
from cxr.methods.detector.class_scorer import fit_threshold
from cxr.methods.evaluation import (
    Baseline,
    Boxes,
    Evaluation,
    FoldResult,
    Rule,
    held_out_units,
    json_number,
)
from cxr.methods.wording import describe_fit, describe_images
from cxr.metrics.auroc import auroc, calibration_error
from cxr.metrics.bootstrap import Interval, redrawn_intervals
from cxr.metrics.means import mean_known
from cxr.metrics.pooled_boxes import ClassRanking, f1, rank_rows
from cxr.settings import Settings

CHANCE = 0.5  # AUROC of a guess that ignores the image
WORDS = {
    "found": "Right: the image has findings, and was called to have these and no others",
    "misplaced": "Partly or wholly wrong: the image has findings, and was called to have others",
    "missed": "Missed: the image has findings, and was called to have none",
    "alarm": "False alarm: the image has none, and was called to have some",
    "empty": "Rightly empty: the image has none, and was called so",
    "Best": "Images of which every class is right, the most certain first.",
    "Typical": "Images that fare as most of them do.",
    "Worst: misplaced": "At least one class is wrong; the most certain first.",
    "Worst: missed": "Have findings and were called to have none.",
    "Worst: false alarms": "Have none and were called to have some; the most certain first.",
    "Rightly empty": "Have none and were called so; shown in the order of the ids.",
    "failures": "",
    "numbers": "",
    "marked": "with a finding",
    "not found": "not called what they are, of those with a finding",
    "false alarms": "called to have a finding, of those without",
    "unit": "images",
    "class thresholds": "F1 is that of thresholds which were fitted without the image; the "
    "threshold shown is fitted on all judged images.",
}


class ClassCase(NamedTuple):
    """An out-of-fold image. findings: (C,) bool, what it has."""

    prediction: ClassPrediction
    findings: np.ndarray
    fold: int
    group: str


class JudgedImages(NamedTuple):
    """table: image_id, fold, group. findings (n, C) bool, probabilities (n, C)."""

    table: pd.DataFrame
    findings: np.ndarray
    probabilities: np.ndarray


class ImageAP(Scorer):
    """Mean AUROC over the classes; each class by itself, also where only one can hold."""

    score_name = "Mean AUROC of the classes"
    score_meaning = (
        "For every class, the probability that an image that has it gets a higher number than one "
        "that does not (area under the receiver operating characteristic); the score is the mean "
        "over the classes. A guess that ignores the image reaches 0.5, 1 is perfect. Beside it "
        "stands the average precision (AP), which also says how many false ones come along."
    )

    def make_case(self, prediction: ClassPrediction, row: pd.Series, fold: int) -> ClassCase:
        findings = np.array(json.loads(row["findings"]), bool)
        return ClassCase(prediction, findings, fold, str(row["group"]))

    def quick_score(
        self,
        predictions: Mapping[int, np.ndarray],
        table: pd.DataFrame,
        settings: Settings,
        labels: Labels,
    ) -> dict[str, float]:
        """nan where the validation images lack a class, or have nothing else."""
        del settings
        rows = table.iloc[list(predictions)]
        findings = np.array([json.loads(text) for text in rows["findings"]], bool)
        return class_scores(labels.image_classes, findings, np.array(list(predictions.values())))

    def make_rule(
        self, params: Mapping[str, Any] | None, settings: Settings, labels: Labels
    ) -> Rule:
        """The probabilities as they are; the thresholds stand in params.json for whoever reads
        them."""
        del params, settings, labels
        return Rule(lambda prediction: prediction.category, {})

    def evaluate(self, cases: Cases, judging: Judging) -> Evaluation:
        names = judging.labels.image_classes
        judged = collect(cases)
        scores = class_scores(names, judged.findings, judged.probabilities)
        intervals = auroc_intervals(judged)
        rankings = rank_classes(judged)
        precision_intervals = redrawn_intervals(
            judged.table["group"],
            lambda weights: [ranking.average_precision(weights) for ranking in rankings],
        )

        # Thresholds of highest F1: for each image fitted on the other folds, for new ones on all.
        units = held_out_units(judged.table["fold"].to_numpy(), judged.table["group"].to_numpy())
        thresholds = np.zeros(judged.findings.shape)
        for unit in np.unique(units):
            fitted = [fit_threshold(ranking.only(units != unit)) for ranking in rankings]
            thresholds[units == unit] = fitted
        final = [fit_threshold(ranking) for ranking in rankings]
        called = judged.probabilities > thresholds

        rows = []
        for number, name in enumerate(names):
            rows.append(
                image_class_row(
                    name,
                    rankings[number],
                    precision_intervals[number],
                    final[number],
                    called[:, number],
                    judged.findings[:, number],
                )
                | {"auroc": scores[f"auroc_{name}"], "auroc_interval": intervals[number]}
            )
        curves = {}
        for name, ranking in zip(names, rankings, strict=True):
            if ranking.true_counts.any():
                curves[name] = ranking.curve()
        true, predicted = no_boxes(judged)
        fit_on = judging.settings.judging.fit_on
        images = describe_images(judging.folds, fit_on, judging.settings.data.folds)
        fit = describe_fit(judging.folds, fit_on, "thresholds")
        return Evaluation(
            score=scores["metric"],
            interval=intervals[-1],
            counted=len(judged.table),
            params={"threshold": dict(zip(names, final, strict=True))},
            detect=lambda prediction: prediction.category,
            images=image_rows(judged, called, names),
            how=f"Measured on {images}; AUROC needs no threshold. F1 and outcomes are with {fit}.",
            true=true,
            predicted=predicted,
            baselines=[Baseline("the image not looked at", CHANCE, None)],
            sensitivity={},
            folds=auroc_of_folds(judged, names),
            figures=figures_of(judged, rankings),
            image_score="all classes right",
            can_confuse=not judging.settings.method.multilabel,
            words=WORDS,
            class_rows=rows,
            class_curves=curves,
            notes=notes_of(names, judged),
            results=results_of(names, scores, intervals, rankings, judged),
        )


def collect(cases: Cases) -> JudgedImages:
    """The cases, read once."""
    rows = []
    findings = []
    probabilities = []
    for case in cases():
        rows.append((case.prediction.image_id, case.fold, case.group))
        findings.append(case.findings)
        probabilities.append(case.prediction.category)
    table = pd.DataFrame(rows, columns=["image_id", "fold", "group"])
    return JudgedImages(table, np.array(findings, bool), np.array(probabilities, float))


def class_scores(
    names: Sequence[str], findings: np.ndarray, probabilities: np.ndarray
) -> dict[str, float]:
    """{"metric": mean AUROC, "auroc_<class>": ...} of findings (n, C) and probabilities (n, C)."""
    values = {}
    for number, name in enumerate(names):
        values[f"auroc_{name}"] = auroc(findings[:, number], probabilities[:, number])
    return {"metric": mean_known(list(values.values())), **values}


def auroc_intervals(judged: JudgedImages) -> list[Interval]:
    """Of each class and, last, of their mean; patients are drawn whole."""

    def scores(weights: np.ndarray) -> list[float]:
        values = []
        for number in range(judged.findings.shape[1]):
            positive = judged.findings[:, number]
            values.append(auroc(positive, judged.probabilities[:, number], weights))
        return [*values, mean_known(values)]

    return redrawn_intervals(judged.table["group"], scores)


def rank_classes(judged: JudgedImages) -> list[ClassRanking]:
    rankings = []
    for number in range(judged.findings.shape[1]):
        rankings.append(rank_rows(judged.findings[:, number], judged.probabilities[:, number]))
    return rankings


def image_class_row(
    name: str,
    ranking: ClassRanking,
    interval: Interval,
    threshold: float,
    called: np.ndarray,
    has: np.ndarray,
) -> dict[str, Any]:
    """What the report's table says of a class; F1 is that of held-out thresholds."""
    hits = int((called & has).sum())
    recalls = ranking.recalls()
    return {
        "name": name,
        "images": int(has.sum()),
        "ap": ranking.average_precision(),
        "interval": interval,
        "recalls": recalls,
        "avgrecall": float(recalls.mean()),
        "threshold": threshold,
        "f1": float(f1(hits, int(called.sum()) - hits, int(has.sum()) - hits)),
    }


def no_boxes(judged: JudgedImages) -> tuple[Boxes, Boxes]:
    """Nothing is marked in the pictures."""
    true = Boxes()
    predicted = Boxes()
    empty = TrueBoxes.empty()
    for image_id in judged.table["image_id"]:
        true.put(image_id, empty.boxes, empty.labels)
        predicted.put(image_id, empty.boxes, empty.labels, np.zeros(0))
    return true, predicted


def image_rows(judged: JudgedImages, called: np.ndarray, names: Sequence[str]) -> pd.DataFrame:
    """A row for each image, with what it has and what it was called."""
    captions = []
    for has, says in zip(judged.findings, called, strict=True):
        captions.append(f"{name_findings(has, names)}, called {name_findings(says, names)}")
    return judged.table.assign(
        score=(called == judged.findings).all(axis=1).astype(float),
        n_true=judged.findings.sum(axis=1),
        n_pred=called.sum(axis=1),
        best_score=judged.probabilities.max(axis=1),
        predicted=judged.probabilities.argmax(axis=1),
        caption=captions,
    )


def name_findings(has: np.ndarray, names: Sequence[str]) -> str:
    found = [name for name, is_there in zip(names, has, strict=True) if is_there]
    return " and ".join(found) or "nothing"


def figures_of(judged: JudgedImages, rankings: Sequence[ClassRanking]) -> dict[str, float]:
    """What stands beside the score: {words: number}."""
    precisions = [ranking.average_precision() for ranking in rankings]
    error = calibration_error(judged.findings.ravel(), judged.probabilities.ravel())
    return {
        "mean AP": mean_known(precisions),
        "expected calibration error": error,
    }


def auroc_of_folds(judged: JudgedImages, names: Sequence[str]) -> list[FoldResult]:
    """Mean AUROC of each fold's images: nothing is fitted for it."""
    results = []
    folds = judged.table["fold"].to_numpy()
    for fold in np.unique(folds):
        rows = folds == fold
        scores = class_scores(names, judged.findings[rows], judged.probabilities[rows])
        results.append(FoldResult(int(fold), scores["metric"], {}))
    return results


def notes_of(names: Sequence[str], judged: JudgedImages) -> list[str]:
    """A sentence naming the classes that no image, or every image, has; or none."""
    counts = judged.findings.sum(axis=0)
    missing = []
    for name, count in zip(names, counts, strict=True):
        if count in (0, len(judged.table)):
            missing.append(name)
    if not missing:
        return []
    return [
        f"No judged image, or every one, has {', '.join(missing)}: their AUROC is not defined and "
        "left out of the mean."
    ]


def results_of(
    names: Sequence[str],
    scores: Mapping[str, float],
    intervals: Sequence[Interval],
    rankings: Sequence[ClassRanking],
    judged: JudgedImages,
) -> dict[str, Any]:
    """Entries of results.json for each class."""
    results: dict[str, Any] = {"auroc": {}, "auroc_interval": {}, "ap": {}, "calibration_error": {}}
    for number, name in enumerate(names):
        positive = judged.findings[:, number]
        error = calibration_error(positive, judged.probabilities[:, number])
        results["auroc"][name] = json_number(scores[f"auroc_{name}"])
        results["auroc_interval"][name] = [json_number(end) for end in intervals[number]]
        results["ap"][name] = json_number(rankings[number].average_precision())
        results["calibration_error"][name] = json_number(error)
    return results
