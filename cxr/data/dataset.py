"""Images and targets for the networks: one Dataset, a resumable sampler, the loader."""

import json
import os

import cv2
import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from cxr.data.augmentation import Augmentation
from cxr.data.copy_paste import draw_findings, paste_findings
from cxr.data.mask_augmentation import RECIPES, MaskAugmentation
from cxr.geometry.crops import crop_at, cut, fill_boxes, shift_boxes
from cxr.geometry.masks import EMPTY, decode_runs, resize_mask
from cxr.images.resize import resize
from cxr.system.errors import InputError

TEXT_COLUMNS = (
    "image_id",
    "group",
    "mask",
    "study_id",
    "patient",
)  # such as 00123 or 12e4, which are no numbers


class XrayDataset(Dataset):
    """Rows of a table -> dict(image uint8 (1, S, S), boxes (n, 4) in input pixels, labels (n,), label, index).

    Where the table has a column `mask` (run lengths in original pixels), also mask uint8 (1, S, S) of 0 and 1. Where it
    has crop_x1 to crop_y2 (original pixels), all is cut to that box first. A column `mask_known` instead asks for the
    mask of all that the boxes cover, and comes along, since a mask without boxes may be unknown, not empty. A column
    `soft` (probabilities of the classes, a JSON list) comes along as a tensor (C,).
    With `paste`, a picture gets boxes of another row, too, and what they show, with this probability.
    `targets(boxes, labels)` adds what the losses need of them, tensors of any length, for `collate` to join.
    Indexed by (epoch, row), or (epoch, place, row) where a row comes several times in an epoch: the random numbers of a
    sample depend on the seed and these alone, never on the number of workers, processes or restarts.
    """

    def __init__(
        self, table, folder, image_size, augmentation="1", seed=0, targets=None, paste=0.0
    ):
        self.targets, self.paste = targets, paste
        self.table, self.folder, self.image_size, self.seed = (
            table.reset_index(drop=True),
            folder,
            image_size,
            seed,
        )
        kind = MaskAugmentation if augmentation in RECIPES else Augmentation
        self.augment = kind(augmentation, image_size) if augmentation != "1" else None
        self.donors = np.flatnonzero(self.table["n_boxes"]) if paste else []

    def __len__(self):
        return len(self.table)

    def __getitem__(self, key):
        *moment, row_number = key
        row = self.table.iloc[row_number]
        image = read_png(self.folder / f"{row['image_id']}.png")
        boxes, labels = scaled_boxes(row, image.shape[1], image.shape[0])
        label, rng = (
            int(row.get("label", -1)),
            np.random.default_rng((self.seed, *moment, row_number)),
        )
        if len(self.donors) and rng.random() < self.paste:
            image, boxes, labels, label = self.with_findings(rng, image, boxes, labels, label)
        masks = [true_mask(row)] if "mask" in row else []
        if "mask_known" in row:
            masks = [fill_boxes(boxes, image.shape[1], image.shape[0])]
        if "crop_x1" in row:
            image, boxes, labels, masks = cut_all(image, boxes, labels, masks, row)
        if self.augment is not None:
            image, boxes, labels, *masks = self.augment(image, boxes, labels, rng, *masks)
        else:
            boxes = boxes * (self.image_size / image.shape[0])
            image, masks = (
                resize(image, self.image_size),
                [resize_mask(mask, self.image_size) for mask in masks],
            )
        boxes, labels = torch.from_numpy(boxes).float(), torch.from_numpy(labels)
        sample = {
            "image": torch.from_numpy(np.ascontiguousarray(image))[None],
            "boxes": boxes,
            "labels": labels,
            "label": label,
            "index": row_number,
        }
        sample |= {"mask": torch.from_numpy(mask)[None] for mask in masks}
        sample |= {"mask_known": bool(row["mask_known"])} if "mask_known" in row else {}
        sample |= {"soft": torch.tensor(json.loads(row["soft"]))} if "soft" in row else {}
        return sample | (self.targets(boxes, labels) if self.targets else {})

    def with_findings(self, rng, image, boxes, labels, label):
        """(image, boxes, labels, label of the image) with what another row shows, where that is visible."""
        row = self.table.iloc[rng.choice(self.donors)]
        other = read_png(self.folder / f"{row['image_id']}.png")
        drawn = draw_findings(rng, other, *scaled_boxes(row, other.shape[1], other.shape[0]), boxes)
        image, new, kinds = paste_findings(image, *drawn)
        return (
            image,
            np.concatenate([boxes, new]),
            np.concatenate([labels, kinds]),
            int(row.get("label", -1)) if len(new) else label,
        )


def read_png(path):
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise InputError(f"{path} is missing or not a picture: delete it and run step 02 again")
    return image


def scaled_boxes(row, width, height):
    """Boxes (n, 4) of a table row in pixels of a picture of this size, and their classes (n,)."""
    if "boxes" not in row:
        return np.zeros((0, 4)), np.zeros(0, np.int64)
    boxes = np.array(json.loads(row["boxes"]), np.float64).reshape(-1, 4)
    scale = np.array([width / row["width"], height / row["height"]] * 2)
    return boxes * scale, np.array(json.loads(row["box_labels"]), np.int64)


def true_mask(row):
    """Mask (height, width) of a table row, uint8 of 0 and 1; an empty field is an image without one."""
    runs = row["mask"] if isinstance(row["mask"], str) else EMPTY
    return decode_runs(runs, int(row["height"]), int(row["width"]))


def cut_all(image, boxes, labels, masks, row):
    """Picture, boxes in its pixels, their labels, masks at any size: all cut to the row's crop; the picture keeps its
    side. One box of whole original pixels gives them all, rounded outwards at each size."""
    box, side = tuple(int(row[f"crop_{name}"]) for name in ("x1", "y1", "x2", "y2")), len(image)

    def place(picture):
        return crop_at(box, row["width"], row["height"], picture.shape[::-1])

    x1, y1, x2, y2 = place(image)
    boxes, kept = shift_boxes(boxes, place(image))
    masks = [cut(mask, place(mask)) for mask in masks]
    return (
        resize(cut(image, place(image)), side),
        boxes * np.tile([side / (x2 - x1), side / (y2 - y1)], 2),
        labels[kept],
        masks,
    )


def keep_classes(table, count):
    """The table with the boxes of the classes 0 to count - 1 only."""
    pairs = [
        [(box, k) for box, k in zip(json.loads(boxes), json.loads(labels)) if k < count]
        for boxes, labels in zip(table["boxes"], table["box_labels"])
    ]
    return table.assign(
        boxes=[json.dumps([box for box, _ in row]) for row in pairs],
        box_labels=[json.dumps([k for _, k in row]) for row in pairs],
        n_boxes=[len(row) for row in pairs],
    )


def collate(samples):
    """Stack; boxes are padded to the largest number in the batch (at least 1), their labels with -1.

    What `targets` added is joined; `<name>_image` (n,) says which image of the batch each of its rows belongs to.
    """
    most = max(1, *(len(s["boxes"]) for s in samples))
    boxes, labels = torch.zeros(len(samples), most, 4), torch.full((len(samples), most), -1)
    for i, sample in enumerate(samples):
        boxes[i, : len(sample["boxes"])] = sample["boxes"]
        labels[i, : len(sample["boxes"])] = sample["labels"]
    batch = {
        "image": torch.stack([s["image"] for s in samples]),
        "boxes": boxes,
        "labels": labels,
        "label": torch.tensor([s["label"] for s in samples]),
        "index": torch.tensor([s["index"] for s in samples]),
    }
    if "mask" in samples[0]:
        batch["mask"] = torch.stack([s["mask"] for s in samples])
    if "soft" in samples[0]:
        batch["soft"] = torch.stack([s["soft"] for s in samples])
    if "mask_known" in samples[0]:
        batch["mask_known"] = torch.tensor([s["mask_known"] for s in samples])
    for name in samples[0].keys() - batch.keys():
        batch[name] = torch.cat([s[name] for s in samples])
        lengths = torch.tensor([len(s[name]) for s in samples])
        batch[f"{name}_image"] = torch.arange(len(samples)).repeat_interleave(lengths)
    return batch


class ResumableSampler(Sampler):
    """(epoch, row) pairs of one process; the order depends on seed and epoch alone and can start at any batch."""

    def __init__(self, length, batch_size, seed, shuffle, rank=0, world=1):
        if shuffle and length < world:
            raise InputError(
                f"{world} processes cannot share {length} training images: start fewer with torchrun"
            )
        self.length, self.batch_size, self.seed, self.shuffle = length, batch_size, seed, shuffle
        self.rank, self.world, self.epoch, self.first_batch = rank, world, 0, 0

    def total(self):
        """Images of the present epoch, over all processes."""
        return self.length

    def order(self):
        if not self.shuffle:
            return np.arange(self.length)
        return np.random.default_rng((self.seed, self.epoch)).permutation(self.length)

    def facts(self):
        """Numbers for the log about the order of the present epoch."""
        return {}

    def batches(self):
        """Batches of this process in one epoch. A last batch that not all processes could fill is left out."""
        if self.shuffle:
            return max(1, self.total() // (self.batch_size * self.world))
        return -(-len(range(self.rank, self.length, self.world)) // self.batch_size)

    def __iter__(self):
        order = self.order()
        places = range(len(order))[self.rank :: self.world][: self.batches() * self.batch_size]
        return iter(
            [self.key(order, place) for place in places[self.first_batch * self.batch_size :]]
        )

    def key(self, order, place):
        """What the dataset is asked for at a place of the epoch's order."""
        return self.epoch, int(order[place])


def count_workers(wanted):
    """-1 -> one process for each core, at least 2 and at most 8; other numbers stay."""
    return wanted if wanted >= 0 else min(8, max(2, os.cpu_count() or 2))


def one_thread(worker_id):
    """PyTorch's own threads in every worker would only fight over the cores."""
    torch.set_num_threads(1)


def make_loader(dataset, sampler, workers, pin=False):
    return DataLoader(
        dataset,
        batch_size=sampler.batch_size,
        sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin,
        persistent_workers=workers > 0,
        worker_init_fn=one_thread,
    )


def read_table(path):
    """Table of step 02. Raises InputError if it is not there or broken."""
    if not path.exists():
        raise InputError(
            f"{path} is missing: run step 02 first, with the same --task and --working"
        )
    try:
        return pd.read_csv(path, dtype=dict.fromkeys(TEXT_COLUMNS, str))
    except ValueError as error:  # pandas' parser errors are ValueErrors
        raise InputError(
            f"{path} is not a readable table ({error}): delete it and run step 02 again"
        ) from None


def split_fold(table, fold):
    """(training rows, validation rows). Raises InputError if the fold is not in the table or one side is empty."""
    valid = table[table["fold"] == fold]
    if len(valid) == 0 or len(valid) == len(table):
        present = sorted(table["fold"].unique().tolist())
        raise InputError(
            f"fold {fold} is not in the table of step 02 (folds there: {present}): "
            "run step 02 with this --folds into another --working folder"
        )
    return table[table["fold"] != fold], valid
