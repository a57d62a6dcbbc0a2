"""Judging a classifier of studies: its images' probabilities, averaged over each study."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

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
from cxr.metrics.image_rules import (
    ImageEvidence,
    ImageRule,
    ImageTruth,
    fit_rule,
    rule_of_place,
)
from cxr.metrics.matching import ranked_hits
from cxr.metrics.pooled_boxes import ClassRanking, f1
from cxr.metrics.studies import (
    ALL_CLASSES,
    STUDY_CLASSES,
    STUDY_SHARE,
    competition_scores,
    image_answer,
    image_truth,
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
HIT_IOU = 0.5  # of the competition
SEARCH = "search"  # of --image-rule
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
    (n, C) of the rows. learned: (n,), how likely nothing is marked; nan where that is not learned.
    """

    table: pd.DataFrame
    boxes: Mapping[str, np.ndarray]
    probabilities: np.ndarray
    learned: np.ndarray

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
            single.learned,
            units,
            lambda probabilities, rows: mean_study_ap(single.table[rows], probabilities),
        )
        judged = JudgedStudies(single.table, single.boxes, mixture.out_of_fold, mixture.learned)

        # What --image-rule makes of classes and boxes, fitted on the other folds where it is
        # searched.
        studies, means = judged.studies()
        opacities = judging.further_boxes
        rule_name = judging.settings.method.image_rule
        rule, answers = answer_out_of_fold(rule_name, judged, units, opacities)
        means = with_negatives(studies["study"], means, answers.negatives)

        # The four classes of the studies, and all six of the competition.
        labels = studies["label"].to_numpy()
        scores = study_scores(labels, means)
        intervals = study_intervals(labels, means, studies["group"])
        competition = judge_competition(judged, studies, means, answers)
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
        if rule_name != "plain":
            params["image_rule"] = rule.plain()
        true, predicted = collect_boxes(judged, answers.opacities)
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
            figures=study_figures(scores["metric"], competition, bool(opacities)),
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
    if settings.method.image_rule == SEARCH:
        rule = describe_fit(judging.folds, settings.judging.fit_on, "the rule of --image-rule")
        sentence = f"{sentence}, with {rule}"
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
    learned = []
    for case in cases():
        image_id = case.prediction.image_id
        rows.append((image_id, case.study, case.label, case.fold, case.group))
        boxes[image_id] = case.boxes
        probabilities.append(case.prediction.category)
        learned.append(case.prediction.none)
    table = pd.DataFrame(rows, columns=["image_id", "study", "label", "fold", "group"])
    return JudgedStudies(table, boxes, np.array(probabilities, float), np.array(learned, float))


class ImageAnswers(NamedTuple):
    """What a rule makes of images.

    none: {image_id: how likely it has no box}. opacities: {image_id: its boxes and their scores},
    empty where nobody looked. negatives: {study: how likely it is negative}, empty where the rule
    leaves that as it is.
    """

    none: dict[str, float]
    opacities: dict[str, FoundBoxes]
    negatives: dict[str, float]


def gather_evidence(
    table: pd.DataFrame,
    studies: Mapping[str, np.ndarray],
    learned: np.ndarray,
    opacities: Mapping[str, FoundBoxes],
) -> ImageEvidence:
    """What is known of the rows (image_id, study) of a table.

    studies: {study: probabilities (C,)}. learned: (n,), nan where it was not. opacities: boxes of
    a detector; may be empty.
    """
    negative = np.array([studies[study][0] for study in table["study"]], float)
    confidences = None
    if opacities:
        confidences = [opacities.get(image_id, NO_BOXES)[1] for image_id in table["image_id"]]
    return ImageEvidence(table["study"].to_numpy(), negative, learned, confidences)


def answer_images(
    rule: ImageRule,
    image_ids: Sequence[str],
    evidence: ImageEvidence,
    opacities: Mapping[str, FoundBoxes],
) -> ImageAnswers:
    """What a rule makes of the images `image_ids`, of which `evidence` tells in the same order."""
    none = dict(zip(image_ids, rule.none(evidence).tolist(), strict=True))
    found = {}
    if opacities:
        new_scores = rule.box_confidences(evidence)
        for image_id, scores in zip(image_ids, new_scores, strict=True):
            found[image_id] = (opacities.get(image_id, NO_BOXES)[0], scores)
    negatives = rule.study_negatives(evidence) if rule.share else {}
    return ImageAnswers(none, found, negatives)


def with_negatives(
    studies: Sequence[str], means: np.ndarray, negatives: Mapping[str, float]
) -> np.ndarray:
    """Probabilities (k, C) of studies with the first class as `negatives` has it, if it has."""
    changed = means.copy()
    for row, study in enumerate(studies):
        changed[row, 0] = negatives.get(study, means[row, 0])
    return changed


def answer_out_of_fold(
    name: str, judged: JudgedStudies, units: np.ndarray, opacities: Mapping[str, FoundBoxes]
) -> tuple[ImageRule, ImageAnswers]:
    """The rule of --image-rule for new images, and the judged images' answers.

    units: (n,), what is held out together. A rule that is searched is fitted for each unit on the
    others, and for new images on all.
    """
    studies, means = judged.studies()
    probabilities = dict(zip(studies["study"], means, strict=True))
    evidence = gather_evidence(judged.table, probabilities, judged.learned, opacities)
    image_ids = judged.table["image_id"].tolist()
    if name != SEARCH:
        rule = rule_of_place(name, evidence)
        return rule, answer_images(rule, image_ids, evidence, opacities)

    truth = true_images(judged, opacities)
    answers = ImageAnswers({}, {}, {})
    for unit in np.unique(units):
        held_out = units == unit
        fitted = fit_rule(evidence.take(~held_out), truth.take(~held_out))
        ids = judged.table["image_id"][held_out].tolist()
        of_unit = answer_images(fitted, ids, evidence.take(held_out), opacities)
        answers.none.update(of_unit.none)
        answers.opacities.update(of_unit.opacities)
        answers.negatives.update(of_unit.negatives)
    return fit_rule(evidence, truth), answers


def true_images(judged: JudgedStudies, opacities: Mapping[str, FoundBoxes]) -> ImageTruth:
    """What a search wants to know of the judged images, in their order."""
    counts = []
    hits = []
    for image_id in judged.table["image_id"]:
        true_boxes = judged.boxes[image_id]
        counts.append(len(true_boxes))
        found = opacities.get(image_id, NO_BOXES)[0]
        hits.append(ranked_hits(true_boxes, found, HIT_IOU))
    return ImageTruth((judged.table["label"] == 0).to_numpy(), np.array(counts), hits)


def judge_competition(
    judged: JudgedStudies, studies: pd.DataFrame, means: np.ndarray, answers: ImageAnswers
) -> dict[str, float]:
    """All six classes of the competition; without boxes nobody looked for, `ap_opacity` is nan."""
    truth = {}
    detections: dict[tuple[str, str], Detections] = {}
    rows = zip(studies["study"], studies["label"], means, strict=True)
    for study, label, probabilities in rows:
        truth["study", study] = study_truth(label)
        detections["study", study] = study_answer(probabilities)
    for image_id, true_boxes in judged.boxes.items():
        boxes, scores = answers.opacities.get(image_id, NO_BOXES)
        truth["image", image_id] = image_truth(true_boxes)
        detections["image", image_id] = image_answer(boxes, scores, answers.none[image_id])
    scores_of_all = competition_scores(truth, detections)
    if not answers.opacities:
        scores_of_all["ap_opacity"] = math.nan
    return scores_of_all


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
