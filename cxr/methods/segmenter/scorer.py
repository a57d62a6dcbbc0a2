"""Judging masks by the Dice of each image: quick figures in training, the nested search and its honest estimate."""

from dataclasses import asdict, replace

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score
from tqdm import tqdm

from cxr.geometry.masks import dice, encode_runs, find_outlines
from cxr.methods.evaluation import Boxes, Evaluation
from cxr.methods.segmenter.rules import GRIDS, Measured, apply, level, measure, nested
from cxr.methods.segmenter.stacking import Stack
from cxr.metrics.bootstrap import bootstrap_interval
from cxr.metrics.means import mean_known
from cxr.system.errors import InputError

QUICK = replace(
    GRIDS["first"], top=(0.5, 0.6, 0.75), area=(0, 1000, 2000, 3000), bottom=(0.3, 0.4, 0.5)
)
HOW = {
    "folds": "Measured on the validation images of every fold, predicted by models that never saw them, with "
    "thresholds fitted on the other folds.",
    "published": "Measured on the validation images of every fold, predicted by models that never saw them, with "
    "the published thresholds; nothing was fitted.",
}
SEARCHED = (
    "One threshold is moved at a time, the others stay at their chosen values; all diagrams share one vertical "
    "scale. An image gets a mask if enough pixels (area, of 1024 x 1024) are above the top threshold and its "
    "own score is at least the head threshold; the mask is all that is above the bottom threshold. The orange "
    "dot is the chosen value, the gray triangles are the values chosen when one fold was left out. These "
    "curves use all images at once, so a top may lie a little above the score of this report."
)


def quick_counts(probability, true, heads):
    """[(counts, head)] of each image of a batch, as `measure` gives them, on its device; (B, S, S), (B, S, S), (B,)."""
    picture, true = (255 * probability).round(), true > 0.5
    tops, bottoms = (
        [int(level(value)) for value in values] for values in (QUICK.top, QUICK.bottom)
    )
    columns = [
        *((picture > top).sum((1, 2)) for top in tops),
        *((picture > low).sum((1, 2)) for low in bottoms),
        *(((picture > low) & true).sum((1, 2)) for low in bottoms),
        true.sum((1, 2)),
    ]
    counts = np.stack([column.cpu().numpy() for column in columns], 1)
    return list(zip(counts, heads.float().cpu().numpy()))


def quick_score(predictions, side):
    """Figures at the best of a few triplets, chosen on the same images: for curves, not for claims.

    predictions {row: (counts, head)} of pictures of this side.
    """
    counts, heads = (np.array(part) for part in zip(*predictions.values()))
    measured = Measured(QUICK.scaled(side), counts, heads)
    sums = measured.sums()
    best = measured.grid.rule(np.unravel_index(sums.argmax(), sums.shape))
    found = figures(measured.scores(best), counts[:, -1] > 0, measured.given(best), heads)
    masks = (
        measured.gains()[0][counts[:, -1] > 0].mean(0).max()
        if counts[:, -1].any()
        else float("nan")
    )
    names = {
        "Dice of positives": "dice_positive",
        "all empty": "all_empty",
        "sensitivity": "sensitivity",
        "specificity": "specificity",
    }
    return {
        "metric": float(measured.scores(best).mean()),
        **{key: found[name] for name, key in names.items()},
        "mask_dice": float(masks),
    }


def figures(scores, positive, shown, heads):
    """What belongs beside a Dice: {words: number}, nan where it is not defined. All (n,)."""
    both = 0 < positive.sum() < len(positive)
    return {
        "all empty": float((~positive).mean()),
        "Dice of positives": mean_known(scores[positive]),
        "sensitivity": mean_known(shown[positive]),
        "specificity": mean_known(~shown[~positive]),
        "AUC of the image score": float(roc_auc_score(positive, heads)) if both else float("nan"),
    }


def evaluate(config, cases, count):
    """Evaluation of the `count` images of `cases`, a function that yields a MaskCase for each, as often as called."""
    grid = choose_grid(config)
    measured, facts = collect(cases, grid, count)
    units, stack = units_of(facts), None
    if config.stack:
        stack = Stack(config, facts["image_id"].tolist(), units, measured.counts[:, -1] > 0)
        measured.heads = stack.out_of_fold()
    final, fitted = nested(measured, units)
    rules = {key: fitted[unit] for key, unit in zip(facts["image_id"], units)}
    images, true, predicted = judge_images(
        cases, rules, dict(zip(facts["image_id"], measured.heads))
    )
    positive, shown = images["n_true"].to_numpy() > 0, images["n_pred"].to_numpy() > 0
    found = figures(images["score"].to_numpy(), positive, shown, measured.heads)
    return Evaluation(
        mean_known(images["score"]),
        bootstrap_interval(images["score"], images["group"]),
        len(images),
        asdict(final) | {"rule": config.rule},
        lambda found: apply_to(final, found, stack),
        images,
        HOW[config.fit_on],
        true=true,
        predicted=predicted,
        baselines=baselines(measured, images, positive),
        sensitivity=sensitivity(measured, final),
        folds=[
            (int(fold), float(rows["score"].mean()), asdict(rules[rows["image_id"].iloc[0]]))
            for fold, rows in images.groupby("fold")
        ],
        figures=found,
        reliability=(measured.heads, positive),
        sized=(measured.counts[positive, -1], images["score"].to_numpy()[positive]),
        image_score="Dice",
        searched=SEARCHED,
    )


def choose_grid(config):
    """The values to search for the rule of these settings. Raises InputError where that is impossible."""
    if config.fit_on == "testlike":
        raise InputError(
            f"--fit-on testlike is impossible: {config.task} has no images like the test set"
        )
    grid = GRIDS[config.rule]
    grid = replace(grid, published=replace(grid.published, component=config.component))
    return grid.only(grid.published) if config.fit_on == "published" else grid


def collect(cases, grid, count):
    """(Measured, table with image_id, fold, group) of the cases, read once."""
    counts, rows = [], []
    for case in tqdm(cases(), total=count, desc="measure", mininterval=5):
        counts.append(measure(case.found.picture(), case.true(), grid))
        rows.append((case.found.image_id, case.fold, case.group, case.found.head))
    facts = pd.DataFrame(rows, columns=["image_id", "fold", "group", "head"])
    return Measured(grid, np.array(counts), facts["head"].to_numpy()), facts


def units_of(facts):
    """(n,) what is fitted on or held out together: folds, or the halves by patient of a single fold."""
    if facts["fold"].nunique() > 1:
        return facts["fold"].to_numpy()
    return np.unique(facts["group"].astype(str), return_inverse=True)[1] % 2


def judge_images(cases, rules, heads):
    """(table with a row for each image, true Boxes, predicted Boxes); rules and heads {image_id: ...}."""
    rows, true, predicted = [], Boxes(), Boxes()
    for case in cases():
        key, picture, marked = case.found.image_id, case.found.picture(), case.true()
        mask = apply(rules[key], picture, heads[key])
        put_outlines(true, key, marked)
        put_outlines(predicted, key, mask, picture)
        rows.append(
            {
                "image_id": key,
                "fold": case.fold,
                "group": case.group,
                "score": dice(marked, mask),
                "n_true": len(true.corners[key]),
                "n_pred": len(predicted.corners[key]),
                "best_score": float(heads[key]),
                "predicted": int(mask.any()),
            }
        )
    return pd.DataFrame(rows), true, predicted


def put_outlines(boxes, key, mask, picture=None):
    """Each connected part of a mask as a box with its outline and, with a picture, its highest probability."""
    lines = [line[:, 0] for line in find_outlines(mask)]
    corners = np.array([[*line.min(0), *(line.max(0) + 1)] for line in lines], float).reshape(-1, 4)
    scores = (
        None
        if picture is None
        else np.array(
            [
                picture[
                    line[:, 1].min() : line[:, 1].max() + 1, line[:, 0].min() : line[:, 0].max() + 1
                ].max()
                / 255
                for line in lines
            ]
        )
    )
    boxes.put(key, corners, np.zeros(len(lines), int), scores)
    boxes.outlines[key] = lines


def baselines(measured, images, positive):
    """[(name, score, interval)]: no mask at all, then the published thresholds."""
    each = {
        "all images empty": (~positive).astype(float),
        "published thresholds, nothing fitted": measured.scores(measured.grid.published),
    }
    return [
        (name, mean_known(scores), bootstrap_interval(scores, images["group"]))
        for name, scores in each.items()
    ]


def sensitivity(measured, final):
    """{parameter: (values, mean scores, chosen value)} with the other parameters held at the chosen ones."""
    means, index = measured.sums() / max(1, len(measured.counts)), measured.grid.index(final)
    lines = {}
    for axis, name in enumerate(("head", "top", "area", "bottom")):
        values = getattr(measured.grid, name)
        if len(values) > 1:
            lines[name] = (
                list(values),
                means[(*index[:axis], slice(None), *index[axis + 1 :])].tolist(),
                getattr(final, name),
            )
    return lines


def apply_to(rule, found, stack):
    """Run lengths of a test image, decided by the stack's score, or without a stack by the image's own."""
    return encode_runs(
        apply(rule, found.picture(), stack.of_test(found.image_id) if stack else found.head)
    )
