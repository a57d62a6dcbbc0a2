"""What does the whole competition cost on this CPU, a T4 and an H200: hours and memory?

    python benchmarks/cost.py           the paper's network, minutes
    python benchmarks/cost.py --encoder resnet18 --image-size 192 --levels 3-5 --rounds 1
                                        seconds

26,684 training and 3,000 test images, 4 folds, 12 epochs, three kept, the flipped view. This CPU's
hours are the measured seconds of a training step and of a forward pass times the images that go
through them. A GPU's are computed: the counted operations at --share of the peak rate of its data
sheet, where 0.15 is an assumption (the 2nd place's 50 minutes an epoch on a P100 are 0.3 of that
card's 18.7 TFLOP/s). Memory is this process's highest resident set, for a GPU what is counted:
weights, gradients, Adam's two moments, and all that a step keeps for its backward pass.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from prediction import channels_last, random_models
from reference import RSNA, network_settings, random_batch
from timing import Row, arguments, count_operations, duration, measure, show
from training_step import CPU, NETWORK, OurTraining

from cxr.inference.run import predict_batch
from cxr.methods.base import VIEW_SETS
from cxr.system.device import choose_precision
from cxr.system.runtime import Runtime

TRAIN = 26_684  # images
TEST = 3_000
FOLDS = 4
EPOCHS = 12
KEPT = 3  # checkpoints of a fold
GIB = 2**30


class Gpu(NamedTuple):
    """Dense operations a second at the peak, by NVIDIA's data sheets, and their number format."""

    name: str
    peak: float
    number_format: str


GPUS = (Gpu("T4", 65e12, "fp16"), Gpu("H200", 989e12, "bf16"))


class Work(NamedTuple):
    """Images that go through a training step, and forward passes without one."""

    trained: int
    passed: int


class Cost(NamedTuple):
    """Of a training step and of a forward pass, for one image: seconds, or operations."""

    step: float
    forward: float


def whole_work(views: int = len(VIEW_SETS["flip"])) -> Work:
    """Work of the whole competition.

    Each fold trains on the others, validates itself after each epoch, predicts itself and, with all
    others, the test images.
    """
    trained = EPOCHS * (FOLDS - 1) * TRAIN
    validated = EPOCHS * TRAIN
    predicted = KEPT * views * (TRAIN + FOLDS * TEST)
    return Work(trained, validated + predicted)


def count_hours(work: Work, seconds: Cost) -> float:
    return (work.trained * seconds.step + work.passed * seconds.forward) / 3600


def kept_bytes(model: nn.Module, inputs: Sequence[Any], runtime: Runtime) -> int:
    """Bytes that a training step on these inputs keeps for its backward pass, each storage once, no
    weights."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def give_back(tensor: Tensor) -> Tensor:
        return tensor

    model.train()
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, give_back)
    with hooks, runtime.autocast():
        # Held until the end: what it keeps would be freed and its place used again.
        outputs = model(*inputs)
    total = sum(size for address, size in kept.items() if address not in weights)
    del outputs
    return total


def step_memory(model: nn.Module, kept: int) -> int:
    """Bytes of a training step: weights, gradients and two moments in fp32, and what is kept."""
    weights = sum(parameter.numel() for parameter in model.parameters())
    return 16 * weights + kept


def gpu_row(gpu: Gpu, share: float, work: Work, operations: Cost, memory: int) -> Row:
    rate = share * gpu.peak
    hours = count_hours(work, Cost(operations.step / rate, operations.forward / rate))
    return Row(
        f"{gpu.name}, computed with {share:.0%} of {gpu.peak / 1e12:.0f} TFLOP/s in "
        f"{gpu.number_format}",
        f"{hours:,.1f} hours, {memory / GIB:.1f} GiB",
    )


def main() -> None:
    args = arguments(__doc__, **NETWORK | {"batch_size": 4}, rounds=2, share=0.15)
    settings = network_settings(args)
    runtime = Runtime(CPU, choose_precision("auto", CPU))
    batch = random_batch(settings)
    models = [channels_last(random_models(settings, 1, batch.images)[0])]
    train = OurTraining(settings, batch, runtime)

    def pass_forward() -> list[Any]:
        views = VIEW_SETS["none"]
        return predict_batch(models, RSNA.method, views, batch.images, settings, runtime)

    # Of one image.
    operations = Cost(
        count_operations(train) / args.batch_size,
        count_operations(pass_forward) / args.batch_size,
    )
    measured = measure({"step": train, "forward": pass_forward}, args.rounds)
    seconds = Cost(measured["step"] / args.batch_size, measured["forward"] / args.batch_size)

    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB
    inputs = (batch.images, *RSNA.method.network_inputs(batch, settings))
    memory = step_memory(train.model, kept_bytes(train.model, inputs, runtime))
    work = whole_work()
    rows = [
        Row(
            "measured: training step of an image, forward pass of an image",
            f"{duration(seconds.step)}, {duration(seconds.forward)}",
        ),
        Row("counted: images trained, forward passes", f"{work.trained:,}, {work.passed:,}"),
        Row(
            "this CPU, computed from the measured seconds",
            f"{count_hours(work, seconds):,.0f} hours, {resident / GIB:.1f} GiB measured",
        ),
    ]
    rows += [gpu_row(gpu, args.share, work, operations, memory) for gpu in GPUS]
    show(
        f"The whole competition with {args.encoder}, {args.image_size} px, P{args.levels}, batch "
        f"{args.batch_size}",
        rows,
        runtime.precision,
    )


if __name__ == "__main__":
    main()
