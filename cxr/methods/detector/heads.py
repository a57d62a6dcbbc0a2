"""A head: how a detector's network is taught boxes and how they are read from it.

RetinaNet codes boxes against anchors, FCOS against points; here both are *locations*, of which an
image has A, and nothing outside this folder knows which it is. What differs is the network, the
target, the loss, and how outputs of a view are brought back to the unchanged image; merging over
models and views, and what is kept of an image, are the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_iou

from cxr.data.batch import Batch, TargetMaker
from cxr.geometry.anchors import decode_boxes
from cxr.geometry.boxes import centre_size
from cxr.geometry.detections import Detections
from cxr.images.header_numbers import HEADER_NUMBERS
from cxr.methods.base import ImageFacts, Labels, Outputs, View
from cxr.methods.detector.records import Candidates, QuickDetections
from cxr.methods.views import ViewFrame, view_frame
from cxr.networks.detector import DetectorNetwork
from cxr.networks.network import STRIDE
from cxr.settings import Settings

QUICK_FLOOR = 0.005  # score of a location for the figures after an epoch
QUICK_CANDIDATES = 100  # of an image and class
# A network and view votes for a box where it has one of its own with a higher score than this (the
# 3rd place's thresholds were 0.04 and 0.05) ...
VOTE_SCORE = 0.05
VOTE_IOU = 0.4  # ... and this overlap, from which on boxes are views of one finding
SMALLEST_VIEW = 192  # pixels that the network's head for the whole image needs

# Deltas (n, 4) of locations (n,) of images (n,), both int on the CPU.
DeltasAt = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class ViewOutputs:
    """What a network says of a view, at the locations of the unchanged images.

    scores: (B, A, K) probabilities. category: (B, C) probabilities of the image classes. deltas_at:
    boxes as deltas from the network's anchors, asked for only where they are wanted. fold: of the
    network.
    """

    scores: Tensor
    category: Tensor
    deltas_at: DeltasAt
    fold: int = 0


@dataclass(frozen=True, eq=False)
class MergedLocations:
    """The best locations of one image over N models and views, by descending score.

    score: (n,) mean probability. label: (n,) class. location: (n,) its number. deltas: (N, n, 4) of
    all models and views, of whose folds are `folds`. category: (C,) mean probabilities of the image
    classes. voter_scores: (N, n), what each model and view says of these locations.
    """

    score: Tensor
    label: Tensor
    location: Tensor
    deltas: Tensor
    category: Tensor
    folds: tuple[int, ...] = ()
    voter_scores: Tensor | None = None


class BestPairs(NamedTuple):
    """Pairs of a location and a class, each (n,), by descending score."""

    score: Tensor
    location: Tensor
    label: Tensor


class ExportedOutputs(NamedTuple):
    """What a file of step 06 puts out for each network: scores (B, A, K) and category (B, C),
    probabilities, and deltas (B, A, 4) from `DetectorNetwork.anchors`."""

    scores: Tensor
    deltas: Tensor
    category: Tensor


class Head(ABC):
    """Base of RetinaNetHead and FcosHead. `network` has the same head_name as its key in HEADS."""

    network: ClassVar[type[DetectorNetwork]]

    def build_model(
        self, settings: Settings, labels: Labels, load_weights: bool
    ) -> DetectorNetwork:
        training = settings.training
        method = settings.method
        return self.network(
            encoder=training.encoder,
            weights=training.weights,
            levels=method.levels,
            channels=method.channels,
            head_convs=method.head_convs,
            head_norm=method.head_norm,
            dropout=method.dropout,
            box_classes=len(labels.classes),
            image_classes=len(labels.image_classes),
            image_size=training.image_size,
            load_weights=load_weights,
            header_numbers=HEADER_NUMBERS if method.header_inputs else 0,
        )

    @abstractmethod
    def make_target(self, settings: Settings) -> TargetMaker:
        """Must give `positive` (p,), the numbers of locations where a box is to be learned."""

    def network_inputs(self, batch: Batch, settings: Settings) -> tuple[Any, ...]:
        """Image and location (p,) where a box is to be learned, and the headers where they count.

        A compiled network is not told the places, since it would be compiled anew for every batch.
        """
        selected = None
        if not settings.machine.compile:
            selected = (batch.target_image["positive"], batch.target["positive"])
        if batch.headers is not None:
            return selected, batch.headers
        return () if selected is None else (selected,)

    @abstractmethod
    def loss(
        self, outputs: Outputs, batch: Batch, model: DetectorNetwork, settings: Settings
    ) -> dict[str, Tensor]:
        """Terms of the locations, {'class', 'box', ...}, before weights."""

    def running_positives(self, model: DetectorNetwork, settings: Settings) -> Tensor | None:
        """What divides the losses: see `image_divisors`; in validation always each image's own
        positives, whatever the batches are."""
        if model.training and settings.method.divide_by == "running":
            return model.positives
        return None

    def raw_outputs(self, model: DetectorNetwork, images: Tensor) -> Outputs:
        return model(images)

    @abstractmethod
    def scores(self, outputs: Outputs) -> Tensor:
        """Probabilities (B, A, K) of the outputs of `forward` or `raw_outputs`."""

    @abstractmethod
    def deltas(self, outputs: Outputs, model: DetectorNetwork) -> Tensor:
        """Boxes (B, A, 4) of the outputs of `forward`, as deltas from the network's anchors."""

    @abstractmethod
    def undo_view(self, outputs: Outputs, view: View, model: DetectorNetwork) -> ViewOutputs: ...

    def export_outputs(self, model: DetectorNetwork, images: Tensor) -> ExportedOutputs:
        outputs = model(images)
        return ExportedOutputs(
            self.scores(outputs), self.deltas(outputs, model), outputs["category"].softmax(-1)
        )

    def merge(self, outputs: Iterable[ViewOutputs], settings: Settings) -> list[MergedLocations]:
        """The best locations of each image, by the mean of the probabilities.

        Only of these are all deltas kept, for `make_candidates`.
        """
        views = list(outputs)
        scores_of_views = torch.stack([view.scores for view in views])
        scores = scores_of_views.mean(0)
        category = torch.stack([view.category for view in views]).mean(0)
        method = settings.method
        best = []
        for of_image in scores:
            best.append(best_pairs(of_image, method.candidates, method.candidate_floor))

        counts = [len(pairs.location) for pairs in best]
        image = torch.arange(len(best)).repeat_interleave(torch.tensor(counts))
        location = torch.cat([pairs.location for pairs in best]).cpu()
        deltas = torch.stack([view.deltas_at(image, location) for view in views])
        deltas_by_image = deltas.split(counts, dim=1)

        merged = []
        for i, pairs in enumerate(best):
            merged.append(
                MergedLocations(
                    score=pairs.score,
                    label=pairs.label,
                    location=pairs.location,
                    deltas=deltas_by_image[i],
                    category=category[i],
                    folds=tuple(view.fold for view in views),
                    voter_scores=scores_of_views[:, i, pairs.location, pairs.label],
                )
            )
        return merged

    def make_candidates(
        self,
        merged: MergedLocations,
        image: ImageFacts,
        model: DetectorNetwork,
        size_votes: str = "fold",
    ) -> Candidates:
        """What step 05 needs of an image, in its original pixels.

        dx, dy are averaged; of dw, dh the 20th and 80th percentile over models and views are kept
        (the 2nd place's merge: a size below most votes imitates the smaller boxes of the test
        labels). size_votes: see `size_percentiles`.
        """
        deltas = merged.deltas
        if deltas.numel():
            shift = deltas[..., :2].mean(0)
            low_size, high_size = size_percentiles(deltas[..., 2:], merged.folds, size_votes)
            low = torch.cat([shift, low_size], -1)
            high = torch.cat([shift, high_size], -1)
        else:  # torch.quantile refuses the empty tensor of an image without any candidate
            low = deltas[0]
            high = deltas[0]
        anchors = model.anchors[merged.location]
        centre, size20 = centre_size(decode_boxes(low, anchors))
        _, size80 = centre_size(decode_boxes(high, anchors))
        scale = np.array([image.width, image.height]) / model.image_size
        return Candidates(
            image_id=image.image_id,
            width=image.width,
            height=image.height,
            category=merged.category.cpu().numpy(),
            centre=to_original(centre, scale),
            size20=to_original(size20, scale),
            size80=to_original(size80, scale),
            score=merged.score.cpu().numpy(),
            label=merged.label.cpu().numpy().astype(np.int16),
            votes=vote_shares(merged, anchors).cpu().numpy(),
        )

    def quick_predictions(
        self, outputs: Outputs, batch: Batch, model: DetectorNetwork, settings: Settings
    ) -> dict[int, QuickDetections]:
        """{row: detections in network pixels}: plain decoding and non-maximum suppression."""
        side = batch.images.shape[-1]
        predictions = {}
        for i, row in enumerate(batch.rows.tolist()):
            of_image = {name: output[i : i + 1] for name, output in outputs.items()}
            pairs = best_pairs(self.scores(of_image)[0], QUICK_CANDIDATES, QUICK_FLOOR)
            deltas = self.deltas(of_image, model)[0, pairs.location]
            boxes = decode_boxes(deltas, model.anchors[pairs.location]).clamp(0, side)
            keep = batched_nms(boxes, pairs.score, pairs.label, settings.method.nms_iou)
            detections = Detections(
                boxes[keep].cpu().numpy(),
                pairs.score[keep].cpu().numpy(),
                pairs.label[keep].cpu().numpy(),
            )
            predictions[row] = QuickDetections(detections, side)
        return predictions


def vote_shares(merged: MergedLocations, anchors: Tensor) -> Tensor:
    """Share (n,) of the models and views that have a box of their own where a merged one is.

    anchors: (n, 4) of the locations. A single model and view has nobody to agree with: 1.
    """
    voters = len(merged.deltas)
    if voters == 1 or merged.voter_scores is None or not len(merged.score):
        return torch.ones_like(merged.score)
    boxes = decode_boxes(merged.deltas.mean(0), anchors)
    votes = torch.zeros_like(merged.score)
    for deltas, scores in zip(merged.deltas, merged.voter_scores, strict=True):
        firm = scores > VOTE_SCORE
        overlaps = box_iou(boxes, decode_boxes(deltas[firm], anchors[firm]))
        is_same_class = merged.label[:, None] == merged.label[firm]
        votes += ((overlaps > VOTE_IOU) & is_same_class).any(1)
    return votes / voters


def size_percentiles(
    growth: Tensor, folds: Sequence[int], size_votes: str
) -> tuple[Tensor, Tensor]:
    """20th and 80th percentile (n, 2) of the votes (N, n, 2) of N models and views for sizes.

    size_votes "fold": within each fold, then averaged over the folds. The shrink is fitted where
    one fold votes, and networks of one fold agree more than those of four, so it means the same
    for the test images only this way. "all": over all votes, as published.
    """
    groups = [growth]
    if size_votes == "fold" and len(folds) == len(growth):
        numbers = torch.tensor(folds, device=growth.device)
        groups = [growth[numbers == fold] for fold in dict.fromkeys(folds)]
    low = torch.stack([votes.quantile(0.2, dim=0) for votes in groups]).mean(0)
    high = torch.stack([votes.quantile(0.8, dim=0) for votes in groups]).mean(0)
    return low, high


def best_pairs(scores: Tensor, count: int, floor: float) -> BestPairs:
    """The `count` best locations of each class above the floor, of scores (A, K).

    Classes are looked at apart, since one location may show two findings, and a common class would
    else crowd out a rare one.
    """
    score, location = scores.topk(min(count, len(scores)), dim=0)
    label = torch.arange(scores.shape[1], device=scores.device).expand_as(location)
    above = score > floor
    score = score[above]
    order = score.argsort(descending=True, stable=True)
    return BestPairs(score[order], location[above][order], label[above][order])


def to_original(lengths: Tensor, scale: np.ndarray) -> np.ndarray:
    """Lengths (n, 2) in network pixels in original ones, float32; scale (2,) for x and y."""
    return (lengths.cpu().numpy() * scale).astype(np.float32)


def frame_of(view: View, model: DetectorNetwork) -> ViewFrame:
    """The frame of a view of a detector's images."""
    stride = max(2 ** model.levels[-1], STRIDE)
    return view_frame(model.image_size, view, stride, SMALLEST_VIEW)
