"""Detector: boxes, by RetinaNet or FCOS; what all heads share in training and prediction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pandas as pd
from torch import Tensor

from cxr.data.augmentation import BOX_AUGMENTATIONS
from cxr.data.batch import Batch, SampleContent, TargetMaker
from cxr.data.tables import keep_classes
from cxr.geometry.anchors import parse_levels
from cxr.geometry.detections import Detections
from cxr.methods.base import ImageFacts, KnownFindings, Labels, Method, Outputs, View
from cxr.methods.detector.blending import fuse_candidates
from cxr.methods.detector.export import BoxExport
from cxr.methods.detector.fcos import FcosHead
from cxr.methods.detector.heads import Head, MergedLocations, ViewOutputs, frame_of
from cxr.methods.detector.losses import global_loss
from cxr.methods.detector.records import (
    Candidates,
    Params,
    QuickDetections,
    merged_detections,
)
from cxr.methods.detector.retinanet import RetinaNetHead
from cxr.methods.pseudo_labels import add_boxes
from cxr.methods.views import show_view
from cxr.metrics.doubt import Doubt, largest_doubt
from cxr.metrics.matching import scores_at
from cxr.networks.detector import DetectorNetwork, check_levels
from cxr.networks.heads import check_channels
from cxr.networks.network import Network
from cxr.settings import Settings
from cxr.system.errors import InputError

HEADS: dict[str, Head] = {"retinanet": RetinaNetHead(), "fcos": FcosHead()}


class Detector(Method):
    """Boxes of findings.

    It takes no crops of the lungs: they would cut findings, since where a lung is white, no network
    sees it (3 of 10 boxes of 600 RSNA images lost more than a tenth of their area).
    """

    name = "detector"
    prediction_class = Candidates
    view_sets = ("none", "flip", "flip+scale")
    augmentations = BOX_AUGMENTATIONS
    plateau_term = "box"  # the validation loss that the paper's schedule watches
    export = BoxExport(HEADS)

    def check(self, settings: Settings, labels: Labels) -> None:
        method = settings.method
        image_size = settings.training.image_size
        if not 0 <= method.classes <= len(labels.classes):
            raise InputError(
                f"--classes {method.classes} does not fit {settings.place.task}: choose 1 to "
                f"{len(labels.classes)}, or 0 for all"
            )
        levels = parse_levels(method.levels)
        check_levels(image_size, levels)
        if method.header_inputs and not method.global_weight:
            raise InputError(
                "--header-inputs go to the head for the whole image, which --global-weight 0 does "
                "not train: leave one out"
            )
        check_channels(method.channels, method.head_norm)

    def used_labels(self, settings: Settings, labels: Labels) -> Labels:
        count = settings.method.classes or len(labels.classes)
        return Labels(labels.classes[:count], labels.image_classes)

    def select_rows(self, table: pd.DataFrame, settings: Settings, labels: Labels) -> pd.DataFrame:
        """The table with the boxes of the used classes only."""
        del labels
        if not settings.method.classes:
            return table
        return keep_classes(table, settings.method.classes)

    def sample_content(self, settings: Settings) -> SampleContent:
        return SampleContent(header=settings.method.header_inputs)

    def make_target(self, settings: Settings) -> TargetMaker:
        return head_of(settings).make_target(settings)

    def learns_image_classes(self, settings: Settings) -> bool:
        return settings.method.global_weight > 0

    def shows_finding(self, table: pd.DataFrame) -> np.ndarray:
        return (table["n_boxes"] > 0).to_numpy()

    def add_pseudo_labels(
        self,
        table: pd.DataFrame,
        predictions: Iterable[Candidates],
        weak: KnownFindings,
        settings: Settings,
        labels: Labels,
    ) -> pd.DataFrame:
        method = settings.method
        wanted = Params(nms_iou=method.nms_iou, score_floor=method.pseudo_score / 2)
        found = ((each, merged_detections(each, wanted)) for each in predictions)
        asks_class = self.learns_image_classes(settings)
        return add_boxes(table, found, weak, labels.classes, method.pseudo_score, asks_class)

    def build_model(self, settings: Settings, labels: Labels, load_weights: bool = True) -> Network:
        return head_of(settings).build_model(settings, labels, load_weights)

    def network_inputs(self, batch: Batch, settings: Settings) -> tuple[Any, ...]:
        return head_of(settings).network_inputs(batch, settings)

    def add_headers(self, outputs: Outputs, headers: Tensor | None, model: Network) -> Outputs:
        if headers is None:
            return outputs
        return as_detector(model).add_headers(outputs, headers)

    def loss(
        self, outputs: Outputs, batch: Batch, model: Network, settings: Settings
    ) -> dict[str, Tensor]:
        method = settings.method
        terms = head_of(settings).loss(outputs, batch, as_detector(model), settings)
        terms["class"] = method.class_weight * terms["class"]
        terms["global"] = method.global_weight * global_loss(
            outputs["category"], batch.image_labels
        )
        return terms

    def quick_predictions(
        self, outputs: Outputs, batch: Batch, model: Network, settings: Settings
    ) -> dict[int, QuickDetections]:
        return head_of(settings).quick_predictions(outputs, batch, as_detector(model), settings)

    def apply_view(self, images: Tensor, view: View, model: Network) -> Tensor:
        return show_view(images, view, frame_of(view, as_detector(model)))

    def raw_outputs(self, model: Network, images: Tensor) -> Outputs:
        network = as_detector(model)
        return HEADS[network.head_name].raw_outputs(network, images)

    def undo_view(self, outputs: Outputs, view: View, model: Network) -> ViewOutputs:
        network = as_detector(model)
        undone = HEADS[network.head_name].undo_view(outputs, view, network)
        return replace(undone, fold=network.fold)

    def merge(self, outputs: Iterable[ViewOutputs], settings: Settings) -> list[MergedLocations]:
        return head_of(settings).merge(outputs, settings)

    def kept_settings(self, settings: Settings) -> dict[str, Any]:
        method = settings.method
        return {
            "candidates": method.candidates,
            "candidate_floor": method.candidate_floor,
            "size_votes": method.size_votes,
        }

    def kept_boxes(self, prediction: Candidates) -> np.ndarray:
        half = prediction.size80 / 2
        return np.concatenate([prediction.centre - half, prediction.centre + half], axis=1)

    def doubt(
        self,
        merged: Candidates,
        by_fold: Sequence[Candidates],
        detect: Callable[[Candidates], Detections],
    ) -> Doubt:
        """Of the most doubtful box: what its score is, and what each fold says of its place."""
        boxes = detect(merged)
        answers = [scores_at(boxes, detect(each)) for each in by_fold]
        return largest_doubt(boxes.scores, np.array(answers))

    def describe_prediction(self, prediction: Candidates) -> str:
        scores = ", ".join(f"{score:.3f}" for score in prediction.score[:10])
        count = len(prediction.score)
        return f"{count} candidates, sizes of the 80th percentile; best scores: {scores}"

    def to_prediction(
        self, merged: MergedLocations, image: ImageFacts, model: Network, settings: Settings
    ) -> Candidates:
        votes = settings.method.size_votes
        return head_of(settings).make_candidates(merged, image, as_detector(model), votes)

    def mix(
        self, predictions: Sequence[Candidates], weights: np.ndarray, settings: Settings
    ) -> Candidates:
        """Weighted boxes fusion of what is left after each run's own suppression."""
        return fuse_candidates(predictions, weights, settings.method.nms_iou)

    def from_answer(self, answer: Detections, image: ImageFacts, labels: Labels) -> Candidates:
        """answer: boxes, whose votes for a size agree; the image's class is not known.

        Boxes of classes that are not used are left out.
        """
        best = answer.take(answer.labels < len(labels.classes)).sorted()
        size = best.boxes[:, 2:] - best.boxes[:, :2]
        return Candidates(
            image_id=image.image_id,
            width=image.width,
            height=image.height,
            category=np.full(len(labels.image_classes), np.nan),
            centre=(best.boxes[:, :2] + best.boxes[:, 2:]) / 2,
            size20=size,
            size80=size,
            score=best.scores,
            label=best.labels.astype(np.int16),
        )

    def quick_prediction(
        self, prediction: Candidates, row: pd.Series, settings: Settings
    ) -> QuickDetections:
        del row
        side = settings.training.image_size
        params = Params(nms_iou=settings.method.nms_iou, score_floor=0.0)
        detections = merged_detections(prediction, params)
        scale = side / np.array([prediction.width, prediction.height] * 2)
        return QuickDetections(replace(detections, boxes=detections.boxes * scale), side)


def head_of(settings: Settings) -> Head:
    """The head that --head names."""
    return HEADS[settings.method.head]


def as_detector(model: Network) -> DetectorNetwork:
    """The network as one that a head has built."""
    return cast(DetectorNetwork, model)
