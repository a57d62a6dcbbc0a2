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
from pathlib import Path
from typing import NamedTuple

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).parents[1]))

from peers import (
    RESNET50,
    Maker,
    Measurement,
    our_prediction,
    our_training,
    torchvision_prediction,
    torchvision_rows,
    torchvision_training,
)
from reference import network_settings
from samples import loader_rate, training_images
from timing import Measured, Row, arguments, finish, show
from training_step import NETWORK

from cxr.datasets.rsna.dataset import Rsna
from cxr.system.device import choose_precision
from cxr.system.runtime import Runtime

H200_RATE = 150  # training images a second


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
        *torchvision_rows(name, measurement, our_training, torchvision_training, goal=1),
    ]
    name = "prediction with the flipped view"
    prediction = measure_network(measurement, our_prediction)
    rows += [
        Row(f"{name}, {args.encoder}", f"{prediction.images:.1f} images/s"),
        *network_rows(name, prediction),
        *torchvision_rows(name, measurement, our_prediction, torchvision_prediction, goal=1),
        loader_row(measurement, training.images),
    ]
    question = f"{Rsna.title} at {args.image_size} px, batch {args.batch_size}"
    show(question, rows, runtime.describe())


if __name__ == "__main__":
    main()
