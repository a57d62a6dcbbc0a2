"""Settings made from the data, each with its reason: what nnU-Net calls a fingerprint.

Every one may be overridden by its flag.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from cxr.datasets.own.labels import BOXES, CLASSES, MASKS, Annotation, OwnLabels
from cxr.networks.hub import can_load, is_here
from cxr.presets import LITE
from cxr.settings import Settings
from cxr.system.device import choose_device

SMALL_BOX = 0.1  # quantile of the sizes of boxes that the image size is chosen for
LARGE_BOX = 0.9
READABLE = 28  # pixels of a side that a box needs on level 3, whose anchors begin at 32
LARGEST_ANCHOR = 4 * 2 ** (2 / 3)  # in strides of a level
STEP = 64  # pixels; sides are multiples, for levels up to 6
CPU_SIDES = {BOXES: (256, 384), MASKS: (256, 256), CLASSES: (256, 256)}  # smallest, largest
GPU_SIDES = {BOXES: (320, 768), MASKS: (512, 512), CLASSES: (384, 384)}
LARGE_SIDES = {BOXES: (512, 768), MASKS: (512, 512), CLASSES: (512, 512)}  # of the larger network
PASSES = 6300  # images that a training should see, as the preset small of rsna does
EPOCHS = (8, 60)
FEWEST_IN_FOLD = 5  # patients
# The larger network is of the paper's kind (its own is se_resnext101_32x4d), with half the layers.
LARGE = "se_resnext50_32x4d"
LARGE_LR = 1e-4  # as the 3rd place of pneumothorax trains it from ImageNet weights
LARGE_FROM = 8.0  # gigabytes of GPU memory: then batches of 4 fit at 512 pixels
# Of GPU memory, in training at 512 pixels; generous.
GIGABYTES_PER_IMAGE = 1.0
LARGE_GIGABYTES_PER_IMAGE = 2.0


class Choice(NamedTuple):
    """A value and why it was chosen."""

    value: Any
    reason: str


class Machine(NamedTuple):
    """What trains. device: cpu, cuda or mps. gigabytes: memory of the GPU, 0 of others."""

    device: str
    gigabytes: float = 0.0

    @classmethod
    def of(cls, device: torch.device) -> Machine:
        if device.type != "cuda":
            return cls(device.type)
        return cls("cuda", torch.cuda.get_device_properties(device).total_memory / 2**30)


class Trainer(NamedTuple):
    """What is trained on what: a machine, whether its network is the larger one, and the choices
    that this means: encoder, weights, and of the larger one lr."""

    machine: Machine
    is_large: bool
    choices: dict[str, Choice]


def make_plan(
    labels: OwnLabels,
    patients: Sequence[str],
    settings: Settings,
    machine: Machine | None = None,
) -> dict[str, Any]:
    """The content of plan.json: kind, settings, reasons, and ids of a COCO file.

    patients: of the training images, "" where unknown. machine: by default that of --device.
    """
    if machine is None:
        machine = Machine.of(choose_device(settings.machine.device))
    trainer = choose_network(machine)
    train = [each for each in labels.annotations.values() if not each.is_test]
    choices = {
        "class_names": Choice(list(labels.classes), "as the labels name them"),
        "folds": plan_folds(patients),
    }
    choices |= trainer.choices
    choices |= CHOOSERS[labels.kind](labels, train, trainer)
    folds = choices["folds"].value
    choices["epochs"] = choose_epochs(len(train) * (folds - 1) / folds)
    return {
        "kind": labels.kind,
        "settings": {name: choice.value for name, choice in choices.items()},
        "reasons": {name: choice.reason for name, choice in choices.items()},
        "coco_images": labels.coco_images,
        "coco_classes": labels.coco_classes,
    }


def describe_plan(plan: Mapping[str, Any], given: Sequence[str]) -> list[str]:
    """A line for each choice; what was given stands there as not followed."""
    lines = ["settings from the data (a flag changes each):"]
    for name, value in plan["settings"].items():
        note = " (not used: given)" if name in given else ""
        words = ", ".join(map(str, value)) if isinstance(value, list) else value
        lines.append(f"  --{name.replace('_', '-'):<14} {words}{note}: {plan['reasons'][name]}")
    return lines


def plan_folds(patients: Sequence[str]) -> Choice:
    """Four, as long as each has some patients."""
    known = {patient for patient in patients if patient}
    count = len(known) + sum(not patient for patient in patients)
    folds = max(2, min(4, count // FEWEST_IN_FOLD))
    return Choice(folds, f"{count} patients, {FEWEST_IN_FOLD} at least in each fold")


def choose_epochs(images: float) -> Choice:
    low, high = EPOCHS
    epochs = int(np.clip(round(PASSES / max(1, images)), low, high))
    return Choice(epochs, f"{images:.0f} training images in a fold, some {PASSES} passes in all")


def choose_network(machine: Machine) -> Trainer:
    """The larger network where a GPU has room for it and its weights can be had."""
    small = f"small enough for a few cores; a larger one is for CUDA, and this is {machine.device}"
    if machine.device == "cuda":
        memory = f"{machine.gigabytes:.0f} GB of GPU memory"
        small = f"{memory}, and {LARGE} takes {LARGE_FROM:.0f}"
        if machine.gigabytes >= LARGE_FROM and can_load(LARGE):
            return Trainer(machine, True, large_choices(memory))
        if machine.gigabytes >= LARGE_FROM:
            small = (
                f"{memory} would do for {LARGE}, but its ImageNet weights are not on this machine "
                "and cannot be downloaded here"
            )
    choices = {
        "encoder": Choice(LITE["encoder"], small),
        "weights": Choice(LITE["weights"], "ImageNet, installed with the requirements"),
    }
    return Trainer(machine, False, choices)


def large_choices(memory: str) -> dict[str, Choice]:
    """Of the larger network; memory: how much there is, in words."""
    weights = "ImageNet, on this machine already"
    if not is_here(LARGE):
        weights = (
            "ImageNet, downloaded by step 03; without a connection give --encoder "
            f"{LITE['encoder']} --weights {LITE['weights']}, or --weights FILE"
        )
    return {
        "encoder": Choice(LARGE, f"{memory}: the larger network"),
        "weights": Choice("imagenet", weights),
        "lr": Choice(LARGE_LR, "of the larger network; as a winner of pneumothorax trains it"),
    }


def choose_side(labels: OwnLabels, trainer: Trainer, wanted: float, why: str) -> Choice:
    """The side of the network's input nearest to what is wanted, of those that are affordable."""
    device = trainer.machine.device
    sides = CPU_SIDES if device == "cpu" else GPU_SIDES
    if trainer.is_large:
        sides = LARGE_SIDES
    low, high = sides[labels.kind]
    side = int(np.clip(math.ceil(wanted / STEP) * STEP, low, high))
    bound = "" if low < side < high else f", within {low} to {high} on this {device}"
    return Choice(side, f"{why}{bound}")


def choose_batch(trainer: Trainer, side: int) -> Choice:
    if trainer.machine.device != "cuda":
        return Choice(8, "as the presets for a CPU")
    gigabytes = trainer.machine.gigabytes
    per_image = LARGE_GIGABYTES_PER_IMAGE if trainer.is_large else GIGABYTES_PER_IMAGE
    fitting = gigabytes / (per_image * (side / 512) ** 2)
    batch = 2 ** int(np.clip(math.log2(max(1, fitting)), 1, 4))
    return Choice(batch, f"{gigabytes:.0f} GB of GPU memory")


def common_choices(side: Choice, trainer: Trainer) -> dict[str, Choice]:
    """Image size, its stored twin, and the batch."""
    return {
        "image_size": side,
        "size": Choice(max(512, side.value), "stored pictures, at least as large"),
        "batch_size": choose_batch(trainer, side.value),
    }


def plan_boxes(
    labels: OwnLabels, train: Sequence[Annotation], trainer: Trainer
) -> dict[str, Choice]:
    shares = box_shares(train)
    if not len(shares):
        side = choose_side(labels, trainer, 0, "there are no boxes")
        return common_choices(side, trainer)
    small, large = np.quantile(shares, [SMALL_BOX, LARGE_BOX])
    why = f"a tenth of the boxes is smaller than {100 * small:.0f} % of the image's side"
    side = choose_side(labels, trainer, READABLE / small, why)
    first = 3 if small * side.value >= READABLE else 2
    last = 5
    while last < 6 and LARGEST_ANCHOR * 2**last < large * side.value:
        last += 1
    reason = f"boxes of {small * side.value:.0f} to {large * side.value:.0f} pixels at that size"
    return common_choices(side, trainer) | {"levels": Choice(f"{first}-{last}", reason)}


def box_shares(train: Sequence[Annotation]) -> np.ndarray:
    """Square root of each box's share of its image, where the size of the image is known."""
    shares = []
    for each in train:
        area = each.image.identity.width * each.image.identity.height
        for x1, y1, x2, y2 in each.boxes:
            if area:
                shares.append(math.sqrt((x2 - x1) * (y2 - y1) / area))
    return np.array(shares)


def plan_masks(
    labels: OwnLabels, train: Sequence[Annotation], trainer: Trainer
) -> dict[str, Choice]:
    positive = np.mean([bool(each.mask and each.mask != "-1") for each in train])
    side = choose_side(labels, trainer, 0, "masks")
    choices = common_choices(side, trainer)
    if positive < 0.5:
        choices["sampling"] = Choice("share", f"{100 * positive:.0f} % of the images have a mask")
        choices["positive_share"] = Choice(0.5, "half of each epoch, so that masks are learned")
    return choices


def plan_classes(
    labels: OwnLabels, train: Sequence[Annotation], trainer: Trainer
) -> dict[str, Choice]:
    del train
    choices = common_choices(choose_side(labels, trainer, 0, "classes of whole images"), trainer)
    reason = "one class an image"
    if labels.several:
        reason = "columns of 0 and 1, of which several may be 1"
    choices["multilabel"] = Choice(labels.several, reason)
    return choices


CHOOSERS = {BOXES: plan_boxes, MASKS: plan_masks, CLASSES: plan_classes}
