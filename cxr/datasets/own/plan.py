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
from cxr.settings import Settings
from cxr.system.device import choose_device

SMALL_BOX = 0.1  # quantile of the sizes of boxes that the image size is chosen for
LARGE_BOX = 0.9
READABLE = 28  # pixels of a side that a box needs on level 3, whose anchors begin at 32
LARGEST_ANCHOR = 4 * 2 ** (2 / 3)  # in strides of a level
STEP = 64  # pixels; sides are multiples, for levels up to 6
CPU_SIDES = {BOXES: (256, 384), MASKS: (256, 256), CLASSES: (256, 256)}  # smallest, largest
GPU_SIDES = {BOXES: (320, 768), MASKS: (512, 512), CLASSES: (384, 384)}
PASSES = 6300  # images that a training should see, as the preset small of rsna does
EPOCHS = (8, 60)
FEWEST_IN_FOLD = 5  # patients
GIGABYTES_PER_IMAGE = 1.0  # of GPU memory, in training at 512 pixels; generous


class Choice(NamedTuple):
    """A value and why it was chosen."""

    value: Any
    reason: str


def make_plan(labels: OwnLabels, patients: Sequence[str], settings: Settings) -> dict[str, Any]:
    """The content of plan.json: kind, settings, reasons, and ids of a COCO file.

    patients: of the training images, "" where unknown.
    """
    device = choose_device(settings.machine.device)
    train = [each for each in labels.annotations.values() if not each.is_test]
    choices = {
        "class_names": Choice(list(labels.classes), "as the labels name them"),
        "folds": plan_folds(patients),
    }
    choices |= CHOOSERS[labels.kind](labels, train, device)
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


def choose_side(labels: OwnLabels, device: torch.device, wanted: float, why: str) -> Choice:
    """The side of the network's input nearest to what is wanted, of those that are affordable."""
    sides = CPU_SIDES if device.type == "cpu" else GPU_SIDES
    low, high = sides[labels.kind]
    side = int(np.clip(math.ceil(wanted / STEP) * STEP, low, high))
    bound = "" if low < side < high else f", within {low} to {high} on this {device.type}"
    return Choice(side, f"{why}{bound}")


def choose_batch(device: torch.device, side: int) -> Choice:
    if device.type != "cuda":
        return Choice(8, "as the presets for a CPU")
    gigabytes = torch.cuda.get_device_properties(device).total_memory / 2**30
    fitting = gigabytes / (GIGABYTES_PER_IMAGE * (side / 512) ** 2)
    batch = 2 ** int(np.clip(math.log2(max(1, fitting)), 1, 4))
    return Choice(batch, f"{gigabytes:.0f} GB of GPU memory")


def common_choices(side: Choice, device: torch.device) -> dict[str, Choice]:
    """Image size, its stored twin, and the batch."""
    return {
        "image_size": side,
        "size": Choice(max(512, side.value), "stored pictures, at least as large"),
        "batch_size": choose_batch(device, side.value),
    }


def plan_boxes(
    labels: OwnLabels, train: Sequence[Annotation], device: torch.device
) -> dict[str, Choice]:
    shares = box_shares(train)
    if not len(shares):
        side = choose_side(labels, device, 0, "there are no boxes")
        return common_choices(side, device)
    small, large = np.quantile(shares, [SMALL_BOX, LARGE_BOX])
    why = f"a tenth of the boxes is smaller than {100 * small:.0f} % of the image's side"
    side = choose_side(labels, device, READABLE / small, why)
    first = 3 if small * side.value >= READABLE else 2
    last = 5
    while last < 6 and LARGEST_ANCHOR * 2**last < large * side.value:
        last += 1
    reason = f"boxes of {small * side.value:.0f} to {large * side.value:.0f} pixels at that size"
    return common_choices(side, device) | {"levels": Choice(f"{first}-{last}", reason)}


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
    labels: OwnLabels, train: Sequence[Annotation], device: torch.device
) -> dict[str, Choice]:
    positive = np.mean([bool(each.mask and each.mask != "-1") for each in train])
    side = choose_side(labels, device, 0, "masks")
    choices = common_choices(side, device)
    if positive < 0.5:
        choices["sampling"] = Choice("share", f"{100 * positive:.0f} % of the images have a mask")
        choices["positive_share"] = Choice(0.5, "half of each epoch, so that masks are learned")
    return choices


def plan_classes(
    labels: OwnLabels, train: Sequence[Annotation], device: torch.device
) -> dict[str, Choice]:
    del train
    choices = common_choices(choose_side(labels, device, 0, "classes of whole images"), device)
    reason = "one class an image"
    if labels.several:
        reason = "columns of 0 and 1, of which several may be 1"
    choices["multilabel"] = Choice(labels.several, reason)
    return choices


CHOOSERS = {BOXES: plan_boxes, MASKS: plan_masks, CLASSES: plan_classes}
