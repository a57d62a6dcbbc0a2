"""RetinaNet's head: boxes as deltas from anchors."""

from __future__ import annotations

from dataclasses import dataclass

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
from cxr.methods.detector.heads import Head, ViewOutputs, view_side
from cxr.methods.detector.losses import detection_loss
from cxr.methods.detector.matching import Matcher
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
        return detection_loss(outputs["scores"], outputs["deltas"], batch, running)

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
        side = view_side(model.image_size, model.levels, view.thirds)
        # Of each anchor the one that stands for it in the view, and where the network has that.
        standing_in = torch.arange(outputs["scores"].shape[1])
        if view.thirds:
            standing_in = scale_index(model.image_size, side, model.levels, view.thirds)
        seen_at = standing_in
        if view.mirrored:
            seen_at = flip_index(side, model.levels)[standing_in]
        return ViewOutputs(
            scores=self.scores(outputs)[:, seen_at.to(outputs["scores"].device)],
            category=outputs["category"].softmax(-1),
            deltas_at=ViewDeltas(outputs, view, model, side, standing_in, seen_at),
        )


@dataclass(frozen=True, eq=False)
class ViewDeltas:
    """Deltas of a view as those of the unchanged image's anchors.

    side: of the view. standing_in, seen_at: (A,) the anchor of the view that stands for each of the
    image, and that of the mirrored view.
    """

    outputs: Outputs
    view: View
    model: DetectorNetwork
    side: int
    standing_in: Tensor
    seen_at: Tensor

    def __call__(self, image: Tensor, location: Tensor) -> Tensor:
        model = self.model
        seen = self.seen_at[location]
        if "maps" in self.outputs:
            deltas = model.box_outputs_at(self.outputs["maps"], image, seen)
        else:
            deltas = self.outputs["deltas"][image, seen]
        if self.view.mirrored:
            deltas = deltas * deltas.new_tensor([-1, 1, 1, 1])
        if self.view.thirds:
            anchors = make_anchors(self.side, model.levels)[self.standing_in[location]]
            boxes = decode_boxes(deltas, anchors.to(deltas.device))
            boxes = boxes * (model.image_size / self.side)
            deltas = encode_boxes(boxes, model.anchors[location.to(model.anchors.device)])
        return deltas
