"""How long does a prediction of one image take, from its pixels to merged boxes, with the flipped
view?

    python benchmarks/prediction.py     two models of the paper's network, minutes
    python benchmarks/prediction.py --encoder resnet18 --image-size 192 --levels 3-5 --rounds 1
                                        seconds

Ours as 04_predict.py and step 05 do it: batches, channels-last, bf16 where the processor has it,
only the anchors that can become boxes merged; the reference image by image in fp32 and NCHW,
merging all raw outputs in numpy. To reach: 4 times. The limit is the operations of the forward
passes at the rate of a large matrix product.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from reference import (
    FRAME,
    RSNA,
    PlainBoxes,
    build_network,
    enliven,
    network_settings,
    plain_predict,
    random_batch,
)
from timing import against_limit, arguments, matmul_rate, show
from training_step import CPU, NETWORK

from cxr.datasets.rsna.dataset import GATE_WEIGHTS
from cxr.geometry.detections import Detections
from cxr.inference.engines import Engine, TorchEngine
from cxr.inference.run import predict_batch
from cxr.methods.base import VIEW_SETS, ImageFacts
from cxr.methods.detector.records import Params, detect
from cxr.networks.detector import DetectorNetwork
from cxr.networks.fused import fuse_norms
from cxr.settings import Settings
from cxr.system.device import FORMATS, choose_precision
from cxr.system.runtime import Runtime

# The 2nd place's sizes, and all boxes above the score floor.
PARAMS = Params(percentile_shrink=1.6, threshold=0.0)
IMAGE = ImageFacts("", FRAME, FRAME)


def random_models(
    settings: Settings, count: int, images: Tensor, device: torch.device = CPU
) -> list[DetectorNetwork]:
    """`count` networks with different random weights, in evaluation mode."""
    torch.manual_seed(0)
    models = []
    for _ in range(count):
        model = build_network(settings).to(device)
        models.append(enliven(model, images.to(device)))
    return models


def channels_last(model: DetectorNetwork) -> DetectorNetwork:
    """The model in the memory format of prediction, in place."""
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


@dataclass(frozen=True, eq=False)
class OurPrediction:
    """Detections, in 1024 px, of each of some images (B, 1, S, S)."""

    models: Sequence[DetectorNetwork]
    settings: Settings
    runtime: Runtime
    engine: Engine

    @classmethod
    def of(
        cls, models: Sequence[DetectorNetwork], settings: Settings, runtime: Runtime
    ) -> OurPrediction:
        """The models' weights are brought into the number format, in place."""
        return cls(models, settings, runtime, TorchEngine(RSNA.method, runtime, models))

    def __call__(self, images: Tensor) -> list[Detections]:
        views = VIEW_SETS["flip"]
        method = RSNA.method
        merged = predict_batch(
            self.models, method, views, images, self.settings, self.runtime, self.engine
        )
        detections = []
        for locations in merged:
            candidates = method.to_prediction(locations, IMAGE, self.models[0], self.settings)
            detections.append(detect(candidates, PARAMS, GATE_WEIGHTS))
        return detections


def check(ours: Sequence[Detections], plain: Sequence[PlainBoxes], precision: str) -> None:
    """The same boxes in fp32; in bf16, which moves boxes past each other, about the same best score
    of each image (13 % apart in the paper's network with random weights)."""
    for detections, plain_boxes in zip(ours, plain, strict=True):
        assert len(detections) and len(plain_boxes.scores), (
            "an image without any box proves nothing"
        )
        if precision == "fp32":
            np.testing.assert_allclose(detections.boxes, plain_boxes.boxes, atol=0.1)
            np.testing.assert_allclose(detections.scores, plain_boxes.scores, atol=1e-4)
        else:
            np.testing.assert_allclose(detections.scores[0], plain_boxes.scores[0], rtol=0.2)


def main() -> None:
    args = arguments(__doc__, **NETWORK, models=2, rounds=3)
    settings = network_settings(args)
    precision = choose_precision("auto", CPU)
    images = random_batch(settings).images
    plain_models = random_models(settings, args.models, images)
    models = [deepcopy(model) for model in plain_models]
    for model in models:
        fuse_norms(model)  # as load_fused does
        channels_last(model)
    expected = plain_predict(plain_models, images)
    for number_format in {"fp32", precision}:
        copies = [deepcopy(model) for model in models]
        predict = OurPrediction.of(copies, settings, Runtime(CPU, number_format))
        check(predict(images), expected, number_format)

    predict = OurPrediction.of(models, settings, Runtime(CPU, precision))
    _, rows = against_limit(
        lambda: predict(images),
        lambda: plain_predict(plain_models, images),
        args.batch_size,
        args.rounds,
        4,
        matmul_rate(FORMATS[precision]),
    )
    show(
        f"Prediction with {args.models} x {args.encoder} x 2 views, {args.image_size} px, "
        f"P{args.levels}, per image",
        rows,
        f"ours {precision}, reference fp32",
    )


if __name__ == "__main__":
    main()
