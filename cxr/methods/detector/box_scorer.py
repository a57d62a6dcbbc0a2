"""What the scorers of boxes share: cases, refusals, and the rule as exported files hold it."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from cxr.geometry.detections import TrueBoxes
from cxr.images.header import to_number
from cxr.methods.base import Labels, Scorer
from cxr.methods.detector.records import BoxCase, Candidates
from cxr.settings import Settings, flag
from cxr.system.errors import InputError


def tried_overlaps(settings: Settings) -> list[float]:
    """The overlaps of suppression that are searched: --try-nms-iou, or the one of --nms-iou."""
    method = settings.method
    return tried_values("try_nms_iou", method.try_nms_iou, 0, 1) or [method.nms_iou]


def tried_values(name: str, words: Sequence[str], lowest: float, highest: float) -> list[float]:
    """The numbers of a setting of this name that lists values to search.

    Raises InputError for what is no number in these bounds.
    """
    values = []
    for text in words:
        number = to_number(text)
        if number is None or not lowest <= number <= highest:
            raise InputError(
                f"{flag(name)} takes numbers between {lowest} and {highest}, not {text}"
            )
        values.append(number)
    return values


class BoxScorer(Scorer):
    """Base of the scorers of a detector."""

    def make_case(self, prediction: Candidates, row: pd.Series, fold: int) -> BoxCase:
        boxes = np.array(json.loads(row["boxes"]), float).reshape(-1, 4)
        labels = np.array(json.loads(row["box_labels"]), int)
        return BoxCase(
            candidates=prediction,
            true=TrueBoxes(boxes, labels),
            fold=fold,
            test_like=bool(row.get("test_like", False)),
            group=str(row["group"]),
        )

    def check_fit_on(self, settings: Settings) -> None:
        """Raises InputError for a --fit-on that makes no sense here."""
        fit_on = settings.judging.fit_on
        if fit_on not in self.fit_choices:
            raise InputError(
                f"--fit-on {fit_on} is impossible: {settings.place.task} {self.fit_refusal}"
            )

    @abstractmethod
    def export_rule(
        self, params: Mapping[str, Any], settings: Settings, labels: Labels
    ) -> dict[str, Any]:
        """The content of params.json as edge_predict.py reads it: thresholds in probabilities, one
        for all box classes or one for each; gate_weights, empty where there is no gate."""

    @abstractmethod
    def score_exported(
        self,
        truth: Mapping[str, TrueBoxes],
        detections: Mapping[str, Mapping[str, Any]],
        labels: Labels,
    ) -> float | None:
        """Score of what edge_predict.Predictor gives, {image_id: its dictionary}.

        None where the score is not defined.
        """
