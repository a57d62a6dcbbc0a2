"""What does a GPU make of it: images per second, how busy it is, how often it waits for the processor?

    python benchmarks/gpu.py                                  SE-ResNeXt-101, 512 px, P2-P7, some minutes
    python benchmarks/gpu.py --batch-size 32 --steps 10

Needs CUDA. Training and prediction in the precision that step 03 takes, and, in the same run, torchvision's
retinanet_resnet50_fpn beside ours with its encoder and levels, both with channels-last and bf16.
To reach: at least torchvision's rate, 150 training images a second on an H200, a loader faster than the training.
"""

import sys
import tempfile
import warnings
from argparse import Namespace
from pathlib import Path

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torchvision.models.detection import retinanet_resnet50_fpn

sys.path.insert(0, str(Path(__file__).parents[1]))

from prediction import our_prediction, random_models  # noqa: E402
from reference import network_config, random_batch  # noqa: E402
from samples import loader_rate, training_images  # noqa: E402
from timing import Row, arguments, at_least, finish, measure, show  # noqa: E402
from training_step import NETWORK, our_training  # noqa: E402

from cxr.datasets.rsna.dataset import Rsna  # noqa: E402
from cxr.system.device import autocast, choose_precision, describe  # noqa: E402

H200_RATE = 150  # training images a second
RESNET50 = {"encoder": "resnet50", "levels": "3-7"}  # what torchvision's network has


def training(config, steps, device, precision):
    return our_training(config, pinned(random_batch(config), device), steps, device, precision)


def prediction(config, steps, device, precision):
    images = pinned(random_batch(config), device)["image"]
    model = random_models(config, 1, images, device)[0].to(memory_format=torch.channels_last)
    return lambda: [
        our_prediction([model], images.to(device, non_blocking=True), precision)
        for _ in range(steps)
    ]


def torchvision_network(side, device):
    model = retinanet_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=1, min_size=side, max_size=side
    )
    return model.to(device, memory_format=torch.channels_last)


def torchvision_training(config, steps, device, precision):
    """The same number of steps of torchvision's network on the same batch, with the same optimizer."""
    model = torchvision_network(config.image_size, device)
    optimizer = torch.optim.Adam(model.parameters(), config.lr, fused=True)
    batch = pinned(random_batch(config), device)

    def train():
        for _ in range(steps):
            images, targets = torchvision_inputs(batch, device)
            with autocast(device, precision):
                terms = model(images, targets)
            sum(terms.values()).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return train


def torchvision_prediction(config, steps, device, precision):
    model, batch = (
        torchvision_network(config.image_size, device).eval(),
        pinned(random_batch(config), device),
    )

    @torch.inference_mode()
    def predict():
        for _ in range(steps):
            for flipped in (False, True):
                images = [
                    image.flip(-1) if flipped else image
                    for image in torchvision_inputs(batch, device)[0]
                ]
                with autocast(device, precision):
                    model(images)

    return predict


def torchvision_inputs(batch, device):
    """(images [(3, S, S)] in 0 ... 1, targets) as torchvision's detection networks want them, on the device.

    Image i of `random_batch` has i % 5 boxes; asking the labels instead would make the processor wait.
    """
    batch = {name: value.to(device, non_blocking=True) for name, value in batch.items()}
    targets = [
        {"boxes": boxes[: i % 5], "labels": labels[: i % 5]}
        for i, (boxes, labels) in enumerate(zip(batch["boxes"], batch["labels"]))
    ]
    return list(batch["image"].expand(-1, 3, -1, -1) / 255), targets


def pinned(batch, device):
    return (
        {name: value.pin_memory() for name, value in batch.items()}
        if device.type == "cuda"
        else batch
    )


def rates(functions, images, rounds, device):
    """{name: images per second} of functions that each handle so many."""
    found = measure(
        {name: lambda f=f: finish(device, f()) for name, f in functions.items()}, rounds
    )
    return {name: images / seconds for name, seconds in found.items()}


def kernel_seconds(function, device):
    """Time in which the GPU computed or copied during one call."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        finish(device, function())
    return (
        sum(
            event.time_range.elapsed_us()
            for event in found.events()
            if event.device_type == DeviceType.CUDA and not event.is_user_annotation
        )
        / 1e6
    )


def synchronisations(function):
    """How often the processor waited for the GPU during one call."""
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        function()
    torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in found)


def main():
    args = arguments(
        __doc__, **NETWORK | {"batch_size": 8}, input="", images=256, steps=20, rounds=3
    )
    if not torch.cuda.is_available():
        sys.exit("gpu.py measures a CUDA GPU and finds none here: run it on a machine that has one")
    device = torch.device("cuda")
    precision, seen = choose_precision("auto", device), args.batch_size * args.steps
    config, small = network_config(args), network_config(Namespace(**vars(args) | RESNET50))
    rows, training_rate = [], 0.0
    for name, ours, theirs in (
        ("training", training, torchvision_training),
        ("prediction with the flipped view", prediction, torchvision_prediction),
    ):
        function = ours(config, args.steps, device, precision)
        rate = rates({"ours": function}, seen, args.rounds, device)["ours"]
        busy, waits = (
            kernel_seconds(function, device) * rate / seen,
            synchronisations(function) / args.steps,
        )
        goal = (f"at least {H200_RATE} on an H200", rate >= H200_RATE) if ours is training else ()
        rows += [
            Row(f"{name}, {args.encoder}", f"{rate:.1f} images/s", None, *goal),
            Row(f"{name}: GPU busy", f"{100 * busy:.0f} %"),
            Row(f"{name}: the processor waits for the GPU", f"{waits:.1f} times a step"),
        ]
        training_rate = rate if ours is training else training_rate
        found = rates(
            {
                kind: make(small, args.steps, device, precision)
                for kind, make in (("ours", ours), ("theirs", theirs))
            },
            seen,
            args.rounds,
            device,
        )
        rows += [
            Row(
                f"{name}, torchvision's retinanet_resnet50_fpn",
                f"{found['theirs']:.1f} images/s",
                1,
            ),
            at_least(
                f"{name}, ours with resnet50 and P3-P7",
                f"{found['ours']:.1f} images/s",
                found["ours"] / found["theirs"],
                1,
            ),
        ]
    with tempfile.TemporaryDirectory() as folder:
        dataset = training_images(args.input, Path(folder), args.images, config)
        rate = loader_rate(dataset, args.batch_size, args.rounds, True)
    rows.append(
        Row(
            "loader alone",
            f"{rate:.1f} images/s",
            None,
            "more than training takes",
            rate > training_rate,
        )
    )
    show(
        f"{Rsna.title} at {args.image_size} px, batch {args.batch_size}",
        rows,
        describe(device, precision),
    )


if __name__ == "__main__":
    main()
