"""How fast are others with the same network, the same batch, on the same machine?

    python benchmarks/peers.py                  ResNet-50, P3-P7, 512 px, some minutes on a CPU
    python benchmarks/peers.py --device cuda --batch-size 16 --steps 10
    python benchmarks/peers.py --frozen         only the training, with frozen batch norms, as both
                                                have them with ImageNet weights
    python benchmarks/peers.py --image-size 256 --batch-size 1 --rounds 1
                                                seconds

torchvision's retinanet_resnet50_fpn beside ours with its encoder and levels, in turn in one run:
both with channels-last, the number format that step 03 takes, the same optimizer, the same boxes,
prediction with the flipped view. To reach: 1.5 times. gpu.py asks more of a GPU.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection import retinanet_resnet50_fpn
from torchvision.ops import FrozenBatchNorm2d

sys.path.insert(0, str(Path(__file__).parents[1]))

from prediction import OurPrediction, channels_last, random_models
from reference import network_settings, random_batch
from timing import Measured, Row, arguments, at_least, finish, measure, show
from training_step import OurTraining

from cxr.data.batch import Batch
from cxr.networks.fused import fold_frozen_norms, fuse_norms
from cxr.settings import Settings
from cxr.system.device import choose_device, choose_precision
from cxr.system.runtime import Runtime

GOAL = 1.5
RESNET50 = {"encoder": "resnet50", "levels": "3-7"}  # what torchvision's network has
BOXES_CYCLE = 5  # image i of `random_batch` has i % 5 boxes

# Makes the function that is measured: so many steps of a network with these settings.
Maker = Callable[[Settings, int, Runtime], Measured]


# ------------------------------------------------------------------------- what is measured


def our_training(settings: Settings, steps: int, runtime: Runtime) -> Measured:
    return OurTraining(settings, pinned_batch(settings, runtime), runtime, steps)


def our_frozen_training(settings: Settings, steps: int, runtime: Runtime) -> Measured:
    """As with pretrained weights: step 03 folds what a CPU computes faster so."""
    training = OurTraining(settings, pinned_batch(settings, runtime), runtime, steps)
    training.model.pretrained = True
    if runtime.device.type == "cpu" and runtime.precision == "bf16":
        fold_frozen_norms(training.model)
    return training


def our_prediction(settings: Settings, steps: int, runtime: Runtime) -> Measured:
    images = pinned_batch(settings, runtime).images
    [model] = random_models(settings, 1, images, runtime.device)
    fuse_norms(model)  # as load_fused does
    predict = OurPrediction.of([channels_last(model)], settings, runtime)

    def predict_steps() -> None:
        for _ in range(steps):
            predict(images.to(runtime.device, non_blocking=True))

    return predict_steps


def torchvision_network(side: int, device: torch.device) -> nn.Module:
    model = retinanet_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=1, min_size=side, max_size=side
    )
    return model.to(device, memory_format=torch.channels_last)


@dataclass(frozen=True, eq=False)
class TorchvisionTraining:
    """The same number of steps of torchvision's network on the same batch, with the same
    optimizer."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    batch: Batch
    steps: int
    clip: float
    runtime: Runtime

    def __call__(self) -> None:
        for _ in range(self.steps):
            inputs = torchvision_inputs(self.batch, self.runtime.device)
            with self.runtime.autocast():
                terms = self.model(inputs.images, inputs.targets)
            torch.stack(list(terms.values())).sum().backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)


def torchvision_training(settings: Settings, steps: int, runtime: Runtime) -> Measured:
    training = settings.training
    model = torchvision_network(training.image_size, runtime.device)
    optimizer = torch.optim.Adam(model.parameters(), training.lr, fused=True)
    batch = pinned_batch(settings, runtime)
    return TorchvisionTraining(model, optimizer, batch, steps, training.clip, runtime)


def torchvision_frozen_training(settings: Settings, steps: int, runtime: Runtime) -> Measured:
    """With torchvision's own frozen batch norm, which it takes for pretrained weights."""
    measured = torchvision_training(settings, steps, runtime)
    assert isinstance(measured, TorchvisionTraining)
    norms = {}
    for name, module in measured.model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            norms[name] = FrozenBatchNorm2d(module.num_features).to(runtime.device)
    for name, norm in norms.items():
        measured.model.set_submodule(name, norm)
    return measured


@dataclass(frozen=True, eq=False)
class TorchvisionPrediction:
    """The same number of steps of torchvision's network, with the flipped view."""

    model: nn.Module
    batch: Batch
    steps: int
    runtime: Runtime

    @torch.inference_mode()
    def __call__(self) -> None:
        for _ in range(self.steps):
            for flipped in (False, True):
                images = torchvision_inputs(self.batch, self.runtime.device).images
                if flipped:
                    images = [image.flip(-1) for image in images]
                with self.runtime.autocast():
                    self.model(images)


def torchvision_prediction(settings: Settings, steps: int, runtime: Runtime) -> Measured:
    model = torchvision_network(settings.training.image_size, runtime.device).eval()
    return TorchvisionPrediction(model, pinned_batch(settings, runtime), steps, runtime)


class TorchvisionInputs(NamedTuple):
    """images [(3, S, S)] in 0 ... 1 and targets as torchvision's detection networks want them."""

    images: list[Tensor]
    targets: list[dict[str, Tensor]]


def torchvision_inputs(batch: Batch, device: torch.device) -> TorchvisionInputs:
    """On the device. The number of boxes is known; asking the labels instead would make the
    processor wait."""
    batch = batch.to(device)
    targets = []
    for i in range(len(batch)):
        boxes = i % BOXES_CYCLE
        target = {"boxes": batch.boxes[i, :boxes], "labels": batch.labels[i, :boxes]}
        targets.append(target)
    colour_images = batch.images.expand(-1, 3, -1, -1) / 255
    return TorchvisionInputs(list(colour_images), targets)


def pinned_batch(settings: Settings, runtime: Runtime) -> Batch:
    """A random batch, as the loader of training gives it."""
    batch = random_batch(settings)
    return batch.pin_memory() if runtime.pins_memory else batch


# ------------------------------------------------------------------------ how it is measured


def rates(
    functions: dict[str, Measured], images: int, rounds: int, device: torch.device
) -> dict[str, float]:
    """{name: images per second} of functions that each handle so many."""
    finished = {name: Finished(function, device) for name, function in functions.items()}
    seconds = measure(finished, rounds)
    return {name: images / seconds[name] for name in functions}


@dataclass(frozen=True)
class Finished:
    """A function that returns when the device has done it."""

    function: Measured
    device: torch.device

    def __call__(self) -> object:
        return finish(self.device, self.function())


# --------------------------------------------------------------------------------- the table


@dataclass(frozen=True)
class Measurement:
    """What is said of both, training and prediction: the flags, and the two networks' settings."""

    args: Namespace
    settings: Settings
    resnet50: Settings
    runtime: Runtime

    @property
    def images(self) -> int:
        """Images that a measured function handles."""
        return self.args.batch_size * self.args.steps

    def rates(self, functions: dict[str, Measured]) -> dict[str, float]:
        return rates(functions, self.images, self.args.rounds, self.runtime.device)

    def make(self, maker: Maker, settings: Settings) -> Measured:
        return maker(settings, self.args.steps, self.runtime)


def torchvision_rows(
    name: str, measurement: Measurement, ours: Maker, theirs: Maker, goal: float
) -> list[Row]:
    """Ours and torchvision's with the same encoder and levels."""
    rate = measurement.rates(
        {
            "ours": measurement.make(ours, measurement.resnet50),
            "theirs": measurement.make(theirs, measurement.resnet50),
        }
    )
    return [
        Row(f"{name}, torchvision's retinanet_resnet50_fpn", f"{rate['theirs']:.1f} images/s", 1),
        at_least(
            f"{name}, ours with resnet50 and P3-P7",
            f"{rate['ours']:.1f} images/s",
            rate["ours"] / rate["theirs"],
            goal,
        ),
    ]


def main() -> None:
    defaults = RESNET50 | {"image_size": 512, "batch_size": 2}
    args = arguments(__doc__, **defaults, device="auto", steps=1, rounds=2, frozen=False)
    device = choose_device(args.device)
    runtime = Runtime(device, choose_precision("auto", device))
    settings = network_settings(args)
    measurement = Measurement(args, settings, settings, runtime)
    makers: dict[str, tuple[Maker, Maker]] = {
        "training": (our_training, torchvision_training),
        "prediction with the flipped view": (our_prediction, torchvision_prediction),
    }
    if args.frozen:
        makers = {"frozen norms, training": (our_frozen_training, torchvision_frozen_training)}
    rows = []
    for name, (ours, theirs) in makers.items():
        rows += torchvision_rows(name, measurement, ours, theirs, GOAL)
    show(
        f"ResNet-50, P3-P7, {args.image_size} px, batch {args.batch_size}",
        rows,
        runtime.describe(),
    )


if __name__ == "__main__":
    main()
