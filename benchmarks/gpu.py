"""What does a GPU make of it: images per second, how busy it is, how often it waits for the
processor?

    python benchmarks/gpu.py                        SE-ResNeXt-101, 512 px, P2-P7, some minutes
    python benchmarks/gpu.py --batch-size 32 --steps 10

Needs CUDA. Training and prediction in the precision that step 03 takes, and, in the same run,
torchvision's retinanet_resnet50_fpn beside ours with its encoder and levels, both with
channels-last and bf16. To reach: at least torchvision's rate, 150 training images a second on an
H200, a loader faster than the training.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torchvision.models.detection import retinanet_resnet50_fpn

sys.path.insert(0, str(Path(__file__).parents[1]))

from prediction import OurPrediction, channels_last, random_models
from reference import network_settings, random_batch
from samples import loader_rate, training_images
from timing import Measured, Row, arguments, at_least, finish, measure, show
from training_step import NETWORK, OurTraining

from cxr.data.batch import Batch
from cxr.datasets.rsna.dataset import Rsna
from cxr.settings import Settings
from cxr.system.device import choose_precision
from cxr.system.runtime import Runtime

H200_RATE = 150  # training images a second
RESNET50 = {"encoder": "resnet50", "levels": "3-7"}  # what torchvision's network has
BOXES_CYCLE = 5  # image i of `random_batch` has i % 5 boxes

# Makes the function that is measured: so many steps of a network with these settings.
Maker = Callable[[Settings, int, Runtime], Measured]


# ------------------------------------------------------------------------- what is measured


def our_training(settings: Settings, steps: int, runtime: Runtime) -> Measured:
    return OurTraining(settings, pinned_batch(settings, runtime), runtime, steps)


def our_prediction(settings: Settings, steps: int, runtime: Runtime) -> Measured:
    images = pinned_batch(settings, runtime).images
    models = [channels_last(random_models(settings, 1, images, runtime.device)[0])]
    predict = OurPrediction(models, settings, runtime)

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


def kernel_seconds(function: Measured, device: torch.device) -> float:
    """Time in which the GPU computed or copied during one call."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        finish(device, function())
    microseconds = 0.0
    for event in profiler.events():
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation:
            microseconds += event.time_range.elapsed_us()
    return microseconds / 1e6


def count_synchronisations(function: Measured) -> int:
    """How often the processor waited for the GPU during one call."""
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function()
    torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in caught)


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


class NetworkRate(NamedTuple):
    """Images a second of the whole network, how busy the GPU is (0 ... 1), and how often a step
    waits."""

    images: float
    busy: float
    waits: float


def measure_network(measurement: Measurement, maker: Maker) -> NetworkRate:
    function = measurement.make(maker, measurement.settings)
    rate = measurement.rates({"ours": function})["ours"]
    seconds = measurement.images / rate
    busy = kernel_seconds(function, measurement.runtime.device) / seconds
    return NetworkRate(rate, busy, count_synchronisations(function) / measurement.args.steps)


def network_rows(name: str, rate: NetworkRate) -> list[Row]:
    return [
        Row(f"{name}: GPU busy", f"{100 * rate.busy:.0f} %"),
        Row(f"{name}: the processor waits for the GPU", f"{rate.waits:.1f} times a step"),
    ]


def torchvision_rows(name: str, measurement: Measurement, ours: Maker, theirs: Maker) -> list[Row]:
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
            1,
        ),
    ]


def loader_row(measurement: Measurement, training_rate: float) -> Row:
    args = measurement.args
    with tempfile.TemporaryDirectory() as folder:
        dataset = training_images(args.input, Path(folder), args.images, measurement.settings)
        rate = loader_rate(dataset, args.batch_size, args.rounds, pin=True)
    return Row(
        "loader alone",
        f"{rate:.1f} images/s",
        None,
        "more than training takes",
        rate > training_rate,
    )


def main() -> None:
    defaults = NETWORK | {"batch_size": 8}
    args = arguments(__doc__, **defaults, input="", images=256, steps=20, rounds=3)
    if not torch.cuda.is_available():
        sys.exit("gpu.py measures a CUDA GPU and finds none here: run it on a machine that has one")
    device = torch.device("cuda")
    runtime = Runtime(device, choose_precision("auto", device))
    resnet50 = network_settings(Namespace(**vars(args) | RESNET50))
    measurement = Measurement(args, network_settings(args), resnet50, runtime)

    name = "training"
    training = measure_network(measurement, our_training)
    rows = [
        Row(
            f"{name}, {args.encoder}",
            f"{training.images:.1f} images/s",
            None,
            f"at least {H200_RATE} on an H200",
            training.images >= H200_RATE,
        ),
        *network_rows(name, training),
        *torchvision_rows(name, measurement, our_training, torchvision_training),
    ]
    name = "prediction with the flipped view"
    prediction = measure_network(measurement, our_prediction)
    rows += [
        Row(f"{name}, {args.encoder}", f"{prediction.images:.1f} images/s"),
        *network_rows(name, prediction),
        *torchvision_rows(name, measurement, our_prediction, torchvision_prediction),
        loader_row(measurement, training.images),
    ]
    question = f"{Rsna.title} at {args.image_size} px, batch {args.batch_size}"
    show(question, rows, runtime.describe())


if __name__ == "__main__":
    main()
