"""Judging a classifier of studies: its images' probabilities, averaged over each study."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cxr.geometry.detections import Detections
from cxr.methods.base import Cases, Judging, Labels, Scorer
from cxr.methods.classifier.mixture import mix_runs
from cxr.methods.classifier.records import ClassPrediction, StudyCase
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
from cxr.metrics.bootstrap import Interval
from cxr.metrics.pooled_boxes import ClassRanking, f1
from cxr.metrics.studies import (
    ALL_CLASSES,
    STUDY_CLASSES,
    STUDY_SHARE,
    competition_scores,
    image_answer,
    image_truth,
    none_scores,
    study_answer,
    study_intervals,
    study_labels,
    study_means,
    study_rankings,
    study_scores,
    study_truth,
)
from cxr.settings import Settings
from cxr.system.errors import InputError

# Boxes (n, 4) and scores (n,) of an image's opacities.
FoundBoxes = tuple[np.ndarray, np.ndarray]

# Of an image in which nothing was looked for.
NO_BOXES: FoundBoxes = (np.zeros((0, 4)), np.zeros(0))
STUDY_WORDS = {
    "found": "Right: the study is not negative, and was called what it is",
    "misplaced": "Confused: the study is not negative, and was called another class that is not",
    "missed": "Missed: the study is not negative, but was called negative",
    "alarm": "False alarm: the study is negative, but was called another class",
    "empty": "Rightly negative: the study is negative, and was called so",
    "Best": "Images of studies that are not negative and were called what they are, the most "
    "certain first. Marked is where the readers saw opacities.",
    "Typical": "Images of studies that are not negative and fare as most of them do, right or "
    "wrong.",
    "Worst: misplaced": "Not negative, and called another class that is not; the most certain "
    "first.",
    "Worst: missed": "Not negative, but called negative; the largest marked opacities first.",
    "Worst: false alarms": "Negative, but called another class; the most certain first.",
    "Rightly empty": "Negative, and called so; shown in the order of the ids.",
    "failures": "",
    "numbers": "",
    "marked": "of studies that are not negative",
    "not found": "called another class, of those not negative",
    "false alarms": "called another class, of those negative",
    "unit": "studies",
    "class thresholds": "Threshold and F1 belong to the threshold of highest F1 on these studies: "
    "to look at, not to claim.",
}


@dataclass(frozen=True, eq=False)
class JudgedStudies:
    """Out-of-fold images.

    table: image_id, study, label, fold, group. boxes: {image_id: true ones (n, 4)}. probabilities:
    (n, C) of the rows.
    """

    table: pd.DataFrame
    boxes: Mapping[str, np.ndarray]
    probabilities: np.ndarray

    def studies(self) -> tuple[pd.DataFrame, np.ndarray]:
        """Table of the studies by rising id (study, fold, group, label), probabilities (k, C)."""
        ids, means = study_means(self.table["study"], self.probabilities)
        labels = study_labels(self.table["study"], self.table["label"])
        first = self.table.drop_duplicates("study").set_index("study").loc[ids]
        return first.reset_index()[["study", "fold", "group"]].assign(label=labels), means


class StudyAP(Scorer):
    """Mean average precision (VOC 2010) of the four study classes."""

    score_name = "Mean AP of the four study classes"
    score_meaning = (
        "For every class, the studies are sorted by its probability; the average precision (AP) is "
        "the area under the curve of precision over recall. The score is the mean over the "
        "classes: a guess that ignores the image reaches 0.25, 1 is perfect. The competition also "
        "scores the images without box (none) and the boxes (opacity); these four classes are two "
        "thirds of its score."
    )
    logged = ("metric", *(f"ap_{name}" for name in STUDY_CLASSES))
    of_studies = True

    def make_case(self, prediction: ClassPrediction, row: pd.Series, fold: int) -> StudyCase:
        boxes = np.array(json.loads(row["boxes"]), float).reshape(-1, 4)
        label = int(row["label"])
        return StudyCase(prediction, row["study_id"], label, boxes, fold, str(row["group"]))

    def quick_score(
        self,
        predictions: Mapping[int, np.ndarray],
        table: pd.DataFrame,
        settings: Settings,
        labels: Labels,
    ) -> dict[str, float]:
        """nan where the validation images have no study of a class."""
        del settings, labels
        rows = table.iloc[list(predictions)]
        _, means = study_means(rows["study_id"], np.array(list(predictions.values())))
        return study_scores(study_labels(rows["study_id"], rows["label"]), means)

    def make_rule(
        self, params: Mapping[str, Any] | None, settings: Settings, labels: Labels
    ) -> Rule:
        """The probabilities as they are; a mixture of --stack needs the other runs."""
        del params, settings, labels
        return Rule(lambda prediction: prediction.category, {})

    def evaluate(self, cases: Cases, judging: Judging) -> Evaluation:
        """judging.further_boxes: {image_id: FoundBoxes} of a detector; may be empty."""
        if judging.settings.judging.fit_on != "folds":
            raise InputError(
                f"--fit-on {judging.settings.judging.fit_on} is impossible: "
                f"{judging.settings.place.task} has no images like the test set, and no published "
                "values"
            )
        # This run's probabilities, mixed with those of --stack by weights of the other folds.
        single = collect_studies(cases)
        units = held_out_units(single.table["fold"].to_numpy(), single.table["group"].to_numpy())
        mixture = mix_runs(
            judging,
            single.table["image_id"].tolist(),
            single.probabilities,
            units,
            lambda probabilities, rows: mean_study_ap(single.table[rows], probabilities),
        )
        judged = JudgedStudies(single.table, single.boxes, mixture.out_of_fold)

        # The four classes of the studies, and all six of the competition.
        studies, means = judged.studies()
        labels = studies["label"].to_numpy()
        scores = study_scores(labels, means)
        intervals = study_intervals(labels, means, studies["group"])
        competition = judge_competition(judged, studies, means, judging.further_boxes)
        rankings = study_rankings(labels, means)
        rows = []
        curves = {}
        for name, ranking, interval in zip(STUDY_CLASSES, rankings, intervals, strict=False):
            rows.append(study_class_row(name, ranking, interval))
            if ranking.true_counts.any():
                curves[name] = ranking.curve()

        params: dict[str, Any] = {}
        stack = judging.settings.method.stack
        if stack:
            names = [judging.run.name, *stack]
            params = {"weights": dict(zip(names, mixture.weights.tolist(), strict=True))}
        true, predicted = collect_boxes(judged, judging.further_boxes)
        average_precisions = {name: json_number(competition[f"ap_{name}"]) for name in ALL_CLASSES}
        return Evaluation(
            score=scores["metric"],
            interval=intervals[-1],
            counted=len(judged.table),
            params=params,
            detect=mixture.of_test,
            images=study_image_rows(judged, studies, means),
            how=describe_studies(judging),
            true=true,
            predicted=predicted,
            baselines=[
                Baseline("share of each class, the image not looked at", chance(labels), None)
            ],
            sensitivity={},
            folds=study_fold_results(studies, means),
            figures=study_figures(scores["metric"], competition, bool(judging.further_boxes)),
            image_score="accuracy",
            words=STUDY_WORDS,
            class_rows=rows,
            class_curves=curves,
            notes=absent_study_classes(rows),
            results={"n_studies": len(studies), "ap": average_precisions},
        )


def describe_studies(judging: Judging) -> str:
    """A sentence: on which studies the score was measured, and what was fitted."""
    settings = judging.settings
    studies = describe_images(
        judging.folds, settings.judging.fit_on, settings.data.folds, subject="studies"
    )
    sentence = f"Measured on {studies}, each as the mean of its images"
    if settings.method.stack:
        weights = describe_fit(judging.folds, settings.judging.fit_on, "weights of the mixed runs")
        sentence = f"{sentence}, with {weights}"
    return f"{sentence}; average precision needs no threshold."


def mean_study_ap(table: pd.DataFrame, probabilities: np.ndarray) -> float:
    """Mean AP of the study classes of images with columns study and label, probabilities (n, C)."""
    _, means = study_means(table["study"], probabilities)
    return study_scores(study_labels(table["study"], table["label"]), means)["metric"]


def collect_studies(cases: Cases) -> JudgedStudies:
    """The cases, read once."""
    rows = []
    boxes = {}
    probabilities = []
    for case in cases():
        image_id = case.prediction.image_id
        rows.append((image_id, case.study, case.label, case.fold, case.group))
        boxes[image_id] = case.boxes
        probabilities.append(case.prediction.category)
    table = pd.DataFrame(rows, columns=["image_id", "study", "label", "fold", "group"])
    return JudgedStudies(table, boxes, np.array(probabilities, float))


def judge_competition(
    judged: JudgedStudies,
    studies: pd.DataFrame,
    means: np.ndarray,
    opacities: Mapping[str, FoundBoxes],
) -> dict[str, float]:
    """All six classes of the competition; without boxes nobody looked for, `ap_opacity` is nan."""
    study_probabilities = dict(zip(studies["study"], means, strict=True))
    none = none_of(judged.table, study_probabilities, opacities)
    truth = {}
    answers: dict[tuple[str, str], Detections] = {}
    for study, label in zip(studies["study"], studies["label"], strict=True):
        truth["study", study] = study_truth(label)
        answers["study", study] = study_answer(study_probabilities[study])
    for image_id, true_boxes in judged.boxes.items():
        boxes, scores = opacities.get(image_id, NO_BOXES)
        truth["image", image_id] = image_truth(true_boxes)
        answers["image", image_id] = image_answer(boxes, scores, none[image_id])
    scores_of_all = competition_scores(truth, answers)
    if not opacities:
        scores_of_all["ap_opacity"] = math.nan
    return scores_of_all


def none_of(
    table: pd.DataFrame,
    studies: Mapping[str, np.ndarray],
    opacities: Mapping[str, FoundBoxes],
) -> dict[str, float]:
    """{image_id: how likely it has no box}, for the rows (image_id, study) of a table.

    studies: {study: probabilities (C,)}. opacities: boxes of a detector; may be empty.
    """
    negative = [studies[study][0] for study in table["study"]]
    confidences = None
    if opacities:
        confidences = [opacities.get(image_id, NO_BOXES)[1] for image_id in table["image_id"]]
    return dict(zip(table["image_id"], none_scores(negative, confidences), strict=True))


def collect_boxes(
    judged: JudgedStudies, opacities: Mapping[str, FoundBoxes]
) -> tuple[Boxes, Boxes]:
    """True boxes and those of a detector, for the pictures."""
    true = Boxes()
    predicted = Boxes()
    for image_id, true_boxes in judged.boxes.items():
        true.put(image_id, true_boxes, np.zeros(len(true_boxes), int))
        boxes, scores = opacities.get(image_id, NO_BOXES)
        predicted.put(image_id, boxes, np.zeros(len(boxes), int), scores)
    return true, predicted


def study_image_rows(
    judged: JudgedStudies, studies: pd.DataFrame, means: np.ndarray
) -> pd.DataFrame:
    """A row for each image, with the class that its study is called: score 1 where it is right."""
    table = judged.table
    called = table["study"].map(dict(zip(studies["study"], means.argmax(1), strict=True)))
    highest = table["study"].map(dict(zip(studies["study"], means.max(1), strict=True)))
    captions = []
    for label, predicted, share in zip(table["label"], called, highest, strict=True):
        captions.append(f"{STUDY_CLASSES[label]}, called {STUDY_CLASSES[predicted]} ({share:.2f})")
    return table[["image_id", "fold", "group", "study"]].assign(
        score=(called == table["label"]).astype(float),
        n_true=(table["label"] > 0).astype(int),
        n_pred=(called > 0).astype(int),
        best_score=highest,
        predicted=called,
        caption=captions,
    )


def chance(labels: np.ndarray) -> float:
    """Mean AP of a guess that ignores the image: the mean share of the classes."""
    shares = np.bincount(labels, minlength=len(STUDY_CLASSES)) / len(labels)
    return float(shares[shares > 0].mean())


def study_figures(
    score: float, competition: Mapping[str, float], has_boxes: bool
) -> dict[str, float]:
    """What stands beside the score: {words: number}."""
    figures = {
        "x 2/3, the studies' share of the competition's score": score * STUDY_SHARE,
        "AP of none": competition["ap_none"],
    }
    if has_boxes:
        figures["AP of opacity"] = competition["ap_opacity"]
        figures["competition's score"] = competition["metric"]
    else:
        figures["competition's score without opacity boxes"] = competition["metric"]
    return figures


def study_class_row(name: str, ranking: ClassRanking, interval: Interval) -> dict[str, Any]:
    """What the report's table says of a class; threshold and F1 are fitted on all studies."""
    threshold = fit_threshold(ranking)
    counts = ranking.counts([threshold])
    recalls = ranking.recalls()
    f1_score = f1(
        int(counts.true_positives[0]), int(counts.false_positives[0]), int(counts.missed[0])
    )
    return {
        "name": name,
        "images": int(ranking.true_counts.sum()),
        "ap": ranking.average_precision(),
        "interval": interval,
        "recalls": recalls,
        "avgrecall": float(recalls.mean()),
        "threshold": threshold,
        "f1": float(f1_score),
    }


def study_fold_results(studies: pd.DataFrame, means: np.ndarray) -> list[FoldResult]:
    """Mean AP of each fold's studies: nothing is fitted."""
    results = []
    for fold, rows in studies.groupby("fold"):
        scores = study_scores(rows["label"].to_numpy(), means[rows.index])
        results.append(FoldResult(int(fold), scores["metric"], {}))
    return results


def absent_study_classes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence naming the classes without a study, or none."""
    missing = [row["name"] for row in rows if not row["images"]]
    if not missing:
        return []
    return [
        f"No judged study is {', '.join(missing)}: their average precision is not defined and left "
        "out of the mean."
    ]
