"""Rows of a table to samples: picture, boxes, mask, pasted, cut and augmented."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset

from cxr.data.annotated_image import AnnotatedImage
from cxr.data.augmentation import Augmentation, LevelAugmentation, Resizing
from cxr.data.batch import Sample, SampleContent, TargetMaker
from cxr.data.copy_paste import draw_findings, paste_findings
from cxr.data.mask_augmentation import RECIPES, MaskAugmentation
from cxr.data.samplers import SampleKey
from cxr.geometry.boxes import move_edges
from cxr.geometry.crops import crop_at, cut, fill_boxes, shift_boxes
from cxr.geometry.detections import TrueBoxes
from cxr.geometry.frames import Frame, convert_boxes
from cxr.geometry.masks import EMPTY, decode_runs
from cxr.images.equalize import equalize
from cxr.images.header_numbers import header_numbers
from cxr.images.resize import resize
from cxr.system.errors import InputError

PLAIN_CONTENT = SampleContent()


class XrayDataset(Dataset):
    """Images of a table of step 02, as samples.

    table: a row per image; `content` says which of its columns are read. images: folder of the
    stored PNGs. image_size: side of the network's input. augmentation: a value of --augmentation;
    "1" only resizes. make_target: adds what the losses need of boxes and labels. paste:
    probability that a picture gets boxes of another row, too, and what they show. clahe: value of
    --clahe, by which stored pictures are equalised first. edge_noise: value of --edge-noise.

    Asked for (epoch, row), or for (epoch, position, row) where a row comes several times in an
    epoch. The random numbers of a sample depend on the seed and these alone, never on the number
    of workers, processes or restarts.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        images: Path,
        image_size: int,
        content: SampleContent = PLAIN_CONTENT,
        *,
        augmentation: str = "1",
        seed: int = 0,
        make_target: TargetMaker | None = None,
        paste: float = 0.0,
        clahe: float = 0.0,
        edge_noise: float = 0.0,
    ):
        self.table = table.reset_index(drop=True)
        self.images = images
        self.content = content
        self.seed = seed
        self.make_target = make_target
        self.augment = make_augmentation(augmentation, image_size)
        self.paste = paste
        self.clahe = clahe
        self.edge_noise = edge_noise
        self.donors = np.zeros(0, np.int64)  # rows with boxes to paste
        if paste:
            self.donors = np.flatnonzero(self.table["n_boxes"])

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, key: SampleKey) -> Sample:
        *moment, row_number = key
        row = self.table.iloc[row_number]
        rng = np.random.default_rng((self.seed, *moment, row_number))

        annotated, label = self._read(row)
        if len(self.donors) and rng.random() < self.paste:
            annotated, label = self._with_findings(rng, annotated, label)
        annotated = replace(annotated, mask=self._mask(row, annotated))
        if self.content.crop:
            annotated = crop_annotated(annotated, row)
        annotated = self.augment(annotated, rng)
        if self.edge_noise:
            side = len(annotated.image)
            boxes = move_edges(annotated.boxes, self.edge_noise, side, rng)
            annotated = replace(annotated, boxes=boxes)
        return self._sample(annotated, label, row, row_number)

    def _read(self, row: pd.Series) -> tuple[AnnotatedImage, int]:
        """A row's stored picture with its boxes, and the class of the image."""
        image = equalize(read_png(self.images / f"{row['image_id']}.png"), self.clahe)
        if not self.content.annotated:
            return AnnotatedImage(image, np.zeros((0, 4)), np.zeros(0, np.int64)), -1
        height, width = image.shape
        boxes, labels = boxes_in_frame(row, Frame("stored", width, height))
        return AnnotatedImage(image, boxes, labels), int(row["label"])

    def _with_findings(
        self, rng: np.random.Generator, annotated: AnnotatedImage, label: int
    ) -> tuple[AnnotatedImage, int]:
        """Picture and class of the image, with what another row shows where that is visible."""
        donor, donor_label = self._read(self.table.iloc[rng.choice(self.donors)])
        chosen = draw_findings(rng, donor, taken=annotated.boxes)
        pasted = paste_findings(annotated, chosen)
        if len(pasted.boxes) > len(annotated.boxes):
            label = donor_label
        return pasted, label

    def _mask(self, row: pd.Series, annotated: AnnotatedImage) -> np.ndarray | None:
        """The mask of the whole picture, in original or stored pixels; None where none is asked."""
        if self.content.mask == "runs":
            return true_mask(row)
        if self.content.mask == "boxes":
            height, width = annotated.image.shape
            return fill_boxes(annotated.boxes, width, height)
        return None

    def _sample(
        self, annotated: AnnotatedImage, label: int, row: pd.Series, row_number: int
    ) -> Sample:
        """The sample of a picture at the network's size."""
        sample = Sample(
            image=torch.from_numpy(np.ascontiguousarray(annotated.image))[None],
            boxes=torch.from_numpy(annotated.boxes).float(),
            labels=torch.from_numpy(annotated.labels),
            label=label,
            row=row_number,
        )
        if annotated.mask is not None:
            sample.mask = torch.from_numpy(annotated.mask)[None]
        if self.content.mask == "boxes":
            sample.mask_known = bool(row["mask_known"])
        if self.content.soft_label:
            sample.soft_label = torch.tensor(json.loads(row["soft"]))
        if self.content.unmarked:
            n_boxes = row["n_boxes"]
            sample.unmarked = float("nan") if pd.isna(n_boxes) else float(n_boxes == 0)
        if self.content.header:
            facts = [row.get(name) for name in ("age", "sex", "view")]
            sample.header = torch.from_numpy(header_numbers(*facts))
        if self.make_target is not None:
            sample.target = self.make_target(sample.boxes, sample.labels)
        return sample


def make_augmentation(name: str, size: int) -> Augmentation:
    """The augmentation of a value of --augmentation, to pictures of this side."""
    if name == "1":
        return Resizing(size)
    if name in RECIPES:
        return MaskAugmentation(name, size)
    return LevelAugmentation(name, size)


def read_png(path: Path) -> np.ndarray:
    """Stored picture (height, width) uint8. Raises InputError if it is missing or broken."""
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise InputError(f"{path} is missing or not a picture: delete it and run step 02 again")
    return image


def boxes_in_frame(row: Mapping[str, Any] | pd.Series, frame: Frame) -> TrueBoxes:
    """The boxes of a table row, which are in original pixels there, in those of a frame."""
    original = Frame("original", row["width"], row["height"])
    boxes = np.array(json.loads(row["boxes"]), np.float64).reshape(-1, 4)
    labels = np.array(json.loads(row["box_labels"]), np.int64)
    return TrueBoxes(convert_boxes(boxes, original, frame), labels)


def true_mask(row: pd.Series) -> np.ndarray:
    """Mask (height, width) of a table row in original pixels, uint8 of 0 and 1.

    An empty field is an image without one.
    """
    runs = row["mask"] if isinstance(row["mask"], str) else EMPTY
    return decode_runs(runs, int(row["height"]), int(row["width"]))


def crop_annotated(annotated: AnnotatedImage, row: pd.Series) -> AnnotatedImage:
    """Picture, boxes and mask cut to the row's crop; the picture keeps its side.

    The crop is one box of whole original pixels (columns crop_x1 to crop_y2), which is rounded
    outwards at the size of the picture and at that of the mask.
    """
    x1, y1, x2, y2 = (int(row[f"crop_{corner}"]) for corner in ("x1", "y1", "x2", "y2"))
    crop = (x1, y1, x2, y2)
    side = len(annotated.image)

    def crop_of(picture: np.ndarray) -> tuple[int, int, int, int]:
        """The crop in pixels of a picture or mask of the whole image."""
        height, width = picture.shape
        return crop_at(crop, row["width"], row["height"], (width, height))

    image_crop = crop_of(annotated.image)
    boxes, kept = shift_boxes(annotated.boxes, image_crop)
    left, top, right, bottom = image_crop
    enlarged = np.tile([side / (right - left), side / (bottom - top)], 2)
    mask = annotated.mask
    if mask is not None:
        mask = cut(mask, crop_of(mask))
    return AnnotatedImage(
        image=resize(cut(annotated.image, image_crop), side),
        boxes=boxes * enlarged,
        labels=annotated.labels[kept],
        mask=mask,
    )
