"""What the loader yields: one sample, and a batch of them with fields by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Literal

import torch
from torch import Tensor

# What a loss wants to know of the boxes (n, 4) in network pixels and their classes (n,), made in
# the loader's processes: {name: tensor of any length}.
TargetMaker = Callable[[Tensor, Tensor], dict[str, Tensor]]


@dataclass(frozen=True)
class SampleContent:
    """What a sample carries beside its picture; the method says it.

    annotated: the columns boxes, box_labels, width, height and label say what is in the image.
    False: a table for prediction, of which only image_id is read (for crops also width and
    height); the sample has no boxes and the label -1.
    mask: "runs" reads the column `mask` (run lengths in original pixels); "boxes" fills the boxes
    and takes from the column `mask_known` whether that is all there is to see.
    soft_label: the column `soft` holds probabilities of the classes.
    unmarked: the column `n_boxes` says whether anything is marked; where it is empty, nobody knows.
    crop: the columns crop_x1 to crop_y2 (original pixels) say where the lungs are.
    header: the columns age, sex and view are read, where a table has them.
    """

    mask: Literal["none", "runs", "boxes"] = "none"
    soft_label: bool = False
    unmarked: bool = False
    crop: bool = False
    annotated: bool = True
    header: bool = False


@dataclass
class Sample:
    """One image as the dataset gives it. S is the side of the network's input."""

    image: Tensor  # (1, S, S) uint8
    boxes: Tensor  # (n, 4) float, x1 y1 x2 y2 in network pixels
    labels: Tensor  # (n,) int, classes of the boxes
    label: int  # class of the image; -1: unknown
    row: int  # of the table
    mask: Tensor | None = None  # (1, S, S) uint8 of 0 and 1
    mask_known: bool | None = None  # False: the mask may lack findings
    soft_label: Tensor | None = None  # (C,) probabilities of the classes
    unmarked: float | None = None  # 1: nothing is marked, 0: something is; nan: unknown
    header: Tensor | None = None  # (HEADER_NUMBERS,)
    target: dict[str, Tensor] = field(default_factory=dict)  # of the TargetMaker


@dataclass
class Batch:
    """B samples. Boxes are padded to the largest number in the batch, their labels with -1.

    `target[name]` joins what the samples' target makers gave; `target_image[name]` says which
    image of the batch each of its rows belongs to.
    """

    images: Tensor  # (B, 1, S, S) uint8
    boxes: Tensor  # (B, M, 4), M at least 1
    labels: Tensor  # (B, M)
    image_labels: Tensor  # (B,)
    rows: Tensor  # (B,)
    masks: Tensor | None = None  # (B, 1, S, S)
    mask_known: Tensor | None = None  # (B,) bool
    soft_labels: Tensor | None = None  # (B, C)
    unmarked: Tensor | None = None  # (B,) float
    headers: Tensor | None = None  # (B, HEADER_NUMBERS)
    target: dict[str, Tensor] = field(default_factory=dict)
    target_image: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """A copy with a function applied to every tensor."""
        changed: dict = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, dict):
                changed[each.name] = {name: function(tensor) for name, tensor in value.items()}
            elif value is not None:
                changed[each.name] = function(value)
        return replace(self, **changed)

    def to(self, device: torch.device) -> Batch:
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """Called by PyTorch's loader where the device reads pinned memory."""
        return self.map(lambda tensor: tensor.pin_memory())


def collate(samples: Sequence[Sample]) -> Batch:
    """The batch of some samples, all with the same content."""
    first = samples[0]
    most = max(1, *(len(sample.boxes) for sample in samples))
    boxes = torch.zeros(len(samples), most, 4)
    labels = torch.full((len(samples), most), -1)
    for i, sample in enumerate(samples):
        boxes[i, : len(sample.boxes)] = sample.boxes
        labels[i, : len(sample.boxes)] = sample.labels
    batch = Batch(
        images=torch.stack([sample.image for sample in samples]),
        boxes=boxes,
        labels=labels,
        image_labels=torch.tensor([sample.label for sample in samples]),
        rows=torch.tensor([sample.row for sample in samples]),
    )
    if first.mask is not None:
        batch.masks = _stack([sample.mask for sample in samples])
    if first.mask_known is not None:
        batch.mask_known = torch.tensor([sample.mask_known for sample in samples])
    if first.soft_label is not None:
        batch.soft_labels = _stack([sample.soft_label for sample in samples])
    if first.unmarked is not None:
        batch.unmarked = torch.tensor([sample.unmarked for sample in samples])
    if first.header is not None:
        batch.headers = _stack([sample.header for sample in samples])
    for name in first.target:
        tensors = [sample.target[name] for sample in samples]
        lengths = torch.tensor([len(tensor) for tensor in tensors])
        batch.target[name] = torch.cat(tensors)
        batch.target_image[name] = torch.arange(len(samples)).repeat_interleave(lengths)
    return batch


def _stack(tensors: Sequence[Tensor | None]) -> Tensor:
    return torch.stack([tensor for tensor in tensors if tensor is not None])
