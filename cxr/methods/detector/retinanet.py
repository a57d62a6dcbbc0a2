"""RetinaNet's head: boxes as deltas from anchors."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cxr.data.batch import Batch, TargetMaker
from cxr.geometry.anchors import (
    decode_boxes,
    encode_boxes,
    flip_index,
    make_anchors,
    parse_levels,
    scale_index,
)
from cxr.methods.base import Outputs, View
from cxr.methods.detector.heads import Head, ViewOutputs, frame_of
from cxr.methods.detector.losses import PUBLISHED, LossKind, detection_loss
from cxr.methods.detector.matching import Matcher
from cxr.methods.views import ViewFrame
from cxr.networks.detector import DetectorNetwork
from cxr.networks.retinanet import RetinaNet
from cxr.settings import Settings


class RetinaNetHead(Head):
    network = RetinaNet

    def make_target(self, settings: Settings) -> TargetMaker:
        levels = parse_levels(settings.method.levels)
        return Matcher(make_anchors(settings.training.image_size, levels))

    def loss(
        self, outputs: Outputs, batch: Batch, model: DetectorNetwork, settings: Settings
    ) -> dict[str, Tensor]:
        running = self.running_positives(model, settings)
        kind = LossKind(settings.method.box_loss, settings.method.score_target)
        if kind != PUBLISHED:
            kind = replace(kind, anchors=model.anchors)
        return detection_loss(outputs["scores"], outputs["deltas"], batch, running, kind)

    def raw_outputs(self, model: DetectorNetwork, images: Tensor) -> Outputs:
        """The pyramid's maps in place of the deltas, few of which will be wanted."""
        outputs, maps = model.forward_scores(images)
        return outputs | {"maps": maps}

    def scores(self, outputs: Outputs) -> Tensor:
        return outputs["scores"].sigmoid()

    def deltas(self, outputs: Outputs, model: DetectorNetwork) -> Tensor:
        del model
        return outputs["deltas"]

    def undo_view(self, outputs: Outputs, view: View, model: DetectorNetwork) -> ViewOutputs:
        frame = frame_of(view, model)
        # Of each anchor the one that stands for it in the view.
        seen_at = torch.arange(len(model.anchors))
        if view.thirds:
            seen_at = scale_index(model.image_size, *frame, model.levels, view.thirds)
        if view.mirrored:
            seen_at = seen_at[flip_index(model.image_size, model.levels)]
        return ViewOutputs(
            scores=self.scores(outputs)[:, seen_at.to(outputs["scores"].device)],
            category=outputs["category"].softmax(-1),
            deltas_at=ViewDeltas(outputs, view, model, frame, seen_at),
        )


@dataclass(frozen=True, eq=False)
class ViewDeltas:
    """Deltas of a view as those of the unchanged image's anchors.

    seen_at: (A,) the anchor of the view that stands for each of the image.
    """

    outputs: Outputs
    view: View
    model: DetectorNetwork
    frame: ViewFrame
    seen_at: Tensor

    def __call__(self, image: Tensor, location: Tensor) -> Tensor:
        model = self.model
        seen = self.seen_at[location]
        if "maps" in self.outputs:
            deltas = model.box_outputs_at(self.outputs["maps"], image, seen)
        else:
            deltas = self.outputs["deltas"][image, seen]
        if self.view.thirds:
            # As deltas from the image's own anchors, or from those of the mirrored image.
            anchors = make_anchors(self.frame.canvas, model.levels)[seen]
            boxes = decode_boxes(deltas, anchors.to(deltas.device))
            boxes = boxes * (model.image_size / self.frame.content)
            if self.view.mirrored:
                location = flip_index(model.image_size, model.levels)[location]
            deltas = encode_boxes(boxes, model.anchors[location.to(model.anchors.device)])
        if self.view.mirrored:
            deltas = deltas * deltas.new_tensor([-1, 1, 1, 1])
        return deltas
