"""Judging masks by the Dice of each image: quick figures in training, the nested search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score
from torch import Tensor
from tqdm import tqdm

from cxr.geometry.masks import dice, encode_runs, find_outlines
from cxr.methods.base import Cases, Judging, Labels, Scorer
from cxr.methods.evaluation import Baseline, Boxes, Evaluation, FoldResult, Rule, held_out_units
from cxr.methods.segmenter.records import MaskCase, MaskPrediction
from cxr.methods.segmenter.rules import (
    GRIDS,
    RULE_AXES,
    MaskRule,
    MeasuredImages,
    RuleGrid,
    apply_rule,
    measure_picture,
    nested_rules,
    uint8_level,
)
from cxr.methods.segmenter.stacking import Stack
from cxr.methods.wording import describe_marks, describe_measurement
from cxr.metrics.bootstrap import bootstrap_interval
from cxr.metrics.curves import Reliability, SensitivityLine, SizedScores
from cxr.metrics.means import mean_known
from cxr.settings import Settings
from cxr.system.errors import InputError

QUICK = replace(
    GRIDS["first"], top=(0.5, 0.6, 0.75), area=(0, 1000, 2000, 3000), bottom=(0.3, 0.4, 0.5)
)
SEARCHED = (
    "One threshold is moved at a time, the others stay at their chosen values; all diagrams share "
    "one vertical scale. An image gets a mask if enough pixels (area, of 1024 x 1024) are above "
    "the top threshold and its own score is at least the head threshold; the mask is all that is "
    "above the bottom threshold. The orange dot is the chosen value, {marks}. These "
    "curves use all images at once, so a top may lie a little above the score of this report."
)
HIT_DICE = 0.5  # above it a mask is where the finding is, not only somewhere upon it
MASK_WORDS = {
    "found": "Found: the predicted mask fits the marked one (Dice above 0.5)",
    "misplaced": "Poorly drawn: a finding is marked and a mask was predicted that does not fit it "
    "(Dice of 0.5 or less)",
    "missed": "Missed: a finding is marked, no mask was predicted",
    "alarm": "False alarm: nothing is marked, a mask was predicted",
    "empty": "Rightly empty: nothing marked, no mask predicted",
    "Best": "The highest Dice: dashed and solid outlines should nearly coincide.",
    "Typical": "The images with a marked finding whose Dice is nearest the median: this is what to "
    "expect of the system on an ordinary day.",
    "Worst: misplaced": "A mask was predicted, but it hardly covers what is marked, or much more; "
    "the images with the highest score of their own come first.",
    "Worst: missed": "A finding is marked and no mask was predicted; the largest missed findings "
    "come first.",
    "Worst: false alarms": "Nothing is marked, yet a mask was predicted; the highest scores come "
    "first: look for what might have been mistaken.",
    "Rightly empty": "Nothing is marked and no mask was predicted; shown in the order of the ids.",
    "failures": "Look at which kind of failure is the most frequent: missed findings and false "
    "alarms are decisions about whole images, poor masks are about their outlines.",
    "marked": "with a marked region",
    "numbers": "The number at a predicted region is the highest probability of its pixels.",
    "not found": "missed or poorly drawn, of those with a finding",
}


class QuickMask(NamedTuple):
    """Counts of pixels of an image, as `measure_picture` gives them, and its own score."""

    counts: np.ndarray
    head: float


@dataclass(frozen=True)
class JudgedMasks:
    """A row for each image, its true parts and its predicted ones."""

    images: pd.DataFrame
    true: Boxes
    predicted: Boxes


class Dice(Scorer):
    """Mean over the images of twice the shared pixels over the sum of both areas."""

    score_name = "Mean Dice of the images"
    fit_choices = ("folds", "published")
    fit_refusal = "it has no images like the test set"

    def __init__(self, score_meaning: str, logged: tuple[str, ...]) -> None:
        self.score_meaning = score_meaning
        self.logged = logged

    def make_case(self, prediction: MaskPrediction, row: pd.Series, fold: int) -> MaskCase:
        return MaskCase(prediction, row["mask"], fold, str(row["group"]))

    def quick_score(
        self,
        predictions: Mapping[int, QuickMask],
        table: pd.DataFrame,
        settings: Settings,
        labels: Labels,
    ) -> dict[str, float]:
        """Figures at the best of a few triplets, chosen on the same images."""
        del table, labels
        counts = np.array([quick.counts for quick in predictions.values()])
        heads = np.array([quick.head for quick in predictions.values()])
        measured = MeasuredImages(QUICK.scaled(settings.training.image_size), counts, heads)
        sums = measured.sums()
        best_index = np.unravel_index(sums.argmax(), sums.shape)
        best = measured.grid.rule([int(i) for i in best_index])
        scores = measured.scores(best)
        positive = counts[:, -1] > 0
        figures = mask_figures(scores, positive, measured.has_mask(best), heads)
        mask_dice = float("nan")
        if positive.any():
            mask_dice = float(measured.gains().gain[positive].mean(0).max())
        return {
            "metric": float(scores.mean()),
            "dice_positive": figures["Dice of positives"],
            "all_empty": figures["all empty"],
            "sensitivity": figures["sensitivity"],
            "specificity": figures["specificity"],
            "mask_dice": mask_dice,
        }

    def make_rule(
        self, params: Mapping[str, Any] | None, settings: Settings, labels: Labels
    ) -> Rule:
        """From a MaskPrediction to run lengths; without params the place's published values."""
        del labels
        rule = rule_of(params, settings)
        return Rule(lambda prediction: mask_runs(rule, prediction, prediction.head), {})

    def evaluate(self, cases: Cases, judging: Judging) -> Evaluation:
        method = judging.settings.method
        grid = choose_grid(judging.settings)
        fit_on = judging.settings.judging.fit_on if grid.is_searched else "published"

        # What the search has to know of each image, read once.
        measured, facts = collect_masks(cases, grid, len(judging.table))
        units = held_out_units(facts["fold"].to_numpy(), facts["group"].to_numpy())
        true_sizes = measured.counts[:, -1]
        stack = None
        if method.stack:
            ids = facts["image_id"].tolist()
            stack = Stack(judging, ids, units, true_sizes > 0)
            measured.heads = stack.out_of_fold()

        # Rules, and each image judged by the one that it had no part in.
        fitted = nested_rules(measured, units)
        rules = {}
        heads = {}
        for image_id, unit, head in zip(facts["image_id"], units, measured.heads, strict=True):
            rules[image_id] = fitted.held_out[unit]
            heads[image_id] = head
        judged = judge_masks(cases, rules, heads)

        images = judged.images
        scores = images["score"].to_numpy()
        positive = images["n_true"].to_numpy() > 0
        has_mask = images["n_pred"].to_numpy() > 0
        folds = []
        for fold, rows in images.groupby("fold"):
            rule = rules[rows["image_id"].iloc[0]]
            folds.append(FoldResult(int(fold), float(rows["score"].mean()), asdict(rule)))
        return Evaluation(
            score=mean_known(scores),
            interval=bootstrap_interval(images["score"], images["group"]),
            counted=len(images),
            params=asdict(fitted.final) | {"rule": method.rule},
            detect=MaskAnswer(fitted.final, stack),
            images=images,
            how=describe_measurement(
                judging.folds,
                fit_on,
                judging.settings.data.folds,
                fitted="thresholds",
            ),
            true=judged.true,
            predicted=judged.predicted,
            baselines=mask_baselines(measured, images, positive),
            sensitivity=mask_sensitivity(measured, fitted.final),
            folds=folds,
            figures=mask_figures(scores, positive, has_mask, measured.heads),
            reliability=Reliability(measured.heads, positive),
            sized=SizedScores(true_sizes[positive], scores[positive]),
            image_score="Dice",
            hit_score=HIT_DICE,
            words=MASK_WORDS,
            fit_on=fit_on,
            searched=SEARCHED.format(marks=describe_marks(judging.folds, fit_on)),
        )


@dataclass(frozen=True)
class MaskAnswer:
    """Run lengths of a test image, decided by the stack's score, or by the image's own."""

    rule: MaskRule
    stack: Stack | None

    def __call__(self, prediction: MaskPrediction) -> str:
        head = prediction.head
        if self.stack is not None:
            head = self.stack.of_test(prediction.image_id)
        return mask_runs(self.rule, prediction, head)


def rule_of(params: Mapping[str, Any] | None, settings: Settings) -> MaskRule:
    """The rule of params.json; without params the place's published values."""
    if params is None:
        return choose_grid(settings).published
    return MaskRule(**{name: value for name, value in params.items() if name != "rule"})


def mask_runs(rule: MaskRule, prediction: MaskPrediction, head: float) -> str:
    """Run lengths of the mask in original pixels."""
    return encode_runs(apply_rule(rule, prediction.picture(), head))


def quick_counts(probability: Tensor, true_mask: Tensor, heads: Tensor) -> list[QuickMask]:
    """Of each image of a batch, computed on its device; (B, S, S), (B, S, S), (B,)."""
    picture = (255 * probability).round()
    is_true = true_mask > 0.5
    tops = [int(uint8_level(value)) for value in QUICK.top]
    bottoms = [int(uint8_level(value)) for value in QUICK.bottom]
    columns = [(picture > top).sum((1, 2)) for top in tops]
    columns += [(picture > bottom).sum((1, 2)) for bottom in bottoms]
    columns += [((picture > bottom) & is_true).sum((1, 2)) for bottom in bottoms]
    columns.append(is_true.sum((1, 2)))
    counts = np.stack([column.cpu().numpy() for column in columns], 1)
    image_scores = heads.float().cpu().numpy()
    return [QuickMask(*pair) for pair in zip(counts, image_scores, strict=True)]


def mask_figures(
    scores: np.ndarray, positive: np.ndarray, has_mask: np.ndarray, heads: np.ndarray
) -> dict[str, float]:
    """What belongs beside a Dice: {words: number}, nan where it is not defined. All (n,).

    positive: whether a mask is true; has_mask: whether one was predicted; heads: image scores.
    """
    auc = float("nan")
    if 0 < positive.sum() < len(positive):
        auc = float(roc_auc_score(positive, heads))
    return {
        "all empty": float((~positive).mean()),
        "Dice of positives": mean_known(scores[positive]),
        "sensitivity": mean_known(has_mask[positive]),
        "specificity": mean_known(~has_mask[~positive]),
        "AUC of the image score": auc,
    }


def choose_grid(settings: Settings) -> RuleGrid:
    """The values to search for the rule of these settings.

    Raises InputError where that is impossible.
    """
    fit_on = settings.judging.fit_on
    if fit_on == "testlike":
        raise InputError(
            f"--fit-on testlike is impossible: {settings.place.task} has no images like the test "
            "set"
        )
    grid = GRIDS[settings.method.rule]
    published = replace(grid.published, component=settings.method.component)
    grid = replace(grid, published=published)
    if fit_on == "published":
        return grid.only(grid.published)
    return grid


def collect_masks(cases: Cases, grid: RuleGrid, count: int) -> tuple[MeasuredImages, pd.DataFrame]:
    """The measured images, and a table with image_id, fold, group, head, in the same order."""
    counts = []
    rows = []
    for case in tqdm(cases(), total=count, desc="measure", mininterval=5):
        prediction = case.prediction
        counts.append(measure_picture(prediction.picture(), case.true_mask(), grid))
        rows.append((prediction.image_id, case.fold, case.group, prediction.head))
    facts = pd.DataFrame(rows, columns=["image_id", "fold", "group", "head"])
    return MeasuredImages(grid, np.array(counts), facts["head"].to_numpy()), facts


def judge_masks(
    cases: Cases, rules: Mapping[str, MaskRule], heads: Mapping[str, float]
) -> JudgedMasks:
    """Every image by its own rule and score; rules and heads {image_id: ...}."""
    rows = []
    true = Boxes()
    predicted = Boxes()
    for case in cases():
        image_id = case.prediction.image_id
        picture = case.prediction.picture()
        true_mask = case.true_mask()
        mask = apply_rule(rules[image_id], picture, heads[image_id])
        put_outlines(true, image_id, true_mask)
        put_outlines(predicted, image_id, mask, picture)
        rows.append(
            {
                "image_id": image_id,
                "fold": case.fold,
                "group": case.group,
                "score": dice(true_mask, mask),
                "n_true": len(true.corners[image_id]),
                "n_pred": len(predicted.corners[image_id]),
                "best_score": float(heads[image_id]),
                "predicted": int(mask.any()),
            }
        )
    return JudgedMasks(pd.DataFrame(rows), true, predicted)


def put_outlines(
    boxes: Boxes, image_id: str, mask: np.ndarray, picture: np.ndarray | None = None
) -> None:
    """Each connected part of a mask as a box with its outline.

    With a picture of probabilities (uint8) a part's score is the highest probability in its box.
    """
    outlines = [line[:, 0] for line in find_outlines(mask)]
    corners = outline_boxes(outlines)
    scores = None
    if picture is not None:
        scores = np.array([highest_in_box(picture, box) / 255 for box in corners])
    boxes.put(image_id, corners, np.zeros(len(outlines), int), scores)
    boxes.outlines[image_id] = outlines


def outline_boxes(outlines: Sequence[np.ndarray]) -> np.ndarray:
    """Boxes (n, 4), x1 y1 x2 y2 with the last pixel outside, around outlines (m, 2) of x, y."""
    corners = [[*line.min(0), *(line.max(0) + 1)] for line in outlines]
    return np.array(corners, float).reshape(-1, 4)


def highest_in_box(picture: np.ndarray, box: np.ndarray) -> int:
    """The highest value of a picture inside a box of whole pixels."""
    x1, y1, x2, y2 = box.astype(int)
    return picture[y1:y2, x1:x2].max()


def mask_baselines(
    measured: MeasuredImages, images: pd.DataFrame, positive: np.ndarray
) -> list[Baseline]:
    """No mask at all, then the published thresholds."""
    scores = {
        "all images empty": (~positive).astype(float),
        "published thresholds, nothing fitted": measured.scores(measured.grid.published),
    }
    baselines = []
    for name, image_scores in scores.items():
        interval = bootstrap_interval(image_scores, images["group"])
        baselines.append(Baseline(name, mean_known(image_scores), interval))
    return baselines


def mask_sensitivity(measured: MeasuredImages, final: MaskRule) -> dict[str, SensitivityLine]:
    """Mean scores along each threshold with the other ones held at the chosen values."""
    means = measured.sums() / max(1, len(measured.counts))
    index = measured.grid.index(final)
    lines = {}
    for axis, name in enumerate(RULE_AXES):
        values = getattr(measured.grid, name)
        if len(values) > 1:
            others = (*index[:axis], *index[axis + 1 :])
            line = np.moveaxis(means, axis, -1)[others]
            lines[name] = SensitivityLine(list(values), line.tolist(), getattr(final, name))
    return lines
