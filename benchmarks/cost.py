"""What does the whole competition cost on this CPU, a T4 and an H200: hours and memory?

    python benchmarks/cost.py                                                        the paper's network, minutes
    python benchmarks/cost.py --encoder resnet18 --image-size 192 --levels 3-5 --rounds 1         seconds

26,684 training and 3,000 test images, 4 folds, 12 epochs, three kept, the flipped view. This CPU's hours are the
measured seconds of a training step and of a forward pass times the images that go through them. A GPU's are computed:
the counted operations at --share of the peak rate of its data sheet, where 0.15 is an assumption (the 2nd place's 50
minutes an epoch on a P100 are 0.3 of that card's 18.7 TFLOP/s). Memory is this process's highest resident set, for a
GPU what is counted: weights, gradients, Adam's two moments, and all that a step keeps for its backward pass.
"""

import resource
import sys
from pathlib import Path
from typing import NamedTuple

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from prediction import random_models  # noqa: E402
from reference import network_config, random_batch  # noqa: E402
from timing import Row, arguments, duration, measure, operations, show  # noqa: E402
from training_step import CPU, NETWORK, our_training  # noqa: E402

from cxr.datasets.rsna.dataset import Rsna  # noqa: E402
from cxr.inference.run import VIEWS, predict_batch  # noqa: E402
from cxr.system.device import autocast, choose_precision  # noqa: E402

TRAIN, TEST, FOLDS, EPOCHS, KEPT = 26_684, 3_000, 4, 12, 3
PEAK = {
    "T4": (65e12, "fp16"),
    "H200": (989e12, "bf16"),
}  # dense operations a second, NVIDIA's data sheets
GIB = 2**30


class Work(NamedTuple):
    """Images that go through a training step, and forward passes without one."""

    trained: int
    passed: int


def whole_work(views=len(VIEWS["flip"])):
    """Work of the whole competition: each fold trains on the others, validates itself after each epoch, predicts itself
    and, with all others, the test images."""
    trained = EPOCHS * (FOLDS - 1) * TRAIN
    return Work(trained, EPOCHS * TRAIN + KEPT * views * (TRAIN + FOLDS * TEST))


def hours(work, step, forward):
    """Hours of the work, of seconds of a training step and a forward pass of one image."""
    return (work.trained * step + work.passed * forward) / 3600


def kept_bytes(model, inputs, precision):
    """Bytes that a training step on these inputs keeps for its backward pass, each storage once, no weights."""
    own, kept = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}, {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    model.train()
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        autocast(CPU, precision),
    ):
        outputs = model(
            *inputs
        )  # held until the end: what it keeps would be freed and its place used again
    total = sum(size for place, size in kept.items() if place not in own)
    del outputs
    return total


def step_memory(model, kept):
    """Bytes of a training step: weights, gradients and two moments in fp32, and what is kept."""
    return 16 * sum(parameter.numel() for parameter in model.parameters()) + kept


def main():
    args = arguments(__doc__, **NETWORK | {"batch_size": 4}, rounds=2, share=0.15)
    config, precision = network_config(args), choose_precision("auto", CPU)
    batch = random_batch(config)
    model = random_models(config, 1, batch["image"])[0].to(memory_format=torch.channels_last)
    train = our_training(config, batch, precision=precision)
    functions = {
        "step": train,
        "forward": lambda: predict_batch(Rsna(), [model], VIEWS["none"], batch["image"], precision),
    }
    flops = {name: operations(function) / args.batch_size for name, function in functions.items()}
    seconds = {
        name: value / args.batch_size for name, value in measure(functions, args.rounds).items()
    }
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB
    work = whole_work()
    inputs = batch["image"], *Rsna().network_inputs(batch, config)
    memory = step_memory(train.model, kept_bytes(train.model, inputs, precision))
    rows = [
        Row(
            "measured: training step of an image, forward pass of an image",
            f"{duration(seconds['step'])}, {duration(seconds['forward'])}",
        ),
        Row("counted: images trained, forward passes", f"{work.trained:,}, {work.passed:,}"),
        Row(
            "this CPU, computed from the measured seconds",
            f"{hours(work, **seconds):,.0f} hours, {resident / GIB:.1f} GiB measured",
        ),
    ]
    for name, (peak, number_format) in PEAK.items():
        rate = args.share * peak
        rows.append(
            Row(
                f"{name}, computed with {args.share:.0%} of {peak / 1e12:.0f} TFLOP/s in {number_format}",
                f"{hours(work, flops['step'] / rate, flops['forward'] / rate):,.1f} hours, "
                f"{memory / GIB:.1f} GiB",
            )
        )
    show(
        f"The whole competition with {args.encoder}, {args.image_size} px, P{args.levels}, batch {args.batch_size}",
        rows,
        precision,
    )


if __name__ == "__main__":
    main()
