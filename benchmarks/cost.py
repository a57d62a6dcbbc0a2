"""What does a whole competition cost on this CPU, a T4 and an H200: hours and memory?

    python benchmarks/cost.py           the paper's network of rsna, minutes
    python benchmarks/cost.py --task covid --preset paper --batch-size 2 --rounds 0
                                        another system, a minute: nothing is timed, only counted
    python benchmarks/cost.py --encoder resnet18 --image-size 192 --levels 3-5 --rounds 1
                                        seconds

Images of IMAGES, and of the preset folds, epochs, how many images are drawn in each, kept epochs
and views. This CPU's hours are the measured seconds of a training step and of a forward pass times
the images that go through them. A GPU's are computed: the counted operations at --share of the peak
rate of its data sheet, where 0.15 is an assumption (the RSNA's 2nd place's 50 minutes an epoch on a
P100 are 0.3 of that card's 18.7 TFLOP/s). Memory is this process's highest resident set, for a GPU
what is counted: weights, gradients, Adam's two moments, and all that a step of the preset's batch
keeps for its backward pass, in proportion to that of --batch-size. --patience, unlabelled images
and networks that teach are not counted.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from reference import enliven, random_samples
from timing import Row, arguments, count_operations, duration, measure, show
from training_step import CPU, FOLD, same_batch_loader

from cxr.data.annotated_image import AnnotatedImage
from cxr.data.batch import Batch, Sample, collate
from cxr.data.dataset import make_augmentation
from cxr.geometry.crops import fill_boxes
from cxr.inference.run import predict_batch
from cxr.methods.base import VIEW_SETS
from cxr.methods.detector.method import as_detector
from cxr.run_folder import RunFolder
from cxr.settings import Settings
from cxr.steps.train.engine import train_one_epoch
from cxr.steps.train.joined import JoinedNetwork
from cxr.steps.train.schedules import count_epochs
from cxr.steps.train.state import TrainingState
from cxr.system.device import choose_precision
from cxr.system.runtime import Runtime
from cxr.tasks import TASKS, Task

GIB = 2**30


class Images(NamedTuple):
    """Of a competition: training images, how many of them have a finding, and test images."""

    train: int
    positive: int
    test: int


# RSNA's of stage 2; Montgomery's and Shenzhen's with masks of the lungs; the others by the
# specifications that their readers were written from.
IMAGES = {
    "rsna": Images(26_684, 6_012, 3_000),
    "rsna-classes": Images(26_684, 6_012, 3_000),
    "lungs": Images(138 + 566, 138 + 566, 0),
    "chestxdet": Images(3_001, 3_001, 542),
    "vinbigdata": Images(15_000, 4_394, 3_000),
    "pneumothorax": Images(12_047, 2_669, 3_205),
    "covid": Images(6_117, 4_294 + 87, 1_263),
    "covid-boxes": Images(6_030, 4_294, 1_263),
}


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


def whole_work(task: Task, settings: Settings) -> Work:
    """Work of the whole competition.

    Each fold trains on the others, validates itself after each epoch, predicts itself and, with all
    others, the test images.
    """
    images = IMAGES[task.name]
    training = settings.training
    folds = settings.data.folds
    trained = folds * count_drawn(task, settings)
    validated = count_epochs(training) * images.train
    views = len(VIEW_SETS[settings.prediction.tta])
    predicted = training.keep * views * (images.train + folds * images.test)
    return Work(trained, validated + predicted)


def count_drawn(task: Task, settings: Settings) -> int:
    """Images that one fold draws in all its epochs, by --sampling."""
    images = IMAGES[task.name]
    share = 1 - 1 / settings.data.folds
    rows = round(share * images.train)
    labels = np.zeros(rows, int)
    labels[: round(share * images.positive)] = 1
    # A detector counts an image's boxes, the others look at its class.
    table = pd.DataFrame({"label": labels, "n_boxes": labels})
    sampler = task.method.train_sampler(table, settings, Runtime(CPU, "fp32"))
    drawn = 0
    for epoch in range(count_epochs(settings.training)):
        sampler.epoch = epoch
        drawn += sampler.total()
    return drawn


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


def task_settings(task: Task, args: Any) -> Settings:
    """Settings of the preset, with random weights and what else the flags change."""
    values = {"preset": args.preset, "weights": "none", "save_minutes": 1e9}
    for name in ("encoder", "image_size", "levels"):
        if getattr(args, name):
            values[name] = getattr(args, name)
    return task.settings_of(values)


def make_batch(task: Task, settings: Settings, count: int) -> Batch:
    """Some images with boxes or masks, as the loader gives them after the augmentation."""
    content = task.method.sample_content(settings)
    make_target = task.method.make_target(settings)
    # The very first has no box, and alone it would leave out what only boxes cost.
    samples = random_samples(max(count, 2), training_side(settings))[-count:]
    for sample in samples:
        sample.label = int(len(sample.boxes) > 0)
        if content.mask != "none":
            sample.mask = mask_of(sample)
        if content.mask == "boxes":
            sample.mask_known = True
        if make_target is not None:
            sample.target = make_target(sample.boxes, sample.labels)
    return collate(samples)


def training_side(settings: Settings) -> int:
    """Side of the pictures in training, which an augmentation may crop."""
    side = settings.training.image_size
    picture = np.zeros((side, side), np.uint8)
    whole = AnnotatedImage(picture, np.zeros((0, 4)), np.zeros(0, int), picture.copy())
    augment = make_augmentation(settings.training.augmentation, side)
    return len(augment(whole, np.random.default_rng(0)).image)


def mask_of(sample: Sample) -> Tensor:
    side = sample.image.shape[-1]
    return torch.from_numpy(fill_boxes(sample.boxes.numpy(), side, side))[None]


class TrainingStep:
    """A step of a task's training on one batch whenever it is called."""

    def __init__(self, task: Task, settings: Settings, batch: Batch, runtime: Runtime) -> None:
        self.task = task
        self.runtime = runtime
        self.state = TrainingState(task, settings, FOLD, runtime, 1, resuming=False)
        if task.method_name == "detector":
            enliven(as_detector(self.state.model), batch.images)
        joined = JoinedNetwork(self.state.model, task.method, settings, runtime)
        self.network = joined.now()
        self.loader = same_batch_loader(batch, 1)
        self.folder = RunFolder.of(settings.place).fold(FOLD)  # in which nothing is saved so soon

    def __call__(self) -> None:
        state = self.state
        state.step = 0
        state.totals = {}
        loader = self.loader
        train_one_epoch(self.task, state, self.network, loader, None, self.folder, self.runtime)


def main() -> None:
    args = arguments(
        __doc__,
        task="rsna",
        preset="paper",
        encoder="",
        image_size=0,
        levels="",
        batch_size=4,
        rounds=2,
        share=0.15,
    )
    if args.task not in IMAGES:
        sys.exit(f"error: nobody knows how many images {args.task} has: --task {', '.join(IMAGES)}")
    task = TASKS[args.task]
    settings = task_settings(task, args)
    runtime = Runtime(CPU, choose_precision("auto", CPU))
    batch = make_batch(task, settings, args.batch_size)
    train = TrainingStep(task, settings, batch, runtime)
    model = train.state.model
    side = settings.training.image_size
    images = torch.zeros(args.batch_size, 1, side, side, dtype=torch.uint8)

    def pass_forward() -> list[Any]:
        model.eval()
        views = VIEW_SETS["none"]
        return predict_batch([model], task.method, views, images, settings, runtime)

    # Of one image.
    operations = Cost(
        count_operations(train) / args.batch_size,
        count_operations(pass_forward) / args.batch_size,
    )
    inputs = (batch.images, *task.method.network_inputs(batch, settings))
    kept = kept_bytes(model, inputs, runtime) / args.batch_size * settings.training.batch_size
    memory = step_memory(model, int(kept))
    work = whole_work(task, settings)
    rows = [
        Row(
            "counted: operations of a training step and of a forward pass of an image",
            f"{operations.step / 1e9:,.0f} and {operations.forward / 1e9:,.0f} GFLOP",
        ),
        Row("counted: images trained, forward passes", f"{work.trained:,}, {work.passed:,}"),
    ]
    if args.rounds:
        measured = measure({"step": train, "forward": pass_forward}, args.rounds)
        rows += cpu_rows(measured, args.batch_size, work)
    rows += [gpu_row(gpu, args.share, work, operations, memory) for gpu in GPUS]
    training = settings.training
    show(
        f"The whole competition of {task.name}, preset {args.preset}: {training.encoder}, {side} "
        f"px, {settings.data.folds} folds, {training.epochs} epochs, batch {training.batch_size} "
        f"(here {args.batch_size})",
        rows,
        runtime.precision,
    )


def cpu_rows(measured: dict[str, float], batch_size: int, work: Work) -> list[Row]:
    seconds = Cost(measured["step"] / batch_size, measured["forward"] / batch_size)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB
    return [
        Row(
            "measured: training step of an image, forward pass of an image",
            f"{duration(seconds.step)}, {duration(seconds.forward)}",
        ),
        Row(
            "this CPU, computed from the measured seconds",
            f"{count_hours(work, seconds):,.0f} hours, {resident / GIB:.1f} GiB measured",
        ),
    ]


if __name__ == "__main__":
    main()
