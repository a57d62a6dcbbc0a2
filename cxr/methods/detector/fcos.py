"""FCOS's head: boxes as distances from points (Tian et al. 2019, arXiv 1904.01355).

A point learns the box in whose middle it lies, if the box has the size of the point's level; of
several boxes the smallest. A score is the probability of the class times the centre-ness, which
says how near to the middle of a box the point is, so that points at its edge, which see it badly,
count less.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss

from cxr.data.batch import Batch, TargetMaker
from cxr.geometry.anchors import STD, encode_boxes, flip_index, parse_levels
from cxr.geometry.boxes import centre_size
from cxr.methods.base import Outputs, View
from cxr.methods.detector.heads import Head, ViewOutputs, frame_of
from cxr.methods.detector.losses import class_loss_sums, image_divisors
from cxr.methods.views import ViewFrame
from cxr.networks.detector import DetectorNetwork
from cxr.networks.fcos import Fcos, make_point_squares, point_levels
from cxr.settings import Settings

# Strides; a level has the boxes whose farthest edge is 4 to 8 of its strides away: 64 to 128 pixels
# on level 4. The first and the last level have also those beyond.
NEAREST = 4
FARTHEST = 8
RADIUS = 1.5  # strides; points within this of a box's centre learn it, as in the authors' code


class PointMatcher:
    """Target maker: called with the boxes (n, 4), x1 y1 x2 y2 in network pixels, and classes (n,)
    of an image."""

    def __init__(self, image_size: int, levels: tuple[int, ...]) -> None:
        self.points, _ = centre_size(make_point_squares(image_size, levels))
        level = point_levels(image_size, levels)
        self.stride = 2.0**level
        self.nearest = NEAREST * self.stride
        self.nearest[level == levels[0]] = 0
        self.farthest = FARTHEST * self.stride
        self.farthest[level == levels[-1]] = math.inf

    def __call__(self, boxes: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """{positive: (p,) numbers of the points that learn a box, goal: (p, 4) distances to its
        edges, positive_label: (p,) their classes, ignored: (0,)}."""
        distances = edge_distances(self.points[:, None], boxes)
        farthest_edge = distances.amax(-1)
        centre, size = centre_size(boxes)
        from_centre = (self.points[:, None] - centre).abs().amax(-1)
        candidate = (
            (distances.amin(-1) > 0)
            & (from_centre <= RADIUS * self.stride[:, None])
            & (farthest_edge > self.nearest[:, None])
            & (farthest_edge <= self.farthest[:, None])
        )  # (P, n)
        area = size.prod(-1).expand(len(self.points), -1)
        area = torch.where(candidate, area, math.inf)
        positive = candidate.any(1).nonzero()[:, 0]
        # argmin refuses an image without boxes.
        owner = area[positive].argmin(1) if len(positive) else positive
        return {
            "positive": positive,
            "goal": distances[positive, owner],
            "positive_label": labels[owner],
            "ignored": positive[:0],
        }


class FcosHead(Head):
    network = Fcos

    def make_target(self, settings: Settings) -> TargetMaker:
        levels = parse_levels(settings.method.levels)
        return PointMatcher(settings.training.image_size, levels)

    def loss(
        self, outputs: Outputs, batch: Batch, model: DetectorNetwork, settings: Settings
    ) -> dict[str, Tensor]:
        """Focal loss of the classes, GIoU loss of the boxes, cross-entropy of the centre-ness."""
        image = batch.target_image["positive"]
        goal = batch.target["goal"]
        distances = outputs["distances"]
        centreness = outputs["centreness"]
        if distances.dim() == 3:
            point = batch.target["positive"]
            distances = distances[image, point]
            centreness = centreness[image, point]

        scores = outputs["scores"]
        running = self.running_positives(model, settings)
        divisor = image_divisors(scores, batch, running) * len(scores)
        # The point is the origin.
        box_losses = generalized_box_iou_loss(
            boxes_about(0, distances), boxes_about(0, goal), reduction="none"
        )
        centre_losses = F.binary_cross_entropy_with_logits(
            centreness[:, 0], true_centreness(goal), reduction="none"
        )
        return {
            "class": (class_loss_sums(scores, batch) / divisor).sum(),
            "box": (box_losses / divisor[image]).sum(),
            "centre": (centre_losses / divisor[image]).sum(),
        }

    def scores(self, outputs: Outputs) -> Tensor:
        return outputs["scores"].sigmoid() * outputs["centreness"].sigmoid()

    def deltas(self, outputs: Outputs, model: DetectorNetwork) -> Tensor:
        return encode_distances(outputs["distances"], model.anchors)

    def undo_view(self, outputs: Outputs, view: View, model: DetectorNetwork) -> ViewOutputs:
        frame = frame_of(view, model)
        side = model.image_size
        scores = self.scores(outputs)
        points, _ = centre_size(make_point_squares(frame.canvas, model.levels))
        boxes = boxes_about(points.to(scores.device), outputs["distances"])
        if view.thirds:
            seen_at = find_points(scores, frame, view.thirds, model)
            image = torch.arange(len(scores), device=scores.device)[:, None]
            scores = scores[image, seen_at]
            boxes = boxes[image, seen_at] * (side / frame.content)
        if view.mirrored:
            index = flip_index(side, model.levels, 1).to(scores.device)
            x1, y1, x2, y2 = boxes[:, index].unbind(-1)
            boxes = torch.stack([side - x2, y1, side - x1, y2], -1)
            scores = scores[:, index]
        return ViewOutputs(
            scores=scores,
            category=outputs["category"].softmax(-1),
            deltas_at=PointDeltas(boxes, model.anchors),
        )


@dataclass(frozen=True, eq=False)
class PointDeltas:
    """Boxes (B, P, 4) in network pixels as deltas from anchors (P, 4)."""

    boxes: Tensor
    anchors: Tensor

    def __call__(self, image: Tensor, location: Tensor) -> Tensor:
        return encode_boxes(self.boxes[image, location], self.anchors[location])


def edge_distances(points: Tensor, boxes: Tensor) -> Tensor:
    """Distances (..., 4) from points (..., 2) to the left, upper, right and lower edge of boxes
    (..., 4); negative outside."""
    near = points - boxes[..., :2]
    far = boxes[..., 2:] - points
    return torch.cat([near, far], -1)


def boxes_about(points: Tensor | float, distances: Tensor) -> Tensor:
    """Boxes (..., 4) of distances (..., 4) from points (..., 2): the inverse of
    `edge_distances`."""
    low = points - distances[..., :2]
    high = points + distances[..., 2:]
    return torch.cat([low, high], -1)


def encode_distances(distances: Tensor, squares: Tensor) -> Tensor:
    """Deltas (B, P, 4) of distances (B, P, 4) from the centres of squares (P, 4): `encode_boxes` of
    `boxes_about`, in steps that OpenCV 4 reads from an ONNX file."""
    _, unit = centre_size(squares[None])
    near = distances[..., :2] / unit
    far = distances[..., 2:] / unit
    shift = (far - near) / (2 * STD[0])
    growth = torch.log(near + far) / STD[2]
    return torch.cat([shift, growth], -1)


def true_centreness(distances: Tensor) -> Tensor:
    """1 in the middle of a box, 0 at its edges, (...), of distances (..., 4) from inside."""
    nearer = torch.minimum(distances[..., :2], distances[..., 2:])
    farther = torch.maximum(distances[..., :2], distances[..., 2:])
    return (nearer / farther).prod(-1).sqrt()


def find_points(scores: Tensor, frame: ViewFrame, thirds: int, model: DetectorNetwork) -> Tensor:
    """Where in a scaled view each of the image's points is seen best, (B, P).

    At the same place, on the same level or on the next: of a larger view the coarser one, since
    some of the boxes have outgrown their level. scores: of the view.
    """
    next_step = 1 if thirds > 0 else -1
    same = scaled_points(model.image_size, frame, model.levels, 0).to(scores.device)
    beside = scaled_points(model.image_size, frame, model.levels, next_step).to(scores.device)
    best = scores.amax(-1)
    return torch.where(best[:, beside] > best[:, same], beside, same)


def scaled_points(
    image_size: int, frame: ViewFrame, levels: tuple[int, ...], level_step: int
) -> Tensor:
    """Number (P,), among the points of a view's canvas, of the one that is nearest to each of the
    image's points, `level_step` levels higher or at the end of the pyramid."""
    centre, _ = centre_size(make_point_squares(image_size, levels))
    level = point_levels(image_size, levels) + level_step
    level = level.clamp(levels[0], levels[-1])
    cells = frame.canvas // 2**level
    cell = (centre * (frame.content / image_size) / 2 ** level[:, None]).long()
    column = torch.minimum(cell[:, 0], cells - 1)
    row = torch.minimum(cell[:, 1], cells - 1)
    counts = torch.tensor([(frame.canvas // 2**each) ** 2 for each in levels])
    level_starts = counts.cumsum(0) - counts
    return level_starts[level - levels[0]] + row * cells + column
