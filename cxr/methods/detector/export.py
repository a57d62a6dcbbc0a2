"""A detector as a file: probabilities and deltas of all locations, and the image's classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cxr.data.dataset import boxes_in_frame
from cxr.geometry.anchors import decode_boxes
from cxr.geometry.frames import Frame
from cxr.methods.detector.box_scorer import BoxScorer
from cxr.methods.detector.heads import ExportedOutputs, Head, ViewOutputs
from cxr.methods.export import (
    Difference,
    ExportPart,
    ScorePairs,
    match_threshold,
    scores_above_floor,
)
from cxr.networks.detector import DetectorNetwork
from cxr.networks.network import Network
from cxr.settings import Settings
from cxr.system.errors import InputError

if TYPE_CHECKING:
    from cxr.methods.base import Labels, Scorer


class BoxExport(ExportPart):
    """heads: all there are, by the name that a network has."""

    kind = "boxes"
    outputs = ExportedOutputs._fields

    def __init__(self, heads: Mapping[str, Head]) -> None:
        self.heads = heads

    def network_outputs(self, network: Network, images: Tensor) -> tuple[Tensor, ...]:
        detector = cast(DetectorNetwork, network)
        return self.heads[detector.head_name].export_outputs(detector, images)

    def describe(
        self,
        network: Network,
        params: Mapping[str, Any],
        settings: Settings,
        labels: Labels,
        scorer: Scorer,
    ) -> dict[str, Any]:
        refuse_inputs(settings)
        detector = cast(DetectorNetwork, network)
        return {
            "size_votes": settings.method.size_votes,
            "head": detector.head_name,
            "levels": list(detector.levels),  # as JSON gives them back
            "floor": settings.method.candidate_floor,
            "most": settings.method.candidates,
            "rule": cast(BoxScorer, scorer).export_rule(params, settings, labels),
        }

    def compare(
        self,
        of_file: Any,
        of_views: Sequence[ViewOutputs],
        network: Network,
        settings: Settings,
    ) -> Difference:
        """Of box corners of the anchors above the floor, and of all probabilities."""
        scores = torch.stack([view.scores[0] for view in of_views]).mean(0)
        category = torch.stack([view.category[0] for view in of_views]).mean(0)
        difference = Difference.of([(of_file.scores, scores), (of_file.category, category)])

        anchors = cast(DetectorNetwork, network).anchors
        shown = (scores.amax(1) > settings.method.candidate_floor).nonzero()[:, 0]
        pixels = 0.0
        if len(shown):
            for deltas, view in zip(of_file.deltas, of_views, strict=True):
                boxes = decode_boxes(torch.from_numpy(deltas)[shown], anchors[shown])
                own_boxes = decode_boxes(view.deltas_at(0 * shown, shown), anchors[shown])
                pixels = max(pixels, (boxes - own_boxes).abs().amax().item())
        return replace(difference, pixels=pixels)

    def compared_scores(self, fp32: Any, int8: Any) -> ScorePairs:
        """Of all pairs of a location and a class."""
        return scores_above_floor(fp32.scores, int8.scores)

    def keep(self, row: pd.Series, answer: Mapping[str, Any]) -> Mapping[str, np.ndarray]:
        del row
        return answer

    def thresholds_of(self, rule: Mapping[str, Any]) -> list[float]:
        """One for each class."""
        return list(rule["thresholds"])

    def match_thresholds(
        self,
        fp32: Sequence[Mapping[str, np.ndarray]],
        int8: Sequence[Mapping[str, np.ndarray]],
        rule: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Class by class; those of few boxes stay as they are."""
        thresholds = []
        for label, threshold in enumerate(rule["thresholds"]):
            count = int((scores_of_class(fp32, label) > threshold).sum())
            thresholds.append(match_threshold(count, scores_of_class(int8, label), threshold))
        return {**rule, "thresholds": thresholds}

    def keep_by(
        self, answer: Mapping[str, np.ndarray], rule: Mapping[str, Any]
    ) -> dict[str, np.ndarray]:
        scores = answer["scores"]
        kept = scores > np.array(rule["thresholds"])[answer["labels"]]
        if rule["half"]:  # of the best one, before the gate, which takes a root
            share = 0.5**0.5 if rule["gate_weights"] else 0.5
            kept &= scores >= share * scores[:1]
        return {**answer, "kept": kept}

    def score(
        self,
        kept: Sequence[Mapping[str, np.ndarray]],
        table: pd.DataFrame,
        settings: Settings,
        labels: Labels,
        scorer: Scorer,
    ) -> float | None:
        del settings
        truth = {}
        detections = {}
        for (_, row), answer in zip(table.iterrows(), kept, strict=True):
            original = Frame("original", int(row["width"]), int(row["height"]))
            truth[row["image_id"]] = boxes_in_frame(row, original)
            detections[row["image_id"]] = answer
        return cast(BoxScorer, scorer).score_exported(truth, detections, labels)


def scores_of_class(answers: Sequence[Mapping[str, np.ndarray]], label: int) -> np.ndarray:
    """(n,) of the boxes of a class in all images, above the thresholds or not."""
    scores = [answer["scores"][answer["labels"] == label] for answer in answers]
    return np.concatenate(scores)


def refuse_inputs(settings: Settings) -> None:
    """Raises InputError for what a network sees and `edge_predict.py` cannot make."""
    if settings.method.clahe:
        raise InputError(
            "a run with --clahe cannot be a file of step 06, since edge_predict.py equalises no "
            "pictures: write it with --zip, or train a run without --clahe"
        )
    if settings.method.header_inputs:
        raise InputError(
            "a run with --header-inputs cannot be a file of step 06, since edge_predict.py tells "
            "the network no header: write it with --zip, or train a run without --header-inputs"
        )
