"""Judging a detector class by class: average precision, recall at few false positives, a threshold
for each class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from cxr.data.dataset import boxes_in_frame
from cxr.geometry.detections import Detections, TrueBoxes
from cxr.geometry.frames import Frame
from cxr.methods.base import Cases, Judging, Labels
from cxr.methods.detector.box_scorer import BoxScorer, tried_overlaps
from cxr.methods.detector.records import (
    BoxCase,
    Candidates,
    Params,
    QuickDetections,
    merged_detections,
)
from cxr.methods.evaluation import (
    Baseline,
    Boxes,
    Evaluation,
    FoldResult,
    Rule,
    held_out_units,
    json_number,
)
from cxr.methods.wording import describe_fit, describe_images, describe_marks
from cxr.metrics.average_precision import class_average_precisions
from cxr.metrics.bootstrap import Interval, class_intervals
from cxr.metrics.curves import OperatingPoint, PrecisionRecallCurve, SensitivityLine
from cxr.metrics.froc import FrocCurve
from cxr.metrics.matching import ranked_hits
from cxr.metrics.means import mean_known
from cxr.metrics.pooled_boxes import RATES, BoxPool, ClassRanking, f1
from cxr.settings import Settings

ParamsOf = Callable[[BoxCase], Params]

THRESHOLDS = np.round(np.arange(0.02, 0.97, 0.02), 2)
# Threshold where nothing was fitted: more likely right than wrong, if scores were probabilities.
PLAIN_THRESHOLD = 0.5
FRAME = 1024  # pixels; the side to which boxes of images of all sizes are brought for a mean box
MEANING = (
    "For every finding, its boxes in all images are sorted by confidence; the average precision "
    "(AP) is the area under the curve of precision over recall, where a box is right if it shares "
    "at least {share} of the joint area with a marked one. The score is the mean over the "
    "findings. 1 is perfect."
)
HOW = (
    "Measured on {images}; average precision needs no threshold. Boxes, F1 and outcomes are shown "
    "with {fit}."
)
SEARCHED = (
    "Each class has its own threshold: the one with the highest F1 of the class at IoU {iou:g} "
    "(boxes right against false and missed ones). The orange dot is the threshold fitted on all "
    "judged images, for new ones; {marks}. Look for broad tops and triangles close together: there "
    "the choice is safe. The average precision does not depend on it."
)


class KeptCounts(NamedTuple):
    """Boxes that the thresholds keep and that are right, or false; true boxes that are missed."""

    hits: int
    false: int
    missed: int


class Overlap(NamedTuple):
    """The overlap of suppression for new images, and {image_id: the one fitted without it}."""

    final: float
    held_out: Mapping[str, float]

    def params_for(self, case: BoxCase) -> Params:
        """Parameters that were not fitted on this image, where any were fitted."""
        return params_of(self.held_out.get(case.candidates.image_id, self.final))


class ClassAP(BoxScorer):
    """Mean over the box classes of their average precision at one IoU.

    iou: the overlap with a true box above which a box is right. score_name, score_meaning: where
    the usual words do not fit a data set.
    """

    fit_refusal = "has no images like the test set, and no published values"

    def __init__(self, iou: float = 0.5, score_name: str = "", score_meaning: str = "") -> None:
        share = "half" if iou == 0.5 else f"{100 * iou:g} %"
        self.iou = iou
        self.score_name = score_name or f"Mean AP at IoU {iou:g}"
        self.score_meaning = score_meaning or MEANING.format(share=share)

    def evaluate(self, cases: Cases, judging: Judging) -> Evaluation:
        self.check_fit_on(judging.settings)
        folds = judging.folds
        fit_on = judging.settings.judging.fit_on
        names = judging.labels.classes
        overlap = self._choose_overlap(cases, tried_overlaps(judging.settings), len(names))
        pool = self.pool_cases(cases, overlap.params_for, len(names))
        rankings = pool.classes()

        # Thresholds: for new images from all, for each fold from the others.
        units = held_out_units(pool.folds, pool.groups)
        fitted = {}
        for unit in np.unique(units):
            fitted[unit] = [fit_threshold(ranking.only(units != unit)) for ranking in rankings]
        final = [fit_threshold(ranking) for ranking in rankings]
        thresholds = {}
        for image_id, unit in zip(pool.ids, units, strict=True):
            thresholds[image_id] = fitted[unit]

        # What they keep of images they were not fitted on, and how each class fares.
        images, true, predicted = self._judge_images(cases, overlap.params_for, thresholds)
        intervals = class_intervals(rankings, pool.groups)
        rows = []
        for label, name in enumerate(names):
            kept = self._count_kept(true, predicted, label)
            rows.append(class_row(name, rankings[label], intervals[label], final[label], kept))
        results = measures(rows)
        results["f1"] = {row["name"]: json_number(row["f1"]) for row in rows}

        # Curves of all boxes, and of the classes that there are.
        curve = pool.of_class(None).curve()
        sensitivity = {}
        class_curves = {}
        for name, ranking, chosen in zip(names, rankings, final, strict=True):
            if ranking.true_counts.any():
                sensitivity[name] = threshold_line(ranking, chosen)
                class_curves[name] = ranking.curve()
        return Evaluation(
            score=mean_known([row["ap"] for row in rows]),
            interval=intervals[-1],
            counted=len(images),
            params={"threshold": dict(zip(names, final, strict=True)), "nms_iou": overlap.final},
            detect=partial(all_detections, params=params_of(overlap.final)),
            images=images,
            how=HOW.format(
                images=describe_images(folds, fit_on, judging.settings.data.folds),
                fit=describe_fit(folds, fit_on, "thresholds"),
            ),
            true=true,
            predicted=predicted,
            baselines=[self._constant_baseline(judging.table, pool, units)],
            sensitivity=sensitivity,
            folds=class_fold_results(names, rankings, pool, units, fitted),
            pr=PrecisionRecallCurve(curve.recall, curve.precision),
            froc=FrocCurve(curve.false_positives_per_image, curve.recall),
            operating=class_operating_point(rows, len(images)),
            image_score="F1",
            searched=SEARCHED.format(iou=self.iou, marks=describe_marks(folds, fit_on)),
            results=results,
            notes=absent_classes(names, rankings),
            class_rows=rows,
            class_curves=class_curves,
        )

    def _choose_overlap(self, cases: Cases, tried: Sequence[float], class_count: int) -> Overlap:
        """The overlap of suppression with the highest mean AP: of all images, and for the images
        of each fold of the others."""
        if len(tried) == 1:
            return Overlap(tried[0], {})
        rankings = {}
        for value in tried:
            pool = self.pool_cases(cases, Overlap(value, {}).params_for, class_count)
            rankings[value] = pool.classes()
        units = held_out_units(pool.folds, pool.groups)

        def best_on(rows: np.ndarray) -> float:
            return max(tried, key=lambda value: mean_precision(rankings[value], rows))

        fitted = {unit: best_on(units != unit) for unit in np.unique(units)}
        held_out = {}
        for image_id, unit in zip(pool.ids, units, strict=True):
            held_out[image_id] = fitted[unit]
        return Overlap(best_on(np.ones(len(units), bool)), held_out)

    def pool_cases(self, cases: Cases, params_for: ParamsOf, class_count: int) -> BoxPool:
        """All boxes of the cases, whatever their score."""
        pool = BoxPool(class_count, self.iou)
        for case in cases():
            detections = all_detections(case.candidates, params_for(case))
            pool.add(case.candidates.image_id, case.fold, case.group, case.true, detections)
        return pool

    def _judge_images(
        self, cases: Cases, params_for: ParamsOf, thresholds: Mapping[str, Sequence[float]]
    ) -> tuple[pd.DataFrame, Boxes, Boxes]:
        """Table with a row for each image, true and predicted boxes.

        thresholds: {image_id: those of the classes, (K,)}.
        """
        rows = []
        true = Boxes()
        predicted = Boxes()
        for case in cases():
            image_id = case.candidates.image_id
            detections = all_detections(case.candidates, params_for(case))
            detections = detections.above(np.asarray(thresholds[image_id]))
            hits = 0
            for label in np.unique(detections.labels):
                hits += self._count_hits(
                    case.true.of_class(label), detections.of_class(label).boxes
                )
            true.put(image_id, case.true.boxes, case.true.labels)
            predicted.put(image_id, detections.boxes, detections.labels, detections.scores)
            n_true = len(case.true.boxes)
            n_pred = len(detections)
            rows.append(
                {
                    "image_id": image_id,
                    "fold": case.fold,
                    "group": case.group,
                    "score": float(f1(hits, n_pred - hits, n_true - hits)),
                    "n_true": n_true,
                    "n_pred": n_pred,
                    "best_score": detections.scores.max(initial=0),
                    "hits": hits,
                    "predicted": int(case.candidates.category.argmax()),
                }
            )
        return pd.DataFrame(rows), true, predicted

    def _count_hits(self, true_boxes: np.ndarray, predicted_boxes: np.ndarray) -> int:
        return int(ranked_hits(true_boxes, predicted_boxes, self.iou).sum())

    def _count_kept(self, true: Boxes, predicted: Boxes, label: int) -> KeptCounts:
        """How the boxes of a class fared that were kept, over all images."""
        hits = 0
        predicted_count = 0
        true_count = 0
        for image_id, corners in true.corners.items():
            true_boxes = corners[true.labels[image_id] == label]
            of_class = predicted.labels[image_id] == label
            predicted_boxes = predicted.corners[image_id][of_class]
            hits += self._count_hits(true_boxes, predicted_boxes)
            predicted_count += len(predicted_boxes)
            true_count += len(true_boxes)
        return KeptCounts(hits, predicted_count - hits, true_count - hits)

    def _constant_baseline(self, table: pd.DataFrame, pool: BoxPool, units: np.ndarray) -> Baseline:
        guess = self.constant_guess(table, pool, units)
        score = mean_known([ranking.average_precision() for ranking in guess])
        return Baseline("constant guess", score, class_intervals(guess, pool.groups)[-1])

    def constant_guess(
        self, table: pd.DataFrame, pool: BoxPool, units: np.ndarray
    ) -> list[ClassRanking]:
        """What a guess that ignores the image reaches, for each class.

        It is one box of each class, the mean one, as likely as it is frequent; mean and frequency
        come from the other units.
        """
        truth = {}
        for _, row in table.iterrows():
            truth[row["image_id"]] = boxes_in_frame(row, Frame("stored", FRAME, FRAME))
        guesses = {}
        for unit in np.unique(units):
            others = np.array(pool.ids)[units != unit]
            guesses[unit] = mean_boxes([truth[image_id] for image_id in others], pool.class_count)
        guessed = BoxPool(pool.class_count, self.iou)
        for number, image_id in enumerate(pool.ids):
            guess = guesses[units[number]]
            fold = pool.folds[number]
            guessed.add(image_id, fold, pool.groups[number], truth[image_id], guess)
        return guessed.classes()

    def quick_score(
        self,
        predictions: Mapping[int, QuickDetections],
        table: pd.DataFrame,
        settings: Settings,
        labels: Labels,
    ) -> dict[str, float]:
        """Mean AP, and that of each class; nan where a class has no true box, which then is left
        out of the mean."""
        del settings
        truth = {}
        detections = {}
        for row, quick in predictions.items():
            network = Frame("network", quick.side, quick.side)
            truth[row] = boxes_in_frame(table.iloc[row], network)
            detections[row] = quick.detections
        precisions = class_average_precisions(truth, detections, labels.classes, self.iou)
        scores = {"metric": mean_known(list(precisions.values()))}
        for name, precision in precisions.items():
            scores[f"ap_{name}"] = precision
        return scores

    def make_rule(
        self, params: Mapping[str, Any] | None, settings: Settings, labels: Labels
    ) -> Rule:
        if params is None:
            fitted = dict.fromkeys(labels.classes, PLAIN_THRESHOLD)
            nms_iou = settings.method.nms_iou
        else:
            fitted = params["threshold"]
            nms_iou = params["nms_iou"]
        thresholds = {name: float(fitted[name]) for name in labels.classes}
        return Rule(partial(all_detections, params=params_of(nms_iou)), thresholds)

    def export_rule(
        self, params: Mapping[str, Any], settings: Settings, labels: Labels
    ) -> dict[str, Any]:
        del settings
        rule = params_of(params["nms_iou"]).record()
        del rule["gate"]
        del rule["threshold"]
        rule["gate_weights"] = []
        rule["thresholds"] = [params["threshold"][name] for name in labels.classes]
        return rule

    def score_exported(
        self,
        truth: Mapping[str, TrueBoxes],
        detections: Mapping[str, Mapping[str, Any]],
        labels: Labels,
    ) -> float | None:
        """Mean AP, or None without any true box."""
        by_image = {}
        for image_id, of_image in detections.items():
            by_image[image_id] = Detections(
                of_image["boxes"], of_image["scores"], of_image["labels"]
            )
        return self.score_boxes(truth, by_image, labels)["score"]

    def score_boxes(
        self,
        truth: Mapping[str, TrueBoxes],
        detections: Mapping[str, Detections],
        labels: Labels,
    ) -> dict[str, Any]:
        """Entries for results.json of images with labels: {image_id: ...} of both, detections by
        descending score, in one frame."""
        pool = BoxPool(len(labels.classes), self.iou)
        for image_id, of_image in detections.items():
            pool.add(image_id, 0, image_id, TrueBoxes(*truth[image_id]), of_image)
        rankings = pool.classes()
        rows = []
        for name, ranking in zip(labels.classes, rankings, strict=True):
            rows.append(
                {"name": name, "ap": ranking.average_precision(), "recalls": ranking.recalls()}
            )
        score = json_number(mean_known([ranking.average_precision() for ranking in rankings]))
        return {"score": score, "n_images": len(detections), **measures(rows)}


def all_detections(candidates: Candidates, params: Params) -> Detections:
    """Detections of an image after suppression, whatever their score, by descending score."""
    merged = merged_detections(candidates, params)
    return merged.clipped(candidates.width, candidates.height)


def params_of(nms_iou: float) -> Params:
    """All boxes that this suppression leaves, since low scores count in an AP."""
    return Params(nms_iou=nms_iou, score_floor=0.0)


def mean_precision(rankings: Sequence[ClassRanking], rows: np.ndarray) -> float:
    """Mean AP of the classes over some images; -1 where no class has a true box there."""
    precisions = [ranking.only(rows).average_precision() for ranking in rankings]
    mean = mean_known(precisions)
    return -1.0 if np.isnan(mean) else mean


def fit_threshold(ranking: ClassRanking) -> float:
    """The threshold of highest F1, as mean of three neighbours; the middle one among ties.

    Where no threshold finds anything it is the highest one, which shows next to nothing.
    """
    scores = np.nan_to_num(f1(*ranking.counts(THRESHOLDS)))
    padded = np.pad(scores, 1, mode="edge")
    smooth = (padded[:-2] + padded[1:-1] + padded[2:]) / 3
    if smooth.max() <= 0:
        return float(THRESHOLDS[-1])
    best = np.flatnonzero(smooth >= smooth.max() - 1e-12)
    return float(THRESHOLDS[best[len(best) // 2]])


def threshold_line(ranking: ClassRanking, chosen: float) -> SensitivityLine:
    """F1 of a class over all thresholds."""
    scores = f1(*ranking.counts(THRESHOLDS))
    return SensitivityLine(THRESHOLDS.tolist(), scores.tolist(), chosen)


def mean_boxes(truth: Sequence[TrueBoxes], class_count: int) -> Detections:
    """Of each class that there is the mean box, with its share of the images as score."""
    every = [TrueBoxes.empty(), *truth]
    corners = np.concatenate([of_image.boxes for of_image in every])
    labels = np.concatenate([of_image.labels for of_image in every])
    means = []
    shares = []
    present = []
    for label in range(class_count):
        of_class = labels == label
        if of_class.any():
            present.append(label)
            means.append(corners[of_class].mean(0))
            shares.append(np.mean([label in of_image.labels for of_image in truth]))
    boxes = np.array(means).reshape(-1, 4)
    return Detections(boxes, np.array(shares, float), np.array(present, int))


def class_row(
    name: str, ranking: ClassRanking, interval: Interval, threshold: float, kept: KeptCounts
) -> dict[str, Any]:
    """What there is of a class, its AP and recalls, and how its kept boxes fare."""
    recalls = ranking.recalls()
    return {
        "name": name,
        "images": int((ranking.true_counts > 0).sum()),
        "boxes": int(ranking.true_counts.sum()),
        "ap": ranking.average_precision(),
        "interval": interval,
        "recalls": recalls,
        "avgrecall": float(recalls.mean()),
        "threshold": threshold,
        "f1": float(f1(*kept)),
        "hits": kept.hits,
        "false": kept.false,
    }


def class_operating_point(rows: Sequence[Mapping[str, Any]], images: int) -> OperatingPoint | None:
    """Of the boxes that were kept, over all classes; None where none was or none is true."""
    hits = sum(row["hits"] for row in rows)
    false = sum(row["false"] for row in rows)
    true = sum(row["boxes"] for row in rows)
    if not true or not hits + false:
        return None
    return OperatingPoint(hits / true, hits / (hits + false), false / images)


def class_fold_results(
    names: Sequence[str],
    rankings: Sequence[ClassRanking],
    pool: BoxPool,
    units: np.ndarray,
    fitted: Mapping[int, Sequence[float]],
) -> list[FoldResult]:
    """Mean AP of the images of each fold, and the thresholds fitted without it."""
    folds = np.array(pool.folds)
    results = []
    for fold in np.unique(folds):
        of_fold = folds == fold
        precisions = [ranking.only(of_fold).average_precision() for ranking in rankings]
        thresholds = dict(zip(names, fitted[units[of_fold][0]], strict=True))
        results.append(FoldResult(int(fold), mean_known(precisions), thresholds))
    return results


def measures(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """AP and recalls of rows of classes as entries of results.json."""
    recalls = np.array([row["recalls"] for row in rows])
    means = [mean_known(column) for column in recalls.T]
    return {
        "ap": {row["name"]: json_number(row["ap"]) for row in rows},
        "recall": {row["name"]: recall_by_rate(row["recalls"]) for row in rows},
        "mean_recall": recall_by_rate(means),
        "avgrecall": json_number(float(np.mean(means))),
    }


def recall_by_rate(recalls: Sequence[float] | np.ndarray) -> dict[str, float | None]:
    """{false positives per image: recall} of recalls (r,) at RATES."""
    by_rate = {}
    for rate, recall in zip(RATES, recalls, strict=True):
        by_rate[str(rate)] = json_number(recall)
    return by_rate


def absent_classes(names: Sequence[str], rankings: Sequence[ClassRanking]) -> list[str]:
    """A sentence naming the classes without a true box, or none."""
    missing = []
    for name, ranking in zip(names, rankings, strict=True):
        if not ranking.true_counts.any():
            missing.append(name)
    if not missing:
        return []
    return [
        f"No judged image has a true box of {', '.join(missing)}: their average precision and "
        "recall are not defined and are left out of the means."
    ]
