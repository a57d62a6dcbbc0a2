"""Judging a detector by a score of each image: search on a grid, honest estimate, what single ideas
bring."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from cxr.data.dataset import boxes_in_frame
from cxr.geometry.detections import TrueBoxes
from cxr.geometry.frames import Frame
from cxr.methods.base import Cases, Judging, Labels
from cxr.methods.detector.box_scorer import BoxScorer, tried_overlaps, tried_values
from cxr.methods.detector.records import (
    GATES,
    NO_SHRINK,
    OPTIONAL_RULES,
    SCORE_UNIT,
    BoxCase,
    Params,
    QuickDetections,
    apply_score_rule,
    detect,
    merged_detections,
)
from cxr.methods.detector.search import (
    AXES,
    ConstantGuess,
    Grid,
    Outcome,
    Tally,
    constant_scores,
    fit,
    nested,
    search,
    sensitivity,
    transfer,
)
from cxr.methods.detector.simplest import fit_simplest
from cxr.methods.evaluation import (
    Baseline,
    Boxes,
    Evaluation,
    FoldResult,
    Rule,
    json_number,
)
from cxr.methods.wording import describe_measurement
from cxr.metrics.average_precision import coco_average_precision, precision_recall
from cxr.metrics.bootstrap import bootstrap_interval
from cxr.metrics.curves import OperatingPoint, PrecisionRecallCurve, SensitivityLine
from cxr.metrics.froc import froc
from cxr.metrics.kaggle_map import image_score, prefix_scores
from cxr.metrics.means import mean_score
from cxr.settings import Settings
from cxr.system.errors import InputError

COCO_MAP = "mAP as COCO has it (IoU 0.50 to 0.95)"
QUICK_THRESHOLDS = np.geomspace(0.01, 0.9, 40)
# Searches without single ideas: {name: the only values of some parameters}.
BASELINES: dict[str, dict[str, Any]] = {
    "without the image class (gate)": {"gate": (False,)},
    "without shrinking the boxes": {"percentile_shrink": (NO_SHRINK,), "scale": (1.0,)},
    "without both": {"gate": (False,), "percentile_shrink": (NO_SHRINK,), "scale": (1.0,)},
}
# The same of what is searched only if asked for.
OPTIONAL_BASELINES: dict[str, dict[str, Any]] = {
    "with the detector's own gate only": {"gate_by": ("own",)},
    "without vote counts": {"votes": (Params.votes,)},
    "without the rule for lone boxes": {"lone": (Params.lone,)},
}
# For the curves, which show what a looser threshold would find.
LOWEST_THRESHOLD = min(Grid().threshold)

ParamsFor = Callable[[BoxCase], Params | None]  # for one image; None: it is left out


class PooledImages(NamedTuple):
    """Lists over images, as `precision_recall` and `froc` take them."""

    true: list[np.ndarray]  # boxes (n, 4)
    predicted: list[np.ndarray]  # boxes (m, 4), by descending score
    scores: list[np.ndarray]  # (m,)


@dataclass
class JudgedBoxes:
    """Results of images under parameters that were not fitted on them.

    images: a row for each, as Evaluation has it. loose: their boxes above the lowest threshold.
    """

    images: pd.DataFrame
    true: Boxes
    predicted: Boxes
    loose: PooledImages


class RsnaMap(BoxScorer):
    """The score of the RSNA Pneumonia Detection Challenge.

    gate_weights: (C,) how much each image class speaks for boxes. constant: the answer that looks
    at nothing, for comparison.
    """

    score_name = "mAP at IoU 0.40 to 0.75"
    score_meaning = (
        "For every image and eight demands on how well a box must fit (overlap 40 % to 75 %), the "
        "share of hits among hits, false boxes and missed boxes; averaged. 0 is the worst, 1 is "
        "perfect. Images without opacity count 0 as soon as one box is drawn on them and are left "
        "out otherwise."
    )
    fit_choices = ("folds", "testlike")
    fit_refusal = "is always searched, use --fit-on folds"
    searched = ("gate", "try_votes", "try_lone", "simplest")

    def __init__(self, gate_weights: tuple[float, ...], constant: ConstantGuess) -> None:
        self.gate_weights = gate_weights
        self.constant = constant

    def evaluate(self, cases: Cases, judging: Judging) -> Evaluation:
        estimate = self._choose_estimate(judging)
        progress = tqdm(cases(), total=len(judging.table), desc="search", mininterval=5)
        tally = search(progress, grid_of(judging), self.gate_weights)
        outcome = estimate(tally)
        judged = judge_images(cases, outcome.params_for, self.gate_weights)
        scores = judged.images["score"]
        curve = precision_recall(*judged.loose)
        best = outcome.final
        return Evaluation(
            score=outcome.score,
            interval=bootstrap_interval(scores, judged.images["group"]),
            counted=int(scores.notna().sum()),
            params=best.record(),
            detect=partial(detect, params=best, gate_weights=self.gate_weights),
            images=judged.images,
            how=describe_measurement(
                judging.folds,
                judging.settings.judging.fit_on,
                judging.settings.data.folds,
                fitted="post-processing parameters",
            ),
            fit_on=judging.settings.judging.fit_on,
            true=judged.true,
            predicted=judged.predicted,
            pr=PrecisionRecallCurve(curve.recall, curve.precision),
            froc=froc(*judged.loose),
            baselines=[
                constant_baseline(judged, self.constant),
                *score_baselines(cases, tally, estimate, self.gate_weights),
            ],
            sensitivity=sensitivity_lines(tally, best),
            folds=fold_results(judged, outcome, tally.grid),
            operating=operating_point(judged),
            figures={COCO_MAP: coco_average_precision(*judged.loose)},
            results={"score_test_like": json_number(outcome.score_test_like)},
        )

    def _choose_estimate(self, judging: Judging) -> Callable[[Tally], Outcome]:
        self.check_fit_on(judging.settings)
        choose = fit_simplest if judging.settings.method.simplest else fit
        if judging.settings.judging.fit_on == "folds":
            return partial(nested, choose=choose)
        if not judging.table["test_like"].any():
            raise InputError(
                f"{judging.run.task.table('train')} has no test-like images: use --fit-on folds"
            )
        return partial(transfer, choose=choose)

    def quick_score(
        self,
        predictions: Mapping[int, QuickDetections],
        table: pd.DataFrame,
        settings: Settings,
        labels: Labels,
    ) -> dict[str, float]:
        """Metric at the best of a few score thresholds, on the images it is chosen on."""
        del settings, labels
        scores = []
        for row, quick in predictions.items():
            network = Frame("network", quick.side, quick.side)
            true = boxes_in_frame(table.iloc[row], network)
            prefix = prefix_scores(true.boxes, quick.detections.boxes)
            kept = (quick.detections.scores[:, None] > QUICK_THRESHOLDS).sum(0)
            scores.append(prefix[kept])
        means = [mean_score(column) for column in np.array(scores).T]
        return {
            "metric": max(means),
            "threshold": float(QUICK_THRESHOLDS[int(np.argmax(means))]),
        }

    def make_rule(
        self, params: Mapping[str, Any] | None, settings: Settings, labels: Labels
    ) -> Rule:
        del settings
        chosen = Params(**(params or {}))
        loose = replace(chosen, threshold=0.0)
        threshold = float(chosen.threshold) / SCORE_UNIT
        return Rule(
            partial(detect, params=loose, gate_weights=self.gate_weights),
            dict.fromkeys(labels.classes, threshold),
        )

    def export_rule(
        self, params: Mapping[str, Any], settings: Settings, labels: Labels
    ) -> dict[str, Any]:
        del settings, labels
        rule = Params(**params).record()
        for name in OPTIONAL_RULES:
            if name in rule:
                raise InputError(
                    f"a file of step 06 has no rule {name}, which step 05 has fitted here: run "
                    "05_postprocess.py again without --gate, --try-votes and --try-lone"
                )
        threshold = rule.pop("threshold")
        gate = rule.pop("gate")
        rule["gate_weights"] = list(self.gate_weights) if gate else []
        rule["thresholds"] = [threshold / SCORE_UNIT]
        return rule

    def score_exported(
        self,
        truth: Mapping[str, TrueBoxes],
        detections: Mapping[str, Mapping[str, Any]],
        labels: Labels,
    ) -> float | None:
        del labels
        scores = []
        for image_id, (true_boxes, _) in truth.items():
            of_image = detections[image_id]
            scores.append(image_score(true_boxes, of_image["boxes"][of_image["kept"]]))
        return mean_score(scores)


def grid_of(judging: Judging) -> Grid:
    """The values to search; the gate only where the head for the whole image was trained, or a run
    of --gate takes its place."""
    method = judging.settings.method
    gate_run = method.gate
    has_own_gate = method.global_weight > 0
    gate: tuple[bool, ...] = (False, True)
    gate_by: tuple[str, ...] = ("own",)
    if gate_run:
        gate_by = GATES if has_own_gate else ("run",)
    elif not has_own_gate:
        gate = (False,)
    return Grid(
        nms_iou=tuple(tried_overlaps(judging.settings)),
        votes=tuple(tried_values("try_votes", method.try_votes, 0, 1)) or (Params.votes,),
        lone=tuple(tried_values("try_lone", method.try_lone, 1, 100)) or (Params.lone,),
        gate=gate,
        gate_by=gate_by,
        base=Params(gate_run=gate_run),
    )


def judge_images(
    cases: Cases, params_for: ParamsFor, gate_weights: tuple[float, ...]
) -> JudgedBoxes:
    """Results of the images for which `params_for(case)` knows parameters."""
    rows = []
    true = Boxes()
    predicted = Boxes()
    loose = PooledImages([], [], [])
    for case in cases():
        params = params_for(case)
        if params is None:
            continue
        candidates = case.candidates
        merged = merged_detections(candidates, params)
        detections = apply_score_rule(merged, candidates, params, gate_weights)
        true.put(candidates.image_id, case.true.boxes, case.true.labels)
        predicted.put(candidates.image_id, detections.boxes, detections.labels, detections.scores)

        loose_params = replace(params, threshold=LOWEST_THRESHOLD, half=False)
        more_detections = apply_score_rule(merged, candidates, loose_params, gate_weights)
        loose.true.append(case.true.boxes)
        loose.predicted.append(more_detections.boxes)
        loose.scores.append(more_detections.scores)
        rows.append(
            {
                "image_id": candidates.image_id,
                "fold": case.fold,
                "group": case.group,
                "score": image_score(case.true.boxes, detections.boxes),
                "n_true": len(case.true.boxes),
                "n_pred": len(detections),
                "best_score": detections.scores.max(initial=0),
                "predicted": int(candidates.category.argmax()),
            }
        )
    return JudgedBoxes(pd.DataFrame(rows), true, predicted, loose)


def score_images(
    cases: Cases, choices: Mapping[str, ParamsFor], gate_weights: tuple[float, ...]
) -> pd.DataFrame:
    """Table with a row for each image: image_id, group, and its score for each of the choices.

    choices: {name: params_for}. Images for which one of them knows no parameters are left out.
    """
    rows = []
    for case in cases():
        chosen = {name: params_for(case) for name, params_for in choices.items()}
        if None not in chosen.values():
            rows.append(score_row(case, chosen, gate_weights))
    return pd.DataFrame(rows)


def score_row(
    case: BoxCase, chosen: Mapping[str, Params | None], gate_weights: tuple[float, ...]
) -> dict[str, Any]:
    """Row of an image with its score for each of {name: parameters}.

    Parameters that differ in the score rule or the scale only share a merge.
    """
    row: dict[str, Any] = {"image_id": case.candidates.image_id, "group": case.group}
    merged = {}
    for name, params in chosen.items():
        assert params is not None  # such images are left out
        merging = replace(params, scale=1.0, gate=False, gate_by="own", half=False, threshold=0.0)
        if merging not in merged:
            merged[merging] = merged_detections(case.candidates, merging)
        detections = apply_score_rule(merged[merging], case.candidates, params, gate_weights)
        row[name] = image_score(case.true.boxes, detections.boxes)
    return row


def constant_baseline(judged: JudgedBoxes, guess: ConstantGuess) -> Baseline:
    """The answer that looks at nothing."""
    scores = constant_scores(judged.true.corners.values(), guess)
    interval = bootstrap_interval(scores, judged.images["group"])
    return Baseline("constant guess", mean_score(scores), interval)


def score_baselines(
    cases: Cases,
    tally: Tally,
    estimate: Callable[[Tally], Outcome],
    gate_weights: tuple[float, ...],
) -> list[Baseline]:
    """The same search without single ideas."""
    outcomes = {name: estimate(tally.only(**values)) for name, values in BASELINES.items()}
    for name, values in OPTIONAL_BASELINES.items():
        axis = next(iter(values))
        if len(tally.grid.values(axis)) > 1:
            outcomes[name] = estimate(tally.only(**values))
    choices = {name: outcome.params_for for name, outcome in outcomes.items()}
    table = score_images(cases, choices, gate_weights)
    baselines = []
    for name, outcome in outcomes.items():
        interval = bootstrap_interval(table[name], table["group"])
        baselines.append(Baseline(name, outcome.score, interval))
    return baselines


def sensitivity_lines(tally: Tally, best: Params) -> dict[str, SensitivityLine]:
    """{parameter: scores over its values}."""
    lines = {}
    for name, pairs in sensitivity(tally, best).items():
        values = [value for value, _ in pairs]
        scores = [score for _, score in pairs]
        lines[name] = SensitivityLine(values, scores, getattr(best, name))
    return lines


def fold_results(judged: JudgedBoxes, outcome: Outcome, grid: Grid) -> list[FoldResult]:
    """Score and parameters of each fold, with all that were searched."""
    searched = [axis for axis in AXES if len(grid.values(axis)) > 1]
    held_out = {unit.fold: params for unit, params in outcome.held_out.items()}
    results = []
    for fold, score in judged.images.groupby("fold")["score"].mean().items():
        params = held_out[fold]
        values = params.record() | {axis: getattr(params, axis) for axis in searched}
        results.append(FoldResult(fold, float(score), values))
    return results


def operating_point(judged: JudgedBoxes) -> OperatingPoint | None:
    """Where the boxes that were kept lie on the curves, at IoU 0.5; None where none was kept."""
    kept = PooledImages(
        list(judged.true.corners.values()),
        list(judged.predicted.corners.values()),
        [scores for scores in judged.predicted.scores.values() if scores is not None],
    )
    curve = precision_recall(*kept)
    if not len(curve.recall):
        return None
    false_positives = froc(*kept).false_positives_per_image
    return OperatingPoint(
        float(curve.recall[-1]), float(curve.precision[-1]), float(false_positives[-1])
    )
