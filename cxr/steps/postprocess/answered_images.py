"""The test images in the report: what was predicted, and how good it is where that is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from cxr.methods.evaluation import Boxes
from cxr.plots.gallery import CaseGroup
from cxr.plots.page import count_of
from cxr.steps.postprocess.cases import EXAMPLES, GalleryInput, readable_cases, with_columns
from cxr.steps.postprocess.figures import recall_figures

CAPTION = "Spread evenly over the ids of the test images in which something is marked or predicted."


@dataclass(frozen=True)
class AnsweredImages:
    """The test images that were answered.

    table: image_id, width and height (original pixels), png (the stored picture), and where known
        age, sex, view.
    true: what is marked, in original pixels; empty where the test images are not labelled.
    predicted: what was answered.
    scores: the entry `test` of results.json; empty where nothing is known.
    fold: the one whose networks alone predicted them; None: those of all folds together.
    """

    table: pd.DataFrame
    true: Boxes = field(default_factory=Boxes)
    predicted: Boxes = field(default_factory=Boxes)
    scores: Mapping[str, Any] = field(default_factory=dict)
    fold: int | None = None

    @property
    def networks(self) -> str:
        """Which networks predicted them."""
        if self.fold is None:
            return "the networks of all folds together"
        return f"the networks of fold {self.fold} alone"

    @property
    def labelled(self) -> bool:
        return bool(self.true.corners)


class MeasuredTwice(NamedTuple):
    """One measure of the out-of-fold images and of the test images."""

    name: str
    out_of_fold: float | None
    test: float | None


def compare_with_test(
    scores: Mapping[str, Any],
    score_name: str,
    out_of_fold_score: float,
    out_of_fold_recalls: Mapping[str, float | None],
    out_of_fold_precisions: Mapping[str, float],
) -> list[MeasuredTwice]:
    """A row for the score, for each recall and for each class.

    scores: the entry `test` of results.json. out_of_fold_recalls: {words: number} as
    `recall_figures` has them. out_of_fold_precisions: {class: average precision}.
    """
    rows = [MeasuredTwice(score_name, out_of_fold_score, scores["score"])]
    for name, value in recall_figures(scores).items():
        rows.append(MeasuredTwice(name, out_of_fold_recalls.get(name), value))
    for name, value in scores.get("ap", {}).items():
        rows.append(MeasuredTwice(f"AP of {name}", out_of_fold_precisions.get(name), value))
    return rows


def answered_rows(answered: AnsweredImages, finding: tuple[str, str]) -> pd.DataFrame:
    """The table with the columns of judged images: numbers of marks, no score, a caption."""
    rows = with_columns(answered.table.sort_values("image_id"), ("age", "sex", "view"))
    n_true = [len(answered.true.corners.get(image_id, ())) for image_id in rows["image_id"]]
    n_pred = [len(answered.predicted.corners.get(image_id, ())) for image_id in rows["image_id"]]
    captions = [f"{count_of(count, finding)} predicted" for count in n_pred]
    if answered.labelled:
        for number, marked in enumerate(n_true):
            captions[number] = f"{count_of(marked, finding)} marked, {n_pred[number]} predicted"
    return rows.assign(n_true=n_true, n_pred=n_pred, score=np.nan, caption=captions)


def pick_answered_cases(answered: AnsweredImages, source: GalleryInput) -> list[CaseGroup]:
    """One group of test images with a box, none where there is no such image or picture.

    source: a gallery whose names and colours are taken over.
    """
    rows = answered_rows(answered, source.finding)
    with_box = rows[(rows["n_true"] > 0) | (rows["n_pred"] > 0)]
    if with_box.empty:
        return []
    most = 2 * EXAMPLES
    places = np.linspace(0, len(with_box) - 1, min(most, len(with_box))).round().astype(int)
    chosen = with_box.iloc[places]
    test_source = GalleryInput(
        chosen,
        answered.true,
        answered.predicted,
        source.box_classes,
        source.image_score,
        source.finding,
    )
    cases = list(readable_cases(chosen, test_source, most))
    if not cases:
        return []
    return [CaseGroup("Test images with a finding", CAPTION, len(with_box), cases)]
